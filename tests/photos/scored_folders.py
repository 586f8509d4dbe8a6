"""Folders of pictures to score, simple restorations of them, and the scores again in float64."""

import numpy as np
from PIL import Image

from vae_jax.data.degrade import bicubic_up, gaussian_blur

BICUBIC = {"name": "bicubic_down", "factor": 2}
NOISE = {"name": "gaussian_noise", "sigma": 0.1, "sigma_max": 0.0}
IDENTITY = {"name": "identity"}


def photo(height, width, channels=3, seed=0):
  """Smooth patches, edges and a little texture, uint8."""
  random = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width]
  waves = [np.sin(x / random.uniform(2, 9) + y / random.uniform(2, 9)) for _ in range(channels)]
  image = 0.5 + 0.2 * np.stack(waves, -1) + 0.2 * ((x // 13 + y // 11) % 2)[..., None]
  return np.uint8(np.rint(255 * np.clip(image + 0.03 * random.standard_normal(image.shape), 0, 1)))


def save(folder, images):
  for name, pixels in images.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)
  return folder


def enlarge(low):
  return np.asarray(bicubic_up(low, 2))


def soften(noisy):
  return np.asarray(gaussian_blur(noisy, 1.0))


class Recorder:
  """A restoration that keeps what it was given; the same array twice once, as it comes back to be timed."""

  def __init__(self, restore=lambda x: x):
    self.restore, self.seen = restore, []

  def __call__(self, degraded):
    if not (self.seen and self.seen[-1] is degraded):
      self.seen.append(degraded)
    return self.restore(degraded)


def eight_bits(x):
  return np.rint(255 * np.clip(np.asarray(x, np.float64), 0, 1)) / 255


def luma(x):
  return (16 + x @ np.array([65.481, 128.553, 24.966])[:, None]) / 255 if x.shape[-1] == 3 else x


def decibels(a, b, crop=0):
  h, w = b.shape[:2]
  return -10 * np.log10(np.mean((a - b)[crop : h - crop, crop : w - crop] ** 2))
