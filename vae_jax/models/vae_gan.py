"""VAE-GAN (Larsen et al. 2016, arXiv:1512.09300): reconstructions are compared by the features of a discriminator.

With z ~ q(z | x), z_p ~ p(z) = N(0, I), G the decoder and D_l the output of the discriminator's l-th convolution:

    prior    = KL(q(z | x) || p(z))
    features = 1/2 |D_l(x) - D_l(G(z))|^2                                  (-log N(D_l(x); D_l(G(z)), I), eq. 7-8)
    game     = log D(x) + log(1 - D(G(z))) + log(1 - D(G(z_p)))            (section 3.1)

Each network has a loss of its own (algorithm 1). Where a loss should not reach a network, its gradient is stopped:

    encoder:        beta * prior + alpha * features
    decoder:        gamma * alpha * features + game
    discriminator:  -game

One pass gives all three: G(z) is computed once with the decoder's parameters held constant, for the encoder, and once
with z held constant, for the decoder. `game` saturates where the discriminator is sure. There the guard holds it back
(`opponent.Guard`), as in the authors' code, whose margin and equilibrium are the defaults.

What a discriminator asks of all positions alike, sub-pixel convolutions can give as a lattice. So the decoder blurs
what it has up-sampled (`model.blur`). Batch normalisation, which the paper has in all three networks, mixes examples.
Here is GroupNorm.

There is no likelihood of pixels, so there is no bound. The likelihood of the features is that of this step's
discriminator: it has no value that compares with another step's or run's, and evaluation has no discriminator. So what
a split is scored by is the rate and the reconstructions (squared error, SSIM, LPIPS), and the best checkpoint is that
of the least squared error. Pixels are not what is trained for: look at the pictures, and at LPIPS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from vae_jax import distributions as dist
from vae_jax import losses
from vae_jax.keys import ABOVE_0, DEEPEST, MIN_0, WIDEST, WIDTHS, Keys, between, counted
from vae_jax.keys import Key as ConfigKey
from vae_jax.models import conv_vae
from vae_jax.models.blocks import ACTIVATION_KEYS, REMAT_KEYS
from vae_jax.models.contract import Mode, Output, Whole
from vae_jax.models.decoders import BLUR_KEYS
from vae_jax.models.discriminator import ImageDiscriminator
from vae_jax.models.opponent import Guard, Look, Opponent
from vae_jax.models.vae import GaussianLatents
from vae_jax.types import Array, Batch, Key, Spec, image_shape

STAND_IN = 0.1  # deviation of a pixel from the decoder's, where pixels are observed; the range is 1


def pixels(x: Array) -> Array:
  """What a decoder gives -> values in [0, 1]."""
  return jax.nn.sigmoid(4.0 * x)


class VAEGAN(GaussianLatents):
  """`GaussianLatents` whose images are sigmoid(4 decoder(z)), and which a discriminator sees.

  The slope at 0 is 1, so a decoder of a Gaussian VAE, whose mean is 0.5 + decoder(z), gives nearly its images: such a
  run can be the start (training.init_from).
  """

  TERMS: ClassVar[tuple[str, ...]] = ("rate",)
  CAN: ClassVar[frozenset[str]] = frozenset({"encode", "decode", "sample", "inpaint"})
  RATED: ClassVar[str] = "mse"
  UNBOUNDED: ClassVar[str] = "a likelihood of a discriminator's features, not of pixels, which bounds none"

  def decode(self, z: Float[Array, "n d"], condition: Batch) -> Float[Array, "n h w c"]:
    return pixels(self.decoder(z))

  def log_observed(
    self, z: Float[Array, "n d"], batch: Batch, observed: Bool[Array, "n h w"]
  ) -> Float[Array, " n"]:
    """log N(observed pixels; those of the image of z, STAND_IN^2) in nats: the model has no likelihood of pixels."""
    shifted = self.decode(z, batch) - 0.5  # the Gaussian's mean is 0.5 + params
    likelihood = dist.gaussian(shifted.shape[-1], STAND_IN)
    return dist.observed_log_prob(likelihood, shifted, batch["image"], 0.0, observed)

  def views(self, z: Float[Array, "b d"], prior: Float[Array, "b d"]) -> dict[str, Array]:
    """`encoder`: the images of z with gradients to z alone; `decoder`: the same to the decoder alone; `prior`: those of
    the prior's latents, to the decoder."""
    decoder, variables = self.decoder.unbind()
    of_encoder: Any = decoder.apply(jax.lax.stop_gradient(variables), z)
    of_decoder = self.decode(jax.lax.stop_gradient(z), {})
    return {"encoder": pixels(of_encoder), "decoder": of_decoder, "prior": self.decode(prior, {})}

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    posterior = self.encode(batch)
    drawn = jax.vmap(lambda key: jax.random.normal(key, (2, self.latent_dim), jnp.float32))(keys)
    z, prior = dist.sample(posterior, drawn[:, 0]), drawn[:, 1]
    views = self.views(z, prior) if mode.training else {}
    reconstruction = both(views["encoder"], views["decoder"], 1.0) if views else self.decode(z, batch)
    kl_units = dist.kl_standard_normal(posterior)
    rates = kl_units.sum(axis=-1, keepdims=True)
    return Output(
      terms={"rate": rates.sum(axis=-1)},
      reconstruction=reconstruction,
      rates=rates,
      kl_units=kl_units,
      latents={"z": z, "mean": posterior.mean, "logvar": posterior.logvar},
      views=views,
    )


def both(a: Array, b: Array, weight: float) -> Array:
  """`a`, which has the values of `b`: its gradient goes to `a`, and `weight` times it to `b`."""
  held = jax.lax.stop_gradient
  return held(a) + (a - held(a)) + weight * (b - held(b))


def feature_distance(look: Look, image: Array, reconstruction: Array) -> Float[Array, " b"]:
  """-log N(look(image); look(reconstruction), I) without its constant, in nats; the image has no gradient."""
  target = jax.lax.stop_gradient(look(image))
  return 0.5 * jnp.square(look(reconstruction) - target).sum(axis=(1, 2, 3))


def opponents(config: ConfigDict, spec: Spec) -> dict[str, Opponent]:
  """The discriminator, as {"gan": ...}: it sees images for real, and reconstructions and prior samples for fake."""
  o, d, t = config.objective, config.objective.discriminator, config.training

  def sees(output: Output, batch: Batch, key: Key, whole: Whole) -> tuple[Array, Array]:
    return jnp.asarray(batch["image"]), jnp.concatenate([output.views["decoder"], output.views["prior"]])

  def features(look: Look, output: Output, batch: Batch) -> Array:
    seen_by_both = both(output.views["encoder"], output.views["decoder"], o.gamma)
    return feature_distance(look, jnp.asarray(batch["image"]), seen_by_both)

  # Twice the mean over both fakes is the sum of the mean over each.
  def of_discriminator(real: Array, fake: Array) -> Array:
    fakes = 2 * losses.verdict_cross_entropy(fake, False).mean()
    return losses.verdict_cross_entropy(real, True).mean() + fakes

  def of_decoder(fake: Array) -> Array:
    return -2 * losses.verdict_cross_entropy(fake, False)

  channels = tuple(d.channels)
  return {
    "gan": Opponent(
      module=ImageDiscriminator(channels, d.dense, d.layer or len(channels), jnp.dtype(t.dtype)),
      sees=sees,
      tx=optax.scale_by_adam(b1=0.5, eps=t.adam_eps),
      learning_rate=d.learning_rate,
      weight=1.0,
      loss=of_discriminator,
      taken=of_decoder,
      compared={"feature_distortion": (o.vae_weight * o.alpha, features)},
      guard=Guard(d.equilibrium - d.margin, d.equilibrium + d.margin, ("decoder",)),
    )
  }


KEYS: Keys = {
  "model.latent_dim": ConfigKey(64, "size of the latent vector", counted(WIDEST)),
  "model.channels": ConfigKey((32, 64, 96, 128), "widths at 1/2, 1/4, ... of the size", WIDTHS),
  "model.blocks": ConfigKey(0, "residual blocks at each resolution", between(0, 256)),
  "model.dense": ConfigKey(256, "width of the layer between feature map and latents", counted(WIDEST)),
  "model.blur": BLUR_KEYS["model.blur"]._replace(default=True),
  **REMAT_KEYS,
  **ACTIVATION_KEYS,
  "objective.gamma": ConfigKey(
    1e-3,
    "weight of the feature likelihood in the decoder's loss, where the discriminator's verdict has 1",
    MIN_0,
  ),
  "objective.discriminator.channels": ConfigKey(
    (32, 64, 96, 128), "widths of the discriminator, at 1/2, 1/4, ... of the size", WIDTHS
  ),
  "objective.discriminator.dense": ConfigKey(
    256, "width of the discriminator's fully connected layer", counted(WIDEST)
  ),
  "objective.discriminator.layer": ConfigKey(
    0, "convolution whose output is compared, counted from 1; 0: the last", between(0, DEEPEST)
  ),
  "objective.discriminator.learning_rate": ConfigKey(2e-4, "learning rate of the discriminator", ABOVE_0),
  "objective.discriminator.equilibrium": ConfigKey(
    0.68, "mean cross-entropy of the discriminator, on real or fake, from which `margin` counts", MIN_0
  ),
  "objective.discriminator.margin": ConfigKey(
    0.35,
    "this far below equilibrium the discriminator stands still, this far above the decoder; 100: both always move",
    MIN_0,
  ),
}
FAMILY = VAEGAN


def faults(config: ConfigDict) -> Iterator[str]:
  """What the family refuses in a config whose values hold one by one."""
  o, d = config.objective, config.objective.discriminator
  if o.name == "iwae":
    yield "objective.name=iwae must be elbo for model.name=vae_gan, which has no importance weights"
  if o.samples > 1:
    yield f"objective.samples={o.samples} must be 1 for model.name=vae_gan, whose discriminator sees one of each image"
  if d.layer > len(d.channels):
    yield (
      f"objective.discriminator.layer={d.layer} must be at most {len(d.channels)}, the number of widths in "
      "objective.discriminator.channels"
    )
  if o.adversarial.weight:
    yield (
      f"objective.adversarial.weight={o.adversarial.weight} must be 0 for model.name=vae_gan, which has a "
      "discriminator of its own (objective.discriminator.*)"
    )
  if config.training.accumulate > 1:
    yield (
      f"training.accumulate={config.training.accumulate} must be 1 with the discriminator of model.name=vae_gan, whose "
      "guard looks at the whole batch"
    )


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> VAEGAN:
  """The module that `config.model` describes, for records of `spec`."""
  return VAEGAN(*conv_vae.networks(model, spec, dtypes, image_shape(spec)[-1]))
