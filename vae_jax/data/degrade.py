"""Degradations, pure functions `(key, image) -> degraded`, and bicubic resizing that agrees with MATLAB's.

An image is float32 [h, w, c] in [0, 1], any size and channel count; `vmap` over (key, image) degrades a batch
with one key per example. The functions that draw nothing also take leading axes, [..., h, w, c]. Nothing is
clipped: noise and the overshoot of the bicubic kernel leave [0, 1], and clipping noise would bias its mean
and variance near black and white. Writers of 8-bit files clip.

`docs/degradations.md` has the formulas and their sources.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.configuration.sections import DATA
from vae_jax.errors import UserError, nearest
from vae_jax.types import Array, ArrayLike, Key

Degrade = Callable[[Key, ArrayLike], Array]


def identity(key: Key, image: ArrayLike) -> Array:
  """The image itself. `key` is not used."""
  del key
  return _float_image(image)


def gaussian_noise(key: Key, image: ArrayLike, sigma: float, sigma_max: float = 0.0) -> Array:
  """image + s * n with n ~ N(0, 1) per pixel and channel; not clipped.

  `s` is `sigma` (in units of the [0, 1] range). Where `sigma_max` is above `sigma`, one `s` per image is
  drawn uniformly from [sigma, sigma_max] ("blind" denoising, Zhang et al. 2017, DnCNN).
  image: [h, w, c]; same shape out.
  """
  image = _float_image(image)
  key_scale, key_noise = jax.random.split(key)
  noise = jax.random.normal(key_noise, image.shape, jnp.float32)
  if sigma_max > sigma:
    return image + jax.random.uniform(key_scale, (), jnp.float32, sigma, sigma_max) * noise
  return image + sigma * noise


def poisson_gaussian(key: Key, image: ArrayLike, peak: float, sigma: float) -> Array:
  """Poisson(peak * image) / peak + sigma * n: photon counts and read noise (Foi et al. 2008); not clipped.

  Mean `image`, variance `image / peak + sigma**2`. `peak` is the expected number of photons at white, `sigma`
  the read noise in units of the [0, 1] range; pixels below 0 emit no photons. image: [h, w, c]; same shape
  out. Needs threefry keys (JAX's default), as `jax.random.poisson` does.

  Counts have no derivative; the gradient is that of their mean (straight through), so it is 1 for each pixel.
  """
  image = _float_image(image)
  key_count, key_noise = jax.random.split(key)
  rate = peak * jnp.maximum(jax.lax.stop_gradient(image), 0.0)
  counts = jax.random.poisson(key_count, rate, image.shape, jnp.int32).astype(jnp.float32)
  shot = image + jax.lax.stop_gradient(counts / peak - image)
  return shot + sigma * jax.random.normal(key_noise, image.shape, jnp.float32)


def blur_down(key: Key, image: ArrayLike, factor: int, blur: float = 1.0) -> Array:
  """`gaussian_blur(image, blur)`, then `bicubic_down` by `factor`. `key` is not used.

  image: [..., h, w, c] -> [..., ceil(h / factor), ceil(w / factor), c].
  """
  del key
  image = _float_image(image)
  h, w = image.shape[-3:-1]
  return _separable(image, _down_weights(h, factor, blur), _down_weights(w, factor, blur))


def bicubic_down(key: Key, image: ArrayLike, factor: int) -> Array:
  """MATLAB's `imresize(image, 1 / factor, 'bicubic')` of a double image. `key` is not used.

  Antialiased: the kernel of Keys (1981), a = -0.5, is widened by `factor`; borders are symmetric.
  image: [..., h, w, c] -> [..., ceil(h / factor), ceil(w / factor), c]; not clipped.
  """
  del key
  image = _float_image(image)
  h, w = image.shape[-3:-1]
  return _separable(image, _down_weights(h, factor, 0.0), _down_weights(w, factor, 0.0))


def bicubic_up(image: ArrayLike, factor: int) -> Array:
  """MATLAB's `imresize(image, factor, 'bicubic')` of a double image; not clipped.

  image: [..., h, w, c] -> [..., factor * h, factor * w, c].
  """
  h, w = np.shape(image)[-3:-1]
  return resize_bicubic(image, factor * h, factor * w)


def resize_bicubic(image: ArrayLike, out_h: int, out_w: int) -> Array:
  """MATLAB's `imresize(image, [out_h out_w], 'bicubic')` of a double image; not clipped.

  An axis that shrinks is antialiased. image: [..., h, w, c] -> [..., out_h, out_w, c].
  Raises UserError for an output size below 1.
  """
  if out_h < 1 or out_w < 1:
    raise UserError(f"resize_bicubic to {out_h} x {out_w}: height and width must be at least 1")
  image = _float_image(image)
  h, w = image.shape[-3:-1]
  rows = bicubic_weights(h, out_h, out_h / h).astype(np.float32)
  columns = bicubic_weights(w, out_w, out_w / w).astype(np.float32)
  return _separable(image, rows, columns)


def gaussian_blur(image: ArrayLike, sigma: float) -> Array:
  """Gaussian blur of standard deviation `sigma` pixels, cut off at radius ceil(4 * sigma) and normalised.

  Borders are symmetric (c b a | a b c: the edge pixel repeats; SciPy calls this 'reflect').
  image: [..., h, w, c]; same shape out.
  """
  image = _float_image(image)
  h, w = image.shape[-3:-1]
  return _separable(
    image, gaussian_weights(h, sigma).astype(np.float32), gaussian_weights(w, sigma).astype(np.float32)
  )


@functools.lru_cache(maxsize=256)
def bicubic_weights(n: int, n_out: int, scale: float) -> np.ndarray:
  """The matrix [n_out, n], float64, that resizes one axis as MATLAB's `imresize` does; each row sums to 1.

  Output pixel i (from 0) lies at (i + 0.5) / scale - 0.5 of the input. Below scale 1 the kernel is stretched
  by 1 / scale. Indices beyond the border mirror, the edge pixel repeated.
  """
  stretch = max(1.0, 1.0 / scale)
  centre = (np.arange(n_out) + 0.5) / scale - 0.5
  first = np.floor(centre - 2 * stretch).astype(int)
  taps = first[:, None] + np.arange(math.ceil(4 * stretch) + 2)
  weights = _keys_cubic((centre[:, None] - taps) / stretch)
  return _scatter(taps, weights / weights.sum(axis=1, keepdims=True), n)


@functools.lru_cache(maxsize=256)
def gaussian_weights(n: int, sigma: float) -> np.ndarray:
  """The matrix [n, n], float64, of `gaussian_blur` along one axis; the identity for sigma 0."""
  radius = math.ceil(4 * _checked("blur", sigma))
  offsets = np.arange(-radius, radius + 1)
  with np.errstate(over="ignore"):  # a sigma of 1e-270 has weights of exp(-inf)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma > 0 else np.ones(1)
  taps = np.arange(n)[:, None] + offsets
  return _scatter(taps, np.tile(weights / weights.sum(), (n, 1)), n)


@functools.lru_cache(maxsize=256)
def _down_weights(n: int, factor: int, blur: float) -> np.ndarray:
  """Blur and bicubic down-sampling of one axis as one matrix, float32 [ceil(n / factor), n]."""
  factor = _checked("factor", factor)
  weights = bicubic_weights(n, -(-n // factor), 1.0 / factor)
  if blur > 0:
    weights = weights @ gaussian_weights(n, blur)
  return _frozen(weights.astype(np.float32))


def _keys_cubic(x: np.ndarray) -> np.ndarray:
  x = np.abs(x)
  near = (1.5 * x - 2.5) * x * x + 1
  far = ((-0.5 * x + 2.5) * x - 4) * x + 2
  return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _scatter(taps: np.ndarray, weights: np.ndarray, n: int) -> np.ndarray:
  """Adds `weights` [rows, k] at input positions `taps` [rows, k], mirrored into 0..n-1: [rows, n]."""
  position = taps % (2 * n)
  position = np.where(position < n, position, 2 * n - 1 - position)
  matrix = np.zeros((len(taps), n))
  np.add.at(matrix, (np.arange(len(taps))[:, None], position), weights)
  return _frozen(matrix)


def _frozen(matrix: np.ndarray) -> np.ndarray:
  matrix.setflags(write=False)  # shared by every caller through the cache
  return matrix


def _separable(image: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
  # HIGHEST: accelerators would otherwise multiply in TF32 or bfloat16, 1e-3 off.
  multiply = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  return multiply("pw,...owc->...opc", columns, multiply("oh,...hwc->...owc", rows, image))


def _float_image(image: ArrayLike) -> Array:
  if np.ndim(image) < 3 or not jnp.issubdtype(image.dtype, jnp.floating):
    raise UserError(
      f"image {image.dtype}{list(np.shape(image))}: degradations take float32 [h, w, c] in [0, 1]; "
      "divide uint8 by 255, give grey images a last axis of 1"
    )
  if 0 in np.shape(image)[-3:]:
    raise UserError(f"image {image.dtype}{list(np.shape(image))} has no pixels; degradations take [h, w, c]")
  return jnp.asarray(image, jnp.float32)


# Each name with its function and the keys of `data.degrade` that it takes.
DEGRADATIONS: dict[str, tuple[Callable[..., Array], tuple[str, ...]]] = {
  "identity": (identity, ()),
  "gaussian_noise": (gaussian_noise, ("sigma", "sigma_max")),
  "poisson_gaussian": (poisson_gaussian, ("peak", "sigma")),
  "blur_down": (blur_down, ("factor", "blur")),
  "bicubic_down": (bicubic_down, ("factor",)),
}


def make_degrade(config_degrade: Mapping[str, Any]) -> Degrade:
  """The function `(key, image [h, w, c]) -> degraded` that `data.degrade` names, with its values bound.

  Raises UserError for an unknown name or a value out of range.
  """
  function, values = _resolve(config_degrade)
  return functools.partial(function, **values)


def degraded_shape(config_degrade: Mapping[str, Any], shape: tuple[int, int, int]) -> tuple[int, int, int]:
  """The shape (h', w', c) of what `make_degrade(config_degrade)` makes of an image of `shape` (h, w, c)."""
  _, values = _resolve(config_degrade)
  h, w, c = shape
  factor = values.get("factor", 1)
  return -(-h // factor), -(-w // factor), c


def _checked(name: str, value: Any) -> Any:
  """`value` in the type of `data.degrade.<name>`; UserError where it breaks that key's rule."""
  default, _, rule = DATA[f"data.degrade.{name}"]
  whole = isinstance(default, int)
  fits = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
  if rule is None or not fits or not rule.holds(value):
    what = f"{'a whole number' if whole else 'a number'} {rule.words if rule else ''}"
    raise UserError(f"data.degrade.{name}={value!r} must be {what}")
  return type(default)(value)


def _resolve(config: Mapping[str, Any]) -> tuple[Callable[..., Array], dict[str, Any]]:
  name = config["name"]
  if name not in DEGRADATIONS:
    hint = nearest(name, DEGRADATIONS, what="degradations")
    raise UserError(f"data.degrade.name={name!r} is not a degradation{hint}")
  function, keys = DEGRADATIONS[name]
  values = {key: _checked(key, config[key]) for key in keys}
  if 0 < values.get("sigma_max", 0) < values["sigma"]:
    raise UserError(
      f"data.degrade.sigma_max={values['sigma_max']} is below data.degrade.sigma={values['sigma']}: "
      "raise it, or set it to 0 for a fixed sigma"
    )
  return function, values
