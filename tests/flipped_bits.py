"""Counts what becomes of image files in which one bit is flipped, for every kind of file that is read.

    python tests/flipped_bits.py [flips a kind, default 400]

Each kind has a file of 100 x 150 pixels; the bits are drawn evenly over the whole file. Refused: a UserError. Same: the
pixels of the sound file. Changed: other pixels, without a word; what a format without checksums cannot show.
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]

KINDS = {
  "PNG RGB": ("RGB", "PNG", {}),
  "PNG RGBA": ("RGBA", "PNG", {}),
  "PNG palette": ("P", "PNG", {}),
  "PNG grey": ("L", "PNG", {}),
  "PNG grey 16": ("I;16", "PNG", {}),
  "JPEG": ("RGB", "JPEG", {"quality": 90}),
  "JPEG progressive": ("RGB", "JPEG", {"quality": 90, "progressive": True}),
  "JPEG restarts": ("RGB", "JPEG", {"quality": 90, "restart_marker_rows": 1}),
  "GIF": ("P", "GIF", {}),
  "TIFF deflate": ("RGB", "TIFF", {"compression": "tiff_adobe_deflate"}),
  "TIFF LZW": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
  "TIFF packbits": ("RGB", "TIFF", {"compression": "packbits"}),
  "TIFF raw": ("RGB", "TIFF", {}),
  "WebP": ("RGB", "WEBP", {"quality": 90}),
  "WebP lossless": ("RGB", "WEBP", {"lossless": True}),
  "AVIF": ("RGB", "AVIF", {}),
  "JPEG 2000": ("RGB", "JPEG2000", {}),
  "BMP": ("RGB", "BMP", {}),
  "PPM": ("RGB", "PPM", {}),
}


def picture(height, width):
  """uint8 [height, width, 3]: edges, a gradient and some noise."""
  y, x = np.mgrid[:height, :width]
  smooth = np.stack(
    [128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), 255 * (x + y) / (height + width)], -1
  )
  smooth[(x // 20 + y // 15) % 2 == 0] *= 0.6
  return np.clip(smooth + np.random.default_rng(0).normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def encoded(kind, pixels):
  mode, name, options = KINDS[kind]
  image = Image.fromarray(pixels)
  if mode == "I;16":
    image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
  elif mode == "P":
    image = image.quantize(64)
  elif mode == "RGBA":
    image.putalpha(image.convert("L"))
  else:
    image = image.convert(mode)
  out = io.BytesIO()
  image.save(out, name, **options)
  return out.getvalue()


def count(content, flips, seed=0):
  """(refused, same, changed) of `flips` files with one flipped bit each."""
  from vae_jax.data.images import decode
  from vae_jax.errors import UserError

  whole, draw = decode(content), np.random.default_rng(seed)
  refused = same = 0
  for place in draw.integers(0, 8 * len(content), flips):
    damaged = bytearray(content)
    damaged[place // 8] ^= 1 << place % 8
    try:
      same += np.array_equal(decode(bytes(damaged)), whole)
    except UserError:
      refused += 1
  return refused, same, flips - refused - same


def main(flips):
  print(
    f"| of {flips} files with one flipped bit | refused | same pixels | changed pixels |\n|---|---|---|---|"
  )
  for kind in KINDS:
    refused, same, changed = count(encoded(kind, picture(100, 150)), flips)
    print(f"| {kind} | {refused} | {same} | {changed} |", flush=True)


if __name__ == "__main__":
  sys.path.insert(0, str(ROOT))
  main(int((sys.argv[1:] or [400])[0]))
