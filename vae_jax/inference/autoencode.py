"""Images into latents or codes and back: encode, reconstruct, tokens, interpolate."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vae_jax.checks import extent
from vae_jax.distributions import Gaussian, at_least, safe_sqrt
from vae_jax.errors import UserError
from vae_jax.inference.generate import Generates
from vae_jax.runs import Run
from vae_jax.types import Array, ArrayLike, Batch


def slerp(a: Float[Array, "n d"], b: Float[Array, "n d"], t: Float[Array, " m"]) -> Float[Array, "m n d"]:
  """Spherical interpolation of vectors at fractions t (Shoemake 1985).

  Keeps the norm that Gaussian latents have, which a straight line loses halfway. Parallel vectors are interpolated
  linearly. Gradients are finite everywhere.
  """
  norms = safe_sqrt(jnp.square(a).sum(-1)) * safe_sqrt(jnp.square(b).sum(-1))
  cosine = (a * b).sum(-1) / at_least(norms, 1e-12)
  parallel = jnp.abs(cosine) >= 1.0  # to float32; there the slope of arccos is infinite
  angle = jnp.arccos(jnp.where(parallel, 0.0, cosine))[None, :, None]
  a, b, t, parallel = a[None], b[None], t[:, None, None], parallel[None, :, None]
  line = (1 - t) * a + t * b
  curve = (jnp.sin((1 - t) * angle) * a + jnp.sin(t * angle) * b) / jnp.sin(angle)
  return jnp.where(parallel, line, curve)


class Autoencodes(Generates):
  """encode, reconstruct, tokens, code_vectors, from_tokens, interpolate."""

  def __init__(self, run: Run):
    super().__init__(run)
    self._encode = self._method("encode")
    self._reconstruct = self._method("reconstruct")
    self._tokens = self._method("tokens")
    self._from_tokens = self._method("from_tokens")
    self._code_vectors = self._method("code_vectors")

  def _batch(self, images: ArrayLike, condition: dict[str, Any]) -> Batch:
    """A prepared batch of what the encoder sees; of a second stage, with what its first stage makes of the images.

    That is codes, or the mean of its posterior: nothing is drawn here."""
    inputs = self._images(images)
    batch: Any = {"image": inputs, **self._condition(len(inputs), condition)}
    if self.first is None:
      return batch
    if self.first.can("tokens"):
      return {**batch, "codes": self.first.tokens(inputs)}
    return {**batch, "latents": self.first.encode(inputs).mean}

  def encode(self, images: ArrayLike, **condition: Any) -> Gaussian:
    """q(z | images): mean and logvar, float32 [n, latent_dim]. images: [n, h, w, c], uint8 or float in [0, 1].

    condition: the fields that the family needs, such as label=[n labels].
    """
    self.require("encode")
    return self._encode(self.variables, self._batch(images, condition))

  def reconstruct(self, images: ArrayLike, **condition: Any) -> Float[Array, "n h2 w2 c"]:
    """Returns reconstructions of images in [0, 1], without random draws; for restoration models, `restore(images)`.

    Raises UserError where the family gives no images back.
    """
    if not self.module.reconstructs:
      does = "; it samples new ones (--mode sample)" if self.can("sample") else ""
      has = self.first is not None and self.first.module.reconstructs
      below = self._first_stage("gives images back") if has else ""
      raise UserError(f"this run ({self.config.model.name}) gives no images back{does}{below}")
    return self._reconstruct(self.variables, self._batch(images, condition))

  def tokens(self, images: ArrayLike, **condition: Any) -> Int[Array, "n p"]:
    """The codes of images, 0 .. codes - 1, row by row. images: [n, h, w, c], uint8 or float in [0, 1]."""
    self.require("tokens")
    return self._tokens(self.variables, self._batch(images, condition))

  def code_vectors(self, images: ArrayLike, **condition: Any) -> Float[Array, "n e"]:
    """The vectors that the decoder sees of the codes of images, all positions in a row, coarse maps first, float32.

    images: [n, h, w, c], uint8 or float in [0, 1].
    """
    self.require("tokens")
    return self._code_vectors(self.variables, self._batch(images, condition))

  def from_tokens(self, codes: ArrayLike, **condition: Any) -> Float[Array, "n h w c"]:
    """The images of codes [n, p], in [0, 1]. Raises UserError for codes out of range or of another shape."""
    self.require("tokens")
    size, shape, kind = self.module.codes, np.shape(codes), jnp.result_type(codes)
    if (
      len(shape) != 2
      or shape[1] != self.module.positions
      or not shape[0]
      or not np.issubdtype(kind, np.integer)
    ):
      raise UserError(
        f"codes {kind} {list(shape)}: this model takes integers [n, {self.module.positions}], n > 0"
      )
    found = extent(codes)
    if found is not None and not 0 <= found.low <= found.high < size:
      raise UserError(f"codes from {found.low:g} to {found.high:g}: this model has 0 to {size - 1}")
    return self._from_tokens(self.variables, jnp.asarray(codes), self._condition(len(codes), condition))

  def from_stage(self, drawn: Array) -> Float[Array, "n h w c"]:
    """The images of what a second stage draws: codes, where this model has tokens, else latents."""
    return self.from_tokens(drawn) if self.can("tokens") else self.decode(drawn)

  def interpolate(
    self, a: ArrayLike, b: ArrayLike, num: int, method: str = "spherical", **condition: Any
  ) -> Float[Array, "n m h w c"]:
    """Images in [0, 1] on `num` >= 2 points of the way from each image of `a` to that of `b`, ends included.

    Args:
      a, b: [n, h, w, c], uint8 or float in [0, 1].
      num: points on the way.
      method: "spherical" (see `slerp`) or "linear", between the posterior means.
      condition: the fields that the family needs; one row for each pair.
    """
    if num < 2 or method not in ("spherical", "linear"):
      raise UserError(f"num = {num}, method = {method!r}: num must be at least 2, method spherical or linear")
    first, last = self.encode(a, **condition).mean, self.encode(b, **condition).mean
    t = jnp.linspace(0.0, 1.0, num)
    if first.shape != last.shape:
      raise UserError(f"{len(first)} images to interpolate from and {len(last)} to: give as many of each")
    z = (
      slerp(first, last, t)
      if method == "spherical"
      else first[None] + t[:, None, None] * (last - first)[None]
    )
    fields: Any = jax.tree.map(
      lambda x: jnp.tile(x, (num, *(1,) * (x.ndim - 1))), self._condition(len(first), condition)
    )
    images = self._decode(self.variables, z.reshape(-1, z.shape[-1]), fields)
    return images.reshape(num, len(first), *self.image_shape).swapaxes(0, 1)
