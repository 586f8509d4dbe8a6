"""A trained run as an object: sample, encode, decode, reconstruct, interpolate, restore, complete, inpaint, rank.

    model = vae_jax.load("runs/mnist_vae")
    images = model.sample(jax.random.key(0), 16)

Needs the checkpoint alone: no config file, no data set, and any kind or number of devices.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax

from vae_jax import runs
from vae_jax.configuration import at_home
from vae_jax.errors import UserError, printable
from vae_jax.inference.autoencode import slerp
from vae_jax.inference.caption import Captions
from vae_jax.inference.inpaint import Inpainted, Inpaints
from vae_jax.inference.restore import TILE, Restores
from vae_jax.photos.fitting import AUTO
from vae_jax.runs import Run
from vae_jax.storage import exported, fitted

__all__ = ["TILE", "Inpainted", "TrainedVAE", "export", "load", "slerp"]


class TrainedVAE(Restores, Inpaints, Captions):
  """A trained model. What its family cannot do raises UserError, in one line that names what can."""

  def __init__(self, run: Run):
    super().__init__(run)
    self.first = None if run.first is None else TrainedVAE(run.first)


def load(workdir: str | Path, checkpoint: str | int = "newest") -> TrainedVAE:
  """The model of a run: weights of its newest good checkpoint, or of its "best" one, or of a given step.

  `workdir` may also be a folder that `export` wrote, or the name of a model that comes with the project, such as
  "superres_x2"; these have one set of weights. A name stands for a folder of that name where there is one. A run with
  a first stage brings that one along.

  Nothing in the folder is run, whoever made it: weights and their description are data, compared with one another
  before they take memory.

  Raises UserError where there is no such run or checkpoint, or it is damaged; "best" needs a scored checkpoint.
  """
  if not isinstance(workdir, (str, Path)):
    raise UserError(f"load is given a {type(workdir).__name__}; give the folder of a run, or a model's name")
  if str(workdir) == AUTO and not Path(AUTO).is_dir():
    raise UserError(
      "load is given 'auto', which needs a photograph: vae_jax.choose_model('photo.jpg').model is the name of the one "
      "that fits it"
    )
  return TrainedVAE(runs.open_run(at_home(str(workdir)), checkpoint))


def export(model: TrainedVAE, folder: str | Path, bits: int = 32) -> None:
  """Writes a model, with its first stage, as one small file of weights and its description, for `load` anywhere.

  Priors that were fitted to these weights go along. Others are left out, and a line on standard error says so.

  bits: of the kernels' values: 32; 16, float16, about half the size; or 8, integers with a scale for each output
  channel, about a quarter. `load` gives float32 in any case. The first stage keeps 32 bits. Raises UserError for other
  `bits`, values that these bits cannot hold, or a folder that cannot be written.
  """

  def described(run: Run) -> dict:
    return {"config": run.config.to_dict(), **runs.describe_spec(run.spec), "step": run.step}

  first = model.run.first
  below = None if first is None else (jax.device_get(first.variables), described(first))
  exported.save(folder, jax.device_get(model.run.variables), described(model.run), below, bits)
  for kind in model.fitted_priors():
    if why := _left_out(model, folder, kind, bits):
      print(printable(f"note: the prior {kind} is left out: {why}"), file=sys.stderr, flush=True)


def _left_out(model: TrainedVAE, folder: str | Path, kind: str, bits: int) -> str:
  """Copies a fitted prior into the folder of an export; why not, where it does not go along."""
  remedy = "fit one to the export (--mode fit_prior)"
  if bits != 32:
    return f"it was fitted to the weights before they had {bits} bits; {remedy}"
  try:
    arrays, meta = fitted.read(model.run.folder, kind)
  except UserError as error:
    return str(error)
  if meta["weights"] != model.run.digest:
    return f"it was fitted to other weights; {remedy}"
  fitted.save(folder, kind, arrays, {k: v for k, v in meta.items() if k not in ("format_version", "sha256")})
  return ""
