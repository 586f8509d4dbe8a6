"""Terms on the latents of a whole batch: one float32 scalar each, where other losses give one value per example.

They say how the batch is spread as a set, so they do not split into terms of single examples: the mean over parts of
a batch is another number. Row i is example i: `z` is a draw from N(mean, exp(logvar)), [b, d] each. The order of rows
plays no part, except in stratified estimates.

`decompose_kl`, `total_correlation` and `mmd` compare all pairs of rows, latent by latent: work and memory grow as
b * b * d, and so does the memory of the gradient (b = 256 and d = 128 in float32: 34 MB an array). `dip_penalty` needs
b * d + d * d. NaN goes through to the result.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vae_jax.distributions import LOG_2PI, at_least, standard_normal_log_prob
from vae_jax.errors import UserError, nearest
from vae_jax.types import Array, ArrayLike

DIP_KINDS = ("i", "ii")
KERNELS = ("imq", "rbf")
ESTIMATES = ("weighted", "stratified")
IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # those of the program that came with the paper


class Decomposition(NamedTuple):
  """The three terms of the mean KL(q(z | x) || p(z)), in nats: float32 scalars (Chen et al. 2018, eq. 2).

  mutual_information: KL(q(z, n) || q(z) p(n)), between a latent and the index n of its example.
  total_correlation: KL(q(z) || prod_j q(z_j)), how far the latents are from independent.
  dimension_wise_kl: sum_j KL(q(z_j) || p(z_j)), how far each is from the prior by itself.
  """

  mutual_information: Float[Array, ""]
  total_correlation: Float[Array, ""]
  dimension_wise_kl: Float[Array, ""]


def decompose_kl(
  z: Float[ArrayLike, "b d"],
  mean: Float[ArrayLike, "b d"],
  logvar: Float[ArrayLike, "b d"],
  examples: int,
  estimate: Literal["weighted", "stratified"] = "weighted",
) -> Decomposition:
  """The terms of the KL to a standard normal prior, by minibatch sampling: [b, d] each -> scalars, in nats.

  Chen et al. 2018 (arXiv:1802.04942), eq. 2 for the terms. The density q(z_i) is estimated by sum_j w_ij q(z_i | x_j),
  and so for each latent. The three terms add up to the mean of log q(z_i | x_i) - log p(z_i), whatever the weights.

  "weighted" (section 3.2): all w_ij = 1 / (N b). The estimate is biased. N = `examples`, the size of the data set,
  enters as a constant only: it adds log N to the mutual information, (d - 1) log N to the total correlation, -d log N
  to the rest. No gradient depends on it. At `examples=1` the terms are those of the batch's own mixture,
  sum_j q(z | x_j) / b, at the draws z; for a large batch whose posteriors overlap, that is the one to read as a number.

  "stratified" (appendix C.2): the weights of `stratified_weights`, with which the densities, not their logarithms, are
  unbiased. For a large data set the own posterior hardly counts, so terms of a small batch vary much.

  Args:
    z: a draw from each posterior. Gradients flow through it, too.
    mean, logvar: of the posteriors; logvar is log sigma squared.
    examples: how many examples the data set has, a Python integer >= 1.
    estimate: "weighted" or "stratified".

  By weighting, mutual information is at most log(N b), total correlation at most (d - 1) log(N b). All can be negative:
  they are estimates. They are finite wherever log q(z_i | x_i) is. Raises ValueError where shapes differ or are not
  [b, d], for fewer than 2 rows, for no latents, for integers, and for another `examples`; UserError for another
  estimate, and for a stratified one of fewer examples than rows.
  """
  z, mean, logvar = _latents(z=z, mean=mean, logvar=logvar)
  if isinstance(examples, bool) or not isinstance(examples, int | np.integer) or examples < 1:
    raise ValueError(f"examples must be a Python integer >= 1, the size of the data set; got {examples!r}")
  if estimate not in ESTIMATES:
    raise UserError(f"estimate {estimate!r} is unknown{nearest(estimate, ESTIMATES, what='estimates')}")
  # Squared after the division: exp(-logvar) alone can overflow where the quotient does not.
  deviations = (z[:, None] - mean[None]) * jnp.exp(-0.5 * logvar)[None]
  # [b, b, d]: of z_i under the posterior of x_j.
  log_q = -0.5 * (jnp.square(deviations) + logvar[None] + LOG_2PI)
  log_joint = log_q.sum(axis=-1)
  if estimate == "weighted":
    weight = math.log(examples) + math.log(len(z))
    log_qz = jax.nn.logsumexp(log_joint, axis=1) - weight
    log_each = jax.nn.logsumexp(log_q, axis=1) - weight
  else:
    weights = stratified_weights(len(z), examples)
    log_qz = jax.nn.logsumexp(log_joint, axis=1, b=weights)
    log_each = jax.nn.logsumexp(log_q, axis=1, b=weights[..., None])
  log_product = log_each.sum(axis=-1)
  return Decomposition(
    mutual_information=jnp.mean(jnp.diagonal(log_joint) - log_qz),
    total_correlation=jnp.mean(log_qz - log_product),
    dimension_wise_kl=jnp.mean(log_product - standard_normal_log_prob(z)),
  )


def stratified_weights(b: int, examples: int) -> Float[np.ndarray, "b b"]:
  """The weights w_ij of minibatch stratified sampling, float32; each row adds up to 1 (Chen et al. 2018, eq. S6).

  Row i is of the batch that holds example i and b - 1 others, drawn from the rest. With M = b - 1 and N = `examples`,
  example i has the weight 1 / N, one other, here the next row, (N - M) / (N M), and the rest 1 / M. The mean over all
  such batches of sum_j w_ij f(x_j) is the mean of f over the data set. Raises UserError for fewer examples than b.
  """
  others = b - 1
  if examples < b:
    raise UserError(
      f"a stratified estimate of {examples} examples by batches of {b}: give batches of at most {examples}, or the "
      "estimate 'weighted'"
    )
  weights = np.full((b, b), 1 / others, np.float32)
  rows = np.arange(b)
  weights[rows, rows] = 1 / examples
  weights[rows, (rows + 1) % b] = (examples - others) / (examples * others)
  return weights


def total_correlation(
  z: Float[ArrayLike, "b d"],
  mean: Float[ArrayLike, "b d"],
  logvar: Float[ArrayLike, "b d"],
  examples: int,
  estimate: Literal["weighted", "stratified"] = "weighted",
) -> Float[Array, ""]:
  """KL(q(z) || prod_j q(z_j)) by minibatch sampling, in nats: [b, d] each -> a float32 scalar.

  The `total_correlation` of `decompose_kl`, which states the estimates, their bias and the errors raised. Added to the
  negative ELBO with the weight beta - 1, it makes the loss of the beta-TCVAE (Chen et al. 2018, section 3.3). By
  weighting at most (d - 1) log(examples * b); can be negative; 0 to rounding for one latent.
  """
  return decompose_kl(z, mean, logvar, examples, estimate).total_correlation


def dip_penalty(
  mean: Float[ArrayLike, "b d"],
  logvar: Float[ArrayLike, "b d"],
  off_diagonal: ArrayLike | float,
  diagonal: ArrayLike | float,
  kind: Literal["i", "ii"] = "i",
) -> Float[Array, ""]:
  """off_diagonal * sum_{i != j} C_ij^2 + diagonal * sum_i (C_ii - 1)^2: [b, d] each -> a float32 scalar, no unit.

  The penalty of the DIP-VAE (Kumar et al. 2018, arXiv:1711.00848, eqs. 5-7). C is a covariance [d, d]: of the means for
  kind "i", of the latents for "ii", where the mean of exp(logvar) over the batch is added on the diagonal. Sums run
  over both triangles. Covariances are divided by b, not b - 1. >= 0 where the weights are.

  Args:
    mean, logvar: of the posteriors; logvar is log sigma squared. Kind "i" does not use logvar.
    off_diagonal, diagonal: the weights, scalars; lambda_od and lambda_d in the paper.
    kind: "i" or "ii".

  Raises ValueError where shapes differ or are not [b, d], for fewer than 2 rows, for no latents, for integers and for
  weights that are no scalars; UserError for another kind.
  """
  mean, logvar = _latents(mean=mean, logvar=logvar)
  if jnp.ndim(off_diagonal) or jnp.ndim(diagonal):
    raise ValueError(
      f"off_diagonal of shape {jnp.shape(off_diagonal)} and diagonal of shape {jnp.shape(diagonal)} must be scalars"
    )
  if kind not in DIP_KINDS:
    raise UserError(f"dip_penalty of kind {kind!r} is unknown{nearest(kind, DIP_KINDS, what='kinds')}")
  centred = mean - mean.mean(axis=0, keepdims=True)
  # In full float32, which is not the default of accelerators.
  covariance = jnp.matmul(centred.T, centred, precision=jax.lax.Precision.HIGHEST) / len(mean)
  variances = jnp.diagonal(covariance)
  others = jnp.sum(jnp.square(covariance * (1.0 - jnp.eye(len(covariance), dtype=jnp.float32))))
  if kind == "ii":
    variances = variances + jnp.exp(logvar).mean(axis=0)
  return jnp.asarray(off_diagonal * others + diagonal * jnp.sum(jnp.square(variances - 1.0)), jnp.float32)


def free_bits_of_batch(kl: Float[ArrayLike, "b g"], nats: ArrayLike | float) -> Float[Array, ""]:
  """sum_g max(nats, mean over the batch of kl_g), in nats: [b, g] -> a float32 scalar (Kingma et al. 2016, eq. 15).

  Args:
    kl: the KL of each example, by latent unit or, as in the paper, by group of units, such as a layer's sum.
    nats: the threshold of each unit or group, a scalar. At 0 the result is the mean rate.

  A group whose mean is at or below the threshold has no gradient. Raises ValueError for another shape than [b, g], an
  empty batch, integers, and a threshold that is no scalar.
  """
  if jnp.ndim(nats):
    raise ValueError(f"nats must be a scalar; got shape {jnp.shape(nats)} for kl of shape {jnp.shape(kl)}")
  (kl,) = _latents(1, kl=kl)
  return jnp.sum(at_least(kl.mean(axis=0), jnp.asarray(nats, jnp.float32)))


def mmd(
  z: Float[ArrayLike, "b d"],
  prior: Float[ArrayLike, "b d"],
  kernel: Literal["imq", "rbf"] = "imq",
  scale: float = 1.0,
) -> Float[Array, ""]:
  """Squared maximum mean discrepancy of two samples: [b, d] each -> a float32 scalar, no unit. Unbiased.

  The penalty of the WAE-MMD (Tolstikhin et al. 2018, arXiv:1711.01558, algorithm 2): the U-statistic
  mean_{i != j} k(z_i, z_j) + mean_{i != j} k(p_i, p_j) - 2 mean_{i, j} k(z_i, p_j). Unbiased means a mean of 0,
  so often a negative value, where both samples are from one distribution; do not take its root. It lies in [-2 m, 2 m],
  where m is the kernel's largest value: 7 for "imq", 1 for "rbf".

  Args:
    z: latents of a batch, one draw from each posterior. Gradients flow to both samples, and are finite for finite rows,
      equal ones included.
    prior: as many draws from the prior, independent of z.
    kernel: with r^2 = |x - y|^2 and C = 2 d scale^2, which is the mean r^2 of two draws from the prior: "imq", the
      inverse multiquadratic sum_s s C / (s C + r^2) over s = 0.1, 0.2, 0.5, 1, 2, 5, 10, as in the program that came
      with the paper; "rbf", exp(-r^2 / C).
    scale: the prior's standard deviation, a Python number > 0.

  Raises ValueError where shapes differ or are not [b, d], for fewer than 2 rows, for no latents, for integers and for
  another scale; UserError for another kernel.
  """
  z, prior = _latents(z=z, prior=prior)
  if kernel not in KERNELS:
    raise UserError(f"mmd with kernel {kernel!r} is unknown{nearest(kernel, KERNELS, what='kernels')}")
  if jnp.ndim(scale) or not 0.0 < scale < math.inf:
    raise ValueError(f"scale must be a number > 0, the prior's standard deviation; got {scale!r}")
  b, d = z.shape
  base = 2.0 * d * float(scale) ** 2

  def similarity(x: Array, y: Array) -> Array:
    # From differences: by dot products, as |x|^2 + |y|^2 - 2 xy, near rows would lose their distance to rounding.
    squares = jnp.square(x[:, None] - y[None]).sum(axis=-1)
    if kernel == "rbf":
      return jnp.exp(-squares / base)
    return sum((s * base / (s * base + squares) for s in IMQ_SCALES), start=jnp.zeros_like(squares))

  # A product, not a choice of entries: so NaN on the diagonal, as infinite rows give, stays.
  within = (similarity(z, z) + similarity(prior, prior)) * (1.0 - jnp.eye(b, dtype=jnp.float32))
  return within.sum() / (b * (b - 1)) - 2.0 * similarity(z, prior).mean()


def _latents(least: int = 2, **arrays: ArrayLike) -> list[Array]:
  """The arrays in float32. Raises ValueError unless they are floats of one shape [b, d], b >= least and d >= 1."""
  shapes = {name: jnp.shape(array) for name, array in arrays.items()}
  listing = ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items())
  if len(set(shapes.values())) > 1:
    raise ValueError(f"{listing} differ")
  shape = next(iter(shapes.values()))
  if len(shape) != 2 or shape[0] < least or shape[1] < 1:
    raise ValueError(f"{listing}; expected [b, d], at least {least} example{'s' * (least > 1)} and 1 latent")
  for name, array in arrays.items():
    kind = jnp.result_type(array)
    if not jnp.issubdtype(kind, jnp.floating):
      raise ValueError(f"{name} of type {kind} and shape {shape}: give floats")
  return [jnp.asarray(array, jnp.float32) for array in arrays.values()]
