"""The networks and training losses of the benchmarks in PyTorch: what `vae_jax` computes, written as one would there.

Layers are NCHW and bear the names of their parameters in the Flax tree, so that `from_flax` can copy them, and
`throughput.py --check` can show that both sides compute the same loss and gradients. Each network's call gives the mean
training loss of images in [0, 1]; `eps` fixes the noise, which is drawn where it is None.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOG_2PI = math.log(2 * math.pi)


# --- layers ---


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, bias: bool = True) -> nn.Conv2d:
  """A convolution that keeps the size, or halves it (4 x 4 windows, stride 2)."""
  return nn.Conv2d(inputs, outputs, size, stride, padding=(size - stride + 1) // 2, bias=bias)


def _order(*shape: int) -> np.ndarray:
  """Where the channels-last layout keeps each element of a channels-first one: (..., c) flat -> (c, ...) flat."""
  return np.moveaxis(np.arange(math.prod(shape)).reshape(shape), -1, 0).ravel()


def to_shuffle(layer: nn.Conv2d, factor: int = 2) -> nn.Conv2d:
  """Marks a layer whose output is shuffled: vae_jax has the channels of a pixel last, PyTorch the pixels."""
  layer.out_order = _order(factor, factor, layer.out_channels // factor**2)
  return layer


def from_unshuffled(layer: nn.Conv2d, factor: int = 2) -> nn.Conv2d:
  layer.in_order = _order(factor, factor, layer.in_channels // factor**2)
  return layer


class Upsample(nn.Module):
  def __init__(self, inputs: int, outputs: int):
    super().__init__()
    self.Conv_0 = to_shuffle(conv(inputs, 4 * outputs))

  def forward(self, x: Tensor) -> Tensor:
    return F.pixel_shuffle(self.Conv_0(x), 2)


def norm(channels: int) -> nn.GroupNorm:
  return nn.GroupNorm(math.gcd(channels, 8), channels, eps=1e-6)


class NormResidual(nn.Module):
  def __init__(self, channels: int):
    super().__init__()
    self.Norm_0, self.Conv_0 = norm(channels), conv(channels, channels)
    self.Norm_1, self.Conv_1 = norm(channels), conv(channels, channels)

  def forward(self, x: Tensor) -> Tensor:
    return x + self.Conv_1(F.relu(self.Norm_1(self.Conv_0(F.relu(self.Norm_0(x))))))


class Residual(nn.Module):
  def __init__(self, channels: int):
    super().__init__()
    self.a, self.b = conv(channels, channels), conv(channels, channels)

  def forward(self, x: Tensor) -> Tensor:
    return x + self.b(F.relu(self.a(x)))


# --- distributions ---


def bound_logvar(raw: Tensor) -> Tensor:
  scale = torch.where(raw < 0, 12.0, 8.0)
  return scale * torch.tanh(raw / scale)


def draw(mean: Tensor, logvar: Tensor, eps: Tensor | None) -> Tensor:
  return mean + torch.exp(0.5 * logvar) * (torch.randn_like(mean) if eps is None else eps)


def kl_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
  return 0.5 * (mean.square() + torch.expm1(logvar) - logvar).flatten(1).sum(1)


def log_scale_bounded(log_scale: Tensor) -> Tensor:
  low = math.log(1e-3)
  return low + F.softplus(log_scale - low)


# --- the VAEs of a latent vector ---


class VAE(nn.Module):
  """A subclass has encoder, decoder, and of what is decoded the mean `pixels` and the `distortion`, one an image."""

  def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
    mean, raw = self.encoder(image).float().chunk(2, dim=1)
    return mean, bound_logvar(raw)

  def forward(self, image: Tensor, eps: Tensor | None = None) -> Tensor:
    mean, logvar = self.posterior(image)
    params = self.decoder(draw(mean, logvar, eps)).float()
    return (self.distortion(params, image) + kl_standard_normal(mean, logvar)).mean()

  def restore(self, image: Tensor) -> Tensor:
    return self.pixels(self.decoder(self.posterior(image)[0]).float())


class MLPVAE(VAE):
  """Bernoulli pixels; 784 - hidden - latent and back."""

  def __init__(self, hidden: int, latent: int, pixels: int = 784):
    super().__init__()
    self.encoder, self.decoder = nn.Sequential(), nn.Sequential()
    self.encoder.add_module("flat", nn.Flatten())
    self.encoder.add_module("Dense_0", nn.Linear(pixels, hidden))
    self.encoder.add_module("relu", nn.ReLU())
    self.encoder.add_module("posterior", nn.Linear(hidden, 2 * latent))
    self.decoder.add_module("Dense_0", nn.Linear(latent, hidden))
    self.decoder.add_module("relu", nn.ReLU())
    self.decoder.add_module("Dense_1", nn.Linear(hidden, pixels))

  def pixels(self, logits: Tensor) -> Tensor:
    return logits.sigmoid()

  def distortion(self, logits: Tensor, image: Tensor) -> Tensor:
    x = image.flatten(1)
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)

  def log_mean_weight(self, x: Tensor, mean: Tensor, logvar: Tensor, samples: int) -> Tensor:
    """log (1/K) sum_k w_k of each image [b, pixels], for K draws of its posterior."""
    eps = torch.randn(samples, *mean.shape, device=x.device)
    z = mean + torch.exp(0.5 * logvar) * eps
    logits = self.decoder(z.flatten(0, 1)).float().unflatten(0, (samples, len(x)))
    likelihood = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
    ratio = 0.5 * (eps.square() + logvar - z.square()).sum(-1)  # log p(z) - log q(z | x)
    return torch.logsumexp(likelihood + ratio, 0) - math.log(samples)


class ConvEncoder(nn.Module):
  def __init__(self, channels: tuple[int, ...], blocks: int, dense: int, latent: int, size: int, inputs: int):
    super().__init__()
    self.path, before = [], inputs
    for level, width in enumerate(channels):
      steps = [(f"Conv_{level}", conv(before, width, 4, 2))]
      steps += [(f"ResidualBlock_{level * blocks + i}", NormResidual(width)) for i in range(blocks)]
      for name, layer in steps:
        self.add_module(name, layer)
        self.path.append(name)
      before = width
    side = size >> len(channels)
    self.Norm_0 = norm(before)
    self.Dense_0 = nn.Linear(side * side * before, dense)
    self.Dense_0.in_order = _order(side, side, before)
    self.posterior = nn.Linear(dense, 2 * latent)

  def forward(self, x: Tensor) -> Tensor:
    for name in self.path:
      x = getattr(self, name)(x)
    return self.posterior(F.relu(self.Dense_0(F.relu(self.Norm_0(x)).flatten(1))))


class ConvDecoder(nn.Module):
  def __init__(
    self, channels: tuple[int, ...], blocks: int, dense: int, latent: int, size: int, outputs: int
  ):
    super().__init__()
    self.side, self.levels, self.blocks = size >> len(channels), len(channels), blocks
    self.Dense_0, self.Dense_1 = nn.Linear(latent, dense), nn.Linear(dense, self.side**2 * channels[-1])
    self.Dense_1.out_order = _order(self.side, self.side, channels[-1])
    widths = [max(channels[0] // 2, 8), *channels]
    for i, level in enumerate(range(self.levels, 0, -1)):
      for j in range(blocks):
        self.add_module(f"ResidualBlock_{i * blocks + j}", NormResidual(widths[level]))
      self.add_module(f"Norm_{i}", norm(widths[level]))
      self.add_module(f"Upsample_{i}", Upsample(widths[level], widths[level - 1]))
    self.Dense_2 = conv(widths[0], outputs, 1)

  def forward(self, z: Tensor) -> Tensor:
    x = self.Dense_1(F.relu(self.Dense_0(z))).unflatten(1, (-1, self.side, self.side))
    for i in range(self.levels):
      for j in range(self.blocks):
        x = getattr(self, f"ResidualBlock_{i * self.blocks + j}")(x)
      x = getattr(self, f"Upsample_{i}")(F.relu(getattr(self, f"Norm_{i}")(x)))
    return self.Dense_2(F.relu(x))


class ConvVAE(VAE):
  """Gaussian pixels of one learned scale."""

  def __init__(
    self, channels: tuple[int, ...], blocks: int, dense: int, latent: int, size: int, colours: int = 3
  ):
    super().__init__()
    self.encoder = ConvEncoder(channels, blocks, dense, latent, size, colours)
    self.decoder = ConvDecoder(channels, blocks, dense, latent, size, colours)
    self.log_scale = nn.Parameter(torch.tensor(-2.0))

  def pixels(self, params: Tensor) -> Tensor:
    return (0.5 + params).clamp(0, 1)

  def distortion(self, params: Tensor, image: Tensor) -> Tensor:
    error = (image - 0.5 - params).square().flatten(1).sum(1)
    scale = log_scale_bounded(self.log_scale)
    return 0.5 * error * torch.exp(-2 * scale) + image[0].numel() * (scale + 0.5 * LOG_2PI)


# --- super-resolution ---


def bicubic(image: Tensor, scale: float) -> Tensor:
  """MATLAB's imresize by 2 or 1/2: PyTorch's antialiased filter on a mirrored border, which is then cut off."""
  pad = 2 if scale > 1 else 4
  for dim in (2, 3):
    n = image.shape[dim]
    first, last = image.narrow(dim, 0, pad).flip(dim), image.narrow(dim, n - pad, pad).flip(dim)
    image = torch.cat((first, image, last), dim)
  image = F.interpolate(image, scale_factor=scale, mode="bicubic", antialias=True)
  cut = int(pad * scale)
  return image[:, :, cut:-cut, cut:-cut]


class Trunk(nn.Module):
  def __init__(self, channels: tuple[int, ...], blocks: int, inputs: int = 3):
    super().__init__()
    self.levels, self.blocks = len(channels), blocks
    self.stem = conv(inputs, channels[0])
    for level, width in enumerate(channels):
      if level:
        self.add_module(f"down{level}", from_unshuffled(conv(4 * channels[level - 1], width, 1)))
      for i in range(blocks):
        self.add_module(f"down{level}_block{i}", Residual(width))
    for level in range(len(channels) - 2, -1, -1):
      self.add_module(f"up{level}", to_shuffle(conv(channels[level + 1], 4 * channels[level])))
      for i in range(blocks):
        self.add_module(f"up{level}_block{i}", Residual(channels[level]))

  def forward(self, x: Tensor) -> list[Tensor]:
    x, skips = self.stem(x), []
    for level in range(self.levels):
      if level:
        x = getattr(self, f"down{level}")(F.pixel_unshuffle(x, 2))
      for i in range(self.blocks):
        x = getattr(self, f"down{level}_block{i}")(x)
      skips.append(x)
    scales = [x]
    for level in range(self.levels - 2, -1, -1):
      x = F.pixel_shuffle(getattr(self, f"up{level}")(x), 2) + skips[level]
      for i in range(self.blocks):
        x = getattr(self, f"up{level}_block{i}")(x)
      scales.append(x)
    return scales


class TargetEncoder(nn.Module):
  def __init__(self, channels: tuple[int, ...], factor: int, inputs: int = 3):
    super().__init__()
    self.levels = len(channels)
    self.stem = from_unshuffled(conv(factor**2 * inputs, channels[0]), factor)
    for level, width in enumerate(channels):
      if level:
        self.add_module(f"down{level}", from_unshuffled(conv(4 * channels[level - 1], width, 1)))
      self.add_module(f"conv{level}", conv(width, width))

  def forward(self, x: Tensor) -> list[Tensor]:
    scales = []
    for level in range(self.levels):
      x = getattr(self, f"down{level}")(F.pixel_unshuffle(F.relu(x), 2)) if level else self.stem(x)
      x = getattr(self, f"conv{level}")(F.relu(x))
      scales.append(x)
    return scales[::-1]


class Ladder(nn.Module):
  def __init__(self, channels: tuple[int, ...], trunk_channels: tuple[int, ...], latent: int):
    super().__init__()
    self.levels, self.latent = len(channels), latent
    for level, width in enumerate(channels):
      self.add_module(f"seen{level}", conv(trunk_channels[level], width, 1))
      if level + 1 < len(channels):
        self.add_module(f"up{level}", to_shuffle(conv(channels[level + 1], 4 * width)))
      self.add_module(f"prior{level}", conv(width, 2 * latent, 1))
      self.add_module(f"posterior{level}", conv(2 * width, 2 * latent))
      self.add_module(f"z{level}", conv(latent, width, 1))
      self.add_module(f"block{level}", Residual(width))

  def forward(
    self, scales: list[Tensor], targets: list[Tensor] | None, eps: list[Tensor] | None
  ) -> tuple[list[tuple[Tensor, ...]], Tensor]:
    """The layers' (mean, logvar) of prior and posterior, and features; at the priors' means without `targets`."""
    layers, x = [], None
    for i, scale in enumerate(scales):
      level = self.levels - 1 - i
      seen = getattr(self, f"seen{level}")(F.relu(scale))
      x = seen if x is None else F.pixel_shuffle(getattr(self, f"up{level}")(F.relu(x)), 2) + seen
      mean, raw = getattr(self, f"prior{level}")(F.relu(x)).float().chunk(2, dim=1)
      logvar, z = bound_logvar(raw), mean
      if targets is not None:
        both = F.relu(torch.cat((x, targets[i]), 1))
        shift, raw = getattr(self, f"posterior{level}")(both).float().chunk(2, dim=1)
        q_mean, q_logvar = mean + shift, bound_logvar(logvar + bound_logvar(raw))
        layers.append((mean, logvar, q_mean, q_logvar))
        z = draw(q_mean, q_logvar, None if eps is None else eps[i])
      x = getattr(self, f"block{level}")(x + getattr(self, f"z{level}")(z.to(x.dtype)))
    return layers, F.relu(x)


class VGGFeatures(nn.Module):
  """VGG-16 up to relu3_3, frozen."""

  def __init__(self):
    super().__init__()
    widths = [("1_1", 3, 64), ("1_2", 64, 64), ("2_1", 64, 128), ("2_2", 128, 128)]
    widths += [("3_1", 128, 256), ("3_2", 256, 256), ("3_3", 256, 256)]
    self.names = [name for name, _, _ in widths]
    for name, inputs, outputs in widths:
      self.add_module(f"conv{name}", conv(inputs, outputs))
    self.register_buffer("mean", torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1))
    self.register_buffer("std", torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1))
    self.requires_grad_(False)

  def forward(self, image: Tensor) -> Tensor:
    x = (image - self.mean) / self.std
    for name in self.names:
      if name in ("2_1", "3_1"):
        x = F.max_pool2d(x, 2)
      x = F.relu(getattr(self, f"conv{name}")(x))
    return x.float()


class SuperResolution(nn.Module):
  """`restoration_vae` for x2: the estimate, the ladder of latents, the bound, and a loss on VGG's features."""

  def __init__(self, channels: tuple[int, ...], blocks: int, latent: int, perceptual: float, sigma: float):
    super().__init__()
    self.perceptual, self.sigma = perceptual, sigma
    small = tuple(max(width // 3, 8) for width in channels)
    self.trunk = Trunk(channels, blocks)
    self.head, self.spread_head = (to_shuffle(conv(channels[0], 12)) for _ in range(2))
    self.target_encoder = TargetEncoder(small, 2)
    self.ladder = Ladder(small, channels, latent)
    self.latent_head = to_shuffle(conv(small[0], 12, bias=False))
    self.point_log_scale = nn.Parameter(torch.tensor(-4.0))
    self.vgg = VGGFeatures()

  def estimate(self, degraded: Tensor) -> tuple[list[Tensor], Tensor]:
    scales = self.trunk(degraded)
    return scales, bicubic(degraded, 2) + F.pixel_shuffle(self.head(scales[-1]), 2).float()

  def restore(self, degraded: Tensor) -> Tensor:
    return self.estimate(degraded)[1].clamp(0, 1)

  def forward(self, image: Tensor, eps: list[Tensor] | None = None) -> Tensor:
    scales, restored = self.estimate(bicubic(image, 0.5))
    scales, fixed = [x.detach() for x in scales], restored.detach()
    log_spread = 3.5 * torch.tanh(F.pixel_shuffle(self.spread_head(scales[-1]), 2).float()) - 3.5
    deviation = (image - fixed) * torch.exp(-log_spread)
    spread = (deviation.abs() + log_spread).flatten(1).sum(1)
    log_spread, deviation = log_spread.detach(), deviation.detach()

    targets = self.target_encoder(F.pixel_unshuffle(deviation, 2))
    usual = self.ladder(scales, None, None)[1]
    layers, features = self.ladder(scales, targets, eps)
    away = (self.latent_head(features).float() - self.latent_head(usual).float()).contiguous()
    away = F.pixel_shuffle(away, 2)
    pixels = image[0].numel()
    distortion = (deviation - away).abs().flatten(1).sum(1) / self.sigma
    distortion = distortion + pixels * math.log(2 * self.sigma) + log_spread.flatten(1).sum(1)
    rate = sum(
      0.5 * ((m - n).square() * torch.exp(-p) + torch.expm1(q - p) - (q - p)).flatten(1).sum(1)
      for n, p, m, q in layers
    )
    scale = log_scale_bounded(self.point_log_scale)
    point = (image - restored).abs().flatten(1).sum(1) * torch.exp(-scale)
    point = point + pixels * (scale + math.log(2)) + spread - spread.detach()
    with torch.no_grad():
      wanted = self.vgg(image)
    seen = (self.vgg(restored.clamp(0, 1)) - wanted).square().mean(dim=(1, 2, 3))
    return (distortion + rate + point + self.perceptual * seen).mean()


# --- from Flax, and training ---


def from_flax(network: nn.Module, params: Mapping[str, Any]) -> dict[str, Tensor]:
  """A Flax tree of parameters (or gradients) under the names and in the layout of `network`'s."""
  found = {}
  for path, value in _leaves(params):
    *modules, leaf = path
    if (
      len(modules) > 1
      and modules[-1] in ("Conv_0", "GroupNorm_0")
      and re.match(r"(Conv|Norm)_\d", modules[-2])
    ):
      modules.pop()  # the library's Conv and Norm are modules around Flax's
    place = re.sub(r"_([ab])$", r".\1", ".".join(modules))
    layer, value = network.get_submodule(place), np.asarray(value, np.float32)
    if leaf == "kernel" and hasattr(layer, "in_order"):
      value = value[..., layer.in_order, :]
    if leaf in ("kernel", "bias") and hasattr(layer, "out_order"):
      value = value[..., layer.out_order]
    if leaf == "kernel":
      value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
      value = value.reshape(layer.weight.shape)  # a matrix as a convolution of one pixel
    name = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
    found[f"{place}.{name}" if place else name] = torch.from_numpy(value.copy())
  return found


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from _leaves(value, (*path, name))
    else:
      yield (*path, name), value


class Trainer:
  """A plain training loop over uint8 images [n, h, w, c] that stay on the device: call it with a number of steps.

  mode: "eager", or a mode of torch.compile; the compiled runs use channels_last. The optimiser is the fused Adam.
  """

  def __init__(
    self,
    network: nn.Module,
    images: np.ndarray,
    batch: int,
    *,
    device: str,
    mode: str = "eager",
    bfloat16: bool = False,
    binarize: bool = False,
    threads: int | None = None,
  ):
    self.batch, self.device, self.threads, self.mode = batch, device, threads, mode
    layout = torch.contiguous_format if mode == "eager" else torch.channels_last
    network = network.to(device).to(memory_format=layout)
    data = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    self.data = data.to(device).contiguous(memory_format=layout)
    trained = [p for p in network.parameters() if p.requires_grad]
    self.optimizer = torch.optim.Adam(trained, lr=1e-3, fused=True)

    def loss(raw: Tensor) -> Tensor:
      image = raw.float() / 255
      image = torch.bernoulli(image) if binarize else image
      with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
        return network(image)

    self.loss = loss if mode == "eager" else torch.compile(loss, mode=mode, dynamic=False)

  def __call__(self, steps: int) -> None:
    if self.threads:
      torch.set_num_threads(self.threads)
    for _ in range(steps):
      if self.mode == "reduce-overhead":
        torch.compiler.cudagraph_mark_step_begin()
      index = torch.randint(len(self.data), (self.batch,), device=self.device)
      self.optimizer.zero_grad(set_to_none=True)
      self.loss(self.data[index]).backward()
      self.optimizer.step()
    synchronize(self.device)


def synchronize(device: str) -> None:
  if device == "cuda":
    torch.cuda.synchronize()
