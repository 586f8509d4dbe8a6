"""How much noise a photograph has, from its flattest patches (Liu, Tanaka & Okutomi 2013)."""

from __future__ import annotations

import functools

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from vae_jax.photos.samples import grey_levels, tiles

PATCH = 7  # rows and columns
MOST = 30_000  # patches that are looked at in each channel
_FEWEST = 300  # patches for an estimate
_ROUNDS = 3
_CONFIDENCE = 1 - 1e-6  # that a patch of noise alone passes for one
_CLIPPED = 2.0  # deviations from black and white within which noise is clipped


def noise_sigma(image: np.ndarray, scale: int = 1) -> float:
  """Estimates the standard deviation of the noise in grey levels (0 to 255); root mean square over channels.

  The smallest eigenvalue of the covariance of 7 x 7 patches, of those with little texture: Liu, Tanaka & Okutomi 2013,
  "Single-image noise level estimation for blind denoising". Patches near black and white, where noise is clipped, and
  patches of one value are left out. The noise is taken as white: of noise that neighbouring pixels share (cameras,
  JPEG) only a part is seen.

  Args:
    image: [h, w, c], uint8 or float in [0, 1].
    scale: 2 looks at means of 2 x 2 pixels and multiplies by 2: right for white noise, and the better estimate where
      JPEG has removed the fine part of the noise. It takes more texture for noise.

  Returns:
    The estimate; 0 where the picture has no noise, or is too small to see any (under 24 pixels).
  """
  image = np.asarray(image)
  channels = [_channel(tiles(image[..., c]), scale) for c in range(image.shape[2])]
  return float(np.sqrt(np.mean(np.square(channels))))


def _channel(parts: list[np.ndarray], scale: int) -> float:
  parts = [_shrunk(grey_levels(part), scale) for part in parts]
  room = sum(max(0, p.shape[0] - PATCH + 1) * max(0, p.shape[1] - PATCH + 1) for p in parts)
  step = max(1, round((room / MOST) ** 0.5))
  patches = np.concatenate(
    [
      sliding_window_view(part, (PATCH, PATCH))[::step, ::step].reshape(-1, PATCH**2)
      for part in parts
      if min(part.shape) >= PATCH
    ]
    or [np.zeros((0, PATCH**2))]
  )
  gradients, threshold = _texture()
  texture = ((patches @ gradients) * patches).sum(axis=1)
  means = patches.mean(axis=1)
  usable = (texture > 1e-6) & (means > 4) & (means < 251)
  variance = _smallest_eigenvalue(patches[usable])
  if (texture[usable] < threshold * variance).sum() < _FEWEST and usable.sum() < len(usable) / 2:
    return 0.0  # lines on plain ground: drawings and text
  for _ in range(_ROUNDS):
    low = min(_CLIPPED * variance**0.5, 110.0)
    flat = usable & (texture < threshold * variance) & (means > low) & (means < 255 - low)
    if flat.sum() < _FEWEST:
      break
    variance = _smallest_eigenvalue(patches[flat])
  return scale * float(variance**0.5)


def _shrunk(part: np.ndarray, scale: int) -> np.ndarray:
  """Means of `scale` x `scale` pixels."""
  height, width = part.shape[0] // scale, part.shape[1] // scale
  whole = part[: height * scale, : width * scale]
  return whole.reshape(height, scale, width, scale).mean(axis=(1, 3))


def _smallest_eigenvalue(patches: np.ndarray) -> float:
  """Returns the smallest eigenvalue of the covariance of patches [n, d], corrected for their number; 0 for too few.

  For n vectors of white noise it is (1 - sqrt(d / n))^2 of the variance (Marchenko & Pastur 1967). Texture that is left
  makes up for half of that, as measured on photographs, so 0.5 sqrt(d / n) is used.
  """
  count, values = patches.shape
  if count < _FEWEST:
    return 0.0
  mean = patches.mean(axis=0)
  covariance = patches.T @ patches / len(patches) - np.outer(mean, mean)
  return max(float(np.linalg.eigvalsh(covariance)[0]), 0.0) / (1 - 0.5 * (values / count) ** 0.5) ** 2


@functools.cache
def _texture() -> tuple[np.ndarray, float]:
  """The quadratic form that measures a patch's texture (its squared gradients), and its quantile for unit noise."""
  from scipy.stats import gamma

  difference = np.zeros((PATCH - 2, PATCH))
  for i in range(PATCH - 2):
    difference[i, i], difference[i, i + 2] = -0.5, 0.5
  across, down = np.kron(np.eye(PATCH), difference), np.kron(difference, np.eye(PATCH))
  form = across.T @ across + down.T @ down
  rank = np.linalg.matrix_rank(form)
  return form, float(gamma.ppf(_CONFIDENCE, rank / 2, scale=2 * np.trace(form) / rank))
