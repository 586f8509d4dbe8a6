"""Runs the methods of a comparison on each image, and takes the seconds of each, without compilation."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from vae_jax.types import ArrayLike

COMPILED = ("ours", "bicubic")  # methods that JAX compiles, for each new size of image
REPEATED = 3  # images of a new size that are restored again, to be timed


class Stopwatch:
  """Keeps the seconds of each method for each image; None where they may include compilation, or it failed."""

  def __init__(self, methods: Iterable[str]):
    self._seconds: dict[str, list[float | None]] = {name: [] for name in methods}
    self._megapixels: list[float] = []  # of the degraded images
    self._sizes: set[tuple[int, ...]] = set()

  @property
  def methods(self) -> tuple[str, ...]:
    """Their names."""
    return tuple(self._seconds)

  def run(
    self, methods: Mapping[str, tuple[Any, ...]], degraded: tuple[int, ...], clean: tuple[int, ...]
  ) -> dict[str, np.ndarray]:
    """Returns what each method makes of an image, float32 of the shape `clean`.

    methods: by name (function, its arguments...). degraded: the shape that is restored, for each of which a compiled
    method compiles.
    """
    outputs = {}
    for name, call in methods.items():
      once = functools.partial(timed, "restore" if name == "ours" else name, clean, *call)
      outputs[name], taken = once()
      if not np.isfinite(outputs[name]).any():
        self._seconds[name].append(None)
      elif name in COMPILED and degraded not in self._sizes:  # so `taken` may hold compilation
        known = sum(one is not None for one in self._seconds[name])
        self._seconds[name].append(once()[1] if known < REPEATED else None)
      else:
        self._seconds[name].append(taken)
    self._sizes.add(degraded)
    self._megapixels.append(degraded[0] * degraded[1] / 1e6)
    return outputs

  def summary(self) -> dict[str, dict[str, Any]]:
    """Returns "seconds" of the scores, see `score_folder`."""
    return {name: _typical(some, self._megapixels) for name, some in self._seconds.items()}


def timed(
  name: str, shape: tuple[int, ...], function: Callable[..., ArrayLike], *args: Any
) -> tuple[np.ndarray, float]:
  """Returns what a method makes of an image, float32, and the seconds it took.

  Raises ValueError where that is not of `shape`, or no floats.
  """
  start = time.perf_counter()
  output = np.asarray(function(*args))
  taken = time.perf_counter() - start
  if output.shape != shape or not np.issubdtype(output.dtype, np.floating):
    raise ValueError(
      f"{name} returned {output.dtype}{list(output.shape)}, expected float32{list(shape)} in [0, 1]"
    )
  return output.astype(np.float32), taken


def _typical(seconds: list[float | None], megapixels: list[float]) -> dict[str, Any]:
  known = [one for one in seconds if one is not None]
  rates = [one / size for one, size in zip(seconds, megapixels, strict=True) if one is not None]
  mean, median, rate = (
    [float(np.mean(known)), *(float(np.median(some)) for some in (known, rates))] if known else [None] * 3
  )
  return {"mean": mean, "median": median, "per_megapixel": rate, "images": seconds}
