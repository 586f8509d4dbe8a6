"""The second stage of the two-stage VAE (Dai & Wipf 2019, arXiv:1903.05789): a VAE of another VAE's latents.

A first stage puts images on their manifold, and its latents z of real images do not have the distribution N(0, I) from
which it samples. So a second VAE learns what distribution they have (section 4 of the paper):

    p(u) = N(0, I)      p(z | u) = N(f(u), gamma^2 I), gamma learned      q(u | z) = N(m(z), diag s(z)^2)

It is trained on draws z ~ q(z | x) of the frozen first stage, not on means. u has the size of z: then the second stage
has no manifold to find, and its q(u) is close to N(0, I). Samples: u ~ p(u), z ~ p(z | u), image = decoder(z). The
networks f, m, s are dense layers whose last one also sees the input, as in the authors' code.

Its terms are nats of latents, not of images. Their sum is `neg_elbo_latents`, a bound on -log p(z): not comparable with
an image's `neg_elbo`. It compares with `prior_nll_latents`, -log N(z; 0, I) of the same draws: where the bound is below
that, the second stage has a better distribution of latents than the first stage's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float
from ml_collections import ConfigDict

from vae_jax import distributions as dist
from vae_jax.errors import UserError
from vae_jax.keys import WIDTHS, Keys
from vae_jax.keys import Key as ConfigKey
from vae_jax.models.blocks import ACTIVATION_KEYS, ACTIVATIONS
from vae_jax.models.contract import Family, Mode, Output
from vae_jax.types import Array, Batch, Key, Spec


class DenseWithInput(nn.Module):
  """Dense layers of the widths `hidden`; a last one, of the width `out`, sees their result and the input side by side.

  The last layer is float32 whatever the compute type.
  """

  hidden: tuple[int, ...]
  out: int
  activation: str = "relu"
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n e"]:
    y = x.astype(self.dtype)
    for width in self.hidden:
      y = ACTIVATIONS[self.activation](nn.Dense(width, dtype=self.dtype, param_dtype=self.param_dtype)(y))
    both = jnp.concatenate([x.astype(jnp.float32), y.astype(jnp.float32)], axis=-1)
    return nn.Dense(self.out, dtype=jnp.float32, param_dtype=self.param_dtype, name="last")(both)


class LatentVAE(Family):
  """p(u) = N(0, I), p(z | u) = N(decoder(u), gamma^2 I), q(u | z) of the encoder.

  Attributes:
    encoder: latents of the first stage [b, d] -> [b, 2 d], mean and raw logvar of u.
    decoder: u [n, d] -> [n, d].
    size: d.
  """

  encoder: nn.Module
  decoder: nn.Module
  size: int

  TERMS: ClassVar[tuple[str, ...]] = ("distortion", "rate")
  CAN: ClassVar[frozenset[str]] = frozenset({"sample"})
  NEEDS: ClassVar[frozenset[str]] = frozenset({"latents"})
  STANDARD_PRIOR: ClassVar[bool] = True

  @property
  def bound_name(self) -> str:
    return "neg_elbo_latents"

  @property
  def units(self) -> int:
    """Its own latents u, as many as the first stage's."""
    return self.size

  def setup(self):
    # Below 1: latents have about the variance 1, so at gamma = 1 a decoder that ignores u explains them. Begun there, a
    # fit of latents on a circle was still N(0, I) after 1,500 steps.
    self.log_gamma = self.param("log_gamma", nn.initializers.constant(-1.0), (), jnp.float32)

  @property
  def gamma_logvar(self) -> Float[Array, ""]:
    """log gamma^2, softly bounded as a posterior's is: gamma stays above e^-6 of the latents' unit."""
    return dist.bound_logvar(2.0 * self.log_gamma)

  def noise(self, key: Key, spec: Spec, origin: tuple[int, int] | Array = (0, 0)) -> Float[Array, "2 d"]:
    """u, and the noise of p(z | u)."""
    return jax.random.normal(key, (2, self.size), jnp.float32)

  def latents(self, noise: Float[Array, "n 2 d"], condition: Batch, temperature: Any = 1.0) -> Array:
    """Latents of the first stage, [n, d]; the temperature scales the deviations of p(u) and of p(z | u)."""
    mean = self.decoder(temperature * noise[:, 0])
    return mean + temperature * jnp.exp(0.5 * self.gamma_logvar) * noise[:, 1]

  def generate(self, noise: Float[Array, "n 2 d"], condition: Batch, temperature: Any = 1.0) -> Array:
    return self.latents(noise, condition, temperature)

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    z, samples = jnp.asarray(batch["latents"], jnp.float32), mode.samples
    mean, raw = jnp.split(self.encoder(z), 2, axis=-1)
    posterior = dist.Gaussian(mean, dist.bound_logvar(raw))
    eps = jax.vmap(lambda key: jax.random.normal(key, (samples, self.size), jnp.float32))(keys)
    u = dist.sample(posterior, eps.swapaxes(0, 1))  # [s, b, d]
    found = self.decoder(u.reshape(-1, self.size)).reshape(u.shape)
    likelihood = dist.Gaussian(found, jnp.broadcast_to(self.gamma_logvar, found.shape))
    distortion = -dist.log_prob(likelihood, jnp.broadcast_to(z, found.shape)).mean(axis=0)
    kl_units = dist.kl_standard_normal(posterior)
    rates = kl_units.sum(axis=-1, keepdims=True)
    return Output(
      terms={
        "distortion": distortion,
        "rate": rates.sum(axis=-1),
        "prior_nll_latents": -dist.standard_normal_log_prob(z),
        "sigma_latents": jnp.full_like(distortion, jnp.exp(0.5 * self.gamma_logvar)),
      },
      rates=rates,
      kl_units=kl_units,
      latents={"z": u[0], "mean": posterior.mean, "logvar": posterior.logvar},
    )


KEYS: Keys = {
  "model.hidden": ConfigKey(
    (1024, 1024, 1024), "widths of the encoder's layers; the decoder mirrors them", WIDTHS
  ),
  **ACTIVATION_KEYS,
}
FAMILY = LatentVAE


def faults(config: ConfigDict) -> Iterator[str]:
  """What the family refuses in a config whose values hold one by one."""
  if config.objective.name == "iwae":
    yield "objective.name=iwae bounds the likelihood of images, and model.name=latent_vae has none; set it to elbo"


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> LatentVAE:
  """The module that `config.model` describes, for records of `spec`.

  Raises UserError: the first stage's latents of an image are no vector.
  """
  shape = spec["latents"].shape
  if len(shape) != 1:
    raise UserError(
      f"model.name=latent_vae models latents [d], and those of training.first_stage are {list(shape)}; choose a first "
      "stage with one vector for each image"
    )
  hidden, common = tuple(model.hidden), {"activation": model.activation, **dtypes}
  return LatentVAE(
    encoder=DenseWithInput(hidden, 2 * shape[0], **common),
    decoder=DenseWithInput(hidden[::-1], shape[0], **common),
    size=shape[0],
  )
