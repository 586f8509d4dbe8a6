"""Images completed from the part that a model is given."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.errors import UserError
from vae_jax.inference.autoencode import Autoencodes
from vae_jax.inference.base import as_key
from vae_jax.runs import Run
from vae_jax.types import Array, ArrayLike, Key

HIDDEN = 0.5  # grey level of hidden pixels in pictures


class Completes(Autoencodes):
  """complete, guessed, given."""

  def __init__(self, run: Run):
    super().__init__(run)
    self._complete = self._method("complete")
    self._guessed = self._method("guessed")

  def complete(
    self, images: ArrayLike, key: Key | int | None = None, samples: int = 1, temperature: float = 1.0
  ) -> Array:
    """Completes images of which the model is given a part, such as one quadrant.

    Args:
      images: whole images [n, h, w, c], uint8 or float in [0, 1]. What lies outside of the part has no effect.
      key: None for the completion at the mean of the prior p(z | x). A key, or a seed, for draws of z.
      samples: how many draws.
      temperature: scales the deviation of the prior.

    Returns:
      The images with the mean of p(y | x, z) in their hidden pixels, float32 in [0, 1]: [n, h, w, c] without a key,
      [samples, n, h, w, c] with one. Raises UserError: the model completes none, or has no latents to draw.
    """
    self.require("complete")
    batch: Any = self._batch(images, {})
    if key is None:
      if samples != 1 or temperature != 1.0:
        raise UserError(
          f"samples = {samples}, temperature = {temperature} without a key, so that nothing is drawn; give key=0"
        )
      return self._complete(self.variables, batch)
    if not self.draws_completions:
      raise UserError(
        f"this run ({self.config.model.name} with model.kind={self.config.model.kind}) has no latents to draw; leave "
        "out the key"
      )
    key, draws = as_key(key), []
    if samples < 1:
      raise UserError(f"samples = {samples}: must be at least 1")
    for k in range(samples):
      noise = self._noise(jax.random.fold_in(key, k), len(batch["image"]), temperature)
      draws.append(self._generate(self.variables, noise, batch, temperature))
    return jnp.stack(draws)

  @property
  def draws_completions(self) -> bool:
    """Whether completions differ from draw to draw."""
    return self.can("complete") and self.module.units > 0

  def guessed(self, images: ArrayLike) -> Array:
    """Images [n, h, w, c] completed by the deterministic network beside the latents, float32 in [0, 1]."""
    self.require("complete")
    return self._guessed(self.variables, self._batch(images, {}))

  def given(self, images: ArrayLike) -> np.ndarray:
    """Images [n, h, w, c], float32 in [0, 1], whose hidden pixels are grey, 0.5."""
    self.require("complete")
    shown = np.array(self._images(images))
    flat = shown.reshape(len(shown), -1, shown.shape[-1])
    flat[:, self.module.places[1]] = HIDDEN
    return flat.reshape(shown.shape)
