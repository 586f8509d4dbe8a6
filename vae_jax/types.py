"""The words of the data flow, and the image contract.

Images are NHWC. Inside the compiled step they are float32 in [0, 1]; uint8 (0..255) travels from disk to device.
Any height, width and channel count. Likelihoods, KL and statistics are float32 whatever the compute type.
"""

from __future__ import annotations

from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
ArrayLike = jax.Array | np.ndarray
Params = Any  # a pytree of arrays
# {"params": what the optimiser trains, **rest}: rest is what a model keeps besides.
Variables = dict[str, Any]
Key = jax.Array  # a typed PRNG key, such as `generator.new_key(seed)`, or an array of them
Shape = tuple[int, int, int]  # (h, w, c)
Spec = dict[str, jax.ShapeDtypeStruct]  # the fields of one prepared record: shapes without the batch's axis
# Networks that are never trained, by name: arguments of a step, never part of the state.
Frozen = dict[str, Any]

NO_FROZEN: Frozen = {}


class Batch(TypedDict, total=False):
  """One batch, on the host or on the device. `b` is the batch size; every entry has it as leading dimension.

  image: the clean target. uint8 [b, h, w, c] from disk; float32 in [0, 1] inside the step.
  degraded: what the encoder sees where it is not the image itself (noisy, low-resolution); [b, h', w', c].
  sigma: float32 [b], the noise that was drawn for `degraded`, in units of white; see `degrade.noise_sigma`.
  label: int32 [b], where the data set has one.
  factors: float32 [b, f], what an image was rendered from.
  text: int32 [b, n], the tokens of a caption; 0 is padding.
  codes: int32 [b, n], the codes of a first stage; latents: float32 [b, ...], its latents.
  index: int32 [b], the record's index in its split; seeds what evaluation draws for this example.
  place: int32 [b], the example's position in the global batch of a training step.
  mask: bool [b], False for the padding of the last evaluation batch.
  """

  image: ArrayLike
  degraded: ArrayLike
  sigma: ArrayLike
  label: ArrayLike
  factors: ArrayLike
  text: ArrayLike
  codes: ArrayLike
  latents: ArrayLike
  index: ArrayLike
  place: ArrayLike
  mask: ArrayLike


FIELDS = tuple(Batch.__annotations__)
# What the records of a data set may bring, and the types in which a batch holds it on the host.
FIELD_TYPES: dict[str, type] = {
  "image": np.uint8,
  "degraded": np.uint8,
  "label": np.int32,
  "factors": np.float32,
  "text": np.int32,
  "codes": np.int32,
}


# What a second stage models in place of images, from its first stage: never given from outside, as a label is.
MODELLED = frozenset({"codes", "latents"})


def image_spec(shape: Shape, degraded: Shape | None = None, **others: jax.ShapeDtypeStruct) -> Spec:
  """The spec of records with clean images of `shape` and, where the encoder sees another image, that one's shape."""
  spec = {"image": jax.ShapeDtypeStruct(shape, jnp.float32)}
  if degraded is not None:
    spec["degraded"] = jax.ShapeDtypeStruct(degraded, jnp.float32)
  return spec | others


def image_shape(spec: Spec) -> Shape:
  """(h, w, c) of the clean images."""
  return spec["image"].shape  # type: ignore[return-value]


def input_shape(spec: Spec) -> Shape:
  """(h, w, c) of what the encoder sees: the degraded images, where there are some."""
  return spec.get("degraded", spec["image"]).shape  # type: ignore[return-value]


def seen(batch: Batch) -> Array:
  """What the encoder sees of a prepared batch: the degraded images, where there are some."""
  return jnp.asarray(batch.get("degraded", batch["image"]))
