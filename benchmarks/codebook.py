"""Measures the speed of the codebook beside vector-quantize-pytorch and plain PyTorch, in one run on one machine.

    pip install -e . torch "vector-quantize-pytorch==1.32.*"
    python benchmarks/codebook.py [--output benchmarks/results/codebook.json]

4,096 vectors (16 examples of 16 x 16 positions) of 64 channels, float32, and 512 or 8,192 codes:

forward   the nearest codes, looked up, with the straight-through gradient ready
training  forward, the commitment loss, gradients of the vectors, and the moving average of the codes

The network around the codebook is left out. vae_jax is jitted. In training it also restarts unused codes, which
vector-quantize-pytorch does not by default. vector-quantize-pytorch runs eagerly and by torch.compile, with the
straight-through gradient instead of its rotation trick; on CPUs with 1 and with all threads. "torch plain" is the same
work written directly: one matrix product, argmin, index_add_. First, all three learn from the same batches: they must
choose the same codes, and the codebooks must agree within 1e-5. Runners take turns. A ratio is the median over rounds,
against the best of the others in the round.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing
import torch
from timing import Runner
from vector_quantize_pytorch import VectorQuantize

from vae_jax.models import codebook as cb

EXAMPLES, POSITIONS, CHANNELS = 16, 256, 64
VECTORS = EXAMPLES * POSITIONS
DECAY, EPSILON = 0.99, 1e-5
GPU = jax.default_backend() == "gpu"
DEVICE = "cuda" if GPU else "cpu"
THREADS = torch.get_num_threads()
TOLERANCE = 1e-5


def vectors(seed: int) -> np.ndarray:
  """[examples, positions, channels]."""
  return np.random.default_rng(seed).standard_normal((EXAMPLES, POSITIONS, CHANNELS), np.float32)


def first_codes(k: int) -> np.ndarray:
  return np.random.default_rng(100).standard_normal((k, CHANNELS), np.float32)


# --- vae_jax ---


def our_state(k: int) -> cb.Codebook:
  """As `Theirs` begins: codes with the mean count, and no start by k-means."""
  codes, mean = jnp.asarray(first_codes(k)), POSITIONS / k
  return cb.Codebook(codes, jnp.full(k, mean), codes * mean, jnp.int32(1))


@jax.jit
def our_forward(codes: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  index = cb.nearest(x.reshape(VECTORS, CHANNELS), codes).reshape(x.shape[:2])
  return cb.straight_through(x, cb.lookup(codes, index)), index


@partial(jax.jit, donate_argnums=0)
def our_training(
  state: cb.Codebook, x: jax.Array, direction: jax.Array, key: jax.Array
) -> tuple[cb.Codebook, jax.Array, jax.Array, jax.Array]:
  """The next state, the loss, its gradient to x, indices."""

  def loss(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    index = cb.nearest(x.reshape(VECTORS, CHANNELS), state.codes).reshape(x.shape[:2])
    quantised = cb.lookup(state.codes, index)
    value = jnp.mean(cb.commitment(x, quantised)) / (POSITIONS * CHANNELS)
    return value + jnp.sum(direction * cb.straight_through(x, quantised)), index

  (value, index), slope = jax.value_and_grad(loss, has_aux=True)(x)
  key = jax.random.fold_in(key, state.updates)
  k = len(state.codes)
  found = cb.statistics(x, index, jnp.arange(EXAMPLES), key, k=k, batch_size=EXAMPLES)
  state = cb.update(state, found, decay=DECAY, kmeans_steps=0, revive_below=0, epsilon=EPSILON)
  return state, value, slope, index


def ours(work: str, k: int) -> Callable[[int], None]:
  x, direction, key = jnp.asarray(vectors(0)), jnp.asarray(vectors(1)), jax.random.key(0)
  held = [our_state(k)]

  def run(n: int) -> None:
    for _ in range(n):
      if work == "forward":
        out: Any = our_forward(held[0].codes, x)
      else:
        held[0], *out = our_training(held[0], x, direction, key)
      jax.block_until_ready(out)
    jax.block_until_ready(held[0])

  return run


# --- PyTorch ---


class Theirs:
  """vector-quantize-pytorch. It counts vectors of a batch, so that epsilon times the mean count is its eps."""

  def __init__(self, k: int):
    mean = VECTORS / k
    layer = VectorQuantize(CHANNELS, k, decay=DECAY, eps=EPSILON * mean, rotation_trick=False).to(DEVICE)
    book, codes = layer._codebook, torch.tensor(first_codes(k), device=DEVICE)[None]
    book.embed.copy_(codes)
    book.cluster_size.fill_(mean)
    book.embed_avg.copy_(codes * mean)
    self.layer, self.compiled = layer, layer

  @property
  def codes(self) -> torch.Tensor:
    return self.layer._codebook.embed[0]

  def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    self.layer.eval()
    with torch.no_grad():
      quantised, index, _ = self.compiled(x)
    return quantised, index

  def training(self, x: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, ...]:
    self.layer.train()
    x = x.detach().requires_grad_()
    quantised, index, commitment = self.compiled(x)
    loss = commitment.sum() + (direction * quantised).sum()
    (slope,) = torch.autograd.grad(loss, x)
    return loss.detach(), slope, index


class Plain:
  """The same work, written directly."""

  def __init__(self, k: int):
    self.codes = torch.tensor(first_codes(k), device=DEVICE)
    self.counts = torch.full((k,), POSITIONS / k, device=DEVICE)
    self.sums = self.codes * (POSITIONS / k)

  def nearest(self, x: torch.Tensor) -> torch.Tensor:
    squares = (self.codes**2).sum(1)
    flat = x.detach().reshape(VECTORS, CHANNELS)
    return torch.addmm(squares, flat, self.codes.T, alpha=-2).argmin(1).reshape(x.shape[:2])

  def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
      index = self.nearest(x)
      return x + (self.codes[index] - x), index

  def training(self, x: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, ...]:
    x = x.detach().requires_grad_()
    index = self.nearest(x)
    quantised = self.codes[index]
    loss = ((x - quantised) ** 2).mean() + (direction * (x + (quantised - x).detach())).sum()
    (slope,) = torch.autograd.grad(loss, x)
    with torch.no_grad():
      flat, chosen, k = x.reshape(VECTORS, CHANNELS), index.reshape(VECTORS), len(self.codes)
      counts = torch.bincount(chosen, minlength=k) / EXAMPLES
      sums = torch.zeros_like(self.sums).index_add_(0, chosen, flat) / EXAMPLES
      self.counts.lerp_(counts, 1 - DECAY)
      self.sums.lerp_(sums, 1 - DECAY)
      smoothed = (self.counts + EPSILON * self.counts.mean()) / (1 + EPSILON)
      self.codes = self.sums / smoothed[:, None]
    return loss.detach(), slope, index


def pytorch(kind: type, work: str, k: int, threads: int, compiled: bool = False) -> Callable[[int], None]:
  layer = kind(k)
  if compiled:
    layer.compiled = torch.compile(layer.layer)
  x, direction = (torch.tensor(vectors(seed), device=DEVICE) for seed in (0, 1))

  def run(n: int) -> None:
    torch.set_num_threads(threads)
    for _ in range(n):
      layer.forward(x) if work == "forward" else layer.training(x, direction)
    if GPU:
      torch.cuda.synchronize()

  return run


# --- both ---


def agreement(k: int, updates: int = 5) -> dict[str, dict[str, float]]:
  """How far vae_jax is from each PyTorch over a few updates with other vectors each time; an error if too far."""
  result = {}
  for name, kind in {"vector-quantize-pytorch": Theirs, "plain": Plain}.items():
    state, other = our_state(k), kind(k)
    # PyTorch's first products in a process were seen to be off by 2e-2 here, against float64; later ones are not.
    other.forward(torch.tensor(vectors(2), device=DEVICE))
    same, slopes, codes, quantised = [], [], [], []
    for step in range(updates):
      x, direction = vectors(2 + step), vectors(1)
      index = our_forward(state.codes, x)[1]
      x_torch = torch.tensor(x, device=DEVICE)
      theirs = other.forward(x_torch)
      same.append(np.mean(np.asarray(index) == theirs[1].cpu().numpy()))
      quantised.append(np.abs(our_forward(state.codes, x)[0] - theirs[0].cpu().numpy()).max())
      state, _, slope, index = our_training(state, x, direction, jax.random.key(0))
      _, their_slope, their_index = other.training(x_torch, torch.tensor(direction, device=DEVICE))
      same.append(np.mean(np.asarray(index) == their_index.cpu().numpy()))
      slopes.append(np.abs(slope - their_slope.cpu().numpy()).max())
      codes.append(np.abs(state.codes - other.codes.cpu().numpy()).max())
    result[name] = {
      "updates": updates,
      "share_of_vectors_with_the_same_code": float(np.mean(same)),
      "largest_difference_of_quantised_vectors": float(np.max(quantised)),
      "largest_difference_of_gradients": float(np.max(slopes)),
      "largest_difference_of_codes": float(np.max(codes)),
    }
    print(f"{k} codes, {name}: {result[name]}")
    if np.mean(same) < 1 or max(*quantised, *slopes, *codes) > TOLERANCE:
      raise SystemExit(f"{k} codes: vae_jax and {name} disagree")
  return result


def runners(work: str, k: int) -> list[Runner]:
  made = [Runner(f"vae_jax {work}", partial(ours, work, k), VECTORS)]
  for threads in [THREADS] if GPU else sorted({1, THREADS}):
    for name, kind in {"vector-quantize-pytorch": Theirs, "plain": Plain}.items():
      made.append(
        Runner(f"torch {name}, {threads} threads", partial(pytorch, kind, work, k, threads), VECTORS)
      )
  name = f"torch vector-quantize-pytorch compiled, {THREADS} threads"
  return [*made, Runner(name, partial(pytorch, Theirs, work, k, THREADS, True), VECTORS)]


def main() -> None:
  parser = timing.parser(__doc__)
  args = parser.parse_args()
  if GPU and not torch.cuda.is_available():
    parser.error("jax sees a GPU and PyTorch none; install PyTorch with CUDA, or set JAX_PLATFORMS=cpu")
  warnings.filterwarnings("ignore", category=RuntimeWarning, message=".*fork")
  about = timing.about()
  result: dict[str, Any] = {
    "benchmark": "codebook",
    "unit": "vectors",
    "settings": {
      "examples": EXAMPLES,
      "positions": POSITIONS,
      "channels": CHANNELS,
      "decay": DECAY,
      "rounds": args.rounds,
      "quick": args.quick,
    },
    **about,
    "torch": torch.__version__,
    "vector_quantize_pytorch": version("vector-quantize-pytorch"),
    "threads": {"torch": THREADS, "vae_jax": "all"},
    "agreement": {},
    "runners": {},
    "ratios": {},
  }
  print(f"{result['hardware']}, jax {jax.__version__}, torch {torch.__version__}")
  for k in [64] if args.quick else [512, 8192]:
    result["agreement"][str(k)] = agreement(k)
    for work in ("forward", "training"):
      torch.compiler.reset()
      jax.clear_caches()  # the first call compiles, here too
      found = timing.measure(runners(work, k), args.rounds, 0.05 if args.quick else args.seconds)
      for row in found.values():
        if "by_round" in row:
          row["milliseconds"] = timing.rounded(1e3 * VECTORS / row["items_per_second"])
      name = f"{work}, {k} codes"
      result["runners"][name] = found
      result["ratios"][name] = {
        "to vector-quantize-pytorch": timing.ratio(found, f"vae_jax {work}", "torch vector"),
        "to plain PyTorch": timing.ratio(found, f"vae_jax {work}", "torch plain"),
      }
      table(name, found, result["ratios"][name])
  timing.finish(result, args.output)


def table(name: str, found: dict[str, Any], ratios: dict[str, Any]) -> None:
  print(f"\n{name}")
  for runner, row in found.items():
    if "failed" in row:
      print(f"  {runner:52s}  failed: {row['failed'][:60]}")
      continue
    print(f"  {runner:52s}{row['milliseconds']:>10g} ms{row['first_call_seconds']:>10.1f} s at first")
  for other, ratio in ratios.items():
    if ratio:
      print(f"  {ratio['median']} times as fast, {other} ({ratio['of']})")
  sys.stdout.flush()


if __name__ == "__main__":
  main()
