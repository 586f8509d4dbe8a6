"""What the tests of weight files share."""

import pytest


@pytest.fixture
def write(tmp_path):
  def write(data, name="weights.bin"):
    path = tmp_path / name
    path.write_bytes(data)
    return path

  return write
