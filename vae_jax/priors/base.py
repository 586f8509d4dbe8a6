"""What fitted priors share: their form, the checks of latents, and the numbers that keep covariances regular."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from vae_jax.errors import UserError
from vae_jax.types import Array, ArrayLike, Key

# Added to each variance, as a share of the mean variance: the factors of a covariance then have finite float32 values.
FLOOR = 1e-6
# Latents that differ by less than this share of their size differ by the rounding of float32, in which they come.
ALIKE = 1e-6


@runtime_checkable
class Prior(Protocol):
  """A density over latents [d]: a pytree of float32 arrays, so that it is an argument of compiled functions."""

  @property
  def kind(self) -> str:
    """A word of `priors.KINDS`."""

  @property
  def words(self) -> str:
    """What it is, for a person."""

  @property
  def units(self) -> int:
    """d."""

  def noise(self, key: Key) -> Any:
    """All that `transform` draws for one example."""

  def transform(self, noise: Any, temperature: Any = 1.0) -> Array:
    """Latents [n, d] of noise [n, ...]. Pure."""

  def log_prob(self, z: ArrayLike) -> Array:
    """Log density in nats, [n, d] -> [n]."""


class Fit(NamedTuple):
  """A prior, what there is to say of its fit as JSON data, and lines that a person should read."""

  prior: Any
  facts: dict[str, Any]
  remarks: tuple[str, ...] = ()


def checked(z: ArrayLike) -> Float[np.ndarray, "n d"]:
  """Latents in float64. Raises UserError: no table, not finite, fewer than 2, or all alike."""
  z = np.asarray(z, np.float64)
  if z.ndim != 2 or 0 in z.shape:
    raise UserError(f"latents of shape {list(z.shape)}: a prior is fitted to [n, d], n > 1, d > 0")
  if bad := int(np.sum(~np.isfinite(z).all(axis=1))):
    raise UserError(
      f"the latents of {bad} of {len(z)} images are not finite (nan or inf); use an earlier checkpoint of the run"
    )
  if len(z) < 2:
    raise UserError("the latents of 1 image have no spread; a prior needs 2 images and more")
  if not z.std(axis=0).max() > ALIKE * np.abs(z).max():
    raise UserError(
      f"the latents of all {len(z)} images are alike; a prior needs images that the encoder tells apart"
    )
  return z


def floor(z: Float[np.ndarray, "n d"]) -> float:
  """What is added to each variance."""
  return FLOOR * float(z.var(axis=0).mean())


def few(z: Float[np.ndarray, "n d"]) -> tuple[str, ...]:
  """A remark where there are too few latents for a covariance of full rank."""
  n, d = z.shape
  if n > d:
    return ()
  return (f"{n} images span fewer than the {d} directions of the latents: the covariance is singular",)
