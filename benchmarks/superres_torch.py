"""The super-resolution network of the benchmarks in PyTorch, with its VGG features: see `networks_torch`."""

from __future__ import annotations

import math

import torch
from networks_torch import Residual, bound_logvar, conv, draw, from_unshuffled, log_scale_bounded, to_shuffle
from torch import Tensor, nn
from torch.nn import functional as F


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
