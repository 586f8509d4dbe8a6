"""(model output, batch, step) -> total loss and its named parts. The only place where terms are weighted.

The terms of a family are nats per image, summed over pixels and latents; means over pixels never enter them. Terms on
the reconstructed image (perceptual, SSIM, total variation) have no such unit and are off unless the config weighs them.
A loss is a mean of per-example terms, so it does not depend on how a batch is divided over devices or processes. Terms
over a whole batch of latents (total correlation, DIP, MMD, free bits of means, the distance of the rate from a
capacity) are scalars that look at the examples of all devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float
from ml_collections import ConfigDict

from vae_jax import distributions as dist
from vae_jax import losses
from vae_jax.data.images import decode
from vae_jax.errors import UserError, nearest
from vae_jax.keys import words
from vae_jax.metrics.structure import LEAST_SIDE, WINDOW
from vae_jax.models.contract import Output, Whole
from vae_jax.perceptual import LPIPS, Extractor, load, load_lpips
from vae_jax.types import NO_FROZEN, Array, ArrayLike, Batch, Frozen, Key

Parts = dict[str, Array]
Step = ArrayLike | int
Weight = Array | float  # an array where members of one program differ in it
Schedule = Callable[[Step], Array]
Term = Callable[[Output, Batch, Step, Frozen], Float[Array, " b"]]
BatchTerm = Callable[[Output, Key, Step, Whole], Float[Array, ""]]


class Style(NamedTuple):
  """Frozen part of a style loss: its network, and the Gram matrices of the style image by layer, [1, c, c]."""

  extractor: Extractor
  grams: dict[str, Array]


class Objective(NamedTuple):
  """A loss as data; see `make_objective` for one from a config.

  bound: replaces the weighted distortion and rate by another bound of an output, [b]; None: it does not. Its part is
    `neg_` and its `name`, iwae where it has none.
  weights: of the family's terms, by name; a number or a schedule of the step. `rate` is penalised with free bits.
  free_bits: nats per latent and image below which the rate is not penalised (`losses.free_bits`).
  scale: of the bound, or of distortion and rate, beside the other terms.
  beta: the schedule of the rate's weight, to be logged; None where there is no rate.
  extra: terms per example with their weights, by name, in the order in which they are added.
  whole: terms over the batch with their weights, numbers or schedules, by name.
  ends: the values at which schedules among `weights` end, by name.
  bound_name: of distortion + rate among the parts: `Family.bound_name`.
  path, apart: how importance weights are differentiated in training: `Mode.path`, `Mode.apart`.
  """

  weights: dict[str, Weight | Schedule]
  bound: Callable[[Output], Float[Array, " b"]] | None = None
  free_bits: Weight = 0.0
  scale: Weight = 1.0
  beta: Schedule | None = None
  extra: dict[str, tuple[Weight, Term]] = {}  # noqa: RUF012  (never changed)
  whole: dict[str, tuple[Weight | Schedule, BatchTerm]] = {}  # noqa: RUF012
  ends: dict[str, Weight] = {}  # noqa: RUF012
  bound_name: str = "neg_elbo"
  path: bool = False
  apart: bool = False

  def __call__(
    self, output: Output, batch: Batch, step: Step, frozen: Frozen = NO_FROZEN
  ) -> tuple[Float[Array, " b"], Parts]:
    """(loss [b], parts: name -> [b]), without the terms over the batch.

    Parts are logged as they are: `distortion`, `rate`, their sum by `bound_name` and image terms raw; those whose name
    begins with `weighted_` as they enter the loss.
    """
    loss, parts = self._own_terms(output, step)
    parts |= {name: value for name, value in output.terms.items() if name not in parts}
    if self.bound_name and output.terms.keys() >= {"distortion", "rate"}:
      parts[self.bound_name] = output.terms["distortion"] + output.terms["rate"]
    if self.beta is not None:
      parts["beta"] = jnp.full_like(loss, self.beta(step))
    for name, (weight, term) in self.extra.items():
      value = term(output, batch, step, frozen)
      parts[name], parts[f"weighted_{name}"] = value, weight * value
      loss = loss + weight * value
    return loss, parts

  def at_the_end(self) -> Objective:
    """This objective with the weights at which its schedules end, so that losses of all steps compare.

    Without terms over the batch. Raises ValueError for a schedule whose end is not in `ends`.
    """
    scheduled = [name for name, weight in self.weights.items() if callable(weight)]
    for name in scheduled:
      if name not in self.ends:
        raise ValueError(
          f"the weight of {name!r} is a schedule; give Objective(ends={{{name!r}: ...}}) its last value"
        )
    return self._replace(
      weights=self.weights | {name: self.ends[name] for name in scheduled}, beta=None, whole={}
    )

  def _own_terms(self, output: Output, step: Step) -> tuple[Array, Parts]:
    parts: Parts = {}
    loss: Array | None = None
    names = list(self.weights)
    # Alpha and beta would turn importance weights into something that bounds nothing.
    if self.bound is not None:
      name = f"neg_{getattr(self.bound, 'name', 'iwae')}"
      parts[name] = self.bound(output)
      loss = self.scale * parts[name]
      names = [name for name in names if name not in ("distortion", "rate")]
    for name in names:
      given = self.weights[name]
      weight: Any = given(step) if callable(given) else given
      value = output.terms[name]
      if name == "rate" and output.kl_units is not None:
        value = losses.free_bits(output.kl_units, self.free_bits)  # 0 bits: the rate itself
      parts[f"weighted_{name}"] = (self.scale * weight if name in ("distortion", "rate") else weight) * value
      loss = parts[f"weighted_{name}"] if loss is None else loss + parts[f"weighted_{name}"]
    assert loss is not None, "a family has at least one term"
    return loss, parts

  def over_batch(
    self, output: Output, key: Key, step: Step, whole: Whole = lambda x: x
  ) -> tuple[Array, Parts]:
    """(loss, parts: name -> scalar) of the terms over the batch; `whole` gathers the examples of all devices."""
    loss, parts = jnp.zeros((), jnp.float32), {}
    for number, (name, (given, term)) in enumerate(self.whole.items()):
      weight: Any = given(step) if callable(given) else given
      value = term(output, jax.random.fold_in(key, number), step, whole)
      parts[name], parts[f"weighted_{name}"] = value, weight * value
      loss = loss + weight * value
    return loss, parts


SHORTEST = {"linear": 1, "cyclical": 2}  # steps of a period in which the weight leaves 0


def beta_at(step: Step, beta: Weight, schedule: str, period: int) -> Array:
  """The weight of the rate at a step.

  constant: beta. linear: from 0 to beta over `period` steps (Bowman et al. 2016). cyclical: in each period, from 0
  to beta over its first half, then beta (Fu et al. 2019, R = 0.5). Raises UserError for a period that is too short:
  1 for linear and 2 for cyclical at least.
  """
  step = jnp.asarray(step, jnp.float32)
  if schedule == "constant":
    return jnp.full_like(step, beta)
  if schedule in SHORTEST and period < SHORTEST[schedule]:
    raise UserError(f"a {schedule} schedule of beta over {period} steps; give at least {SHORTEST[schedule]}")
  if schedule == "linear":
    return beta * jnp.minimum(step / period, 1.0)
  if schedule == "cyclical":
    return beta * jnp.minimum(2.0 * (step % period) / period, 1.0)
  raise ValueError(f"unknown schedule {schedule!r}; known: constant, linear, cyclical")


# (reconstruction, image) -> [b]: each enters with the weight objective.NAME.
IMAGE_TERMS = {
  "ssim": losses.ssim_loss,
  "ms_ssim": losses.ms_ssim_loss,
  "total_variation": lambda reconstruction, image: losses.total_variation(reconstruction),
}
LEAST_SIDES = {"ssim": WINDOW, "ms_ssim": LEAST_SIDE, "total_variation": 1}


def apply_preset(config: ConfigDict, name: str) -> None:
  """Sets the keys of a published mix, one of `losses.PRESETS`, in a whole config: objective, likelihood, sigma.

  Raises UserError for an unknown name.
  """
  if name not in losses.PRESETS:
    raise UserError(f"preset {name!r} is unknown{nearest(name, losses.PRESETS, what='presets')}")
  preset, objective = losses.PRESETS[name], config.objective
  objective.name, objective.perceptual.distance, objective.perceptual.unit_channels = "elbo", "squared", False
  objective.vae_weight, objective.alpha, objective.beta = preset.vae_weight, preset.alpha, preset.beta
  objective.perceptual.weight, objective.perceptual.network = preset.weight, preset.network
  objective.perceptual.layers = ",".join(preset.layers)
  objective.perceptual.layer_weights = ",".join(map(str, preset.layer_weights))
  config.model.likelihood, config.model.sigma = preset.likelihood, preset.sigma


def load_frozen(objective: ConfigDict, evaluation: ConfigDict | None = None) -> Frozen:
  """The networks that a config's objective and scores need, by name: `perceptual`, `style`, `lpips`.

  Raises UserError: a wrong layer, weights or a style image that are missing or damaged.
  """
  p, style = objective.perceptual, objective.style
  frozen: Frozen = {}
  source = {"weights": p.weights, "sha256": p.sha256 or None, "dtype": p.dtype}
  if p.weight and p.distance == "lpips":
    frozen["perceptual"] = load_lpips(p.network, heads=p.heads, **source)
  elif p.weight:
    frozen["perceptual"] = load(p.network, words(p.layers), **source)
  if style.weight:
    extractor = load(p.network, words(style.layers), **source)
    image = jnp.asarray(decode(style.image, channels=3)[None] / 255.0, jnp.float32)
    frozen["style"] = Style(extractor, {layer: losses.gram(x) for layer, x in extractor(image).items()})
  if evaluation is not None and (lpips := load_scoring_network(evaluation)) is not None:
    frozen["lpips"] = lpips
  return frozen


def load_scoring_network(evaluation: ConfigDict) -> LPIPS | None:
  """The LPIPS network that `config.evaluation` asks for; None where it asks for none."""
  if evaluation.lpips == "none":
    return None
  return load_lpips(evaluation.lpips, weights=evaluation.lpips_weights, heads=evaluation.lpips_heads)


def _reconstruction(output: Output) -> Array:
  assert output.reconstruction is not None, "a term on the image needs a family that gives one back"
  return output.reconstruction


def perceptual_term(config: ConfigDict) -> Term:
  """The distance of reconstruction and image to frozen["perceptual"], [b], as `config.objective.perceptual` says.

  The image's features have no gradient.
  """
  numbers = tuple(map(float, words(config.layer_weights)))
  weights = dict(zip(words(config.layers), numbers, strict=True)) if numbers else None
  distance, unit_channels = config.distance, config.unit_channels

  def compare(network: Extractor | LPIPS, reconstruction: Array, image: Array) -> Array:
    if isinstance(network, LPIPS):
      return network(reconstruction, jax.lax.stop_gradient(image))
    target = jax.lax.stop_gradient(network(image))
    return losses.perceptual_loss(network(reconstruction), target, weights, distance, unit_channels)

  compare = jax.checkpoint(compare) if config.remat else compare

  def term(output: Output, batch: Batch, step: Step, frozen: Frozen) -> Array:
    images = _reconstruction(output), jnp.asarray(batch["image"])
    if config.shift and "place" in batch:  # in training; scores are those of the images as they are
      images = moved(*images, jnp.asarray(step), jnp.asarray(batch["place"]), config.shift)
    return compare(frozen["perceptual"], *images)

  return term


def moved(a: Array, b: Array, step: Array, place: Array, most: int) -> tuple[Array, Array]:
  """Images [b, h, w, c] and [b, h, w, c], moved alike by 0 to most - 1 rows and columns, around their borders.

  By how much depends on the step and the place in the batch: all moves come once in most^2 steps. A network with
  strides sees some rows better than others; without moves, what it rewards becomes a lattice.
  """
  rows, columns = (step + 3 * place) % most, (step // most + 5 * place) % most
  move = jax.vmap(lambda x, row, column: jnp.roll(x, (row, column), (0, 1)))
  return move(a, rows, columns), move(b, rows, columns)


def style_term(remat: bool) -> Term:
  """`losses.style_loss` against the Gram matrices of frozen["style"], [b]."""

  def compare(style: Style, reconstruction: Array) -> Array:
    features = style.extractor(reconstruction)
    return sum(  # type: ignore[return-value]
      jnp.square(losses.gram(features[layer]) - gram).sum(axis=(1, 2)) for layer, gram in style.grams.items()
    )

  compare = jax.checkpoint(compare) if remat else compare
  return lambda output, batch, step, frozen: compare(frozen["style"], _reconstruction(output))


def image_term(name: str, weight: Weight) -> Term:
  """One of `IMAGE_TERMS`. The term raises UserError for images that are too small for it."""

  def term(output: Output, batch: Batch, step: Step, frozen: Frozen) -> Array:
    reconstruction = _reconstruction(output)
    height, width = reconstruction.shape[1:3]
    if min(height, width) < LEAST_SIDES[name]:
      raise UserError(
        f"objective.{name}={weight} needs sides of at least {LEAST_SIDES[name]} pixels, and images have "
        f"{height} x {width}; set it to 0, or give a larger data.size"
      )
    return IMAGE_TERMS[name](reconstruction, jnp.asarray(batch["image"]))

  return term


def floor_of_means(nats: Weight, over: str) -> BatchTerm:
  """What `losses.free_bits_of_batch` adds to the mean rate. over: "batch", by latent; "group", by layer of latents."""

  def term(output: Output, key: Key, step: Step, whole: Whole) -> Array:
    found = output.kl_units if over == "batch" else output.rates
    assert found is not None, "free bits need a family with a rate of each latent and layer"
    kl = whole(found)
    return losses.free_bits_of_batch(kl, nats) - kl.mean(axis=0).sum()

  return term


def distance_to_capacity(capacity: Weight, steps: int) -> BatchTerm:
  """|rate - C|, in nats, of the batch's mean rate (Burgess et al. 2018, arXiv:1804.03599, eq. 8).

  C grows linearly from 0 to `capacity` over `steps` steps; steps = 0: it is `capacity` from the start.
  """

  def term(output: Output, key: Key, step: Step, whole: Whole) -> Array:
    share = jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1.0) if steps else 1.0
    return jnp.abs(whole(output.terms["rate"]).mean() - capacity * share)

  return term


def batch_terms(config: ConfigDict, examples: int) -> dict[str, tuple[Weight | Schedule, BatchTerm]]:
  """The terms over a batch of latents that `config.objective` weighs; `examples`: size of the training split."""

  def total_correlation(output: Output, key: Key, step: Step, whole: Whole) -> Array:
    z, mean, logvar = (whole(output.latents[name]) for name in ("z", "mean", "logvar"))
    return losses.total_correlation(z, mean, logvar, examples, config.total_correlation_estimate)

  def dip(output: Output, key: Key, step: Step, whole: Whole) -> Array:
    mean, logvar = (whole(output.latents[name]) for name in ("mean", "logvar"))
    return losses.dip_penalty(mean, logvar, 1.0, config.dip_diagonal, config.dip_kind)

  def mmd(output: Output, key: Key, step: Step, whole: Whole) -> Array:
    z = whole(output.latents["z"])
    return losses.mmd(z, jax.random.normal(key, z.shape, jnp.float32))

  known = {"total_correlation": total_correlation, "dip": dip, "mmd": mmd}
  return {name: (config[name], term) for name, term in known.items() if config.get(name)}


@dataclass(frozen=True)
class ImportanceBound:
  """A negative bound of importance weights: output -> nats, [b].

  name: iwae, miwae or ciwae (`dist.iwae_bound`, ...); piwae: that of the encoder is MIWAE, that of all else IWAE over
    all samples, which is its value.
  groups: of miwae and piwae; a single sample, as in evaluation, is one group. elbo_share: of ciwae.
  squared: the encoder has the gradient of `dist.dreg_bound`, for outputs with `log_weights` by `Mode.path`.
  """

  name: str
  groups: int = 1
  elbo_share: float = 0.5
  squared: bool = False

  def __call__(self, output: Output) -> Array:
    assert output.log_weight is not None, f"{self.name} needs a family with importance weights"
    model, posterior = ("iwae", "miwae") if self.name == "piwae" else (self.name, self.name)
    if not output.log_weights:
      return -self._of(model, output.log_weight)
    own = self._of(
      posterior, output.log_weights["posterior"], dist.dreg_bound if self.squared else dist.iwae_bound
    )
    return -(self._of(model, output.log_weights["model"]) + own - jax.lax.stop_gradient(own))

  def _of(
    self, name: str, log_weights: Array, bound: Callable[..., Array] = dist.iwae_bound
  ) -> Float[Array, " b"]:
    """The bound of that name, made of another."""
    if name == "miwae":
      return dist.miwae_bound(log_weights, self.groups if len(log_weights) > 1 else 1, bound)
    if name == "ciwae":
      return dist.ciwae_bound(log_weights, self.elbo_share, bound)
    return bound(log_weights, axis=0)


def importance_bound(config: ConfigDict) -> ImportanceBound | None:
  """The bound that `config.objective` names; None for the evidence bound."""
  if config.get("name", "elbo") == "elbo":
    return None
  return ImportanceBound(
    config.name,
    config.get("groups", 1),
    config.get("elbo_share", 0.5),
    config.get("gradient", "standard") == "dreg",
  )


def make_objective(
  config: ConfigDict, terms: tuple[str, ...], examples: int = 0, bound_name: str = "neg_elbo"
) -> Objective:
  """The training objective of `config.objective` for a family with `terms` and `bound_name`.

  elbo: vae_weight * (alpha * distortion + beta(step) * rate), the rate with free bits if asked for. With alpha = beta
  = 1 it is the negative evidence lower bound (Kingma & Welling 2014, eq. 3); beta is that of Higgins et al. 2017;
  vae_weight and alpha are the weights by which perceptual VAEs mix the bound with other terms. Free bits over batch or
  group are a term over the batch, `free_bits`: what the floor adds to the mean rate, with the weight of the rate. With
  objective.capacity, the rate itself has no weight, and the batch's |mean rate - C| has that of the rate (Burgess et
  al. 2018).
  iwae, miwae, ciwae, piwae: the negative importance-weighted bound over the output's samples (Burda et al. 2016, eq. 8;
  Rainforth et al. 2018), by the gradient that objective.gradient names.
  Other terms of the family, with the weight objective.NAME: `restoration` (Sohn et al. 2015, section 4.3), ...

  Terms that compare output.reconstruction with the clean image, where their weight is not 0: perceptual (its network
  comes as an argument, from `load_frozen`), ssim, ms_ssim, total_variation. style: the Gram matrices of its features
  against those of a style image (Johnson et al. 2016, eq. 4). Terms over the batch: total_correlation, dip, mmd.
  """
  o, p = config, config.perceptual
  weights: dict[str, Weight | Schedule] = {}
  beta: Schedule | None = None
  if "rate" in terms:
    beta = lambda step: beta_at(step, o.beta, o.beta_schedule, o.beta_steps)  # noqa: E731
  for name in terms:
    weights[name] = o.alpha if name == "distortion" else beta if name == "rate" and beta else o[name]
  extra: dict[str, tuple[Weight, Term]] = {}
  if o.style.weight:
    extra["style"] = (o.style.weight, style_term(p.remat))
  if p.weight:
    extra["perceptual"] = (p.weight, perceptual_term(p))
  extra |= {name: (o[name], image_term(name, o[name])) for name in IMAGE_TERMS if o[name]}
  bound = importance_bound(o) if "rate" in terms else None
  whole, nats = batch_terms(o, examples), o.get("free_bits", 0.0)
  if beta is not None:
    weight: Schedule = lambda step: o.vae_weight * beta(step)  # noqa: E731
    if o.get("free_bits_over", "example") != "example" and nats:
      whole, nats = whole | {"free_bits": (weight, floor_of_means(nats, o.free_bits_over))}, 0.0
    if o.get("capacity", 0.0):
      whole = whole | {"capacity": (weight, distance_to_capacity(o.capacity, o.capacity_steps))}
      weights["rate"] = 0.0
  return Objective(
    weights=weights,
    bound=bound,
    free_bits=nats,
    scale=o.vae_weight,
    beta=beta,
    extra=extra,
    whole=whole,
    ends={"rate": o.beta} if beta else {},
    bound_name=bound_name,
    path=o.get("gradient", "standard") != "standard",
    apart=bound is not None and (bound.squared or bound.name == "piwae"),
  )
