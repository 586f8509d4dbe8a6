"""Checks that both sides of a benchmark are the same network: copies the parameters and compares the results."""

from __future__ import annotations

from typing import Any

import jax
import networks_torch as nets
import numpy as np
import torch
from trainers import Parts, parts

from vae_jax.models.contract import Mode
from vae_jax.types import NO_FROZEN, Frozen, seen

TOLERANCE = 1e-4  # of outputs (in units of the grey range) and loss; gradients ten times that


def to_torch(image: Any) -> torch.Tensor:
  """[b, h, w, c] -> [b, c, h, w]."""
  return torch.from_numpy(np.asarray(image).transpose(0, 3, 1, 2).copy())


def fill(network: torch.nn.Module, params: Any, frozen: Frozen = NO_FROZEN) -> torch.nn.Module:
  """Puts the parameters of the library's model into its counterpart; none may be left over on either side."""
  wanted = {name for name, p in network.named_parameters() if p.requires_grad}
  found = nets.from_flax(network, params)
  assert set(found) == wanted, sorted(set(found) ^ wanted)
  network.load_state_dict(found, strict=False)
  if "perceptual" in frozen:
    features = frozen["perceptual"].variables["params"]
    network.vgg.load_state_dict(nets.from_flax(network.vgg, features), strict=False)
  return network


def shaken(made: Parts, key: Any) -> Any:
  """Fresh parameters, none of which is left at zero or one, so that none can be wrong unnoticed.

  By little: what leaves [0, 1] has another gradient in vae_jax, whose clipping leads back, than in PyTorch.
  """

  def draw() -> Any:
    leaves, tree = jax.tree.flatten(made.init().params)
    keys = jax.random.split(key, len(leaves))
    moved = [p + 0.003 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)

  return jax.jit(draw)()


def like_ours(images: torch.Tensor) -> np.ndarray:
  """The inverse of `to_torch`."""
  return images.detach().permute(0, 2, 3, 1).numpy()


def difference(ours: Any, theirs: Any, relative: bool = False) -> float:
  """The largest one, over the largest value if `relative`."""
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  error = np.abs(ours - theirs.reshape(ours.shape)).max()
  return float(error / max(np.abs(ours).max(), 1e-12)) if relative else float(error)


def check_training(config: Any, shape: tuple[int, int, int], network: torch.nn.Module) -> dict[str, Any]:
  """Outputs, loss and gradients of both sides, for the same parameters, images and noise."""
  config = config.copy_and_resolve_references()
  config.data.binarize, config.training.batch_size = "none", 2
  made, step = parts(config, shape), jax.numpy.zeros((), jax.numpy.int32)
  keys = jax.random.split(jax.random.key(2), 2)
  # Middle greys, for the same reason as `shaken`.
  image = jax.random.uniform(jax.random.key(3), (2, *shape), minval=0.4, maxval=0.6)
  batch = jax.jit(made.prepare)(keys, {"image": image})
  given = seen(batch)

  def loss(params: Any, batch: Any) -> Any:
    output = made.model.apply({"params": params}, batch, keys, Mode(step, keys[0]))
    return made.objective(output, batch, step, made.frozen)[0].mean()

  with jax.default_matmul_precision("highest"):
    params = shaken(made, jax.random.key(4))
    value, grads = jax.jit(jax.value_and_grad(loss))(params, batch)
    restored = jax.jit(lambda p, x: made.model.apply({"params": p}, x, method="reconstruct"))(params, batch)
  if config.model.name == "restoration_vae":
    depth = config.model.latent_dim
    sides = [given.shape[1] >> level for level in reversed(range(len(config.model.channels)))]
    eps = [
      to_torch(
        np.concatenate([jax.random.normal(jax.random.fold_in(key, i), (1, n, n, depth)) for key in keys])
      )
      for i, n in enumerate(sides)
    ]
  else:
    size = (1, made.model.latent_dim)
    eps = torch.from_numpy(np.concatenate([jax.random.normal(key, size) for key in keys]))

  fill(network, params, made.frozen)
  theirs = network(to_torch(image), eps)
  theirs.backward()
  wanted = nets.from_flax(network, grads)
  again = network.restore(to_torch(given)).detach()
  again = like_ours(again) if again.ndim == 4 else again
  result = {
    "parameters": sum(p.size for p in jax.tree.leaves(params)),
    "parameters_torch": sum(p.numel() for p in network.parameters() if p.requires_grad),
    "output_difference": difference(restored, again),
    "loss_difference": difference(value, theirs.detach(), relative=True),
    "gradient_difference": max(
      difference(wanted[name], p.grad, relative=True)
      for name, p in network.named_parameters()
      if p.requires_grad
    ),
    "flops_torch_per_item": torch_flops(network, to_torch(image)) / 2,
  }
  assert result["parameters"] == result["parameters_torch"], result
  assert result["output_difference"] < TOLERANCE and result["loss_difference"] < TOLERANCE, result
  assert result["gradient_difference"] < 10 * TOLERANCE, result
  return result


def torch_flops(network: torch.nn.Module, image: torch.Tensor) -> float:
  """Counts the operations of one training step as PyTorch does: products and convolutions alone."""
  from torch.utils.flop_counter import FlopCounterMode

  with FlopCounterMode(display=False) as counter:
    network(image).backward()
  return counter.get_total_flops()
