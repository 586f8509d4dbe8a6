"""The VAE of `vae` with other densities of its latents: a prior that is trained with it, a posterior by a flow.

    z = f(z0; h(x)), z0 ~ N(mean(x), diag exp(logvar(x))),   log q(z | x) = log N(z0; ...) - log |det df / dz0|

f is an inverse autoregressive flow or a RealNVP, which sees the encoder's context h(x), as many numbers as latents. The
rate is E_q[log q(z | x) - log p(z)] by the samples that are drawn, because it has no closed form.
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
from vae_jax.keys import WIDEST, Keys, counted, one_of
from vae_jax.keys import Key as ConfigKey
from vae_jax.models import vae
from vae_jax.models.iaf import IAF
from vae_jax.models.latent_priors import JITTER, FlowPrior, LatentPrior, MixturePrior, VampPrior
from vae_jax.priors.real_nvp import RealNVP
from vae_jax.types import Array, Batch, Key, Params, Spec, input_shape, seen

# Config keys of the families that may be a `FlexibleVAE`; those of importance weights too.
KEYS: Keys = {
  "model.prior": ConfigKey(
    "normal",
    "p(z); normal: N(0, I); trained with the model: mixture of Gaussians, vamp (Tomczak & Welling 2018), real_nvp",
    one_of("normal", "mixture", "vamp", "real_nvp"),
  ),
  "model.components": ConfigKey(500, "prior mixture, vamp: number of components", counted(10**5)),
  "model.posterior": ConfigKey(
    "gaussian",
    "q(z | x); iaf: inverse autoregressive flow (Kingma et al. 2016); real_nvp: the same by coupling layers",
    one_of("gaussian", "iaf", "real_nvp"),
  ),
  "model.flow_layers": ConfigKey(4, "iaf, real_nvp, of prior and posterior: layers", counted(32)),
  "model.flow_hidden": ConfigKey(128, "iaf, real_nvp: width of the layers' networks", counted(WIDEST)),
  **vae.KEYS,
}
FLOWS = {"iaf": IAF, "real_nvp": RealNVP}


class FlexibleVAE(vae.VAE):
  """Attributes, beside those of `VAE`:

  prior: p(z).
  flow: of the posterior; its context is a third moment of the encoder. None: a Gaussian posterior.
  """

  prior: LatentPrior
  flow: nn.Module | None = None

  WITH: ClassVar[str] = "model.posterior=gaussian"

  @property
  def can(self) -> frozenset[str]:
    return self.CAN if self.flow is None else self.CAN - {"encode"}

  @property
  def standard_prior(self) -> bool:
    return type(self.prior) is LatentPrior and self.flow is None

  @property
  def prior_words(self) -> str:
    return self.prior.words

  @property
  def absent(self) -> dict[str, str]:
    if self.flow is not None:
      why = "the posterior is a flow, whose mean and variance have no closed form"
      return {"active_units": why, "prior_gap": why}
    return {"prior_gap": f"the prior is a {self.prior.words}, not N(0, I)"}

  @property
  def begins_at(self) -> int:
    return self.prior.components if isinstance(self.prior, VampPrior) else 0

  def begin(self, params: Params, images: Float[Array, "n h w c"], key: Key) -> Params:
    """Pseudo-inputs begin at the images, with a little noise that tells alike ones apart."""
    inputs = images + JITTER * jax.random.normal(key, images.shape, jnp.float32)
    return {**params, "prior": {**params["prior"], "inputs": inputs}}

  def noise(self, key: Key, spec: Spec, origin: tuple[int, int] | Array = (0, 0)) -> Any:
    return self.prior.noise(key)

  def latents(self, noise: Any, condition: Batch, temperature: Any = 1.0) -> Float[Array, "n d"]:
    """Latents drawn from p(z); what the temperature scales is said by the prior's `transform`."""
    return self.prior.transform(noise, temperature, self._of_images)

  def generate(self, noise: Any, condition: Batch, temperature: Any = 1.0) -> Float[Array, "n h w c"]:
    return self.decode(self.latents(noise, condition, temperature), condition)

  def reconstruct(self, batch: Batch) -> Float[Array, "b h2 w2 c"]:
    """The image of the posterior's mean; with a flow, of what the flow makes of the mean of z0."""
    if self.flow is None:
      return super().reconstruct(batch)
    start, context = self._start(batch)
    return self.decode(self.flow.forward(start.mean, context)[0], batch)

  def draw(self, batch: Batch, eps: Float[Array, "s b d"], path: bool = False) -> vae.Drawn:
    if self.flow is None:
      return super().draw(batch, eps, path)
    start, context = self._start(batch)
    z0 = dist.sample(start, eps)
    contexts = jnp.broadcast_to(context[None], z0.shape).reshape(-1, self.latent_dim)
    z, log_det = self.flow.forward(z0.reshape(-1, self.latent_dim), contexts)
    z, log_q = z.reshape(z0.shape), dist.log_prob(start, z0) - log_det.reshape(z0.shape[:2])
    return vae.Drawn(z, log_q, {"z": z[0]}, None)

  def log_prior(self, z: Float[Array, "s b d"], batch: Batch) -> Float[Array, "s b"]:
    """log p(z) of the learned prior, in nats."""
    return self.prior.log_prob(z, self._of_images)

  def kl_units(self, drawn: vae.Drawn, batch: Batch) -> None:
    return None

  def _of_images(self, images: Array) -> dist.Gaussian:
    return self.encode({"image": images})

  def _start(self, batch: Batch) -> tuple[dist.Gaussian, Float[Array, "b d"]]:
    """The density of z0, and the flow's context."""
    image = seen(batch)
    parts = jnp.split(self.encoder(image), 3, axis=-1)
    mean, raw, context = (part.reshape(image.shape[0], -1) for part in parts)
    return dist.Gaussian(mean, dist.bound_logvar(raw)), context


def is_plain(model: ConfigDict) -> bool:
  """Whether both densities are those of `vae.VAE`."""
  return model.prior == "normal" and model.posterior == "gaussian"


def moments(model: ConfigDict) -> int:
  """How many numbers the encoder gives for each latent."""
  return 2 if model.posterior == "gaussian" else 3


def assembled(
  model: ConfigDict,
  spec: Spec,
  encoder: nn.Module,
  decoder: nn.Module,
  units: int,
  likelihood: dist.Likelihood,
) -> vae.VAE:
  """The VAE of networks, with `units` latents, and the densities that `config.model` names."""
  if is_plain(model):
    return vae.VAE(encoder, decoder, units, likelihood)
  prior = {
    "normal": lambda: LatentPrior(units),
    "mixture": lambda: MixturePrior(units, model.components),
    "vamp": lambda: VampPrior(units, model.components, input_shape(spec)),
    "real_nvp": lambda: FlowPrior(units, model.flow_layers, model.flow_hidden),
  }[model.prior]()
  flow = None
  if model.posterior != "gaussian":
    flow = FLOWS[model.posterior](units, model.flow_layers, model.flow_hidden)
  return FlexibleVAE(encoder, decoder, units, likelihood, prior, flow)


def faults(config: ConfigDict) -> Iterator[str]:
  """What the keys of `KEYS` contradict."""
  yield from vae.faults(config)
  model, o = config.model, config.objective
  prior, posterior = f"model.prior={model.prior}", f"model.posterior={model.posterior}"
  if is_plain(model):
    return
  if model.prior == "vamp" and model.posterior != "gaussian":
    yield f"{prior} is a mixture of Gaussian posteriors, and {posterior} has none; set model.posterior=gaussian"
  if o.free_bits and o.free_bits_over != "group":
    yield (
      f"objective.free_bits={o.free_bits} needs the KL of each latent, which {prior} with {posterior} does not have; "
      "set objective.free_bits_over=group, or objective.free_bits=0"
    )
  if o.mmd and model.prior != "normal":
    yield f"objective.mmd={o.mmd} compares latents with N(0, I), and {prior} is another density; set it to 0"
  if posterior == "model.posterior=gaussian":
    return
  for name in ("total_correlation", "dip"):
    if o[name]:
      yield f"objective.{name}={o[name]} needs Gaussian posteriors, and {posterior} has none; set it to 0"
  if o.gradient != "standard":
    yield (
      f"objective.gradient={o.gradient} needs log q(z | x) of given latents, which {posterior} does not give; set "
      "model.posterior=gaussian, or objective.gradient=standard"
    )
