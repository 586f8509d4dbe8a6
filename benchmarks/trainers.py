"""The library's side of the benchmarks: configs of the workloads, and its own training call as a runner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from timing import cost

from vae_jax.configuration import base_config, validate
from vae_jax.data.prepare import make_prepare
from vae_jax.data.sources import open_source
from vae_jax.models import build
from vae_jax.models.contract import Family
from vae_jax.objectives import Objective, load_frozen, make_objective
from vae_jax.training import assemble, parallel, state, steps
from vae_jax.types import Frozen, Spec


def mlp_config(batch: int = 128) -> ConfigDict:
  """784-512-16 on digits, binarised anew at each use."""
  config = base_config()
  config.data.binarize = "dynamic"
  config.training.batch_size = batch
  return config


def conv_config(batch: int = 256) -> ConfigDict:
  """Images of 64 x 64 x 3, Gaussian pixels."""
  config = base_config("conv_vae")
  config.model.latent_dim = 64
  config.model.channels, config.model.blocks, config.model.dense = (32, 64), 1, 256
  config.model.likelihood = "gaussian"
  config.training.batch_size = batch
  return config


def superres_config(batch: int = 8) -> ConfigDict:
  """The architecture of configs/superres_x2.py, with a loss on the features of VGG-16 (of random weights)."""
  config = base_config("restoration_vae")
  config.data.degrade.name, config.data.degrade.factor = "bicubic_down", 2
  config.model.latent_dim = 4
  config.model.channels, config.model.blocks = (32, 48), 3
  config.model.likelihood, config.model.sigma = "laplace", "0.3"
  config.objective.perceptual.weight, config.objective.perceptual.weights = 1000.0, "random"
  config.training.batch_size = batch
  return config


def digits(split: str = "train") -> tuple[np.ndarray, str]:
  """uint8 [n, 28, 28, 1] and what they are: noise where the data set cannot be read, which takes as long."""
  try:
    return open_source(base_config().data, split).load_all()["image"], "digits"
  except Exception as error:
    noise = np.random.default_rng(0).integers(0, 256, (4000, 28, 28, 1), np.uint8)
    return noise, f"noise, because the digits cannot be read here ({type(error).__name__})"


def noise(n: int, size: int) -> np.ndarray:
  """uint8 [n, size, size, 3]: speed does not depend on what pictures show."""
  return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)


class Parts(NamedTuple):
  """What the loop would make of a training run from the config."""

  model: Family
  spec: Spec
  objective: Objective
  prepare: steps.Prepare
  call: Callable
  init: Callable[[], state.TrainState]
  frozen: Frozen


def parts(config: ConfigDict, shape: tuple[int, int, int], dtype: str = "float32") -> Parts:
  config = config.copy_and_resolve_references()
  config.training.dtype = config.objective.perceptual.dtype = dtype
  validate(config)
  prepare, frozen = make_prepare(config.data, training=True), load_frozen(config.objective)
  spec = assemble.prepared_spec(prepare, {"image": np.zeros((1, *shape), np.uint8)}, frozen)
  model, tx = build(config.model, spec, dtype), state.make_optimizer(config.training)
  objective = make_objective(config.objective, model.terms)
  step = steps.make_train_step(
    model,
    objective,
    prepare,
    tx,
    state.make_learning_rate(config.training),
    samples=1,
    ema_decay=0.0,
    root=jax.random.key(0),
  )

  def init() -> state.TrainState:
    return state.init_state(model, tx, spec, jax.random.key(1), ema=False)

  return Parts(model, spec, objective, prepare, steps.make_train_call(step), init, frozen)


class Trainer:
  """The library's compiled training call over images that stay on the devices, without a moving average: call it with
  a number of dispatches of `steps_per_call` steps each."""

  def __init__(self, config: ConfigDict, images: np.ndarray, steps_per_call: int, dtype: str = "float32"):
    made = parts(config, images.shape[1:], dtype)
    self.placement = parallel.make_placement(config.training.batch_size)
    self.call = parallel.compile_train_call(made.call, self.placement)
    self.state = jax.jit(made.init, out_shardings=self.placement.replicated)()
    self.stored = self.placement.put({"image": images})
    self.frozen = self.placement.put(made.frozen)
    self.index, self.draw = (steps_per_call, config.training.batch_size), np.random.default_rng(0)
    self.losses: list[Any] = []  # of the latest call

  def __call__(self, dispatches: int) -> None:
    for _ in range(dispatches):
      index = self.draw.integers(len(self.stored["image"]), size=self.index).astype(np.int32)
      batches = self.placement.put_batch({"index": index}, axis=1)
      self.state, metrics = self.call(self.state, self.stored, batches, self.frozen)
    self.losses = metrics["loss"]
    jax.block_until_ready(self.state)
    if int(self.state.skipped):
      raise RuntimeError(f"{int(self.state.skipped)} steps were skipped: their loss was not finite")


def step_cost(config: ConfigDict, shape: tuple[int, int, int], dtype: str) -> tuple[float, float]:
  """(FLOPs, bytes) of one training step, an image."""
  made, batch = parts(config, shape, dtype), config.training.batch_size
  index = {"index": jax.ShapeDtypeStruct((1, batch), np.int32)}
  stored = {"image": jax.ShapeDtypeStruct((batch, *shape), np.uint8)}
  flops, moved = cost(
    jax.jit(made.call, donate_argnums=0), jax.eval_shape(made.init), stored, index, made.frozen
  )
  return flops / batch, moved / batch
