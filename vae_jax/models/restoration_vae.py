"""A conditional hierarchical VAE for restoration: p(clean | degraded) for images of any size.

A deterministic trunk makes an estimate from the degraded image y and features of it at several scales. A ladder of
latent maps, coarse to fine (Sohn et al. 2015 for the conditioning, Child 2021 for the ladder), departs from it:

    prior p(z_l | z_<l, y)    posterior q(z_l | z_<l, x, y)    x = base(y) + trunk(y) + spread(y) (ladder(y, z) + noise)

    ladder(y, z) = g(y, z) - g(y, z at the prior's mean)

The spread is a map: how far, at each pixel, the clean image may lie from the estimate. With every z at the prior's mean
x is the trunk's estimate of the clean image; with z drawn from the prior, one of the images that y may have been. The
bound trains the ladder and no gradient of it reaches the trunk, whose own term is the distortion of its estimate: so
latents cost the estimate nothing. Convolutions only, no normalisation over positions: what is made of a pixel depends
on inputs within `radius`, so large images can be restored in tiles with the same result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from vae_jax import distributions as dist
from vae_jax.distributions import likelihoods
from vae_jax.errors import UserError
from vae_jax.keys import MIN_0, WIDEST, WIDTHS, Keys, between, counted
from vae_jax.keys import Key as ConfigKey
from vae_jax.models.blocks import ACTIVATION_KEYS, REMAT_KEYS, convolution, pixel_shuffle, pixel_unshuffle
from vae_jax.models.contract import Mode, Output
from vae_jax.models.ladder import Eps, Ladder, Layer, TargetEncoder, Trunk
from vae_jax.models.restorer import LIKELIHOOD_KEYS, Restorer, enlargement
from vae_jax.types import Array, ArrayLike, Batch, Key, Spec, image_shape, input_shape, seen


def _centre(x: Array) -> Array:
  """[b, h, w, d] -> [b, d], of the middle position."""
  return x[:, x.shape[1] // 2, x.shape[2] // 2]


class RestorationVAE(Restorer):
  """p(x | y), for clean images x `factor` times the size of degraded images y.

  Attributes:
    channels: widths of the trunk, at 1, 1/2, 1/4, ... of the resolution it works at.
    blocks: residual blocks at each scale, both ways.
    latent_channels: widths of the ladder, as many.
    latent_dim: latents at each position of each scale; 0: none, a deterministic network.
    factor: of super-resolution; 1 for images of equal size.
    unshuffle: the trunk works at 1 / unshuffle of the degraded image's resolution (Shi et al. 2016; FFDNet, Zhang et
      al. 2018).
    likelihood: p(x | y, z), of pixels around the ladder's image, in units of the spread; point_likelihood: of pixels
      around the restoration.
    image_channels: c.
  """

  latent_channels: tuple[int, ...]
  latent_dim: int
  unshuffle: int
  point_likelihood: dist.Likelihood
  activation: str = "relu"
  remat: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  TERMS: ClassVar[tuple[str, ...]] = ("distortion", "rate", "restoration")
  CAN: ClassVar[frozenset[str]] = frozenset({"bound", "restore", "draw", "tile"})

  @property
  def can(self) -> frozenset[str]:
    return self.CAN if self.latent_dim else self.CAN - {"draw"}

  @property
  def terms(self) -> tuple[str, ...]:
    return self.TERMS if self.latent_dim else Restorer.TERMS

  def setup(self):
    dtypes = {"activation": self.activation, "dtype": self.dtype, "param_dtype": self.param_dtype}
    self.trunk = Trunk(self.channels, self.blocks, remat=self.remat, **dtypes)
    self.head = self._to_pixels()
    if self.latent_dim:
      self.target_encoder = TargetEncoder(self.latent_channels, 1, **dtypes)
      self.ladder = Ladder(self.latent_channels, 1, latent_dim=self.latent_dim, **dtypes)
      self.latent_head = self._to_pixels(use_bias=False)  # a difference of two of its images has none
      self.spread_head = self._to_pixels()
    self.log_scale = self._scale("log_scale", self.likelihood.has_scale)
    self.point_log_scale = self._scale("point_log_scale", self.latent_dim > 0)

  def _to_pixels(self, use_bias: bool = True) -> nn.Conv:
    # Starts at zero: the first restoration is the base, bicubic interpolation or the degraded image itself.
    features = self.image_channels * (self.factor * self.unshuffle) ** 2
    init = nn.initializers.zeros_init()
    dtypes = {"dtype": jnp.float32, "param_dtype": self.param_dtype}
    return nn.Conv(
      features, (3, 3), use_bias=use_bias, kernel_init=init, conv_general_dilated=convolution(), **dtypes
    )

  @property
  def multiple(self) -> int:
    """Height and width of a degraded image are padded, by mirroring, to a multiple of this."""
    return self.unshuffle * 2 ** (len(self.channels) - 1)

  @property
  def radius(self) -> int:
    """How far, in pixels of the degraded image, an input pixel can be from an output pixel that depends on it."""
    strides = [self.unshuffle * 2**level for level in range(len(self.channels))]
    trunk = 2 * self.blocks * (sum(strides) + sum(strides[:-1])) + sum(strides[1:]) + 2 * strides[0]
    # Of the ladder, a scale: the residual block and the way up; then the head.
    ladder = 3 * sum(strides) if self.latent_dim else 0
    return trunk + ladder + 2 * strides[-1] + 3

  @property
  def units(self) -> int:
    """Latent channels, over all scales."""
    return self.latent_dim * len(self.channels)

  def _pixels(self, head: nn.Conv, features: Array) -> Array:
    return pixel_shuffle(head(features.astype(jnp.float32)), self.factor * self.unshuffle)

  def encode_degraded(self, degraded: Array) -> tuple[list[Array], Array]:
    """Features of a padded degraded image, coarse to fine, and the trunk's image."""
    scales = self.trunk(pixel_unshuffle(degraded.astype(self.dtype), self.unshuffle))
    return scales, self._base(degraded) + self._pixels(self.head, scales[-1])

  def _detail(
    self, scales: list[Array], targets: list[Array] | None, eps: Eps | None
  ) -> tuple[list[Layer], Array]:
    layers, features = self.ladder(scales, targets, eps)
    return layers, self._pixels(self.latent_head, features)

  def _log_spread(self, scales: list[Array]) -> Array:
    """Between -7 and 0; at the beginning -3.5, some grey levels of 255."""
    return 3.5 * jnp.tanh(self._pixels(self.spread_head, scales[-1])) - 3.5

  def _image(self, padded: Array, eps: Eps | None) -> Array:
    scales, estimate = self.encode_degraded(padded)
    if eps is None or not self.latent_dim:
      return estimate
    away = self._detail(scales, None, eps)[1] - self._detail(scales, None, None)[1]
    return estimate + jnp.exp(self._log_spread(scales)) * away

  def pixel_noise(self, degraded: ArrayLike) -> Array:
    """Standard deviation of p(x | y, z), float32 [b, factor * h, factor * w, c] in units of [0, 1]: how far pixels
    are from a draw, which `restore` leaves out."""
    h, w = degraded.shape[1:3]
    scales, _ = self.encode_degraded(self._padded(jnp.asarray(degraded), self.multiple))
    spread = jnp.exp(self._log_spread(scales))[:, : self.factor * h, : self.factor * w]
    assert self.likelihood.deviation is not None  # gaussian or laplace, see `build`
    return spread * self.likelihood.deviation(self.log_scale)

  def noise(self, key: Key, spec: Spec, origin: tuple[int, int] | Array = (0, 0)) -> Eps:
    """Standard normal noise for a degraded image of `spec`: float32 [h', w', latent_dim] a scale, coarse first.

    What a position gets depends on the key and on where it lies in the whole image, of which this one begins at
    `origin` (a multiple of `multiple`); so tiles fit together.
    """
    size, coarse_to_fine = input_shape(spec)[:2], range(len(self.channels) - 1, -1, -1)

    def at(level: int) -> Array:
      stride = self.unshuffle * 2**level
      rows, columns = (
        origin[i] // stride + jnp.arange(-(-size[i] // self.multiple) * self.multiple // stride)
        for i in (0, 1)
      )

      def draw(row: Array, column: Array) -> Array:
        place = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, level), row), column)
        return jax.random.normal(place, (self.latent_dim,), jnp.float32)

      return jax.vmap(lambda row: jax.vmap(lambda column: draw(row, column))(columns))(rows)

    return tuple(at(level) for level in coarse_to_fine)

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    """Scores clean images given degraded ones, with `mode.samples` posterior draws."""
    if not self.latent_dim:
      return super().__call__(batch, keys, mode)
    image, degraded, samples = jnp.asarray(batch["image"]), seen(batch), mode.samples
    h, w = image.shape[1:3]
    padded = self._padded(degraded, self.multiple)
    scales, estimate = self.encode_degraded(padded)
    n, restored = image.shape[0], estimate[:, :h, :w]
    # What the latents learn from, and do not change.
    scales, estimate = jax.lax.stop_gradient((scales, estimate))
    missing = [(0, n * self.factor - m) for n, m in zip(padded.shape[1:3], (h, w), strict=True)]
    clean = jnp.pad(image, ((0, 0), *missing, (0, 0)), mode="symmetric") if any(map(max, missing)) else image
    log_spread = self._log_spread(scales)
    deviation = (clean - estimate) * jnp.exp(-log_spread)
    # The spread is the scale of a Laplace density around the estimate. The bound has no say in it: it would widen the
    # spread until noise explains all and latents nothing.
    spread_distortion = (jnp.abs(deviation) + log_spread)[:, :h, :w].sum(axis=(1, 2, 3))
    log_spread, deviation = jax.lax.stop_gradient((log_spread, deviation))
    deviation_seen = deviation.astype(self.dtype)

    def each(x: Array) -> Array:  # [b, ...] -> [samples * b, ...]
      return jnp.tile(x, (samples, *(1,) * (x.ndim - 1)))

    def draws(key: Key) -> Eps:
      return tuple(
        jax.random.normal(jax.random.fold_in(key, i), (samples, *x.shape[1:3], self.latent_dim), jnp.float32)
        for i, x in enumerate(scales)
      )

    eps = jax.tree.map(lambda e: e.swapaxes(0, 1).reshape(-1, *e.shape[2:]), jax.vmap(draws)(keys))
    targets = [
      each(x) for x in self.target_encoder(pixel_unshuffle(deviation_seen, self.factor * self.unshuffle))
    ]
    _, usual = self._detail(scales, None, None)
    layers, detail = self._detail([each(x) for x in scales], targets, eps)
    away = (detail - each(usual))[:, :h, :w]
    away = away.reshape(samples, n, *away.shape[1:])
    # p(x | y, z) by the change of variables x -> deviation, whose density the likelihood gives.
    distortion = -self.likelihood.log_prob(away, deviation[:, :h, :w] + 0.5, self.log_scale)
    distortion = distortion + log_spread[None, :, :h, :w].sum(axis=(2, 3, 4))

    point = self._distortion(self.point_likelihood, restored, image, self.point_log_scale)
    # Adds the gradient that trains the spread, and nothing to the value.
    point = point + (spread_distortion - jax.lax.stop_gradient(spread_distortion))

    # [s, b, units]: sums over positions. A layer's KL depends on the draws above it.
    kl_units = jnp.concatenate([dist.kl(q, p).sum(axis=(1, 2)) for p, q, _ in layers], axis=-1)
    log_ratios = [(dist.log_prob(p, z) - dist.log_prob(q, z)).sum(axis=(1, 2)) for p, q, z in layers]
    kl_units = kl_units.reshape(samples, n, -1).mean(axis=0)
    # A latent of the image's centre stands for those of all positions: their mean would vary with none of them.
    shift = jnp.concatenate([_centre(q.mean - p.mean) for p, q, _ in layers], axis=-1)
    rates = kl_units.reshape(n, len(layers), -1).sum(axis=-1)
    return Output(
      terms={"distortion": distortion.mean(axis=0), "rate": rates.sum(axis=-1), "restoration": point},
      reconstruction=self._mean(restored),
      rates=rates,
      kl_units=kl_units,
      log_weight=jnp.stack(log_ratios).sum(axis=0).reshape(samples, n) - distortion,
      latents={"mean": shift.reshape(samples, n, -1).mean(axis=0)},
    )


KEYS: Keys = {
  "model.latent_dim": ConfigKey(16, "latents at each position of each scale; 0: none", between(0, WIDEST)),
  "model.channels": ConfigKey((32, 64), "widths at 1, 1/2, 1/4, ... of the resolution it works at", WIDTHS),
  "model.blocks": ConfigKey(1, "residual blocks at each scale", between(0, 256)),
  "model.unshuffle": ConfigKey(1, "works at 1/this of the degraded image's resolution", counted(16)),
  **REMAT_KEYS,
  **ACTIVATION_KEYS,
  **LIKELIHOOD_KEYS,
  "objective.restoration": ConfigKey(
    1.0, "weight of the distortion at the prior's mean (Sohn et al. 2015)", MIN_0
  ),
}
FAMILY = RestorationVAE


def faults(config: ConfigDict) -> Iterator[str]:
  """What the family refuses in a config whose values hold one by one."""
  yield from likelihoods.faults(config.model)
  if config.objective.name == "iwae" and not config.model.latent_dim:
    yield "objective.name=iwae needs latents, and model.latent_dim=0 has none; set objective.name=elbo"


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> RestorationVAE:
  """The module that `config.model` describes, for records of `spec`. Raises UserError: sizes that do not fit."""
  shape, given = image_shape(spec), input_shape(spec)
  multiple, side = model.unshuffle * 2 ** (len(model.channels) - 1), max(given[:2])
  if multiple > 16 * side:
    raise UserError(
      f"model.channels={','.join(map(str, model.channels))} with model.unshuffle={model.unshuffle} would pad "
      f"images of {given[0]} x {given[1]} to multiples of {multiple}; give fewer widths, or larger images"
    )
  return RestorationVAE(
    channels=tuple(model.channels),
    blocks=model.blocks,
    latent_channels=tuple(max(c // 3, 8) for c in model.channels),
    latent_dim=model.latent_dim,
    factor=enlargement(spec),
    unshuffle=model.unshuffle,
    likelihood=likelihoods.make_likelihood(model.likelihood, shape[-1], model.sigma),
    point_likelihood=likelihoods.make_likelihood(model.likelihood, shape[-1]),
    image_channels=shape[-1],
    activation=model.activation,
    remat=model.remat,
    **dtypes,
  )
