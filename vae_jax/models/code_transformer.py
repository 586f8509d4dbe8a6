"""A causal transformer over the codes of a first stage, such as a VQ-VAE's: p(codes) = prod_i p(c_i | c_1 .. c_i-1).

Codes are a sequence, coarse maps first, each row by row; a position is the sum of learned vectors of its map, row and
column (`code_priors.Positions`). A first vector starts the sequence: it is that of the label where there is one. A
text comes next, as bytes or pairs of them, and is modelled too, with a smaller weight: "DALL-E" (Ramesh et al. 2021,
arXiv:2102.12092, section 2.2; there the weights are of means over tokens, 1/8 of texts and 7/8 of codes, here of sums).
Sampling keeps keys and values of earlier codes (`attention.Cache`).

`code_nll` is -log p(codes) in nats of an image. With the first stage's -log p(image | codes) it bounds -log p(image):
codes are a function of the image, so -log p(image) <= -log p(codes) - log p(image | codes), and the uniform prior of
the first stage has become a learned one. `text_nll` is -log p(text), its end included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from vae_jax.keys import MIN_0, TEXT_BYTES, Keys, between
from vae_jax.keys import Key as ConfigKey
from vae_jax.models import code_priors as codes_
from vae_jax.models.attention import Cache, Transformer, empty_caches
from vae_jax.models.contract import Mode, Output
from vae_jax.types import Array, Batch, Key, Spec


class CodeTransformer(codes_.CodePrior):
  """A `CodePrior` by a causal transformer."""

  TERMS: ClassVar[tuple[str, ...]] = ("code_nll", "text_nll")
  PRIOR: ClassVar[str] = "a transformer over codes"

  @property
  def terms(self) -> tuple[str, ...]:
    return self.TERMS if self.condition == "text" else self.TERMS[:1]

  @property
  def prefix_length(self) -> int:
    """Positions before that of the first code."""
    return 1 + self.text_length

  def setup(self):
    super().setup()
    self.embedding = self.embed(self.num_codes)
    self.transformer = Transformer(self.layers, self.width, self.heads, causal=True, **self.dtypes)
    if self.condition == "text":
      self.text_embedding = self.embed(self.text_tokens)
      shape = (self.text_length, self.width)
      self.text_positions = self.param("text_positions", codes_.INIT, shape, self.param_dtype)
      self.text_head = self.to_logits(self.text_tokens)

  def prefix(self, condition: Batch, kept: Bool[Array, " b"]) -> Float[Array, "b p w"]:
    """What comes before the codes; a text that is not kept is padding."""
    start = self.first(self.start(condition, kept))[:, None]
    if self.condition != "text":
      return start
    text = jnp.where(kept[:, None], jnp.asarray(condition["text"]), 0)
    return jnp.concatenate(
      [start, self.text_embedding(text) + self.text_positions.astype(self.dtype)[None]], axis=1
    )

  def places(self) -> Float[Array, "n w"]:
    """The vector of each code's place."""
    return self.positions()

  def embedded(self, codes: Int[Array, "b m"], places: Float[Array, "m w"]) -> Float[Array, "b m w"]:
    """Codes with their places, as the transformer sees them."""
    return self.embedding(codes) + places[None]

  def logits(
    self, codes: Int[Array, "b n"], condition: Batch, kept: Bool[Array, " b"]
  ) -> tuple[Float[Array, "b n k"], Float[Array, "b t v"] | None]:
    """float32 logits of each code given those before it; and of each token of the text, where there is one."""
    x = self.embedded(codes, self.places())[:, :-1]
    found = self.transformer(jnp.concatenate([self.prefix(condition, kept), x], axis=1)).astype(jnp.float32)
    text = self.text_head(found[:, : self.text_length]) if self.condition == "text" else None
    return self.head(found[:, self.prefix_length - 1 :]), text

  def nll(self, codes: Int[Array, "b n"], condition: Batch, kept: Bool[Array, " b"]) -> Float[Array, " b"]:
    logits, _ = self.logits(codes, condition, kept)
    return codes_.cross_entropy(logits, codes).sum(axis=-1)

  def caches(self, batch: int) -> tuple[Cache, ...]:
    """Empty caches for a whole sequence."""
    length = self.prefix_length + self.count - 1
    return empty_caches(batch, length, self.layers, self.width, self.heads, self.dtype)

  def step(
    self, x: Float[Array, "b m w"], caches: tuple[Cache, ...], at: Any
  ) -> tuple[Float[Array, "b k"], tuple[Cache, ...]]:
    """Logits of the code after the inputs x at the positions `at`, at + 1, ... and those in the caches."""
    found, caches = self.transformer.step(x, caches, at)
    return self.head(found[:, -1].astype(jnp.float32)), caches

  def generate(
    self, noise: Any, condition: Batch, temperature: Any = 1.0, options: Mapping[str, Any] = codes_.NO_OPTIONS
  ) -> Int[Array, "b n"]:
    """Codes, one after the other. temperature: divides the logits; 0 takes the most probable code. options: `top_k`,
    `top_p` (`code_priors.filtered`) and `guidance` (`code_priors.guided`)."""
    module, variables = self.unbind()
    scale, ways = options.get("guidance"), {name: options.get(name) for name in ("top_k", "top_p")}

    def call(method: str, *args: Any) -> Any:
      return module.apply(variables, *args, method=method)

    n, before = noise.shape[0], self.prefix_length - 1
    kept = codes_.kept_in_both(n, scale)
    prefix = call("prefix", codes_.in_both(condition, scale), kept)
    caches = self.caches(kept.shape[0])
    if before:
      _, caches = call("step", prefix[:, :-1], caches, 0)

    def draw(carry: tuple[Array, Any], one: tuple[Array, Array]) -> tuple[tuple[Array, Any], Array]:
      at, place = one
      logits, caches = call("step", carry[0], carry[1], before + at)
      keys = jax.vmap(lambda key: jax.random.fold_in(key, at))(noise)
      code = codes_.draw_codes(keys, codes_.guided(logits, scale), temperature, **ways)
      return (call("embedded", codes_.in_both(code, scale)[:, None], place[None]), caches), code

    _, drawn = jax.lax.scan(draw, (prefix[:, -1:], caches), (jnp.arange(self.count), call("places")))
    return drawn.T

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    codes, fault = self.codes_of(batch)
    kept = self.kept(keys, mode)
    logits, text_logits = self.logits(codes, batch, kept)
    terms = {"code_nll": codes_.cross_entropy(logits, codes).sum(axis=-1) + fault}
    if text_logits is not None:
      found = codes_.text_nll(text_logits, jnp.asarray(batch["text"]))
      terms["text_nll"] = jnp.where(kept, found, 0.0) + fault
    return Output(terms, latents={"codes": codes})


KEYS: Keys = {
  **codes_.code_keys("label", "text"),
  **codes_.TRANSFORMER_KEYS,
  "model.text_tokens": ConfigKey(
    TEXT_BYTES, "condition=text: the vocabulary of texts, filled in", between(TEXT_BYTES, TEXT_BYTES + 2**16)
  ),
  "objective.code_nll": ConfigKey(1.0, "weight of -log p(codes), in nats", MIN_0),
  "objective.text_nll": ConfigKey(0.125, "condition=text: weight of -log p(text), in nats", MIN_0),
}
FAMILY = CodeTransformer
faults = codes_.head_faults


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> CodeTransformer:
  """The module that `config.model` describes, for records of `spec`. Raises UserError: see `code_priors.common`."""
  return CodeTransformer(**codes_.common(model, spec, dtypes))
