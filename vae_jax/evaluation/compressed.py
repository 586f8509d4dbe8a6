"""Images compressed with a model, without loss, and back: which models and images can be, and what the file costs."""

from __future__ import annotations

import math
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import scipy

from vae_jax import compression
from vae_jax.compiling import jit
from vae_jax.compression.bits_back import Followed
from vae_jax.compression.container import MOST_LANES, MOST_VALUES, REMEDY
from vae_jax.compression.symbols import LEVELS
from vae_jax.data.prepare import to_float
from vae_jax.distributions.likelihoods import mixture_parts
from vae_jax.errors import UserError, printable
from vae_jax.generator import new_key, standard
from vae_jax.inference import TrainedVAE
from vae_jax.metrics import bits_per_dim
from vae_jax.models.vae import VAE
from vae_jax.progress import followed
from vae_jax.training import scoring
from vae_jax.types import Array

LATENT_BITS = 14  # 2^14 buckets of each latent
SHARE = 0.005  # of the file, about, that the lanes' heads and initial bits may take
BOUND_BATCH = 128
LIKELIHOODS = ("bernoulli", "logistic_mixture")
CAN = f"mlp_vae and conv_vae with model.prior=normal and model.likelihood={' or '.join(LIKELIHOODS)} can"


def check_compresses(model: TrainedVAE) -> None:
  """Refuses a model that gives no bits to images, or whose latents have no buckets of equal mass."""
  module, name = model.module, model.config.model.name
  why = ""
  if not (isinstance(module, VAE) and model.can("bound")):
    why = f"{name} does not bound the likelihood of pixels by one level of Gaussian latents"
  elif module.conditions:
    why = f"{name} needs a {', '.join(sorted(module.conditions))} of each image, which the file does not have"
  elif not module.standard_prior:
    why = "its prior is not N(0, I), or its posterior is a flow"
  elif model.config.data.degrade.name != "identity" or model.input_shape != model.image_shape:
    why = "its encoder sees degraded images, which the decoder does not have"
  elif module.likelihood.continuous:
    why = f"its likelihood ({module.likelihood.describe}) is a density, which gives no bits to a grey level"
  if why:
    raise UserError(f"this run cannot compress images: {why}; {CAN}")


def levels_of(model: TrainedVAE, images: np.ndarray, first: int = 0) -> np.ndarray:
  """Images in [0, 1], float32 [n, h, w, c], as the levels that the likelihood knows, uint8: 0 and 1, or 0 to 255.

  first: number of the first one, for messages. Raises UserError: values between these levels, or out of range."""
  most, flat = _levels(model) - 1, np.asarray(images, np.float32).reshape(len(images), -1)
  outside = ~((flat >= 0) & (flat <= 1)).all(axis=1)  # true for NaN
  if outside.any():
    raise UserError(
      f"image {first + int(outside.argmax())} has values outside [0, 1], or not finite; scale it to [0, 1]"
    )
  levels = np.rint(np.asarray(images, np.float32) * most)
  off = np.abs(levels / most - images).reshape(len(images), -1).max(axis=1) > 1e-6
  if not off.any():
    return levels.astype(np.uint8)
  where = f"image {first + int(off.argmax())}"
  if most == 1:
    raise UserError(
      f"{where} has grey levels, and model.likelihood=bernoulli knows black and white; give images of both, or a run "
      "with data.binarize=dynamic, or one with model.likelihood=logistic_mixture"
    )
  raise UserError(
    f"{where} has values between the {most + 1} grey levels, which cannot be kept; give images of 8 bits, with "
    "data.dequantize=false"
  )


def pictures_of(model: TrainedVAE, levels: np.ndarray) -> np.ndarray:
  """Levels as uint8 images, white 255."""
  return levels * np.uint8((LEVELS - 1) // (_levels(model) - 1))


class Compressed(NamedTuple):
  """content: of the file. report: what it costs, for a person and for JSON."""

  content: bytes
  report: dict[str, Any]


def compress_images(
  model: TrainedVAE, levels: np.ndarray, *, seed: int = 0, latent_bits: int = LATENT_BITS
) -> Compressed:
  """Compresses images, uint8 [n, h, w, c] of `levels_of`, decodes them again and compares.

  seed: of the posterior samples of the bound. The report has `bytes`, `bits_per_dim` of the whole file and
  `neg_elbo_bits_per_dim`; `initial_bytes`, the heads and random words with which the lanes start, and `header_bytes`,
  all else that is no word of a lane: both are among `bytes`; `formats`, bytes of other formats, by name.
  Raises UserError where the model cannot compress (`check_compresses`), for other levels than those, or where the
  images do not come back.
  """
  check_compresses(model)
  _check_levels(model, levels)
  if levels.size > MOST_VALUES:
    raise UserError(
      f"{len(levels)} images are more than a file takes; compress them in parts (--split 'test[:1000]')"
    )
  bound = neg_elbo(model, levels, seed)
  coder = make_coder(model, latent_bits)
  lanes = _lanes(model, len(levels), bound, latent_bits)
  started = time.monotonic()
  stack = compression.compress(coder, levels, lanes, _shown("compressing", len(levels), lanes))
  header = compression.Header(
    model.image_shape,
    len(levels),
    lanes,
    latent_bits,
    model.module.likelihood.name,
    weights_of(model),
    compression.digest(levels),
    this_platform(),
  )
  content, written = compression.pack(header, stack), time.monotonic()
  again = decompress_images(model, content, "the compressed file")
  if not np.array_equal(again, levels):
    raise UserError("the images that were decoded are not those that were compressed; nothing was written")
  dims = math.prod(model.image_shape)
  ideal = float(bits_per_dim(bound, dims, False))
  bits = 8 * len(content) / levels.size
  report = {
    "images": len(levels),
    "shape": list(model.image_shape),
    "likelihood": model.likelihood,
    "bytes": len(content),
    "bits_per_dim": bits,
    "neg_elbo_bits_per_dim": ideal,
    "above_bound": bits / ideal - 1,
    "initial_bytes": int(8 * lanes + 4 * stack.taken.sum()),
    "header_bytes": len(content) - stack.bits // 8,
    "lanes": lanes,
    "latent_bits": latent_bits,
    "seconds_compress": round(written - started, 2),
    "seconds_decompress": round(time.monotonic() - written, 2),
    "formats": compression.sizes(levels, _levels(model) == 2),
    "digest": header.images,
    "weights": header.weights,
    "step": model.step,
  }
  return Compressed(content, report)


def decompress_images(model: TrainedVAE, content: bytes, name: str) -> np.ndarray:
  """The images of a file, uint8 [n, h, w, c] of levels. name: of the file, for messages.

  Raises UserError: a damaged file, one of another model, or floats that differ from those that the file was made with.
  """
  check_compresses(model)
  header, stack = compression.unpack(content, name)
  if header.weights != weights_of(model):
    raise UserError(
      f"{printable(name)} was compressed with weights of digest {header.weights[:12]}, and this is step {model.step} "
      f"with {weights_of(model)[:12]}; give the model (--workdir, --checkpoint) that it was compressed with"
    )
  if header.shape != model.image_shape or header.likelihood != model.module.likelihood.name:
    raise UserError(f"{printable(name)}: its header has other images than this model; {REMEDY}")
  here, there = this_platform(), header.platform
  if here != there:
    print(
      printable(f"note: {name} was compressed by {there}, and this is {here}; other floats would be refused"),
      file=sys.stderr,
    )
  coder = make_coder(model, header.latent_bits)
  how = _shown("decompressing", header.count, header.lanes)
  try:
    levels = compression.decompress(coder, stack, header.count, how)
  except UserError as error:
    raise UserError(f"{printable(name)}: {_other_floats(here, there)} ({error})") from error
  if compression.digest(levels) != header.images:
    raise UserError(f"{printable(name)}: {_other_floats(here, there)}")
  return levels


def neg_elbo(model: TrainedVAE, levels: np.ndarray, seed: int) -> float:
  """The negative evidence bound in nats an image, of one posterior sample for each, as in the scores of a split."""
  step = jit(scoring.make_eval_step(model.module, lambda keys, batch, frozen: batch, root=new_key(seed)))
  total, size = 0.0, min(BOUND_BATCH, len(levels))
  with standard():
    for start in followed(range(0, len(levels), size), -(-len(levels) // size), "scoring"):
      index = np.minimum(np.arange(start, start + size), len(levels) - 1)
      batch = {"image": _floats(levels[index], _levels(model)), "index": index.astype(np.int32)}
      scores = step(model.variables, batch)
      total += float(np.asarray(scores["neg_elbo"], np.float64)[: len(levels) - start].sum())
  if not math.isfinite(total):
    raise UserError(
      "the bound of these images is not finite, so they have no bits; train the model again, or longer"
    )
  return total / len(levels)


def make_coder(model: TrainedVAE, latent_bits: int) -> compression.Coder:
  """The networks of a model, on the CPU whatever the accelerator: others choose their programs anew in each process."""
  module, kinds = model.module, _levels(model)
  cpu = jax.devices("cpu")[0]
  variables = jax.device_put(jax.device_get(model.variables), cpu)

  def encode(variables: Any, images: Array) -> Any:
    return module.apply(variables, {"image": images}, method="encode")

  def decode(variables: Any, z: Array) -> tuple[Array, ...]:
    params = jnp.asarray(module.apply(variables, z, {}, method="pixels"), jnp.float32)
    return (
      _mixture(params, model.image_shape[2], model.config.model.mixtures) if kinds == LEVELS else (params,)
    )

  compiled = jit(encode), jit(decode)

  def run(function: Callable[..., Any], x: Any) -> tuple[np.ndarray, ...]:
    with standard(), jax.default_device(cpu):
      return tuple(np.asarray(part) for part in function(variables, jax.device_put(x, cpu)))

  return compression.Coder(
    encode=lambda levels: run(compiled[0], np.asarray(_floats(levels, kinds))),  # type: ignore[arg-type,return-value]
    decode=partial(run, compiled[1]),
    pixels=compression.LogisticMixture if kinds == LEVELS else compression.Bernoulli,
    shape=model.image_shape,
    latents=module.units,
    grid=compression.LatentGrid(latent_bits),
  )


def compression_table(report: dict[str, Any]) -> list[str]:
  """A report of `compress_images` as lines for a person."""
  r, values = report, report["images"] * math.prod(report["shape"])
  rows = [("this file", r["bytes"]), *sorted(r["formats"].items(), key=lambda one: one[1])]
  bound = r["neg_elbo_bits_per_dim"]
  return [
    f"{r['images']} images of {' x '.join(map(str, r['shape']))}, {r['likelihood']}; decoded in "
    f"{r['seconds_decompress']:.0f} s",
    f"  {'':12} {'bytes':>12} {'bits/dim':>9}",
    f"  {'-ELBO':12} {bound * values / 8:12.0f} {bound:9.4f}",
    *(f"  {name:12} {size:12} {8 * size / values:9.4f}" for name, size in rows),
    f"  {r['above_bound']:.2%} above the bound; {r['initial_bytes']} bytes began {r['lanes']} "
    f"lane{'s' * (r['lanes'] > 1)}, {r['header_bytes']} are the header and checksum",
  ]


def weights_of(model: TrainedVAE) -> str:
  """The digest of a model's weights that a file has."""
  return model.run.digest[:32]


def this_platform() -> str:
  """What the floats of networks and distributions depend on, as far as it has a name."""
  versions = (
    f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, numpy {np.__version__}, scipy {scipy.__version__}"
  )
  return f"cpu {platform.machine()}, {versions}"


def _mixture(params: Array, c: int, mixtures: int) -> tuple[Array, ...]:
  """Parameters of `logistic_mixture` as `compression.LogisticMixture` takes them."""
  logits, means, scales, coefficients = mixture_parts(params, c, mixtures)
  nothing = jnp.zeros_like(logits)
  pairs = [jnp.stack([coefficients.get((i, j), nothing) for j in range(c)], axis=-2) for i in range(c)]
  return logits, jnp.stack(means, axis=-2), jnp.stack(scales, axis=-2), jnp.stack(pairs, axis=-3)


def _levels(model: TrainedVAE) -> int:
  """How many values a pixel has."""
  return 2 if model.module.likelihood.name == "bernoulli" else LEVELS


def _floats(levels: np.ndarray, kinds: int) -> Any:
  """Levels as the encoder sees them, float32 in [0, 1]."""
  return to_float(levels) if kinds == LEVELS else levels.astype(np.float32)


def _check_levels(model: TrainedVAE, levels: np.ndarray) -> None:
  """Raises UserError for what is not uint8 [n, h, w, c] of the model's levels."""
  kinds, shape = _levels(model), model.image_shape
  if levels.dtype == np.uint8 and levels.shape[1:] == shape and levels.size and levels.max() < kinds:
    return
  found = f"levels of {levels.dtype} {list(levels.shape)}" + (f" up to {levels.max()}" if levels.size else "")
  raise UserError(
    f"{found}: give uint8 [n, {', '.join(map(str, shape))}] of 0 to {kinds - 1}, n > 0; evaluation.levels_of makes "
    "them of images in [0, 1]"
  )


def _lanes(model: TrainedVAE, count: int, bound: float, latent_bits: int) -> int:
  """As many lanes as take a `SHARE` of the file: each has a head, a length and the initial bits of one image."""
  of_one = 96 + model.module.units * latent_bits
  return int(np.clip(SHARE * count * bound / math.log(2) / of_one, 1, min(MOST_LANES, count)))


def _shown(what: str, count: int, lanes: int) -> Followed:
  return lambda rows: followed(rows, -(-count // lanes), f"{what} {count} images")


def _other_floats(here: str, there: str) -> str:
  """Why a sound file of these weights does not decode."""
  if here != there:
    return f"cannot be decoded by {here}; decode it where it was compressed, by {there}"
  return "cannot be decoded here: the networks gave other floats; decode it on the machine that compressed it"
