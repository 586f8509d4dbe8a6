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

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from vae_jax import distributions as dist
from vae_jax.data.degrade import bicubic_up
from vae_jax.models.blocks import ACTIVATIONS, convolution, maybe_remat, pixel_shuffle, pixel_unshuffle
from vae_jax.types import Array, Key, VAEOutput

Eps = tuple[Array, ...]


class Convolutions(nn.Module):
  """What the parts below share: widths and types, and a convolution, 3x3 unless told."""

  channels: tuple[int, ...]
  blocks: int
  activation: str = "relu"
  remat: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def conv(
    self, x: Array, features: int, name: str, zero: bool = False, size: int = 3, stride: int = 1
  ) -> Array:
    """A "SAME" convolution of size x size pixels; `zero`: its kernel starts at zero."""
    init = nn.initializers.zeros_init() if zero else nn.initializers.he_normal()
    kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    window, strides = (size, size), (stride, stride)
    general = convolution()
    return nn.Conv(
      features, window, strides, kernel_init=init, name=name, conv_general_dilated=general, **kinds
    )(x)

  def mix(self, x: Array, features: int, name: str, zero: bool = False) -> Array:
    """A convolution of one pixel, as a matrix product: three times as fast on CPUs."""
    init = nn.initializers.zeros_init() if zero else nn.initializers.he_normal()
    kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    return nn.Dense(features, kernel_init=init, name=name, **kinds)(x)

  def residual(self, x: Array, name: str) -> Array:
    """x + conv(act(conv(x))), the residual block of EDSR (Lim et al. 2017)."""

    def add(self: Convolutions, x: Array) -> Array:
      act, features = ACTIVATIONS[self.activation], x.shape[-1]
      return x + self.conv(act(self.conv(x, features, f"{name}_a")), features, f"{name}_b", zero=True)

    return maybe_remat(add, self.remat)(self, x)

  def down(self, x: Array, features: int, name: str) -> Array:
    """Half the height and width."""
    return self.mix(pixel_unshuffle(x, 2), features, name)

  def up(self, x: Array, features: int, name: str) -> Array:
    """Twice the height and width."""
    return pixel_shuffle(self.conv(x, 4 * features, name), 2)


class Trunk(Convolutions):
  """Features of the degraded image at every scale, coarse to fine: a U-Net with residual blocks both ways."""

  @nn.compact
  def __call__(self, x: Array) -> list[Array]:
    x = self.conv(x, self.channels[0], "stem")
    skips = []
    for level, features in enumerate(self.channels):
      x = self.down(x, features, f"down{level}") if level else x
      for i in range(self.blocks):
        x = self.residual(x, f"down{level}_block{i}")
      skips.append(x)
    scales = [x]
    for level in range(len(self.channels) - 2, -1, -1):
      x = self.up(x, self.channels[level], f"up{level}") + skips[level]
      for i in range(self.blocks):
        x = self.residual(x, f"up{level}_block{i}")
      scales.append(x)
    return scales


class TargetEncoder(Convolutions):
  """Features of the clean image at every scale, coarse to fine: what the posterior sees beside the degraded image."""

  @nn.compact
  def __call__(self, x: Array) -> list[Array]:
    act = ACTIVATIONS[self.activation]
    scales = []
    for level, features in enumerate(self.channels):
      x = self.down(act(x), features, f"down{level}") if level else self.conv(x, features, "stem")
      x = self.conv(act(x), features, f"conv{level}")
      scales.append(x)
    return scales[::-1]


class Layer(NamedTuple):
  """One layer of latents: prior, posterior (the prior where the clean image is unknown), the draw; [b, h, w, d]."""

  prior: dist.Gaussian
  posterior: dist.Gaussian
  z: Array


class Ladder(Convolutions):
  """The latents: `latent_dim` channels at each scale, coarse to fine.

  __call__(scales, targets, eps): features of the trunk; those of the clean image, or None for draws from the prior;
  standard normal noise a scale, or None for the means. Returns the layers and the features to make pixels from.
  """

  latent_dim: int = 8

  @nn.compact
  def __call__(
    self, scales: list[Array], targets: list[Array] | None, eps: Eps | None
  ) -> tuple[list[Layer], Array]:
    act = ACTIVATIONS[self.activation]
    x: Array | None = None
    layers = []
    for i, scale in enumerate(scales):
      level = len(scales) - 1 - i
      features = self.channels[level]
      seen = self.mix(act(scale), features, f"seen{level}")
      x = seen if x is None else self.up(act(x), features, f"up{level}") + seen
      prior = _gaussian(self.mix(act(x), 2 * self.latent_dim, f"prior{level}", zero=True))
      posterior = prior
      if targets is not None:
        both = act(jnp.concatenate([x, targets[i]], axis=-1))
        shift = _gaussian(self.conv(both, 2 * self.latent_dim, f"posterior{level}"))
        posterior = dist.Gaussian(prior.mean + shift.mean, dist.bound_logvar(prior.logvar + shift.logvar))
      z = posterior.mean if eps is None else dist.sample(posterior, eps[i])
      layers.append(Layer(prior, posterior, z))
      x = self.residual(x + self.mix(z.astype(self.dtype), features, f"z{level}"), f"block{level}")
    assert x is not None
    return layers, act(x)


def _centre(x: Array) -> Array:
  """[b, h, w, d] -> [b, d], of the middle position."""
  return x[:, x.shape[1] // 2, x.shape[2] // 2]


def _gaussian(x: Array) -> dist.Gaussian:
  mean, raw = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return dist.Gaussian(mean, dist.bound_logvar(raw))


class Restorer(nn.Module):
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

  unconditional = False  # it needs a degraded image

  def _scale(self, name: str, wanted: bool) -> Array:
    """A likelihood's scale: it starts near the error of an untrained network, some grey levels of 255."""
    return self.param(name, nn.initializers.constant(-4.0), (), jnp.float32) if wanted else jnp.float32(0)

  @property
  def multiple(self) -> int:
    """Height and width of a degraded image are padded, by mirroring, to a multiple of this."""
    raise NotImplementedError

  def _image(self, padded: Array, eps: Eps | None) -> Array:
    """The restoration of a padded degraded image, not bounded."""
    raise NotImplementedError

  def _base(self, degraded: Array) -> Array:
    return bicubic_up(degraded, self.factor) if self.factor > 1 else degraded.astype(jnp.float32)

  def _padded(self, image: Array, multiple: int) -> Array:
    pads = [-n % multiple for n in image.shape[1:3]]
    return (
      jnp.pad(image, ((0, 0), (0, pads[0]), (0, pads[1]), (0, 0)), mode="symmetric") if any(pads) else image
    )

  def _mean(self, image: Array) -> Array:
    return self.likelihood.mean(image - 0.5, self.log_scale)

  def _distortion(self, likelihood: dist.Likelihood, image: Array, clean: Array, log_scale: Array) -> Array:
    return -likelihood.log_prob(image - 0.5, clean, log_scale)

  def restore(self, degraded: Array, eps: Eps | None = None) -> Array:
    """The restoration of [b, h, w, c]: float32 [b, factor * h, factor * w, c] in [0, 1].

    eps: None for the prior's means, the point estimate; else standard normal noise as from `noise`, for a draw of z
    from the prior: one of the images that the degraded one may have been.
    """
    h, w = degraded.shape[1:3]
    image = self._image(self._padded(degraded, self.multiple), eps)
    return self._mean(image[:, : self.factor * h, : self.factor * w])

  def __call__(self, image: Array, keys: Key, degraded: Array | None = None, samples: int = 1) -> VAEOutput:
    """Scores clean images [b, h, w, c] by the restoration of degraded ones: no latents, so all samples are alike."""
    batch, h, w = image.shape[:3]
    restored = self._image(self._padded(image if degraded is None else degraded, self.multiple), None)
    restored = restored[:, :h, :w]
    distortion = jnp.broadcast_to(
      self._distortion(self.likelihood, restored, image, self.log_scale), (samples, batch)
    )
    nothing = jnp.zeros((batch, 1), jnp.float32)
    return VAEOutput(distortion, nothing, -distortion, nothing, nothing, self._mean(restored))


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

  def setup(self):
    kinds = {"activation": self.activation, "dtype": self.dtype, "param_dtype": self.param_dtype}
    self.trunk = Trunk(self.channels, self.blocks, remat=self.remat, **kinds)
    self.head = self._to_pixels()
    if self.latent_dim:
      self.target_encoder = TargetEncoder(self.latent_channels, 1, **kinds)
      self.ladder = Ladder(self.latent_channels, 1, latent_dim=self.latent_dim, **kinds)
      self.latent_head = self._to_pixels(use_bias=False)  # a difference of two of its images has none
      self.spread_head = self._to_pixels()
    self.log_scale = self._scale("log_scale", self.likelihood.has_scale)
    self.point_log_scale = self._scale("point_log_scale", self.latent_dim > 0)

  def _to_pixels(self, use_bias: bool = True) -> nn.Conv:
    # Starts at zero: the first restoration is the base, bicubic interpolation or the degraded image itself.
    features = self.image_channels * (self.factor * self.unshuffle) ** 2
    init = nn.initializers.zeros_init()
    kinds = {"dtype": jnp.float32, "param_dtype": self.param_dtype}
    return nn.Conv(
      features, (3, 3), use_bias=use_bias, kernel_init=init, conv_general_dilated=convolution(), **kinds
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

  def _look(self, degraded: Array) -> tuple[list[Array], Array]:
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
    scales, estimate = self._look(padded)
    if eps is None or not self.latent_dim:
      return estimate
    away = self._detail(scales, None, eps)[1] - self._detail(scales, None, None)[1]
    return estimate + jnp.exp(self._log_spread(scales)) * away

  def pixel_noise(self, degraded: Array) -> Array:
    """Standard deviation of p(x | y, z), float32 [b, factor * h, factor * w, c] in units of [0, 1]: how far pixels
    are from a draw, which `restore` leaves out."""
    h, w = degraded.shape[1:3]
    scales, _ = self._look(self._padded(degraded, self.multiple))
    spread = jnp.exp(self._log_spread(scales))[:, : self.factor * h, : self.factor * w]
    assert self.likelihood.deviation is not None  # gaussian or laplace, see `build`
    return spread * self.likelihood.deviation(self.log_scale)

  def noise(self, key: Key, size: tuple[int, int], origin: tuple[int, int] | Array = (0, 0)) -> Eps:
    """Standard normal noise for a degraded image of `size` (h, w): float32 [h', w', latent_dim] a scale, coarse first.

    What a position gets depends on the key and on where it lies in the whole image, of which this one begins at
    `origin` (a multiple of `multiple`); so tiles fit together.
    """
    coarse_to_fine = range(len(self.channels) - 1, -1, -1)

    def at(level: int) -> Array:
      stride = self.unshuffle * 2**level
      rows, columns = (
        origin[i] // stride + jnp.arange(-(-size[i] // self.multiple) * self.multiple // stride)
        for i in (0, 1)
      )

      def draw(row: Array, column: Array) -> Array:
        place = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, level), row), column)
        return jax.random.normal(place, (self.latent_dim,))

      return jax.vmap(lambda row: jax.vmap(lambda column: draw(row, column))(columns))(rows)

    return tuple(at(level) for level in coarse_to_fine)

  def __call__(self, image: Array, keys: Key, degraded: Array | None = None, samples: int = 1) -> VAEOutput:
    """Scores clean images [b, h, w, c] given degraded ones, with `samples` posterior draws; `keys`: one an example."""
    if not self.latent_dim:
      return super().__call__(image, keys, degraded, samples)
    degraded = image if degraded is None else degraded
    h, w = image.shape[1:3]
    padded = self._padded(degraded, self.multiple)
    scales, estimate = self._look(padded)
    batch, restored = image.shape[0], estimate[:, :h, :w]
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
    seen = deviation.astype(self.dtype)

    def each(x: Array) -> Array:  # [b, ...] -> [samples * b, ...]
      return jnp.tile(x, (samples, *(1,) * (x.ndim - 1)))

    def draws(key: Key) -> Eps:
      return tuple(
        jax.random.normal(jax.random.fold_in(key, i), (samples, *x.shape[1:3], self.latent_dim))
        for i, x in enumerate(scales)
      )

    eps = jax.tree.map(lambda e: e.swapaxes(0, 1).reshape(-1, *e.shape[2:]), jax.vmap(draws)(keys))
    targets = [each(x) for x in self.target_encoder(pixel_unshuffle(seen, self.factor * self.unshuffle))]
    _, usual = self._detail(scales, None, None)
    layers, detail = self._detail([each(x) for x in scales], targets, eps)
    away = (detail - each(usual))[:, :h, :w]
    away = away.reshape(samples, batch, *away.shape[1:])
    # p(x | y, z) by the change of variables x -> deviation, whose density the likelihood gives.
    distortion = -self.likelihood.log_prob(away, deviation[:, :h, :w] + 0.5, self.log_scale)
    distortion = distortion + log_spread[None, :, :h, :w].sum(axis=(2, 3, 4))

    point = self._distortion(self.point_likelihood, restored, image, self.point_log_scale)
    # Adds the gradient that trains the spread, and nothing to the value.
    point = point + (spread_distortion - jax.lax.stop_gradient(spread_distortion))

    # [s, b, units]: sums over positions. A layer's KL depends on the draws above it.
    kl_units = jnp.concatenate([dist.kl(q, p).sum(axis=(1, 2)) for p, q, _ in layers], axis=-1)
    log_ratios = [(dist.log_prob(p, z) - dist.log_prob(q, z)).sum(axis=(1, 2)) for p, q, z in layers]
    kl_units = kl_units.reshape(samples, batch, -1).mean(axis=0)
    # A latent of the image's centre stands for those of all positions: their mean would vary with none of them.
    shift = jnp.concatenate([_centre(q.mean - p.mean) for p, q, _ in layers], axis=-1)
    return VAEOutput(
      distortion=distortion,
      rate=kl_units.reshape(batch, len(layers), -1).sum(axis=-1),
      log_weight=jnp.stack(log_ratios).sum(axis=0).reshape(samples, batch) - distortion,
      kl_units=kl_units,
      posterior_mean=shift.reshape(samples, batch, -1).mean(axis=0),
      reconstruction=self._mean(restored),
      restoration_distortion=point,
    )
