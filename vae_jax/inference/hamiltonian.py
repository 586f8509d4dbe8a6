"""Hamiltonian Monte Carlo from an annealed start (Duane et al. 1987; Neal 2011, arXiv:1206.1901): chains side by side.

The target is p(z | x) ~ p(z) p(x | z). A chain has three phases:

    anneal   from a draw of p(z), moves for p(z) p(x | z)^b, b from 0 to 1 (Neal 2001, arXiv:physics/9803008)
    settle   moves for the target; the size of the leaps becomes fixed
    keep     moves for the target with that size: p(z | x) is their invariant density

Each move ends with the test of Metropolis et al. 1953, so the density is exact for any size. In the first two phases
each chain changes its size towards `TARGET`, as a Robbins-Monro recursion; nothing is adapted in the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from vae_jax.types import Array, Key

TARGET = 0.8  # acceptance that sizes lead to; of HMC, 0.6 to 0.9 is good (Betancourt et al. 2014)
LEAPS = 8  # of a move
FIRST = 0.1  # size at first, in units of `scale`
GAIN = 0.2  # change of a size's logarithm by a move, where its acceptance is off by 1
JITTER = 0.2  # sizes of moves differ by this share, so that no orbit closes

LogDensity = Callable[[Float[Array, "n d"]], tuple[Float[Array, " n"], Float[Array, " n"]]]


class Chains(NamedTuple):
  """Chains after their last move.

  z: their positions. log_likelihood: log p(x | z) there, in nats. acceptance: mean probability
  with which kept moves were accepted. means, variances: of z over the first and over the second half of the kept moves.
  """

  z: Float[Array, "n d"]
  log_likelihood: Float[Array, " n"]
  acceptance: Float[Array, " n"]
  means: Float[Array, "2 n d"]
  variances: Float[Array, "2 n d"]


class _State(NamedTuple):
  """log_size: of the leaps of each chain; mean_size: its mean over the end of settling."""

  z: Array
  log_likelihood: Array
  log_size: Array
  mean_size: Array


def phases(steps: int) -> tuple[int, int, int]:
  """How many of the moves anneal, settle and are kept; the last is even."""
  kept = 2 * (steps // 5)
  settle = (steps - kept) // 3
  return steps - kept - settle, settle, kept


def run_chains(
  log_density: LogDensity,
  start: Float[Array, "n d"],
  scale: Float[Array, "n d"],
  keys: Key,
  steps: int,
) -> Chains:
  """Chains of `steps` moves, at least 10, each from its row of `start`, a draw of p(z).

  log_density: z -> log p(z) and log p(x | z), in nats; no row depends on another. scale: the deviations of p(z) for
  each chain, about: moves are larger by so much. keys: one for each chain.
  """
  anneal, settle, kept = phases(steps)
  adapting, half = anneal + settle, kept // 2
  n = len(start)

  def one(carry: Any, place: Array) -> tuple[Any, None]:
    """A move. The sums over either half of what is kept: acceptance, z and its square, both less `start`."""
    state, accepted, first, second = carry
    power = jnp.minimum((place + 1) / anneal, 1.0) ** 4  # small at first: log p(x | z) has large values there
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
    fixed = place >= adapting
    log_size = jnp.where(fixed, state.mean_size, state.log_size)
    z, log_likelihood, probability = _move(log_density, state.z, log_size, own, scale, power)
    gain = GAIN * jnp.minimum(1.0, anneal / (place + 1.0))
    log_size = state.log_size + gain * (probability - TARGET)
    counted = (place >= adapting - settle // 2) & ~fixed
    mean_size = state.mean_size + jnp.where(counted, log_size / (settle // 2), 0.0)
    side = jnp.where(fixed, jnp.arange(2) == (place - adapting) // half, False).astype(jnp.float32)
    away = z - start
    accepted = accepted + side[:, None] * probability[None]
    first, second = (
      x + side[:, None, None] * y[None] for x, y in ((first, away), (second, jnp.square(away)))
    )
    return (_State(z, log_likelihood, log_size, mean_size), accepted, first, second), None

  state = _State(start, jnp.zeros(n), jnp.full(n, jnp.log(FIRST)), jnp.zeros(n))
  halves = jnp.zeros((2, *start.shape))
  carry: Any = (state, jnp.zeros((2, n)), halves, halves)
  (state, accepted, first, second), _ = jax.lax.scan(one, carry, jnp.arange(steps))
  means = first / half
  variances = jnp.maximum(second / half - jnp.square(means), 0.0)
  return Chains(state.z, state.log_likelihood, accepted.sum(axis=0) / kept, start[None] + means, variances)


def _move(
  log_density: LogDensity, z: Array, log_size: Array, keys: Key, scale: Array, power: Array
) -> tuple[Float[Array, "n d"], Float[Array, " n"], Float[Array, " n"]]:
  """One move for p(z) p(x | z)^power: where it ends, log p(x | z) there, the probability that it was accepted with."""

  def total(z: Array) -> tuple[Array, tuple[Array, Array]]:
    log_prior, log_likelihood = log_density(z)
    log_target = log_prior + power * log_likelihood
    return log_target.sum(), (log_target, log_likelihood)

  def leap(carry: tuple[Array, Array], shares: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """To the next point, and the change of the momentum there. One program for all, the start too: it compiles once."""
    z, momentum = carry
    z = z + shares[0] * size * momentum
    (_, values), slope = jax.value_and_grad(total, has_aux=True)(z)
    return (z, momentum + shares[1] * size * slope), values

  kicks, uniforms = jax.vmap(lambda key: _drawn(key, z.shape[1:]))(keys)
  size = jnp.exp(log_size)[:, None] * (1.0 + JITTER * (2.0 * uniforms[:, :1] - 1.0)) * scale
  shares = jnp.ones((LEAPS + 1, 2)).at[0].set(jnp.array([0.0, 0.5])).at[LEAPS, 1].set(0.5)
  (end, momentum), (log_targets, log_likelihoods) = jax.lax.scan(leap, (z, kicks), shares)
  energies = 0.5 * (jnp.square(kicks) - jnp.square(momentum)).sum(axis=-1)
  gain = log_targets[-1] - log_targets[0] + energies
  probability = jnp.where(jnp.isnan(gain), 0.0, jnp.exp(jnp.minimum(gain, 0.0)))
  taken = uniforms[:, 1] < probability
  ends = jnp.where(taken[:, None], end, z), jnp.where(taken, log_likelihoods[-1], log_likelihoods[0])
  return (*ends, probability)


def _drawn(key: Key, shape: tuple[int, ...]) -> tuple[Array, Float[Array, " two"]]:
  """The momentum of a move, and two uniform numbers."""
  normal, uniform = jax.random.split(key)
  return jax.random.normal(normal, shape, jnp.float32), jax.random.uniform(uniform, (2,), jnp.float32)


def potential_scale(
  means: Float[Array, "2 s n d"], variances: Float[Array, "2 s n d"], steps: int
) -> Float[Array, " n"]:
  """Split R-hat (Gelman et al. 2013, section 11.4) of `s` chains of each of n targets: the largest over z.

  Near 1 where the halves of all chains have one mean. means, variances: of `Chains` of so many `steps`.
  """
  count = phases(steps)[2] // 2
  flat = [x.reshape(-1, *x.shape[2:]) for x in (means, variances)]
  within = flat[1].mean(axis=0) * count / max(count - 1, 1)
  between = flat[0].var(axis=0, ddof=1)
  tiny = jnp.finfo(jnp.float32).tiny
  ratio = jnp.sqrt((count - 1) / count + between / jnp.maximum(within, tiny))
  return jnp.where(between > 0, ratio, 1.0).max(axis=-1)
