"""RealNVP as a fitted prior: the Gaussian of the latents, and a flow that models what it leaves.

At first the flow is the identity, so the fit begins at that Gaussian; what is kept is the step that was best on latents
that were held out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from vae_jax.errors import UserError
from vae_jax.generator import new_key
from vae_jax.priors.base import Fit
from vae_jax.priors.gaussian import GaussianPrior, fit_gaussian
from vae_jax.priors.real_nvp import RealNVP, init_real_nvp
from vae_jax.types import Array, ArrayLike, Key, Params

LAYERS, HIDDEN = 8, 128
RATE, BATCH = 1e-3, 256
HELD_OUT = 10  # every tenth latent vector, at random
ROUND = 100  # steps between two looks at what is held out
PATIENCE, MOST_ROUNDS = 10, 200  # rounds without a better one that end the fit; rounds at most
LEAST = 20  # latents


@flax.struct.dataclass
class FlowPrior:
  """z = gaussian(f(noise)).

  gaussian: what f is followed by. params: of f, a `RealNVP` of `layers` and `hidden`.
  """

  gaussian: GaussianPrior
  params: Params
  layers: int = flax.struct.field(pytree_node=False)
  hidden: int = flax.struct.field(pytree_node=False)

  @property
  def kind(self) -> str:
    return "flow"

  @property
  def words(self) -> str:
    return f"flow of {self.layers} layers"

  @property
  def units(self) -> int:
    return self.gaussian.units

  @property
  def module(self) -> RealNVP:
    """f, without its parameters."""
    return RealNVP(self.units, self.layers, self.hidden)

  def noise(self, key: Key) -> Float[Array, " d"]:
    """Standard normal noise for one example."""
    return self.gaussian.noise(key)

  def transform(self, noise: Float[Array, "n d"], temperature: Any = 1.0) -> Float[Array, "n d"]:
    """Latents of noise, which the temperature scales before the flow; at 0 all are the image of zero."""
    inner, _ = self.module.apply({"params": self.params}, temperature * noise, method="forward")  # type: ignore[misc]
    return self.gaussian.transform(inner)

  def log_prob(self, z: ArrayLike) -> Float[Array, " n"]:
    """Log density in nats, [n, d] -> [n]."""
    inner: Any = self.module.apply({"params": self.params}, self.gaussian.standardised(z))
    return inner - self.gaussian.log_volume


def fit_flow(z: Float[np.ndarray, "n d"], seed: int, progress: Callable[[int, int], object]) -> Fit:
  """Adam on nine tenths of the latents, until `PATIENCE` rounds of `ROUND` steps bring nothing to those held out.

  facts: layers, hidden, steps, best_step, held_out (latents), held_out_log_likelihood (mean, nats). Raises UserError
  for fewer than 20 latents.
  """
  if len(z) < LEAST:
    raise UserError(
      f"a flow needs the latents of {LEAST} images and more, and there are {len(z)}; fit a gaussian"
    )
  key = new_key(seed)
  order = np.random.default_rng(seed).permutation(len(z))
  held, rest = np.split(z[order], [len(z) // HELD_OUT])
  gaussian, _, remarks = fit_gaussian(rest)
  params = init_real_nvp(RealNVP(z.shape[1], LAYERS, HIDDEN), jax.random.fold_in(key, 0))
  start = FlowPrior(gaussian, params, LAYERS, HIDDEN)
  train = jnp.asarray(rest, jnp.float32)
  one_round, likelihood, optimiser = _programs()
  prior, state, rounds = start, optimiser.init(start.params), 0
  shown = jnp.asarray(held, jnp.float32)
  best, best_value, best_round = start, float(likelihood(start, shown)), 0
  while rounds < MOST_ROUNDS and rounds - best_round < PATIENCE:
    progress(rounds, MOST_ROUNDS)
    prior, state = one_round(prior, state, train, jax.random.fold_in(key, 1 + rounds))
    rounds, value = rounds + 1, float(likelihood(prior, shown))
    if value > best_value:  # a value that is not finite is not
      best, best_value, best_round = prior, value, rounds
  progress(MOST_ROUNDS, MOST_ROUNDS)
  facts = {
    "layers": LAYERS,
    "hidden": HIDDEN,
    "steps": rounds * ROUND,
    "best_step": best_round * ROUND,
    "held_out": len(held),
    "held_out_log_likelihood": best_value,
  }
  if rounds - best_round < PATIENCE:
    remarks += (f"the flow was still gaining after {rounds * ROUND} steps, where its fit ends",)
  return Fit(best, facts, remarks)


def _programs() -> tuple[Callable[..., Any], Callable[..., Any], optax.GradientTransformation]:
  """A round of steps, the mean log density of latents, and the optimiser."""
  optimiser = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(RATE))

  def loss(params: Params, prior: FlowPrior, z: Array) -> Array:
    return -prior.replace(params=params).log_prob(z).mean()  # type: ignore[attr-defined]

  @jax.jit
  def one_round(prior: FlowPrior, state: Any, z: Array, key: Key) -> tuple[FlowPrior, Any]:
    def step(carry: tuple[Params, Any], key: Key) -> tuple[tuple[Params, Any], None]:
      params, state = carry
      batch = z[jax.random.randint(key, (min(BATCH, z.shape[0]),), 0, z.shape[0])]
      updates, state = optimiser.update(jax.grad(loss)(params, prior, batch), state, params)
      return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(step, (prior.params, state), jax.random.split(key, ROUND))
    return prior.replace(params=params), state  # type: ignore[attr-defined]

  @jax.jit
  def likelihood(prior: FlowPrior, z: Array) -> Array:
    return prior.log_prob(z).mean()

  return one_round, likelihood, optimiser
