"""Discriminators that are trained beside a model, and what their verdicts add to the model's gradients.

The model's loss becomes loss + the sum over opponents of w * taken. `taken` is an opponent's verdict on the fakes that
it sees (pixels, latents, features), and w its weight. With `max_weight`, w is multiplied by the adaptive weight of
Esser et al. 2021 (VQGAN, eq. 7): the ratio of the norms of both terms' gradients at the kernel of the model's last
layer. What a model compares by an opponent's features (`Opponent.compared`) is part of the loss, at fixed weights. All
sides are updated in one step, from one pass through the model: each by what the others were before the step. A guard
(`Opponent.guard`) may have one side stand still.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vae_jax import losses
from vae_jax.models.contract import Output, Whole
from vae_jax.models.discriminator import LatentDiscriminator, PatchDiscriminator
from vae_jax.models.opponent import Opponent, OpponentState, Parts
from vae_jax.types import Array, ArrayLike, Batch, Key, Params


def gradients(
  opponents: dict[str, Opponent],
  states: dict[str, OpponentState],
  forward: Callable[[Params], Output],
  score: Callable[[Output], tuple[Array, Any]],
  params: Params,
  batch: Batch,
  key: Key,
  step: Array,
  last_kernel: tuple[str, ...],
  mean: Callable[[Any], Any],
  whole: Whole,
) -> tuple[Array, Parts, Any, Params, dict[str, Array], dict[str, Params]]:
  """loss, parts, score's auxiliary result, the model's gradients, what moves, and the gradients of each opponent.

  For a model `forward`, scored by `score` (output -> loss, (parts, anything)). All are this device's; `mean` is the
  mean over devices, of which adaptive weights are made, and `whole` gathers their examples. Parts, beside those of
  `score`, of an opponent NAME: its terms `compared`; NAME, weighted_NAME, NAME_weight, discriminator_loss,
  real_accuracy, fake_accuracy; the last three begin with NAME_ where there are several opponents. What moves: 1 or 0
  for each opponent with a guard, by name, and for each part that makes its fakes; logged as moved_NAME.
  """
  (floats, others), pull = _through(forward, params)

  def scored(floats: list[Array]) -> tuple[Array, Any]:
    output = _joined(others, floats)
    loss, (parts, more) = score(output)
    for name, opponent in opponents.items():
      added, found = opponent.compare(states[name].params, output, batch)
      loss, parts = loss + added, parts | found
    return loss, (parts, more)

  (loss, (parts, more)), slope = jax.value_and_grad(scored, has_aux=True)(floats)
  total, opponent_grads = slope, {}
  moves: dict[str, Array] = {}
  norm: Array | None = None
  for number, (name, opponent) in enumerate(opponents.items()):
    weights, own_key = states[name].params, jax.random.fold_in(key, number)

    def taken(floats: list[Array], opponent=opponent, weights=weights, own_key=own_key) -> Array:
      fake = opponent.sees(_joined(others, floats), batch, own_key, whole)[1]
      return opponent.taken(opponent.logits(weights, fake)).mean()

    value, away = jax.value_and_grad(taken)(floats)
    real, fake = opponent.sees(_joined(others, floats), batch, own_key, whole)
    (_, verdict), opponent_grads[name] = jax.value_and_grad(opponent.told_apart, has_aux=True)(
      weights, real, fake
    )
    weight: Any = opponent.weight
    if opponent.max_weight is not None:
      # All that is pulled back for the weight is the last layer's gradient: XLA drops the rest as unused.
      if norm is None:
        norm = _norm_at(last_kernel, mean, pull, slope)
      weight = weight * adaptive_weight(norm, _norm_at(last_kernel, mean, pull, away), opponent.max_weight)
    weight = jnp.where(step >= opponent.start, weight, 0.0)
    total = jax.tree.map(lambda a, b, weight=weight: a + weight * b, total, away)
    prefix = f"{name}_" if len(opponents) > 1 else ""
    parts = parts | {f"{prefix}{part}": x for part, x in verdict.items()}
    parts |= {name: value, f"{name}_weight": weight, f"weighted_{name}": weight * value}
    loss = loss + weight * value
    moves |= _moves(name, opponent, verdict, mean)
  parts |= {f"moved_{name}": moved for name, moved in moves.items()}
  return loss, parts, more, pull(total), moves, opponent_grads


def _moves(name: str, opponent: Opponent, verdict: Parts, mean: Callable[[Any], Any]) -> dict[str, Array]:
  """1 or 0 for an opponent and the parts of the model that face it, where it has a guard."""
  if opponent.guard is None:
    return {}
  real, fake = mean((verdict["real_cross_entropy"], verdict["fake_cross_entropy"]))
  own, parts = opponent.guard.moves(real, fake)
  return {name: own.astype(jnp.float32)} | dict.fromkeys(opponent.guard.parts, parts.astype(jnp.float32))


def _through(forward: Callable[[Params], Output], params: Params) -> tuple[tuple[list[Array], Any], Callable]:
  """((floating leaves of the output, what `_joined` needs besides), pull: slopes of the leaves -> of the params)."""
  kept: list[Any] = []

  def floating(params: Params) -> tuple[list[Array], list[Array]]:
    leaves, tree = jax.tree.flatten(forward(params))
    is_float = [jnp.issubdtype(x.dtype, jnp.inexact) for x in leaves]
    kept[:] = [tree, is_float]
    split = [[x for x, f in zip(leaves, is_float, strict=True) if f is wanted] for wanted in (True, False)]
    return split[0], split[1]

  floats, pull, integers = jax.vjp(floating, params, has_aux=True)
  return (floats, (*kept, integers)), lambda slope: pull(slope)[0]


def _joined(others: Any, floats: list[Array]) -> Output:
  tree, is_float, integers = others
  left, right = iter(floats), iter(integers)
  return jax.tree.unflatten(tree, [next(left) if f else next(right) for f in is_float])


def _norm_at(path: tuple[str, ...], mean: Callable, pull: Callable, slope: Any) -> Array:
  found = pull(slope)
  for name in path:
    found = found[name]
  return optax.tree.norm(mean(found))


def adaptive_weight(norm: ArrayLike, adversarial_norm: ArrayLike, max_weight: float) -> Array:
  """norm / (adversarial_norm + 1e-6), at most `max_weight`: it makes the two gradients equally long."""
  return jnp.minimum(norm / (adversarial_norm + 1e-6), max_weight)


def _pixels(output: Output, batch: Batch, key: Key, whole: Whole) -> tuple[Array, Array]:
  assert output.reconstruction is not None
  return jnp.asarray(batch["image"]), output.reconstruction


def pixel_opponent(config: ConfigDict, dtype: str = "float32") -> dict[str, Opponent]:
  """The PatchGAN that `config` = `objective.adversarial` asks for, as {"adversarial": ...}; {} where its weight is 0.

  It is trained by Adam with beta1 = 0.5 (Isola et al. 2017), at one learning rate, from step 0 on; its verdict counts
  from step `start` on.
  """
  if not config.weight:
    return {}
  return {
    "adversarial": Opponent(
      module=PatchDiscriminator(tuple(config.channels), jnp.dtype(dtype), last=config.last),
      sees=_pixels,
      tx=optax.scale_by_adam(b1=0.5),
      learning_rate=config.learning_rate,
      weight=config.weight,
      start=config.start,
      max_weight=config.max_weight,
    )
  }


def permuted_and_drawn(output: Output, batch: Batch, key: Key, whole: Whole) -> tuple[Array, Array]:
  """What a FactorVAE's discriminator sees: latents of which each was permuted over the whole batch, and as drawn.

  The first are draws from the product of the marginals q(z_j), the second from q(z); [b, d] each.
  """
  z = output.latents["z"]
  permute = jax.vmap(jax.random.permutation, in_axes=(0, 1), out_axes=1)
  return permute(jax.random.split(key, z.shape[1]), whole(z))[jnp.asarray(batch["place"])], z


def latent_opponent(config: ConfigDict) -> dict[str, Opponent]:
  """The discriminator of latents that `config` = `objective.factor_vae` asks for, as {"factor_vae": ...}; {} where its
  weight is 0 (Kim & Mnih 2018, arXiv:1802.05983, eq. 2-3 and algorithm 2).

  Its logit is log(prod_j q(z_j) / q(z)) where it is best, so that minus its mean over latents as drawn, the part
  `factor_vae`, estimates their total correlation in nats. It is trained by Adam with beta1 = 0.5 and beta2 = 0.9, on
  the batch that the model is trained on, where the paper takes a second one for the permuted latents.
  """
  if not config.weight:
    return {}

  def told_apart(real: Array, fake: Array) -> Array:
    both = losses.verdict_cross_entropy(real, True) + losses.verdict_cross_entropy(fake, False)
    return 0.5 * both

  return {
    "factor_vae": Opponent(
      module=LatentDiscriminator(tuple(config.hidden), slope=0.2),
      sees=permuted_and_drawn,
      tx=optax.scale_by_adam(b1=0.5, b2=0.9),
      learning_rate=config.learning_rate,
      weight=config.weight,
      loss=told_apart,
      taken=lambda fake: -fake,
    )
  }
