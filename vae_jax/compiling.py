"""How this library compiles its programs: `jax.jit` without a slow path of XLA's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# What XLA's CPU backend gives to the library YNNPACK by default, but for convolutions: jaxlib 0.10 gives it those too,
# where they are 1.2 (forward) to 5 times (gradients of kernels) slower than XLA's own.
_OPTIONS = {
  "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
}


def options() -> dict[str, str] | None:
  """For `jax.jit(..., compiler_options=...)` of programs with convolutions; None where there are none to give."""
  return _OPTIONS if jax.default_backend() == "cpu" and _are_known() else None


@functools.cache
def _are_known() -> bool:
  """Whether this version of XLA has them."""
  try:
    jax.jit(lambda: 0, compiler_options=_OPTIONS).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True


def jit(function: Callable[..., Any], **kinds: Any) -> Callable[..., Any]:
  """`jax.jit(function, **kinds)` with `options`, which may also be called while another program is traced."""
  inner = jax.jit(function, **kinds)

  @functools.cache
  def outer() -> Callable[..., Any]:  # not before the first call: asking for the devices takes them
    return jax.jit(function, compiler_options=options(), **kinds)

  @functools.wraps(function)
  def call(*args: Any) -> Any:
    # Only outermost programs take options. A constant is a tracer within `jit`, arguments are within `grad` and `vmap`.
    traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((args, jnp.zeros(()))))
    return (inner if traced else outer())(*args)

  return call
