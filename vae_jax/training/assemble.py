"""config -> parts: everything that a run is made of, built and checked before the first step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vae_jax import models, runs
from vae_jax.configuration.values import differences, show, to_values
from vae_jax.data import byte_pairs, pipeline
from vae_jax.data.prepare import check_first_batch, check_likelihood, make_prepare
from vae_jax.data.sources import Source, open_source, overlap, report
from vae_jax.errors import UserError
from vae_jax.generator import RECORD, new_key
from vae_jax.models import build, family
from vae_jax.models.contract import Family
from vae_jax.models.opponent import Opponent
from vae_jax.objectives import load_frozen, make_objective
from vae_jax.progress import tell
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training import drawing, parallel, scoring, state, steps
from vae_jax.training import workdir as workdirs
from vae_jax.training.opponents import latent_opponent, pixel_opponent
from vae_jax.types import MODELLED, Batch, Frozen, Key, Spec, input_shape, seen

BEGIN = 1  # folded into the run's seed, for what is drawn of the images that parameters begin at
FEW = 2000  # images of colour; from fewer, samples are fog


class Split(NamedTuple):
  """A split ready to be iterated: its source, and its arrays if they fit on the device (else None)."""

  source: Source
  arrays: dict[str, np.ndarray] | None


class Parts(NamedTuple):
  """A run before its first step.

  spec: of a prepared record. like: the state's shapes and where they lie. train_call, eval_step, draw: compiled
  functions. prepare: as evaluation prepares batches. rated: name of the score that chooses the best checkpoint. meta:
  what checkpoints keep beside the state.
  """

  config: ConfigDict
  placement: parallel.Placement
  train: Split
  held_out: Split
  eval_batch_size: int
  spec: Spec
  model: Family
  checkpoints: Checkpoints
  init: Any
  like: state.TrainState
  train_call: Any
  eval_step: Any
  draw: Any
  frozen: Frozen
  prepare: steps.Prepare
  rated: str
  meta: dict[str, Any]


class Roots(NamedTuple):
  """The keys of a run, by what is drawn from them."""

  init: Key
  train: Key
  evaluation: Key
  pictures: Key


class Opened(NamedTuple):
  """What runs that are trained together share.

  prepares: of batches, by whether they are for training. shown: the images of pictures.
  """

  placement: parallel.Placement
  train: Split
  held_out: Split
  eval_batch_size: int
  prepares: dict[bool, steps.Prepare]
  spec: Spec
  frozen: Frozen
  stage: runs.Run | None
  shown: Batch


class Functions(NamedTuple):
  """What a run computes: pure functions, before they are compiled. rated: as in `Parts`."""

  model: Family
  init: Callable[[], state.TrainState]
  train_call: steps.Step
  eval_step: Callable[..., Any]
  draw: Callable[..., Any]
  rated: str


def open_splits(data: ConfigDict, *names: str) -> list[Split]:
  """Opens splits, then decodes those whole that are small enough to stay on the device. Raises UserError."""
  sources = [open_source(data, name) for name in names]  # all of them first: decoding takes long
  return [Split(source, pipeline.resident(data, source)) for source in sources]


def prepared_spec(prepare: steps.Prepare, batch: Batch, frozen: Frozen) -> Spec:
  """Shapes and types of one record after `prepare`, from a batch on the host; nothing is computed."""
  n = len(np.asarray(batch["image"]))
  keys = jax.eval_shape(lambda: jax.random.split(new_key(0), n))
  record: Any = {name: x for name, x in batch.items() if name not in ("index", "mask")}
  like = jax.eval_shape(prepare, keys, record, frozen)
  return {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in sorted(like.items())}


def check_fields(split: Split, model: Family, config: ConfigDict, name: str) -> None:
  """Refuses a split, by name, without what the model needs beside images, or with labels that it has no place for.

  The labels of streamed splits are checked batch by batch."""
  held = split.source[0] if split.arrays is None else split.arrays
  for field in sorted(model.conditions - held.keys()):
    raise UserError(
      f"model.name={config.model.name} needs the field {field!r}, and the split {name!r} of "
      f"data.name={config.data.name} has none; {_remedy(field, split.source, config)}"
    )
  if (classes := models.classes(config.model)) and split.arrays is not None:
    pipeline.check_labels(split.arrays["label"], classes, config.data.name)


def _check_given(config: ConfigDict, spec: Spec, source: Source) -> None:
  """Refuses records without the label or text that a family needs, by their `spec`. source: where they are from."""
  for field in sorted(models.needs(config.model) & {"label", "text"} - spec.keys()):
    raise UserError(
      f"model.name={config.model.name} needs the {field} of each image, and the split {config.data.validation!r} of "
      f"data.name={config.data.name} has none; {_remedy(field, source, config)}"
    )


def _remedy(field: str, source: Source, config: ConfigDict) -> str:
  if field == "text":
    return "set data.captions to files or words (docs/data.md), or data.name=scenes"
  if config.data.name != "folder":
    return "give it one, or choose another split"
  loose = f" ({len(source.loose)} lie outside, e.g. {source.loose[0]})" if source.loose else ""
  return f"put each image into a folder of its class, as in {config.data.dir}/cats/1.png{loose}"


def _classes(config: ConfigDict, train: Split) -> str:
  """data.classes of a model with labels: the class folders, where there are some. Raises UserError: another number."""
  names, classes = train.source.classes, models.classes(config.model)
  if not names or not classes:
    return config.data.classes
  if odd := [name for name in names if "," in name]:
    raise UserError(f"data.dir={config.data.dir}: the class folder {odd[0]!r} has a comma; rename it")
  if len(names) != classes:
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    raise UserError(
      f"model.classes={classes}, and data.dir={config.data.dir} has {len(names)} class folders ({shown}); "
      f"set model.classes={len(names)}"
    )
  return ",".join(names)


def _first_batch(
  config: ConfigDict, train: Split, held_out: Split, size: int, fresh: bool
) -> tuple[Batch, list[str]]:
  """The first batch of validation, checked against the config, and remarks on the two splits. fresh: a run begins."""
  data = config.data
  first = next(pipeline.batches(data, held_out.source, batch_size=size, training=False))
  check_first_batch(first, data, pipeline.image_shape(data, train.source))
  remarks = check_likelihood(np.asarray(first["image"]), data, config.model.get("likelihood"), fresh)
  if overlap(train.source, held_out.source):
    remarks.append(
      f"data.validation={data.validation} has images of data.train={data.train}: its scores are of images that are "
      "trained on"
    )
  return first, [*remarks, *_few(config, len(train.source), np.asarray(first["image"]).shape[-1])]


def _few(config: ConfigDict, images: int, channels: int) -> list[str]:
  """A remark where a model that draws new images has too few of colour to learn from."""
  if images >= FEW or channels != 3 or "sample" not in family(config.model.name).FAMILY.CAN:
    return []
  return [
    f"data.train={config.data.train} has {images} images: from so few a model learns to rebuild images and to draw "
    f"paths between them (--mode interpolate), but not to draw new ones; those need {FEW} or more that are alike"
  ]


def roots(seed: int) -> Roots:
  """The keys of a run."""
  init, train, evaluation = jax.random.split(new_key(seed), 3)
  return Roots(init, train, evaluation, new_key(seed))


def place(config: ConfigDict) -> parallel.Placement:
  """The placement that `config.training` asks for, over all devices."""
  t = config.training
  return parallel.make_placement(t.batch_size, way=t.parallel, fsdp=t.fsdp)


def open_checkpoints(config: ConfigDict, workdir: Path) -> Checkpoints:
  """The checkpoints of a run in its folder, where `workdirs.check` accepts the config."""
  checkpoints = Checkpoints(workdir / "checkpoints", keep=config.training.keep)
  workdirs.check(config, workdir, checkpoints)
  return checkpoints


def assemble(config: ConfigDict, workdir: Path) -> Parts:
  """Opens the data, builds the model and compiled functions, and checks the workdir. Raises UserError."""
  placement, stage = place(config), runs.open_first_stage(config)
  checkpoints = open_checkpoints(config, workdir)  # before the data, which may take long to open
  opened = open_data(config, placement, stage, checkpoints.latest() is None)
  functions = make_functions(config, opened, roots(config.training.seed))
  check_data(config, opened, functions.model)
  like, where = state_like(functions, placement)
  return make_parts(
    config,
    opened,
    functions,
    checkpoints,
    like,
    init=jax.jit(functions.init, out_shardings=where),
    train_call=parallel.compile_train_call(functions.train_call, placement, like),
    eval_step=parallel.compile_eval_step(functions.eval_step, placement, like.averaged),
    draw=drawing.compile_draw(functions.draw, opened.shown, placement),
  )


def open_data(
  config: ConfigDict, placement: parallel.Placement, stage: runs.Run | None, fresh: bool
) -> Opened:
  """Opens the splits and frozen networks, and fills in what the config says of them. fresh: a run begins."""
  data = config.data
  eval_size = -(-config.evaluation.batch_size // placement.mesh.size) * placement.mesh.size
  with parallel.first_alone():
    if data.byte_pairs and not data.pairs:
      data.pairs = byte_pairs.learned(data)
    runs.fill_texts(config)
    train, held_out = open_splits(data, data.train, data.validation)
  first, remarks = _first_batch(config, train, held_out, eval_size, fresh)
  if jax.process_index() == 0:
    report([train.source, held_out.source], remarks)
  frozen = load_frozen(config.objective, config.evaluation)
  prepares = {training: make_prepare(data, training=training) for training in (True, False)}
  spec = prepared_spec(prepares[False], first, frozen)
  _check_given(config, spec, held_out.source)
  _check_first_stage(config, stage, spec)
  if stage is not None:
    frozen["first_stage"] = stage.variables
    prepares = {training: runs.with_first_stage(prepare, stage) for training, prepare in prepares.items()}
    spec = prepared_spec(prepares[False], first, frozen)
  shown = drawing.shown(config, held_out.source)
  return Opened(placement, train, held_out, eval_size, prepares, spec, placement.put(frozen), stage, shown)


def check_data(config: ConfigDict, opened: Opened, model: Family) -> None:
  """Refuses splits without what the model needs, and sets data.classes."""
  data, train = config.data, opened.train
  data.classes = _classes(config, train)
  if data.classes and jax.process_index() == 0:
    report([], [f"labels: {', '.join(f'{i} {name}' for i, name in enumerate(data.classes.split(',')))}"])
  check_fields(train, model, config, data.train)
  check_fields(opened.held_out, model, config, data.validation)


def make_functions(config: ConfigDict, opened: Opened, roots: Roots) -> Functions:
  """What a run computes. In a traced program the keys and a number of the config may be traced. Raises UserError."""
  t, spec = config.training, opened.spec
  model: Family = build(config.model, spec, t.dtype)
  tx = state.make_optimizer(t)
  opponents = make_opponents(config, spec)
  images = len(opened.train.source)
  objective = make_objective(config.objective, model.terms, images, model.bound_name)
  if not model.reconstructs:
    _refuse_image_terms(config, [*objective.extra, *opponents])

  def init() -> state.TrainState:
    return state.init_state(model, tx, spec, roots.init, ema=t.ema_decay > 0, opponents=opponents)

  train_step = steps.make_train_step(
    model,
    objective,
    opened.prepares[True],
    tx,
    state.make_learning_rate(t),
    samples=config.objective.get("samples", 1),
    ema_decay=t.ema_decay,
    root=roots.train,
    opponents=opponents,
    accumulate=t.accumulate,
    axis_name=opened.placement.axis_name,
  )
  iwae = objective.bound is not None
  eval_step = scoring.make_eval_step(
    model,
    opened.prepares[False],
    root=roots.evaluation,
    iwae_samples=config.objective.samples if iwae else 0,
    objective=objective,
  )
  draw = drawing.make_draw(model, config, spec, opened.prepares[False], roots.pictures, opened.stage)
  rated = "iwae_nll" if iwae else model.RATED
  return Functions(model, init, steps.make_train_call(train_step), eval_step, draw, rated)


def state_like(functions: Functions, placement: parallel.Placement) -> tuple[state.TrainState, Any]:
  """The shapes of the state with where its arrays lie, and where alone."""
  like = jax.eval_shape(functions.init)
  where = placement.state(like)
  return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), like, where), where


def make_parts(
  config: ConfigDict,
  opened: Opened,
  functions: Functions,
  checkpoints: Checkpoints,
  like: state.TrainState,
  **compiled: Any,
) -> Parts:
  """A run of what was opened and made, with its `compiled` functions by name."""
  of_opened = ("placement", "train", "held_out", "eval_batch_size", "spec", "frozen")
  return Parts(
    config=config,
    model=functions.model,
    checkpoints=checkpoints,
    like=like,
    prepare=opened.prepares[False],
    rated=functions.rated,
    meta={"config": config.to_dict(), "generator": RECORD, **runs.describe_spec(opened.spec)},
    **{name: getattr(opened, name) for name in of_opened},
    **compiled,
  )


def make_opponents(config: ConfigDict, spec: Spec) -> dict[str, Opponent]:
  """The discriminators of a run: those of pixels and of latents, where the config weighs them, and the family's own.

  Raises UserError where parts of a batch cannot make their terms.
  """
  found = pixel_opponent(config.objective.adversarial, config.training.dtype)
  found |= latent_opponent(config.objective.factor_vae) if "factor_vae" in config.objective else {}
  own = getattr(family(config.model.name), "opponents", None)
  found |= own(config, spec) if own else {}
  if found and config.training.accumulate > 1:
    raise UserError(
      f"training.accumulate={config.training.accumulate} must be 1 with the opponent {next(iter(found))!r}, whose "
      "part in the loss is one of the whole batch"
    )
  return found


def _check_first_stage(config: ConfigDict, stage: runs.Run | None, spec: Spec) -> None:
  """Refuses a first stage that the family does not use, or that takes other images than those of `spec`; and none,
  where records bring what one would make."""
  if stage is None:
    for field in sorted(family(config.model.name).FAMILY.NEEDS & MODELLED & spec.keys()):
      raise UserError(
        f"data.name={config.data.name} has {field} of its own, of which nothing makes images; set "
        f"training.first_stage, and give data without {field}"
      )
    return
  named = f"training.first_stage={config.training.first_stage}"
  if not family(config.model.name).FAMILY.NEEDS & MODELLED:
    raise UserError(f"{named}: model.name={config.model.name} uses none; leave it out")
  takes, given = input_shape(stage.spec), input_shape(spec)
  if takes != given:
    sizes = [" x ".join(map(str, shape)) for shape in (takes, given)]
    raise UserError(f"{named} takes images of {sizes[0]}, not {sizes[1]}; set data.size and data.channels")
  seen_as = ("data.binarize", "data.dequantize", "data.degrade.")
  if odd := [key for key in differences(stage.config, config) if key.startswith(seen_as)]:
    there, here = (show(to_values(c)[odd[0]]) for c in (stage.config, config))
    raise UserError(
      f"{named} was trained with {odd[0]}={there}, and {odd[0]}={here} here; set {odd[0]}={there}"
    )


def _refuse_image_terms(config: ConfigDict, names: list[str]) -> None:
  """Refuses terms on a reconstruction, by name, for a family that gives none; a family's own opponents are its own."""
  for name in names:
    if name in config.objective:
      key = f"{name}.weight" if isinstance(config.objective[name], ConfigDict) else name
      raise UserError(
        f"objective.{key}={config.objective[key]} compares images, and model.name={config.model.name} gives none back; "
        "set it to 0"
      )


def start(parts: Parts) -> tuple[state.TrainState, list[Any]]:
  """The state of the newest checkpoint, or a fresh one; and the steps since the last row of training."""
  return begin(parts) if parts.checkpoints.latest() is None else resume(parts)


def resume(parts: Parts, step: int | None = None) -> tuple[state.TrainState, list[Any]]:
  """As `start`, of a checkpoint; step: None for the newest."""
  train_state, restored = parts.checkpoints.restore(step, like=parts.like)
  if (drawn := restored.get("generator", RECORD)) != RECORD:
    raise UserError(
      f"checkpoint {parts.checkpoints.folder / str(restored['step'])} is of a run with the generator {drawn!r}, and "
      f"this vae_jax draws by {RECORD!r}; continue with the version that began the run, or give another --workdir"
    )
  return train_state, _unpacked(restored.get("window", {}))


def begin(parts: Parts) -> tuple[state.TrainState, list[Any]]:
  """As `start`, before the first step."""
  train_state = _begun(parts, parts.init())
  if name := parts.config.training.init_from:
    train_state, new, left = state.start_from(parts.model, train_state, runs.open_run(name).variables, name)
    train_state = jax.device_put(train_state, jax.tree.map(lambda x: x.sharding, parts.like))
    if new or left:
      words = [
        f"{', '.join(found)} {what}" for found, what in ((new, "start anew"), (left, "left out")) if found
      ]
      tell(f"training.init_from={name}: {'; '.join(words)}")
  return train_state, []


def _begun(parts: Parts, train_state: state.TrainState) -> state.TrainState:
  """A fresh state whose parameters begin at training images, from all over the split, where the model wants some."""
  if not (count := parts.model.begins_at):
    return train_state
  source, key = parts.train.source, jax.random.fold_in(new_key(parts.config.training.seed), BEGIN)
  # Again from the first, where there are fewer.
  chosen = np.resize(pipeline.spread(len(source), count), count)
  images = pipeline.Chosen(source, chosen.tolist())
  batch = next(pipeline.batches(parts.config.data, images, batch_size=count, training=False))
  keys = steps.example_keys(key, steps.PREPARE_STREAM, jnp.arange(count))
  ready = parts.prepare(keys, {name: x for name, x in batch.items() if name != "mask"})
  params = parts.model.begin(train_state.params, seen(ready), jax.random.fold_in(key, steps.MODEL_STREAM))
  ema = None if train_state.ema is None else jax.tree.map(jnp.copy, params)
  begun = train_state.replace(params=params, ema=ema)  # type: ignore[attr-defined]
  return jax.device_put(begun, jax.tree.map(lambda x: x.sharding, parts.like))


def _unpacked(stored: Any) -> list[Any]:
  try:
    return [{name: np.asarray(values, np.float32) for name, values in stored.items()}] if stored else []
  except (AttributeError, TypeError, ValueError):
    raise UserError(
      "the newest checkpoint's 'window' holds no numbers; move that checkpoint to another place"
    ) from None
