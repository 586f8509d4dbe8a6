"""Feature networks as Linen modules: images -> named activations ("taps"), computed up to the deepest one asked for.

Definitions and sizes are those for which public ImageNet weights exist (torchvision's model zoo; Keras Applications
where noted), without classifier. Parameters are float32 under the names documented per class; BatchNorm always uses
its stored statistics. Nothing here holds weights: pass those of `vae_jax.perceptual.weights` to `apply`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vae_jax.errors import UserError, nearest
from vae_jax.models.blocks import convolution
from vae_jax.perceptual.preprocessing import preprocess
from vae_jax.types import Array, ArrayLike


class _TooSmall(Exception):
  """A window is larger than what it slides over."""


def check_layers(layers: Sequence[str], known: Sequence[str], network: str) -> None:
  """Raises UserError unless `layers` is a tuple or list of names, one or more, that are all `known` to the network."""
  if isinstance(layers, str) or not layers:
    raise UserError(f"layers = {layers!r} is not a tuple of names; give one, as in ({known[-1]!r},)")
  for layer in layers:
    if layer not in known:
      raise UserError(f"layer {layer!r} is unknown to {network}{nearest(layer, known, what='layers')}")


def _max_pool(x: Array, size: int, stride: int, padding: int = 0, ceil: bool = False) -> Array:
  """PyTorch's MaxPool2d: what lies beyond the border is -inf; `ceil` keeps a last, incomplete window."""
  spans = [n + 2 * padding for n in x.shape[1:3]]
  extra = [(size - n) % stride if ceil else 0 for n in spans]
  if any(n + e < size for n, e in zip(spans, extra, strict=True)):
    raise _TooSmall
  return nn.max_pool(x, (size, size), (stride, stride), [(padding, padding + e) for e in extra])


class FeatureNetwork(nn.Module):
  """What all networks share: preparation of the images, choice of the taps, convolution and normalisation.

  layers: the taps wanted, of `taps()`. Neither parameters nor computation beyond the deepest one exist.
  preprocessing: a way of `preprocessing.preprocess`, as the weights were trained. It is done in float32.
  dtype: compute type of everything after the preprocessing; parameters and statistics are float32. bfloat16 was
    within 2 % of the largest activation of a tap, with random weights.
  """

  layers: tuple[str, ...]
  preprocessing: str = "imagenet"
  dtype: Any = jnp.float32

  @nn.nowrap
  def taps(self) -> tuple[str, ...]:
    """The names of all taps, in order of depth."""
    raise NotImplementedError

  @nn.nowrap
  def walk(self, x: Array) -> Iterator[tuple[str, Array]]:
    """Yields (tap, activation) in order of depth; layers come into being as the walk reaches them."""
    raise NotImplementedError

  @nn.compact
  def __call__(self, images: ArrayLike, value_range: tuple[float, float] = (0.0, 1.0)) -> dict[str, Array]:
    """Images [b, h, w, 1 or 3], floating in `value_range` -> {tap: [b, h', w', c] of type `dtype`}, as in `layers`.

    The dict is in the order of `layers`; one that leaves `jax.jit` is sorted by name, so index it by name.
    Raises UserError for an unknown tap, for images too small for the deepest tap, and as `preprocess` does.
    """
    known = self.taps()
    check_layers(self.layers, known, type(self).__name__)
    deepest = max(self.layers, key=known.index)
    x = preprocess(images, value_range, self.preprocessing).astype(self.dtype)
    found: dict[str, Array] = {}
    try:
      for name, y in self.walk(x):
        found[name] = y
        if name == deepest:
          break
    except _TooSmall:
      height, width = jnp.shape(images)[1:3]
      remedy = f"a layer up to {list(found)[-1]!r}" if found else "another network"
      raise UserError(
        f"images of {height} x {width} are too small for layer {deepest!r}; give larger ones, or {remedy}"
      ) from None
    return {name: found[name] for name in self.layers}

  @nn.nowrap
  def conv(
    self,
    x: Array,
    name: str,
    features: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
  ) -> Array:
    """PyTorch's Conv2d: `padding` zeros on every side, whatever the stride."""
    if min(x.shape[1:3]) + 2 * padding < kernel:
      raise _TooSmall
    return nn.Conv(
      features,
      (kernel, kernel),
      strides=(stride, stride),
      padding=padding,
      use_bias=bias,
      kernel_init=nn.initializers.he_normal(),
      dtype=self.dtype,
      conv_general_dilated=convolution(),
      name=name,
    )(x)

  @nn.nowrap
  def norm(self, x: Array, name: str, epsilon: float = 1e-5) -> Array:
    return nn.BatchNorm(use_running_average=True, epsilon=epsilon, dtype=self.dtype, name=name)(x)


class VGG(FeatureNetwork):
  """VGG (Simonyan & Zisserman 2015, configurations D and E): five stages of 3x3 convolutions, each halved by a pool.

  Taps: conv{s}_{i} (before normalisation and activation), relu{s}_{i}, pool{s}. Parameters: conv{s}_{i}, bn{s}_{i}.
  Plain weights exist for preprocessing "imagenet" (torchvision) and "caffe" (Keras; the authors'). BatchNorm between
  convolution and activation, the convolution keeping its bias, is torchvision's addition. Pools drop an odd last row
  or column.
  """

  convs: tuple[int, ...] = (2, 2, 3, 3, 3)
  batch_norm: bool = False

  @nn.nowrap
  def taps(self) -> tuple[str, ...]:
    names: list[str] = []
    for s, count in enumerate(self.convs, 1):
      names += [f"{kind}{s}_{i}" for i in range(1, count + 1) for kind in ("conv", "relu")] + [f"pool{s}"]
    return tuple(names)

  @nn.nowrap
  def walk(self, x: Array) -> Iterator[tuple[str, Array]]:
    for s, (count, features) in enumerate(zip(self.convs, (64, 128, 256, 512, 512), strict=True), 1):
      for i in range(1, count + 1):
        x = self.conv(x, f"conv{s}_{i}", features, 3, padding=1)
        yield f"conv{s}_{i}", x
        if self.batch_norm:
          x = self.norm(x, f"bn{s}_{i}")
        x = jax.nn.relu(x)
        yield f"relu{s}_{i}", x
      x = _max_pool(x, 2, 2)
      yield f"pool{s}", x


class AlexNet(FeatureNetwork):
  """AlexNet in the form of Krizhevsky 2014 ("One weird trick"), as torchvision has it: no groups, no local response
  normalisation, 64-192-384-256-256 channels.

  Taps: relu1, pool1, relu2, pool2, relu3, relu4, relu5, pool5. Parameters: conv1 .. conv5. Images from 63 x 63 reach
  pool5.
  """

  @nn.nowrap
  def taps(self) -> tuple[str, ...]:
    return ("relu1", "pool1", "relu2", "pool2", "relu3", "relu4", "relu5", "pool5")

  @nn.nowrap
  def walk(self, x: Array) -> Iterator[tuple[str, Array]]:
    shapes = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
    for i, (features, kernel, stride, padding) in enumerate(shapes, 1):
      x = jax.nn.relu(self.conv(x, f"conv{i}", features, kernel, stride, padding))
      yield f"relu{i}", x
      if i in (1, 2, 5):
        x = _max_pool(x, 3, 2)
        yield f"pool{i}", x


class ResNet50(FeatureNetwork):
  """ResNet-50 (He et al. 2016): bottleneck blocks, activation after the sum.

  Taps: relu1, pool1, layer{s}_{i} (the output of block i, from 0), layer{s} (the output of the stage's last block).
  Parameters: conv1, bn1, layer{s}_{i}_conv{1,2,3}, layer{s}_{i}_bn{1,2,3}, layer{s}_0_downsample_conv, ..._bn.
  variant: "torchvision" halves in the block's 3x3 convolution (called v1.5) and has no convolution biases; "keras"
  halves in the first 1x1, as the paper, with biases and epsilon 1.001e-5; its weights want preprocessing "caffe".
  """

  variant: str = "torchvision"

  @nn.nowrap
  def taps(self) -> tuple[str, ...]:
    names = ["relu1", "pool1"]
    for s, blocks in enumerate((3, 4, 6, 3), 1):
      names += [f"layer{s}_{i}" for i in range(blocks)] + [f"layer{s}"]
    return tuple(names)

  @nn.nowrap
  def walk(self, x: Array) -> Iterator[tuple[str, Array]]:
    if self.variant not in ("torchvision", "keras"):
      known = nearest(self.variant, ("torchvision", "keras"), what="variants")
      raise UserError(f"variant {self.variant!r} of ResNet50 is unknown{known}")
    x = jax.nn.relu(self.conv_norm(x, "conv1", "bn1", 64, 7, 2, 3))
    yield "relu1", x
    x = _max_pool(x, 3, 2, padding=1)
    yield "pool1", x
    for s, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), 1):
      for i in range(blocks):
        x = self.block(x, f"layer{s}_{i}", width, stride=2 if s > 1 and i == 0 else 1, project=i == 0)
        yield f"layer{s}_{i}", x
      yield f"layer{s}", x

  @nn.nowrap
  def conv_norm(
    self, x: Array, conv: str, norm: str, features: int, kernel: int, stride: int = 1, padding: int = 0
  ) -> Array:
    keras = self.variant == "keras"
    x = self.conv(x, conv, features, kernel, stride, padding, bias=keras)
    return self.norm(x, norm, epsilon=1.001e-5 if keras else 1e-5)

  @nn.nowrap
  def block(self, x: Array, name: str, width: int, stride: int, project: bool) -> Array:
    first, second = (stride, 1) if self.variant == "keras" else (1, stride)
    y = jax.nn.relu(self.conv_norm(x, f"{name}_conv1", f"{name}_bn1", width, 1, first))
    y = jax.nn.relu(self.conv_norm(y, f"{name}_conv2", f"{name}_bn2", width, 3, second, 1))
    y = self.conv_norm(y, f"{name}_conv3", f"{name}_bn3", 4 * width, 1)
    if project:
      x = self.conv_norm(x, f"{name}_downsample_conv", f"{name}_downsample_bn", 4 * width, 1, stride)
    return jax.nn.relu(x + y)


class SqueezeNet(FeatureNetwork):
  """SqueezeNet 1.1 (Iandola et al. 2016; 1.1 is the authors' later release, in torchvision's layout).

  Taps: relu1, pool1, fire2 .. fire9 (both expansions, activated and concatenated: 1x1 first), pool3, pool5.
  Parameters: conv1, fire{k}_squeeze, fire{k}_expand1x1, fire{k}_expand3x3. Pools keep an incomplete last window.
  Images from 17 x 17 reach fire9.
  """

  @nn.nowrap
  def taps(self) -> tuple[str, ...]:
    return (
      "relu1",
      "pool1",
      "fire2",
      "fire3",
      "pool3",
      "fire4",
      "fire5",
      "pool5",
      *(f"fire{k}" for k in range(6, 10)),
    )

  @nn.nowrap
  def walk(self, x: Array) -> Iterator[tuple[str, Array]]:
    x = jax.nn.relu(self.conv(x, "conv1", 64, 3, stride=2))
    yield "relu1", x
    x = _max_pool(x, 3, 2, ceil=True)
    yield "pool1", x
    for k, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64), 2):
      x = jax.nn.relu(self.conv(x, f"fire{k}_squeeze", squeeze, 1))
      narrow = jax.nn.relu(self.conv(x, f"fire{k}_expand1x1", 4 * squeeze, 1))
      wide = jax.nn.relu(self.conv(x, f"fire{k}_expand3x3", 4 * squeeze, 3, padding=1))
      x = jnp.concatenate([narrow, wide], axis=-1)
      yield f"fire{k}", x
      if k in (3, 5):
        x = _max_pool(x, 3, 2, ceil=True)
        yield f"pool{k}", x


NETWORKS: dict[str, Callable[..., FeatureNetwork]] = {
  "vgg16": VGG,
  "vgg16_bn": partial(VGG, batch_norm=True),
  "vgg19": partial(VGG, convs=(2, 2, 4, 4, 4)),
  "vgg19_bn": partial(VGG, convs=(2, 2, 4, 4, 4), batch_norm=True),
  "alexnet": AlexNet,
  "resnet50": ResNet50,
  "squeezenet": SqueezeNet,
}


def taps(name: str) -> tuple[str, ...]:
  """All taps of the network `name` in order of depth, whatever its variant. Raises UserError for an unknown name."""
  if name not in NETWORKS:
    raise UserError(f"network {name!r} is unknown{nearest(name, NETWORKS, what='networks')}")
  return NETWORKS[name](layers=()).taps()
