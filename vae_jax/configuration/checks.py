"""What a config must not say: values out of range, keys that contradict one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from vae_jax.configuration.chains import parse_chain
from vae_jax.configuration.members import member_configs, several, written
from vae_jax.configuration.sections import LATENT, LPIPS_NETWORKS, OBJECTIVE, RATE
from vae_jax.configuration.values import as_config, brief, keys_of, show, to_values
from vae_jax.errors import UserError
from vae_jax.keys import words
from vae_jax.models import family


def validate(config: ConfigDict, where: str = "") -> None:
  """Checks all that can be checked without data. Raises UserError for the first fault, after `where`."""
  fault = next(_faults(config), None)
  if fault:
    raise UserError(where + fault)


def _faults(config: ConfigDict) -> Iterator[str]:
  values = to_values(config)
  config, keys = as_config(values), keys_of(values["model.name"])  # whole, and of the right types
  for key, value in values.items():
    rule = keys[key].rule
    if rule and not rule.holds(value):
      yield f"{key}={brief(show(value))} must be {rule.words}"
    if isinstance(value, str) and "\0" in value:
      yield f"{key}={brief(show(value))} must be text without NUL"
  yield from _data_faults(config)
  yield from family(config.model.name).faults(config)
  yield from _objective_faults(config)
  yield from _training_faults(config, values)
  if several(config):
    yield from _member_faults(config)


def _data_faults(config: ConfigDict) -> Iterator[str]:
  data, degrade, likelihood = config.data, config.data.degrade, config.model.get("likelihood")
  if data.name in ("idx", "folder", "paired_folder", "npz") and not data.dir:
    yield f"data.name={data.name} needs data.dir; set it to the place of the data"
  if data.name == "paired_folder" and data.low == data.high:
    yield f"data.low={show(data.low)} and data.high={show(data.high)} must be two folders; change one"
  if data.captions == "files" and data.name != "folder":
    yield f"data.captions=files needs data.name=folder, and data.name={show(data.name)}; set data.captions=none"
  if data.captions == "words" and data.name in ("scenes", "sprites", "photos", "paired_folder"):
    yield f"data.captions=words needs labels, and data.name={data.name} has none; set data.captions=none"
  if data.without and data.name in ("scenes", "sprites", "photos", "paired_folder"):
    yield f"data.without={show(data.without)} needs labels, and data.name={data.name} has none; leave it out"
  if data.without and data.test in (data.train, data.validation):
    yield (
      f"data.without={show(data.without)} leaves images out of data.train and data.validation, and data.test="
      f"{data.test} is one of them; choose another data.test"
    )
  if data.mutate and data.name == "paired_folder":
    yield (
      f"data.mutate={data.mutate} changes clean images, and those of data.name=paired_folder bring their own degraded "
      "ones; set data.mutate=0"
    )
  if data.byte_pairs and data.captions == "none" and data.name not in ("scenes", "npz"):
    yield (
      f"data.byte_pairs={data.byte_pairs} needs texts, and data.name={show(data.name)} has none of its own; set "
      "data.captions to files or words, or data.byte_pairs=0"
    )
  if len(data.pairs) > 2 * data.byte_pairs:
    yield (
      f"data.pairs has {len(data.pairs) // 2} pairs, and data.byte_pairs={data.byte_pairs}; leave out data.pairs, "
      "which is filled in"
    )
  fixed = {"scenes": "captions", "sprites": "factors", "dsprites": "factors"}.get(data.name)
  if fixed and (data.flip or data.rotate):
    moved = "data.flip" if data.flip else "data.rotate"
    yield (
      f"{moved}=true moves the images of data.name={data.name}, and their {fixed} stay as they are; set {moved}=false"
    )
  if data.dequantize and data.binarize != "none":
    yield f"data.dequantize=true contradicts data.binarize={data.binarize}; choose one"
  if data.dequantize and likelihood in ("bernoulli", "logistic_mixture"):
    yield f"data.dequantize=true must be false for model.likelihood={likelihood}"
  if data.binarize != "none" and likelihood == "logistic_mixture":
    yield f"data.binarize={data.binarize} must be none for model.likelihood={likelihood}"
  if 0 < degrade.sigma_max < degrade.sigma:
    yield f"data.degrade.sigma_max={degrade.sigma_max} must be 0 or >= sigma={degrade.sigma}"
  if degrade.chain and degrade.name != "chain":
    yield f"data.degrade.chain is for data.degrade.name=chain, not {degrade.name}; set one of the two"
  if degrade.name == "chain":
    try:
      parse_chain(degrade.chain)
    except UserError as error:
      yield str(error)
  if data.rotate and (tuple(data.size) == (0, 0) or data.size[0] != data.size[1]):
    yield f"data.rotate=true needs a square data.size, such as 64,64, not {show(data.size)}"


def _objective_faults(config: ConfigDict) -> Iterator[str]:
  objective = config.objective
  if "beta" in objective:
    yield from _rate_faults(objective)
  perceptual = objective.perceptual
  given, wanted = len(words(perceptual.layer_weights)), len(words(perceptual.layers))
  if perceptual.weight and perceptual.distance != "lpips" and given not in (0, wanted):
    yield (
      f"objective.perceptual.layer_weights={show(perceptual.layer_weights)} has {given} numbers for {wanted} layers "
      f"({show(perceptual.layers)}); give one for each of objective.perceptual.layers"
    )
  if perceptual.weight and perceptual.distance == "lpips" and perceptual.network not in LPIPS_NETWORKS:
    yield (
      f"objective.perceptual.network={perceptual.network} has no LPIPS heads; give one of {', '.join(LPIPS_NETWORKS)}"
    )
  if objective.style.weight and not objective.style.image:
    yield f"objective.style.weight={objective.style.weight} needs objective.style.image; set it to a file"
  if objective.adversarial.weight and objective.adversarial.start >= config.training.steps:
    yield (
      f"objective.adversarial.start={objective.adversarial.start} must be < training.steps={config.training.steps}; "
      "or set objective.adversarial.weight=0"
    )


def _rate_faults(objective: ConfigDict) -> Iterator[str]:
  least = {"constant": 0, "linear": 1, "cyclical": 2}[objective.beta_schedule]
  if objective.beta_steps < least:
    yield f"objective.beta_schedule={objective.beta_schedule} needs objective.beta_steps >= {least}"
  if "name" not in objective:
    return
  if objective.free_bits_over != "example" and not objective.free_bits:
    yield f"objective.free_bits_over={objective.free_bits_over} needs objective.free_bits > 0"
  if objective.capacity and objective.free_bits:
    yield (
      f"objective.capacity={objective.capacity} contradicts objective.free_bits={objective.free_bits}: both change the "
      "term of the rate; set one of them to 0"
    )
  if objective.capacity_steps and not objective.capacity:
    yield f"objective.capacity_steps={objective.capacity_steps} needs objective.capacity > 0"
  for name in ("beta", "beta_schedule", "free_bits", "capacity", "alpha") if objective.name != "elbo" else ():
    default = (OBJECTIVE | RATE)[f"objective.{name}"].default
    if objective[name] != default:
      yield f"objective.{name}={objective[name]} must be {default} for objective.name={objective.name}"


def _training_faults(config: ConfigDict, values: Mapping[str, Any]) -> Iterator[str]:
  objective, t = config.objective, config.training
  if t.fsdp and t.parallel == "pmap":
    yield "training.fsdp=true must be false for training.parallel=pmap, which keeps all on every device"
  if t.batch_size % t.accumulate:
    yield (
      f"training.accumulate={t.accumulate} must divide training.batch_size={t.batch_size}, "
      f"e.g. training.batch_size={-(-t.batch_size // t.accumulate) * t.accumulate}"
    )
  if t.accumulate > 1 and objective.adversarial.weight:
    yield (
      f"training.accumulate={t.accumulate} must be 1 with an adversarial term, whose weight is one of the whole batch"
    )
  whole = [key for key in LATENT if LATENT[key].default == 0.0 and values.get(key)]
  if t.accumulate > 1 and (over := [*whole, *(["objective.capacity"] if objective.get("capacity") else [])]):
    yield f"training.accumulate={t.accumulate} must be 1 with {over[0]}, a term over the whole batch"
  if t.accumulate > 1 and objective.get("free_bits_over", "example") != "example":
    yield (
      f"training.accumulate={t.accumulate} must be 1 with objective.free_bits_over={objective.free_bits_over}, a mean "
      "over the whole batch"
    )
  if t.batch_size == 1 and whole:
    yield f"training.batch_size=1 must be at least 2 with {whole[0]}, a term over the whole batch"
  if t.first_stage_digest and not t.first_stage:
    shown = brief(show(t.first_stage_digest))
    yield f"training.first_stage_digest={shown} needs training.first_stage; set it to that run"


def _member_faults(config: ConfigDict) -> Iterator[str]:
  """Why several runs cannot be trained in one program, and what is wrong with one of them."""
  t = config.training
  named = written(config)
  if t.parallel == "pmap":
    yield f"{named} needs training.parallel=jit, not pmap; change one of the two"
  if t.fsdp:
    yield f"{named} needs training.fsdp=false: each device keeps all members; change one of the two"
  if t.wandb:
    yield f"{named} needs training.wandb='', which follows one run in a process; leave it out"
  try:
    for number, member in enumerate(member_configs(config)):
      if fault := next(_faults(member), None):
        yield f"{named}, member {number}: {fault}"
  except UserError as error:
    yield str(error)
