"""Arrays in temporary files: rows in, rows out, and nothing left."""

import errno
import os

import numpy as np
import pytest

from vae_jax.errors import UserError
from vae_jax.storage.scratch import Scratch


def test_rows_come_back(tmp_path):
  values = np.random.default_rng(0).random((10, 3, 2), np.float32)
  with Scratch(tmp_path, (10, 3, 2)) as scratch:
    assert not scratch.read(0, 10).any()  # zeros at first
    scratch.write(3, values[3:5])
    scratch.write(8, values[8:, ::-1][:, ::-1])  # not contiguous
    np.testing.assert_array_equal(scratch.read(2, 6), [np.zeros((3, 2)), *values[3:5], np.zeros((3, 2))])
    np.testing.assert_array_equal(scratch.read(8, 10), values[8:])
    with pytest.raises(EOFError):
      scratch.read(9, 11)
    scratch.write(0, values)
    for rows in (1, 4, 100):
      np.testing.assert_array_equal(np.concatenate(list(scratch.bands(rows))), values)
    if os.name == "posix":
      assert os.listdir(tmp_path) == []  # it has no name
  assert os.listdir(tmp_path) == []


def test_a_disk_that_is_full_is_said_in_one_line(tmp_path, monkeypatch):
  with pytest.raises(UserError, match="temporary file cannot be written") as error:
    Scratch(tmp_path / "none", (2, 2))
  assert "\n" not in str(error.value)

  class Full:
    def seek(self, place):
      raise OSError(errno.ENOSPC, "No space left on device")

  with Scratch(tmp_path, (2, 2)) as scratch:
    file = scratch._file
    monkeypatch.setattr(scratch, "_file", Full())
    with pytest.raises(
      UserError, match=r"\(No space left on device\); free some space or choose another place"
    ):
      scratch.write(0, np.zeros((2, 2), np.float32))
    monkeypatch.setattr(scratch, "_file", file)
