"""Images -> one picture: grids for looking at samples and reconstructions, written as PNG.

Images here are arrays on the host, [n, h, w, c], float in [0, 1] or uint8. Values outside are clipped, NaN is
black. Small images are enlarged by an integer factor, each pixel to a square, so that a digit can be seen.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vae_jax.storage.files import write_bytes
from vae_jax.types import ArrayLike

BACKGROUND = 40  # grey level between the cells: black and white images both stand out
TEXT = 200
MIN_CELL, MIN_PICTURE = 56, 400  # pixels of the longer side


def grid(
  images: ArrayLike,
  columns: int | None = None,
  pad: int = 2,
  scale: int | None = None,
) -> np.ndarray:
  """Lays images out in rows.

  Args:
    images: [n, h, w, c], n > 0. c is 1 (grey), 3 (RGB) or 4 (RGBA, not premultiplied: laid over the background).
    columns: images a row; near a square by default.
    pad: pixels between cells and around them.
    scale: enlargement, an integer; by default the least that makes the longer side of a cell 56 pixels and that of
      the picture 400.

  Returns:
    uint8 [H, W, c] with c 1 or 3.

  Raises:
    ValueError: another number of channels, no images, a scale or a number of columns below 1.
  """
  cells = _to_uint8(images)
  n, height, width, channels = cells.shape
  columns = min(n, _square(n) if columns is None else columns)
  if columns < 1:
    raise ValueError(f"columns is {columns}; at least 1")
  rows = -(-n // columns)
  if scale is None:
    scale = max(-(-MIN_CELL // max(height, width)), -(-MIN_PICTURE // max(rows * height, columns * width)))
  cells = _enlarge(cells, scale)
  height, width = cells.shape[1:3]
  step_y, step_x = height + pad, width + pad
  canvas = np.full((rows * step_y + pad, columns * step_x + pad, channels), BACKGROUND, np.uint8)
  for i, cell in enumerate(cells):
    y, x = pad + i // columns * step_y, pad + i % columns * step_x
    canvas[y : y + height, x : x + width] = cell
  return canvas


def compare(
  *rows: ArrayLike,
  columns: int | None = None,
  pad: int = 2,
  scale: int | None = None,
  labels: Sequence[str] = (),
) -> np.ndarray:
  """Shows what belongs together in one column: original above reconstruction (above target, ...).

  Args:
    rows: arrays [n, h, w, c] of equal n. Sizes may differ by an integer factor, as in super-resolution, and
      grey may stand beside colour.
    columns: images a row; by default 16, or what fits into 2048 pixels. More images follow in further bands.
    pad, scale: as in `grid`; `scale` is that of the largest images.
    labels: one word for each of `rows`, drawn at the left.

  Returns:
    uint8 [H, W, c] with c 1 or 3.

  Raises:
    ValueError: as `grid`; rows of different length; sizes without an integer factor; too few or many labels.
  """
  if labels and len(labels) != len(rows):
    raise ValueError(f"{len(labels)} labels for {len(rows)} rows")
  sets = _one_size([_to_uint8(images) for images in rows])
  n, width = len(sets[0]), sets[0].shape[2]
  columns = min(n, min(16, max(1, 2048 // width)) if columns is None else columns)
  if columns < 1:
    raise ValueError(f"columns is {columns}; at least 1")
  bands = []
  for start in range(0, n, columns):
    band = [images[start : start + columns] for images in sets]
    missing = columns - len(band[0])
    filler = np.full((missing, *sets[0].shape[1:]), BACKGROUND, np.uint8)
    cells = np.concatenate([np.concatenate([images, filler]) for images in band])
    picture = grid(cells, columns, pad, scale)
    bands.append(_with_labels(picture, labels) if labels else picture)
  gap = np.full((4 * pad, *bands[0].shape[1:]), BACKGROUND, np.uint8)
  spaced = [bands[0]]
  for picture in bands[1:]:
    spaced += [gap, picture]
  return np.concatenate(spaced)


def beside(images: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
  """Images [n, h', w', c] enlarged to the height and width of `shape` (h, w, ...), each pixel to a rectangle."""
  images = np.asarray(images)
  rows, columns = (np.arange(n) * m // n for n, m in zip(shape[:2], images.shape[1:3], strict=True))
  return images[:, rows][:, :, columns]


def to_png(picture: np.ndarray) -> bytes:
  """The bytes of a PNG file of uint8 [H, W, 1 or 3]."""
  from PIL import Image

  file = io.BytesIO()
  Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(file, format="PNG")
  return file.getvalue()


def save_png(path: str | Path, picture: np.ndarray) -> None:
  """Writes uint8 [H, W, 1 or 3] as PNG. The file appears whole or not at all; missing folders are made.

  Raises UserError where it cannot be written.
  """
  content = to_png(picture)  # not into the file itself: PIL would not say why it cannot be written
  write_bytes(path, content)


def save_animation(path: str | Path, frames: Sequence[np.ndarray], milliseconds: int = 80) -> None:
  """Writes frames, uint8 [H, W, 1 or 3], as an endless GIF or WebP, by the suffix of the path; whole or not at all.

  GIF has 256 colours a frame. Raises UserError where it cannot be written.
  """
  from PIL import Image

  shown = [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in frames]
  file, how = io.BytesIO(), {"save_all": True, "duration": milliseconds, "loop": 0}
  if Path(path).suffix.lower() == ".webp":
    shown[0].save(file, format="WEBP", append_images=shown[1:], quality=90, **how)
  else:
    shown = [image.quantize(256) if image.mode == "RGB" else image for image in shown]
    shown[0].save(file, format="GIF", append_images=shown[1:], **how)
  write_bytes(path, file.getvalue())


def _to_uint8(given: ArrayLike) -> np.ndarray:
  """Float [n, h, w, c] in [0, 1] -> uint8 with 1 or 3 channels, rounded to the nearest level."""
  images = np.asarray(given)
  if images.ndim != 4 or 0 in images.shape:
    raise ValueError(f"images have shape {images.shape}; pictures need [n, h, w, c] with n > 0")
  if images.shape[-1] not in (1, 3, 4):
    raise ValueError(
      f"images have {images.shape[-1]} channels; a picture needs 1, 3 or 4: choose some of them"
    )
  if np.issubdtype(images.dtype, np.integer) and images.dtype != np.uint8:
    raise ValueError(f"images are {images.dtype}; pictures need uint8, or float in [0, 1]")
  if images.dtype != np.uint8:
    values = np.nan_to_num(images.astype(np.float32), nan=0.0)
    images = np.floor(np.clip(values, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
  if images.shape[-1] < 4:
    return images
  share = images[..., 3:] / np.float32(255)
  return np.rint(images[..., :3] * share + BACKGROUND * (1 - share)).astype(np.uint8)


def _enlarge(images: np.ndarray, scale: int) -> np.ndarray:
  """Each pixel becomes `scale` x `scale` pixels."""
  if scale < 1:
    raise ValueError(f"scale is {scale}; at least 1")
  return images.repeat(scale, axis=1).repeat(scale, axis=2)


def _one_size(sets: list[np.ndarray]) -> list[np.ndarray]:
  """Enlarges and colours the arrays so that all have the shape of the largest."""
  if len({len(images) for images in sets}) != 1:
    raise ValueError(f"rows of different length: {[len(images) for images in sets]}")
  height = max(images.shape[1] for images in sets)
  width = max(images.shape[2] for images in sets)
  channels = max(images.shape[3] for images in sets)
  result = []
  for images in sets:
    h, w = images.shape[1:3]
    if height % h or width % w or height // h != width // w:
      raise ValueError(f"images of {h} x {w} beside {height} x {width}: no common integer factor")
    images = _enlarge(images, height // h)
    result.append(np.broadcast_to(images, (*images.shape[:3], channels)))
  return result


def _with_labels(picture: np.ndarray, labels: Sequence[str]) -> np.ndarray:
  """Writes one label at the left of each of the equally high rows of `picture`."""
  from PIL import Image, ImageDraw, ImageFont

  row = picture.shape[0] / len(labels)
  font = ImageFont.load_default(max(10, min(16, round(row / 4))))
  boxes = [font.getbbox(label) for label in labels]
  margin = 8
  image = Image.new("L", (int(max(box[2] for box in boxes)) + 2 * margin, picture.shape[0]), BACKGROUND)
  draw = ImageDraw.Draw(image)
  for i, label in enumerate(labels):
    draw.text((image.width - margin, (i + 0.5) * row), label, fill=TEXT, font=font, anchor="rm")
  strip = np.asarray(image)[..., None]
  return np.concatenate([np.broadcast_to(strip, (*strip.shape[:2], picture.shape[2])), picture], axis=1)


def _square(n: int) -> int:
  """The number of columns that makes n cells nearly a square, with a full last row if there is such a one."""
  root = int(np.ceil(np.sqrt(n)))
  return next((c for c in range(root, 2 * root) if n % c == 0), root)
