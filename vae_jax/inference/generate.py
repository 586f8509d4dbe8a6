"""New images: draws from the prior, or from one that was fitted to the latents, decoded."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vae_jax import priors
from vae_jax.checks import extent
from vae_jax.errors import UserError, nearest, printable
from vae_jax.generator import standard
from vae_jax.inference.base import PIXEL_STREAM, PRIOR_STREAM, Base, as_key
from vae_jax.models.code_priors import CANDIDATE
from vae_jax.priors.base import Prior
from vae_jax.runs import Run
from vae_jax.storage import fitted
from vae_jax.training.steps import example_keys
from vae_jax.types import Array, ArrayLike, Batch, Key

MOST_CANDIDATES = 1000
# Options of `sample` for priors over codes: what a value must be, and its greatest; 0 for the number of codes.
OPTION_RULES: dict[str, tuple[str, float]] = {
  "top_k": ("an integer from 1 to {most}", 0),
  "top_p": ("a number > 0 and <= 1", 1.0),
  "guidance": ("a number >= 0", math.inf),
  "candidates": ("an integer from 1 to {most}", MOST_CANDIDATES),
}


class Generates(Base):
  """decode, latents, sample, fitted_prior."""

  def __init__(self, run: Run):
    super().__init__(run)
    self._decode = self._method("decode")
    self._draw_pixels = self._method("draw_pixels")
    self._latents = self._method("latents")
    self._generate = self._method("generate")
    self._log_prob = self._method("log_prob")

  def decode(self, z: ArrayLike, **condition: Any) -> Float[Array, "n h w c"]:
    """The mean of p(x | z), in [0, 1], for latents [n, latent_dim].

    condition: the fields that the family needs, such as label=7 or label=[n labels].
    """
    self.require("decode")
    z = jnp.asarray(z, jnp.float32)
    if z.ndim != 2 or z.shape[1] != self.module.units or not len(z):
      raise UserError(f"latents of shape {z.shape}: this model takes [n, {self.module.units}], n > 0")
    return self._decode(self.variables, z, self._condition(len(z), condition))

  def _has(self, method: str, otherwise: str) -> None:
    """Raises UserError where the family has no such method beside those of the contract."""
    if not hasattr(self.module, method):
      raise UserError(f"this run ({self.config.model.name}) {otherwise}")

  def _keys(self, key: Key, num: int, temperature: float, start: int = 0) -> Key:
    """A key for each example. Raises UserError for another number or temperature than there can be."""
    found = extent(temperature)
    if num < 1 or (found is not None and not 0 <= found.low <= found.high < math.inf):
      raise UserError(
        f"num = {num}, temperature = {temperature}: num must be at least 1, temperature at least 0 and finite"
      )
    return example_keys(key, PRIOR_STREAM, start + jnp.arange(num))

  @standard()
  def _noise(self, key: Key, num: int, temperature: float, start: int = 0) -> Any:
    keys = self._keys(key, num, temperature, start)
    return jax.vmap(lambda key: self.module.noise(key, self.spec))(keys)

  @standard()
  def _fitted_latents(
    self, prior: str | Prior, key: Key, num: int, temperature: float, start: int = 0
  ) -> Float[Array, "n d"]:
    prior = self.fitted_prior(prior) if isinstance(prior, str) else prior
    if not isinstance(prior, Prior):
      raise UserError(
        f"prior={str(prior)[:80]!r}: give {', '.join(map(repr, priors.KINDS))} or what priors.fit gives"
      )
    self.check_prior()
    if prior.units != self.module.units:
      raise UserError(f"a prior of {prior.units} latents: this model has {self.module.units}; fit one to it")
    keys = self._keys(key, num, temperature, start)
    return _transformed(prior, jax.vmap(prior.noise)(keys), temperature)

  def check_prior(self) -> None:
    """Raises UserError where no prior can be fitted to the model's latents."""
    name = self.config.model.name
    if self.first is not None:
      raise UserError(
        f"this run ({name}) is a second stage, itself a prior of its first stage's latents; fit one to the first stage"
      )
    for ability in ("encode", "decode"):
      self.require(ability)
    if self.module.conditions:
      needed = ", ".join(sorted(self.module.conditions))
      raise UserError(
        f"this run ({name}) has another density of latents for each {needed}, which one fitted prior would mix; it "
        "keeps its own prior"
      )

  @functools.cached_property
  def _digest(self) -> str:
    return self.run.digest

  def fitted_prior(self, kind: str) -> Prior:
    """The density of a kind, of `priors.KINDS`, that `--mode fit_prior` left beside this run or exported model.

    Raises UserError: there is none, it is damaged, or it was fitted to other weights than these.
    """
    if kind not in priors.KINDS:
      shown = str(kind)[:80]
      raise UserError(f"prior {shown!r} is unknown{nearest(shown, priors.KINDS, what='priors')}")
    self.check_prior()
    if not self.run.folder:
      raise UserError(f"prior {kind!r}: this model has no folder where a prior could lie; load it from one")
    arrays, meta = fitted.read(self.run.folder, kind)
    where = printable(f"{self.run.folder}/{fitted.FOLDER}/{kind}.json")
    if meta["weights"] != self._digest:
      step = meta.get("step")
      there = f"those of step {step}" if type(step) is int and step != self.step else "other weights"
      raise UserError(
        f"{where} was fitted to {there}, and this is step {self.step} with weights of digest {self._digest[:12]}; "
        f"{fitted.REMEDY}, or choose another --checkpoint"
      )
    try:
      return priors.from_arrays(kind, arrays, self.module.units)
    except Exception as error:  # whatever a stranger's numbers may cause
      words = " ".join(str(error).split())[:200]
      raise UserError(f"{where}: holds no such prior ({words}); {fitted.REMEDY}") from error

  def fitted_priors(self) -> list[str]:
    """The kinds of priors that lie beside this run, whatever weights they were fitted to."""
    return fitted.names(self.run.folder, priors.KINDS) if self.run.folder else []

  def latents(
    self,
    key: Key | int,
    num: int,
    temperature: float = 1.0,
    prior: str | Prior | None = None,
    **condition: Any,
  ) -> Array:
    """Draws [num, latent_dim] from the prior, its deviation scaled by the temperature. A second stage draws
    latents of its first stage.

    key: a key, or a seed. The first n of `num` do not depend on `num`. prior: as in `sample`.
    """
    if prior is not None:
      return self._fitted_latents(prior, as_key(key), num, temperature)
    self.require("sample")
    self._has("latents", "draws no latents; use sample")
    noise = self._noise(as_key(key), num, temperature)
    return self._latents(self.variables, noise, self._condition(num, condition), temperature)

  def sample(
    self,
    key: Key | int,
    num: int,
    temperature: float = 1.0,
    pixels: bool = False,
    start: int = 0,
    prior: str | Prior | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float | None = None,
    candidates: int | None = None,
    ranker: Any = None,
    **condition: Any,
  ) -> Float[Array, "n h w c"]:
    """New images in [0, 1]: the mean of p(x | z), or a draw from it with pixels=True.

    key: a key, or a seed such as 0.
    start: where to begin in the endless sequence of images that a key stands for, so that many are made in parts.
    prior: None for the family's own; "gaussian", "mixture" or "flow" for the one that `--mode fit_prior` left beside
    the run (UserError where it was fitted to other weights), or what `priors.fit` gives. The temperature scales the
    deviations of a Gaussian, those within the components of a mixture, the noise of a flow.
    top_k, top_p: of a prior over codes: each code is drawn from the k most probable; from the fewest whose
    probabilities add up to p (the nucleus). The temperature divides its logits, and 0 takes the most probable code.
    guidance: of one with a condition: how far to go from the logits without it to those with it; 1: as far as these.
    candidates: of one with a likelihood: draws the codes of so many images for each one, and gives the most probable,
    given its condition. Takes as many times as long.
    ranker: with candidates and text: a loaded captioner of images of this size. The candidate is given that has the
    greatest log p(text | image) + log p(codes | text) / number of codes.
    condition: the fields that the family needs, such as label=7 for all or label=[num labels]; text="a seven" or a
    list of num texts. The first stage decodes what a second stage draws.
    """
    key = as_key(key)
    if prior is None:
      self.require("sample")
    given_options = {"top_k": top_k, "top_p": top_p, "guidance": guidance, "candidates": candidates}
    options = self._options(given_options)
    draws = int(options.pop("candidates", 1))
    if ranker is not None:
      self._check_ranker(ranker, draws, condition.get("text"))
    if pixels:
      self._has("draw_pixels", f"draws no pixels; leave out pixels={pixels}")
    if prior is not None:
      z = self._fitted_latents(prior, key, num, temperature, start)
      given: Batch = self._condition(num, condition)
      return self._pixels(key, z, given, start) if pixels else self._decode(self.variables, z, given)
    noise = self._noise(key, num, temperature, start)
    fields: Batch = self._condition(num, condition)
    if pixels:
      return self._pixels(key, self._latents(self.variables, noise, fields, temperature), fields, start)
    more = (options,) if self.module.options else ()
    drawn = self._generate(self.variables, noise, fields, temperature, *more)
    if draws > 1:
      score = self._score(fields, ranker, condition.get("text"))
      drawn = self._best(drawn, draws, score, noise, fields, temperature, options)
    return drawn if self.first is None else self.first.from_stage(drawn)

  def _check_ranker(self, ranker: Any, draws: int, text: Any) -> None:
    """Raises UserError where a ranker has nothing to choose from, or cannot."""
    if not isinstance(ranker, Base):
      raise UserError(f"ranker={str(ranker)[:80]!r}: give a loaded captioner, vae_jax.load(its run)")
    if not ranker.can("caption"):
      name = ranker.config.model.name
      raise UserError(f"ranker is a run of {name}, which cannot tell how likely a text is; give a captioner")
    if draws < 2:
      raise UserError(
        f"ranker chooses among candidates, and there is {draws}; give candidates=8 (--candidates 8)"
      )
    one = text if isinstance(text, str) else next(iter(text if isinstance(text, (list, tuple)) else ()), None)
    if not isinstance(one, str):
      raise UserError("ranker reads a text, and none is given in words; give text='...', or leave out ranker")
    if ranker.image_shape != self.image_shape:
      theirs, ours = (" x ".join(map(str, shape)) for shape in (ranker.image_shape, self.image_shape))
      raise UserError(f"ranker is of images of {theirs}, and this run of {ours}; give a captioner of these")

  def _score(self, fields: Batch, ranker: Any, text: Any) -> Callable[[Array], Array]:
    """How good codes [n, k] are as candidates, [n]: their log probability, or what the ranker makes of it."""

    def score(codes: Array) -> Array:
      own = self._log_prob(self.variables, codes, fields)
      if ranker is None:
        return own
      return ranker.text_log_prob(self.first.from_stage(codes), text) + own / codes.shape[1]

    return score

  def _best(
    self,
    drawn: Array,
    draws: int,
    score: Callable[[Array], Array],
    noise: Any,
    fields: Batch,
    temperature: float,
    options: dict[str, float],
  ) -> Array:
    """The codes of `drawn` and draws - 1 more that have the greatest score."""
    best = score(drawn)
    for i in range(1, draws):
      keys = jax.vmap(lambda key, i=i: jax.random.fold_in(key, CANDIDATE + i))(noise)
      others = self._generate(self.variables, keys, fields, temperature, options)
      found = score(others)
      drawn = jnp.where((found > best)[:, None], others, drawn)
      best = jnp.maximum(found, best)
    return drawn

  def _options(self, given: dict[str, float | None]) -> dict[str, float]:
    """The options of `generate` that are given. Raises UserError: the model has no such, or one is out of range."""
    found = {name: value for name, value in given.items() if value is not None}
    for name, value in found.items():
      if name not in self.module.options:
        known = ", ".join(sorted(self.module.options)) or "none of these options"
        why = "; guidance needs model.condition, and model.condition_drop > 0 in training"
        why = why if name == "guidance" and self.module.options else ""
        raise UserError(
          f"{name}={value!r}: this run ({self.config.model.name}) takes {known}{why}; leave {name} out"
        )
      words, most = OPTION_RULES[name]
      most = most or self.config.model.codes
      whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
      number = isinstance(value, (float, np.floating)) and name not in ("top_k", "candidates")
      least = value >= 0 if name == "guidance" else value > 0
      if not ((whole or number) and least and value <= most and value < math.inf):
        raise UserError(f"{name}={value!r} must be {words.format(most=most)}")
    return found

  def _pixels(self, key: Key, z: Array, fields: Batch, start: int) -> Float[Array, "n h w c"]:
    part = jax.random.fold_in(key, PIXEL_STREAM)
    return self._draw_pixels(self.variables, z, fields, jax.random.fold_in(part, start) if start else part)


@jax.jit
def _transformed(prior: Prior, noise: Any, temperature: Any) -> Float[Array, "n d"]:
  return prior.transform(noise, temperature)
