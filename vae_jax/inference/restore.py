"""Photographs restored: whole or in tiles, estimates or draws, and how uncertain they are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.checks import concrete, extent
from vae_jax.compiling import jit
from vae_jax.errors import UserError
from vae_jax.generator import standard
from vae_jax.inference.autoencode import Autoencodes
from vae_jax.inference.base import PRIOR_STREAM, as_key
from vae_jax.models.noise_level import pooled, to_sigma
from vae_jax.photos.tiling import assembled, tiled_bands
from vae_jax.runs import Run
from vae_jax.training.steps import example_keys
from vae_jax.types import Array, ArrayLike, Key, Variables

TILE = 256  # rows and columns, in pixels of the degraded image, that are restored at once
TEMPERATURE = 0.5  # of draws; at 1 they have specks, and their LPIPS is no better than the estimate's


class Restores(Autoencodes):
  """restore, restore_image, deviation."""

  def __init__(self, run: Run):
    super().__init__(run)
    self._restore_draw = standard()(jit(self._restored_draw))
    self._restore = self._method("restore")
    self._deviation = self._method("deviation")
    self._noise_estimates = self._method("noise_estimates")

  @property
  def factor(self) -> int:
    """How many times larger than its input a restoration is, along each axis."""
    return -(-self.image_shape[0] // self.input_shape[0])

  @property
  def told(self) -> bool:
    """Whether the model is told the noise of a picture, and estimates it where it is not given."""
    return bool(getattr(self.module, "told", False))

  def noise_sigma(self, image: ArrayLike, *, tile: int = TILE) -> float:
    """The standard deviation of a picture's noise, in units of [0, 1], at most 1, as the model estimates it.

    A model with a map of the noise (model.noise=local) gives the mean level. image, tile: as for `restore_image`.
    Raises UserError: the model is not told of noise.
    """
    self.require_told("noise_sigma")
    inputs = self._photograph(image)
    bands = self._tiled(lambda x, origin: self._noise_estimates(self.variables, x[None])[0], inputs, tile)
    estimates = assembled(bands, len(inputs))
    return min(float(to_sigma(pooled(jnp.asarray(estimates)[None])[0])), 1.0)

  def require_told(self, what: str) -> None:
    """Raises UserError, naming `what` was asked, where the model is not told the noise of a picture."""
    if not self.told:
      raise UserError(
        f"{what}: this run ({self.config.model.name}) is not told the noise of a picture; leave it out, or use a "
        "model that is (model.noise=uniform or local)"
      )

  def _sigmas(self, sigma: float | ArrayLike | None, num: int) -> Array | None:
    """float32 [num] of one sigma or one for each picture. Raises UserError: no model for it, or out of range."""
    if sigma is None:
      return None
    self.require_told(f"sigma={sigma}")
    given = np.asarray(sigma, np.float32)
    if given.shape not in ((), (num,)) or not np.all((given >= 0) & (given <= 1)):
      raise UserError(
        f"sigma={sigma}: give the standard deviation of the noise for white = 1, from 0 to 1 (25 of 255 is 0.098)"
      )
    return jnp.broadcast_to(given, (num,))

  def _restored_draw(
    self,
    variables: Variables,
    images: Array,
    keys: Key,
    origin: Array,
    temperature: Array,
    sigma: Array | None = None,
  ) -> Any:
    spec = {**self.spec, "degraded": jax.ShapeDtypeStruct(images.shape[1:], images.dtype)}
    eps = jax.vmap(lambda key: self.module.noise(key, spec, origin))(keys)
    condition = {"degraded": images} if sigma is None else {"degraded": images, "sigma": sigma}
    return self.module.apply(variables, eps, condition, temperature, method="generate")

  def restore(
    self,
    images: ArrayLike,
    key: Key | int | None = None,
    samples: int = 1,
    sigma: float | ArrayLike | None = None,
    temperature: float | None = None,
  ) -> Array:
    """Restores degraded images: denoises, enlarges or enhances them, as the run was trained to.

    Args:
      images: [n, h, w, c], uint8 or float, about [0, 1] (noise is not clipped). Any height and width for a
        restoration model; for the others, those it was trained with.
      key: None for the estimate, at the prior's mean. A key, or a seed, for draws from p(clean | degraded), without
        pixel noise.
      samples: how many draws.
      sigma: standard deviation of the noise in units of [0, 1], one or one for each image, for models that are told
        (`told`); None: estimated from the image.
      temperature: of draws: scales the deviation of the prior. None: 0.5; 1: p(clean | degraded) as it was learned;
        0: the estimate.

    Returns:
      float32 in [0, 1]: [n, H, W, c] without a key, [samples, n, H, W, c] with one; H = factor * h.
    """
    inputs = self._images(images)
    sigmas, scale = self._sigmas(sigma, len(inputs)), _temperature(temperature, key)
    if key is None:
      if samples != 1:
        raise UserError(
          f"samples = {samples} without a key: they would all be the same; give key=jax.random.key(0)"
        )
      return self._estimate(inputs, sigmas)
    self.require("draw")
    if samples < 1:
      raise UserError(f"samples = {samples}: must be at least 1")
    key, origin = as_key(key), jnp.zeros(2, jnp.int32)
    draws = []
    for k in range(samples):
      keys = example_keys(jax.random.fold_in(key, k), PRIOR_STREAM, jnp.arange(len(inputs), dtype=jnp.int32))
      draws.append(self._restore_draw(self.variables, inputs, keys, origin, scale, sigmas))
    return jnp.stack(draws)

  def restore_image(
    self,
    image: ArrayLike,
    key: Key | int | None = None,
    *,
    tile: int = TILE,
    ensemble: bool = False,
    progress: Callable[[int, int], None] | None = None,
    sigma: float | None = None,
    temperature: float | None = None,
  ) -> np.ndarray:
    """One image of any size, in tiles: the result is that of the whole image, the memory that of a tile.

    Args:
      image: [h, w, c], as for `restore`. Grey, [h, w] or [h, w, 1], is repeated for a model of colour.
      key: None for the estimate; a key, or a seed, for one draw, that of `restore(image[None], key)` up to the key's
        folding.
      tile: rows and columns at a time.
      ensemble: mean of the results for the image's 8 orientations, turned back (Timofte et al. 2016); estimates only.
      progress: called with (tiles done, tiles in all) after each; all orientations count.
      sigma: standard deviation of the noise in units of [0, 1], for models that are told; None: `noise_sigma` of the
        whole image.
      temperature: as for `restore`.

    Returns:
      float32 [factor * h, factor * w, c] in [0, 1], on the host.
    """
    inputs = self._photograph(image)
    bands = self._bands(inputs, key, tile, ensemble, progress, sigma, temperature)
    return assembled(bands, self.factor * len(inputs))

  def restore_bands(
    self,
    image: ArrayLike,
    key: Key | int | None = None,
    *,
    tile: int = TILE,
    ensemble: bool = False,
    progress: Callable[[int, int], None] | None = None,
    sigma: float | None = None,
    temperature: float | None = None,
  ) -> Iterator[np.ndarray]:
    """The result of `restore_image` in bands of rows, from the top down, so that memory need not hold it as a whole.

    Each is float32 [rows, factor * w, c]. An ensemble, and a model that cannot work in tiles, give one band.
    """
    return self._bands(self._photograph(image), key, tile, ensemble, progress, sigma, temperature)

  def _bands(
    self,
    inputs: np.ndarray,
    key: Key | int | None,
    tile: int,
    ensemble: bool,
    progress: Callable[[int, int], None] | None,
    sigma: float | None,
    temperature: float | None,
  ) -> Iterator[np.ndarray]:
    sigmas, scale = self._one_sigma(inputs, sigma, tile), _temperature(temperature, key)
    if key is not None:
      key = as_key(key)
      self.require("draw")
      if ensemble:
        raise UserError("ensemble averages estimates, it cannot draw: leave out the key or ensemble")
    if not self.can("tile"):
      if ensemble:
        raise UserError(
          "ensemble turns images, and this run takes upright images of one size alone; leave it out"
        )
      yield np.asarray(self._estimate(jnp.asarray(inputs[None]), sigmas))[0]
      return

    def window(pixels: np.ndarray, origin: tuple[int, int]) -> Array:
      if key is None:
        return self._estimate(pixels[None], sigmas)[0]
      place = jnp.asarray(origin, jnp.int32)
      return self._restore_draw(self.variables, pixels[None], key[None], place, scale, sigmas)[0]

    if not ensemble:
      yield from self._tiled(window, inputs, tile, progress)
      return
    height, width, channels = inputs.shape
    result = np.zeros((self.factor * height, self.factor * width, channels), np.float32)
    for turn, (turns, mirror) in enumerate(itertools.product(range(4), (False, True))):

      def show(done: int, total: int, turn: int = turn) -> None:
        if progress is not None:
          progress(turn * total + done, total * 8)

      def turned(pixels: np.ndarray, turns: int = turns, mirror: bool = mirror) -> np.ndarray:
        return np.rot90(pixels[:, ::-1] if mirror else pixels, turns)

      rows, first = turned(result), 0  # a view
      for band in self._tiled(window, turned(inputs), tile, show):
        rows[first : first + len(band)] += band
        first += len(band)
    result /= 8
    yield result

  def deviation(self, image: ArrayLike, *, tile: int = TILE, sigma: float | None = None) -> np.ndarray:
    """How uncertain the estimate of `restore_image` is: the standard deviation of p(clean | degraded) at each pixel.

    Args:
      image, tile, sigma: as for `restore_image`.

    Returns:
      float32 [factor * h, factor * w, c] in units of [0, 1], on the host.
    """
    bands = self.deviation_bands(image, tile=tile, sigma=sigma)
    return assembled(bands, self.factor * np.shape(image)[0])

  def deviation_bands(
    self, image: ArrayLike, *, tile: int = TILE, sigma: float | None = None
  ) -> Iterator[np.ndarray]:
    """The result of `deviation` in bands of rows, as `restore_bands`."""
    self.require("draw")
    inputs = self._photograph(image)
    sigmas = self._one_sigma(inputs, sigma, tile)

    def window(pixels: np.ndarray, origin: tuple[int, int]) -> Array:
      given = () if sigmas is None else (sigmas,)
      return self._deviation(self.variables, pixels[None], *given)[0]

    return self._tiled(window, inputs, tile)

  def _one_sigma(self, inputs: np.ndarray, sigma: float | None, tile: int) -> Array | None:
    """float32 [1]: given, or where one level is for the whole picture, estimated from all of it, not from a tile."""
    if sigma is None and getattr(self.module, "noise_mode", "none") == "uniform":
      sigma = self.noise_sigma(inputs, tile=tile)
    return self._sigmas(sigma, 1)

  def _estimate(self, inputs: ArrayLike, sigmas: Array | None = None) -> Array:
    """What the model gives back of checked images. Raises UserError: it gives none, or needs more than images."""
    for field in sorted(self.module.conditions):
      raise UserError(
        f"this run ({self.config.model.name}) needs a {field} for each image, which restore does not take; use "
        f"reconstruct(images, {field}=...)"
      )
    if not self.can("tile"):
      return self.reconstruct(inputs)
    if sigmas is None:
      return self._reconstruct(self.variables, {"image": inputs})
    return self._restore(self.variables, inputs, None, sigmas)

  def _photograph(self, image: ArrayLike) -> np.ndarray:
    """float32 [h, w, c] of one image; grey is repeated for a model of colour."""
    if not concrete(image):
      raise UserError(
        "the tiles of an image are cut on the host, which jit and grad cannot do; use restore(image[None])"
      )
    image = np.asarray(image)
    if image.ndim in (2, 3) and image.shape[2:] in ((), (1,)):
      image = np.repeat(np.atleast_3d(image), self.input_shape[2], axis=2)
    return np.asarray(self._images(image, single=True))[0]

  def _tiled(
    self,
    window: Callable[[np.ndarray, tuple[int, int]], Any],
    pixels: np.ndarray,
    tile: int,
    progress: Callable[[int, int], None] | None = None,
  ) -> Iterator[np.ndarray]:
    where: Any = self.module
    sizes = {"factor": self.factor, "tile": tile, "halo": where.radius, "multiple": where.multiple}
    return tiled_bands(window, pixels, **sizes, progress=progress)


def _temperature(temperature: float | None, key: Key | int | None) -> Array:
  """float32; TEMPERATURE for None. Raises UserError: not at least 0 and finite, or without a key to draw with."""
  if temperature is None:
    return jnp.float32(TEMPERATURE)
  if key is None:
    raise UserError(f"temperature = {temperature} has no effect without a key; give key=0, or leave it out")
  found = extent(temperature)
  if found is not None and not 0 <= found.low <= found.high < math.inf:
    raise UserError(f"temperature = {temperature}: must be at least 0 and finite")
  return jnp.float32(temperature)
