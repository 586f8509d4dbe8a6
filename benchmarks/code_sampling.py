"""Measures how fast a transformer samples codes: with its cache, without, and beside the same network in PyTorch.

    pip install -e . torch
    python benchmarks/code_sampling.py [--output benchmarks/results/code_sampling.json]

256 codes (16 x 16) of 512, width 256, 6 layers, 4 heads, 8 examples at a time, float32, at temperature 1:

vae_jax cached          `code_transformer`: a loop in the compiled program, with keys and values of earlier codes
vae_jax without cache   the same loop with the whole sequence in each step
torch cached            torch.nn with the same weights, a cache of full length and a loop in Python; 1 and all threads

First, all must have the same logits for given codes, within 1e-4, and the same codes at temperature 0. Runners take
turns. A ratio is the median over rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing
import torch
from timing import Runner
from torch import nn
from torch.nn import functional

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.models import build
from vae_jax.models.code_priors import draw_codes
from vae_jax.models.contract import init_variables
from vae_jax.types import image_spec

THREADS = torch.get_num_threads()
TOLERANCE = 1e-4


class Sizes:
  """Sizes of the network and of the samples."""

  def __init__(self, quick: bool):
    self.side, self.codes, self.width = (4, 32, 32) if quick else (16, 512, 256)
    self.layers, self.heads, self.batch = (2, 2, 2) if quick else (6, 4, 8)

  @property
  def length(self) -> int:
    """Codes of an example."""
    return self.side**2


# --- vae_jax ---


class Ours:
  """The model with random weights. The head's are 10 times as large as usual: so no two codes are about as probable."""

  def __init__(self, sizes: Sizes):
    words = {"codes": sizes.codes, "layout": f"{sizes.side},{sizes.side},1", "width": sizes.width}
    words |= {"layers": sizes.layers, "heads": sizes.heads}
    config = apply_overrides(base_config("code_transformer"), [f"model.{k}={v}" for k, v in words.items()])
    spec = image_spec((4, 4, 1), codes=jax.ShapeDtypeStruct((sizes.length,), jnp.int32))
    self.model, self.sizes = build(config.model, spec), sizes
    self.variables = init_variables(self.model, spec, jax.random.key(0))
    self.variables["params"]["head"]["kernel"] *= 10
    self.keys = jax.random.split(jax.random.key(1), sizes.batch)
    self.kept = jnp.ones(sizes.batch, bool)
    self.logits = jax.jit(lambda variables, codes: self._logits(variables, codes))
    self.cached, self.without = jax.jit(self._cached), jax.jit(self._without)

  def _logits(self, variables: Any, codes: jax.Array) -> jax.Array:
    return self.model.apply(variables, codes, {}, self.kept, method="logits")[0]

  def _cached(self, variables: Any, keys: jax.Array, temperature: Any) -> jax.Array:
    return self.model.apply(variables, keys, {}, temperature, {}, method="generate")

  def _without(self, variables: Any, keys: jax.Array, temperature: Any) -> jax.Array:
    def draw(codes: jax.Array, at: jax.Array) -> tuple[jax.Array, None]:
      logits = self._logits(variables, codes)[:, at]
      each = jax.vmap(lambda key: jax.random.fold_in(key, at))(keys)
      return codes.at[:, at].set(draw_codes(each, logits, temperature)), None

    empty = jnp.zeros((self.sizes.batch, self.sizes.length), jnp.int32)
    return jax.lax.scan(draw, empty, jnp.arange(self.sizes.length))[0]

  def runner(self, sample: Any) -> Callable[[int], None]:
    def run(n: int) -> None:
      for _ in range(n):
        codes = sample(self.variables, self.keys, 1.0)
      jax.block_until_ready(codes)

    return run


# --- PyTorch ---


class Block(nn.Module):
  """Attention with a cache, and two dense layers, each after a normalisation."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.heads = heads
    self.norm_attention, self.norm_mlp = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
    self.projection, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
    self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

  def forward(self, x: torch.Tensor, cache: torch.Tensor, at: int) -> torch.Tensor:
    """x [b, w] at one position; cache [2, b, h, m, d] is written there."""
    b, width = x.shape
    q, k, v = self.projection(self.norm_attention(x)).view(b, 3, self.heads, -1).unbind(1)
    cache[0, :, :, at], cache[1, :, :, at] = k, v
    keys, values = cache[:, :, :, : at + 1]
    y = functional.scaled_dot_product_attention(q[:, :, None], keys, values)
    x = x + self.out(y.reshape(b, width))
    return x + self.down(functional.gelu(self.up(self.norm_mlp(x)), approximate="tanh"))


class Theirs(nn.Module):
  """The network of `code_transformer` with its weights."""

  def __init__(self, ours: Ours):
    super().__init__()
    s, params = ours.sizes, jax.device_get(ours.variables["params"])
    self.sizes = s
    self.blocks = nn.ModuleList(Block(s.width, s.heads) for _ in range(s.layers))
    self.norm, self.head = nn.LayerNorm(s.width, eps=1e-6), nn.Linear(s.width, s.codes)
    places = jax.device_get(ours.model.apply(ours.variables, method="places"))
    for name, value in {
      "first": params["first"]["embedding"],
      "embedding": params["embedding"]["embedding"],
      "places": places,
    }.items():
      self.register_buffer(name, torch.tensor(np.asarray(value)))
    found = params["transformer"]
    for number, block in enumerate(self.blocks):
      of = found[f"blocks_{number}"]
      for name, layer in {"projection": block.projection, "out": block.out}.items():
        _linear(layer, of["attention"][name])
      for name, layer in {"up": block.up, "down": block.down}.items():
        _linear(layer, of[name])
      for name in ("norm_attention", "norm_mlp"):
        _norm(getattr(block, name), of[name])
    _norm(self.norm, found["norm"])
    _linear(self.head, params["head"])

  def empty(self) -> list[torch.Tensor]:
    s = self.sizes
    return [torch.zeros(2, s.batch, s.heads, s.length, s.width // s.heads) for _ in self.blocks]

  def step(self, x: torch.Tensor, caches: list[torch.Tensor], at: int) -> torch.Tensor:
    for block, cache in zip(self.blocks, caches, strict=True):
      x = block(x, cache, at)
    return self.head(self.norm(x))

  @torch.inference_mode()
  def logits(self, codes: np.ndarray) -> np.ndarray:
    """Logits of given codes [b, n], through the cache."""
    caches, found = self.empty(), []
    x = self.first.expand(len(codes), -1)
    for at in range(codes.shape[1]):
      found.append(self.step(x, caches, at))
      x = self.embedding[torch.tensor(codes[:, at]).long()] + self.places[at]
    return torch.stack(found, 1).numpy()

  @torch.inference_mode()
  def sample(self, temperature: float) -> torch.Tensor:
    s, caches, codes = self.sizes, self.empty(), []
    x = self.first.expand(s.batch, -1)
    for at in range(s.length):
      logits = self.step(x, caches, at)
      shares = torch.softmax(logits / (temperature or 1.0), -1)
      code = torch.multinomial(shares, 1)[:, 0] if temperature else shares.argmax(-1)
      codes.append(code)
      x = self.embedding[code] + self.places[at]
    return torch.stack(codes, 1)


def _linear(layer: nn.Linear, params: Any) -> None:
  with torch.no_grad():
    layer.weight.copy_(torch.tensor(params["kernel"].T))
    layer.bias.copy_(torch.tensor(params["bias"]))


def _norm(layer: nn.LayerNorm, params: Any) -> None:
  with torch.no_grad():
    layer.weight.copy_(torch.tensor(params["scale"]))
    layer.bias.copy_(torch.tensor(params["bias"]))


def theirs(ours: Ours, threads: int) -> Callable[[int], None]:
  network = Theirs(ours)

  def run(n: int) -> None:
    torch.set_num_threads(threads)
    for _ in range(n):
      network.sample(1.0)

  return run


# --- all ---


def agreement(ours: Ours) -> dict[str, float]:
  """How far the three are from one another; ends the program where that is too far."""
  network = Theirs(ours)
  codes = np.random.default_rng(0).integers(0, ours.sizes.codes, (ours.sizes.batch, ours.sizes.length))
  mine = np.asarray(ours.logits(ours.variables, jnp.asarray(codes, jnp.int32)))
  greedy = np.asarray(ours.cached(ours.variables, ours.keys, 0.0))
  without = np.asarray(ours.without(ours.variables, ours.keys, 0.0))
  drawn = [np.asarray(sample(ours.variables, ours.keys, 1.0)) for sample in (ours.cached, ours.without)]
  found = {
    "largest_difference_of_logits_to_torch": float(np.abs(mine - network.logits(codes)).max()),
    "share_of_equal_codes_at_temperature_0_without_cache": float(np.mean(greedy == without)),
    "share_of_equal_codes_at_temperature_0_in_torch": float(np.mean(greedy == network.sample(0.0).numpy())),
    "share_of_equal_codes_at_temperature_1_without_cache": float(np.mean(drawn[0] == drawn[1])),
  }
  print(found)
  logits, *shares = found.values()
  if logits > TOLERANCE or min(shares[:2]) < 1:
    raise SystemExit("vae_jax with its cache, without, and PyTorch disagree")
  return found


def main() -> None:
  parser = timing.parser(__doc__)
  args = parser.parse_args()
  if jax.default_backend() != "cpu":
    parser.error("is for CPUs; set JAX_PLATFORMS=cpu")
  about, sizes = timing.about(), Sizes(args.quick)
  ours = Ours(sizes)
  codes = sizes.batch * sizes.length
  result: dict[str, Any] = {
    "benchmark": "code_sampling",
    "unit": "codes",
    "settings": {**vars(sizes), "length": sizes.length, "rounds": args.rounds, "quick": args.quick},
    **about,
    "torch": torch.__version__,
    "threads": {"torch": THREADS, "vae_jax": "all"},
    "agreement": agreement(ours),
  }
  runners = [
    Runner("vae_jax cached", partial(ours.runner, ours.cached), codes),
    Runner("vae_jax without cache", partial(ours.runner, ours.without), codes),
    *(Runner(f"torch cached, {n} threads", partial(theirs, ours, n), codes) for n in sorted({1, THREADS})),
  ]
  found = timing.measure(runners, args.rounds, 0.05 if args.quick else args.seconds)
  result["runners"] = found
  result["ratios"] = {
    "to without cache": timing.ratio(found, "vae_jax cached", "vae_jax without"),
    "to PyTorch": timing.ratio(found, "vae_jax cached", "torch"),
  }
  for name, row in found.items():
    shown = f"{row['items_per_second']:>10g} codes/s" if "items_per_second" in row else "failed"
    print(f"  {name:28s}{shown}")
  for name, ratio in result["ratios"].items():
    if ratio:
      print(f"  {ratio['median']} times as fast, {name} ({ratio['of']})")
  timing.finish(result, args.output)


if __name__ == "__main__":
  main()
