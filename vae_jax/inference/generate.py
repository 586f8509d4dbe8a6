"""New images: draws from the prior, decoded."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from vae_jax.checks import extent
from vae_jax.errors import UserError
from vae_jax.generator import standard
from vae_jax.inference.base import PIXEL_STREAM, PRIOR_STREAM, Base, as_key
from vae_jax.runs import Run
from vae_jax.training.steps import example_keys
from vae_jax.types import Array, ArrayLike, Batch, Key


class Generates(Base):
  """decode, latents, sample."""

  def __init__(self, run: Run):
    super().__init__(run)
    self._decode = self._method("decode")
    self._draw_pixels = self._method("draw_pixels")
    self._latents = self._method("latents")
    self._generate = self._method("generate")

  def decode(self, z: ArrayLike, **condition: Any) -> Float[Array, "n h w c"]:
    """The mean of p(x | z), in [0, 1], for latents [n, latent_dim].

    condition: the fields that the family needs, such as label=7 or label=[n labels].
    """
    self.require("decode")
    z = jnp.asarray(z, jnp.float32)
    if z.ndim != 2 or z.shape[1] != self.module.units or not len(z):
      raise UserError(f"latents of shape {z.shape}: this model takes [n, {self.module.units}], n > 0")
    return self._decode(self.variables, z, self._condition(len(z), condition))

  def _has(self, method: str, otherwise: str) -> None:
    """Raises UserError where the family has no such method beside those of the contract."""
    if not hasattr(self.module, method):
      raise UserError(f"this run ({self.config.model.name}) {otherwise}")

  @standard()
  def _noise(self, key: Key, num: int, temperature: float, start: int = 0) -> Any:
    found = extent(temperature)
    if num < 1 or (found is not None and not 0 <= found.low <= found.high < math.inf):
      raise UserError(
        f"num = {num}, temperature = {temperature}: num must be at least 1, temperature at least 0 and finite"
      )
    keys = example_keys(key, PRIOR_STREAM, start + jnp.arange(num))
    return jax.vmap(lambda key: self.module.noise(key, self.spec))(keys)

  def latents(self, key: Key | int, num: int, temperature: float = 1.0, **condition: Any) -> Array:
    """Draws [num, latent_dim] from the prior, its deviation scaled by the temperature. Those of a second stage are
    latents of its first stage.

    key: a key, or a seed. The first n of `num` do not depend on `num`.
    """
    self.require("sample")
    self._has("latents", "draws no latents; use sample")
    noise = self._noise(as_key(key), num, temperature)
    return self._latents(self.variables, noise, self._condition(num, condition), temperature)

  def sample(
    self,
    key: Key | int,
    num: int,
    temperature: float = 1.0,
    pixels: bool = False,
    start: int = 0,
    **condition: Any,
  ) -> Float[Array, "n h w c"]:
    """New images in [0, 1]: the mean of p(x | z), or a draw from it with pixels=True.

    key: a key, or a seed such as 0.
    start: where to begin in the endless sequence of images that a key stands for, so that many are made in parts.
    condition: the fields that the family needs, such as label=7 for all or label=[num labels]. The first
    stage decodes what a second stage draws.
    """
    self.require("sample")
    key = as_key(key)
    noise = self._noise(key, num, temperature, start)
    fields: Batch = self._condition(num, condition)
    if pixels:
      self._has("draw_pixels", f"draws no pixels; leave out pixels={pixels}")
      z = self._latents(self.variables, noise, fields, temperature)
      part = jax.random.fold_in(key, PIXEL_STREAM)
      return self._draw_pixels(self.variables, z, fields, jax.random.fold_in(part, start) if start else part)
    drawn = self._generate(self.variables, noise, fields, temperature)
    return drawn if self.first is None else self.first.from_stage(drawn)
