"""A family for tests of models with texts: each image is the mean of learned images, one for each byte of its text."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from vae_jax.data.text import VOCABULARY
from vae_jax.models.contract import Family, Output
from vae_jax.types import image_shape


class Toy(Family):
  shape: tuple[int, int, int]

  TERMS: ClassVar = ("distortion",)
  CAN: ClassVar = frozenset({"sample"})
  NEEDS: ClassVar = frozenset({"text"})

  def setup(self):
    self.table = self.param("table", nn.initializers.normal(1.0), (VOCABULARY, *self.shape), jnp.float32)

  def noise(self, key, spec, origin=(0, 0)):
    return 0.01 * jax.random.normal(key, self.shape, jnp.float32)

  def generate(self, noise, condition, temperature=1.0):
    text = condition["text"]
    there = (text > 0).astype(jnp.float32)[..., None, None, None]
    mean = (there * self.table[text]).sum(axis=1) / jnp.maximum(there.sum(axis=1), 1)
    return nn.sigmoid(mean + temperature * noise)

  def __call__(self, batch, keys, mode):
    drawn = self.generate(jnp.zeros_like(batch["image"]), batch)
    return Output({"distortion": ((drawn - batch["image"]) ** 2).sum(axis=(1, 2, 3))})


KEYS = {}
FAMILY = Toy


def faults(config):
  yield from ()


def build(model, spec, dtypes):
  return Toy(image_shape(spec))
