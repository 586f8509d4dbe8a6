"""A bidirectional transformer over the codes of a first stage: "MaskGIT" (Chang et al. 2022, arXiv:2202.04200).

In training a share of the codes is masked, cos(pi r / 2) with r ~ U[0, 1), and the transformer tells those from the
others (section 3.1; the paper adds label smoothing, which is left out). Sampling begins with all codes masked. Each of
a few steps draws all masked codes at once, keeps those of the greatest confidence, and masks the rest again, by the
same schedule (section 3.2). So it takes `decode_steps` passes in place of one for each code. Confidence is the log
probability of the code drawn, plus Gumbel noise that is annealed to 0.

`masked_nll` is the sum over masked codes, in nats: not -log p(codes).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from vae_jax.errors import UserError
from vae_jax.keys import MIN_0, Keys, counted
from vae_jax.keys import Key as ConfigKey
from vae_jax.models import code_priors as codes_
from vae_jax.models.attention import Transformer
from vae_jax.models.contract import Mode, Output
from vae_jax.types import Array, Batch, Key, Spec


def masked_counts(codes: int, steps: int) -> Int[np.ndarray, " s"]:
  """How many codes are masked after each step: the floor of codes * cos(pi / 2 * share of the steps), at least one
  fewer in each, and 0 after the last."""
  found, left = [], codes
  for step in range(1, steps + 1):
    left = max(0, min(left - 1, math.floor(codes * math.cos(math.pi / 2 * step / steps) + 1e-9)))
    found.append(left if step < steps else 0)
  return np.array(found, np.int32)


class MaskedCodes(codes_.CodePrior):
  """Attributes, beside those of `CodePrior`: decode_steps, of sampling; choice_temperature, of the noise on
  confidences, when sampling begins."""

  decode_steps: int
  choice_temperature: float

  TERMS: ClassVar[tuple[str, ...]] = ("masked_nll",)
  PRIOR: ClassVar[str] = "a masked transformer over codes"
  UNBOUNDED: ClassVar[str] = (
    "no bound: it tells masked codes from the others, which gives no probability of all codes"
  )
  OPTIONS: ClassVar[frozenset[str]] = frozenset()

  def setup(self):
    super().setup()
    self.embedding = self.embed(self.num_codes + 1)  # the last: masked
    self.transformer = Transformer(self.layers, self.width, self.heads, causal=False, **self.dtypes)

  def logits(
    self, codes: Int[Array, "b n"], masked: Bool[Array, "b n"], condition: Batch, kept: Bool[Array, " b"]
  ) -> Float[Array, "b n k"]:
    """float32 logits of each code, from those that are not masked."""
    x = self.embedding(jnp.where(masked, self.num_codes, codes)) + self.positions()[None]
    start = self.first(self.start(condition, kept))[:, None]
    found = self.transformer(jnp.concatenate([start, x], axis=1))
    return self.head(found[:, 1:].astype(jnp.float32))

  def masks(self, keys: Key) -> Bool[Array, "b n"]:
    """Which codes of each example are masked: of n codes ceil(n cos(pi r / 2)), r uniform, each set as likely."""

    def mask(key: Key) -> Array:
      share, order = jax.random.split(jax.random.fold_in(key, codes_.MASK))
      part = jnp.cos(jnp.pi / 2 * jax.random.uniform(share, (), jnp.float32))
      rank = jnp.argsort(jax.random.uniform(order, (self.count,), jnp.float32))
      return rank < jnp.maximum(jnp.ceil(part * self.count), 1)

    return jax.vmap(mask)(keys)

  def generate(
    self, noise: Any, condition: Batch, temperature: Any = 1.0, options: Mapping[str, Any] = codes_.NO_OPTIONS
  ) -> Int[Array, "b n"]:
    """Codes in `decode_steps` steps. temperature: divides the logits, and scales the noise on confidences; 0 draws
    nothing at random. options: `guidance` (`code_priors.guided`)."""
    module, variables = self.unbind()
    scale, n, size = options.get("guidance"), self.count, noise.shape[0]
    kept, both = codes_.kept_in_both(size, scale), codes_.in_both(condition, scale)
    temperature = jnp.asarray(temperature, jnp.float32)

    def step(carry: tuple[Array, Array], now: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
      (codes, masked), (at, left) = carry, now
      keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, at)))(noise)
      seen = codes_.in_both((codes, masked), scale)
      logits: Any = module.apply(variables, *seen, both, kept, method="logits")
      logits = codes_.guided(logits.reshape(kept.shape[0], -1), scale).reshape(size * n, -1)
      each = jax.vmap(lambda key: jax.random.split(key, n))(keys[:, 0]).reshape(size * n)
      drawn = codes_.draw_codes(each, logits, temperature)
      sure = -codes_.cross_entropy(logits[:, None], drawn[:, None]).reshape(size, n)
      gumbel = jax.vmap(lambda key: jax.random.gumbel(key, (n,), jnp.float32))(keys[:, 1])
      sure += self.choice_temperature * temperature * (1 - (at + 1) / self.decode_steps) * gumbel
      codes = jnp.where(masked, drawn.reshape(size, n), codes)
      # Those that were told before stay: they come last in the order of what is masked again.
      rank = jnp.argsort(jnp.argsort(jnp.where(masked, sure, jnp.inf), axis=-1), axis=-1)
      return (codes, rank < left), None

    start = jnp.zeros((size, n), jnp.int32), jnp.ones((size, n), bool)
    counts = jnp.asarray(masked_counts(n, self.decode_steps))
    (codes, _), _ = jax.lax.scan(step, start, (jnp.arange(self.decode_steps), counts))
    return codes

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    codes, fault = self.codes_of(batch)
    masked = self.masks(keys)
    logits = self.logits(codes, masked, batch, self.kept(keys, mode))
    nll = jnp.where(masked, codes_.cross_entropy(logits, codes), 0.0).sum(axis=-1)
    return Output({"masked_nll": nll + fault}, latents={"codes": codes})


KEYS: Keys = {
  **codes_.code_keys("label"),
  **codes_.TRANSFORMER_KEYS,
  "model.decode_steps": ConfigKey(
    12, "steps of sampling, at most as many as codes", counted(codes_.MOST_CODES)
  ),
  "model.choice_temperature": ConfigKey(4.5, "of the noise on confidences, when sampling begins", MIN_0),
  "objective.masked_nll": ConfigKey(1.0, "weight of -log p(masked codes | the others), in nats", MIN_0),
}
FAMILY = MaskedCodes
faults = codes_.head_faults


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> MaskedCodes:
  """The module that `config.model` describes, for records of `spec`.

  Raises UserError: see `code_priors.common`; more steps than codes.
  """
  shared = codes_.common(model, spec, dtypes)
  if model.decode_steps > codes_.count(shared["maps"]):
    raise UserError(
      f"model.decode_steps={model.decode_steps} must be at most {codes_.count(shared['maps'])}, the codes of an image"
    )
  return MaskedCodes(**shared, decode_steps=model.decode_steps, choice_temperature=model.choice_temperature)
