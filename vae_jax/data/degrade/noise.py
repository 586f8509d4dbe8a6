"""Noise: Gaussian, of photons, and of cameras with a colour mosaic. Nothing is clipped."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.data.degrade.base import float_image
from vae_jax.data.degrade.blur import gaussian_blur
from vae_jax.data.degrade.light import linear_to_srgb, srgb_to_linear
from vae_jax.types import Array, ArrayLike, Key


def gaussian_noise(key: Key, image: ArrayLike, sigma: float, sigma_max: float = 0.0) -> Array:
  """image + s * n with n ~ N(0, 1) per pixel and channel; not clipped.

  `s` is `sigma` (in units of the [0, 1] range). Where `sigma_max` is above `sigma`, one `s` per image is
  drawn uniformly from [sigma, sigma_max] ("blind" denoising, Zhang et al. 2017, DnCNN).
  image: [h, w, c]; same shape out.
  """
  image = float_image(image)
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
  image = float_image(image)
  key_count, key_noise = jax.random.split(key)
  rate = peak * jnp.maximum(jax.lax.stop_gradient(image), 0.0)
  counts = jax.random.poisson(key_count, rate, image.shape, jnp.int32).astype(jnp.float32)
  shot = image + jax.lax.stop_gradient(counts / peak - image)
  return shot + sigma * jax.random.normal(key_noise, image.shape, jnp.float32)


def camera_noise(
  key: Key,
  image: ArrayLike,
  shot: float | Array,
  read: float | Array,
  blur: float | Array = 0.0,
  most: float | None = None,
) -> Array:
  """Adds the noise of a camera's sensor to an sRGB image, in linear light and correlated by demosaicking.

  The sensor sees the image's light x (sRGB undone) through an RGGB mosaic whose corner is drawn. Its noise is Gaussian
  with variance shot**2 * x + read**2, an approximation of photon counts that is good for many photons; shot and read
  are in units of linear white. The noise alone is demosaicked (`demosaic`, Malvar et al. 2004), so that no detail is
  lost, then perhaps blurred by a Gaussian of `blur` pixels, as cameras smooth and scale, and added to the light. Images
  that are not of three channels have white noise of that variance. White balance and colour matrices are left out.

  The gradient is that for noise that does not depend on the image. most: the upper limit of `blur` where it is traced.
  image: [h, w, c], in sRGB; same shape out, in sRGB, not clipped.
  """
  light = srgb_to_linear(float_image(image))
  key_corner, key_noise = jax.random.split(key)

  def noise(x: Array) -> Array:
    deviation = jnp.sqrt(shot**2 * jnp.maximum(jax.lax.stop_gradient(x), 0.0) + read**2)
    return deviation * jax.random.normal(key_noise, x.shape, jnp.float32)

  if light.shape[-1] == 3:
    row, column = jax.random.bernoulli(key_corner, jnp.float32(0.5), (2,))
    wide = jnp.pad(light, ((2, 2), (2, 2), (0, 0)), mode="edge")
    added = demosaic(noise(mosaic(wide, row, column)), row, column)
  else:
    added = noise(light)
  if most is not None or blur > 0:
    added = gaussian_blur(added, blur, most=most)
  return linear_to_srgb(light + added)


def mosaic(image: ArrayLike, row: ArrayLike | bool, column: ArrayLike | bool) -> Array:
  """What a sensor with an RGGB mosaic sees of [h, w, 3]: [h, w].

  row, column: whether the first row, and the first column, are those without red.
  """
  image = jnp.asarray(image)
  red_row, red_column = _red(image.shape[:2], row, column)
  red, blue = red_row & red_column, ~red_row & ~red_column
  return jnp.where(red, image[..., 0], jnp.where(blue, image[..., 2], image[..., 1]))


def demosaic(values: ArrayLike, row: ArrayLike | bool, column: ArrayLike | bool) -> Array:
  """The linear interpolation of Malvar, He and Cutler (2004) of a mosaic [h + 4, w + 4]: [h, w, 3], without the border.

  row, column: as of `mosaic`.
  """
  values = jnp.asarray(values, jnp.float32)
  h, w = (n - 4 for n in values.shape)
  red_row, red_column = _red((h, w), row, column)  # 2 rows further, the mosaic is the same

  def at(y: int, x: int) -> Array:
    return values[2 + y : 2 + y + h, 2 + x : 2 + x + w]

  here = at(0, 0)
  near_x, near_y = at(0, -1) + at(0, 1), at(-1, 0) + at(1, 0)
  far_x, far_y = at(0, -2) + at(0, 2), at(-2, 0) + at(2, 0)
  diagonal = at(-1, -1) + at(-1, 1) + at(1, -1) + at(1, 1)
  # Figure 2 of the paper, in eighths.
  green = (4 * here + 2 * (near_x + near_y) - far_x - far_y) / 8
  along_x = (5 * here + 4 * near_x - far_x - diagonal + 0.5 * far_y) / 8
  along_y = (5 * here + 4 * near_y - far_y - diagonal + 0.5 * far_x) / 8
  opposite = (6 * here + 2 * diagonal - 1.5 * (far_x + far_y)) / 8

  def colour(own_row: Array, own_column: Array) -> Array:
    with_row = jnp.where(own_column, here, along_x)
    return jnp.where(own_row, with_row, jnp.where(own_column, along_y, opposite))

  is_green = red_row != red_column
  return jnp.stack(
    [colour(red_row, red_column), jnp.where(is_green, here, green), colour(~red_row, ~red_column)], axis=-1
  )


def _red(shape: tuple[int, ...], row: ArrayLike | bool, column: ArrayLike | bool) -> tuple[Array, Array]:
  """Which rows [h, 1] and columns [1, w] have red pixels."""
  h, w = shape
  even_rows, even_columns = np.arange(h)[:, None] % 2 == 0, np.arange(w)[None] % 2 == 0
  return even_rows ^ jnp.asarray(row), even_columns ^ jnp.asarray(column)
