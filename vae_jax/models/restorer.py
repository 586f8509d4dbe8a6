"""What models of p(clean | degraded) share: images of any size, and the restoration as a distribution of pixels."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from vae_jax import distributions as dist
from vae_jax.data.degrade import bicubic_up
from vae_jax.errors import UserError
from vae_jax.keys import SIGMA, one_of
from vae_jax.keys import Key as ConfigKey
from vae_jax.models.contract import Family, Mode, Output
from vae_jax.models.ladder import Eps
from vae_jax.types import Array, ArrayLike, Batch, Key, Spec, image_shape, input_shape, seen

LIKELIHOOD_KEYS = {
  "model.likelihood": ConfigKey("gaussian", "p(x | z) of a pixel", one_of("gaussian", "laplace")),
  "model.sigma": ConfigKey(
    "learned", "one scale for all pixels; optimal: Rybkin et al. 2021, gaussian", SIGMA
  ),
}


def enlargement(spec: Spec) -> int:
  """The least whole number by which the sides of degraded images were divided, rounding up, from those of clean ones.

  Raises UserError where there is none.
  """
  shape, given = image_shape(spec), input_shape(spec)
  sides = list(zip(shape[:2], given[:2], strict=True))
  for factor in range(1, max(shape[:2]) + 1):
    if all(-(-side // factor) == small for side, small in sides):
      return factor
  raise UserError(
    f"degraded images of {given[0]} x {given[1]} for clean ones of {shape[0]} x {shape[1]}: "
    "they must be smaller by one whole factor; give another data.size or data.degrade.factor"
  )


class Restorer(Family):
  """What models of p(x | y) share: images of any size, and the restoration as a distribution of pixels.

  A subclass has `multiple`, `log_scale` and `_image`.

  Attributes:
    channels, blocks: widths and residual blocks.
    factor: of super-resolution; 1 for images of equal size.
    likelihood: of pixels around the restoration.
    image_channels: c.
  """

  channels: tuple[int, ...]
  blocks: int
  factor: int
  likelihood: dist.Likelihood
  image_channels: int

  TERMS: ClassVar[tuple[str, ...]] = ("distortion", "rate")
  CAN: ClassVar[frozenset[str]] = frozenset({"bound", "restore", "tile"})

  @property
  def told(self) -> bool:
    """Whether the model is told the noise of a picture, and estimates it where it is not given."""
    return False

  @property
  def last_kernel(self) -> tuple[str, ...]:
    return ("head", "kernel")

  def _scale(self, name: str, wanted: bool, start: float = -4.0) -> Array:
    """A likelihood's scale: it starts near the error of an untrained network, some grey levels of 255."""
    return self.param(name, nn.initializers.constant(start), (), jnp.float32) if wanted else jnp.float32(0)

  @property
  def multiple(self) -> int:
    """Height and width of a degraded image are padded, by mirroring, to a multiple of this."""
    raise NotImplementedError

  def _image(self, degraded: Array, eps: Eps | None, sigma: ArrayLike | None = None) -> Array:
    """The restoration of a degraded image, at least; not bounded. sigma: of its noise, [b], if the model is told."""
    raise NotImplementedError

  def _base(self, degraded: Array) -> Array:
    return bicubic_up(degraded, self.factor) if self.factor > 1 else degraded.astype(jnp.float32)

  def _padded(self, image: Array) -> Array:
    pads = [-n % self.multiple for n in image.shape[1:3]]
    return (
      jnp.pad(image, ((0, 0), (0, pads[0]), (0, pads[1]), (0, 0)), mode="symmetric") if any(pads) else image
    )

  def _mean(self, image: Array) -> Array:
    return self.likelihood.mean(image - 0.5, self.log_scale)

  def _distortion(self, likelihood: dist.Likelihood, image: Array, clean: Array, log_scale: Array) -> Array:
    return -likelihood.log_prob(image - 0.5, clean, log_scale)

  def restore(
    self,
    degraded: Float[ArrayLike, "b h w c"],
    eps: Eps | None = None,
    sigma: Float[ArrayLike, " b"] | None = None,
  ) -> Float[Array, "b h2 w2 c"]:
    """The restoration, `factor` times as high and wide, in [0, 1].

    eps: None for the prior's means, the point estimate; else standard normal noise as from `noise`, for a draw of z
    from the prior: one of the images that the degraded one may have been.
    sigma: standard deviation of the noise, in units of [0, 1], for models that are told; None: estimated.
    """
    h, w = degraded.shape[1:3]
    image = self._image(jnp.asarray(degraded), eps, sigma)
    return self._mean(image[:, : self.factor * h, : self.factor * w])

  def reconstruct(self, batch: Batch) -> Float[Array, "b h2 w2 c"]:
    """The restoration of what the encoder sees, at the prior's mean."""
    return self.restore(seen(batch))

  def generate(self, noise: Eps, condition: Batch, temperature: Any = 1.0) -> Float[Array, "b h2 w2 c"]:
    """Restorations of condition["degraded"], drawn with the noise."""
    eps = tuple(temperature * eps for eps in noise)
    return self.restore(jnp.asarray(condition["degraded"]), eps, condition.get("sigma"))

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    """Scores clean images by the restoration of degraded ones. There are no latents, so all samples are alike."""
    image = jnp.asarray(batch["image"])
    n, h, w = image.shape[:3]
    restored = self._image(seen(batch), None)[:, :h, :w]
    distortion = self._distortion(self.likelihood, restored, image, self.log_scale)
    return Output(
      terms={"distortion": distortion, "rate": jnp.zeros(n, jnp.float32)},
      reconstruction=self._mean(restored),
      log_weight=jnp.broadcast_to(-distortion, (mode.samples, n)),
      latents={"mean": jnp.zeros((n, 0), jnp.float32)},  # 0 of 0 units are active
    )
