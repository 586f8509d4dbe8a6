"""Losses on the structure of images, per example. Those on SSIM are means over pixels; total variation is a sum."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp

from vae_jax.checks import float_image
from vae_jax.distributions import absolute, safe_sqrt
from vae_jax.errors import UserError, nearest
from vae_jax.metrics.structure import ms_ssim, ssim
from vae_jax.types import Array, ArrayLike

KINDS = ("isotropic", "anisotropic")


def ssim_loss(prediction: ArrayLike, target: ArrayLike) -> Array:
  """1 - SSIM, in [0, 2]: [..., h, w, c] in [0, 1] each -> [...]. Protocol and errors of `metrics.structure.ssim`.

  A mean over pixels: next to a loss summed over them it needs a weight of the order of h * w * c. Gradients are
  finite everywhere, and 0 (to rounding) where the images are equal.
  """
  return 1.0 - ssim(prediction, target)


def ms_ssim_loss(prediction: ArrayLike, target: ArrayLike) -> Array:
  """1 - MS-SSIM, in [0, 1]: [..., h, w, c] in [0, 1] each -> [...]. As `metrics.structure.ms_ssim`, sides >= 176.

  A mean over pixels, as `ssim_loss`. Gradients are finite everywhere; where the images are negatively correlated
  at some scale the loss is 1 and its gradient 0, so it trains only next to another loss.
  """
  return 1.0 - ms_ssim(prediction, target)


def total_variation(image: ArrayLike, kind: Literal["isotropic", "anisotropic"] = "isotropic") -> Array:
  """Total variation, summed over pixels and channels, in units of the image: [..., h, w, c] -> [...].

  With forward differences down and across, 0 beyond the border (as in Chambolle 2004): "isotropic" sums
  sqrt(down^2 + across^2) (Rudin et al. 1992), "anisotropic" sums |down| + |across|. Channels are separate. Exact,
  not smoothed: the gradient at a flat pixel is the subgradient 0. Raises ValueError for fewer than three axes, no
  pixels and integers, UserError for another kind.
  """
  if jnp.ndim(image) < 3 or 0 in jnp.shape(image)[-3:]:
    raise ValueError(f"image of shape {jnp.shape(image)}; expected [..., h, w, c], with pixels")
  if kind not in KINDS:
    raise UserError(f"total_variation of kind {kind!r} is unknown{nearest(kind, KINDS, what='kinds')}")
  image = float_image(image)
  down = jnp.diff(image, axis=-3, append=image[..., -1:, :, :])
  across = jnp.diff(image, axis=-2, append=image[..., -1:, :])
  if kind == "anisotropic":
    return jnp.sum(absolute(down) + absolute(across), axis=(-3, -2, -1))
  return jnp.sum(safe_sqrt(jnp.square(down) + jnp.square(across)), axis=(-3, -2, -1))
