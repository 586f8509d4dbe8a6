"""Runs `data.degrade.chain`: one degradation after another, each with values drawn for the image.

Step number i draws from `fold_in(key, i)` alone, so a step that is added at the end does not change those before it.
The grammar is in `vae_jax/configuration/chains.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.configuration.chains import Range, Step, Value, parse_chain
from vae_jax.data.degrade.base import float_image
from vae_jax.data.degrade.blur import anisotropic_blur, gaussian_blur, motion_blur, sharpen
from vae_jax.data.degrade.compression import jpeg
from vae_jax.data.degrade.light import gamma, linear_to_srgb, round_to_8_bits, srgb_to_linear
from vae_jax.data.degrade.noise import camera_noise
from vae_jax.data.degrade.resize import down
from vae_jax.types import Array, ArrayLike, Key


class Drawn(NamedTuple):
  """A value of a step for one image: a number, or the index of a word.

  options: the words. most: the upper limit of a number that is drawn; None where it is the same for all images.
  """

  value: Any
  most: float | None = None
  options: tuple[str, ...] = ()


def chain(key: Key, image: ArrayLike, chain: str) -> Array:
  """The image after the steps of a chain. image: [h, w, c] -> [ceil(h / f), ceil(w / f), c], f the factor of `down`.

  Raises UserError for a chain that breaks the grammar.
  """
  image = float_image(image)
  for i, step in enumerate(parse_chain(chain)):
    happens, values, own = _draw(step, jax.random.fold_in(key, i))
    changed = _STEPS[step.name](own, image, *values)
    image = changed if happens is True else jnp.where(happens, changed, image)
  return image


def chain_factor(chain: str) -> int:
  """The factor by which a chain makes images smaller; 1 without `down`. Raises as `chain`."""
  return next((int(step.values[0][0]) for step in parse_chain(chain) if step.name == "down"), 1)


def chain_sigma(chain: str) -> Callable[[Key], Array] | None:
  """`key -> sigma` in units of white: the noise that `chain` with this key adds by its `noise` steps after any `down`.

  The root of the sum of their squares, 0 where none happens; None where there are no such steps. Raises as `chain`.
  """
  steps = list(enumerate(parse_chain(chain)))
  last = max((i for i, step in steps if step.name == "down"), default=-1)
  noisy = [(i, step) for i, step in steps if step.name == "noise" and i > last]
  if not noisy:
    return None

  def sigma(key: Key) -> Array:
    total = jnp.float32(0.0)
    for i, step in noisy:
      happens, (level,), _ = _draw(step, jax.random.fold_in(key, i))
      total += jnp.where(happens, (jnp.float32(level.value) / 255) ** 2, 0.0)
    return jnp.sqrt(total)

  return sigma


def _draw(step: Step, key: Key) -> tuple[Array | bool, list[Drawn], Key]:
  """Whether the step happens, its values, and the key of what it draws itself."""
  key_happens, key_values, own = jax.random.split(key, 3)
  values = [_drawn(value, jax.random.fold_in(key_values, j)) for j, value in enumerate(step.values)]
  if step.probability == 1:
    return True, values, own
  return jax.random.bernoulli(key_happens, jnp.float32(step.probability)), values, own


def _drawn(value: Value, key: Key) -> Drawn:
  if isinstance(value, Range):
    return Drawn(jax.random.uniform(key, (), jnp.float32, *value), value.high)
  words = tuple(v for v in value if isinstance(v, str))
  numbers = tuple(v for v in value if not isinstance(v, str))
  if len(value) < 2:
    return Drawn(numbers[0] if numbers else None, options=words)
  index = jax.random.randint(key, (), 0, len(value), jnp.int32)
  if words:
    return Drawn(index, options=words)
  return Drawn(jnp.asarray(numbers, jnp.float32)[index], max(numbers))


def _chosen(word: Drawn, function: Callable[[str], Array]) -> Array:
  """`function` of the word that was drawn."""
  if len(word.options) == 1:
    return function(word.options[0])
  return jax.lax.switch(word.value, [lambda o=option: function(o) for option in word.options])


def _noise(key: Key, image: Array, sigma: Drawn) -> Array:
  return image + sigma.value / 255 * jax.random.normal(key, image.shape, jnp.float32)


def _down(key: Key, image: Array, factor: Drawn, filter: Drawn) -> Array:
  del key
  return _chosen(filter, lambda name: down(image, int(factor.value), name))


def _blur(key: Key, image: Array, sigma: Drawn, sigma2: Drawn) -> Array:
  if sigma2.value is None:
    return gaussian_blur(image, sigma.value, most=sigma.most)
  angle = jax.random.uniform(key, (), jnp.float32, 0, math.pi)
  most = max(x.value if x.most is None else x.most for x in (sigma, sigma2))
  return anisotropic_blur(image, sigma.value, sigma2.value, angle, most)


def _motion(key: Key, image: Array, length: Drawn) -> Array:
  angle = jax.random.uniform(key, (), jnp.float32, 0, math.pi)
  return motion_blur(image, length.value, angle, length.most)


def _sharpen(key: Key, image: Array, amount: Drawn, radius: Drawn) -> Array:
  del key
  return sharpen(image, amount.value, radius.value, radius.most)


def _jpeg(key: Key, image: Array, quality: Drawn, subsampling: Drawn, grid: Drawn) -> Array:
  def stored(image: Array) -> Array:
    return _chosen(subsampling, lambda name: jpeg(image, quality.value, name))

  return _chosen(grid, lambda word: stored(image) if word == "aligned" else _off_grid(key, image, stored))


def _off_grid(key: Key, image: Array, stored: Callable[[Array], Array], block: int = 16) -> Array:
  """What was stored as a part of a larger image, mirrored around it, which begins up to block - 1 pixels before it."""
  margin, (height, width, channels) = block - 1, image.shape
  down, right = jax.random.randint(key, (2,), 0, block, jnp.int32)
  larger = jnp.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
  size = (height + margin, width + margin, channels)
  larger = stored(jax.lax.dynamic_slice(larger, (margin - down, margin - right, 0), size))
  return jax.lax.dynamic_slice(larger, (down, right, 0), image.shape)


def _gamma(key: Key, image: Array, power: Drawn) -> Array:
  del key
  return gamma(image, power.value)


def _camera(key: Key, image: Array, shot: Drawn, read: Drawn, blur: Drawn) -> Array:
  return camera_noise(key, image, shot.value / 255, read.value / 255, blur.value, blur.most)


# The function of each step: (key, image, its values as drawn) -> image.
_STEPS: dict[str, Callable[..., Array]] = {
  "noise": _noise,
  "round": lambda key, image: round_to_8_bits(image),
  "down": _down,
  "blur": _blur,
  "motion": _motion,
  "sharpen": _sharpen,
  "jpeg": _jpeg,
  "gamma": _gamma,
  "linear": lambda key, image: srgb_to_linear(image),
  "srgb": lambda key, image: linear_to_srgb(image),
  "camera": _camera,
}
