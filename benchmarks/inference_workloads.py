"""The workloads of `throughput.py` without gradients: scoring, sampling, restoring."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import networks_torch as nets
import numpy as np
import superres_torch
import timing
import torch
from agreement import TOLERANCE, difference, fill, like_ours, shaken, to_torch
from timing import Run, Runner
from trainers import Trainer, digits, mlp_config, parts, superres_config
from workloads import DEVICE, DTYPES, THREADS, Workload, modes

from vae_jax.data.prepare import make_prepare
from vae_jax.inference import TILE, TrainedVAE
from vae_jax.models import build
from vae_jax.photos.tiling import assembled, tiled_bands
from vae_jax.runs import Run as TrainedRun
from vae_jax.training import parallel
from vae_jax.training.scoring import make_eval_step
from vae_jax.types import image_spec


def forward_only(function: Callable[[], Any], threads: int | None = None) -> Run:
  """n calls of `function` without gradients."""

  def run(n: int) -> None:
    if threads:
      torch.set_num_threads(threads)
    with torch.inference_mode():
      for _ in range(n):
        function()
      nets.synchronize(DEVICE)

  return run


def compiled(function: Callable, mode: str) -> Callable:
  return function if mode == "eager" else torch.compile(function, mode=mode, dynamic=False)


def trained_mlp(steps_done: int) -> tuple[Any, Any]:
  """A config and parameters after some steps on the digits: importance weights of a fresh network say little."""
  config = mlp_config()
  trainer = Trainer(config, digits()[0], 10)
  trainer(steps_done // 10)
  return config, jax.device_get(trainer.state.params)


def trained(config: Any, params: Any, spec: Any) -> TrainedVAE:
  """What serves a run with these parameters."""
  return TrainedVAE(TrainedRun(config, {"params": params}, spec, 0))


def mlp_network(config: Any, params: Any) -> nets.MLPVAE:
  return fill(nets.MLPVAE(config.model.hidden[0], config.model.latent_dim), params)


def iwae(args: Any) -> Workload:
  count, samples, batch, few = (40, 20, 20, 4) if args.quick else (1000, 500, 250, 100)
  config, params = trained_mlp(30 if args.quick else 1000)
  model, variables = build(config.model, image_spec((28, 28, 1))), {"params": params}
  config.data.binarize = "none"
  images, data = digits()
  images = (images[:count] > 127).astype(np.float32)
  prepare, placement = make_prepare(config.data, training=False), parallel.make_placement(batch)
  mask, runners, results = np.ones(batch, bool), [], {}

  def step(chunk: int, total: int = samples) -> Callable:
    return make_eval_step(model, prepare, root=jax.random.key(5), iwae_samples=total, chunk=chunk)

  def jax_run(chunk: int, name: str) -> Run:
    call = parallel.compile_eval_step(step(chunk), placement)
    placed = placement.put(variables)

    def run(n: int) -> None:
      for _ in range(n):
        out = []
        for start in range(0, count, batch):
          index = np.arange(start, start + batch, dtype=np.int32)
          rows = {"image": images[start : start + batch], "index": index, "mask": mask}
          out.append(call(placed, placement.put_batch(rows))["iwae_nll"])
        results[name] = float(np.concatenate(jax.device_get(out)).mean())

    return run

  def torch_run(mode: str, threads: int | None, chunk: int, name: str) -> Run:
    network = mlp_network(config, params).to(DEVICE)
    x = to_torch(images).to(DEVICE)
    chunk = min(chunk, samples)
    bound = compiled(partial(network.log_mean_weight, samples=chunk), mode)

    def once() -> None:
      out = []
      for rows in x.split(batch):
        mean, logvar = network.posterior(rows)
        chunks = [bound(rows.flatten(1), mean, logvar).clone() for _ in range(samples // chunk)]
        out.append(np.log(len(chunks)) - torch.logsumexp(torch.stack(chunks), 0))
      results[name] = float(torch.cat(out).mean())

    return forward_only(once, threads)

  def pythae_run(threads: int, name: str) -> Run:
    vae = pythae_vae(config, params)
    x = to_torch(images[:few]).to(DEVICE)

    def run(n: int) -> None:
      torch.set_num_threads(threads)
      with torch.no_grad():
        for _ in range(n):
          results[name] = float(vae.get_nll(x, n_samples=samples, batch_size=samples))

    return run

  for label, mode, threads in modes():
    for chunk in (10, 100):
      name = f"torch, {label}, {chunk} samples at a time"
      runners.append(Runner(name, partial(torch_run, mode, threads, chunk, name), count))
  for n in sorted({1, THREADS}):
    name = f"pythae 0.1.2 get_nll, {n} threads"
    runners.append(Runner(name, partial(pythae_run, n, name), few))
  for chunk in (100, 10):
    name = f"vae_jax, {chunk} samples at a time"
    runners.append(Runner(name, partial(jax_run, chunk, name), count))

  def check() -> dict[str, Any]:
    for runner in runners:
      if runner.name.startswith("vae_jax") or runner.name in (
        f"torch, {modes()[0][0]}, 10 samples at a time",
      ):
        runner.make()(1)
    spread = max(results.values()) - min(results.values())
    assert spread < (2.0 if args.quick else 0.1), results  # nats; they draw other samples
    return {"nll_nats": {name: round(value, 3) for name, value in results.items()}}

  def cost(dtype: str) -> tuple[float, float]:
    shapes = {
      "image": jnp.zeros((batch, 28, 28, 1)),
      "index": jnp.arange(batch),
      "mask": jnp.ones(batch, bool),
    }
    # The body of a loop counts once: what one chunk of 10 adds, times their number.
    base, one = (timing.cost(jax.jit(step(10, total)), variables, shapes) for total in (0, 10))
    flops, moved = (b + samples / 10 * (o - b) for b, o in zip(base, one, strict=True))
    return flops / batch, moved / batch

  about = {"samples": samples, "digits": count, "digits_of_pythae": few, "batch_size": batch, "data": data}
  about["note"] = "the step of vae_jax also scores ELBO, PSNR and SSIM"
  return Workload("digits", runners, {"float32": runners[-1].name}, check, cost, about)


def pythae_vae(config: Any, params: Any) -> Any:
  """pythae's VAE around the same layers."""
  from pythae.models import VAE, VAEConfig
  from pythae.models.base.base_utils import ModelOutput
  from pythae.models.nn import BaseDecoder, BaseEncoder

  network = mlp_network(config, params)

  class Encoder(BaseEncoder):
    def __init__(self):
      super().__init__()
      self.network = network

    def forward(self, x: torch.Tensor) -> Any:
      mean, logvar = self.network.posterior(x)
      return ModelOutput(embedding=mean, log_covariance=logvar)

  class Decoder(BaseDecoder):
    def __init__(self):
      super().__init__()
      self.layers = network.decoder

    def forward(self, z: torch.Tensor) -> Any:
      return ModelOutput(reconstruction=self.layers(z).sigmoid().view(-1, 1, 28, 28))

  shape = VAEConfig(input_dim=(1, 28, 28), latent_dim=config.model.latent_dim, reconstruction_loss="bce")
  return VAE(shape, encoder=Encoder(), decoder=Decoder()).to(DEVICE)


def sample(args: Any) -> Workload:
  count = 100 if args.quick else 10_000
  config = mlp_config()
  made = parts(config, (28, 28, 1))
  params = shaken(made, jax.random.key(4))
  runners, ours = [], {}

  def jax_run(dtype: str) -> Run:
    own = config.copy_and_resolve_references()
    own.training.dtype = dtype
    model, turn = trained(own, params, made.spec), iter(range(10**9))

    def run(n: int) -> None:
      for _ in range(n):
        images = model.sample(jax.random.key(next(turn)), count)
      jax.block_until_ready(images)

    return run

  def torch_run(mode: str, threads: int | None, dtype: str) -> Run:
    network = mlp_network(config, params).to(DEVICE)

    def draw() -> torch.Tensor:
      with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16"):
        return network.pixels(
          network.decoder(torch.randn(count, config.model.latent_dim, device=DEVICE)).float()
        )

    return forward_only(compiled(draw, mode), threads)

  for dtype in DTYPES:
    for label, mode, threads in modes():
      runners.append(
        Runner(f"torch, {label}, {dtype}", partial(torch_run, mode, threads, dtype), count, dtype)
      )
    ours[dtype] = f"vae_jax, {dtype}"
    runners.append(Runner(ours[dtype], partial(jax_run, dtype), count, dtype))

  def check() -> dict[str, Any]:
    model = trained(config, params, made.spec)
    z = jax.random.normal(jax.random.key(6), (8, config.model.latent_dim))
    network = mlp_network(config, params)
    with jax.default_matmul_precision("highest"), torch.no_grad():
      theirs = network.pixels(network.decoder(torch.from_numpy(np.array(z))))
      result = {"output_difference": difference(model.decode(z), theirs)}
    assert result["output_difference"] < TOLERANCE, result
    return result

  def cost(dtype: str) -> tuple[float, float]:
    model = build(config.model, made.spec, dtype)
    decode = jax.jit(lambda params, z: model.apply({"params": params}, z, {}, method="decode"))
    flops, moved = timing.cost(decode, params, jnp.zeros((count, config.model.latent_dim)))
    return flops / count, moved / count

  return Workload("images", runners, ours, check, cost, {"images": count})


def restore(args: Any) -> Workload:
  side = 200 if args.quick else 1000
  tile = 64 if args.quick else TILE
  config, shape = superres_config(), (96, 96, 3)
  made = parts(config, shape)
  params = shaken(made, jax.random.key(4))
  photograph = np.random.default_rng(0).uniform(0.3, 0.7, (side, side, 3)).astype(np.float32)
  m, items = config.model, 4 * side * side / 1e6

  def library(dtype: str = "float32") -> TrainedVAE:
    own = config.copy_and_resolve_references()
    own.training.dtype = dtype
    return trained(own, params, made.spec)

  def network() -> superres_torch.SuperResolution:
    counterpart = superres_torch.SuperResolution(
      tuple(m.channels), m.blocks, m.latent_dim, 0.0, float(m.sigma)
    )
    return fill(counterpart, params)

  def repeated(function: Callable[[], Any]) -> Run:
    def run(n: int) -> None:
      for _ in range(n):
        function()

    return run

  def jax_run(dtype: str, whole: bool) -> Run:
    model = library(dtype)
    if whole:
      return repeated(lambda: np.asarray(model.restore(photograph[None])))
    return repeated(lambda: model.restore_image(photograph, tile=tile))

  def torch_run(mode: str, threads: int | None, dtype: str, whole: bool) -> Run:
    layout = torch.contiguous_format if mode == "eager" else torch.channels_last
    restored = compiled(network().to(DEVICE).to(memory_format=layout).restore, mode)

    def window(pixels: np.ndarray, place: Any = None) -> np.ndarray:
      x = to_torch(pixels[None]).to(DEVICE).contiguous(memory_format=layout)
      with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16"):
        return restored(x)[0].float().permute(1, 2, 0).cpu().numpy()

    if whole:
      return forward_only(lambda: window(photograph), threads)
    where = library().module
    sizes = {"factor": 2, "tile": tile, "halo": where.radius, "multiple": where.multiple}

    def tiled() -> np.ndarray:
      return assembled(tiled_bands(window, photograph, **sizes), 2 * len(photograph))

    return forward_only(tiled, threads)

  runners, ours = [], {}
  for dtype in DTYPES:
    for whole in (True, False):
      how = "whole" if whole else "tiles"
      for label, mode, threads in modes():
        if mode == "reduce-overhead":
          continue
        make = partial(torch_run, mode, threads, dtype, whole)
        runners.append(Runner(f"torch, {how}, {label}, {dtype}", make, items, dtype))
      ours[dtype] = f"vae_jax, {how}, {dtype}"
      runners.append(Runner(ours[dtype], partial(jax_run, dtype, whole), items, dtype))

  def check() -> dict[str, Any]:
    small = photograph[:150, :130]
    with jax.default_matmul_precision("highest"), torch.no_grad():
      wanted = library().restore_image(small, tile=32)
      result = {
        "output_difference": difference(wanted[None], like_ours(network().restore(to_torch(small[None]))))
      }
    assert result["output_difference"] < TOLERANCE, result
    return result

  def cost(dtype: str) -> tuple[float, float]:
    module = library(dtype).module
    whole = jax.jit(lambda params, image: module.apply({"params": params}, image, method="restore"))
    seen = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    flops, moved = timing.cost(whole, params, seen)
    return flops / items, moved / items

  about = {
    "input": [side, side, 3],
    "output": [2 * side, 2 * side, 3],
    "tile": tile,
    "halo": library().module.radius,
  }
  return Workload("megapixels", runners, ours, check, cost, about)
