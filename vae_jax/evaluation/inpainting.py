"""What of images is hidden, by a box or a file; completions of them, with their figures and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from vae_jax import pictures
from vae_jax.data.images import examine
from vae_jax.errors import UserError
from vae_jax.evaluation.records import condition
from vae_jax.generator import standard
from vae_jax.inference import TrainedVAE
from vae_jax.inference.complete import HIDDEN
from vae_jax.progress import FileProgress
from vae_jax.types import Batch

WHITE = 128  # from this grey level on, a pixel of a mask is hidden
SURE = 32  # grey levels of a mask this near to black or white are taken for them without a word
SHOWN = 16  # images of a picture
STUCK = 0.1  # acceptance below which a chain is reported
APART = 2.0  # R-hat above which the chains of an image are reported
CHAINS = 16  # at a time: on a CPU a part of a minute or two, so that progress shows


def box_mask(model: TrainedVAE, box: str) -> Bool[np.ndarray, "h w"]:
  """The mask of a box "x,y,w,h", in pixels of the model's images, from their upper left corner; True is hidden.

  Raises UserError: no pixel of it, or one that lies outside."""
  height, width = model.image_shape[:2]
  x, y, across, down = map(int, box.split(","))
  if not across or not down or x + across > width or y + down > height:
    raise UserError(
      f"--box {box} must be x,y,w,h within images of {width} x {height} (width x height), w and h at least 1"
    )
  mask = np.zeros((height, width), bool)
  mask[y : y + down, x : x + across] = True
  return mask


def mask_file(
  model: TrainedVAE, file: Path, images: Sequence[Path] = ()
) -> tuple[Bool[np.ndarray, "h w"], list[str]]:
  """The mask of a picture, white where pixels are hidden, and what a person should know of how it was read.

  images: the files that it is for.

  One of another size is scaled and cut about its centre as a person's images are, by the nearest pixel. Raises
  UserError: it cannot be read, or has colours or transparency.
  """
  found = examine(file)
  grey = found.pixels[..., 0].astype(int)
  if found.alpha is not None and (found.alpha < 255).any():
    raise UserError(f"--mask {file} has transparency; give one of black and white, where white is hidden")
  if np.abs(found.pixels.astype(int) - grey[..., None]).max() > SURE:
    raise UserError(f"--mask {file} has colours; give one of black and white, where white is hidden")
  notes, (height, width) = [], model.image_shape[:2]
  if unsure := int(((grey > SURE) & (grey < 255 - SURE)).sum()):
    notes.append(f"{unsure} pixels of the mask are grey; those from {WHITE} on are hidden")
  h, w = grey.shape
  if (h, w) != (height, width):
    notes.append(
      f"the mask, {w} x {h}, is scaled to {width} x {height} and cut as images are, by nearest pixels"
    )
    if others := sum(_of_other_form(image, h, w) for image in images):
      notes.append(
        f"{others} of {len(images)} images have another form than the mask, which lies elsewhere on them"
      )
    cover = max(height / h, width / w)
    rows, columns = (
      _nearest(n, max(least, round(n * cover)), least) for n, least in ((h, height), (w, width))
    )
    grey = grey[rows][:, columns]
  return grey >= WHITE, notes


def _of_other_form(image: Path, h: int, w: int) -> bool:
  """Whether the sides of an image have another ratio than h : w, by more than a pixel. False where it is not read."""
  try:
    height, width = examine(image).pixels.shape[:2]
  except UserError:  # who completes it will say so
    return False
  return abs(height * w - width * h) > max(h, w)


def _nearest(found: int, scaled: int, wanted: int) -> np.ndarray:
  """Which of `found` pixels are the nearest to the middle `wanted` ones, once they are scaled to `scaled`."""
  places = (scaled - wanted) // 2 + np.arange(wanted)
  return np.minimum(((places + 0.5) * found / scaled).astype(int), found - 1)


@standard()
def inpaint_images(
  model: TrainedVAE,
  batch: Batch,
  mask: Bool[np.ndarray, "h w"],
  *,
  samples: int = 4,
  steps: int = 300,
  seed: int = 0,
  prior: str | None = None,
  batch_size: int = 64,
) -> tuple[dict[str, Any], np.ndarray]:
  """Completions of the images of a batch, as `TrainedVAE.inpaint` draws them.

  Args:
    batch: `image`, float32 [n, h, w, c] in [0, 1], whole, and the fields that the model needs.
    mask: True where pixels are hidden.
    samples, steps, seed, prior: as there.
    batch_size: images at a time, which changes no result but in rounding.

  Returns:
    Figures as JSON data. `each` has for each image the acceptance and the log-likelihood of the observed pixels (nats)
    of each chain, R-hat, and PSNR in dB of the hidden pixels: of each completion, and of their mean. And a picture of
    the first images: what is given, completions, the image.

  Raises:
    UserError: as `TrainedVAE.inpaint`.
  """
  images, n = np.asarray(batch["image"]), len(batch["image"])
  how = {"key": seed, "samples": samples, "steps": steps, "prior": prior}
  completed, acceptance, log_likelihood, rhat = _in_parts(
    model, images, mask, condition(model, batch), how, batch_size
  )
  psnr = _psnr(completed[:, :, mask], images[:, mask])
  of_mean = _psnr(completed.mean(axis=0)[:, mask], images[:, mask])
  facts = {
    "images": n,
    "samples": samples,
    "steps": steps,
    "hidden_pixels": int(mask.sum()),
    "pixels": mask.size,
    "likelihood": model.likelihood,
    "prior": model.module.prior_words if prior is None else f"{model.fitted_prior(prior).words}, fitted",
    "psnr": float(psnr.mean()),
    "psnr_of_mean": float(of_mean.mean()),
    "log_likelihood_nats": float(log_likelihood.mean()),
    "acceptance": float(acceptance.mean()),
    "stuck_chains": int((acceptance < STUCK).sum()),
    "images_apart": int((rhat > APART).sum()),
    "step": model.step,
    "seed": seed,
  }
  facts["notes"] = list(_notes(model, facts, images[:, ~mask]))
  columns = {
    "image": np.asarray(batch.get("index", np.arange(n))),
    "acceptance": acceptance.T,
    "log_likelihood_nats": log_likelihood.T,
    "rhat": rhat,
    "psnr": psnr.T,
    "psnr_of_mean": of_mean,
  }
  facts["each"] = [{name: _plain(x[i]) for name, x in columns.items()} for i in range(n)]
  return facts, _picture(images[:SHOWN], mask, completed[:, :SHOWN])


def _in_parts(
  model: TrainedVAE,
  images: np.ndarray,
  mask: Bool[np.ndarray, "h w"],
  fields: Mapping[str, Any],
  how: Mapping[str, Any],
  batch_size: int,
) -> list[np.ndarray]:
  """Completions [s, n, h, w, c], acceptance, log-likelihood [s, n], R-hat [n]; progress goes to standard error."""
  n, parts = len(images), []
  size = max(1, min(batch_size, n, CHAINS // max(how["samples"], 1)))
  with FileProgress() as progress:
    for start in range(0, n, size):
      progress.update(f"completing {n} image{'s' * (n > 1)}", start, n)
      rows = np.minimum(np.arange(start, start + size), n - 1)  # one size: compiled once
      part: dict[str, Any] = {name: np.asarray(x)[rows] for name, x in fields.items()}
      found = model.inpaint(images[rows], mask, start=start, **how, **part)
      count = min(size, n - start)
      figures = (np.asarray(x)[..., :count] for x in (found.acceptance, found.log_likelihood, found.rhat))
      parts.append((np.asarray(found.images)[:, :count], *figures))
  completed, acceptance, log_likelihood, rhat = zip(*parts, strict=True)
  return [
    *(np.concatenate(x, axis=1) for x in (completed, acceptance, log_likelihood)),
    np.concatenate(rhat),
  ]


def _psnr(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """[..., n, p, c] -> [..., n], in dB for values in [0, 1]; infinite where they are alike."""
  error = np.square(found.astype(np.float64) - truth).mean(axis=(-2, -1))
  with np.errstate(divide="ignore"):
    return -10 * np.log10(error)


def _plain(values: Any) -> Any:
  """Numbers as JSON data: None for one that is not finite."""
  if np.ndim(values):
    return [_plain(value) for value in values]
  return values.item() if np.isfinite(values) else None


def _notes(model: TrainedVAE, facts: dict[str, Any], observed: np.ndarray) -> Iterator[str]:
  """What a person should know of completions."""
  chains = facts["images"] * facts["samples"]
  if stuck := facts["stuck_chains"]:
    yield (
      f"{stuck} of {chains} chains took less than {STUCK:.0%} of their moves: their completions are no draws; give "
      "more --steps"
    )
  if apart := facts["images_apart"]:
    yield (
      f"the chains of {apart} of {facts['images']} images disagree (R-hat above {APART:g}): they lie in different "
      "parts of p(z | observed pixels), so how often a kind of completion comes up is no measure of how probable it is"
    )
  if model.likelihood == "Bernoulli" and ((observed > 0) & (observed < 1)).any():
    yield "observed pixels have grey levels, of which Bernoulli is no likelihood: they count as cross-entropy"
  if not hasattr(model.module, "likelihood"):
    yield (
      f"this run ({model.config.model.name}) has no likelihood of pixels: observed ones count by a Gaussian about the "
      "decoder's"
    )


def _picture(images: np.ndarray, mask: np.ndarray, completed: np.ndarray) -> np.ndarray:
  rows = {"given": np.where(mask[..., None], HIDDEN, images)}
  rows |= {f"draw {i + 1}": draw for i, draw in enumerate(completed)}
  rows["image"] = images
  return pictures.compare(*rows.values(), labels=tuple(rows))


def inpaint_lines(found: dict[str, Any]) -> Iterator[str]:
  """The figures as lines for a person."""
  yield (
    f"{found['images']} image{'s' * (found['images'] > 1)}, {found['hidden_pixels']} of {found['pixels']} pixels "
    f"hidden; {found['samples']} "
    f"completions each, {found['steps']} steps; checkpoint of step {found['step']}; prior: {found['prior']}"
  )
  yield f"  hidden pixels: {found['psnr']:.2f} dB; the mean of the completions: {found['psnr_of_mean']:.2f} dB"
  yield f"  observed pixels: log-likelihood {found['log_likelihood_nats']:.1f} nats an image"
  yield f"  moves accepted: {found['acceptance']:.0%}"
  yield from (f"  note: {note}" for note in found["notes"])
