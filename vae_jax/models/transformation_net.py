"""The image transformation network of Johnson et al. 2016 (arXiv:1603.08155): deterministic, one pass, any size.

For super-resolution residual blocks at the low resolution, then up-sampling; for images of equal size (style transfer,
enhancement) two convolutions of stride 2 down, the blocks, two steps up. Differences from the paper:

- No normalisation. Batch normalisation mixes examples, and instance normalisation mixes all positions of an image: a
  batch could not be divided anywhere, nor an image be restored in tiles.
- The output is the difference from bicubic interpolation, or from the image itself, and starts at zero; the paper's is
  the image, through a scaled tanh.
- Up-sampling by sub-pixel convolutions (Shi et al. 2016); the paper's are convolutions of stride 1/2. Borders are
  padded with zeros.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from vae_jax.distributions import likelihoods
from vae_jax.keys import WIDTHS, Key, Keys, between
from vae_jax.models.blocks import ACTIVATION_KEYS, ACTIVATIONS, REMAT_KEYS, convolution, pixel_shuffle
from vae_jax.models.ladder import Convolutions, Eps
from vae_jax.models.restorer import LIKELIHOOD_KEYS, Restorer, enlargement
from vae_jax.types import Array, ArrayLike, Spec, image_shape

DOWN = 2  # halvings before the blocks, for images of equal size


class Body(Convolutions):
  """Everything but the last convolution. downs: halvings before the blocks; ups: factors of the steps after them."""

  downs: int = 0
  ups: tuple[int, ...] = ()

  @nn.compact
  def __call__(self, x: Array) -> Array:
    act, width = ACTIVATIONS[self.activation], self.channels[0]
    # Thinner where there are more pixels.
    widths = [max(width >> level, 1) for level in range(self.downs, -1, -1)]
    x = act(self.conv(x, widths[0], "stem", size=9))
    for i, features in enumerate(widths[1:]):
      x = act(self.conv(x, features, f"down{i}", stride=2))
    for i in range(self.blocks):
      x = self.residual(x, f"block{i}")
    for i, factor in enumerate(self.ups):
      features = widths[-2 - i] if self.downs else width
      x = act(pixel_shuffle(self.conv(x, factor**2 * features, f"up{i}"), factor))
    return x


class TransformationNet(Restorer):
  """The estimate of clean images, `factor` times the size of degraded ones. Serves what `RestorationVAE` serves.

  Attributes, beside those of `Restorer`:
    channels: the width of the residual blocks; others are ignored.
    blocks: residual blocks, all at one resolution, without activation after the addition.
  """

  activation: str = "relu"
  remat: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def setup(self):
    dtypes = {"activation": self.activation, "dtype": self.dtype, "param_dtype": self.param_dtype}
    self.body = Body(self.channels, self.blocks, downs=self._downs, ups=self._ups, remat=self.remat, **dtypes)
    init = nn.initializers.zeros_init()
    dtypes = {"dtype": jnp.float32, "param_dtype": self.param_dtype}
    self.head = nn.Conv(
      self.image_channels, (9, 9), kernel_init=init, conv_general_dilated=convolution(), **dtypes
    )
    self.log_scale = self._scale("log_scale", self.likelihood.has_scale)

  @property
  def _downs(self) -> int:
    return DOWN if self.factor == 1 else 0

  @property
  def _ups(self) -> tuple[int, ...]:
    doublings = DOWN if self.factor == 1 else self.factor.bit_length() - 1
    return (2,) * doublings if self.factor in (1, 2**doublings) else (self.factor,)

  @property
  def multiple(self) -> int:
    """Height and width of a degraded image are padded, by mirroring, to a multiple of this."""
    return 2**self._downs

  @property
  def radius(self) -> int:
    """How far, in pixels of the degraded image, an input pixel can be from an output pixel that depends on it."""
    stride, reach = 1.0, 4.0  # of the first convolution
    for _ in range(self._downs):
      reach += 2 * stride
      stride *= 2
    reach += 2 * self.blocks * stride
    for factor in self._ups:
      reach += stride
      stride /= factor
    return math.ceil(reach + 4 * stride) + (self.factor > 1)  # an output pixel lies between two input pixels

  def _image(self, degraded: Array, eps: Eps | None, sigma: ArrayLike | None = None) -> Array:
    padded = self._padded(degraded)
    return self._base(padded) + self.head(self.body(padded.astype(self.dtype)).astype(jnp.float32))


KEYS: Keys = {
  "model.channels": Key((32, 64), "width of the residual blocks; only the first number counts", WIDTHS),
  "model.blocks": Key(1, "residual blocks, all at one resolution", between(0, 256)),
  **REMAT_KEYS,
  **ACTIVATION_KEYS,
  **LIKELIHOOD_KEYS,
}
FAMILY = TransformationNet
faults = likelihoods.faults


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> TransformationNet:
  """The module that `config.model` describes, for records of `spec`. Raises UserError: sizes that do not fit."""
  shape = image_shape(spec)
  return TransformationNet(
    channels=tuple(model.channels),
    blocks=model.blocks,
    factor=enlargement(spec),
    likelihood=likelihoods.make_likelihood(model.likelihood, shape[-1], model.sigma),
    image_channels=shape[-1],
    activation=model.activation,
    remat=model.remat,
    **dtypes,
  )
