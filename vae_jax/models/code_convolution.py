"""A causal convolutional prior over one map of codes, after PixelSNAIL (Chen et al. 2018, arXiv:1712.09763).

    p(codes) = prod_i p(c_i | c_1 .. c_i-1), row by row

A convolution whose kernel is masked at a code and after it begins; those of the gated residual blocks (van den Oord et
al. 2016, arXiv:1606.05328) see their own position too. After each block causal attention to all earlier positions
(`attention`) sees what a stack of masked kernels cannot. In place of the paper's concatenated ELU and its keys
from the input stands the attention of a transformer. `code_nll` is as in `code_transformer`. Sampling runs the network
once for each code, without a cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from vae_jax.errors import UserError
from vae_jax.keys import MIN_0, Keys
from vae_jax.keys import Key as ConfigKey
from vae_jax.models import code_priors as codes_
from vae_jax.models.attention import Attention
from vae_jax.models.blocks import convolution, in_loop
from vae_jax.models.contract import Mode, Output
from vae_jax.types import Array, Batch, Key, Spec


class CausalConv(nn.Module):
  """A convolution of 3 columns and 2 rows that sees the row above, and its own row before it and perhaps itself.

  Attributes: features; itself: whether it sees its own position.
  """

  features: int
  itself: bool
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
    mask = np.ones((2, 3, x.shape[-1], self.features), np.float32)
    mask[1, 2 if self.itself else 1 :] = 0
    return nn.Conv(
      self.features,
      (2, 3),
      padding=((1, 0), (1, 1)),
      mask=jnp.asarray(mask),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      conv_general_dilated=convolution(),
    )(x)


class GatedBlock(nn.Module):
  """x + a * sigmoid(b), with a and b from two causal convolutions of x; then x + attention(norm(x)) over positions."""

  heads: int
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    b, h, w, c = x.shape
    # Each position is normalised by itself: a mean over positions would see later codes.
    y = CausalConv(c, itself=True, **dtypes)(nn.elu(nn.LayerNorm(**dtypes)(x)))
    value, gate = jnp.split(CausalConv(2 * c, itself=True, **dtypes)(nn.elu(y)), 2, axis=-1)
    x = x + value * nn.sigmoid(gate)
    y = nn.LayerNorm(**dtypes)(x).reshape(b, h * w, c)
    return x + Attention(c, self.heads, causal=True, **dtypes)(y).reshape(x.shape)


class CodeConvolution(codes_.CodePrior):
  """A `CodePrior` by gated blocks, `layers` of them."""

  TERMS: ClassVar[tuple[str, ...]] = ("code_nll",)
  PRIOR: ClassVar[str] = "a causal convolutional network over codes"

  def setup(self):
    super().setup()
    self.embedding = self.embed(self.num_codes)
    self.before = CausalConv(self.width, itself=False, **self.dtypes)
    self.blocks = [GatedBlock(self.heads, **self.dtypes) for _ in range(self.layers)]
    self.norm = nn.LayerNorm(**self.dtypes)

  def logits(
    self, codes: Int[Array, "b n"], condition: Batch, kept: Bool[Array, " b"]
  ) -> Float[Array, "b n k"]:
    """float32 logits of each code given those before it."""
    shape = (codes.shape[0], *self.maps[0][:2], self.width)
    each = self.embedding(codes)
    # The code before, in the order of codes: no kernel sees the end of a row from the start of the next.
    last = jnp.pad(each, ((0, 0), (1, 0), (0, 0)))[:, :-1].reshape(shape)
    x = self.before(each.reshape(shape)) + last + self.positions().reshape(1, *shape[1:])
    x = x + self.first(self.start(condition, kept))[:, None, None]
    for block in self.blocks:
      x = block(x)
    return self.head(self.norm(x).reshape(shape[0], self.count, self.width).astype(jnp.float32))

  def nll(self, codes: Int[Array, "b n"], condition: Batch, kept: Bool[Array, " b"]) -> Float[Array, " b"]:
    return codes_.cross_entropy(self.logits(codes, condition, kept), codes).sum(axis=-1)

  def generate(
    self, noise: Any, condition: Batch, temperature: Any = 1.0, options: Mapping[str, Any] = codes_.NO_OPTIONS
  ) -> Int[Array, "b n"]:
    """Codes, one after the other; temperature and options as in `code_transformer`."""
    module, variables = self.unbind()
    scale, ways = options.get("guidance"), {name: options.get(name) for name in ("top_k", "top_p")}
    size = noise.shape[0]
    kept, both = codes_.kept_in_both(size, scale), codes_.in_both(condition, scale)

    def draw(codes: Array, at: Array) -> tuple[Array, None]:
      logits: Any = module.apply(variables, codes_.in_both(codes, scale), both, kept, method="logits")
      keys = jax.vmap(lambda key: jax.random.fold_in(key, at))(noise)
      code = codes_.draw_codes(keys, codes_.guided(logits[:, at], scale), temperature, **ways)
      return codes.at[:, at].set(code), None

    with in_loop():
      return jax.lax.scan(draw, jnp.zeros((size, self.count), jnp.int32), jnp.arange(self.count))[0]

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    codes, fault = self.codes_of(batch)
    nll = self.nll(codes, batch, self.kept(keys, mode))
    return Output({"code_nll": nll + fault}, latents={"codes": codes})


KEYS: Keys = {
  **codes_.code_keys("label"),
  "model.width": codes_.TRANSFORMER_KEYS["model.width"],
  "model.layers": ConfigKey(
    6, "gated blocks, each with attention after it", codes_.TRANSFORMER_KEYS["model.layers"].rule
  ),
  "model.heads": codes_.TRANSFORMER_KEYS["model.heads"],
  "objective.code_nll": ConfigKey(1.0, "weight of -log p(codes), in nats", MIN_0),
}
FAMILY = CodeConvolution
faults = codes_.head_faults


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> CodeConvolution:
  """The module that `config.model` describes, for records of `spec`.

  Raises UserError: see `code_priors.common`; codes that are not one map with one code at each position.
  """
  shared = codes_.common(model, spec, dtypes)
  if len(shared["maps"]) > 1 or shared["maps"][0][2] > 1:
    raise UserError(
      f"model.name=code_convolution takes one map with one code at each position, and the layout is "
      f"{','.join(map(str, model.layout))} (height,width,codes per position of each map); choose "
      "model.name=code_transformer or masked_codes"
    )
  return CodeConvolution(**shared)
