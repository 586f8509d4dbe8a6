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

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from vae_jax import distributions as dist
from vae_jax.distributions import likelihoods
from vae_jax.errors import UserError
from vae_jax.keys import MIN_0, WIDEST, WIDTHS, Keys, between, counted, one_of
from vae_jax.keys import Key as ConfigKey
from vae_jax.models.blocks import ACTIVATION_KEYS, REMAT_KEYS, convolution, pixel_shuffle, pixel_unshuffle
from vae_jax.models.contract import Mode, Output
from vae_jax.models.grey import of_equal_channels
from vae_jax.models.ladder import Eps, Ladder, Layer, PixelHead, TargetEncoder, Trunk
from vae_jax.models.noise_level import (
  MODES,
  SCALE_EXPONENT,
  NoiseEstimator,
  bounded_spread,
  local_sigma,
  pooled,
  spread_out,
  surprise,
  surprise_of_pooled,
  to_level,
  to_sigma,
)
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
    noise_mode: what the network is told of the noise in the degraded image; none, uniform (one sigma a picture), local
      (a sigma at each position). It is estimated from the picture where it is not given.
    head_channels: channels at full resolution from which the last convolution makes the image; 0: the image is made at
      the resolution of the trunk.
  """

  latent_channels: tuple[int, ...]
  latent_dim: int
  unshuffle: int
  point_likelihood: dist.Likelihood
  noise_mode: str = "none"
  head_channels: int = 0
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
    terms = self.TERMS if self.latent_dim else Restorer.TERMS
    return terms if self.noise_mode == "none" else (*terms, "noise")

  def setup(self):
    dtypes = {"activation": self.activation, "dtype": self.dtype, "param_dtype": self.param_dtype}
    self.trunk = Trunk(self.channels, self.blocks, remat=self.remat, **dtypes)
    self.head = self._to_pixels("head")
    if self.latent_dim:
      self.target_encoder = TargetEncoder(self.latent_channels, 1, **dtypes)
      self.ladder = Ladder(self.latent_channels, 1, latent_dim=self.latent_dim, **dtypes)
      # A difference of two of its images has no bias.
      self.latent_head = self._to_pixels("latent_head", use_bias=False)
      self.spread_head = self._to_pixels("spread_head")
    if self.noise_mode != "none":
      self.estimator = NoiseEstimator((32, 64), 0, stride=self.stride, **dtypes)
    in_spreads = 0.0 if self.latent_dim else -4.0
    self.log_scale = self._scale("log_scale", self.likelihood.has_scale, in_spreads)
    self.point_log_scale = self._scale("point_log_scale", self.latent_dim > 0)

  def _to_pixels(self, name: str, use_bias: bool = True) -> nn.Module:
    if self.head_channels:
      widths, up = (self.head_channels, self.image_channels), self.factor * self.unshuffle
      return PixelHead(
        widths, 0, self.activation, factor=up, param_dtype=self.param_dtype, name=f"fine_{name}"
      )
    # Starts at zero: the first restoration is the base, bicubic interpolation or the degraded image itself.
    features = self.image_channels * (self.factor * self.unshuffle) ** 2
    init = nn.initializers.zeros_init()
    dtypes = {"dtype": jnp.float32, "param_dtype": self.param_dtype}
    return nn.Conv(
      features, (3, 3), use_bias=use_bias, kernel_init=init, conv_general_dilated=convolution(), **dtypes
    )

  def adopt(self, params: dict[str, Any]) -> dict[str, Any]:
    """The scale of pixels around the restoration is the only one without latents, and one of two with them.

    A model of colours starts one of grey images as it treats equal channels.
    """
    if self.image_channels == 1:
      params = of_equal_channels(
        params, (self.unshuffle, self.factor * self.unshuffle, self.stride), self.told
      )
    names = ("log_scale", "point_log_scale")
    scales = {name: params[name] for name in names if name in params}
    rest = {part: x for part, x in params.items() if part not in names}
    if self.latent_dim and list(scales) == ["log_scale"]:
      return {**rest, "point_log_scale": scales["log_scale"]}
    if not self.latent_dim and "point_log_scale" in scales:
      return {**rest, "log_scale": scales["point_log_scale"]}
    return params

  @property
  def told(self) -> bool:
    return self.noise_mode != "none"

  @property
  def last_kernel(self) -> tuple[str, ...]:
    return ("fine_head", "out", "kernel") if self.head_channels else ("head", "kernel")

  @property
  def multiple(self) -> int:
    """Height and width of a degraded image are padded, by mirroring, to a multiple of this."""
    return self.unshuffle * 2 ** (len(self.channels) - 1)

  @property
  def radius(self) -> int:
    """How far, in pixels of the degraded image, an input pixel can be from an output pixel that depends on it."""
    strides = [self.unshuffle * 2**level for level in range(len(self.channels))]
    trunk = 2 * self.blocks * (sum(strides) + sum(strides[:-1])) + sum(strides[1:]) + 2 * strides[0]
    # A scale of the ladder has the residual block and the way up; then comes the head.
    ladder = 3 * sum(strides) if self.latent_dim else 0
    estimator = self.stride * (NoiseEstimator.REACH + 1) if self.noise_mode == "local" else 0
    head = 2 if self.head_channels else 0
    return trunk + ladder + 2 * strides[-1] + 3 + estimator + head

  @property
  def stride(self) -> int:
    """Pixels between two estimates of the noise."""
    return self.unshuffle * min(2, self.multiple // self.unshuffle)

  @property
  def units(self) -> int:
    """Latent channels, over all scales."""
    return self.latent_dim * len(self.channels)

  def _pixels(self, head: nn.Module, features: Array) -> Array:
    pixels = head(features.astype(jnp.float32))
    return pixels if self.head_channels else pixel_shuffle(pixels, self.factor * self.unshuffle)

  def noise_estimates(self, degraded: ArrayLike) -> Array:
    """The level of the noise and its log precision, float32 [b, h, w, 2], from the picture: see `noise_level`."""
    h, w = degraded.shape[1:3]
    estimates = self.estimator(self._padded(jnp.asarray(degraded)))
    return jnp.repeat(jnp.repeat(estimates, self.stride, axis=1), self.stride, axis=2)[:, :h, :w]

  def _levels(self, degraded: Array, sigma: ArrayLike | None = None) -> Array | None:
    """What the network is told of the noise, float32 [b, h', w', 1] of the padded image; no gradient reaches the
    estimator. sigma: float32 [b]; None: estimated."""
    if self.noise_mode == "none":
      return None
    b, h, w, _ = degraded.shape
    shape = (b, h + -h % self.multiple, w + -w % self.multiple, 1)
    if sigma is not None:
      return jnp.broadcast_to(to_level(jnp.asarray(sigma, jnp.float32))[:, None, None, None], shape)
    if self.noise_mode == "uniform":
      estimates = jax.lax.stop_gradient(self.noise_estimates(degraded))
      return jnp.broadcast_to(pooled(estimates)[:, None, None, None], shape)
    estimates = jax.lax.stop_gradient(self.estimator(self._padded(degraded)))
    return spread_out(estimates[..., 0], self.stride)[..., None]

  def encode_degraded(self, degraded: Array, levels: Array | None = None) -> tuple[list[Array], Array]:
    """Features of a padded degraded image, coarse to fine, and the trunk's image.

    levels: float32 [b, h, w, 1]. The trunk's image is as far from the degraded one as there is noise: none, no change.
    """
    x = pixel_unshuffle(degraded.astype(self.dtype), self.unshuffle)
    if levels is None:
      scales = self.trunk(x)
      return scales, self._base(degraded) + self._pixels(self.head, scales[-1])
    told = levels[:, :: self.unshuffle, :: self.unshuffle]
    told = jnp.concatenate([told / 4, 4 * to_sigma(told)], axis=-1)
    scales = self.trunk(jnp.concatenate([x, told.astype(self.dtype)], axis=-1))
    return scales, degraded.astype(jnp.float32) + to_sigma(levels) * self._pixels(self.head, scales[-1])

  def _detail(
    self, scales: list[Array], targets: list[Array] | None, eps: Eps | None
  ) -> tuple[list[Layer], Array]:
    layers, features = self.ladder(scales, targets, eps)
    return layers, self._pixels(self.latent_head, features)

  def _log_spread(self, scales: list[Array], levels: Array | None = None) -> Array:
    """Between -7 and 0; at the beginning -3.5, some grey levels of 255. Bounded by the noise, where it is told."""
    free = 3.5 * jnp.tanh(self._pixels(self.spread_head, scales[-1])) - 3.5
    return free if levels is None else bounded_spread(free, levels, self.noise_mode == "local")

  def _image(self, degraded: Array, eps: Eps | None, sigma: ArrayLike | None = None) -> Array:
    padded = self._padded(degraded)
    levels = self._levels(degraded, sigma)
    scales, estimate = self.encode_degraded(padded, levels)
    if eps is None or not self.latent_dim:
      return estimate
    away = self._detail(scales, None, eps)[1] - self._detail(scales, None, None)[1]
    return estimate + jnp.exp(self._log_spread(scales, levels)) * away

  def deviation(self, degraded: ArrayLike, sigma: ArrayLike | None = None) -> Array:
    """Standard deviation of p(x | y) about the estimate, float32 [b, factor * h, factor * w, c] in units of [0, 1]:
    that of the Laplace density whose scale is the spread."""
    h, w = degraded.shape[1:3]
    degraded = jnp.asarray(degraded)
    padded = self._padded(degraded)
    levels = self._levels(degraded, sigma)
    log_spread = self._log_spread(self.encode_degraded(padded, levels)[0], levels)
    return math.sqrt(2) * jnp.exp(log_spread)[:, : self.factor * h, : self.factor * w]

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
    image, degraded, samples = jnp.asarray(batch["image"]), seen(batch), mode.samples
    h, w = image.shape[1:3]
    padded = self._padded(degraded)
    levels, noise = self._told(batch, padded, keys, mode)
    scales, estimate = self.encode_degraded(padded, levels)
    n, restored = image.shape[0], estimate[:, :h, :w]
    point = self._point_distortion(restored, image, levels)
    if not self.latent_dim:
      return Output(
        terms={"distortion": point, "rate": jnp.zeros(n, jnp.float32), **noise},
        reconstruction=self._mean(restored),
        log_weight=jnp.broadcast_to(-point, (samples, n)),
        latents={"mean": jnp.zeros((n, 0), jnp.float32)},  # 0 of 0 units are active
      )
    # What the latents learn from, and do not change.
    scales, estimate = jax.lax.stop_gradient((scales, estimate))
    missing = [(0, n * self.factor - m) for n, m in zip(padded.shape[1:3], (h, w), strict=True)]
    clean = jnp.pad(image, ((0, 0), *missing, (0, 0)), mode="symmetric") if any(map(max, missing)) else image
    log_spread = self._log_spread(scales, levels)
    deviation = (clean - estimate) * jnp.exp(-log_spread)
    # The spread is the scale of a Laplace density around the estimate. The bound has no say in it: it would widen the
    # spread until noise explains all and latents nothing.
    spread_distortion = (jnp.abs(deviation) + log_spread)[:, :h, :w].sum(axis=(1, 2, 3))
    log_spread, deviation = jax.lax.stop_gradient((log_spread, deviation))
    deviation_seen = deviation.astype(self.dtype)

    def each(x: Array) -> Array:  # [b, ...] -> [samples * b, ...]
      return jnp.tile(x, (samples, *(1,) * (x.ndim - 1)))

    eps = self._posterior_noise(keys, scales, samples)
    blocks = pixel_unshuffle(deviation_seen, self.factor * self.unshuffle)
    targets = [each(x) for x in self.target_encoder(blocks)]
    _, usual = self._detail(scales, None, None)
    layers, detail = self._detail([each(x) for x in scales], targets, eps)
    away = (detail - each(usual))[:, :h, :w]
    away = away.reshape(samples, n, *away.shape[1:])
    # p(x | y, z) by the change of variables x -> deviation, whose density the likelihood gives.
    distortion = -self.likelihood.log_prob(away, deviation[:, :h, :w] + 0.5, self.log_scale)
    distortion = distortion + log_spread[None, :, :h, :w].sum(axis=(2, 3, 4))

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
      terms={
        "distortion": distortion.mean(axis=0),
        "rate": rates.sum(axis=-1),
        "restoration": point,
        **noise,
      },
      reconstruction=self._mean(restored),
      rates=rates,
      kl_units=kl_units,
      log_weight=jnp.stack(log_ratios).sum(axis=0).reshape(samples, n) - distortion,
      latents={"mean": shift.reshape(samples, n, -1).mean(axis=0)},
    )

  def _posterior_noise(self, keys: Key, scales: list[Array], samples: int) -> Eps:
    """Standard normal noise float32 [samples * b, h', w', latent_dim] for each scale; keys: [b]."""

    def draws(key: Key) -> Eps:
      return tuple(
        jax.random.normal(jax.random.fold_in(key, i), (samples, *x.shape[1:3], self.latent_dim), jnp.float32)
        for i, x in enumerate(scales)
      )

    return jax.tree.map(lambda e: e.swapaxes(0, 1).reshape(-1, *e.shape[2:]), jax.vmap(draws)(keys))

  def _told(
    self, batch: Batch, padded: Array, keys: Key, mode: Mode
  ) -> tuple[Array | None, dict[str, Array]]:
    """What the network is told of the noise (`_levels`), and the term that trains the estimator."""
    if self.noise_mode == "none":
      return None, {}
    image, degraded = jnp.asarray(batch["image"]), seen(batch)
    difference = self._padded(degraded) - self._padded(image)
    estimates = self.estimator(jax.lax.stop_gradient(padded))
    if self.noise_mode == "local":
      term = surprise(estimates, to_level(local_sigma(difference, self.stride)))
      return self._levels(degraded), {"noise": term}
    true = jnp.sqrt(jnp.square(difference).mean(axis=(1, 2, 3)))
    true = jnp.asarray(batch["sigma"]) if "sigma" in batch else true
    term = surprise_of_pooled(estimates, to_level(true))
    levels = pooled(jax.lax.stop_gradient(estimates))
    if mode.training:  # told by a person, or estimated
      draw = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, TOLD), 0.75))(keys)
      levels = jnp.where(draw, to_level(true), levels)
    levels = jnp.broadcast_to(levels[:, None, None, None], (*padded.shape[:3], 1))
    return levels, {"noise": term}

  def _point_distortion(self, restored: Array, image: Array, levels: Array | None) -> Array:
    """-log p(clean | y, the prior's mean), nats [b]. Where the network is told of noise, the scale follows it."""
    likelihood = self.point_likelihood if self.latent_dim else self.likelihood
    log_scale = self.point_log_scale if self.latent_dim else self.log_scale
    if levels is None:
      return self._distortion(likelihood, restored, image, log_scale)
    log_unit = SCALE_EXPONENT * levels[:, : image.shape[1], : image.shape[2]]
    deviation = (image - restored) * jnp.exp(-log_unit)
    density = likelihood.log_prob(jnp.zeros_like(deviation), deviation + 0.5, log_scale)
    return image.shape[-1] * log_unit.sum(axis=(1, 2, 3)) - density


TOLD = 99  # folded into the example's key: whether it is told, or estimated

KEYS: Keys = {
  "model.latent_dim": ConfigKey(16, "latents at each position of each scale; 0: none", between(0, WIDEST)),
  "model.channels": ConfigKey((32, 64), "widths at 1, 1/2, 1/4, ... of the resolution it works at", WIDTHS),
  "model.blocks": ConfigKey(1, "residual blocks at each scale", between(0, 256)),
  "model.unshuffle": ConfigKey(1, "works at 1/this of the degraded image's resolution", counted(16)),
  "model.noise": ConfigKey(
    "none",
    "what the network is told of the noise, estimated or given; uniform: one sigma a picture, local: a map of it",
    one_of(*MODES),
  ),
  "model.head_channels": ConfigKey(
    0, "channels at full resolution before the last convolution; 0: none", between(0, WIDEST)
  ),
  **REMAT_KEYS,
  **ACTIVATION_KEYS,
  **LIKELIHOOD_KEYS,
  "objective.restoration": ConfigKey(
    1.0, "weight of the distortion at the prior's mean (Sohn et al. 2015)", MIN_0
  ),
  "objective.noise": ConfigKey(1.0, "weight of the term that trains the estimate of the noise", MIN_0),
}
FAMILY = RestorationVAE


def faults(config: ConfigDict) -> Iterator[str]:
  """What the family refuses in a config whose values hold one by one."""
  yield from likelihoods.faults(config)
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
  factor = enlargement(spec)
  if model.noise != "none" and factor > 1:
    raise UserError(
      f"model.noise={model.noise} is for images that keep their size, and these become {factor} times as large; "
      "set model.noise=none"
    )
  return RestorationVAE(
    channels=tuple(model.channels),
    blocks=model.blocks,
    latent_channels=tuple(max(c // 3, 8) for c in model.channels),
    latent_dim=model.latent_dim,
    factor=factor,
    unshuffle=model.unshuffle,
    noise_mode=model.noise,
    head_channels=model.head_channels,
    likelihood=likelihoods.make_likelihood(model.likelihood, shape[-1], model.sigma),
    point_likelihood=likelihoods.make_likelihood(model.likelihood, shape[-1]),
    image_channels=shape[-1],
    activation=model.activation,
    remat=model.remat,
    **dtypes,
  )
