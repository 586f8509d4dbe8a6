"""config -> parts: everything that a run is made of, built and checked before the first step."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vae_jax import models, runs
from vae_jax.configuration.values import differences, show, to_values
from vae_jax.data import pipeline
from vae_jax.data.prepare import check_first_batch, check_likelihood, make_prepare
from vae_jax.data.sources import Source, open_source, overlap, report
from vae_jax.errors import UserError
from vae_jax.generator import RECORD, new_key
from vae_jax.models import build, family
from vae_jax.models.contract import Family
from vae_jax.objectives import Objective, load_frozen, make_objective
from vae_jax.progress import tell
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training import parallel, scoring, state, steps
from vae_jax.training import workdir as workdirs
from vae_jax.training.opponents import Opponent, pixel_opponent
from vae_jax.types import MODELLED, Batch, Frozen, Key, Spec, Variables, input_shape, seen

FEW = 2000  # images of colour; from fewer, samples are fog


class Split(NamedTuple):
  """A split ready to be iterated: its source, and its arrays if they fit on the device (else None)."""

  source: Source
  arrays: dict[str, np.ndarray] | None


class Parts(NamedTuple):
  """A run before its first step.

  spec: of a prepared record. like: the state's shapes and where they lie. train_call, eval_step, draw: compiled
  functions. rated: name of the score that chooses the best checkpoint. meta: what checkpoints keep beside the state.
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
  rated: str
  meta: dict[str, Any]


def open_split(data: ConfigDict, name: str) -> Split:
  """Opens a split and decodes it whole if it is small enough to stay on the device."""
  source = open_source(data, name)
  return Split(source, pipeline.resident(data, source))


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


def _shown(config: ConfigDict, held_out: Split) -> Batch:
  """The images of pictures, from all over the split."""
  chosen = pipeline.spread(len(held_out.source), config.evaluation.pictures)
  source = pipeline.Chosen(held_out.source, chosen)
  return next(pipeline.batches(config.data, source, batch_size=len(chosen), training=False))


def draw_pictures(
  model: Family,
  config: ConfigDict,
  spec: Spec,
  prepare: steps.Prepare,
  first: Batch,
  placement: parallel.Placement,
  stage: runs.Run | None = None,
) -> Any:
  """Compiled (variables, frozen) -> rows by label, and samples: fixed images and fixed noise, to compare over time.

  Rows: input, reconstruction, and clean where the input is degraded; none of a model that gives no images back.
  Samples: of the prior, decoded by the first stage where there is one; of a model that draws restorations, what the
  inputs may have been; of others, None.
  """
  root, n = new_key(config.training.seed), config.evaluation.pictures
  real = min(n, int(np.sum(first["mask"])))  # without the padding of a short batch
  shown: Any = jax.tree.map(lambda values: values[:real], first)

  @functools.partial(jax.jit, out_shardings=placement.replicated if placement.fsdp else None)
  def draw(variables: Variables, batch: Any, frozen: Frozen):
    ids = jnp.arange(batch["image"].shape[0])
    batch = prepare(steps.example_keys(root, steps.PREPARE_STREAM, ids), batch, frozen)
    rows: dict[str, Any] = {}
    if model.reconstructs:
      h, w = batch["image"].shape[1:3]  # a degraded image may stand for a larger one, of whole multiples
      restored: Any = model.apply(variables, batch, method="reconstruct")
      rows = {"input": seen(batch), "reconstruction": restored[:, :h, :w]}
      if "degraded" in batch:
        rows["clean"] = batch["image"]
    samples = model.can & {"sample", "draw"}
    if not samples:
      return rows, None
    condition = batch
    if "sample" in samples:  # as many as asked for, whatever the number of images
      ids = jnp.arange(n)
      condition = {name: x[ids % len(x)] for name, x in batch.items() if name in model.conditions}
      if "label" in condition:  # each in turn
        condition["label"] = ids % config.model.classes
    elif "degraded" not in batch:
      condition = {**batch, "degraded": seen(batch)}
    keys = steps.example_keys(root, steps.MODEL_STREAM, ids)
    noise = jax.vmap(lambda key: model.noise(key, spec))(keys)
    drawn: Any = model.apply(variables, noise, condition, method="generate")
    return rows, drawn if stage is None else runs.decoded_by(stage)(drawn, frozen)

  return lambda variables, frozen: jax.device_get(draw(variables, shown, frozen))


def assemble(config: ConfigDict, workdir: Path) -> Parts:
  """Opens the data, builds the model and compiled functions, and checks the workdir. Raises UserError."""
  t, data = config.training, config.data
  placement = parallel.make_placement(t.batch_size, way=t.parallel, fsdp=t.fsdp)
  eval_size = -(-config.evaluation.batch_size // placement.mesh.size) * placement.mesh.size
  stage = runs.open_first_stage(config)
  checkpoints = Checkpoints(workdir / "checkpoints", keep=t.keep)
  workdirs.check(config, workdir, checkpoints)  # before the data, which may take long to open
  with parallel.first_alone():
    train, held_out = open_split(data, data.train), open_split(data, data.validation)
  first, remarks = _first_batch(config, train, held_out, eval_size, checkpoints.latest() is None)
  if jax.process_index() == 0:
    report([train.source, held_out.source], remarks)

  # Model, optimiser, state.
  init_key, train_key, eval_key = jax.random.split(new_key(t.seed), 3)
  frozen = load_frozen(config.objective, config.evaluation)
  prepares = {training: make_prepare(data, training=training) for training in (True, False)}
  spec = prepared_spec(prepares[False], first, frozen)
  _check_given(config, spec, held_out.source)
  _check_first_stage(config, stage, spec)
  if stage is not None:
    frozen["first_stage"] = stage.variables
    prepares = {training: runs.with_first_stage(prepare, stage) for training, prepare in prepares.items()}
    spec = prepared_spec(prepares[False], first, frozen)
  model: Family = build(config.model, spec, t.dtype)
  data.classes = _classes(config, train)
  if data.classes and jax.process_index() == 0:
    report([], [f"labels: {', '.join(f'{i} {name}' for i, name in enumerate(data.classes.split(',')))}"])
  check_fields(train, model, config, data.train)
  check_fields(held_out, model, config, data.validation)
  tx = state.make_optimizer(t)
  opponents = make_opponents(config, spec)
  objective = make_objective(config.objective, model.terms, len(train.source), model.bound_name)
  if not model.reconstructs:
    _refuse_image_terms(config, [*objective.extra, *opponents])

  def init() -> state.TrainState:
    return state.init_state(model, tx, spec, init_key, ema=t.ema_decay > 0, opponents=opponents)

  like = jax.eval_shape(init)
  where = placement.state(like)
  like = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), like, where)

  frozen = placement.put(frozen)
  train_call, eval_step, rated = _compiled(
    config, placement, model, objective, prepares, tx, opponents, like, (train_key, eval_key)
  )
  return Parts(
    config=config,
    placement=placement,
    train=train,
    held_out=held_out,
    eval_batch_size=eval_size,
    spec=spec,
    model=model,
    checkpoints=checkpoints,
    init=jax.jit(init, out_shardings=where),
    like=like,
    train_call=train_call,
    eval_step=eval_step,
    draw=draw_pictures(model, config, spec, prepares[False], _shown(config, held_out), placement, stage),
    frozen=frozen,
    rated=rated,
    meta={"config": config.to_dict(), "generator": RECORD, **runs.describe_spec(spec)},
  )


def _compiled(
  config: ConfigDict,
  placement: parallel.Placement,
  model: Family,
  objective: Objective,
  prepares: dict[bool, steps.Prepare],
  tx: Any,
  opponents: dict[str, Opponent],
  like: state.TrainState,
  roots: tuple[Key, Key],
) -> tuple[Any, Any, str]:
  """train_call, eval_step and the score that chooses the best checkpoint. roots: keys of training and evaluation."""
  t, o = config.training, config.objective
  train_step = steps.make_train_step(
    model,
    objective,
    prepares[True],
    tx,
    state.make_learning_rate(t),
    samples=o.get("samples", 1),
    ema_decay=t.ema_decay,
    root=roots[0],
    opponents=opponents,
    accumulate=t.accumulate,
    axis_name=placement.axis_name,
  )
  iwae = o.get("name") == "iwae"
  eval_step = scoring.make_eval_step(
    model,
    prepares[False],
    root=roots[1],
    iwae_samples=o.samples if iwae else 0,
    objective=objective,
  )
  return (
    parallel.compile_train_call(steps.make_train_call(train_step), placement, like),
    parallel.compile_eval_step(eval_step, placement, like.averaged),
    "iwae_nll" if iwae else model.RATED,
  )


def make_opponents(config: ConfigDict, spec: Spec) -> dict[str, Opponent]:
  """The discriminators of a run: that of pixels, where the config weighs it, and those that the family brings.

  Raises UserError where parts of a batch cannot make their terms.
  """
  found = pixel_opponent(config.objective.adversarial, config.training.dtype)
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
  if parts.checkpoints.latest() is not None:
    train_state, restored = parts.checkpoints.restore(like=parts.like)
    if (drawn := restored.get("generator", RECORD)) != RECORD:
      raise UserError(
        f"checkpoint {parts.checkpoints.folder / str(restored['step'])} is of a run with the generator {drawn!r}, and "
        f"this vae_jax draws by {RECORD!r}; continue with the version that began the run, or give another --workdir"
      )
    return train_state, _unpacked(restored.get("window", {}))
  train_state = parts.init()
  if name := parts.config.training.init_from:
    train_state, new, left = state.start_from(parts.model, train_state, runs.open_run(name).variables, name)
    train_state = jax.device_put(train_state, jax.tree.map(lambda x: x.sharding, parts.like))
    if new or left:
      words = [
        f"{', '.join(found)} {what}" for found, what in ((new, "start anew"), (left, "left out")) if found
      ]
      tell(f"training.init_from={name}: {'; '.join(words)}")
  return train_state, []


def _unpacked(stored: Any) -> list[Any]:
  try:
    return [{name: np.asarray(values, np.float32) for name, values in stored.items()}] if stored else []
  except (AttributeError, TypeError, ValueError):
    raise UserError(
      "the newest checkpoint's 'window' holds no numbers; move that checkpoint to another place"
    ) from None
