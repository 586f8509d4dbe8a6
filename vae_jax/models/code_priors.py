"""What priors over the codes of a first stage share: the layout of codes, conditions, and the drawing of a code.

A first stage makes maps of codes of an image, coarse maps first, each (h, w, codes per position): `Family.layout`. A
prior knows that layout and the size of the vocabulary from its config, where they are filled in from the first stage
when a run starts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from vae_jax.checks import concrete
from vae_jax.errors import UserError
from vae_jax.keys import BELOW_1, TEXT_BYTES, WIDEST, Keys, Rule, between, counted, one_of
from vae_jax.keys import Key as ConfigKey
from vae_jax.models.contract import Family, Mode
from vae_jax.types import Array, ArrayLike, Batch, Key, Spec

Maps = tuple[tuple[int, int, int], ...]

NO_OPTIONS: Mapping[str, Any] = {}
MOST_CODES = 2**14  # of an image
# Folded into an example's key, or into that of a sample.
DROP, MASK = 0, 1
CANDIDATE = MOST_CODES  # and what follows: those before are of the places of codes
INIT = nn.initializers.normal(0.02)


# --- the layout ---


def maps_of(layout: tuple[int, ...]) -> Maps:
  """Triples of a flat list of heights, widths and codes per position."""
  return tuple(zip(layout[::3], layout[1::3], layout[2::3], strict=True))


def count(maps: Maps) -> int:
  """Codes of an image."""
  return sum(math.prod(level) for level in maps)


def places(maps: Maps) -> Int[np.ndarray, "n 4"]:
  """Where each code is: its map; its row and its column, counted on from map to map; which code of its position."""
  found, rows, columns = [], 0, 0
  for number, (height, width, depth) in enumerate(maps):
    row, column, code = np.unravel_index(np.arange(height * width * depth), (height, width, depth))
    found.append(np.stack([np.full_like(row, number), rows + row, columns + column, code], axis=-1))
    rows, columns = rows + height, columns + width
  return np.concatenate(found).astype(np.int32)


class Positions(nn.Module):
  """A learned vector for each code: the sum of those of its map, row, column and place within its position."""

  maps: Maps
  width: int
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self) -> Float[Array, "n w"]:
    at = places(self.maps)
    total = jnp.zeros((len(at), self.width), self.dtype)
    for name, column in zip(("map", "row", "column", "code"), at.T, strict=True):
      shape = (int(column.max()) + 1, self.width)
      table = self.param(name, INIT, shape, self.param_dtype)
      total = total + table[column].astype(self.dtype)
    return total


# --- the family ---


class CodePrior(Family):
  """A family of distributions over codes.

  Attributes: maps, the layout of the codes; num_codes, their vocabulary; condition, "none", "label" or "text"; classes,
  of labels; text_length, tokens of a text; text_tokens, their vocabulary; condition_drop, the share of training
  examples whose condition is dropped; width, layers, heads of the network; its types.
  """

  maps: Maps
  num_codes: int
  condition: str
  classes: int
  text_length: int
  text_tokens: int
  condition_drop: float
  width: int
  layers: int
  heads: int
  dtype: Any
  param_dtype: Any

  CAN: ClassVar[frozenset[str]] = frozenset({"sample"})
  NEEDS: ClassVar[frozenset[str]] = frozenset({"codes"})
  PRIOR: ClassVar[str] = "a prior over codes"
  OPTIONS: ClassVar[frozenset[str]] = frozenset({"top_k", "top_p", "candidates"})

  @property
  def needs(self) -> frozenset[str]:
    return self.NEEDS | ({self.condition} - {"none"})

  @property
  def options(self) -> frozenset[str]:
    """Guidance needs a model that has also learned without its condition."""
    guided = self.condition != "none" and self.condition_drop > 0
    return self.OPTIONS | ({"guidance"} if guided else frozenset())

  @property
  def count(self) -> int:
    """Codes of an image."""
    return count(self.maps)

  @property
  def dtypes(self) -> dict[str, Any]:
    """The types of a layer, as its arguments."""
    return {"dtype": self.dtype, "param_dtype": self.param_dtype}

  def setup(self):
    """What all have: a vector that begins the sequence, those of places, and logits. A subclass adds `embedding`."""
    self.first = self.embed(self.starts)
    self.positions = Positions(self.maps, self.width, **self.dtypes)
    self.head = self.to_logits(self.num_codes)

  def embed(self, size: int) -> nn.Embed:
    """A vector for each of `size` words."""
    return nn.Embed(size, self.width, embedding_init=INIT, **self.dtypes)

  def to_logits(self, size: int) -> nn.Dense:
    """float32 logits of `size` words."""
    return nn.Dense(size, kernel_init=INIT, dtype=jnp.float32, param_dtype=self.param_dtype)

  def noise(self, key: Key, spec: Spec, origin: tuple[int, int] | Array = (0, 0)) -> Key:
    """A key, from which each code is drawn in its turn."""
    return key

  def nll(self, codes: Int[Array, "b n"], condition: Batch, kept: Bool[Array, " b"]) -> Float[Array, " b"]:
    """-log p(codes | condition), or -log p(codes) of those examples that do not keep theirs, in nats."""
    raise NotImplementedError

  def log_prob(self, codes: Int[Array, "b n"], condition: Batch) -> Float[Array, " b"]:
    """log p(codes), given their condition where there is one, in nats."""
    return -self.nll(codes, condition, jnp.ones(codes.shape[0], bool))

  def kept(self, keys: Key, mode: Mode) -> Bool[Array, " b"]:
    """The examples that keep their condition: in training all but a share, else all."""
    if not mode.training or not self.condition_drop or self.condition == "none":
      return jnp.ones(keys.shape, bool)
    share = jnp.float32(1 - self.condition_drop)
    return jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, DROP), share))(keys)

  def codes_of(self, batch: Batch) -> tuple[Int[Array, "b n"], Float[Array, " b"]]:
    """The codes of a batch, and 0 for each example, or NaN for one with a code or condition that there is not.

    A traced program cannot raise an error, and XLA would take the nearest row that there is. So the example's terms are
    NaN, and no step is made of them. Raises UserError: another number of codes than the layout's, or codes out of range
    where values can be looked at.
    """
    codes = jnp.asarray(batch["codes"])
    if codes.shape[1:] != (self.count,):
      raise UserError(f"codes of shape {list(codes.shape)}: this model takes [n, {self.count}]")
    fits = in_range("codes", batch["codes"], self.num_codes)
    if self.condition == "label":
      fits &= in_range("label", batch["label"], self.classes)
    if self.condition == "text":
      fits &= text_fits(batch["text"], self.text_length, self.text_tokens)
    return codes, jnp.where(fits, 0.0, jnp.nan)

  def start(self, condition: Batch, kept: Bool[Array, " b"]) -> Int[Array, " b"]:
    """Which of `starts` vectors stands for the condition: the label, or the one for none."""
    none = jnp.full(kept.shape, self.starts - 1, jnp.int32)
    return (
      jnp.where(kept, jnp.asarray(condition["label"], jnp.int32), none) if self.condition == "label" else none
    )

  @property
  def starts(self) -> int:
    """Vectors that stand for a condition: one for each label, the last for none."""
    return 1 + (self.classes if self.condition == "label" else 0)


def in_range(name: str, values: ArrayLike, size: int) -> Bool[Array, " b"]:
  """Whether each example has integers of 0 .. size - 1 alone. Raises UserError where that can be seen at once."""
  fits = (jnp.asarray(values) >= 0) & (jnp.asarray(values) < size)
  if concrete(values) and concrete(fits) and not bool(fits.all()):
    low, high = jnp.min(jnp.asarray(values)), jnp.max(jnp.asarray(values))
    raise UserError(f"{name} from {low} to {high}: this model has 0 to {size - 1}")
  return fits.reshape(fits.shape[0], -1).all(axis=1)


def cross_entropy(logits: Float[Array, "b n k"], index: Int[Array, "b n"]) -> Float[Array, "b n"]:
  """-log softmax(logits)[index], float32."""
  logits = logits.astype(jnp.float32)
  chosen = jnp.take_along_axis(logits, index[..., None], axis=-1, mode="clip")[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - chosen


def text_fits(text: ArrayLike, length: int, tokens: int) -> Bool[Array, " b"]:
  """Whether each text [b, length] has tokens of 0 .. tokens - 1 alone. Raises UserError: another length; or as
  `in_range`."""
  if jnp.shape(text)[1:] != (length,):
    raise UserError(f"text of shape {list(jnp.shape(text))}: this model takes [n, {length}]")
  return in_range("text", text, tokens)


def text_nll(logits: Float[Array, "b t v"], text: Int[Array, "b t"]) -> Float[Array, " b"]:
  """-log p(text) in nats: the first padding is the end of the text, and what follows it says nothing."""
  counted = jnp.pad(jnp.cumprod(text[:, :-1] != 0, axis=-1) > 0, ((0, 0), (1, 0)), constant_values=True)
  return jnp.where(counted, cross_entropy(logits, text), 0.0).sum(axis=-1)


# --- drawing one code ---


def filtered(logits: Float[Array, "b k"], top_k: Any = None, top_p: Any = None) -> Float[Array, "b k"]:
  """The logits, those that are not drawn from at -inf. None: all are.

  top_k: the k greatest, an integer >= 1. top_p: of them, the fewest whose probabilities, the greatest first, add up to
  p or more (the nucleus, Holtzman et al. 2020, arXiv:1904.09751), 0 < p <= 1. The first of equal logits counts as the
  greatest. At least one is left.
  """
  if top_k is None and top_p is None:
    return logits
  order = jnp.argsort(-logits, axis=-1, stable=True)
  ranked = jnp.take_along_axis(logits, order, axis=-1)
  left = jnp.ones(logits.shape, bool)
  if top_k is not None:
    left &= jnp.arange(logits.shape[-1])[None, :] < top_k
  if top_p is not None:
    shares = jax.nn.softmax(jnp.where(left, ranked, -jnp.inf), axis=-1)
    left &= jnp.cumsum(shares, axis=-1) - shares < top_p
  back = jnp.argsort(order, axis=-1)
  return jnp.where(jnp.take_along_axis(left, back, axis=-1), logits, -jnp.inf)


def draw_codes(
  keys: Key, logits: Float[Array, "b k"], temperature: Any, top_k: Any = None, top_p: Any = None
) -> Int[Array, " b"]:
  """One code for each example, by its key, from softmax(logits / temperature) as far as `filtered` leaves it; at
  temperature 0 the most probable."""
  temperature = jnp.asarray(temperature, jnp.float32)
  logits = filtered(logits.astype(jnp.float32) / jnp.where(temperature > 0, temperature, 1.0), top_k, top_p)
  gumbel = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:], jnp.float32))(keys)
  return jnp.argmax(logits + jnp.where(temperature > 0, gumbel, 0.0), axis=-1).astype(jnp.int32)


def guided(logits: Float[Array, "c k"], scale: Any) -> Float[Array, "b k"]:
  """u + scale (c - u) of logits of examples with their condition, c, and then of the same without it, u.

  This is classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598). Where scale is None, there is but the first
  half."""
  if scale is None:
    return logits
  with_condition, without = jnp.split(logits, 2)
  return without + scale * (with_condition - without)


def in_both(x: Any, scale: Any) -> Any:
  """What `guided` needs: the examples twice, where there is a scale."""
  return x if scale is None else jax.tree.map(lambda x: jnp.concatenate([x, x]), x)


def kept_in_both(n: int, scale: Any) -> Bool[Array, " m"]:
  """Which of `in_both` keep their condition."""
  return jnp.ones(n, bool) if scale is None else jnp.arange(2 * n) < n


# --- the config ---

_LAYOUT = Rule(
  f"() or heights, widths and codes per position > 0 of maps, of at most {MOST_CODES} codes",
  lambda v: len(v) % 3 == 0 and all(n > 0 for n in v) and count(maps_of(v)) <= MOST_CODES,
)


def code_keys(*conditions: str) -> Keys:
  """Keys of a family that knows these conditions beside "none"."""
  return {
    "model.codes": ConfigKey(
      0, "size of the codes' vocabulary; 0: that of the first stage, filled in", between(0, WIDEST)
    ),
    "model.layout": ConfigKey(
      (),
      "maps of codes, coarse first: height,width,codes per position of each; (): those of the first stage, filled in",
      _LAYOUT,
    ),
    "model.condition": ConfigKey("none", "what codes depend on, of each image", one_of("none", *conditions)),
    "model.classes": ConfigKey(10, "condition=label: labels are 0 .. classes - 1", between(1, WIDEST)),
    "model.condition_drop": ConfigKey(
      0.1, "share of training examples whose condition is dropped, for --guidance", BELOW_1
    ),
  }


TRANSFORMER_KEYS: Keys = {
  "model.width": ConfigKey(256, "channels of a position", counted(WIDEST)),
  "model.layers": ConfigKey(6, "attention and dense layers, one after the other", between(1, 256)),
  "model.heads": ConfigKey(4, "heads of attention; they divide the width", counted(256)),
}


def head_faults(config: ConfigDict) -> Iterator[str]:
  """What a family with `TRANSFORMER_KEYS` refuses in a config whose values hold one by one."""
  m = config.model
  if m.width % m.heads:
    wider = -(-m.width // m.heads) * m.heads
    yield f"model.heads={m.heads} must divide model.width={m.width}, e.g. model.width={wider}"


def common(model: ConfigDict | Mapping[str, Any], spec: Spec, dtypes: dict[str, Any]) -> dict[str, Any]:
  """The attributes of `CodePrior`, from a config's section and the spec of records.

  Raises UserError: codes that are no vector, or of another number than the layout's; a text that is none.
  """
  name, shape, maps = model["name"], spec["codes"].shape, maps_of(tuple(model["layout"]))
  if not model["codes"] or not maps:
    raise UserError(
      f"model.name={name} needs to know its codes; set training.first_stage to a run with codes, or model.codes and "
      "model.layout"
    )
  if shape != (count(maps),):
    raise UserError(
      f"model.name={name} has {count(maps)} codes by model.layout={','.join(map(str, model['layout']))}, and the "
      f"records have {list(shape)}; leave out model.layout"
    )
  length = 0
  if model["condition"] == "text":
    if len(spec["text"].shape) != 1:
      raise UserError(
        f"model.condition=text takes texts [t], and the records have {list(spec['text'].shape)}"
      )
    (length,) = spec["text"].shape
  return {
    "maps": maps,
    "num_codes": model["codes"],
    "condition": model["condition"],
    "classes": model["classes"],
    "text_length": length,
    "text_tokens": model.get("text_tokens", TEXT_BYTES),
    **{name: model[name] for name in ("condition_drop", "width", "layers", "heads")},
    **dtypes,
  }
