"""From a host batch (uint8) to what the model sees (float32 in [0, 1]): a pure function of the compiled step.

Order: mirror, turn, mutate, uint8 to float, binarise or dequantise, expose, degrade. Randomness comes from one key per
example, and each operation folds its own stream number into it, so an example's draws depend on its key alone: not on
the batch around it, and not on which other operations are switched on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.data.degrade import degraded_shape, make_degrade, noise_sigma
from vae_jax.errors import UserError, nearest
from vae_jax.types import FIELDS, NO_FROZEN, Array, ArrayLike, Batch, Frozen, Key

Prepare = Callable[..., Batch]  # (keys, batch, frozen) -> prepared batch

BINARIZE = ("none", "dynamic", "threshold")
# Folded into the example's key. Part of what makes a run repeatable: never renumber.
FLIP, DYNAMIC, DEQUANTIZE, DEGRADE, ROTATE, EXPOSURE, LATENTS, MUTATE = range(8)


def make_prepare(config_data: Mapping[str, Any], training: bool) -> Prepare:
  """`prepare(keys, batch, frozen={}) -> batch` with float32 images, according to `data.*`.

  keys: typed keys [b], one per example, used for nothing else (derive them for this purpose) but a first stage's draws,
  of the stream LATENTS.
  batch: `image` (and perhaps `degraded`) uint8 [b, h, w, c], or float32 in [0, 1], which is taken as it is;
  other fields of `types.Batch` pass through, and one that is none of them is an error. frozen: not used here.

  - `flip` (training only): with probability 1/2 mirrors left-right, `image` and a given `degraded` together.
  - `rotate` (training only): turns square images, both alike, by 0, 90, 180 or 270 degrees with equal probability.
  - `mutate`, `exposure` (training only): see `mutated`, `exposed`.
  - `binarize`, `dequantize`: the clean image only; see `binarize_dynamic` and `dequantize`. threshold means
    value > 0.5.
  - `degrade`: `degraded` is made from the resulting clean image, unless the batch brings its own. With
    identity there is no `degraded` entry: the model sees the image. `sigma` is the noise that was drawn for it, where
    `degrade.noise_sigma` has it.

  Raises UserError for an unknown or contradictory setting.
  """
  flip, rotate = training and config_data["flip"], training and config_data["rotate"]
  exposure, mutate = (config_data.get(name, 0.0) if training else 0.0 for name in ("exposure", "mutate"))
  changes = [f"data.{name}" for name, on in (("exposure", exposure), ("mutate", mutate)) if on]
  binarize, with_noise = config_data["binarize"], config_data["dequantize"]
  if binarize not in BINARIZE:
    raise UserError(f"data.binarize={binarize!r} is unknown{nearest(binarize, BINARIZE, what='values')}")
  if binarize != "none" and with_noise:
    raise UserError(
      f"data.binarize={binarize!r} with data.dequantize=True: binary pixels take no noise; drop one"
    )
  degrade = make_degrade(config_data["degrade"])  # also for identity: its settings are checked at the door
  sigma_of = noise_sigma(config_data["degrade"])
  degrades = config_data["degrade"]["name"] != "identity"

  def prepare(keys: Key, batch: Batch, frozen: Frozen = NO_FROZEN) -> Batch:
    del frozen
    _check_fields(batch, flip, rotate, changes)

    def stream(number: int) -> Key:
      return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)

    image = jnp.asarray(batch["image"])
    degraded = to_float(batch["degraded"]) if "degraded" in batch else None
    if flip:
      image, degraded = _mirrored(stream(FLIP), image, degraded)
    if rotate:
      image, degraded = _rotated(stream(ROTATE), image, degraded)
    if mutate:
      image = jax.vmap(lambda key, x: mutated(key, x, mutate))(stream(MUTATE), image)
    if binarize == "dynamic":
      image = jax.vmap(binarize_dynamic)(stream(DYNAMIC), image)
    elif binarize == "threshold":
      image = (to_float(image) > 0.5).astype(jnp.float32)
    elif with_noise:
      image = jax.vmap(dequantize)(stream(DEQUANTIZE), image)
    else:
      image = to_float(image)
    if exposure:
      image = jax.vmap(lambda key, x: exposed(key, x, exposure))(stream(EXPOSURE), image)
    result = {**batch, "image": image}
    if degraded is None and degrades:
      degraded = jax.vmap(degrade)(stream(DEGRADE), image)
      if sigma_of is not None:
        result["sigma"] = jax.vmap(sigma_of)(stream(DEGRADE))
    return cast(Batch, result if degraded is None else {**result, "degraded": degraded})

  return prepare


def _check_fields(batch: Batch, flip: bool, rotate: bool, changes: Sequence[str]) -> None:
  """Raises UserError for fields that are unknown, or that moved or changed images would no longer fit."""
  if undeclared := sorted(set(batch) - set(FIELDS)):
    raise UserError(
      f"a batch has the field {undeclared[0]!r}, which is none of {', '.join(FIELDS)}; leave it out"
    )
  moved = "data.flip" if flip else "data.rotate"
  if fixed := [name for name in ("factors", "codes") if name in batch and (flip or rotate)]:
    raise UserError(f"{moved}=true moves images, and their {fixed[0]} stay as they are; set {moved}=false")
  if changes and "degraded" in batch:
    raise UserError(
      f"{changes[0]} changes clean images, and these bring their own degraded ones; set {changes[0]}=0"
    )


def _mirrored(keys: Key, image: Array, degraded: Array | None) -> tuple[Array, Array | None]:
  """Mirrors each pair left-right, with probability 1/2."""
  draw = jax.vmap(lambda key: jax.random.bernoulli(key, jnp.float32(0.5)))(keys)[:, None, None, None]
  image = jnp.where(draw, jnp.flip(image, 2), image)
  return image, None if degraded is None else jnp.where(draw, jnp.flip(degraded, 2), degraded)


def _rotated(keys: Key, image: Array, degraded: Array | None) -> tuple[Array, Array | None]:
  """Turns each pair by 0, 90, 180 or 270 degrees, with equal probability."""
  turns = jax.vmap(lambda key: jax.random.randint(key, (), 0, 4, jnp.int32))(keys)
  image = jax.vmap(turned)(image, turns)
  return image, None if degraded is None else jax.vmap(turned)(degraded, turns)


def to_float(image: ArrayLike) -> Array:
  """uint8 to float32 in [0, 1]; float images pass as float32. Any shape."""
  if image.dtype == np.uint8:
    return jnp.asarray(image, jnp.float32) / 255
  return jnp.asarray(image, jnp.float32)


def exposed(key: Key, image: Array, stops: float) -> Array:
  """Makes half of all images, float32 in [0, 1], brighter or darker, by 2^u with u ~ U[0, stops]; clipped.

  Brighter: 2^u x, clipped at white, or in half of them at a level of 0.9 to 1. Darker: the same of the negative. What
  denoises photographs learns from it what noise looks like on plain black and white, and close to them.
  """
  happens, side, amount, level = jax.random.split(key, 4)
  gain = jnp.exp2(jax.random.uniform(amount, (), jnp.float32, 0.0, stops))
  most = 1.0 - jnp.maximum(jax.random.uniform(level, (), jnp.float32, -0.1, 0.1), 0.0)
  brighter = jnp.minimum(gain * image, most)
  darker = 1.0 - jnp.minimum(gain * (1.0 - image), most)
  changed = jnp.where(jax.random.bernoulli(side, jnp.float32(0.5)), brighter, darker)
  return jnp.where(jax.random.bernoulli(happens, jnp.float32(0.5)), changed, image)


def mutated(key: Key, image: ArrayLike, rate: float) -> Array:
  """Replaces each value, with probability `rate`, by a grey level drawn from 0..255 (Ren et al. 2019, section 3.2).

  image: uint8, or float32 in [0, 1], any shape; the same out. Channels of a pixel are drawn apart. What a model learns
  of such images is their background: levels and smoothness, without what is arranged in them.
  """
  where, what = jax.random.split(key)
  levels = jax.random.bits(what, image.shape, jnp.uint8)
  drawn = levels if image.dtype == np.uint8 else to_float(levels)
  return jnp.where(jax.random.bernoulli(where, jnp.float32(rate), image.shape), drawn, image)


def turned(image: Array, turns: ArrayLike) -> Array:
  """A square image [n, n, c] turned by `turns` (0..3) times 90 degrees anticlockwise, as `numpy.rot90` does."""
  image = jnp.where(turns % 2 == 1, image.swapaxes(0, 1)[::-1], image)
  return jnp.where(turns >= 2, image[::-1, ::-1], image)


def binarize_dynamic(key: Key, image: ArrayLike) -> Array:
  """Draws each pixel from Bernoulli(value), as in Burda et al. 2016: float32, 0 or 1, same shape as `image`.

  image: uint8 or float32 in [0, 1], any shape. The probability is the value rounded to a multiple of 2**-16
  (at most 7.6e-6 off); black stays 0 and white stays 1.
  """
  return (_bits16(key, image.shape) + 0.5 < 65536 * to_float(image)).astype(jnp.float32)


def dequantize(key: Key, image: ArrayLike) -> Array:
  """(255 * image + u) / 256 with u ~ U[0, 1): for densities over continuous pixels (Theis et al. 2016).

  image: uint8 or float32 in [0, 1], any shape; float32 in [0, 1) out. u has 16 bits, so grey level v stays
  within [v, v + 1) / 256; a finer u would round up to v + 1 in float32.
  """
  grey = jnp.asarray(image, jnp.float32) * (1 if image.dtype == np.uint8 else 255)
  return (grey + _bits16(key, image.shape) / 65536) / 256


def _bits16(key: Key, shape: tuple[int, ...]) -> Array:
  """Uniform integers 0..65535 as float32.

  Two from each 32-bit word: 2.5 times as fast on a CPU as `jax.random.uniform` or `bits(..., uint16)`, which
  spend a word on each (128 keys x 784 pixels, two cores: 0.4 against 1.0 ms, paid in every training step).
  """
  size = int(np.prod(shape))
  words = jax.random.bits(key, ((size + 1) // 2,), jnp.uint32)
  halves = jax.lax.bitcast_convert_type(words, jnp.uint16)
  return halves.reshape(-1)[:size].reshape(shape).astype(jnp.float32)


def check_first_batch(
  batch: Batch, config_data: Mapping[str, Any], expected_shape: tuple[int, int, int], trained: bool = False
) -> None:
  """Refuses a host batch that the step would misread; call it once, before compiling.

  expected_shape: (h, w, c) of the clean images that the model is built for. trained: the model is, so that another
  size is no remedy. Raises UserError, one line.
  """
  if "image" not in batch:
    raise UserError(f"a batch of data.name={config_data['name']!r} has no 'image', only {sorted(batch)}")
  image = np.asarray(batch["image"])
  _check_images("image", image)
  size, *shape = image.shape
  other = f"this run takes images of {' x '.join(map(str, expected_shape))}; give --data_dir of such images"
  if tuple(shape[:2]) != tuple(expected_shape[:2]):
    raise UserError(
      f"batch['image'] is {shape[0]} x {shape[1]} pixels, expected {expected_shape[0]} x "
      f"{expected_shape[1]}; {other if trained else 'set data.size to the height and width wanted'}"
    )
  if shape[2] != expected_shape[2]:
    raise UserError(
      f"batch['image'] has {shape[2]} channels, expected {expected_shape[2]}; "
      f"{other if trained else 'set data.channels to 1 or 3 to convert'}"
    )
  degraded_shape(config_data["degrade"], expected_shape)  # its settings are in range
  if "degraded" in batch:
    degraded = np.asarray(batch["degraded"])
    _check_images("degraded", degraded)
    name = config_data["degrade"]["name"]
    if name != "identity":
      raise UserError(
        f"data.degrade.name={name!r}, but data.name={config_data['name']!r} brings its own degraded images; "
        "set data.degrade.name=identity"
      )
    h, w = degraded.shape[1:3]
    if not any((-(-shape[0] // f), -(-shape[1] // f)) == (h, w) for f in range(1, max(shape[:2]) + 1)):
      raise UserError(
        f"batch['degraded'] is {h} x {w} pixels for a clean image of {shape[0]} x {shape[1]}: "
        "it must be the same size or smaller by one whole factor; check that the pairs match"
      )
  for entry, value in batch.items():
    entry_shape = np.asarray(value).shape
    if entry_shape[:1] != (size,):
      raise UserError(f"batch[{entry!r}] has shape {entry_shape}, but there are {size} images; give one each")


BETWEEN = (26, 230)  # grey levels of uint8 that are plainly neither black nor white
# Share of such pixels, by channels, above which images are not binary; digits have 0.09, faces 1.0.
MOST_BETWEEN = {1: 0.6, 3: 0.1}


def check_likelihood(
  image: np.ndarray, config_data: Mapping[str, Any], likelihood: str | None, fresh: bool = True
) -> list[str]:
  """Compares images with what `data.binarize` and `model.likelihood` take them for; call it once, before compiling.

  image: uint8 [b, h, w, c], some of the data set. fresh: False where a run is continued, which was let through before.

  Returns remarks for a person. Raises UserError, one line, where a fresh run would draw the colours of photographs.
  """
  channels = image.shape[3]
  between = float(((image >= BETWEEN[0]) & (image < BETWEEN[1])).mean())
  if between <= MOST_BETWEEN.get(channels, 1.0):
    return []
  kind = "in colour" if channels == 3 else f"grey ({between:.0%} of the pixels are neither black nor white)"
  name, binarize = config_data["name"], config_data["binarize"]
  if binarize == "dynamic":
    grey = "" if channels == 3 else " --config.data.channels=1"
    line = (
      f"data.binarize=dynamic draws each pixel black or white at random, and the images of data.name={name} are "
      f"{kind}; for photographs give --config configs/photos_vq_vae.py{grey}, or --config.data.binarize=none "
      "--config.model.likelihood=logistic_mixture"
    )
    if channels == 3 and fresh:
      raise UserError(line)
    return [line]
  if binarize == "none" and likelihood == "bernoulli":
    return [
      f"model.likelihood=bernoulli is meant for black and white pixels, and the images of data.name={name} are {kind}: "
      "its nats are no likelihood and cannot be compared; --config.model.likelihood=logistic_mixture is one"
    ]
  return []


def _check_images(entry: str, image: np.ndarray) -> None:
  name = f"batch[{entry!r}]"
  if image.ndim != 4:
    raise UserError(f"{name} has shape {image.shape}: give [b, h, w, c]; grey images need a last axis of 1")
  if 0 in image.shape:
    raise UserError(f"{name} has shape {image.shape}, which is empty; check data.name and the split")
  if image.dtype not in (np.uint8, np.float32):
    raise UserError(f"{name} is {image.dtype}: give uint8 (0..255) or float32 in [0, 1]")
  low, high = image.min(), image.max()
  if image.dtype == np.uint8:
    if high == 1:
      raise UserError(
        f"{name} is uint8 with values 0 and 1 only, where white is 255; multiply the data by 255"
      )
  elif not (low >= 0 and high <= 1):  # NaN fails both
    raise UserError(f"{name} is float32 with values from {low} to {high}: scale it to [0, 1], or give uint8")
