"""The codebook of a VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937), as functions of arrays.

`n` vectors of `d` channels, or `b` examples of `p` positions each; `k` codes. A vector is given the index of its
nearest code, and gradients pass straight through to it. Codes learn in one of two ways: as moving averages of the
vectors that choose them (`update`; appendix A.1 of the paper), or by gradients of `codebook_loss` (`revive` then starts
and restarts them). Both begin with k-means. Both restart codes that hardly any vector chooses, as Dhariwal et al. 2020
do ("Jukebox", arXiv:2005.00341, section 3.1).

What codes learn from is a mean over examples (`Statistics`). So the mean over equal parts of a batch, or over devices,
is that of the whole batch.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from vae_jax.types import Array, Key

HIGHEST = jax.lax.Precision.HIGHEST
SHORTEST = 1e-6  # length of a vector that has a direction
BLOCK_DISTANCES, MINIMAL_BLOCK, MAXIMAL_BLOCK = 2**18, 64, 256  # of `nearest` on CPUs


class Statistics(NamedTuple):
  """What a batch says of the codes, float32. A mean over examples; `update` and `revive` take that of a global batch.

  counts: [k] >= 0, how many positions of an example chose the code. They sum to p.
  sums: [k, d], the sum of the vectors of an example that chose it.
  candidates: [k, d], for each code one vector of the global batch, drawn at random: where to begin or restart it.
  """

  counts: Float[Array, " k"]
  sums: Float[Array, "k d"]
  candidates: Float[Array, "k d"]


class Codebook(NamedTuple):
  """Codes that are moving averages, with what they are averaged from. A pytree.

  codes: float32 [k, d].
  counts: float32 [k] >= 0, moving average of `Statistics.counts`.
  sums: float32 [k, d], moving average of `Statistics.sums`.
  updates: int32 [], how many updates there were. A state with codes of its own and more than `kmeans_steps` updates
    is not started anew.
  """

  codes: Float[Array, "k d"]
  counts: Float[Array, " k"]
  sums: Float[Array, "k d"]
  updates: Int[Array, ""]


# --- from vectors to codes and back ---


def nearest(x: Float[Array, "n d"], codes: Float[Array, "k d"]) -> Int[Array, " n"]:
  """Index of the nearest code in squared Euclidean distance, int32 in [0, k); of equal distances the first.

  Computed in float32 whatever the types, without TF32 or bfloat16 products, as |e|^2 - 2 x.e. Both are taken relative
  to the mean code, as vectors far from zero would lose their digits in the squares. Distances that differ by less than
  float32 resolves may come out in either order. A vector that is not finite gets some index in range. Takes memory
  n * k, on CPUs less.
  """
  x, codes = (jax.lax.stop_gradient(value).astype(jnp.float32) for value in (x, codes))
  middle = codes.mean(axis=0, keepdims=True)
  x, codes = x - middle, codes - middle
  squares = jnp.sum(codes**2, axis=1)
  (n, d), k = x.shape, len(codes)
  if jax.default_backend() != "cpu":
    return jnp.argmin(squares[None, :] - 2 * jnp.matmul(x, codes.T, precision=HIGHEST), axis=1).astype(
      jnp.int32
    )

  # CPUs: blocks of vectors whose distances fit the cache, and two reductions, which XLA vectorises, unlike argmin; 3
  # times as fast. Vectors are strewn over the blocks, so that each has an equal share of every device's.
  def block(x: Array) -> Array:
    distances = squares[:, None] - 2 * jnp.matmul(codes, x.T, precision=HIGHEST)
    closest = distances.min(axis=0, keepdims=True)
    return jnp.where(distances == closest, jnp.arange(k, dtype=jnp.int32)[:, None], k - 1).min(axis=0)

  size = max(MINIMAL_BLOCK, min(MAXIMAL_BLOCK, BLOCK_DISTANCES // k))
  blocks = -(-n // size)
  if blocks == 1:
    return block(x)
  x = jnp.pad(x, ((0, size * blocks - n), (0, 0))).reshape(size, blocks, d).swapaxes(0, 1)
  return jax.lax.map(block, x).swapaxes(0, 1).reshape(-1)[:n]


def lookup(codes: Float[Array, "k d"], index: Int[Array, "*s"]) -> Float[Array, "*s d"]:
  """The codes of these indices. Its gradient adds up over the indices that share a code."""
  return codes[index]


def straight_through(x: Float[Array, "*s d"], quantised: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
  """The value of `quantised`, exactly, where x is finite; the gradient goes to x as it is, none to `quantised` (section
  3.2 of the paper)."""
  return jax.lax.stop_gradient(quantised) + (x - jax.lax.stop_gradient(x))


def rotation(x: Float[Array, "*s d"], quantised: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
  """The value of `quantised`, exactly; the gradient goes to x by the rotation trick (Fifty et al. 2024,
  arXiv:2410.06424, section 4.2), none to `quantised`.

  quantised = s R x, where R turns the direction of x, e, to that of quantised, q, and s is the ratio of their lengths.
  Both are held constant, so x gets s R^T times the gradient. R x = x - 2 r (r.x) + 2 q (e.x), with r along e + q.
  Where one of both is shorter than 1e-6, as codes are before their first update, the gradient passes as it is.
  """

  def along(value: Array) -> Array:
    return value / jnp.maximum(jnp.linalg.norm(value, axis=-1, keepdims=True), SHORTEST)

  constant_x, constant_q = jax.lax.stop_gradient(x), jax.lax.stop_gradient(quantised)
  e, q = along(constant_x), along(constant_q)
  r = along(e + q)
  turned = x - 2 * r * jnp.sum(r * x, axis=-1, keepdims=True) + 2 * q * jnp.sum(e * x, axis=-1, keepdims=True)
  to, of = (jnp.linalg.norm(value, axis=-1, keepdims=True) for value in (constant_q, constant_x))
  short = (of < SHORTEST) | (to < SHORTEST)
  return straight_through(jnp.where(short, x, turned * (to / jnp.maximum(of, SHORTEST))), quantised)


def unit(x: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
  """Vectors of length 1 in the direction of each. One shorter than 1e-6 has no direction: it is 0, without a gradient,
  as codes are before their first update."""
  squares = jnp.sum(x.astype(jnp.float32) ** 2, axis=-1, keepdims=True)
  short = squares < SHORTEST**2
  return jnp.where(short, 0.0, x * jax.lax.rsqrt(jnp.where(short, 1.0, squares)))


# --- losses, per example ---


def commitment(x: Float[Array, "b ..."], quantised: Float[Array, "b ..."]) -> Float[Array, " b"]:
  """sum (x - stop(quantised))^2 over positions and channels, float32: draws the vectors to their codes (the third term
  of the paper's eq. 3, without its weight beta)."""
  return _squared_error(x, jax.lax.stop_gradient(quantised))


def codebook_loss(x: Float[Array, "b ..."], quantised: Float[Array, "b ..."]) -> Float[Array, " b"]:
  """sum (stop(x) - quantised)^2 over positions and channels, float32: draws the codes to their vectors (the second term
  of the paper's eq. 3). For codes that gradients train."""
  return _squared_error(jax.lax.stop_gradient(x), quantised)


def _squared_error(x: Array, y: Array) -> Array:
  if x.shape != y.shape:
    raise ValueError(f"vectors of shape {x.shape} and codes of shape {y.shape} differ")
  return jnp.sum((x.astype(jnp.float32) - y.astype(jnp.float32)) ** 2, axis=range(1, x.ndim))


# --- what a batch says of the codes ---


def statistics(
  x: Float[Array, "b p d"],
  index: Int[Array, "b p"],
  place: Int[Array, " b"],
  key: Key,
  *,
  k: int,
  batch_size: int,
) -> Statistics:
  """Means over these examples, float32. No gradient passes.

  index: the code that each vector chose, in [0, k).
  place: each example's position in the global batch of `batch_size` examples, in [0, batch_size).
  key: alike on all devices and for all parts of a batch, other in every step.

  The mean of the statistics of equal parts is that of the global batch: of `counts` and `sums` but for the order of
  addition, of `candidates` exactly the vectors drawn, but for one rounding where the number of parts is not a power of
  two. Summation has a fixed order, so that runs repeat.
  """
  b, p, d = x.shape
  x = jax.lax.stop_gradient(x).astype(jnp.float32)
  example, position = jnp.divmod(draw(key, k, batch_size * p), p)
  here = place[:, None] == example[None, :]
  candidates = x[jnp.argmax(here, axis=0), position] * (batch_size / b)
  return Statistics(
    counts=histogram(index, k) / b,
    sums=_sums(x.reshape(b * p, d), index.reshape(b * p), k) / b,
    candidates=jnp.where(here.any(axis=0)[:, None], candidates, 0),
  )


def draw(key: Key, k: int, n: int) -> Int[Array, " k"]:
  """For each of k codes one of n vectors, int32 in [0, n), each vector as likely as any other. All differ where k <= n;
  where k > n each is drawn k // n times or once more.

  A stratified sample: the vectors, in a circle that begins at random, are cut into k runs of equal length, dealt to the
  codes in random order; from each run one is drawn. Costs no sort of n, which a permutation would.
  """
  shift, order, within = jax.random.split(key, 3)
  edges = np.arange(k + 1, dtype=np.int64) * n // k
  lengths = jnp.asarray(np.maximum(np.diff(edges), 1), jnp.int32)
  drawn = jnp.asarray(edges[:-1], jnp.int32) + jax.random.randint(within, (k,), 0, lengths, jnp.int32)
  return (jax.random.permutation(order, drawn) + jax.random.randint(shift, (), 0, n, jnp.int32)) % n


def histogram(index: Int[Array, "*s"], k: int) -> Float[Array, " k"]:
  """How often each of k codes was chosen, float32, exact up to 2^24."""
  return jax.ops.segment_sum(jnp.ones(index.shape, jnp.float32).ravel(), index.ravel(), k)


def _sums(x: Float[Array, "n d"], index: Int[Array, " n"], k: int) -> Float[Array, "k d"]:
  """Sums of the vectors of each index. A GPU scatters in an order that varies from run to run; its product does not."""
  if jax.default_backend() == "cpu":
    return jax.ops.segment_sum(x, index, k)
  chose = (jnp.arange(k)[:, None] == index[None, :]).astype(jnp.float32)
  return jnp.matmul(chose, x, precision=HIGHEST)


# --- how codes learn ---


def fresh(k: int, d: int) -> Codebook:
  """A codebook before its first update, which replaces all but the count of updates: zeros."""
  float32 = jnp.float32  # arrays of their own: a step gives each one's memory away
  return Codebook(
    jnp.zeros((k, d), float32), jnp.zeros(k, float32), jnp.zeros((k, d), float32), jnp.zeros((), jnp.int32)
  )


def update(
  state: Codebook,
  statistics: Statistics,
  *,
  decay: float,
  kmeans_steps: int,
  revive_below: float,
  epsilon: float = 1e-5,
) -> Codebook:
  """The codebook after a batch, from its `Statistics`, by what `state.updates` says:

  0: the codes are the candidates.
  1 to kmeans_steps: one iteration of Lloyd's k-means. A code becomes the mean of the vectors of this batch that chose
    it, or its candidate if none did.
  later: counts and sums are averaged with `decay`, in [0, 1), and a code is its sum by its count, smoothed (A.1 of the
    paper). Then a code with a count below `revive_below` times the mean count of a code is its candidate again, with
    the mean count. `revive_below` is in [0, 1); 0 revives none.

  The smoothed count is (count + epsilon * m) / (1 + epsilon) with m the mean count of a code. That is (count + e) /
  (total + k * e) * total with e = epsilon * m. So epsilon is a share of the mean count, whatever the number of
  examples, positions or codes. Others state e itself, for counts of vectors in a batch, where m is b * p / k.
  """
  started, counts = _kmeans(statistics, state.updates)
  averaged = decay * state.counts + (1 - decay) * statistics.counts
  sums = decay * state.sums + (1 - decay) * statistics.sums
  m = averaged.mean()
  codes = sums / ((averaged + epsilon * m) / (1 + epsilon))[:, None]
  weak = _weak(averaged, revive_below)
  starting = state.updates <= kmeans_steps
  codes = _choose(starting, started, _choose(weak, statistics.candidates, codes))
  counts = _choose(starting, counts, _choose(weak, m, averaged))
  sums = _choose(starting | weak, counts[:, None] * codes, sums)
  return Codebook(codes, counts, sums, state.updates + 1)


def revive(
  codes: Float[Array, "k d"],
  usage: Float[Array, " k"],
  statistics: Statistics,
  updates: Int[Array, ""],
  *,
  decay: float,
  kmeans_steps: int,
  revive_below: float,
) -> tuple[Float[Array, "k d"], Float[Array, " k"]]:
  """(codes, usage) after a batch, for codes that an optimiser trains: k-means and revival are those of `update`, and
  between them the codes stay as they are.

  codes: as the optimiser left them; of the type given.
  usage: float32 [k] >= 0, moving average of `Statistics.counts`; zeros before the first update.
  updates: int32 [], how many updates there were; the caller counts.
  What the optimiser remembers of a code that is replaced (its moments) is not reset.
  """
  started, counts = _kmeans(statistics, updates)
  averaged = decay * usage + (1 - decay) * statistics.counts
  weak = _weak(averaged, revive_below)
  starting = updates <= kmeans_steps
  kept = _choose(weak, statistics.candidates, codes.astype(jnp.float32))
  usage = _choose(starting, counts, _choose(weak, averaged.mean(), averaged))
  return _choose(starting, started, kept).astype(codes.dtype), usage


def _kmeans(
  statistics: Statistics, updates: Int[Array, ""]
) -> tuple[Float[Array, "k d"], Float[Array, " k"]]:
  """Codes and counts after an iteration. At first all, later codes that nothing chose, are candidates with the mean
  count."""
  idle = (statistics.counts == 0) | (updates == 0)
  counts = jnp.where(idle, statistics.counts.mean(), statistics.counts)
  return _choose(idle, statistics.candidates, statistics.sums / counts[:, None]), counts


def _weak(counts: Float[Array, " k"], revive_below: float) -> Bool[Array, " k"]:
  return counts < revive_below * counts.mean()


def _choose(condition: Array, this: Array, other: Array) -> Array:
  """`jnp.where` of a condition [] or [k]."""
  return jnp.where(condition.reshape(condition.shape + (1,) * (other.ndim - condition.ndim)), this, other)
