"""A photograph of any kind of file as an array: bit depth, transparency and metadata survive (`saving` writes it)."""

from __future__ import annotations

import io
import os
from typing import Any, NamedTuple

import numpy as np

from vae_jax.data import images
from vae_jax.errors import UserError
from vae_jax.photos import deep, metadata
from vae_jax.storage.capacity import check_memory


class Photograph(NamedTuple):
  """A photograph, upright.

  pixels: float32 [h, w, c] in [0, 1], c = 1 (grey) or 3 (RGB), in the file's own encoding (no linear light).
  alpha: float32 [h, w, 1] in [0, 1], 1 opaque; None where the file has none. Colours are not premultiplied.
  bits: 8 or 16, per channel.
  icc: the colour profile of `pixels`, or None.
  exif: bytes that begin with "Exif\0\0", or None. Without orientation, pixel sizes and thumbnail, which would
    no longer be true.
  dpi: dots per inch across and down, upright, or None.
  frames: how many pictures the file holds, of which this is the first.
  xmp: the XMP packet, without orientation and pixel sizes, or None.
  comments: (keyword, text), as PNG has them; the comment of other formats has the keyword "Comment".
  colour: chunks of a PNG that say what its colours are (cICP, sRGB, gAMA, cHRM, ...).
  """

  pixels: np.ndarray
  alpha: np.ndarray | None = None
  bits: int = 8
  icc: bytes | None = None
  exif: bytes | None = None
  dpi: tuple[float, float] | None = None
  frames: int = 1
  xmp: bytes | None = None
  comments: tuple[tuple[str, str], ...] = ()
  colour: tuple[tuple[bytes, bytes], ...] = ()

  @property
  def about(self) -> metadata.Metadata:
    return metadata.Metadata(self.icc, self.exif, self.dpi, self.xmp, self.comments, self.colour)


def open_photograph(path: str | os.PathLike, white: int = 0) -> Photograph:
  """Reads a photograph without losing anything of its pixels.

  PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF, PPM, JPEG 2000; the first picture of several (`frames`). Grey or colour with 1
  to 16 bits, palettes, alpha or a transparent colour, CMYK. Grey stays grey, all else becomes RGB. The EXIF orientation
  is applied. CMYK becomes sRGB, through its colour profile if it has one. Floating-point grey in [0, 1] is taken as 16
  bits. Premultiplied colours are divided by alpha. Colour with over 8 bits is read with OpenCV (extra "photos16").

  white: of grey images of more than 8 bits, whose files do not say it, as `config.data.white`; 0: 65535.

  Raises:
    UserError: missing, unreadable, empty, truncated or no image; damaged, as far as `integrity` finds out; above
      images.MAX_PIXELS; a kind of which bits would be lost; deep colour without OpenCV.
  """
  content = images.read_file(path)
  try:
    return _read(content, white)
  except MemoryError:
    raise
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  except Exception as error:  # Pillow's plugins raise nearly everything on a damaged file
    reason = images.why_not(error)
    raise UserError(f"{path}: cannot be decoded as an image ({reason}); remove or replace it") from error


def _read(content: bytes, white: int) -> Photograph:
  if (header := deep.grey_alpha_header(content)) is not None:
    return _read_grey_alpha(content, header)
  image = images.open_image(content)
  _check_fits(image)
  how = deep.layout(image, content)
  tiff_turn = images.orientation(image) if image.format == "TIFF" else 0  # Pillow turns it while decoding
  image, turn, chunks = images.load_image(image, content)  # also where OpenCV reads: it may not notice damage
  about = metadata.read(images.open_image(content), tiff_turn or turn, chunks)
  if image.format == "AVIF":
    about = about._replace(colour=metadata.colour_of_avif(content))
  if how:
    values, bits, levels = deep.read(content, how, chunks), 16, how.white
    turn = tiff_turn or turn
  else:
    if image.mode == "CMYK":
      image, about = _cmyk_to_srgb(image, about.icc), about._replace(icc=None)
    values, bits, levels = _samples(image, white)
  colours = values[..., : 1 if values.shape[2] < 3 else 3]
  pixels = _scaled(colours, levels)
  alpha = _scaled(values[..., -1:], levels) if values.shape[2] in (2, 4) else None
  if alpha is None and (clear := images.transparent_colour(colours, levels, chunks)) is not None:
    alpha = np.where(clear, np.float32(0), np.float32(1))
  if how and how.premultiplied and alpha is not None:
    pixels = _divided(pixels, alpha)
  return _photograph(pixels, alpha, bits, turn, about)._replace(frames=_frames(image, content))


def _check_fits(image: Any) -> None:
  """Raises UserError where memory is too small for a photograph, decoded and as float32."""
  channels = 1 if image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I") else 3
  what = f"a photograph of {image.width} x {image.height} pixels"
  check_memory(what, 5 * channels * image.width * image.height, "cut it into parts, or close other programs")


def _read_grey_alpha(content: bytes, header: bytes) -> Photograph:
  image = images.open_image(header)
  values, how = deep.read_grey_alpha(content, image.tag_v2)
  pixels, alpha = _scaled(values[..., :1], how.white), _scaled(values[..., 1:], how.white)
  turn = images.orientation(image)
  about = metadata.read(image, turn, [])
  return _photograph(_divided(pixels, alpha) if how.premultiplied else pixels, alpha, 16, turn, about)


def _photograph(
  pixels: np.ndarray, alpha: np.ndarray | None, bits: int, turn: int, about: metadata.Metadata
) -> Photograph:
  pixels = images.upright(pixels, turn)
  alpha = None if alpha is None else images.upright(alpha, turn)
  return Photograph(pixels, alpha, bits, **about._asdict())


def _scaled(values: np.ndarray, white: int) -> np.ndarray:
  """Samples 0..white -> float32 in [0, 1], without a second copy."""
  scaled = values.astype(np.float32)
  scaled /= np.float32(white)
  return scaled


def _divided(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
  """Premultiplied colours as they are."""
  return np.minimum(pixels / np.where(alpha > 0, alpha, 1), np.float32(1))


def _samples(image: Any, white: int) -> tuple[np.ndarray, int, int]:
  """A loaded image of at most 8 bits per channel, or of one channel -> [h, w, 1..4], bits, the value of white."""
  mode = image.mode
  if mode.startswith("I"):
    values = np.asarray(image).astype(np.int64)[..., None]
    levels = images.white_level(image, white)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > levels:
      raise UserError(f"pixel values from {low} to {high}, outside 0..{levels}; store it with 8 or 16 bits")
    return levels - values if images.white_is_zero(image) else values, 16, levels
  if mode == "F":
    values = np.asarray(image)[..., None]
    if not (values.min() >= 0 and values.max() <= 1):  # also true for NaN
      raise UserError("floating-point pixel values outside [0, 1]; scale it, or store it with 16 bits")
    return 1 - values if images.white_is_zero(image) else values, 16, 1
  target = images.alpha_mode(image) or ("L" if mode in ("1", "L") else "RGB")
  values = np.asarray(image if mode == target else image.convert(target))
  return (values[..., None] if values.ndim == 2 else values), 8, 255


def _cmyk_to_srgb(image: Any, icc: bytes | None) -> Any:
  from PIL import ImageCms

  if icc and icc[16:20] == b"CMYK":
    try:
      profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
      return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
      pass  # a damaged profile is as none
  return image.convert("RGB")


def _frames(image: Any, content: bytes) -> int:
  """Counts the pictures of an animation or a TIFF. A phone's JPEG (MPO) counts as one: the others are previews."""
  if image.format not in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
    return 1
  try:
    return getattr(images.open_image(content), "n_frames", 1)  # counting moves to and fro in the file
  except Exception:  # damaged behind the first
    return 1
