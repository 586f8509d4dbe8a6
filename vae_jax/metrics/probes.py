"""How well a linear classifier tells labels from features: a linear probe (Alain & Bengio 2016, arXiv:1610.01644).

Features are [n, d], such as posterior means or pixels, and labels [n] whole numbers. What is fitted is a multinomial
logistic regression, by L-BFGS over all examples in float32. Scores of other numbers of examples, or of other strengths
to choose from, do not compare.

All raise ValueError for other shapes, and UserError for features that are not finite.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vae_jax.errors import UserError
from vae_jax.generator import standard
from vae_jax.metrics.intervals import LEVEL, Estimate
from vae_jax.progress import FileProgress
from vae_jax.types import Array, ArrayLike

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # of the L2 term, of which the validation examples choose
TOLERANCE = 1e-5  # the largest slope of the mean loss at which a fit has converged
MOST_ITERATIONS, ROUND = 1000, 20  # of L-BFGS, and how many of them are one compiled call
ALIKE = (
  1e-6  # features whose deviation is less than this share of their size differ by the rounding of float32
)

Labelled = tuple[ArrayLike, ArrayLike]  # features [n, d] and labels [n]


class Probe(NamedTuple):
  """A linear classifier: the label of features x is labels[argmax(x weights + bias)].

  weights: float32 [d, k]. bias: float32 [k]. labels: int64 [k], ascending. loss: what was minimised, in nats.
  slope: its largest partial derivative. converged: whether that is at most `TOLERANCE`.
  """

  weights: Float[np.ndarray, "d k"]
  bias: Float[np.ndarray, " k"]
  labels: Int[np.ndarray, " k"]
  strength: float
  loss: float
  slope: float
  iterations: int
  converged: bool

  def tell(self, features: ArrayLike) -> Int[np.ndarray, " n"]:
    """The labels that it gives to features [n, d]."""
    return self.labels[np.argmax(np.asarray(features, np.float32) @ self.weights + self.bias, axis=1)]


class ProbeScore(NamedTuple):
  """accuracy: of the scored examples, with its 95 % interval. probe: the chosen one, of standardised features.
  validation: the accuracy on the validation examples by strength. constant: features that did not vary."""

  accuracy: Estimate
  probe: Probe
  validation: dict[float, float]
  constant: int


@standard()
def linear_probe(
  fitted: Labelled,
  validation: Labelled,
  scored: Labelled,
  *,
  strengths: Sequence[float] = STRENGTHS,
  what: str = "features",
) -> ProbeScore:
  """The accuracy of a multinomial logistic regression from features to labels.

  Protocol: features are standardised by the mean and deviation of the fitted examples; one without variance becomes 0.
  `fit_probe` is run for each strength, the greatest first, each from the result before. The strength of the highest
  accuracy on the validation examples is chosen, of equal ones the greatest. A label that no fitted example has is never
  told, so its examples count as wrong.

  Args:
    fitted, validation, scored: features [n, d] and labels [n].
    strengths: see `fit_probe`.
    what: the features in words, for errors and the progress on standard error.

  Raises UserError: one label alone among the fitted examples; features that are not finite, or that all do not vary.
  """
  sets = [_checked(*examples, what) for examples in (fitted, validation, scored)]
  if len({x.shape[1] for x, _ in sets}) > 1 or not len(strengths):
    raise ValueError(f"features of {[x.shape[1] for x, _ in sets]} columns, and strengths {tuple(strengths)}")
  (x, y), (held, held_labels), (others, labels) = sets
  mean, scale = _standard(x, what)
  x = (x - mean) * scale
  best, accuracies, probe = None, dict[float, float](), None
  with FileProgress(delay=2.0) as progress:
    for number, strength in enumerate(sorted(strengths, reverse=True)):

      def told(done: int, total: int, number: int = number) -> None:
        progress.update(f"probing {what}", number * total + done, len(strengths) * total)

      probe = fit_probe(x, y, strength, start=probe, told=told)
      accuracies[strength] = float(np.mean(probe.tell((held - mean) * scale) == held_labels))
      if best is None or accuracies[strength] > accuracies[best.strength]:
        best = probe
  assert best is not None, "there is a strength"
  accuracy = proportion(best.tell((others - mean) * scale) == labels)
  return ProbeScore(accuracy, best, accuracies, int(np.sum(scale == 0)))


@standard()
def fit_probe(
  features: ArrayLike,
  labels: ArrayLike,
  strength: float,
  *,
  start: Probe | None = None,
  told: Callable[[int, int], object] | None = None,
) -> Probe:
  """The linear classifier of least mean cross-entropy + strength / 2 |weights|^2: [n, d] and [n] -> Probe.

  The bias has no penalty. scikit-learn's LogisticRegression has the same minimum with C = 1 / (n strength). L-BFGS
  (Liu & Nocedal 1989) ends where no partial derivative exceeds `TOLERANCE`, after `MOST_ITERATIONS`, or where float32
  finds no lower loss; `converged` says which.

  Args:
    strength: above 0, of the mean over examples.
    start: a probe of the same features and labels to begin at, in place of zeros.
    told: is called with how many iterations are done, and how many there are at most.

  Raises UserError: one label alone, features that are not finite.
  """
  x, y = _checked(features, labels, "features")
  if not strength > 0:
    raise ValueError(f"strength is {strength}; give a number above 0")
  known, index = np.unique(y, return_inverse=True)
  if len(known) < 2:
    raise UserError(f"all {len(y)} examples have the label {known[0]}; a probe needs two labels and more")
  begin = (np.zeros((x.shape[1], len(known)), np.float32), np.zeros(len(known), np.float32))
  if start is not None:
    begin = start.weights, start.bias
  data = jnp.asarray(x), jnp.asarray(index, jnp.int32), jnp.float32(strength)
  params = jax.tree.map(jnp.asarray, begin)
  # With the types that a step gives it.
  solver = jax.tree.map(lambda part: jnp.asarray(part, part.dtype), _solver().init(params))
  state, loss = _State(params, solver), np.inf
  while True:
    state = _descended(state, *data)
    found = jax.device_get(_figures(state))
    done, stuck, loss = int(found.done), bool(found.loss >= loss), found.loss
    if told is not None:
      told(done, MOST_ITERATIONS)
    if found.slope <= TOLERANCE or done >= MOST_ITERATIONS or stuck or not np.isfinite(loss):
      break
  if not np.isfinite(loss):
    raise UserError(
      "the loss of the probe is not finite; give features of a moderate size, such as standardised ones"
    )
  weights, bias = (np.asarray(part) for part in state.params)
  figures = float(found.loss), float(found.slope), done, bool(found.slope <= TOLERANCE)
  return Probe(weights, bias, known.astype(np.int64), float(strength), *figures)


def proportion(right: ArrayLike) -> Estimate:
  """The share of right answers, bool [n], with Wilson's 95 % interval (Wilson 1927), for n independent examples.

  Raises ValueError: no answers.
  """
  from scipy.stats import binomtest  # takes long to import

  right = np.asarray(right)
  if right.ndim != 1 or not len(right) or right.dtype != bool:
    raise ValueError(f"answers {right.dtype} {list(right.shape)}; give bool [n], n > 0")
  ends = binomtest(int(right.sum()), len(right)).proportion_ci(LEVEL, method="wilson")
  return Estimate(float(right.mean()), float(ends.low), float(ends.high))


# The descent


class _Figures(NamedTuple):
  done: Array
  loss: Array
  slope: Array


class _State(NamedTuple):
  params: tuple[Array, Array]
  solver: Any


@functools.cache
def _solver() -> Any:
  import optax  # takes long to import

  return optax.lbfgs()


def _loss(params: tuple[Array, Array], x: Array, y: Array, strength: Array) -> Array:
  weights, bias = params
  logits = jnp.matmul(x, weights, precision="highest") + bias[None]
  right = jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]
  return jnp.mean(jax.nn.logsumexp(logits, axis=1) - right) + 0.5 * strength * jnp.sum(jnp.square(weights))


def _step(state: _State, x: Array, y: Array, strength: Array) -> _State:
  """One iteration, which knows loss and gradient at its start from the one before."""
  import optax

  def loss(params: tuple[Array, Array]) -> Array:
    return _loss(params, x, y, strength)

  value, slopes = optax.value_and_grad_from_state(loss)(state.params, state=state.solver)
  updates, solver = _solver().update(
    slopes, state.solver, state.params, value=value, grad=slopes, value_fn=loss
  )
  return _State(optax.apply_updates(state.params, updates), solver)


@jax.jit
def _descended(state: _State, x: Array, y: Array, strength: Array) -> _State:
  """The state after 1 to `ROUND` iterations more."""
  first = _figures(state).done

  def goes_on(state: _State) -> Array:
    found = _figures(state)
    fresh, most = found.done == first, jnp.minimum(first + ROUND, MOST_ITERATIONS)
    return fresh | ((found.slope > TOLERANCE) & (found.done < most))

  return jax.lax.while_loop(goes_on, lambda state: _step(state, x, y, strength), state)


def _figures(state: _State) -> _Figures:
  import optax

  done, value, slopes = (optax.tree.get(state.solver, name) for name in ("count", "value", "grad"))
  largest = jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(slopes)])
  return _Figures(done, value, jnp.max(largest))


# What goes in


def _checked(features: ArrayLike, labels: ArrayLike, what: str) -> tuple[np.ndarray, np.ndarray]:
  """Features as they are, and labels as whole numbers, on the host."""
  x, y = np.asarray(features), np.asarray(labels)
  if x.ndim != 2 or 0 in x.shape or y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
    raise ValueError(
      f"features {list(x.shape)} and labels {y.dtype} {list(y.shape)}; give [n, d], n > 0, and integers [n]"
    )
  if bad := int(np.sum(~np.isfinite(x).all(axis=1))):
    raise UserError(f"the {what} of {bad} of {len(x)} examples are not finite (nan or inf)")
  return x.astype(np.float32, copy=False), y


def _standard(x: Float[np.ndarray, "n d"], what: str) -> tuple[np.ndarray, np.ndarray]:
  """The mean of each feature, and what it is multiplied by to have the deviation 1; 0 where it does not vary.

  Raises UserError where none varies.
  """
  mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
  deviation = np.sqrt(np.square(x - mean).mean(axis=0, dtype=np.float64))
  varies = deviation > ALIKE * np.abs(x).max(axis=0)
  if not varies.any():
    raise UserError(f"the {what} of all {len(x)} examples are alike, so they tell no labels")
  return mean, np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0).astype(np.float32)
