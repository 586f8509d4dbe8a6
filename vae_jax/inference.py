"""A trained run as an object: sample, encode, decode, reconstruct, interpolate.

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
from ml_collections import ConfigDict

from vae_jax.config import from_json
from vae_jax.data.prepare import to_float
from vae_jax.distributions import Gaussian
from vae_jax.errors import UserError
from vae_jax.models import Shape, build
from vae_jax.training.checkpoints import Checkpoints
from vae_jax.training.steps import example_keys
from vae_jax.types import Array, ArrayLike, Key, Params

PRIOR_STREAM, PIXEL_STREAM = 0, 1


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
    self.module = build(config.model, self.image_shape, config.training.dtype)
    self.params = jax.tree.map(jnp.asarray, params)
    self.likelihood = self.module.likelihood.describe
    self._encode = self._method("encode")
    self._decode = self._method("decode_mean")
    self._draw = self._method("decode_sample")
    self._latents = self._method("prior_sample")

  def _method(self, name: str) -> Callable[..., Any]:
    return jax.jit(lambda params, *args: self.module.apply({"params": params}, *args, method=name))

  def _inputs(self, images: ArrayLike) -> Array:
    """float32 [b, h, w, c], or UserError: in [0, 1]; on average about there where the run degraded its images."""
    images = np.asarray(images) if not isinstance(images, jax.Array) else images
    if images.ndim != 4 or not len(images) or images.shape[1:] != self.input_shape:
      raise UserError(
        f"images of shape {images.shape}: this model takes [n, {', '.join(map(str, self.input_shape))}]; "
        "crop, resize or convert them"
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

  def encode(self, images: ArrayLike) -> Gaussian:
    """q(z | images): mean and logvar, float32 [n, latent_dim]. images: [n, h, w, c], uint8 or float in [0, 1]."""
    return self._encode(self.params, self._inputs(images))

  def decode(self, z: ArrayLike) -> Array:
    """The mean of p(x | z): float32 [n, h, w, c] in [0, 1], for latents [n, latent_dim]."""
    z = jnp.asarray(z, jnp.float32)
    if z.ndim != 2 or z.shape[1] != self.module.latent_dim:
      raise UserError(f"latents of shape {z.shape}: this model takes [n, {self.module.latent_dim}]")
    return self._decode(self.params, z)

  def reconstruct(self, images: ArrayLike) -> Array:
    """decode(encode(images).mean): float32 [n, h, w, c] in [0, 1]."""
    return self.decode(self.encode(images).mean)

  def latents(self, key: Key, num: int, temperature: float = 1.0) -> Array:
    """Draws [num, latent_dim] from N(0, temperature^2 I); the first n of `num` do not depend on `num`."""
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


def load(workdir: str | Path, checkpoint: str | int = "newest") -> TrainedVAE:
  """The model of a run: weights of its newest good checkpoint, or of its "best" one, or of a given step.

  Raises UserError where there is no such run or checkpoint, or it is damaged; "best" needs a scored checkpoint.
  """
  folder = Path(workdir)
  if not folder.is_dir():
    raise UserError(f"{folder}: no such run; give the --workdir of train.py")
  checkpoints = Checkpoints(folder / "checkpoints")
  step = None if checkpoint in ("newest", "best") else checkpoint
  if not (step is None or isinstance(step, int)):
    raise UserError(f"checkpoint = {checkpoint!r}: must be 'newest', 'best' or a step")
  if checkpoint == "best":
    step = checkpoints.best()
    if step is None and checkpoints.steps():
      raise UserError(f"{folder}: none of its checkpoints has a score yet; choose the newest or a step")
  params, meta = checkpoints.restore(step, only=("ema", "params"))
  config = from_json(json.dumps(meta["config"]), str(folder))
  (h, w, c), (low_h, low_w, low_c) = meta["image_shape"], meta["input_shape"]
  return TrainedVAE(config, params, (h, w, c), (low_h, low_w, low_c), meta["step"])
