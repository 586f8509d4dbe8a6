"""Distances between the features of two images, and the published mixes that use them. One value per image.

Features are what `vae_jax.perceptual` networks return, or anything shaped like it: {layer: [b, h, w, c]}. The functions
know no network, so they serve any extractor in any JAX library; `PRESETS` names the networks and layers of papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from vae_jax.distributions import safe_sqrt
from vae_jax.errors import UserError, nearest
from vae_jax.types import Array, ArrayLike

Features = Mapping[str, ArrayLike]


def perceptual_loss(
  features: Features,
  target_features: Features,
  weights: Mapping[str, float] | None = None,
  distance: str = "squared",
  unit_channels: bool = False,
) -> Array:
  """The weighted sum over layers of a mean feature distance: {layer: [b, h, w, c]} each -> float32 [b], no unit.

  Args:
    features, target_features: of the same layers and shapes; gradients flow through both.
    weights: {layer: weight}; 1 each unless given. By name, because dicts lose their order on the way through jit.
    distance: "squared", sum (a - b)^2 / (h w c), the feature reconstruction loss of Johnson et al. 2016 (eq. 2);
      "l1", sum |a - b| / (h w c).
    unit_channels: scale each position's feature vector to length 1 first, as LPIPS does (Zhang et al. 2018), so that
      layers of any magnitude count alike.

  Raises ValueError where layers or shapes differ and for weights that are no scalars, UserError for another distance.
  """
  if distance not in ("squared", "l1"):
    raise UserError(
      f"distance {distance!r} is unknown{nearest(distance, ('squared', 'l1'), what='distances')}"
    )
  terms = []
  for weight, a, b in _weighted(features, target_features, weights):
    if unit_channels:
      a, b = normalize_channels(a), normalize_channels(b)
    error = jnp.square(a - b) if distance == "squared" else jnp.abs(a - b)
    terms.append(weight * error.mean(axis=(1, 2, 3)))
  return sum(terms[1:], start=terms[0])


def lpips(features: Features, target_features: Features, heads: Mapping[str, ArrayLike]) -> Array:
  """Learned perceptual image patch similarity (Zhang et al. 2018, eq. 1): {layer: [b, h, w, c]} each -> float32 [b].

  sum over layers of the mean over positions of sum_c head_c (a_c - b_c)^2, with a and b scaled to length 1 at each
  position. `heads`: {layer: the learned weights [c]}. See `vae_jax.perceptual.load_lpips` for the layers.
  """
  terms = []
  for head, a, b in _pairs(features, target_features, heads):
    squares = jnp.square(normalize_channels(a) - normalize_channels(b))
    if jnp.shape(head) != a.shape[-1:]:
      raise ValueError(f"a head of shape {jnp.shape(head)} does not fit features of shape {a.shape}")
    terms.append((squares @ jnp.asarray(head, jnp.float32)).mean(axis=(1, 2)))
  return sum(terms[1:], start=terms[0])


def style_loss(
  features: Features, target_features: Features, weights: Mapping[str, float] | None = None
) -> Array:
  """The weighted sum over layers of |gram(a) - gram(b)|_F^2 (Johnson et al. 2016, eq. 4) -> float32 [b], no unit.

  Heights and widths may differ between the two: a Gram matrix has lost positions. One target (batch of 1) serves
  any number of images.
  """
  terms = [
    weight * jnp.square(gram(a) - gram(b)).sum(axis=(1, 2))
    for weight, a, b in _weighted(features, target_features, weights, positions=False)
  ]
  return sum(terms[1:], start=terms[0])


def gram(features: ArrayLike) -> Array:
  """Gram matrix over positions, divided by h w c (Johnson et al. 2016, eq. 3): [b, h, w, c] -> float32 [b, c, c]."""
  b, h, w, c = jnp.shape(features)
  rows = jnp.asarray(features, jnp.float32).reshape(b, h * w, c)
  return jnp.einsum("bpc,bpd->bcd", rows, rows) / (h * w * c)


def normalize_channels(features: ArrayLike, eps: float = 1e-10) -> Array:
  """Each position's feature vector over (its length + eps), float32. Gradient 0 where the vector is 0."""
  x = jnp.asarray(features, jnp.float32)
  return x / (safe_sqrt(jnp.square(x).sum(axis=-1, keepdims=True)) + eps)


class Preset(NamedTuple):
  """A published mix: loss = vae_weight * (alpha * distortion + beta * rate) + weight * perceptual_loss.

  The fields are the config's `objective.*` and `objective.perceptual.*` keys of the same names. `likelihood` and
  `sigma` make `distortion` the pixel term of the source, up to a constant.
  """

  network: str
  layers: tuple[str, ...]
  layer_weights: tuple[float, ...]
  weight: float
  vae_weight: float
  alpha: float
  beta: float
  likelihood: str
  sigma: str


PRESETS = {
  # Hou et al. 2017, "Deep feature consistent variational autoencoder": per layer sum (a - b)^2 / (2 C W H), KL summed
  # over latents, weights 1 (KL) and 0.5 (features); no pixel term. The layer weights 1/2 are the 2 of the formula.
  "dfc": Preset(
    "vgg19", ("relu1_1", "relu2_1", "relu3_1"), (0.5, 0.5, 0.5), 0.5, 1.0, 0.0, 1.0, "gaussian", "learned"
  ),
  # The super-resolution VAE with a perceptual loss: 1.0 * (0.001 * squared error + KL) + 0.8 * mean squared difference
  # at relu3_3. Squared error: summed over pixels and channels, a Gaussian likelihood with sigma^2 = 1/2; KL: summed
  # over latents; features: mean over positions and channels. Each term is a mean over images here; the published
  # program adds the first two up over its batch of 32 images and averages only the third: 32 times lighter.
  "perceptual_vae": Preset("vgg16", ("relu3_3",), (1.0,), 0.8, 1.0, 0.001, 1.0, "gaussian", "0.70710678"),
  # Johnson et al. 2016, feature reconstruction for super-resolution: squared difference at relu2_2 of VGG-16 over CHW.
  # Theirs is a deterministic network: no rate.
  "johnson": Preset("vgg16", ("relu2_2",), (1.0,), 1.0, 1.0, 0.0, 0.0, "gaussian", "learned"),
}


def _weighted(
  features: Features, target_features: Features, weights: Mapping[str, float] | None, positions: bool = True
) -> list[tuple[Any, Array, Array]]:
  """As `_pairs`. Raises ValueError for weights that are no scalars."""
  pairs = _pairs(features, target_features, weights, positions)
  for weight, _, _ in pairs:
    if jnp.ndim(weight):
      raise ValueError(f"weights must be one number for each layer; got one of shape {jnp.shape(weight)}")
  return pairs


def _pairs(
  features: Features, target_features: Features, weights: Mapping[str, Any] | None, positions: bool = True
) -> list[tuple[Any, Array, Array]]:
  """(weight, features, target features) of each layer, in float32."""
  layers = sorted(target_features)
  if not layers or sorted(features) != layers:
    raise ValueError(
      f"features of layers {list(features)} and target features of {list(target_features)} must be of the same"
    )
  if weights is not None and sorted(weights) != layers:
    raise ValueError(f"weights of layers {list(weights)} for features of {layers}; give one of each")
  pairs = []
  for layer in layers:
    a, b = jnp.asarray(features[layer], jnp.float32), jnp.asarray(target_features[layer], jnp.float32)
    fits = a.shape == b.shape if positions else a.shape[-1] == b.shape[-1]
    if a.ndim != 4 or b.ndim != 4 or not fits or 0 in (*a.shape[1:], *b.shape[1:]):
      raise ValueError(f"{layer}: features of shape {a.shape} and target {b.shape} must fit, [b, h, w, c]")
    pairs.append((jnp.asarray(1.0 if weights is None else weights[layer], jnp.float32), a, b))
  return pairs
