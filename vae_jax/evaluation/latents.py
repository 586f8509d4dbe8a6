"""What a model makes of the images of a split: latents, or the vectors of their codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vae_jax import distributions as dist
from vae_jax.data import pipeline
from vae_jax.errors import UserError
from vae_jax.evaluation.records import Digest, condition, prepared_batches, stream
from vae_jax.generator import new_key
from vae_jax.inference import TrainedVAE
from vae_jax.progress import FileProgress
from vae_jax.training import steps
from vae_jax.types import Array, Batch, seen


class Encoded(NamedTuple):
  """rows: by name, an array [n, ...] in the order of the images. spread: whether `draws` come from densities with a
  spread. digest: of the images."""

  rows: dict[str, np.ndarray]
  spread: bool
  digest: str


def encoded_images(
  model: TrainedVAE, source: pipeline.Source, split: str, size: int, seed: int, keep: Sequence[str]
) -> Encoded:
  """Encodes every image of a source, prepared as in evaluation: without random crops, flips, turns or exposure.

  Args:
    split: what the images are, in words.
    size: images encoded at a time.
    seed: of what preparation and posteriors draw; a draw depends on it and on the image's place in the source alone.
    keep: which rows. Float32 [n, d] are `means` of posteriors, or the vectors of the codes where the model has codes;
      `draws`, one of each posterior; and `pixels`, what the encoder sees. Others are fields of the records.

  Raises UserError: the model has neither latents nor codes; means or draws that are not finite.
  """
  if not model.can("tokens"):
    model.require("encode")
  root, scored, size = new_key(seed), Digest(), min(size, len(source))
  batches = scored.update(stream(model, source, size))
  parts: list[dict[str, np.ndarray]] = []
  spread = False
  with FileProgress(delay=2.0) as progress:
    for done, (batch, ready, mask) in enumerate(prepared_batches(model, batches, seed)):
      progress.update(f"encoding {split}", done * size, len(source))
      q = _posterior(model, ready)
      keys = steps.example_keys(root, steps.MODEL_STREAM, jnp.asarray(batch["index"]))
      rows = dict(_rows(q, batch, ready, keys, keep))
      parts.append({name: np.asarray(x)[mask] for name, x in rows.items()})
      spread = spread or bool(jnp.exp(0.5 * q.logvar).max() > 0)
  found = {name: np.concatenate([part[name] for part in parts]) for name in keep}
  _check_finite([found[name] for name in ("means", "draws") if name in found], split)
  return Encoded(found, spread, scored.hex)


def width(model: TrainedVAE) -> int:
  """How many numbers of an image `means` has."""
  if not model.can("tokens"):
    return model.module.units
  image = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)
  return int(np.prod(jax.eval_shape(model.code_vectors, image).shape[1:]))


def _posterior(model: TrainedVAE, ready: Batch) -> dist.Gaussian:
  """q(z | x) of a prepared batch; without a spread at the vectors of its codes, where the model has codes."""
  if not model.can("tokens"):
    return model.encode(seen(ready), **condition(model, ready))
  vectors = model.code_vectors(seen(ready), **condition(model, ready))
  return dist.Gaussian(vectors, jnp.full_like(vectors, -jnp.inf))


def _rows(
  q: dist.Gaussian, batch: Batch, ready: Batch, keys: Array, keep: Sequence[str]
) -> Iterator[tuple[str, Any]]:
  for name in keep:
    if name == "means":
      yield name, q.mean
    elif name == "draws":
      yield name, _drawn(q, keys)
    elif name == "pixels":
      images = seen(ready)
      yield name, images.reshape(len(images), -1)
    else:
      yield name, batch[name]  # type: ignore[literal-required]


@jax.jit
def _drawn(q: dist.Gaussian, keys: Array) -> Float[Array, "n d"]:
  """A draw from each posterior, by a key for each."""
  eps = jax.vmap(lambda key: jax.random.normal(key, q.mean.shape[1:], jnp.float32))(keys)
  return dist.sample(q, eps)


def _check_finite(latents: Sequence[np.ndarray], split: str) -> None:
  """Raises UserError where a row of one of the arrays is not finite."""
  finite = np.all([np.isfinite(x).all(axis=1) for x in latents], axis=0)
  if bad := int(np.sum(~finite)):
    raise UserError(
      f"the latents of {bad} of the {len(finite)} images of {split} are not finite (nan or inf); use an earlier "
      "checkpoint"
    )
