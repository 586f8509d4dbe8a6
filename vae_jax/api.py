"""The front door in Python: a config, a training, its scores. For scripts and notebooks."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from vae_jax import configuration
from vae_jax.configuration import DEFAULT_CONFIG, at_home
from vae_jax.errors import UserError

if TYPE_CHECKING:  # a config is made without JAX's training parts
  import numpy as np

  from vae_jax.inference import TrainedVAE
  from vae_jax.photos.fitting import Choice
  from vae_jax.types import ArrayLike


def config(
  name_or_path: str | Path = DEFAULT_CONFIG, overrides: Mapping[str, Any] | Sequence[str] = ()
) -> ConfigDict:
  """A config by name, such as "mnist_vae" (`vae-jax configs` lists the names), or from a Python file, which is run.

  Args:
    name_or_path: the name, or the path of a file with `get_config()`.
    overrides: values by key, {"training.steps": 500, "model.hidden": (64, 32)}, or as on the command line,
      ["training.steps=500"].

  Returns:
    A locked, typed config; `config.training.steps = 500` changes a value.

  Raises:
    UserError: no such config, a file that does not run, an unknown key, a value of another type or out of range.
  """
  if not isinstance(name_or_path, (str, Path)):
    raise UserError(
      f"config is given a {type(name_or_path).__name__}; give a name such as 'mnist_vae' or a path"
    )
  if isinstance(overrides, str):
    raise UserError(f"overrides={overrides!r} is one text; give a list of them, or {{'training.steps': 500}}")
  if isinstance(overrides, Mapping):
    overrides = [
      f"{key}={x if isinstance(x, str) else configuration.show(_tuple(x))}" for key, x in overrides.items()
    ]
  made = configuration.apply_overrides(configuration.load_config_file(name_or_path), overrides)
  configuration.validate(made)
  return made


def train(config: ConfigDict | str | Path, workdir: str | Path) -> TrainedVAE:
  """Trains a model, or continues the run that is in the workdir, and loads the result.

  The run writes config.json, metrics.jsonl, tensorboard/, images/ and checkpoints/ into the workdir, and reports its
  progress on standard error. Ctrl-C (in a notebook: interrupt the kernel) saves, and gives the model trained so far;
  its `step` says how far. The same call then continues.

  Args:
    config: from `vae_jax.config` or `vae_jax.base_config`; or what `vae_jax.config` takes.
    workdir: folder of the run.

  Returns:
    The model of the newest checkpoint, as `vae_jax.load(workdir)` gives it.

  Raises:
    UserError: a bad config, bad data, a workdir that holds another run or is in use, a run that diverges.
    Stopped: a signal such as SIGTERM asked the process to end; all is saved.
  """
  chosen = _chosen(config)
  if configuration.several(chosen):
    raise UserError(
      "training.vmap_seeds and training.vmap_values train several models, and vae_jax.train returns one; give them to "
      "vae_jax.training.loop.train or the command train, then vae_jax.load('WORKDIR/members/0'), ..."
    )
  from vae_jax.inference import load
  from vae_jax.training import loop
  from vae_jax.training.stopping import Stopped

  folder = _folder(workdir)
  try:
    loop.train(chosen, folder)
  except Stopped as stop:
    if stop.status != 128 + SIGINT:
      raise
    print(stop, file=sys.stderr, flush=True)
  return load(folder)


def evaluate(
  model: TrainedVAE | str | Path,
  split: str | None = None,
  *,
  checkpoint: str | int = "newest",
  samples: int | None = None,
  batch_size: int | None = None,
  seed: int = 0,
  limit: int = 0,
  data_dir: str | Path | None = None,
) -> dict[str, Any]:
  """Scores a model on a split of its data set: each example once. Writes no files; `vae-jax evaluate` does.

  Args:
    model: a loaded model, or what `vae_jax.load` takes: a workdir, an exported folder, the name of a pretrained model.
    split: such as "test" or "train[:1000]"; None: data.test of the model's config.
    checkpoint: as in `vae_jax.load`, where `model` is a workdir.
    samples: K of the importance-weighted bound; 0 leaves it out; None: evaluation.samples of the config.
    batch_size: images at a time; does not change the scores; None: evaluation.batch_size of the config.
    seed: of the posterior samples, and of noise that is added to images.
    limit: scores only the first images; 0: all.
    data_dir: where the data are now; None: data.dir of the config.

  Returns:
    Means over the split by name, in the units that `vae_jax.evaluation.score_split` states: `neg_elbo`, `rate`,
    `distortion`, `iwae_nll` (nats per image), `bits_per_dim`, `psnr` (dB), `ssim`, `examples`, ...

  Raises:
    UserError: no such run or checkpoint, no such split, data that do not fit the model.
  """
  from vae_jax.data import sources
  from vae_jax.evaluation import score_split
  from vae_jax.inference import TrainedVAE, load

  if not isinstance(model, TrainedVAE):
    model = load(model, checkpoint)
  elif checkpoint != "newest":
    raise UserError(f"checkpoint={checkpoint!r} has no effect on a loaded model; give it to vae_jax.load")
  if data_dir is not None:
    model = copy.copy(model)
    model.config = configuration.apply_overrides(model.config, [])
    sources.move(model.config.data, str(_folder(data_dir)))
  for name, value, least in (
    ("samples", samples, 0),
    ("batch_size", batch_size, 1),
    ("seed", seed, 0),
    ("limit", limit, 0),
  ):
    _check_count(name, value, least)
  defaults = model.config.evaluation
  return score_split(
    model,
    model.config.data.test if split is None else split,
    samples=defaults.samples if samples is None else samples,
    batch_size=defaults.batch_size if batch_size is None else batch_size,
    seed=seed,
    limit=limit,
  )


def choose_model(photograph: ArrayLike | str | Path, scale: int = 1) -> Choice:
  """Looks at a photograph, and chooses the pretrained model that fits it; `--pretrained auto` does the same.

      choice = vae_jax.choose_model("photo.jpg", scale=2)
      model = vae_jax.load(choice.model)

  Args:
    photograph: a file, or an array [h, w, c], c = 1 or 3, uint8 or float in [0, 1]. A file also says how
      strongly it is compressed.
    scale: 1 to remove JPEG blocks and noise, where there are any; 2 or 4 to enlarge.

  Returns:
    Choice: `model`, a name for `vae_jax.load`, or None where the photograph is best left as it is; `why`, for a person;
    `condition`: `jpeg_quality`, `noise` in grey levels, `edges`.

  Raises:
    UserError: a file that cannot be read, no photograph, another scale.
  """
  from vae_jax.photos import fitting
  from vae_jax.photos.condition import inspect_image, of_file
  from vae_jax.photos.photograph import open_photograph
  from vae_jax.storage import exported

  if isinstance(scale, bool) or scale not in fitting.SCALES:
    raise UserError(f"scale={str(scale)[:80]} must be one of {', '.join(map(str, fitting.SCALES))}")
  known = None
  if isinstance(photograph, (str, Path)):
    path = _folder(photograph)
    pixels, known = open_photograph(path).pixels, of_file(path)
  else:
    pixels = _photograph(photograph)
  return fitting.choose(inspect_image(pixels, known), pixels.shape[2], scale, exported.names())


def _photograph(given: Any) -> np.ndarray:
  """[h, w, 1 or 3], uint8 or float in [0, 1]; grey may be [h, w]. Raises UserError for anything else."""
  import numpy as np

  pixels = np.asarray(given)
  pixels = pixels[..., None] if pixels.ndim == 2 else pixels
  if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
    raise UserError(f"a photograph of shape {np.shape(given)}: give [h, w, 3], or [h, w, 1] for grey")
  if pixels.dtype == np.uint8:
    return pixels
  if not (np.issubdtype(pixels.dtype, np.floating) and pixels.min() >= 0 and pixels.max() <= 1):
    raise UserError(f"a photograph of type {pixels.dtype}: give uint8 (0..255) or float in [0, 1]")
  return pixels


def _chosen(given: Any) -> ConfigDict:
  """A copy of a config, or the config of that name. Raises UserError for anything else."""
  if isinstance(given, (str, Path)):
    return config(given)
  if not isinstance(given, ConfigDict):
    raise UserError(
      f"config is a {type(given).__name__}; give a name, or what vae_jax.config('mnist_vae') returns"
    )
  return configuration.apply_overrides(given, [])


def _check_count(name: str, value: Any, least: int) -> None:
  """Refuses an argument that is no integer from `least` on; None stands for the value of the config."""
  whole = isinstance(value, Integral) and not isinstance(value, bool)
  if value is not None and not (whole and least <= value < 2**31):
    raise UserError(f"{name}={str(value)[:80]!r} must be an integer >= {least} and < 2**31")


def _folder(place: Any) -> Path:
  """The path of a folder, `~` written out. Raises UserError for what names none."""
  if not isinstance(place, (str, Path)) or not str(place):
    raise UserError(f"{place!r} is not the name of a folder; give a path, such as 'runs/mine'")
  return Path(at_home(str(place)))


def _tuple(value: Any) -> Any:
  return tuple(value) if isinstance(value, list) else value
