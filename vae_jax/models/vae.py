"""The variational autoencoder (Kingma & Welling 2014): one layer of Gaussian latents; any encoder and likelihood.

Where the batch carries a degraded image (noisy, low-resolution), the encoder sees that and the likelihood scores the
clean one: log p(x) >= E_q(z|y)[log p(x|z)] - KL(q(z|y) || p(z)) holds for any q. The families `mlp_vae` and `conv_vae`
are this module with different encoders and decoders; `flexible_vae` has other densities of its latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from vae_jax import distributions as dist
from vae_jax.distributions import likelihoods
from vae_jax.keys import Key as ConfigKey
from vae_jax.keys import Keys, between, counted, one_of
from vae_jax.models.contract import Family, Mode, Output
from vae_jax.types import Array, Batch, Key, Spec, seen

WEIGHTED = ("iwae", "miwae", "ciwae", "piwae")  # objectives of importance weights


class GaussianLatents(Family):
  """p(z) = N(0, I) and q(z | x) = N(mean(x), diag exp(logvar(x))); what `decode` makes of z is the family's.

  Attributes:
    encoder: images [b, h, w, c] -> [b, 2 * latent_dim], or a map [b, h', w', 2 * d] with h' * w' * d = latent_dim.
    decoder: latents [n, latent_dim] -> what the family makes its images of, [n, h, w, p].
    latent_dim: number of latents.
  """

  encoder: nn.Module
  decoder: nn.Module
  latent_dim: int

  @property
  def units(self) -> int:
    """Latents of an image."""
    return self.latent_dim

  @property
  def last_kernel(self) -> tuple[str, ...]:
    return ("decoder", self.decoder.last, "kernel")

  def encode(self, batch: Batch) -> dist.Gaussian:
    """The posterior q(z | image); mean and logvar float32 [b, latent_dim]."""
    image = seen(batch)
    mean, raw = (half.reshape(image.shape[0], -1) for half in jnp.split(self.encoder(image), 2, axis=-1))
    return dist.Gaussian(mean, dist.bound_logvar(raw))

  def reconstruct(self, batch: Batch) -> Float[Array, "b h2 w2 c"]:
    """The image of the posterior's mean."""
    return self.decode(self.encode(batch).mean, batch)

  def noise(self, key: Key, spec: Spec, origin: tuple[int, int] | Array = (0, 0)) -> Float[Array, " d"]:
    return jax.random.normal(key, (self.latent_dim,), jnp.float32)

  def latents(self, noise: Float[Array, "n d"], condition: Batch, temperature: Any = 1.0) -> Array:
    """Latents drawn from the prior, N(0, temperature^2 I), from standard normal noise."""
    return temperature * noise

  def generate(
    self, noise: Float[Array, "n d"], condition: Batch, temperature: Any = 1.0
  ) -> Float[Array, "n h w c"]:
    return self.decode(self.latents(noise, condition, temperature), condition)

  def log_prior(self, z: Float[Array, "s b d"], batch: Batch) -> Float[Array, "s b"]:
    """log p(z) in nats."""
    return dist.standard_normal_log_prob(z)


class Drawn(NamedTuple):
  """Draws from q(z | x) and their log densities in nats; what of them terms over a batch and scores look at.

  posterior: q(z | x), where it is a Gaussian.
  """

  z: Float[Array, "s b d"]
  log_q: Float[Array, "s b"]
  latents: dict[str, Array]
  posterior: dist.Gaussian | None


class VAE(GaussianLatents):
  """Beside p(z) and q(z | x) of `GaussianLatents`: p(x | z) = likelihood(decoder(z)).

  Attributes, beside those of `GaussianLatents`:
    likelihood: of the pixels; see `vae_jax.distributions`. The decoder gives its parameters.
  """

  likelihood: dist.Likelihood

  TERMS: ClassVar[tuple[str, ...]] = ("distortion", "rate")
  CAN: ClassVar[frozenset[str]] = frozenset({"encode", "decode", "sample", "bound", "inpaint"})
  STANDARD_PRIOR: ClassVar[bool] = True

  def setup(self):
    # One scale for all pixels, starting at sigma = e^-2 of the grey range.
    self.log_scale = (
      self.param("log_scale", nn.initializers.constant(-2.0), (), jnp.float32)
      if self.likelihood.has_scale
      else jnp.zeros((), jnp.float32)
    )

  def pixels(self, z: Float[Array, "n d"], condition: Batch) -> Float[Array, "n h w p"]:
    """Parameters of the likelihood of each pixel."""
    return self.decoder(z)

  def decode(self, z: Float[Array, "n d"], condition: Batch) -> Float[Array, "n h w c"]:
    return self.likelihood.mean(self.pixels(z, condition), self.log_scale)

  def draw_pixels(self, z: Float[Array, "n d"], condition: Batch, key: Key) -> Float[Array, "n h w c"]:
    """Images drawn from p(x | z), in [0, 1]."""
    return self.likelihood.sample(key, self.pixels(z, condition), self.log_scale)

  def log_observed(
    self, z: Float[Array, "n d"], batch: Batch, observed: Bool[Array, "n h w"]
  ) -> Float[Array, " n"]:
    """log p(observed pixels of an image | z) in nats."""
    params = self.pixels(z, batch)
    return dist.observed_log_prob(self.likelihood, params, batch["image"], self.log_scale, observed)

  def all_pixels(self, z: Float[Array, "s b d"], batch: Batch) -> Float[Array, "s b h w p"]:
    """`pixels` of several latents of each image."""
    params = self.pixels(z.reshape(-1, self.latent_dim), batch)
    return params.reshape(*z.shape[:2], *params.shape[1:])

  def draw(self, batch: Batch, eps: Float[Array, "s b d"], path: bool = False) -> Drawn:
    """Draws from q(z | x) by standard normal noise. path: as in `Mode`."""
    posterior = self.encode(batch)
    z = dist.sample(posterior, eps)
    held = jax.lax.stop_gradient(posterior) if path else posterior
    latents = {"z": z[0], "mean": posterior.mean, "logvar": posterior.logvar}
    return Drawn(z, dist.log_prob(held, z), latents, posterior)

  def kl_units(self, drawn: Drawn, batch: Batch) -> Float[Array, "b d"] | None:
    """KL(q(z | x) || p(z)) of each latent, in nats; None where it has no closed form."""
    assert drawn.posterior is not None
    return dist.kl_standard_normal(drawn.posterior)

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    image, samples = jnp.asarray(batch["image"]), mode.samples
    eps = jax.vmap(lambda key: jax.random.normal(key, (samples, self.latent_dim), jnp.float32))(keys)
    drawn = self.draw(batch, eps.swapaxes(0, 1), mode.path)

    def joint(z: Array) -> tuple[Array, tuple[Array, Array, Array]]:
      params = self.all_pixels(z, batch)
      distortion = -self.likelihood.log_prob(params, image, self.log_scale)
      log_prior = self.log_prior(z, batch)
      return log_prior - distortion, (log_prior, distortion, params[0])

    log_weights: dict[str, Array] = {}
    if mode.apart:
      log_weights, (log_prior, distortion, params) = _apart(joint, drawn)
    else:
      _, (log_prior, distortion, params) = joint(drawn.z)
    kl_units = self.kl_units(drawn, batch)
    rate = (drawn.log_q - log_prior).mean(axis=0) if kl_units is None else kl_units.sum(axis=-1)
    return Output(
      terms={"distortion": distortion.mean(axis=0), "rate": rate},
      reconstruction=self.likelihood.mean(params, self.log_scale),
      rates=rate[:, None],
      kl_units=kl_units,
      log_weight=log_prior - drawn.log_q - distortion,
      log_weights=log_weights,
      latents=drawn.latents,
    )


class ConditionalVAE(VAE):
  """A `VAE` with p(z | y) in place of N(0, I) and p(x | z, y); y are fields of the batch.

  A subclass has `prior`, and a `pixels` that reads y.
  """

  STANDARD_PRIOR: ClassVar[bool] = False

  def prior(self, condition: Batch) -> dist.Gaussian:
    """p(z | y): mean and logvar, float32 [n, latent_dim]."""
    raise NotImplementedError

  def latents(self, noise: Float[Array, "n d"], condition: Batch, temperature: Any = 1.0) -> Array:
    """Latents drawn from p(z | y), its deviation scaled by the temperature, from standard normal noise."""
    return dist.sample(self.prior(condition), temperature * noise)

  def all_pixels(self, z: Float[Array, "s b d"], batch: Batch) -> Float[Array, "s b h w p"]:
    return jax.vmap(lambda z: self.pixels(z, batch))(z)

  def log_prior(self, z: Float[Array, "s b d"], batch: Batch) -> Float[Array, "s b"]:
    """log p(z | y) in nats."""
    return dist.log_prob(self.prior(batch), z)

  def kl_units(self, drawn: Drawn, batch: Batch) -> Float[Array, "b d"]:
    """KL(q(z | x, y) || p(z | y)) of each latent, in nats."""
    assert drawn.posterior is not None
    return dist.kl(drawn.posterior, self.prior(batch))


def _apart(joint: Callable[[Array], tuple[Array, Any]], drawn: Drawn) -> tuple[dict[str, Array], Any]:
  """Importance weights with gradients to the posterior and to all else, and what `joint` gives beside log p(x, z).

  By the slope of log p(x, z) in z, which is taken here: as a number, it leads a gradient to the posterior alone.
  """
  z = jax.lax.stop_gradient(drawn.z)
  log_joint, pull, more = jax.vjp(joint, z, has_aux=True)
  value, slope = jax.lax.stop_gradient((log_joint, pull(jnp.ones_like(log_joint))[0]))
  through_z = value + ((drawn.z - z) * slope).sum(axis=-1)
  log_weights = {
    "posterior": through_z - drawn.log_q,
    "model": log_joint - jax.lax.stop_gradient(drawn.log_q),
  }
  return log_weights, more


# Config keys of the families that are a `VAE`: bounds of importance weights, and their gradients. In place of the key
# objective.name that all families with a rate have.
KEYS: Keys = {
  "objective.name": ConfigKey(
    "elbo",
    "elbo: evidence bound; iwae: importance-weighted bound (Burda et al. 2016); miwae, ciwae, piwae: Rainforth et al. "
    "2018",
    one_of("elbo", *WEIGHTED),
  ),
  "objective.groups": ConfigKey(
    1, "miwae, piwae: groups of samples; each has a bound of its own", counted(10**5)
  ),
  "objective.elbo_share": ConfigKey(
    0.5, "ciwae: weight of the evidence bound; the importance-weighted one has the rest", between(0, 1)
  ),
  "objective.gradient": ConfigKey(
    "standard",
    "of importance weights; stl: sticking the landing (Roeder et al. 2017); dreg: doubly reparameterised (Tucker et "
    "al. 2019)",
    one_of("standard", "stl", "dreg"),
  ),
}
# Terms on the reconstruction: with gradients apart they would not reach the encoder.
IMAGE_TERMS = ("ssim", "ms_ssim", "total_variation")
IMAGE_SECTIONS = ("perceptual", "style", "adversarial")


def faults(config: ConfigDict) -> Iterator[str]:
  """What the keys of `KEYS` contradict, and those of the likelihood."""
  yield from likelihoods.faults(config)
  o = config.objective
  grouped = o.name in ("miwae", "piwae")
  if grouped and not (o.groups > 1 and o.samples % o.groups == 0):
    yield (
      f"objective.groups={o.groups} must be above 1 and divide objective.samples={o.samples} for "
      f"objective.name={o.name}, such as objective.samples=16 and objective.groups=4"
    )
  if o.groups != 1 and not grouped:
    yield f"objective.groups={o.groups} is of objective.name=miwae and piwae, not {o.name}; leave it out"
  if o.gradient != "standard" and o.name == "elbo":
    yield (
      f"objective.gradient={o.gradient} is one of importance weights, and objective.name=elbo has none; set "
      "objective.name=iwae, which with objective.samples=1 is the evidence bound"
    )
  if o.name == "piwae" or o.gradient == "dreg":
    why = f"objective.gradient={o.gradient}" if o.gradient == "dreg" else "objective.name=piwae"
    terms = {name: o[name] for name in IMAGE_TERMS}
    terms |= {f"{name}.weight": o[name].weight for name in IMAGE_SECTIONS}
    for name, weight in terms.items():
      if weight:
        yield (
          f"objective.{name}={weight} compares reconstructions, which lead no gradient to the encoder with {why}; "
          "set it to 0"
        )
