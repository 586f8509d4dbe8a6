"""Photographs for the tests, and files of them made by hand."""

import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

from vae_jax.photos.photograph import Photograph, open_photograph

RNG = np.random.default_rng(0)
RGBA = RNG.integers(0, 256, (5, 7, 4), np.uint8)
RGB, GREY = RGBA[..., :3], RGBA[..., :1]
DEEP = RNG.integers(0, 65536, (5, 7, 4), np.uint16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_ICC = SRGB[:16] + b"GRAY" + SRGB[20:]  # good enough: what a file carries is not interpreted


def opened(path, image, **options):
  image.save(path, **options)
  return open_photograph(path)


def levels(values, white):
  """float -> integers; the values must be exact levels."""
  scaled = np.asarray(values, np.float64) * white
  np.testing.assert_allclose(scaled, np.rint(scaled), atol=1e-2)
  return np.rint(scaled).astype(int)


def chunk(name, data):
  return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(samples, colour_type, depth=16, extra=()):
  """A PNG without filters, written out by hand."""

  h, w = samples.shape[:2]
  rows = [b"\0" + row.astype(">u2" if depth == 16 else np.uint8).tobytes() for row in samples]
  header = struct.pack(">IIBBBBB", w, h, depth, colour_type, 0, 0, 0)
  chunks = [
    (b"IHDR", header),
    *extra,
    (b"IDAT", zlib.compress(b"".join(rows))),
    (b"IEND", b""),
  ]
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


def exif_bytes(orientation=None):
  exif = Image.Exif()
  exif[0x010F] = "Maker"
  exif[0x0132] = "2024:01:02 03:04:05"
  if orientation:
    exif[0x0112] = orientation
  exif[0x8769] = {0x829A: (1, 250), 0x9003: "2024:01:02 03:04:05", 0xA002: 7, 0xA003: 5, 0x927C: b"\0\1note"}
  exif[0x8825] = {1: "N", 2: (47.0, 22.0, 8.0)}
  return exif.tobytes()


def read_exif(exif):
  known = Image.Exif()
  known.load(exif)
  return dict(known), dict(known.get_ifd(0x8769)), dict(known.get_ifd(0x8825))


def photograph(channels, alpha, bits, h=9, w=6):
  white = 2**bits - 1
  samples = np.random.default_rng(3).integers(0, white + 1, (h, w, 4)).astype(np.float32) / np.float32(white)
  icc = SRGB if channels == 3 else GREY_ICC
  return Photograph(samples[..., :channels], samples[..., 3:] if alpha else None, bits, icc, exif_bytes())
