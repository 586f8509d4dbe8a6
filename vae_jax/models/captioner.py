"""A captioner, p(text | image): convolutions read the image, a causal transformer the text after it.

Features of the image at 1/2^n of its size stand before the text, position by position. `text_nll` is
-log p(text | image) in nats, the end of the text included. It ranks images by how well they fit a text, as CLIP does
for DALL-E (Ramesh et al. 2021, arXiv:2102.12092, section 2.6), but by a likelihood: with equally likely texts,
p(image | text) is proportional to p(text | image) p(image) (`TrainedVAE.sample` with `ranker`).

In training the image has Gaussian noise (`model.noise`), so that the faintest traces do not count.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from vae_jax.errors import UserError
from vae_jax.keys import MIN_0, TEXT_BYTES, WIDTHS, Keys, between
from vae_jax.keys import Key as ConfigKey
from vae_jax.models.attention import Transformer
from vae_jax.models.blocks import ACTIVATION_KEYS, REMAT_KEYS
from vae_jax.models.code_priors import TRANSFORMER_KEYS, head_faults, text_fits, text_nll
from vae_jax.models.contract import Family, Mode, Output
from vae_jax.models.encoders import downsampled
from vae_jax.types import Array, Batch, Key, Spec


class Captioner(Family):
  """Attributes: channels, blocks, activation, remat of the convolutions (`encoders.downsampled`); width, layers, heads
  of the transformer; text_length, tokens of a text; text_tokens, their vocabulary; noise_level, the deviation of the
  noise; its types."""

  channels: tuple[int, ...]
  blocks: int
  activation: str
  remat: bool
  width: int
  layers: int
  heads: int
  text_length: int
  text_tokens: int
  noise_level: float
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  TERMS: ClassVar[tuple[str, ...]] = ("text_nll",)
  CAN: ClassVar[frozenset[str]] = frozenset({"caption"})
  NEEDS: ClassVar[frozenset[str]] = frozenset({"text"})

  @nn.compact
  def logits(self, image: Float[Array, "b h w c"], text: Int[Array, "b t"]) -> Float[Array, "b t v"]:
    """float32 logits of each token of the text, given the image and the tokens before it."""
    dtypes, init = {"dtype": self.dtype, "param_dtype": self.param_dtype}, nn.initializers.normal(0.02)
    seen = downsampled(
      2 * image.astype(self.dtype) - 1, self.channels, self.blocks, self.activation, self.remat, dtypes
    )
    seen = nn.Dense(self.width, **dtypes)(seen.reshape(seen.shape[0], -1, seen.shape[-1]))
    told = nn.Embed(self.text_tokens, self.width, embedding_init=init, **dtypes)(text[:, :-1])
    x, places = jnp.concatenate([seen, told], axis=1), seen.shape[1]
    x = x + self.param("positions", init, x.shape[1:], self.param_dtype).astype(self.dtype)[None]
    found = Transformer(self.layers, self.width, self.heads, causal=True, **dtypes)(x)[:, places - 1 :]
    head = nn.Dense(self.text_tokens, dtype=jnp.float32, param_dtype=self.param_dtype, kernel_init=init)
    return head(found.astype(jnp.float32))

  def text_log_prob(self, image: Float[Array, "b h w c"], text: Int[Array, "b t"]) -> Float[Array, " b"]:
    """log p(text | image) in nats, the end of the text included."""
    return -text_nll(self.logits(image, text), text)

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    image, text = jnp.asarray(batch["image"]), jnp.asarray(batch["text"])
    fits = text_fits(batch["text"], self.text_length, self.text_tokens)
    if mode.training and self.noise_level:
      drawn = jax.vmap(lambda key: jax.random.normal(key, image.shape[1:], image.dtype))(keys)
      image = image + self.noise_level * drawn
    # A token that there is not has the nearest row in a traced program, so its example is no number.
    return Output({"text_nll": -self.text_log_prob(image, text) + jnp.where(fits, 0.0, jnp.nan)})


KEYS: Keys = {
  "model.channels": ConfigKey((32, 64, 128), "widths at 1/2, 1/4, ... of the size", WIDTHS),
  "model.blocks": ConfigKey(1, "residual blocks at each resolution", between(0, 256)),
  **TRANSFORMER_KEYS,
  "model.text_tokens": ConfigKey(
    TEXT_BYTES, "the vocabulary of texts, filled in", between(TEXT_BYTES, TEXT_BYTES + 2**16)
  ),
  "model.noise": ConfigKey(0.05, "deviation of noise on training images, which are in [0, 1]", MIN_0),
  **REMAT_KEYS,
  **ACTIVATION_KEYS,
  "objective.text_nll": ConfigKey(1.0, "weight of -log p(text | image), in nats", MIN_0),
}
FAMILY = Captioner
faults = head_faults


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> Captioner:
  """The module that `config.model` describes, for records of `spec`. Raises UserError: texts that are no vectors."""
  if len(spec["text"].shape) != 1:
    raise UserError(f"model.name=captioner takes texts [t], and the records have {list(spec['text'].shape)}")
  names = ("channels", "blocks", "activation", "remat", "width", "layers", "heads", "text_tokens")
  chosen = {name: model[name] for name in names}
  chosen["channels"] = tuple(chosen["channels"])
  return Captioner(**chosen, text_length=spec["text"].shape[0], noise_level=model.noise, **dtypes)
