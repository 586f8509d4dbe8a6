"""The networks and training losses of the benchmarks in PyTorch, written as PyTorch users write them.

Layers are NCHW and have the names of their parameters in the Flax tree, so `from_flax` can copy them and
`throughput.py --check` can compare loss and gradients. Calling a network returns the mean training loss of images in
[0, 1]. `eps` fixes the noise; None draws it.
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
  def __init__(
    self,
    channels: tuple[int, ...],
    blocks: int,
    dense: int,
    latent: int,
    size: int,
    inputs: int,
    moments: int = 2,
  ):
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
    self.posterior = nn.Linear(dense, moments * latent)

  def forward(self, x: Tensor) -> Tensor:
    for name in self.path:
      x = getattr(self, name)(x)
    return self.posterior(F.relu(self.Dense_0(F.relu(self.Norm_0(x)).flatten(1))))


class ConvDecoder(nn.Module):
  """dense=0: the latents are a map of the lowest size."""

  def __init__(
    self, channels: tuple[int, ...], blocks: int, dense: int, latent: int, size: int, outputs: int
  ):
    super().__init__()
    self.side, self.levels, self.blocks = size >> len(channels), len(channels), blocks
    if dense:
      self.Dense_0, self.Dense_1 = nn.Linear(latent, dense), nn.Linear(dense, self.side**2 * channels[-1])
      self.Dense_1.out_order = _order(self.side, self.side, channels[-1])
    else:
      self.Conv_0 = conv(latent, channels[-1])
    widths = [max(channels[0] // 2, 8), *channels]
    for i, level in enumerate(range(self.levels, 0, -1)):
      for j in range(blocks):
        self.add_module(f"ResidualBlock_{i * blocks + j}", NormResidual(widths[level]))
      self.add_module(f"Norm_{i}", norm(widths[level]))
      self.add_module(f"Upsample_{i}", Upsample(widths[level], widths[level - 1]))
    self.head = conv(widths[0], outputs)

  def forward(self, z: Tensor) -> Tensor:
    if hasattr(self, "Conv_0"):
      x = self.Conv_0(z)
    else:
      x = self.Dense_1(F.relu(self.Dense_0(z))).unflatten(1, (-1, self.side, self.side))
    for i in range(self.levels):
      for j in range(self.blocks):
        x = getattr(self, f"ResidualBlock_{i * self.blocks + j}")(x)
      x = getattr(self, f"Upsample_{i}")(F.relu(getattr(self, f"Norm_{i}")(x)))
    return self.head(F.relu(x))


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
