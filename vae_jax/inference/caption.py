"""How well texts fit images."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float

from vae_jax.inference.autoencode import Autoencodes
from vae_jax.runs import Run
from vae_jax.types import Array, ArrayLike


class Captions(Autoencodes):
  """text_log_prob."""

  def __init__(self, run: Run):
    super().__init__(run)
    self._text_log_prob = self._method("text_log_prob")

  def text_log_prob(self, images: ArrayLike, text: Any) -> Float[Array, " n"]:
    """log p(text | image) in nats, the end of the text included.

    images: [n, h, w, c], uint8 or float in [0, 1]. text: one for all, or a list of n. Raises UserError: the model
    cannot caption, or a text does not fit it.
    """
    self.require("caption")
    batch: Any = self._batch(images, {"text": text})
    return self._text_log_prob(self.variables, batch["image"], batch["text"])
