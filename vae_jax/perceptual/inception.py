"""Inception-v3 as the Frechet inception distance and the Inception score use it: the TensorFlow graph of 2015-12-05.

The weights of that graph circulate as a PyTorch state dict (pytorch-fid, M. Seitzer), whose names are used here with
dots as levels: `Conv2d_1a_3x3/conv/kernel`, `Mixed_5b/branch5x5_1/bn/scale`, `fc/kernel`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vae_jax.errors import UserError, nearest
from vae_jax.models.blocks import convolution
from vae_jax.perceptual.networks import check_layers
from vae_jax.perceptual.preprocessing import preprocess
from vae_jax.types import Array, ArrayLike

LAYERS = ("pool64", "pool192", "features768", "pool2048", "logits")  # from shallow to deep
RESIZES = ("bilinear", "tf1", "none")
SIZE = 299
SMALLEST = 75  # the side at which the last map is still 1 x 1
# A metric should not depend on the device: GPUs and TPUs otherwise round float32 factors to 10 or fewer bits.
PRECISION = jax.lax.Precision.HIGHEST


def resize_weights(size: int, how: str, to: int = SIZE) -> np.ndarray:
  """The matrix float32 [to, size] that resamples one axis linearly; rows sum to one, no antialiasing.

  Output i reads the source at (i + 1/2) size / to - 1/2 for "bilinear" (half-pixel centres: `F.interpolate` with
  align_corners=False), at i size / to for "tf1" (the legacy `ResizeBilinear` of TensorFlow 1 with
  align_corners=False); sources beyond the edge repeat it.
  """
  shift = {"bilinear": 0.5, "tf1": 0.0}[how]
  source = np.clip((np.arange(to) + shift) * size / to - shift, 0, size - 1)
  lower = np.floor(source).astype(int)
  upper, fraction = np.minimum(lower + 1, size - 1), source - lower
  weights = np.zeros((to, size))
  np.add.at(weights, (np.arange(to), lower), 1 - fraction)
  np.add.at(weights, (np.arange(to), upper), fraction)
  return weights.astype(np.float32)


def resize_images(images: Array, how: str) -> Array:
  """float32 [b, h, w, c] -> [b, 299, 299, c], as two matrix products; see `resize_weights`."""
  rows, columns = (resize_weights(n, how) for n in images.shape[1:3])
  images = jnp.einsum("ih,bhwc->biwc", rows, images, precision=PRECISION)
  return jnp.einsum("jw,biwc->bijc", columns, images, precision=PRECISION)


class ConvUnit(nn.Module):
  """Convolution without bias, batch normalisation by stored statistics (eps 1e-3), ReLU."""

  features: int
  kernel: tuple[int, int] = (1, 1)
  stride: int = 1
  padding: str = "SAME"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = nn.Conv(
      self.features,
      self.kernel,
      strides=(self.stride, self.stride),
      padding=self.padding,
      use_bias=False,
      dtype=self.dtype,
      precision=PRECISION,
      conv_general_dilated=convolution(),
      name="conv",
    )(x)
    x = nn.BatchNorm(use_running_average=True, epsilon=1e-3, dtype=self.dtype, name="bn")(x)
    return nn.relu(x)


def _average(x: Array) -> Array:
  return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _maximum(x: Array) -> Array:
  return nn.max_pool(x, (3, 3), padding="SAME")


def _halve(x: Array) -> Array:
  return nn.max_pool(x, (3, 3), strides=(2, 2))


class Block(nn.Module):
  """What the blocks of parallel branches share. A unit of stride 2 has "VALID" padding, one of stride 1 "SAME"."""

  dtype: Any = jnp.float32

  def unit(
    self, x: Array, name: str, features: int, kernel: tuple[int, int] = (1, 1), stride: int = 1
  ) -> Array:
    padding = "SAME" if stride == 1 else "VALID"
    return ConvUnit(features, kernel, stride, padding, self.dtype, name=name)(x)

  def chain(self, x: Array, name: str, *steps: tuple) -> Array:
    """Units in sequence, named `name`_1, `name`_2, ..."""
    for i, step in enumerate(steps, start=1):
      x = self.unit(x, f"{name}_{i}", *step)
    return x


class BlockA(Block):
  """Mixed_5b, 5c, 5d: [b, h, w, c] -> [b, h, w, 224 + pooled]."""

  pooled: int = 64

  @nn.compact
  def __call__(self, x: Array) -> Array:
    branches = (
      self.unit(x, "branch1x1", 64),
      self.chain(x, "branch5x5", (48,), (64, (5, 5))),
      self.chain(x, "branch3x3dbl", (64,), (96, (3, 3)), (96, (3, 3))),
      self.unit(_average(x), "branch_pool", self.pooled),
    )
    return jnp.concatenate(branches, axis=-1)


class BlockB(Block):
  """Mixed_6a, a reduction: [b, h, w, c] -> [b, (h - 1) // 2, (w - 1) // 2, 480 + c]."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    branches = (
      self.unit(x, "branch3x3", 384, (3, 3), 2),
      self.chain(x, "branch3x3dbl", (64,), (96, (3, 3)), (96, (3, 3), 2)),
      _halve(x),
    )
    return jnp.concatenate(branches, axis=-1)


class BlockC(Block):
  """Mixed_6b..6e, with 7x7 kernels in two factors: [b, h, w, c] -> [b, h, w, 768]."""

  width: int = 192

  @nn.compact
  def __call__(self, x: Array) -> Array:
    n, row, column = self.width, (1, 7), (7, 1)
    branches = (
      self.unit(x, "branch1x1", 192),
      self.chain(x, "branch7x7", (n,), (n, row), (192, column)),
      self.chain(x, "branch7x7dbl", (n,), (n, column), (n, row), (n, column), (192, row)),
      self.unit(_average(x), "branch_pool", 192),
    )
    return jnp.concatenate(branches, axis=-1)


class BlockD(Block):
  """Mixed_7a, a reduction: [b, h, w, c] -> [b, (h - 1) // 2, (w - 1) // 2, 512 + c]."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    branches = (
      self.chain(x, "branch3x3", (192,), (320, (3, 3), 2)),
      self.chain(x, "branch7x7x3", (192,), (192, (1, 7)), (192, (7, 1)), (192, (3, 3), 2)),
      _halve(x),
    )
    return jnp.concatenate(branches, axis=-1)


class BlockE(Block):
  """Mixed_7b (`pool` "average") and 7c ("max"): [b, h, w, c] -> [b, h, w, 2048]."""

  pool: str = "average"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    pool = {"average": _average, "max": _maximum}[self.pool]
    single = self.chain(x, "branch3x3", (384,))
    double = self.chain(x, "branch3x3dbl", (448,), (384, (3, 3)))
    branches = (
      self.unit(x, "branch1x1", 320),
      self.unit(single, "branch3x3_2a", 384, (1, 3)),
      self.unit(single, "branch3x3_2b", 384, (3, 1)),
      self.unit(double, "branch3x3dbl_3a", 384, (1, 3)),
      self.unit(double, "branch3x3dbl_3b", 384, (3, 1)),
      self.unit(pool(x), "branch_pool", 192),
    )
    return jnp.concatenate(branches, axis=-1)


class Classifier(nn.Module):
  """float32 [b, c] -> [b, classes], without the bias; it exists so that a stored layer fits. See `InceptionFID`."""

  classes: int = 1008

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.classes))
    self.param("bias", nn.initializers.zeros_init(), (self.classes,))
    return jnp.dot(x, kernel, precision=PRECISION)


class InceptionFID(nn.Module):
  """Inception-v3 (Szegedy et al. 2015, arXiv:1512.00567) as in TensorFlow's graph of 2015-12-05.

  The features of FID (Heusel et al. 2017, arXiv:1706.08500), KID and the Inception score. They come from this graph
  with its own weights; figures from torchvision's or Keras's network, or their weights, are not comparable.

  Against torchvision's `inception_v3` the graph differs so (source: the patches in pytorch-fid's `inception.py`):
  - the average pools of the A blocks (Mixed_5b..5d), the C blocks (6b..6e) and the first E block (7b) do not count
    padding (torchvision's do; Keras's do not);
  - the last E block (Mixed_7c) has a maximum pool in its pool branch where the paper, torchvision and Keras have
    an average;
  - fc has 1008 outputs, and there is no auxiliary head.

  Attributes:
    layers: the taps wanted, any of `LAYERS`; nothing is computed, and no parameters made, below the deepest.
      pool64 [b, 73, 73, 64], pool192 [b, 35, 35, 192], features768 [b, 17, 17, 768] (at 299 x 299) are maps: FID on
      them first averages over space. pool2048 [b, 2048] is that average, logits [b, 1008]: float32 both.
      logits = pool2048 @ fc/kernel WITHOUT fc/bias: the graph's own `softmax/logits` adds the bias, but the code of
      the Inception score (Salimans et al. 2016, arXiv:1606.03498) takes only the weights out of the graph and
      multiplies anew. torch-fidelity calls the same tap logits_unbiased and scores it by default; its "logits" are
      with the bias.
    preprocessing: "signed", that is 2 x - 1, as pytorch-fid. TensorFlow's graph and torch-fidelity have
      (v - 128) / 128 for v in 0..255: lower by 1/128 at white, equal at black.
    resize: to 299 x 299, without antialiasing: "bilinear" with half-pixel centres, as pytorch-fid; "tf1" without, as
      the original graph and torch-fidelity; "none" takes the image as it is, at least 75 x 75.
    dtype: compute type of convolutions and maps; float32 asks every device for full float32 products.

  `__call__`: images floating [b, h, w, 1 or 3] in `value_range` -> {layer: features} in the order of `layers`.
  Raises UserError for an unknown or missing layer, an unknown resize, an image that is too small, and what
  `preprocess` objects to.
  """

  layers: tuple[str, ...] = ("pool2048",)
  preprocessing: str = "signed"
  resize: str = "bilinear"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images: ArrayLike, value_range: tuple[float, float] = (0.0, 1.0)) -> dict[str, Array]:
    check_layers(self.layers, LAYERS, "inception_fid")
    if self.resize not in RESIZES:
      raise UserError(f"resize {self.resize!r} is unknown{nearest(self.resize, RESIZES, what='ways')}")
    x = preprocess(images, value_range, self.preprocessing)
    smallest = SMALLEST if self.resize == "none" else 1
    if min(x.shape[1:3]) < smallest:
      raise UserError(
        f"images of {x.shape[1]} x {x.shape[2]} are too small for inception_fid with resize {self.resize!r}: "
        f"give at least {smallest} x {smallest}{', or resize' if smallest > 1 else ''}"
      )
    if self.resize != "none":
      x = resize_images(x, self.resize)

    unit = partial(ConvUnit, dtype=self.dtype)
    stages = {
      "pool64": (
        unit(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3"),
        unit(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3"),
        unit(64, (3, 3), name="Conv2d_2b_3x3"),
        _halve,
      ),
      "pool192": (
        unit(80, name="Conv2d_3b_1x1"),
        unit(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3"),
        _halve,
      ),
      "features768": (
        BlockA(self.dtype, pooled=32, name="Mixed_5b"),
        BlockA(self.dtype, name="Mixed_5c"),
        BlockA(self.dtype, name="Mixed_5d"),
        BlockB(self.dtype, name="Mixed_6a"),
        BlockC(self.dtype, width=128, name="Mixed_6b"),
        BlockC(self.dtype, width=160, name="Mixed_6c"),
        BlockC(self.dtype, width=160, name="Mixed_6d"),
        BlockC(self.dtype, width=192, name="Mixed_6e"),
      ),
      "pool2048": (
        BlockD(self.dtype, name="Mixed_7a"),
        BlockE(self.dtype, pool="average", name="Mixed_7b"),
        BlockE(self.dtype, pool="max", name="Mixed_7c"),
        lambda x: jnp.mean(x, axis=(1, 2), dtype=jnp.float32),
      ),
      "logits": (Classifier(name="fc"),),
    }
    taps = {}
    for layer in LAYERS[: 1 + max(map(LAYERS.index, self.layers))]:
      for stage in stages[layer]:
        x = stage(x)
      taps[layer] = x
    return {layer: taps[layer] for layer in self.layers}
