"""Regularised autoencoders (Ghosh et al. 2020, "From Variational to Deterministic Autoencoders", arXiv:1903.12436).

A deterministic encoder f and decoder g. In place of the noise of a VAE, the decoder is regularised (section 3):

    loss = -log p(x | g(f(x))) + latent_norm * |z|^2 / 2 + regulariser * R

    l2   R = sum of the squares of the decoder's kernels                                             (RAE-L2)
    gp   R = |J|_F^2, J the Jacobian of the decoder at z, by image                                   (RAE-GP)
    sn   no R: the decoder's kernels are divided by their largest singular value, see `spectral`     (RAE-SN)

|z|^2 / 2 is -log N(z; 0, I) in nats, less a constant; the beta of the paper is its weight. R has no unit: it is a sum
over kernels, or over pixels and latents. Biases and scales are left out of it, as in the program of the paper.

The Jacobian is not made: with v of N(0, 1) for each output of the decoder, the mean of |v^T J|^2 is |J|_F^2 (Hutchinson
1990), and v^T J is one backward pass. The program of the paper penalises the gradient of the sum of the squared pixels
instead, which is one direction v that depends on the image. With sn, the normalisation layers between kernels stay as
they are, as those of the paper do, so that the decoder is not 1-Lipschitz.

The latents have no prior, so the family cannot sample before one is fitted to the latents of the training split (the
paper's ex-post density estimation, section 4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Float
from ml_collections import ConfigDict

from vae_jax.distributions import likelihoods
from vae_jax.keys import MIN_0, Keys, one_of
from vae_jax.keys import Key as ConfigKey
from vae_jax.models import autoencoder, spectral
from vae_jax.models.contract import Mode, Output
from vae_jax.types import Array, Batch, Key, Params, Spec, Variables


def squared_kernels(params: Params) -> Float[Array, ""]:
  """The sum of the squares of all kernels."""
  flat = flatten_dict(params)
  return sum(
    (jnp.square(x.astype(jnp.float32)).sum() for path, x in flat.items() if path[-1] == "kernel"),
    start=jnp.zeros((), jnp.float32),
  )


def gradient_penalty(
  decode: Callable[[Array], Array], z: Float[Array, "n d"], direction: Float[Array, "n ..."]
) -> Float[Array, " n"]:
  """|v^T J|^2 of each row: J is the Jacobian of `decode` at z, v the `direction`, which has the shape of decode(z).

  Its mean over directions of N(0, I) is |J|_F^2. No row of decode(z) may depend on another row of z.
  """
  pulled: Array = jax.vjp(decode, z)[1](direction)[0]
  return jnp.square(pulled).sum(axis=-1)


class RAE(autoencoder.Autoencoder):
  """An `autoencoder.Autoencoder` with a decoder that is regularised: "l2", "gp" or "sn"."""

  regulariser: str

  TERMS: ClassVar[tuple[str, ...]] = ("distortion", "latent_norm", "regulariser")
  CAN: ClassVar[frozenset[str]] = frozenset({"encode", "decode", "inpaint"})
  UNBOUNDED: ClassVar[str] = (
    "a deterministic encoder: the KL of a point to a density is infinite, which bounds no likelihood"
  )

  @property
  def terms(self) -> tuple[str, ...]:
    return self.TERMS[:-1] if self.regulariser == "sn" else self.TERMS

  def setup(self):
    super().setup()
    if self.regulariser == "sn":
      self.vectors = self.variable("spectral", "vectors", self._fresh_vectors)

  def _fresh_vectors(self) -> spectral.Vectors:
    like = jax.eval_shape(
      self.decoder.clone(parent=None).init, jax.random.key(0), jnp.zeros((1, self.latent_dim))
    )
    return spectral.fresh(like["params"], self.make_rng("params"))

  def pixels(self, z: Float[Array, "n d"], condition: Batch) -> Float[Array, "n h w p"]:
    """Parameters of the likelihood of each pixel."""
    if self.regulariser != "sn" or self.is_initializing():
      return self.decoder(z)
    return self._decoding(spectral.normalised(self._decoder_params, self.vectors.value))(z)

  @property
  def _decoder_params(self) -> Params:
    return self.decoder.variables["params"]

  def _decoding(self, params: Params) -> Callable[[Array], Array]:
    """The decoder as a pure function of latents."""
    decoder: Any = self.decoder.clone(parent=None)
    return lambda z: decoder.apply({"params": params}, z)

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    output = super().__call__(batch, keys, mode)
    z, params = output.latents["z"], self._decoder_params
    terms = {**output.terms, "latent_norm": 0.5 * jnp.square(z).sum(axis=-1)}
    statistics: Any = ()
    if self.regulariser == "l2":
      terms["regulariser"] = jnp.broadcast_to(squared_kernels(params), z.shape[:1])
    elif self.regulariser == "gp":
      decode = self._decoding(params)
      shape = jax.eval_shape(decode, z).shape[1:]
      direction = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
      terms["regulariser"] = gradient_penalty(decode, z, direction)
    elif mode.training:
      statistics = spectral.iterated(params, self.vectors.value)
    return output._replace(terms=terms, statistics=statistics)

  def absorb(self, variables: Variables, statistics: spectral.Vectors) -> Variables:
    """The variables with the vectors of the next power iteration."""
    return {**variables, "spectral": {"vectors": statistics}}


KEYS: Keys = {
  **autoencoder.KEYS,
  "model.regulariser": ConfigKey(
    "l2",
    "of the decoder: l2, squares of its kernels; gp, squared gradient at z; sn, kernels of spectral norm 1",
    one_of("l2", "gp", "sn"),
  ),
  "objective.latent_norm": ConfigKey(0.01, "weight of |z|^2 / 2, the beta of Ghosh et al. 2020", MIN_0),
  "objective.regulariser": ConfigKey(1e-4, "l2, gp: weight of the decoder's regulariser", MIN_0),
}
FAMILY = RAE
faults = likelihoods.faults


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> RAE:
  """The module that `config.model` describes, for records of `spec`."""
  return autoencoder.build(RAE, model, spec, dtypes, stochastic=False, regulariser=model.regulariser)
