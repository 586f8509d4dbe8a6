"""What the degradations share: checks of images and values, and matrices that act on rows and columns."""

from __future__ import annotations

import functools
import numbers
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.configuration.sections import DATA
from vae_jax.errors import UserError
from vae_jax.types import Array, ArrayLike

Border = Literal["mirror", "replicate"]


def float_image(image: ArrayLike) -> Array:
  """`image` [..., h, w, c] as float32. Raises UserError for integers, other shapes and images without pixels."""
  if np.ndim(image) < 3 or not jnp.issubdtype(jnp.result_type(image), jnp.floating):
    raise UserError(
      f"image {jnp.result_type(image)}{list(np.shape(image))}: degradations take float32 [h, w, c] in [0, 1]; "
      "divide uint8 by 255, give grey images a last axis of 1"
    )
  if 0 in np.shape(image)[-3:]:
    raise UserError(f"image of shape {list(np.shape(image))} has no pixels; degradations take [h, w, c]")
  return jnp.asarray(image, jnp.float32)


def checked(name: str, value: Any) -> Any:
  """`value` in the type of `data.degrade.<name>`; UserError where it breaks that key's rule."""
  default, _, rule = DATA[f"data.degrade.{name}"]
  if isinstance(default, str):
    if not isinstance(value, str) or (rule is not None and not rule.holds(value)):
      raise UserError(f"data.degrade.{name}={value!r} must be {rule.words if rule else 'text'}")
    return value
  whole = isinstance(default, int)
  fits = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
  if rule is None or not fits or not rule.holds(value):
    what = f"{'a whole number' if whole else 'a number'} {rule.words if rule else ''}"
    raise UserError(f"data.degrade.{name}={value!r} must be {what}")
  return type(default)(value)


def scatter(taps: np.ndarray, weights: np.ndarray, n: int, border: Border) -> np.ndarray:
  """Adds `weights` [rows, k] at input positions `taps` [rows, k], brought into 0..n-1 by the border: [rows, n]."""
  if checked("border", border) == "replicate":
    position = np.clip(taps, 0, n - 1)
  else:
    position = taps % (2 * n)
    position = np.where(position < n, position, 2 * n - 1 - position)
  matrix = np.zeros((len(taps), n))
  np.add.at(matrix, (np.arange(len(taps))[:, None], position), weights)
  return frozen(matrix)


def frozen(matrix: np.ndarray) -> np.ndarray:
  """`matrix` itself, which nobody can write into: every caller shares it through a cache."""
  matrix.setflags(write=False)
  return matrix


def separable(image: Array, rows: ArrayLike, columns: ArrayLike) -> Array:
  """Multiplies rows [h', h] and columns [w', w] into an image [..., h, w, c]: [..., h', w', c]."""
  # HIGHEST: accelerators would otherwise multiply in TF32 or bfloat16, 1e-3 off.
  multiply = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  return multiply("pw,...owc->...opc", columns, multiply("oh,...hwc->...owc", rows, image))
