"""Whether an image has a lattice: a pattern of the period of its pixel shuffle, as enlarging networks may leave."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from vae_jax.errors import UserError
from vae_jax.types import Array, ArrayLike

_INNER, _OUTER = 1, 5  # bins around a peak: those that a Hann window spreads it over, and its surroundings


def lattice_peak(image: ArrayLike, period: int) -> Array:
  """Measures the strongest peak of the power spectrum at multiples of 1 / period cycles a pixel.

  The mean power of the 3 x 3 bins there, divided by that of the surroundings (11 x 11 bins without the 3 x 3), under a
  Hann window; the largest over all such frequencies but 0. Power is the mean over channels. Photographs have about 1 to
  2. A pattern that repeats every `period` pixels has much more.

  Args:
    image: [h, w] or [h, w, c], any real type and scale. Sides of at least 12 periods and 24 pixels.
    period: in pixels, at least 2: the factor of a super-resolution model.

  Returns:
    float32 []; NaN where the image has one.

  Raises:
    UserError: another shape, or too small.
  """
  shape = np.shape(image) if np.ndim(image) == 3 else (*np.shape(image), 1)
  least = max(12 * period, 24)
  if period < 2 or len(shape) != 3 or min(shape[:2]) < least:
    raise UserError(
      f"an image of shape {list(np.shape(image))} and a period of {period}: give [h, w, c] of at least {least} x "
      f"{least} pixels and a period of 2 or more"
    )
  h, w = (n // period * period for n in shape[:2])  # so that the frequencies are bins
  pixels = jnp.asarray(image, jnp.float32).reshape(shape)[:h, :w]
  hann = [np.hanning(n + 1)[:-1] for n in (h, w)]  # periodic: a pattern stays within 3 x 3 bins
  window = np.outer(*hann).astype(np.float32)[..., None]
  spectrum = jnp.fft.fft2((pixels - pixels.mean(axis=(0, 1), keepdims=True)) * window, axes=(0, 1))
  power = jnp.square(jnp.abs(spectrum)).mean(axis=-1)
  places = [(i * h // period, j * w // period) for i in range(period) for j in range(period) if i or j]
  return jnp.stack([_peak(power, *place) for place in places]).max()


def _peak(power: Array, row: int, column: int) -> Array:
  """Returns the mean power about a bin over that of its surroundings; 0 / 0 is 1, of an image without detail.

  The surroundings are all of the block, or the rows or columns of the bin alone, whichever is stronger: edges along an
  axis, and the borders of the image, make whole rows or columns strong.
  """
  offsets = np.arange(-_OUTER, _OUTER + 1)
  block = power[np.ix_((row + offsets) % power.shape[0], (column + offsets) % power.shape[1])]
  near = np.abs(offsets) <= _INNER
  inside, outside = np.flatnonzero(near), np.flatnonzero(~near)
  ring = np.nonzero(~(near[:, None] & near))
  parts = [block[ring], block[np.ix_(inside, outside)], block[np.ix_(outside, inside)]]
  around = jnp.stack([part.mean() for part in parts]).max()
  floor = 1e-12 * power.max() + 1e-30
  return (block[np.ix_(inside, inside)].mean() + floor) / (around + floor)
