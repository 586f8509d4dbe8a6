"""Degradations, pure functions `(key, image) -> degraded`, and bicubic resizing that agrees with MATLAB's.

An image is float32 [h, w, c] in [0, 1], any size and channel count; `vmap` over (key, image) degrades a batch
with one key per example. The functions that draw nothing also take leading axes, [..., h, w, c]. Nothing is
clipped but by what makes 8-bit images (`round_to_8_bits`, `jpeg`): noise and the overshoot of the bicubic kernel leave
[0, 1], and clipping noise would bias its mean and variance near black and white. Writers of 8-bit files clip.

`docs/degradations.md` has the formulas and their sources.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vae_jax.data.degrade.base import Border, checked, float_image
from vae_jax.data.degrade.blur import (
  anisotropic_blur,
  gaussian_blur,
  gaussian_weights,
  motion_blur,
  sharpen,
)
from vae_jax.data.degrade.chains import chain, chain_factor, chain_sigma
from vae_jax.data.degrade.compression import jpeg
from vae_jax.data.degrade.light import gamma, linear_to_srgb, round_to_8_bits, srgb_to_linear
from vae_jax.data.degrade.noise import camera_noise, gaussian_noise, poisson_gaussian
from vae_jax.data.degrade.resize import (
  bicubic_down,
  bicubic_up,
  bicubic_weights,
  blur_down,
  down,
  resize_bicubic,
)
from vae_jax.errors import UserError, nearest
from vae_jax.types import Array, ArrayLike, Key

__all__ = [
  "DEGRADATIONS",
  "Border",
  "Degrade",
  "anisotropic_blur",
  "bicubic_down",
  "bicubic_up",
  "bicubic_weights",
  "blur_down",
  "camera_noise",
  "chain",
  "degrade_values",
  "degraded_shape",
  "down",
  "factor_of",
  "gamma",
  "gaussian_blur",
  "gaussian_noise",
  "gaussian_weights",
  "identity",
  "jpeg",
  "linear_to_srgb",
  "make_degrade",
  "motion_blur",
  "noise_sigma",
  "poisson_gaussian",
  "resize_bicubic",
  "round_to_8_bits",
  "sharpen",
  "srgb_to_linear",
]

Degrade = Callable[[Key, ArrayLike], Array]


def identity(key: Key, image: ArrayLike) -> Array:
  """The image itself. `key` is not used."""
  del key
  return float_image(image)


# Each name with its function and the keys of `data.degrade` that it takes.
DEGRADATIONS: dict[str, tuple[Callable[..., Array], tuple[str, ...]]] = {
  "identity": (identity, ()),
  "gaussian_noise": (gaussian_noise, ("sigma", "sigma_max")),
  "poisson_gaussian": (poisson_gaussian, ("peak", "sigma")),
  "blur_down": (blur_down, ("factor", "blur", "border")),
  "bicubic_down": (bicubic_down, ("factor", "border")),
  "chain": (chain, ("chain",)),
}
_ADDED_LATER = {"border": "mirror", "chain": ""}  # configs of before lack these keys


def make_degrade(config_degrade: Mapping[str, Any]) -> Degrade:
  """The function `(key, image [h, w, c]) -> degraded` that `data.degrade` names, with its values bound.

  Raises UserError for an unknown name or a value out of range.
  """
  function, values = _resolve(config_degrade)
  return functools.partial(function, **values)


def degrade_values(config_degrade: Mapping[str, Any]) -> dict[str, Any]:
  """The values of `data.degrade` that the degradation it names uses, without the name. Raises as `make_degrade`."""
  return _resolve(config_degrade)[1]


def factor_of(config_degrade: Mapping[str, Any]) -> int:
  """The factor by which the degradation makes images smaller; 1 where it does not. Raises as `make_degrade`."""
  _, values = _resolve(config_degrade)
  return chain_factor(values["chain"]) if "chain" in values else values.get("factor", 1)


def degraded_shape(config_degrade: Mapping[str, Any], shape: tuple[int, int, int]) -> tuple[int, int, int]:
  """The shape (h', w', c) of what `make_degrade(config_degrade)` makes of an image of `shape` (h, w, c)."""
  h, w, c = shape
  factor = factor_of(config_degrade)
  return -(-h // factor), -(-w // factor), c


def noise_sigma(config_degrade: Mapping[str, Any]) -> Callable[[Key], Array] | None:
  """`key -> sigma`, float32 in units of white: the noise that `make_degrade(config_degrade)` adds with this key.

  For gaussian_noise whose sigma is drawn, and for chains that have `noise` steps after any `down`; else None. What a
  chain does to the noise afterwards, such as blurring it, does not count. Raises as `make_degrade`.
  """
  _, values = _resolve(config_degrade)
  if "chain" in values:
    return chain_sigma(values["chain"])
  if values.get("sigma_max", 0) > values.get("sigma", 0):
    low, high = values["sigma"], values["sigma_max"]
    # As `gaussian_noise` draws it.
    return lambda key: jax.random.uniform(jax.random.split(key)[0], (), jnp.float32, low, high)
  return None


def _resolve(config: Mapping[str, Any]) -> tuple[Callable[..., Array], dict[str, Any]]:
  name = config["name"]
  if name not in DEGRADATIONS:
    hint = nearest(name, DEGRADATIONS, what="degradations")
    raise UserError(f"data.degrade.name={name!r} is not a degradation{hint}")
  function, keys = DEGRADATIONS[name]
  given = {**_ADDED_LATER, **config}
  values = {key: checked(key, given[key]) for key in keys}
  if "chain" in values:
    chain_factor(values["chain"])  # the text is a chain
  if 0 < values.get("sigma_max", 0) < values["sigma"]:
    raise UserError(
      f"data.degrade.sigma_max={values['sigma_max']} is below data.degrade.sigma={values['sigma']}: "
      "raise it, or set it to 0 for a fixed sigma"
    )
  return function, values
