"""Files that appear whole or not at all, on any disk and with the permissions that a person asked for."""

import errno
import os
import stat

import pytest

from vae_jax.errors import UserError
from vae_jax.storage.files import write_bytes


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, mask):
  before = os.umask(mask)
  try:
    write_bytes(tmp_path / "new" / "a", b"x")
    (tmp_path / "plain").write_bytes(b"x")
  finally:
    os.umask(before)
  modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new" / "a", tmp_path / "plain")]
  assert modes == [0o666 & ~mask] * 2


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_fsync_and_chmod(tmp_path, monkeypatch, code):
  def refuse(*args):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(os, "fsync", refuse)
  monkeypatch.setattr(os, "chmod", refuse)
  monkeypatch.setattr(os, "fchmod", refuse)
  write_bytes(tmp_path / "a", b"whole")
  assert (tmp_path / "a").read_bytes() == b"whole" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
  ("code", "remedy"),
  [
    (errno.EIO, "free some space"),
    (errno.ENOSPC, "free some space"),
    (errno.EACCES, "change its permissions"),
  ],
)
def test_lost_data_are_an_error(tmp_path, monkeypatch, code, remedy):
  def fail(handle):
    raise OSError(code, os.strerror(code))

  (tmp_path / "a").write_bytes(b"before")
  monkeypatch.setattr(os, "fsync", fail)
  with pytest.raises(UserError, match=rf"a: cannot be written \(.*\); {remedy} or choose another place"):
    write_bytes(tmp_path / "a", b"after")
  assert (tmp_path / "a").read_bytes() == b"before" and os.listdir(tmp_path) == ["a"]
