"""A trained run as data: config, variables, spec. For training, which may build on one, and for inference.

Nothing in a run's folder is executed, whoever made it: weights and their description are data, compared with one
another before they take memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from vae_jax.configuration import from_json, member_folders, show
from vae_jax.data import text
from vae_jax.data.images import MAX_PIXELS
from vae_jax.data.prepare import LATENTS
from vae_jax.distributions import Gaussian, sample
from vae_jax.errors import UserError, printable
from vae_jax.generator import new_key
from vae_jax.models import build
from vae_jax.models.contract import Family, init_variables
from vae_jax.storage import exported
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.storage.plain_paths import local_folder
from vae_jax.types import (
  FIELDS,
  MODELLED,
  NO_FROZEN,
  Array,
  Batch,
  Frozen,
  Key,
  Shape,
  Spec,
  Variables,
  image_shape,
  image_spec,
  input_shape,
)

MAX_SIDE, MAX_CHANNELS = 2**16, 16  # of images that a file may speak of
MAX_FACTOR, MAX_MULTIPLE = 64, 4096


class Run(NamedTuple):
  """A trained run. variables: the averaged ones, on the host. first: the stage below, which stays frozen. folder: where
  it was read from."""

  config: ConfigDict
  variables: Variables
  spec: Spec
  step: int
  first: Run | None = None
  folder: str = ""

  @property
  def module(self) -> Family:
    """The model, without its variables."""
    return build(self.config.model, self.spec, self.config.training.dtype)

  @property
  def digest(self) -> str:
    """sha256 of the variables: names, shapes, types and bytes."""
    total = hashlib.sha256()
    for name, x in sorted(flatten_dict(self.variables, sep="/").items()):
      x = np.ascontiguousarray(x)
      total.update(f"{name}\0{x.dtype.name}\0{x.shape}\0".encode())
      total.update(x.tobytes())
    return total.hexdigest()


def describe_spec(spec: Spec) -> dict[str, Any]:
  """A spec as JSON data, for checkpoints and exported models."""
  return {
    "spec": {name: [list(x.shape), x.dtype.name] for name, x in spec.items()},
    "image_shape": list(image_shape(spec)),
    "input_shape": list(input_shape(spec)),
  }


def open_run(workdir: str | Path, checkpoint: str | int = "newest", single: bool = False) -> Run:
  """Reads a run: the folder of one, or of an exported model, or the name of a model that comes with the project.

  checkpoint: "newest", "best" or a step. single: refuses a run that has a first stage. Raises UserError where there is
  no such run or checkpoint, or it is damaged.
  """
  folder = find(workdir)
  if exported.is_model(folder):
    if checkpoint != "newest":
      raise UserError(f"checkpoint = {checkpoint!r}: {folder} has one set of weights; leave it out")
    variables, meta, below = exported.read(folder)
  else:
    variables, meta = _from_checkpoint(folder, checkpoint)
    below = None
  try:
    run = _checked(variables, meta, str(folder))._replace(folder=str(folder))
    if single and run.config.training.first_stage:
      raise UserError(f"{folder} is a second stage itself; name a run without a first stage")
    if exported.is_model(folder) and bool(run.config.training.first_stage) != (below is not None):
      has = "without" if below is None else "with"
      raise UserError(f"{folder}: comes {has} a first stage, its config says otherwise; export it again")
    if not run.config.training.first_stage:
      return run
    if below is not None:
      first = _checked(*below, f"{folder}: first stage")
      if first.digest != run.config.training.first_stage_digest:
        raise UserError(f"{folder}: its first stage is not the one that it was trained on; export it again")
      fill_codes(run.config, first)
      return run._replace(first=first)
    return run._replace(first=open_first_stage(run.config, beside=folder))
  except UserError:
    raise
  except Exception as error:  # whatever a model trips over that is made from a stranger's numbers
    words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    raise UserError(f"{folder}: does not describe a model ({words}); train or fetch it again") from error


def find(workdir: str | Path) -> Path:
  """The folder of a run, of an exported model, or of one that comes with the project. Raises UserError.

  A folder of that name that holds neither, such as one of pictures, is not what is meant."""
  folder = local_folder(workdir)
  holds = any((folder / name).exists() for name in ("checkpoints", "config.json", exported.WEIGHTS))
  if not holds and str(workdir) in exported.names():
    folder = exported.FOLDER / str(workdir)
  if not folder.is_dir():
    known = f", or one of {', '.join(exported.names())}" if exported.names() else ""
    raise UserError(f"{printable(str(folder))}: no such run; give the folder of one{known}")
  if members := member_folders(folder):
    raise UserError(
      f"{printable(str(folder))}: holds {len(members)} runs that were trained together; give the folder of one, such "
      f"as {printable(str(members[0]))}"
    )
  return folder


def open_first_stage(config: ConfigDict, beside: Path | None = None) -> Run | None:
  """The run that `config.training.first_stage` names, None where it names none; sets the digest where it is empty.

  beside: a run's folder; a relative path that does not lead anywhere from here is tried from there.

  Raises UserError: no such run, or one whose weights have another digest than the config's.
  """
  t = config.training
  if not t.first_stage:
    return None
  place = local_folder(t.first_stage)
  if beside is not None and not place.is_dir() and (beside / place).is_dir():
    place = beside / place
  if beside is None and not place.is_dir() and t.first_stage not in exported.names():
    raise UserError(
      f"training.first_stage={t.first_stage}: no such run; train it first, as the first lines of the config say, or "
      "give the folder of one"
    )
  try:
    stage = open_run(place, single=True)
  except UserError as error:
    raise UserError(f"training.first_stage={t.first_stage}: {error}") from error
  digest = stage.digest
  if t.first_stage_digest and t.first_stage_digest != digest:
    raise UserError(
      f"training.first_stage={t.first_stage} has weights of digest {digest[:12]}, and this run was trained on "
      f"{t.first_stage_digest[:12]}; give the first stage that it was trained on, or start another run"
    )
  t.first_stage_digest = digest
  fill_codes(config, stage)
  return stage


def fill_codes(config: ConfigDict, stage: Run) -> None:
  """Sets what a model of codes knows of its first stage, `model.codes` and `model.layout`, where they are empty.

  Raises UserError where they are those of another first stage."""
  model, module = config.model, stage.module
  if "layout" not in model:
    return
  if not module.codes:
    raise UserError(
      f"training.first_stage={config.training.first_stage}: {stage.config.model.name} has no codes, and "
      f"{model.name} learns codes; give a run with codes, such as one of vq_vae"
    )
  for key, found in ("codes", module.codes), ("layout", tuple(n for level in module.layout for n in level)):
    if model[key] and model[key] != found:
      raise UserError(
        f"model.{key}={show(model[key])}, and training.first_stage={config.training.first_stage} has {show(found)}; "
        f"leave out model.{key}, or give the first stage that has it"
      )
    model[key] = found


def fill_texts(config: ConfigDict) -> None:
  """Sets `model.text_tokens`, where the model has it, to the tokens that `data.pairs` makes."""
  if "text_tokens" in config.model:
    config.model.text_tokens = text.vocabulary(config.data.pairs)


def with_first_stage(prepare: Any, stage: Run) -> Any:
  """`prepare` that adds what the first stage makes of the images: `codes` of one with tokens, else `latents`, a draw
  from its posterior q(z | x). The stage's variables are frozen["first_stage"].

  Draws, not means, in training and in evaluation: what a second stage models is the distribution of z over all images,
  which is the prior's place in the first stage (Dai & Wipf 2019, section 4). Means have another one, which lacks the
  posteriors' noise. A draw depends on the example's key alone, so each training step has a new one, and the scores of a
  split have the same ones each time.
  """
  module = stage.module
  if "tokens" not in module.can and "encode" not in module.can:
    raise UserError(
      f"training.first_stage: {stage.config.model.name} cannot encode images; train one that can"
    )
  if module.conditions:
    needed = ", ".join(sorted(module.conditions))
    raise UserError(
      f"training.first_stage: {stage.config.model.name} needs a {needed} of each image that it decodes, and a second "
      "stage makes none; train one that needs none"
    )

  def both(keys: Key, batch: Batch, frozen: Frozen = NO_FROZEN) -> Batch:
    ready = prepare(keys, batch, frozen)
    if brought := [name for name in MODELLED if name in ready]:
      raise UserError(
        f"training.first_stage makes {brought[0]!r}, and the records bring their own; leave out one of them"
      )
    variables = jax.lax.stop_gradient(frozen["first_stage"])
    if "tokens" in module.can:
      codes: Any = module.apply(variables, ready, method="tokens")
      return {**ready, "codes": codes}
    found: Any = module.apply(variables, ready, method="encode")
    return {**ready, "latents": _draws(keys, found)}

  return both


def _draws(keys: Key, posterior: Gaussian) -> Array:
  """A draw from each row of a posterior, by its own key."""

  def noise(key: Key) -> Array:
    return jax.random.normal(jax.random.fold_in(key, LATENTS), posterior.mean.shape[1:], jnp.float32)

  return sample(posterior, jax.vmap(noise)(keys))


def decoded_by(stage: Run) -> Callable[[Array, Frozen], Array]:
  """`images(drawn, frozen)`: what a second stage draws, codes or latents, as images of its first stage."""
  module = stage.module
  method = "from_tokens" if "tokens" in module.can else "decode"

  def images(drawn: Array, frozen: Frozen) -> Array:
    return module.apply(frozen["first_stage"], drawn, {}, method=method)  # type: ignore[return-value]

  return images


def _checked(variables: Variables, meta: dict[str, Any], where: str) -> Run:
  """A run whose description and weights agree. Raises UserError or ValueError."""
  config = from_json(json.dumps(meta["config"]), where)
  spec = _spec(meta)
  if type(meta["step"]) is not int or meta["step"] < 0:
    raise ValueError(f"step {str(meta['step'])[:80]!r}")
  _check_weights(config, variables, spec)
  return Run(config, variables, spec, meta["step"])


def _spec(meta: dict[str, Any]) -> Spec:
  """Returns the spec that a file states; before format 2 it had the shapes of images alone. Raises ValueError."""
  shape, given = _shape(meta["image_shape"]), _shape(meta["input_shape"])
  if "spec" not in meta:
    return image_spec(shape, given)
  spec: Spec = {}
  for name, (dims, dtype) in meta["spec"].items():
    if name not in FIELDS or dtype not in ("float32", "int32"):
      raise ValueError(f"field {name[:80]!r} of type {str(dtype)[:80]!r}")
    if len(dims) > 4 or not all(type(n) is int and 0 < n <= MAX_PIXELS for n in dims):
      raise ValueError(f"field {name!r} of shape {str(dims)[:80]}")
    spec[name] = jax.ShapeDtypeStruct(tuple(dims), jnp.dtype(dtype))
  if image_shape(spec) != shape or input_shape(spec) != given:
    raise ValueError(f"fields of {image_shape(spec)} and {input_shape(spec)}, images of {shape} and {given}")
  return spec


def _shape(given: Any) -> Shape:
  """(h, w, c) of what a file says. Raises ValueError where no image is of that shape."""
  if not (isinstance(given, list) and len(given) == 3 and all(type(n) is int and n > 0 for n in given)):
    raise ValueError(f"{str(given)[:80]} is no shape of an image")
  height, width, channels = given
  if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS or channels > MAX_CHANNELS:
    raise ValueError(f"images of {height} x {width} x {channels} are too large")
  return height, width, channels


def _check_weights(config: ConfigDict, variables: Variables, spec: Spec) -> None:
  """Raises ValueError unless `variables` are those of the model that the config describes.

  No memory is taken for that model, which may be of any size, and no more time than its numbers of layers allow: the
  rules of their keys bound them, and each layer has an array.
  """
  held = flatten_dict(variables, sep="/")
  model = config.model
  layers = max(
    [
      *(model.get(key, 0) for key in ("blocks", "num_res_blocks", "layers")),
      *(len(value) for value in model.values() if isinstance(value, tuple)),
    ]
  )
  if layers > len(held):
    raise ValueError(f"its config has {layers} layers and more, its weights are {len(held)} arrays")
  module = build(model, spec, config.training.dtype)
  if "tile" in module.can:  # of any size of image; here the least one
    side, factor = module.multiple, module.factor  # type: ignore[attr-defined]
    if side * factor > MAX_MULTIPLE or factor > MAX_FACTOR:
      raise ValueError(f"it works on squares of {side} pixels and enlarges {factor} times")
    channels = image_shape(spec)[2]
    spec = image_spec((side * factor, side * factor, channels), (side, side, input_shape(spec)[2]))
  tree = jax.eval_shape(lambda key: init_variables(module, spec, key), new_key(0))
  wanted = flatten_dict(tree, sep="/")
  for name in sorted(wanted.keys() | held.keys()):
    has, needs = (f"{x[name].dtype}{list(x[name].shape)}" if name in x else "nothing" for x in (held, wanted))
    if has != needs:
      raise ValueError(
        f"{name.removeprefix('params/')[:80]!r}: the weights have {has}, the model of its config has {needs}"
      )


def _from_checkpoint(folder: Path, checkpoint: str | int) -> tuple[Variables, dict[str, Any]]:
  checkpoints = Checkpoints(folder / "checkpoints")
  step = None if checkpoint in ("newest", "best") else checkpoint
  if not (step is None or isinstance(step, int)):
    raise UserError(f"checkpoint = {checkpoint!r}: must be 'newest', 'best' or a step")
  if checkpoint == "best":
    step = checkpoints.best()
    if step is None and checkpoints.steps():
      raise UserError(f"{folder}: none of its checkpoints has a score yet; choose the newest or a step")
  params, meta = checkpoints.restore(step, only=("ema", "params"))
  rest = checkpoints.restore(meta["step"], only="rest")[0] if checkpoints.has(meta["step"], "rest") else {}
  return {"params": params, **rest}, meta
