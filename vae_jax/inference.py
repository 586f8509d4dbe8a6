"""A trained run as an object: sample, encode, decode, reconstruct, interpolate, restore.

    model = vae_jax.load("runs/mnist_vae")
    images = model.sample(jax.random.key(0), 16)

Needs the checkpoint alone: no config file, no data set, and any kind or number of devices.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from vae_jax.compiling import jit
from vae_jax.config import from_json
from vae_jax.data.images import MAX_PIXELS
from vae_jax.data.prepare import to_float
from vae_jax.distributions import Gaussian
from vae_jax.errors import UserError
from vae_jax.models import Shape, build
from vae_jax.photos.tiling import tiled
from vae_jax.storage import exported as pretrained
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training.state import init_params
from vae_jax.training.steps import example_keys
from vae_jax.types import Array, ArrayLike, Key, Params

PRIOR_STREAM, PIXEL_STREAM = 0, 1
MAX_SIDE, MAX_CHANNELS = 2**16, 16  # of images that a file may speak of
MAX_FACTOR, MAX_MULTIPLE = 64, 4096
TILE = 256  # rows and columns, in pixels of the degraded image, that are restored at once


def slerp(a: Array, b: Array, t: Array) -> Array:
  """Spherical interpolation of vectors [n, d] at fractions t [m] -> [m, n, d] (Shoemake 1985).

  Keeps the norm that Gaussian latents have, which a straight line loses halfway. Parallel vectors are interpolated
  linearly.
  """
  norms = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
  cosine = jnp.clip((a * b).sum(-1) / jnp.maximum(norms, 1e-12), -1.0, 1.0)
  angle = jnp.arccos(cosine)[None, :, None]
  a, b, t = a[None], b[None], t[:, None, None]
  line = (1 - t) * a + t * b
  sine = jnp.sin(angle)
  curve = (jnp.sin((1 - t) * angle) * a + jnp.sin(t * angle) * b) / jnp.where(sine > 1e-4, sine, 1.0)
  return jnp.where(sine > 1e-4, curve, line)


class TrainedVAE:
  """A model with its weights (the moving average where the run kept one). Methods are compiled at first use.

  Attributes: config (ConfigDict of the run), step (of the checkpoint), image_shape (h, w, c), input_shape (what the
  encoder sees), likelihood (in words).
  """

  def __init__(self, config: ConfigDict, params: Params, image_shape: Shape, input_shape: Shape, step: int):
    self.config, self.step = config, step
    self.image_shape, self.input_shape = image_shape, input_shape
    self.module = build(config.model, image_shape, config.training.dtype, input_shape=input_shape)
    self.params = jax.tree.map(jnp.asarray, params)
    self.likelihood = self.module.likelihood.describe
    self._encode = self._method("encode")
    self._decode = self._method("decode_mean")
    self._draw = self._method("decode_sample")
    self._latents = self._method("prior_sample")
    self._restore = self._method("restore")
    self._restore_draw = jit(self._restored_draw)
    self._pixel_noise = self._method("pixel_noise")

  def _method(self, name: str) -> Callable[..., Any]:
    return jit(lambda params, *args: self.module.apply({"params": params}, *args, method=name))

  def _inputs(self, images: ArrayLike, single: bool = False) -> Array:
    """float32 [b, h, w, c], or UserError: in [0, 1]; on average about there where the run degraded its images.

    single: `images` is one, [h, w, c].
    """
    images = np.asarray(images) if not isinstance(images, jax.Array) else images
    given, images = images.shape, images[None] if single else images
    # A model of one size takes that size; one that restores takes any.
    takes = self.input_shape if self.module.unconditional else ("h", "w", self.input_shape[2])
    fits = (
      images.shape[-len(takes) :] == takes if self.module.unconditional else images.shape[-1:] == takes[2:]
    )
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
      if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"images of type {images.dtype}: give uint8 (0..255) or float in [0, 1]")
      low, high = float(images.min()), float(images.max())
      fits = low >= 0 and high <= 1
      if (
        self.config.data.degrade.name != "identity"
      ):  # noise and overshoot leave [0, 1], their mean does not by far
        fits = bool(np.isfinite(low + high)) and abs(float(images.mean()) - 0.5) < 1
      if not fits:
        raise UserError(
          f"images with values from {low:g} to {high:g}: give uint8 (0..255) or float in [0, 1]"
        )
    return to_float(images)

  def _unconditional(self, what: str) -> None:
    if not self.module.unconditional:
      raise UserError(
        f"this run restores images and cannot {what}; use restore (--mode restore, benchmark, reconstruct)"
      )

  def encode(self, images: ArrayLike) -> Gaussian:
    """q(z | images): mean and logvar, float32 [n, latent_dim]. images: [n, h, w, c], uint8 or float in [0, 1]."""
    self._unconditional("encode clean ones")
    return self._encode(self.params, self._inputs(images))

  def decode(self, z: ArrayLike) -> Array:
    """The mean of p(x | z): float32 [n, h, w, c] in [0, 1], for latents [n, latent_dim]."""
    self._unconditional("decode latents alone")
    z = jnp.asarray(z, jnp.float32)
    if z.ndim != 2 or z.shape[1] != self.module.latent_dim:
      raise UserError(f"latents of shape {z.shape}: this model takes [n, {self.module.latent_dim}]")
    return self._decode(self.params, z)

  def reconstruct(self, images: ArrayLike) -> Array:
    """decode(encode(images).mean), or `restore(images)`: float32 [n, h, w, c] in [0, 1]."""
    return self._restore(self.params, self._inputs(images))

  def latents(self, key: Key, num: int, temperature: float = 1.0) -> Array:
    """Draws [num, latent_dim] from N(0, temperature^2 I); the first n of `num` do not depend on `num`."""
    self._unconditional("sample without one")
    if num < 1 or not temperature >= 0:
      raise UserError(
        f"num = {num}, temperature = {temperature}: num must be at least 1, temperature at least 0"
      )
    return self._latents(self.params, example_keys(key, PRIOR_STREAM, jnp.arange(num)), temperature)

  def sample(self, key: Key, num: int, temperature: float = 1.0, pixels: bool = False) -> Array:
    """New images, float32 [num, h, w, c] in [0, 1]: the mean of p(x | z), or a draw from it with pixels=True."""
    z = self.latents(key, num, temperature)
    return self._draw(self.params, z, jax.random.fold_in(key, PIXEL_STREAM)) if pixels else self.decode(z)

  def interpolate(self, a: ArrayLike, b: ArrayLike, num: int, method: str = "spherical") -> Array:
    """Images on `num` >= 2 points of the way from each image of `a` to that of `b`, ends included.

    Args:
      a, b: [n, h, w, c], uint8 or float in [0, 1].
      num: points on the way.
      method: "spherical" (see `slerp`) or "linear", between the posterior means.

    Returns:
      float32 [n, num, h, w, c] in [0, 1].
    """
    if num < 2 or method not in ("spherical", "linear"):
      raise UserError(f"num = {num}, method = {method!r}: num must be at least 2, method spherical or linear")
    first, last, t = self.encode(a).mean, self.encode(b).mean, jnp.linspace(0.0, 1.0, num)
    if first.shape != last.shape:
      raise UserError(f"{len(first)} images to interpolate from and {len(last)} to: give as many of each")
    z = (
      slerp(first, last, t)
      if method == "spherical"
      else first[None] + t[:, None, None] * (last - first)[None]
    )
    images = self.decode(z.reshape(-1, z.shape[-1]))
    return images.reshape(num, len(first), *self.image_shape).swapaxes(0, 1)

  @property
  def factor(self) -> int:
    """How many times larger than its input a restoration is, along each axis."""
    return -(-self.image_shape[0] // self.input_shape[0])

  def _restored_draw(self, params: Params, images: Array, keys: Key, origin: Array) -> Array:
    size = (images.shape[1], images.shape[2])
    eps = jax.vmap(lambda key: self.module.noise(key, size, origin))(keys)  # type: ignore[union-attr]
    return self.module.apply({"params": params}, images, eps, method="restore")  # type: ignore[return-value]

  def can_restore(self) -> None:
    """Raises UserError where the model is none that restores photographs."""
    if self.module.unconditional:
      known = f", or --pretrained {' | '.join(pretrained.names())}" if pretrained.names() else ""
      raise UserError(
        f"this run ({self.config.model.name} of {' x '.join(map(str, self.image_shape))}) does not restore "
        f"photographs; use a restoration_vae or transformation_net run{known}"
      )

  def can_draw(self) -> None:
    """Raises UserError where the model has no distribution of restorations to draw from."""
    if self.module.unconditional or not self.module.units:  # type: ignore[union-attr]
      raise UserError(
        "this run has no latents to draw restorations from: leave key and samples out, or train restoration_vae "
        "with model.latent_dim > 0"
      )

  def restore(self, images: ArrayLike, key: Key | None = None, samples: int = 1) -> Array:
    """What degraded images may have been: denoised, up-scaled, enhanced, as the run was trained to.

    Args:
      images: [n, h, w, c], uint8 or float, about [0, 1] (noise is not clipped). Any height and width for a
        restoration model; for the others, those it was trained with.
      key: None for the estimate, at the prior's mean. A key for draws from p(clean | degraded), without pixel noise.
      samples: how many draws.

    Returns:
      float32 in [0, 1]: [n, H, W, c] without a key, [samples, n, H, W, c] with one; H = factor * h.
    """
    inputs = self._inputs(images)
    if key is None:
      if samples != 1:
        raise UserError(
          f"samples = {samples} without a key: they would all be the same; give key=jax.random.key(0)"
        )
      return self._restore(self.params, inputs)
    self.can_draw()
    if samples < 1:
      raise UserError(f"samples = {samples}: must be at least 1")
    origin = jnp.zeros(2, jnp.int32)
    draws = []
    for k in range(samples):
      keys = example_keys(jax.random.fold_in(key, k), PRIOR_STREAM, jnp.arange(len(inputs)))
      draws.append(self._restore_draw(self.params, inputs, keys, origin))
    return jnp.stack(draws)

  def restore_image(
    self,
    image: ArrayLike,
    key: Key | None = None,
    *,
    tile: int = TILE,
    ensemble: bool = False,
    progress: Callable[[int, int], None] | None = None,
  ) -> np.ndarray:
    """One image of any size, in tiles: the result is that of the whole image, the memory that of a tile.

    Args:
      image: [h, w, c], as for `restore`. Grey, [h, w] or [h, w, 1], is repeated for a model of colour.
      key: None for the estimate; a key for one draw, that of `restore(image[None], key)` up to the key's folding.
      tile: rows and columns at a time.
      ensemble: mean of the results for the image's 8 orientations, turned back (Timofte et al. 2016); estimates only.
      progress: called with (tiles done, tiles in all) after each; all orientations count.

    Returns:
      float32 [factor * h, factor * w, c] in [0, 1], on the host.
    """
    inputs = self._photograph(image)
    if key is not None:
      self.can_draw()
      if ensemble:
        raise UserError("ensemble averages estimates, it cannot draw: leave out the key or ensemble")
    if self.module.unconditional:
      if ensemble:
        raise UserError(
          "ensemble turns images, for restoration_vae only: this run takes upright images; leave it out"
        )
      return np.asarray(self._restore(self.params, inputs[None]))[0]

    def window(pixels: np.ndarray, origin: tuple[int, int]) -> Array:
      if key is None:
        return self._restore(self.params, pixels[None])[0]
      return self._restore_draw(self.params, pixels[None], key[None], jnp.asarray(origin))[0]

    def whole(pixels: np.ndarray, turn: int = 0) -> np.ndarray:
      def show(done: int, total: int) -> None:
        if progress is not None:
          progress(turn * total + done, total * (8 if ensemble else 1))

      return self._tiled(window, pixels, tile, show)

    if not ensemble:
      return whole(inputs)
    total = np.zeros((), np.float32)
    for turns in range(4):
      for mirror in (False, True):
        turned = np.rot90(inputs[:, ::-1] if mirror else inputs, turns)
        back = np.rot90(whole(turned, 2 * turns + mirror), -turns)
        total = total + (back[:, ::-1] if mirror else back)
    return total / 8

  def pixel_noise(self, image: ArrayLike, *, tile: int = TILE) -> np.ndarray:
    """How far pixels are from a draw of `restore_image`: the standard deviation of p(x | y, z) at each.

    With the variance of draws it makes that of p(x | y): deviation^2 = variance of draws + pixel_noise^2.

    Args:
      image, tile: as for `restore_image`.

    Returns:
      float32 [factor * h, factor * w, c] in units of [0, 1], on the host.
    """
    self.can_draw()
    return self._tiled(
      lambda x, origin: self._pixel_noise(self.params, x[None])[0], self._photograph(image), tile
    )

  def _photograph(self, image: ArrayLike) -> np.ndarray:
    """float32 [h, w, c] of one image; grey is repeated for a model of colour."""
    image = np.asarray(image)
    if image.ndim in (2, 3) and image.shape[2:] in ((), (1,)):
      image = np.repeat(np.atleast_3d(image), self.input_shape[2], axis=2)
    return np.asarray(self._inputs(image, single=True))[0]

  def _tiled(
    self,
    window: Callable[[np.ndarray, tuple[int, int]], Any],
    pixels: np.ndarray,
    tile: int,
    progress: Callable[[int, int], None] | None = None,
  ) -> np.ndarray:
    where: Any = self.module
    sizes = {"factor": self.factor, "tile": tile, "halo": where.radius, "multiple": where.multiple}
    return tiled(window, pixels, **sizes, progress=progress)


def load(workdir: str | Path, checkpoint: str | int = "newest") -> TrainedVAE:
  """The model of a run: weights of its newest good checkpoint, or of its "best" one, or of a given step.

  `workdir` may also be a folder that `export` wrote, or the name of a model that comes with the project, such as
  "superres_x2"; these have one set of weights. A name stands for a folder of that name where there is one.

  Nothing in the folder is run, whoever made it: weights and their description are data, compared with one another
  before they take memory.

  Raises UserError where there is no such run or checkpoint, or it is damaged; "best" needs a scored checkpoint.
  """
  folder = Path(workdir)
  if not folder.is_dir() and str(workdir) in pretrained.names():
    folder = pretrained.FOLDER / str(workdir)
  if not folder.is_dir():
    known = f", or one of {', '.join(pretrained.names())}" if pretrained.names() else ""
    raise UserError(f"{folder}: no such run; give the --workdir of train.py{known}")
  if pretrained.is_model(folder):
    if checkpoint != "newest":
      raise UserError(f"checkpoint = {checkpoint!r}: {folder} has one set of weights; leave it out")
    params, meta = pretrained.read(folder)
  else:
    params, meta = _from_checkpoint(folder, checkpoint)
  try:
    config = from_json(json.dumps(meta["config"]), str(folder))
    image_shape, input_shape = _shape(meta["image_shape"]), _shape(meta["input_shape"])
    if type(meta["step"]) is not int or meta["step"] < 0:
      raise ValueError(f"step {str(meta['step'])[:80]!r}")
    _check_weights(config, params, image_shape, input_shape)
    return TrainedVAE(config, params, image_shape, input_shape, meta["step"])
  except UserError:
    raise
  except Exception as error:  # whatever a model trips over that is made from a stranger's numbers
    words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    raise UserError(f"{folder}: does not describe a model ({words}); train or fetch it again") from error


def _shape(given: Any) -> Shape:
  """(h, w, c) of what a file says. Raises ValueError where no image is of that shape."""
  if not (isinstance(given, list) and len(given) == 3 and all(type(n) is int and n > 0 for n in given)):
    raise ValueError(f"{str(given)[:80]} is no shape of an image")
  height, width, channels = given
  if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS or channels > MAX_CHANNELS:
    raise ValueError(f"images of {height} x {width} x {channels} are too large")
  return height, width, channels


def _check_weights(config: ConfigDict, params: Params, image_shape: Shape, input_shape: Shape) -> None:
  """Raises ValueError unless `params` are those of the model that the config describes.

  No memory is taken for that model, which may be of any size, and time only in proportion to what the params are.
  """
  held = flatten_dict(params, sep="/")
  model = config.model
  depth = {"mlp_vae": len(model.hidden), "transformation_net": model.blocks}
  layers = depth.get(model.name, model.blocks * len(model.channels))
  if layers > len(held):
    raise ValueError(f"its config has {layers} layers and more, its weights are {len(held)} arrays")
  module = build(model, image_shape, config.training.dtype, input_shape=input_shape)
  if not module.unconditional:  # of any size of image; here the least one
    side, factor = module.multiple, module.factor  # type: ignore[union-attr]
    if side * factor > MAX_MULTIPLE or factor > MAX_FACTOR:
      raise ValueError(f"it works on squares of {side} pixels and enlarges {factor} times")
    image_shape = (side * factor, side * factor, image_shape[2])
    input_shape = (side, side, input_shape[2])
  tree = jax.eval_shape(lambda key: init_params(module, image_shape, input_shape, key), jax.random.key(0))
  wanted = flatten_dict(tree, sep="/")
  for name in sorted(wanted.keys() | held.keys()):
    has, needs = (f"{x[name].dtype}{list(x[name].shape)}" if name in x else "nothing" for x in (held, wanted))
    if has != needs:
      raise ValueError(f"{name[:80]!r}: the weights have {has}, the model of its config has {needs}")


def _from_checkpoint(folder: Path, checkpoint: str | int) -> tuple[Params, dict[str, Any]]:
  checkpoints = Checkpoints(folder / "checkpoints")
  step = None if checkpoint in ("newest", "best") else checkpoint
  if not (step is None or isinstance(step, int)):
    raise UserError(f"checkpoint = {checkpoint!r}: must be 'newest', 'best' or a step")
  if checkpoint == "best":
    step = checkpoints.best()
    if step is None and checkpoints.steps():
      raise UserError(f"{folder}: none of its checkpoints has a score yet; choose the newest or a step")
  return checkpoints.restore(step, only=("ema", "params"))


def export(model: TrainedVAE, folder: str | Path) -> None:
  """Writes a model as one small file of weights and its description, for `load` on any machine."""
  meta = {"image_shape": model.image_shape, "input_shape": model.input_shape, "step": model.step}
  pretrained.save(folder, jax.device_get(model.params), {"config": model.config.to_dict(), **meta})
