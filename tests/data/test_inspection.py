"""Files that use a part of their range: reported, and read in full with data.white."""

import io

import numpy as np
import pytest
from PIL import Image

from vae_jax.configuration import base_config
from vae_jax.data import images
from vae_jax.data.sources import open_source
from vae_jax.errors import UserError

GRADIENT = np.tile(np.arange(0, 4096, 16, dtype=np.uint16), (2, 1))  # 12 bits in 16: 256 levels
GRADIENT[:, -1] = 4095


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
  monkeypatch.setenv("VAE_JAX_DATA", str(tmp_path / "cache"))


def config(folder, **values):
  data = base_config().data
  data.update(name="folder", dir=str(folder), **values)
  return data


def write(folder, pixels, name="1.png"):
  (folder / "train").mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(folder / "train" / name)


@pytest.mark.parametrize(("bits", "levels"), [(10, 5), (12, 17), (14, 65)])
def test_images_that_use_few_of_16_bits_are_reported(tmp_path, bits, levels):
  write(tmp_path / "in", (GRADIENT.astype(np.uint32) * (2**bits - 1) // 4095).astype(np.uint16))
  (line,) = open_source(config(tmp_path / "in"), "train").remarks
  assert f"1 grey images of more than 8 bits become at most {levels} of 256 grey levels" in line
  assert line.endswith(f"if they hold {bits} bits, set --config.data.white={2**bits - 1}")


def test_a_gradient_of_12_bits_is_read_in_full(tmp_path):
  """Right: round(255 v / 4095), from 0 to 255, with all of the 256 levels."""
  write(tmp_path / "in", GRADIENT)
  low = open_source(config(tmp_path / "in"), "train")[0]["image"]
  assert len(np.unique(low)) == 17 and low.max() == 16
  source = open_source(config(tmp_path / "in", white=4095), "train")
  assert source.remarks == ()
  np.testing.assert_array_equal(source[0]["image"][..., 0], np.rint(GRADIENT * (255 / 4095)).astype(np.uint8))
  with pytest.raises(UserError, match=r"pixel values from 0 to 4095, outside 0\.\.1023"):
    open_source(config(tmp_path / "in", white=1023, max_bad=0), "train")


def test_full_ranges_are_not_reported(tmp_path):
  write(tmp_path / "in", GRADIENT * 16, "1.png")
  write(tmp_path / "in", GRADIENT // 8, "2.png")  # one that is dark, among others
  write(tmp_path / "in", np.full((2, 256), 40, np.uint8), "3.png")
  assert open_source(config(tmp_path / "in"), "train").remarks == ()


def test_a_format_that_states_its_white_needs_no_help():
  """PGM has its highest value in its header."""
  pgm = f"P5 256 2 {4095}\n".encode() + GRADIENT.astype(">u2").tobytes()
  for white in 0, 4095, 1023:
    found = images.examine(pgm, white=white)
    assert not found.guessed
    np.testing.assert_allclose(found.pixels[..., 0], GRADIENT * (255 / 4095), atol=0.51)


def test_sbit_does_not_change_the_range():
  """By the PNG specification, samples of fewer significant bits are stored scaled to the full range."""
  out = io.BytesIO()
  Image.fromarray(GRADIENT * 16 + GRADIENT // 256).save(out, "PNG")
  content = out.getvalue()
  chunk = b"sBIT\x0c"
  import struct
  import zlib

  sbit = struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk))
  marked = content[:33] + sbit + content[33:]  # behind IHDR
  np.testing.assert_array_equal(images.decode(marked), images.decode(content))
  assert images.decode(marked).max() == 255


def test_transparent_pixels_are_reported(tmp_path):
  pixels = np.full((4, 4, 4), 255, np.uint8)
  write(tmp_path / "in", pixels, "opaque.png")
  pixels[0, 0, 3] = 0
  write(tmp_path / "in", pixels, "clear.png")
  (line,) = open_source(config(tmp_path / "in"), "train").remarks
  assert "1 images have transparent pixels, which are seen in their stored colours" in line


def test_images_of_8_bits_that_were_never_scaled(tmp_path):
  classes = np.tile(np.arange(21, dtype=np.uint8), (4, 1))
  write(tmp_path / "in", classes)
  assert "no pixel of 1 images is above 20 of 255" in open_source(config(tmp_path / "in"), "train").remarks[0]
  np.savez(tmp_path / "x.npz", image=classes[None])
  data = config(tmp_path / "x.npz")
  data.name = "npz"
  assert "no pixel of 1 images is above 20 of 255" in open_source(data, "train").remarks[0]
