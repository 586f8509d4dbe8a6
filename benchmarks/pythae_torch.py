"""The side of pythae in `pythae_models.py`: its models around our networks, its pipeline, a bare loop, the agreement.

Needs torch and pythae. Layers have the names of their parameters in the Flax tree, as those of `networks_torch`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import networks_torch as nets
import numpy as np
import torch
from agreement import TOLERANCE, difference, like_ours, shaken, to_torch
from ml_collections import ConfigDict
from pythae.data.datasets import DatasetOutput
from pythae.models import (
  IWAE,
  VAE,
  VAMP,
  VQVAE,
  WAE_MMD,
  BetaTCVAE,
  BetaTCVAEConfig,
  IWAEConfig,
  VAEConfig,
  VAMPConfig,
  VQVAEConfig,
  WAE_MMD_Config,
)
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn
from trainers import Parts, parts

from vae_jax.models.contract import Mode
from vae_jax.objectives import Objective, make_objective
from vae_jax.types import Variables

TORCH, PYTHAE = torch.__version__, version("pythae")
THREADS = torch.get_num_threads()
SIDE, RATE, EXAMPLES = 28, 1e-3, 8


def threads() -> list[int]:
  return sorted({1, THREADS})


# --- networks ---


class Encoder(BaseEncoder):
  """bounded: the network gives the moments of a Gaussian, whose logvar is bounded as in vae_jax."""

  def __init__(self, network: nn.Module, bounded: bool):
    super().__init__()
    self.network, self.bounded = network, bounded

  def forward(self, x: Tensor) -> ModelOutput:
    found = self.network(x)
    if not self.bounded:
      return ModelOutput(embedding=found)
    mean, raw = found.chunk(2, dim=1)
    return ModelOutput(embedding=mean, log_covariance=nets.bound_logvar(raw))


class Decoder(BaseDecoder):
  """Probabilities of logits, or grey levels around the middle."""

  def __init__(self, network: nn.Module, logits: bool):
    super().__init__()
    self.network, self.logits = network, logits

  def forward(self, z: Tensor) -> ModelOutput:
    found = self.network(z)
    if self.logits:
      return ModelOutput(reconstruction=found.sigmoid().view(-1, 1, SIDE, SIDE))
    return ModelOutput(reconstruction=0.5 + found)


class CodeEncoder(nets.ConvEncoder):
  """The convolutions of `networks_torch.ConvEncoder`, then a vector at each position."""

  def __init__(self, channels: tuple[int, ...], code_dim: int):
    super().__init__(channels, 0, 1, 1, SIDE, 1)
    del self.posterior
    self.Dense_0 = nn.Conv2d(channels[-1], code_dim, 1)

  def forward(self, x: Tensor) -> Tensor:
    for name in self.path:
      x = getattr(self, name)(x)
    return self.Dense_0(nets.F.relu(self.Norm_0(x)))


def networks(config: ConfigDict) -> tuple[Encoder, Decoder]:
  """Those of `config.model`."""
  m = config.model
  if m.name == "mlp_vae":
    network = nets.MLPVAE(m.hidden[0], m.latent_dim)
    return Encoder(network.encoder, True), Decoder(network.decoder, True)
  channels = tuple(m.channels)
  if m.name == "wae":
    encoder: nn.Module = nets.ConvEncoder(channels, m.blocks, m.dense, m.latent_dim, SIDE, 1, moments=1)
    decoder = nets.ConvDecoder(channels, m.blocks, m.dense, m.latent_dim, SIDE, 1)
  else:
    encoder = CodeEncoder(channels, m.code_dim)
    decoder = nets.ConvDecoder(channels, m.blocks, 0, m.code_dim, SIDE, 1)
  return Encoder(encoder, False), Decoder(decoder, False)


def model_of(name: str, config: ConfigDict) -> nn.Module:
  """pythae's model of a name of `pythae_models.MODELS`, with the weights of our config."""
  m, o, encoder_decoder = config.model, config.objective, networks(config)
  common: dict[str, Any] = {
    "input_dim": (1, SIDE, SIDE),
    "latent_dim": m.get("latent_dim", m.get("code_dim")),
  }
  if m.name == "mlp_vae":
    common["reconstruction_loss"] = "bce"
  if name == "vae":
    return VAE(VAEConfig(**common), *encoder_decoder)
  if name == "iwae":
    return IWAE(IWAEConfig(**common, number_samples=o.samples), *encoder_decoder)
  if name == "beta_tcvae":
    weighted = BetaTCVAEConfig(**common, alpha=1.0, beta=1.0 + o.total_correlation, gamma=1.0, use_mss=False)
    return BetaTCVAE(weighted, *encoder_decoder)
  if name == "vampprior":
    return VAMP(VAMPConfig(**common, number_components=m.components), *encoder_decoder)
  if name == "wae_mmd":
    return WAE_MMD(WAE_MMD_Config(**common, reg_weight=o.mmd), *encoder_decoder)
  vectors = (SIDE >> len(m.channels)) ** 2 * m.code_dim  # its mean over these is our sum
  kept = {"num_embeddings": m.codes, "use_ema": m.codebook == "ema", "decay": m.decay}
  return VQVAE(VQVAEConfig(**common, **kept, commitment_loss_factor=o.commitment * vectors), *encoder_decoder)


class Named(nn.Module):
  """The networks of a model by their names in the Flax tree."""

  def __init__(self, model: nn.Module):
    super().__init__()
    self.encoder, self.decoder = model.encoder.network, model.decoder.network


# --- parameters from here to there and back ---


def fill(model: nn.Module, params: Any, codes: Any = None) -> None:
  """Puts our parameters and codes into a model of pythae; none may be left over on either side."""
  named, params = Named(model), dict(params)
  inputs = params.pop("prior", {}).get("inputs")
  found = nets.from_flax(named, params)
  assert set(found) == {name for name, _ in named.named_parameters()}
  named.load_state_dict(found)
  with torch.no_grad():
    if inputs is not None:
      layer = model.pseudo_inputs[0]
      layer.weight.copy_(torch.from_numpy(np.array(inputs).reshape(len(inputs), -1).T.copy()))
      layer.bias.zero_()
    if codes is not None:
      model.quantizer.embeddings.copy_(torch.from_numpy(np.array(codes)))


def taken(model: nn.Module, like: Variables) -> Variables:
  """The variables of our model, of the shapes of `like`, with the weights of a model of pythae."""
  named, params = Named(model), dict(like["params"])
  prior = params.pop("prior", None)
  leaves, tree = jax.tree.flatten(params)
  ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
  assert ends[-1] < 2**24, "float32 counts the numbers"
  # The numbers of all parameters, laid out as PyTorch has them, tell where each of its values belongs.
  numbers = [np.arange(a, a + leaf.size).reshape(leaf.shape) for a, leaf in zip(ends, leaves, strict=False)]
  values, weights = np.full(ends[-1], np.nan, np.float32), dict(named.named_parameters())
  for name, place in nets.from_flax(named, jax.tree.unflatten(tree, numbers)).items():
    values[place.numpy().astype(np.int64).ravel()] = weights[name].detach().numpy().ravel()
  found = [values[n.ravel().astype(np.int64)].reshape(n.shape) for n in numbers]
  variables = {**like, "params": jax.tree.unflatten(tree, found)}
  if prior is not None:
    with torch.no_grad():
      inputs = model.pseudo_inputs(torch.eye(len(prior["inputs"]))).numpy()
    variables["params"]["prior"] = {"inputs": inputs.reshape(prior["inputs"].shape)}
  if "codebook" in like:
    variables["codebook"] = {**like["codebook"], "codes": model.quantizer.embeddings.numpy().copy()}
  return variables


def fresh(made: Parts) -> Variables:
  """The variables with which our model begins, on the host."""
  begun = jax.device_get(jax.jit(made.init)())
  return {"params": begun.params, **begun.rest}


# --- training ---


class Clock(TrainingCallback):
  """The seconds from the first to the last batch of all epochs."""

  def __init__(self) -> None:
    self.seconds, self.begun, self.last = 0.0, 0.0, 0.0

  def on_train_step_begin(self, training_config: Any, **kwargs: Any) -> None:
    self.begun = time.perf_counter()  # of an epoch

  def on_train_step_end(self, training_config: Any, **kwargs: Any) -> None:
    self.last = time.perf_counter()  # of a batch

  def on_epoch_end(self, training_config: Any, **kwargs: Any) -> None:
    self.seconds += self.last - self.begun


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Without its lines and bars on standard error; they are made all the same."""
  disabled = logging.root.manager.disable
  logging.disable(logging.INFO)
  try:
    with contextlib.redirect_stderr(io.StringIO()):
      yield
  finally:
    logging.disable(disabled)


def by_pipeline(model: nn.Module, config: ConfigDict, images: np.ndarray, epochs: int) -> float:
  """Trains by pythae's pipeline; the seconds of `Clock`."""
  clock, t = Clock(), config.training
  with tempfile.TemporaryDirectory() as folder, quiet():
    how = BaseTrainerConfig(
      output_dir=folder,
      num_epochs=epochs,
      per_device_train_batch_size=t.batch_size,
      learning_rate=t.learning_rate,
      seed=t.seed,
      no_cuda=True,
    )
    TrainingPipeline(model=model, training_config=how)(images, callbacks=[clock])
  return clock.seconds


def pipeline_runner(name: str, config: ConfigDict, images: np.ndarray, count: int) -> Callable[[int], float]:
  """run(n) trains n epochs, and gives the seconds of these alone."""
  torch.manual_seed(0)
  model = model_of(name, config)

  def run(epochs: int) -> float:
    torch.set_num_threads(count)
    return by_pipeline(model, config, images, epochs)

  return run


def loop_runner(name: str, config: ConfigDict, images: np.ndarray, count: int) -> Callable[[int], None]:
  """run(n) trains n epochs in a loop as PyTorch users write it."""
  torch.manual_seed(0)
  model, data, batch = model_of(name, config), torch.from_numpy(images), config.training.batch_size
  model.device = "cpu"
  optimizer = torch.optim.Adam(model.parameters(), lr=config.training.learning_rate, fused=True)

  def run(epochs: int) -> None:
    torch.set_num_threads(count)
    model.train()
    for epoch in range(epochs):
      for index in torch.randperm(len(data)).split(batch):
        optimizer.zero_grad(set_to_none=True)
        model(DatasetOutput(data=data[index]), epoch=epoch, dataset_size=len(data)).loss.backward()
        optimizer.step()

  return run


def trained(name: str, config: ConfigDict, images: np.ndarray, count: int) -> tuple[Variables, float]:
  """Our variables with pythae's weights after config.training.steps, and the seconds of the whole call."""
  torch.manual_seed(config.training.seed)
  torch.set_num_threads(count)
  model, start = model_of(name, config), time.perf_counter()
  by_pipeline(model, config, images, config.training.steps * config.training.batch_size // len(images))
  seconds = time.perf_counter() - start
  return taken(model, fresh(parts(config, (SIDE, SIDE, 1)))), seconds


# --- agreement ---


@contextlib.contextmanager
def given_noise(*noise: Any) -> Iterator[None]:
  """torch.randn_like gives these arrays, one after the other, or zeros where there are none."""
  drawn, left = torch.randn_like, list(noise)

  def next_of(x: Tensor, **kwargs: Any) -> Tensor:
    if not noise:
      return torch.zeros_like(x)
    return torch.from_numpy(np.array(left.pop(0))).reshape(x.shape)

  torch.randn_like = next_of
  try:
    yield
  finally:
    torch.randn_like = drawn


def in_their_terms(name: str, config: ConfigDict, objective: Objective, call: Callable[..., Any]) -> Callable:
  """params -> the loss of our output as pythae writes it; the docstring of `pythae_models` has the differences."""

  def loss(params: Any) -> jax.Array:
    output, batch, key = call(params)
    step = jnp.zeros((), jnp.int32)
    total = objective(output, batch, step)[0].mean() + objective.over_batch(output, key, step)[0]
    if name == "iwae":
      share = jax.lax.stop_gradient(jax.nn.softmax(output.log_weight, axis=0))
      return -(share * output.log_weight).sum(axis=0).mean()
    if name == "beta_tcvae":
      sampled = -(output.log_weight[0] + output.terms["distortion"])  # log q(z | x) - log p(z)
      return total - output.terms["rate"].mean() + sampled.mean()
    if config.model.likelihood == "gaussian":
      return total - SIDE**2 * (math.log(float(config.model.sigma)) + 0.5 * math.log(2 * math.pi))
    return total

  return loss


def agreement(name: str, config: ConfigDict) -> dict[str, Any]:
  """Parameters, reconstructions, loss and gradients of both sides for the same parameters, images and noise.

  Raises AssertionError where they differ.
  """
  config = config.copy_and_resolve_references()
  config.training.batch_size, examples = EXAMPLES, 40 * EXAMPLES
  made, key = parts(config, (SIDE, SIDE, 1)), jax.random.key(5)
  objective = make_objective(config.objective, made.model.terms, examples)
  variables, samples = fresh(made), config.objective.get("samples", 1)
  params = shaken(made, jax.random.key(4))
  if "codebook" in variables:
    codes = 0.3 * np.random.default_rng(0).standard_normal(variables["codebook"]["codes"].shape, np.float32)
    variables["codebook"] = jax.tree.map(jnp.asarray, {**variables["codebook"], "codes": codes})
  keys = jax.random.split(jax.random.key(2), EXAMPLES)
  grey = jax.random.uniform(jax.random.key(3), (EXAMPLES, SIDE, SIDE, 1))
  batch = {**made.prepare(keys, {"image": grey}, made.frozen), "place": jnp.arange(EXAMPLES)}
  mode = Mode(jnp.zeros((), jnp.int32), key, True, samples, EXAMPLES)

  def call(params: Any) -> Any:
    return made.model.apply({**variables, "params": params}, batch, keys, mode), batch, key

  loss = in_their_terms(name, config, objective, call)
  with jax.default_matmul_precision("highest"):
    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    again = made.model.apply({**variables, "params": params}, batch, method="reconstruct")

  model = model_of(name, config)
  fill(model, params, variables.get("codebook", {}).get("codes"))
  x = DatasetOutput(data=to_torch(batch["image"]))
  with given_noise(), torch.no_grad():
    reconstructed = model.eval()(x, epoch=1, dataset_size=examples).recon_x
  d = config.model.get("latent_dim", 0)
  noise = jax.vmap(lambda key: jax.random.normal(key, (samples, d)))(keys)
  if name == "wae_mmd":
    noise = jax.random.normal(jax.random.fold_in(key, 0), (EXAMPLES, d))
  with given_noise(noise):
    theirs = model.train()(x, epoch=1, dataset_size=examples).loss
  theirs.backward()
  wanted, slopes = gradients(model, dict(grads))
  result = {
    "parameters": sum(p.size for p in jax.tree.leaves(params)),
    "parameters_of_pythae": sum(p.numel() for p in model.parameters()),
    "output_difference": difference(again, like_ours(reconstructed.clamp(0, 1))),
    "loss_difference": difference(value, theirs.detach(), relative=True),
    "gradient_difference": max(difference(wanted[n], slopes[n], relative=True) for n in wanted),
  }
  more = SIDE**2 if name == "vampprior" else 0  # the bias of its pseudo-inputs
  assert result["parameters_of_pythae"] == result["parameters"] + more, result
  assert result["output_difference"] < TOLERANCE and result["loss_difference"] < TOLERANCE, result
  assert result["gradient_difference"] < 10 * TOLERANCE, result
  return result


def gradients(model: nn.Module, grads: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """(ours, theirs) by name."""
  named, inputs = Named(model), grads.pop("prior", {}).get("inputs")
  wanted: dict[str, Any] = dict(nets.from_flax(named, grads))
  slopes: dict[str, Any] = {name: p.grad for name, p in named.named_parameters()}
  if inputs is not None:
    wanted["inputs"] = np.asarray(inputs).reshape(len(inputs), -1).T
    slopes["inputs"] = model.pseudo_inputs[0].weight.grad
  return wanted, slopes
