"""The conditional VAE for structured output (Sohn, Lee & Yan 2015, "Learning Structured Output Representation using
Deep Conditional Generative Models", NeurIPS): completes images of which one to three quadrants are observed.

    p(y | x) = E_p(z|x) p(y | x, z)    p(z | x) = N(m(x, g), diag s(x, g)^2)    q(z | x, y) = N(m(x, y), diag s(x, y)^2)

x are the observed pixels, y the hidden ones, and g = g(x) is the guess of a deterministic network (the baseline of the
paper). The prior network sees it beside x, which is the recurrent connection of the paper's figure 1(d). All networks
are fully connected. The guess has a term of its own, and no other term has a gradient to it. `model.kind` says what is
trained (sections 4 and 4.2 of the paper):

    cvae     E_q log p(y | x, z) - KL(q(z | x, y) || p(z | x))
    hybrid   the same, and E_p(z|x) log p(y | x, z), the term of the GSNN, with the weight objective.gsnn
    gsnn     E_p(z|x) log p(y | x, z) alone: the recognition network is the prior network, and the rate is 0
    nn       log p(y | g(x)): the deterministic network alone

With alpha the weight of the hybrid objective, objective.vae_weight : objective.gsnn is alpha : 1 - alpha.

A batch has the whole image, and the model divides it. `degraded` images would not do: they are made before pixels are
drawn as black or white, so x would have other pixels than the target, and no value of a pixel says that it is hidden.
The quadrants are the same for all images, so the networks take the pixels of x alone. A hidden pixel is no input at
all, and cannot be taken for a black one. Only hidden pixels are made and scored: all nats are of p(y | x).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from vae_jax import distributions as dist
from vae_jax.distributions import likelihoods
from vae_jax.errors import UserError
from vae_jax.keys import MIN_0, WIDEST, WIDTHS, Keys, Rule, counted, one_of, words
from vae_jax.keys import Key as ConfigKey
from vae_jax.models import vae
from vae_jax.models.blocks import ACTIVATION_KEYS
from vae_jax.models.contract import Mode, Output
from vae_jax.models.decoders import MLPDecoder
from vae_jax.models.encoders import MLPEncoder
from vae_jax.types import Array, ArrayLike, Batch, Key, Shape, Spec, image_shape

QUADRANTS = ("upper_left", "upper_right", "lower_left", "lower_right")
FROM_PRIOR = 1  # folded into an example's key: draws of the GSNN's term


def divided(observed: Sequence[str], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
  """The places, counted row by row, of pixels in the `observed` quadrants, and of the others.

  Where the height or width is odd, the lower or right quadrants have the middle row or column.
  """
  height, width = size
  lower, right = np.arange(height) >= height // 2, np.arange(width) >= width // 2
  quadrant = 2 * lower[:, None] + right
  seen = np.isin(quadrant, [QUADRANTS.index(name) for name in observed]).ravel()
  return np.flatnonzero(seen), np.flatnonzero(~seen)


def picked(image: Float[ArrayLike, "*n h w c"], places: np.ndarray) -> Float[Array, "*n p 1 c"]:
  """The pixels at `places`, as images of one column."""
  image = jnp.asarray(image)
  flat = image.reshape(*image.shape[:-3], -1, image.shape[-1])
  return flat[..., places, None, :]


def of_pixels(likelihood: dist.Likelihood, places: np.ndarray, total: int) -> dist.Likelihood:
  """A likelihood that scores an image by its pixels at `places` alone, of `total`: params are [..., p, 1, channels]."""

  def log_prob(params: ArrayLike, image: ArrayLike, log_scale: ArrayLike | float) -> Array:
    return likelihood.log_prob(params, picked(image, places), log_scale)

  described = f"{likelihood.describe}, of the {len(places)} hidden of {total} pixels"
  return dataclasses.replace(likelihood, log_prob=log_prob, describe=described)


class StructuredCVAE(vae.ConditionalVAE):
  """A VAE of the hidden pixels, given the observed ones; its encoder is the recognition network.

  The decoder, the generation network, sees [n, latent_dim + observed values] and gives the parameters of hidden pixels,
  [n, p, 1, c], which `likelihood` takes (see `of_pixels`).

  Attributes, beside those of `vae.VAE`:
    prior_network: [b, 1, 1, observed + hidden values] -> [b, 2 * latent_dim]; guess_network: [b, observed values] ->
      parameters of hidden pixels.
    observed: the quadrants that are given.
    shape: (h, w, c) of images.
    kind: cvae, hybrid, gsnn or nn; see above.
  """

  prior_network: MLPEncoder
  guess_network: MLPDecoder
  observed: tuple[str, ...]
  shape: Shape
  kind: str

  TERMS: ClassVar[tuple[str, ...]] = ("distortion", "rate", "guess", "gsnn")
  CAN: ClassVar[frozenset[str]] = frozenset({"bound", "complete"})
  PRIOR: ClassVar[str] = "N(mean, diag(variance)), learned, of the observed pixels"
  RATED: ClassVar[str] = "neg_elbo"  # the guess may be at its best at another step

  @property
  def terms(self) -> tuple[str, ...]:
    return {"nn": self.TERMS[:2], "hybrid": self.TERMS}.get(self.kind, self.TERMS[:3])

  @property
  def units(self) -> int:
    return 0 if self.kind == "nn" else self.latent_dim

  @property
  def scored(self) -> int:
    return len(self.places[1]) * self.shape[2]

  @property
  def last_kernel(self) -> tuple[str, ...]:
    if self.kind == "nn":
      return ("guess_network", self.guess_network.last, "kernel")
    return ("decoder", self.decoder.last, "kernel")

  @property
  def places(self) -> tuple[np.ndarray, np.ndarray]:
    """The places of observed and of hidden pixels; see `divided`."""
    return divided(self.observed, self.shape[:2])

  def given(self, batch: Batch) -> Float[Array, "b x"]:
    """The values of the observed pixels, x."""
    return picked(batch["image"], self.places[0]).reshape(len(batch["image"]), -1)

  def joined(self, mean: Float[Array, "b p 1 c"], batch: Batch) -> Float[Array, "b h w c"]:
    """Whole images: the observed pixels of the batch, and the means of hidden ones."""
    image = jnp.asarray(batch["image"])
    flat = image.reshape(len(image), -1, self.shape[2])
    return flat.at[:, self.places[1]].set(mean[:, :, 0]).reshape(image.shape)

  def guess(self, batch: Batch) -> Float[Array, "b p 1 c"]:
    """Parameters of the likelihood of hidden pixels by the deterministic network, g(x)."""
    return self.guess_network(self.given(batch))

  def prior(self, condition: Batch) -> dist.Gaussian:
    """p(z | x): mean and logvar, float32 [b, latent_dim]."""
    guess = self.likelihood.mean(jax.lax.stop_gradient(self.guess(condition)), self.log_scale)
    sees = jnp.concatenate([self.given(condition), guess.reshape(len(guess), -1)], axis=-1)
    mean, raw = jnp.split(self.prior_network(sees[:, None, None]), 2, axis=-1)
    return dist.Gaussian(mean, dist.bound_logvar(raw))

  def encode(self, batch: Batch) -> dist.Gaussian:
    """q(z | x, y); of a GSNN, the prior p(z | x)."""
    return self.prior(batch) if self.kind == "gsnn" else super().encode(batch)

  def pixels(self, z: Float[Array, "n d"], condition: Batch) -> Float[Array, "n p 1 c"]:
    """Parameters of the likelihood of hidden pixels. condition: `image`, of which the observed pixels count."""
    return self.decoder(jnp.concatenate([z, self.given(condition)], axis=-1))

  def decode(self, z: Float[Array, "n d"], condition: Batch) -> Float[Array, "n h w c"]:
    """The observed pixels of condition["image"] with the mean of p(y | x, z)."""
    return self.joined(super().decode(z, condition), condition)

  def guessed(self, batch: Batch) -> Float[Array, "b h w c"]:
    """Images completed by the deterministic network, in [0, 1]."""
    return self.joined(self.likelihood.mean(self.guess(batch), self.log_scale), batch)

  def complete(self, batch: Batch) -> Float[Array, "b h w c"]:
    """Images completed without a draw, in [0, 1]: at the mean of p(z | x) (section 4.1 of the paper), or the guess."""
    return self.guessed(batch) if self.kind == "nn" else self.decode(self.prior(batch).mean, batch)

  def generate(
    self, noise: Float[Array, "n d"], condition: Batch, temperature: Any = 1.0
  ) -> Float[Array, "n h w c"]:
    """Completions of condition["image"] with z drawn from p(z | x); of `nn`, the guess."""
    return self.guessed(condition) if self.kind == "nn" else super().generate(noise, condition, temperature)

  def reconstruct(self, batch: Batch) -> Float[Array, "b h w c"]:
    """The image of the mean of q(z | x, y), which has seen the hidden pixels too; of `nn`, the guess."""
    return self.guessed(batch) if self.kind == "nn" else super().reconstruct(batch)

  def from_prior(self, batch: Batch, keys: Key, samples: int) -> Float[Array, " b"]:
    """-log p(y | x, z) in nats, mean over `samples` draws of p(z | x): the term of the GSNN."""

    def draw(key: Key) -> Array:
      return jax.random.normal(jax.random.fold_in(key, FROM_PRIOR), (samples, self.latent_dim), jnp.float32)

    z = dist.sample(self.prior(batch), jax.vmap(draw)(keys).swapaxes(0, 1))
    log_prob = self.likelihood.log_prob(self.all_pixels(z, batch), batch["image"], self.log_scale)
    return -log_prob.mean(axis=0)

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    """Scores the hidden pixels of a prepared batch; `keys` has one key per example."""
    guess = -self.likelihood.log_prob(self.guess(batch), batch["image"], self.log_scale)
    if self.kind == "nn":
      return Output(
        terms={"distortion": guess, "rate": jnp.zeros_like(guess)},
        reconstruction=self.guessed(batch),
        log_weight=jnp.broadcast_to(-guess, (mode.samples, len(guess))),
        latents={"mean": jnp.zeros((len(guess), 0), jnp.float32)},  # 0 of 0 units are active
      )
    output = super().__call__(batch, keys, mode)
    assert output.reconstruction is not None
    terms = {**output.terms, "guess": guess}
    if self.kind == "hybrid":
      terms["gsnn"] = self.from_prior(batch, keys, mode.samples)
    return output._replace(terms=terms, reconstruction=self.joined(output.reconstruction, batch))


KEYS: Keys = {
  "model.kind": ConfigKey(
    "cvae",
    "what is trained; hybrid: with the GSNN's term; gsnn: that alone; nn: the deterministic network",
    one_of("cvae", "hybrid", "gsnn", "nn"),
  ),
  "model.observed": ConfigKey(
    "lower_left",
    "quadrants that are given, comma-separated; the others are completed",
    Rule(
      f"one to three of {', '.join(QUADRANTS)}",
      lambda v: 0 < len(words(v)) < 4 and len({*words(v)} & {*QUADRANTS}) == len(words(v)),
    ),
  ),
  "model.latent_dim": ConfigKey(200, "size of the latent vector", counted(WIDEST)),
  "model.hidden": ConfigKey((1000, 1000), "widths of the layers of each network", WIDTHS),
  **ACTIVATION_KEYS,
  "objective.guess": ConfigKey(1.0, "weight of the deterministic network's own distortion", MIN_0),
  "objective.gsnn": ConfigKey(
    1.0, "hybrid: weight of the distortion with latents of the prior (Sohn et al. 2015, section 4.2)", MIN_0
  ),
}
FAMILY = StructuredCVAE


def faults(config: ConfigDict) -> Iterator[str]:
  """What the family refuses in a config whose values hold one by one."""
  name, data, kind = config.model.name, config.data, config.model.kind
  hides = f"and model.name={name} hides quadrants of clean ones"
  if data.degrade.name != "identity":
    yield f"data.degrade.name={data.degrade.name} gives degraded images, {hides}; set it to identity"
  if data.name == "paired_folder":
    yield f"data.name={data.name} gives degraded images, {hides}; use data.name=folder"
  for key in ("free_bits", "capacity") if kind in ("gsnn", "nn") else ():
    if config.objective[key]:
      yield f"objective.{key}={config.objective[key]} is of a rate, and model.kind={kind} has none; set it to 0"


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> StructuredCVAE:
  """The module that `config.model` describes, for records of `spec`. Raises UserError: images too small to divide."""
  height, width, channels = shape = image_shape(spec)
  if min(height, width) < 2:
    raise UserError(
      f"images of {height} x {width} have no quadrants, which model.observed={model.observed} names; give images of "
      "at least 2 x 2 pixels (data.size)"
    )
  observed, hidden = words(model.observed), tuple(model.hidden)
  places = divided(observed, (height, width))[1]
  likelihood = of_pixels(likelihoods.bernoulli(channels), places, height * width)
  common = {"activation": model.activation, **dtypes}
  made = {"size": (len(places), 1), "out_channels": likelihood.channels, **common}
  return StructuredCVAE(
    encoder=MLPEncoder(hidden, model.latent_dim, **common),
    decoder=MLPDecoder(hidden, **made),
    latent_dim=model.latent_dim,
    likelihood=likelihood,
    prior_network=MLPEncoder(hidden, model.latent_dim, **common),
    guess_network=MLPDecoder(hidden, **made),
    observed=observed,
    shape=shape,
    kind=model.kind,
  )
