"""(model output, step, images) -> total loss per example and its named parts. The only place where terms are weighted.

The terms of the bound are nats per image, summed over pixels and latents; means over pixels never enter them. Terms on
the reconstructed image (perceptual, SSIM, total variation) have no such unit and are off unless the config weighs them.
A loss is a mean of per-example terms, so it does not depend on how a batch is divided over devices or processes.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vae_jax import losses
from vae_jax.config import words
from vae_jax.data.images import decode
from vae_jax.errors import UserError, nearest
from vae_jax.metrics.structure import LEAST_SIDE, WINDOW
from vae_jax.perceptual import LPIPS, Extractor, load, load_lpips
from vae_jax.types import Array, ArrayLike, VAEOutput

Parts = dict[str, Array]


class Styled(NamedTuple):
  """For a run with a style loss: the network of the perceptual term, that of the style, and the style image's Gram
  matrices by layer, [1, c, c]."""

  perceptual: Extractor | LPIPS | None
  extractor: Extractor
  grams: dict[str, Array]


Perceptual = Extractor | LPIPS | Styled | None


class Objective(Protocol):
  """See `make_objective`."""

  def __call__(
    self,
    output: VAEOutput,
    step: ArrayLike,
    image: ArrayLike | None = None,
    perceptual: Perceptual = None,
  ) -> tuple[Array, Parts]: ...


def beta_at(step: ArrayLike, beta: float, schedule: str, period: int) -> Array:
  """The weight of the rate at a step.

  constant: beta. linear: from 0 to beta over `period` steps (Bowman et al. 2016). cyclical: in each period, from 0
  to beta over its first half, then beta (Fu et al. 2019, R = 0.5).
  """
  step = jnp.asarray(step, jnp.float32)
  if schedule == "constant":
    return jnp.full_like(step, beta)
  if schedule == "linear":
    return beta * jnp.minimum(step / period, 1.0)
  if schedule == "cyclical":
    return beta * jnp.minimum(2.0 * (step % period) / period, 1.0)
  raise ValueError(f"unknown schedule {schedule!r}; known: constant, linear, cyclical")


def _elbo(config: ConfigDict, output: VAEOutput, beta: Array) -> tuple[Array, Parts]:
  distortion = output.distortion.mean(axis=0)
  penalised = losses.free_bits(output.kl_units, config.free_bits)  # 0 bits: the rate itself
  weighted_distortion = config.vae_weight * config.alpha * distortion
  weighted_rate = config.vae_weight * beta * penalised
  parts = {"weighted_distortion": weighted_distortion, "weighted_rate": weighted_rate}
  return weighted_distortion + weighted_rate, parts


def _iwae(config: ConfigDict, output: VAEOutput, beta: Array) -> tuple[Array, Parts]:
  # alpha and beta would turn the importance weights into something that bounds nothing.
  bound = losses.iwae_loss(output.log_weight)
  return config.vae_weight * bound, {"neg_iwae": bound}


OBJECTIVES = {"elbo": _elbo, "iwae": _iwae}

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


def load_perceptual(config: ConfigDict) -> Perceptual:
  """What is frozen in `config.objective`, to pass to the step: the network of the perceptual term and, where there is a
  style loss, its network and the style image's Gram matrices. None where both are off.

  Raises UserError: a wrong layer, weights or a style image that are missing or damaged.
  """
  p, style = config.perceptual, config.style
  source = {"weights": p.weights, "sha256": p.sha256 or None, "dtype": p.dtype}
  network: Extractor | LPIPS | None = None
  if p.weight and p.distance == "lpips":
    network = load_lpips(p.network, heads=p.heads, **source)
  elif p.weight:
    network = load(p.network, words(p.layers), **source)
  if not style.weight:
    return network
  extractor = load(p.network, words(style.layers), **source)
  image = jnp.asarray(decode(style.image, channels=3)[None] / 255.0, jnp.float32)
  return Styled(network, extractor, {layer: losses.gram(x) for layer, x in extractor(image).items()})


def load_scoring_network(evaluation: ConfigDict) -> LPIPS | None:
  """The LPIPS network that `config.evaluation` asks for; None where it asks for none."""
  if evaluation.lpips == "none":
    return None
  return load_lpips(evaluation.lpips, weights=evaluation.lpips_weights, heads=evaluation.lpips_heads)


def _perceptual(
  config: ConfigDict, perceptual: Extractor | LPIPS | None, reconstruction: Array, image: Array
) -> Array:
  """The distance of reconstruction and image to the frozen network, [b]; the image's features have no gradient."""
  numbers = tuple(map(float, words(config.layer_weights)))
  weights = dict(zip(words(config.layers), numbers, strict=True)) if numbers else None

  def distance(perceptual: Extractor | LPIPS | None, reconstruction: Array) -> Array:
    if isinstance(perceptual, LPIPS):
      return perceptual(reconstruction, jax.lax.stop_gradient(image))
    assert perceptual is not None
    target = jax.lax.stop_gradient(perceptual(image))
    return losses.perceptual_loss(
      perceptual(reconstruction), target, weights, config.distance, config.unit_channels
    )

  return (jax.checkpoint(distance) if config.remat else distance)(perceptual, reconstruction)


def _style(remat: bool, styled: Styled, reconstruction: Array) -> Array:
  """`losses.style_loss` against Gram matrices that are known, [b]."""

  def distance(styled: Styled, reconstruction: Array) -> Array:
    features = styled.extractor(reconstruction)
    return sum(  # type: ignore[return-value]
      jnp.square(losses.gram(features[layer]) - gram).sum(axis=(1, 2)) for layer, gram in styled.grams.items()
    )

  return (jax.checkpoint(distance) if remat else distance)(styled, reconstruction)


def make_objective(config: ConfigDict) -> Objective:
  """The training objective of `config.objective`.

  elbo: vae_weight * (alpha * distortion + beta(step) * rate), the rate with free bits if asked for. With alpha = beta
  = 1 it is the negative evidence lower bound (Kingma & Welling 2014, eq. 3); beta is that of Higgins et al. 2017;
  vae_weight and alpha are the weights by which perceptual VAEs mix the bound with other terms.
  iwae: the negative importance-weighted bound over the output's samples (Burda et al. 2016, eq. 8).

  restoration: the distortion at the prior's mean, for models that have it; with the bound this is the hybrid objective
  of Sohn et al. 2015 (section 4.3), which trains the estimate that is given where the clean image is not known.
  Terms that compare output.reconstruction (see VAEOutput) with the clean image, where their weight is not 0:
  perceptual (its network comes as an argument, from `load_perceptual`), ssim, ms_ssim, total_variation. style: the
  Gram matrices of its features against those of a style image (Johnson et al. 2016, eq. 4), also from there.

  Returns (output, step, image, perceptual) -> (loss [b], parts: name -> [b]). Parts are logged as they are:
  `distortion`, `rate`, `neg_elbo` and image terms raw, those whose name begins with `weighted_` as they enter the loss.
  """
  terms = OBJECTIVES[config.name]
  image_terms = {name: term for name, term in IMAGE_TERMS.items() if config[name]}

  def objective(
    output: VAEOutput, step: ArrayLike, image: ArrayLike | None = None, perceptual: Perceptual = None
  ) -> tuple[Array, Parts]:
    beta = beta_at(step, config.beta, config.beta_schedule, config.beta_steps)
    loss, parts = terms(config, output, beta)
    distortion, rate = output.distortion.mean(axis=0), output.rate.sum(axis=-1)
    parts |= {"distortion": distortion, "rate": rate, "neg_elbo": distortion + rate}
    parts["beta"] = jnp.full_like(loss, beta)

    def add(name: str, weight: float, value: Array) -> None:
      nonlocal loss
      parts[name], parts[f"weighted_{name}"] = value, weight * value
      loss = loss + weight * value

    if output.restoration_distortion is not None:
      add("restoration", config.restoration, output.restoration_distortion)
    if config.style.weight:
      assert isinstance(perceptual, Styled)
      add("style", config.style.weight, _style(config.perceptual.remat, perceptual, output.reconstruction))
      perceptual = perceptual.perceptual
    if config.perceptual.weight:
      assert not isinstance(perceptual, Styled)
      value = _perceptual(config.perceptual, perceptual, output.reconstruction, jnp.asarray(image))
      add("perceptual", config.perceptual.weight, value)
    for name, term in image_terms.items():
      height, width = output.reconstruction.shape[1:3]
      if min(height, width) < LEAST_SIDES[name]:
        raise UserError(
          f"objective.{name}={config[name]} needs sides of at least {LEAST_SIDES[name]} pixels, and images have "
          f"{height} x {width}; set it to 0, or give a larger data.size"
        )
      add(name, config[name], term(output.reconstruction, jnp.asarray(image)))
    return loss, parts

  return objective
