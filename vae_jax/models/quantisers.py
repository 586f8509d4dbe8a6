"""Quantisers of codes: vectors at positions become codes, and codes become the vectors that a decoder sees.

    codebook   the nearest learned vector; in groups of channels, or level by level (`learned_codes.Codebook`)
    gumbel     logits over learned vectors, relaxed in training (`learned_codes.Gumbel`)
    fsq        channels rounded to a few levels (`fixed_codes.Finite`)
    lfq        signs of channels (`fixed_codes.LookupFree`)

A family makes one by `build`, calls `nn.share_scope(self, quantiser)` in its setup, gives it the vectors of its
encoder, of `quantiser.dim` channels, adds `Quantised.terms` to its own, and leaves `absorb` to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ml_collections import ConfigDict

from vae_jax.configuration.sections import RATE
from vae_jax.keys import ABOVE_0, BELOW_1, DEEPEST, MIN_0, WIDEST, Keys, Rule, between, counted, one_of
from vae_jax.keys import Key as ConfigKey
from vae_jax.models.fixed_codes import Finite, LookupFree
from vae_jax.models.learned_codes import Codebook, Gumbel
from vae_jax.models.quantiser import Quantised, Quantiser

__all__ = ["KEYS", "Quantised", "Quantiser", "build", "faults"]

LEVELS = Rule(
  f"one or more numbers >= 2, at most {DEEPEST}, of a product of at most {WIDEST}",
  lambda v: 0 < len(v) <= DEEPEST and min(v) >= 2 and math.prod(v) <= WIDEST,
)
KEYS: Keys = {
  "model.quantiser": ConfigKey(
    "codebook", "how vectors become codes; see docs/codes.md", one_of("codebook", "gumbel", "fsq", "lfq")
  ),
  "model.codes": ConfigKey(512, "size of the codebook; lfq: a power of 2", between(2, WIDEST)),
  "model.code_dim": ConfigKey(64, "channels of a code", counted(WIDEST)),
  "model.codebook": ConfigKey(
    "ema", "how codes learn: moving averages, or gradients of the codebook term", one_of("ema", "gradient")
  ),
  "model.distance": ConfigKey(
    "euclidean", "of vectors and codes; cosine: both have length 1", one_of("euclidean", "cosine")
  ),
  "model.gradient": ConfigKey(
    "straight_through",
    "that vectors get from the decoder: as it is, or turned from code to vector",
    one_of("straight_through", "rotation"),
  ),
  "model.groups": ConfigKey(1, "parts of the channels, each with a codebook of its own", counted(DEEPEST)),
  "model.levels": ConfigKey(
    1, "codebooks one after another, each for what those before it leave", counted(DEEPEST)
  ),
  "model.decay": ConfigKey(0.99, "of the codes' moving averages and of their usage", BELOW_1),
  "model.kmeans_steps": ConfigKey(10, "steps of k-means, one a batch, with which codes begin", MIN_0),
  "model.revive_below": ConfigKey(
    0.03, "codes used less than this share of the mean usage restart at a vector of the batch", BELOW_1
  ),
  "model.fsq_levels": ConfigKey((8, 5, 5, 5), "fsq: levels of each channel; codes are their product", LEVELS),
  "model.temperature": ConfigKey(
    0.0625, "gumbel: at which the relaxation ends; it begins at 1", between(1e-3, 1)
  ),
  "model.temperature_steps": ConfigKey(10_000, "gumbel: steps until then", counted(2**30)),
  "model.temperature_schedule": ConfigKey(
    "cosine", "gumbel: how the temperature falls", one_of("cosine", "exponential")
  ),
  "objective.commitment": ConfigKey(0.25, "weight of the distance of vectors from their codes", MIN_0),
  "objective.codebook": ConfigKey(
    1.0, "codebook=gradient: weight of the distance of codes from vectors", ABOVE_0
  ),
  "objective.entropy": ConfigKey(
    0.1, "lfq: weight of sharp choices and equal usage, nats (Yu et al. 2024)", MIN_0
  ),
  **{
    f"objective.{name}": RATE[f"objective.{name}"]._replace(
      meaning=f"gumbel: {RATE[f'objective.{name}'].meaning}"
    )
    for name in ("beta", "beta_schedule", "beta_steps")
  },
}
OF = {  # the quantisers that read a key
  "model.codes": ("codebook", "gumbel", "lfq"),
  "model.code_dim": ("codebook", "gumbel"),
  "model.decay": ("codebook", "lfq"),
  "objective.commitment": ("codebook", "lfq"),
  "objective.entropy": ("lfq",),
  **dict.fromkeys(("model.codebook", "model.distance", "model.gradient", "model.groups"), ("codebook",)),
  **dict.fromkeys(("model.levels", "model.kmeans_steps", "model.revive_below"), ("codebook",)),
  "objective.codebook": ("codebook",),
  "model.fsq_levels": ("fsq",),
  **{f"model.temperature{word}": ("gumbel",) for word in ("", "_steps", "_schedule")},
  **{f"objective.beta{word}": ("gumbel",) for word in ("", "_schedule", "_steps")},
}


def faults(config: ConfigDict) -> Iterator[str]:
  """What a config whose values hold one by one says of quantisers that cannot be."""
  model, chosen = config.model, config.model.quantiser
  for key, readers in OF.items():
    section, word = key.split(".")
    value, default = config[section].get(word), KEYS[key].default
    if chosen not in readers and value != default:
      text, usual = (",".join(map(str, x)) if isinstance(x, tuple) else x for x in (value, default))
      yield (
        f"{key}={text} is of model.quantiser={' or '.join(readers)}, not of {chosen}; leave it at {usual}, or change "
        "model.quantiser"
      )
  if chosen == "lfq" and model.codes & (model.codes - 1):
    power = 2 ** round(math.log2(model.codes))
    yield f"model.codes={model.codes} must be a power of 2 for model.quantiser=lfq, such as {power}"
  if model.code_dim % model.groups:
    yield f"model.groups={model.groups} must divide model.code_dim={model.code_dim}; change one of both"
  if model.levels > 1 and model.distance == "cosine":
    yield (
      f"model.levels={model.levels} must be 1 for model.distance=cosine: what vectors of length 1 leave has another "
      "length; set model.distance=euclidean"
    )


def build(model: ConfigDict) -> Quantiser:
  """The quantiser that `config.model` describes."""
  if model.quantiser == "fsq":
    return Finite(tuple(model.fsq_levels))
  if model.quantiser == "lfq":
    return LookupFree(model.codes.bit_length() - 1, model.decay)
  if model.quantiser == "gumbel":
    return Gumbel(
      model.codes, model.code_dim, model.temperature, model.temperature_steps, model.temperature_schedule
    )
  return Codebook(
    num_codes=model.codes,
    code_dim=model.code_dim,
    learning=model.codebook,
    distance=model.distance,
    gradient=model.gradient,
    groups=model.groups,
    levels=model.levels,
    decay=model.decay,
    kmeans_steps=model.kmeans_steps,
    revive_below=model.revive_below,
  )
