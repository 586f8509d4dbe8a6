"""The words of the data flow, and the image contract.

Images are NHWC. Inside the compiled step they are float32 in [0, 1]; uint8 (0..255) travels from disk to device.
Any height, width and channel count. Likelihoods, KL and statistics are float32 whatever the compute type.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

import jax
import numpy as np

Array = jax.Array
ArrayLike = jax.Array | np.ndarray
Params = Any  # a pytree of arrays
Key = jax.Array  # a typed PRNG key, `jax.random.key(seed)`, or an array of them


class Batch(TypedDict, total=False):
  """One batch, on the host or on the device. `b` is the batch size; every entry has it as leading dimension.

  image: the clean target. uint8 [b, h, w, c] from disk; float32 in [0, 1] inside the step.
  degraded: what the encoder sees where it is not the image itself (noisy, low-resolution); [b, h', w', c].
  label: int32 [b], where the data set has one.
  index: int32 [b], the record's index in its split; seeds what evaluation draws for this example.
  mask: bool [b], False for the padding of the last evaluation batch.
  """

  image: ArrayLike
  degraded: ArrayLike
  label: ArrayLike
  index: ArrayLike
  mask: ArrayLike


class VAEOutput(NamedTuple):
  """What every family of VAE reports, per example and in nats. `s` samples, `b` examples, `l` latent layers.

  distortion: float32 [s, b], -log p(x | z_s), summed over pixels and channels.
  rate: float32 [b, l], KL(q(z_l | x) || p(z_l)), summed over the latents of a layer.
  log_weight: float32 [s, b], log p(x, z_s) - log q(z_s | x): the importance weights of the IWAE bound.
  kl_units: float32 [b, d], the KL of each latent unit over all layers; sums to the rate. For free bits.
  posterior_mean: float32 [b, d], E_q[z | x] of each latent unit. For active units. Of a restoration model: its distance
    from the prior's mean, at the middle of the image.
  reconstruction: float32 [b, h, w, c] in [0, 1], what the model gives back: the mean of p(x | z_0); of a restoration
    model, that of p(x | z) at the prior's mean.
  restoration_distortion: float32 [b], -log p(x | z) at the prior's mean, for models that restore; else None.
  """

  distortion: Array
  rate: Array
  log_weight: Array
  kl_units: Array
  posterior_mean: Array
  reconstruction: Array
  restoration_distortion: Array | None = None
