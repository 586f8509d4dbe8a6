"""What the parts of a loaded model share: its variables, compiled methods, checked inputs and conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vae_jax.checks import concrete, extent
from vae_jax.compiling import jit
from vae_jax.data import text
from vae_jax.data.prepare import to_float
from vae_jax.errors import UserError, nearest
from vae_jax.generator import new_key, own_key, standard
from vae_jax.models import able
from vae_jax.models.contract import ABILITIES
from vae_jax.runs import Run
from vae_jax.storage import exported
from vae_jax.types import Array, ArrayLike, Batch, Key, Params, Shape, image_shape, input_shape

PRIOR_STREAM, PIXEL_STREAM = 0, 1


def as_key(key: Key | int) -> Key:
  """The key of a seed, an integer from 0 to 2**31 - 1; a key as it is, or one drawn from it where it is of another
  generator. Raises UserError for anything else."""
  if isinstance(key, (int, np.integer)) and not isinstance(key, bool) and 0 <= key < 2**31:
    return new_key(int(key))
  if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and not key.shape:
    return own_key(key)
  if isinstance(key, jax.Array) and key.dtype == jnp.uint32 and key.ndim == 1:  # of jax.random.PRNGKey
    return own_key(key)
  raise UserError(
    f"key={str(key)[:80]!r}: give a seed (an integer >= 0, < 2**31) or a key, such as jax.random.key(0)"
  )


def _pretrained(ability: str) -> list[str]:
  """The models that come with the project and can do something."""
  families = {
    name: exported.describe(exported.FOLDER / name)["config"]["model"]["name"] for name in exported.names()
  }
  return [name for name, family in families.items() if family in able(ability)]


class Base:
  """A model with its weights (the moving average where the run kept one). Methods are compiled at first use.

  Attributes: config (ConfigDict of the run), step (of the checkpoint), spec (fields of a record), image_shape
  (h, w, c), input_shape (what the encoder sees), likelihood (in words), first (the stage below, or None).
  """

  def __init__(self, run: Run):
    self.run, self.config, self.spec, self.step = run, run.config, run.spec, run.step
    self.image_shape: Shape = image_shape(run.spec)
    self.input_shape: Shape = input_shape(run.spec)
    self.module: Any = run.module
    self.variables = jax.tree.map(jnp.asarray, run.variables)
    likelihood = getattr(self.module, "likelihood", None)
    self.likelihood: str = likelihood.describe if likelihood else "none"

  def __repr__(self) -> str:
    size = " x ".join(map(str, self.image_shape))
    if self.input_shape != self.image_shape:
      size = f"{' x '.join(map(str, self.input_shape))} to {size}"
    facts = [self.config.model.name, f"images {size}{', or of any size' if self.can('tile') else ''}"]
    facts += (
      [f"{self.module.units} latent{' channels' if self.can('tile') else 's'}"] if self.module.units else []
    )
    facts += [f"codes of {self.module.codes}"] if self.module.codes else []
    facts.append(f"{sum(x.size for x in jax.tree.leaves(self.params)):,} parameters")
    facts.append(f"step {self.step} of {self.run.folder}" if self.run.folder else f"step {self.step}")
    return f"{type(self).__name__}({', '.join(facts)})"

  @property
  def params(self) -> Params:
    """Returns the trained parameters; `variables` also has what the model keeps beside them."""
    return self.variables["params"]

  def _method(self, name: str) -> Callable[..., Any]:
    return standard()(jit(lambda variables, *args: self.module.apply(variables, *args, method=name)))

  first: Any = None  # the loaded first stage

  def _first_stage(self, does: str) -> str:
    """A remedy: the run below does what this one does not."""
    place = f" (--workdir {self.first.run.folder})" if self.first.run.folder else ""
    return f"; its first stage {does}{place}"

  def can(self, ability: str) -> bool:
    """Returns whether the model can do something: a key of `models.contract.ABILITIES`."""
    if ability not in ABILITIES:
      raise UserError(f"{ability!r} is no ability of a model{nearest(ability, ABILITIES, what='abilities')}")
    return ability in self.module.can

  def require(self, ability: str) -> None:
    """Raises UserError, naming what can, where the model cannot do something."""
    if self.can(ability):
      return
    name, also = self.config.model.name, []
    if ability in ("restore", "tile") and (found := _pretrained(ability)):
      also = [f"--pretrained {' | '.join(found)}"]
    elif ability == "inpaint" and self.can("complete"):
      also = ["or use complete (--mode complete), for what model.observed hides"]
    elif ability == "complete" and self.can("inpaint"):
      also = ["or use inpaint (--mode inpaint), which takes a mask"]
    elif self.can("restore"):
      also = ["or use restore (--mode restore, benchmark, reconstruct)"]
    elif ability == "sample" and self.can("tokens"):
      also = [
        "or train a prior over its codes (training.first_stage, such as configs/mnist_code_transformer.py)"
      ]
    elif ability == "sample" and self.can("encode") and self.can("decode"):
      also = ["or fit a prior to its latents (--mode fit_prior), and give --prior"]
    capable = able(ability)
    others = ", ".join(other for other in capable if other != name) or "no other family"
    if name in capable:  # with another config
      others = f"{name} with {self.module.WITH}"
    shape = " x ".join(map(str, self.image_shape))
    below = self._first_stage("can") if self.first is not None and self.first.can(ability) else ""
    raise UserError(
      f"this run ({name} of {shape}) cannot {ABILITIES[ability]}{below}; {'; '.join([f'{others} can', *also])}"
    )

  def _images(self, images: ArrayLike, single: bool = False) -> Float[Array, "n h w c"]:
    """float32, or UserError: in [0, 1]; on average about there where the run degraded its images.

    single: `images` is one, [h, w, c]. Values are not looked at where a transformation traces the images.
    """
    images = np.asarray(images) if not isinstance(images, jax.Array) else images
    given, images = images.shape, images[None] if single else images
    # A model of one size takes that size; one that works in tiles takes any.
    any_size = self.can("tile")
    takes = ("h", "w", self.input_shape[2]) if any_size else self.input_shape
    fits = images.shape[-1:] == takes[2:] if any_size else images.shape[-len(takes) :] == takes
    if images.ndim != 4 or 0 in images.shape or not fits:
      remedy = "crop, resize or convert them"
      if len(given) == 3 and not single:
        remedy = "give one image as image[None]"
      elif given[-1:] == (1,) and takes[-1] == 3:
        remedy = "np.repeat(images, 3, axis=-1) makes grey ones so"
      wanted = ", ".join(map(str, takes if single else ("n", *takes)))
      raise UserError(
        f"{'an image' if single else 'images'} of shape {given}: this model takes [{wanted}]; {remedy}"
      )
    if images.dtype != np.uint8:
      self._check_range(images)
    return to_float(images)

  def _check_range(self, images: ArrayLike) -> None:
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise UserError(f"images of type {images.dtype}: give uint8 (0..255) or float in [0, 1]")
    found = extent(images)
    if found is None:
      return
    if math.isnan(found.mean):
      raise UserError(
        "images have values that are not finite (nan or inf): give uint8 (0..255) or float in [0, 1]"
      )
    fits = found.low >= 0 and found.high <= 1
    if self.config.data.degrade.name != "identity":
      fits = abs(found.mean - 0.5) < 1  # noise and overshoot leave [0, 1], their mean does not by far
    if not fits:
      raise UserError(
        f"images with values from {found.low:g} to {found.high:g}: give uint8 (0..255) or float in [0, 1]"
      )

  def _condition(self, num: int, given: dict[str, Any]) -> Batch:
    """The fields that the model needs, one row for each of `num` images; one value is repeated. Raises UserError."""
    needs = self.module.conditions
    given = {name: value for name, value in given.items() if value is not None}
    for name in sorted(needs - given.keys()):
      raise UserError(
        f"this run ({self.config.model.name}) needs a {name} for each image; give {name}=... (--{name})"
      )
    condition: dict[str, Array] = {}
    for name, value in given.items():
      if name not in needs:
        raise UserError(
          f"{name}={repr(value)[:80]}: this run ({self.config.model.name}) knows no {name}; leave it out"
        )
      condition[name] = self._field(name, value, num)
    return condition  # type: ignore[return-value]

  def _text_tokens(self, given: Any, num: int) -> Any:
    """The tokens of a text, or of `num` texts; tokens as they are. Spaces are made regular, as those of captions are;
    not of .npz files, whose texts are tokens."""
    one_for_all = isinstance(given, str)
    texts = [given] if one_for_all else given
    if not isinstance(texts, (list, tuple)) or not any(isinstance(one, str) for one in texts):
      return given
    if not all(isinstance(one, str) for one in texts) or (not one_for_all and len(texts) != num):
      raise UserError(f"text is a list of {len(texts)} for {num} images; give one text, or a list of {num}")
    length, pairs = self.spec["text"].shape[0], tuple(self.config.data.pairs)
    texts = texts if self.config.data.name == "npz" else [text.regular(one) for one in texts]
    for one in texts:
      if (size := text.size(one, pairs)) > length:
        name, unit = self.config.model.name, text.unit(pairs)
        raise UserError(
          f"text={text.shown(one)} has {size} {unit}, and this run ({name}) takes {length}; shorten it"
        )
    tokens = np.stack([text.encode(one, length, pairs) for one in texts])
    return tokens[0] if one_for_all else tokens

  def _field(self, name: str, value: Any, num: int) -> Array:
    like, value = self.spec[name], self._text_tokens(value, num) if name == "text" else value
    whole = np.issubdtype(like.dtype, np.integer)
    try:
      array: Any = np.asarray(value) if concrete(*jax.tree.leaves(value)) else jnp.asarray(value)
    except ValueError:  # lists of different lengths
      kind = "integer" if whole else "number"
      raise UserError(f"{name}={value!r} must be one {kind}, or {[num, *like.shape]} of them") from None
    if array.shape not in (like.shape, (num, *like.shape)):
      raise UserError(f"{name} of shape {array.shape}: give one, or {[num, *like.shape]}")
    if whole and not np.issubdtype(array.dtype, np.integer):
      raise UserError(f"{name}={value!r} must be an integer")
    classes = self.config.model.get("classes", 0)
    if concrete(array):
      if not whole and not np.isfinite(array.astype(np.float64)).all():
        raise UserError(f"{name} has values that are not finite (nan or inf); give finite numbers")
      if name == "label" and not (array.min() >= 0 and array.max() < classes):
        low, high = array.min(), array.max()
        found = f"{low}" if low == high else f"{low} to {high}"
        raise UserError(f"label={found} must be one of 0 to {classes - 1}")
      most = text.vocabulary(tuple(self.config.data.pairs)) - 1
      if name == "text" and array.size and not (array.min() >= 0 and array.max() <= most):
        raise UserError(f"text has tokens from {array.min()} to {array.max()}; they must be 0 to {most}")
    return jnp.broadcast_to(jnp.asarray(array, like.dtype), (num, *like.shape))
