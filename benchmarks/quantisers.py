"""Measures the speed of quantisers in training beside vector-quantize-pytorch, in one run on one machine.

    pip install -e . torch "vector-quantize-pytorch==1.32.*"
    python benchmarks/quantisers.py [--output benchmarks/results/quantisers.json]

8,192 vectors (16 examples of 16 x 32 positions), float32, forward and backward:

codebook  64 channels, 512 or 8,192 codes: the nearest codes, the commitment term, gradients of the vectors, the moving
          average of the codes
fsq       4 channels of 8, 5, 5 and 5 levels: rounding, codes, gradients
lfq       9 channels, 512 codes: signs, codes, the commitment and entropy terms, gradients

vae_jax is jitted: the module's own call, `absorb` and one jax.grad. Its codebook also chooses where unused codes would
restart. vector-quantize-pytorch runs eagerly and by torch.compile, with 1 and with all threads, with the
straight-through gradient and without its rotation trick. First, both quantise the same vectors: a codebook must choose
the same codes; FSQ differs in the bound, so 99 % of the codes must agree; LFQ must have the same signs. Runners take
turns. A ratio is the median over rounds, against the best of the others in the round.
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
from vector_quantize_pytorch import FSQ, LFQ, VectorQuantize

from vae_jax.models.contract import Mode
from vae_jax.models.fixed_codes import Finite, LookupFree
from vae_jax.models.learned_codes import Codebook

EXAMPLES, POSITIONS, CHANNELS = 16, 512, 64
VECTORS = EXAMPLES * POSITIONS
LEVELS, BITS = (8, 5, 5, 5), 9
THREADS = torch.get_num_threads()
KINDS = {"codebook, 512 codes": 512, "codebook, 8192 codes": 8192, "fsq": 0, "lfq": 0}


def vectors(kind: str, seed: int) -> np.ndarray:
  """[examples, positions, channels]."""
  channels = {"fsq": len(LEVELS), "lfq": BITS}.get(kind, CHANNELS)
  return np.random.default_rng(seed).standard_normal((EXAMPLES, POSITIONS, channels), np.float32)


def first_codes(k: int) -> np.ndarray:
  return np.random.default_rng(100).standard_normal((k, CHANNELS), np.float32)


# --- vae_jax ---


def our_module(kind: str) -> Any:
  if kind == "fsq":
    return Finite(LEVELS)
  return (
    LookupFree(BITS) if kind == "lfq" else Codebook(KINDS[kind], CHANNELS, kmeans_steps=0, revive_below=0.0)
  )


def our_variables(kind: str) -> dict[str, Any]:
  """As vector-quantize-pytorch begins: codes with the mean count, and no start by k-means."""
  if kind == "fsq":
    return {"params": {}}
  if kind == "lfq":
    kept = {"shares": jnp.full(2**BITS, 2.0**-BITS), "updates": jnp.int32(1)}
    return {"params": {}, "codebook": kept}
  k = KINDS[kind]
  codes, mean = jnp.asarray(first_codes(k)), POSITIONS / k
  kept = {"codes": codes, "counts": jnp.full(k, mean), "sums": codes * mean, "updates": jnp.int32(1)}
  return {"params": {}, "codebook": kept}


def our_training(kind: str) -> Callable[..., tuple[Any, ...]]:
  """(variables, x, direction, key) -> the next variables, the loss, its gradient to x, codes."""
  module = our_module(kind)

  def training(variables: Any, x: jax.Array, direction: jax.Array, key: jax.Array) -> tuple[Any, ...]:
    mode = Mode(jnp.zeros((), jnp.int32), key, training=True, batch_size=EXAMPLES)

    def loss(x: jax.Array) -> tuple[jax.Array, Any]:
      out = module.apply(variables, x, {"place": jnp.arange(EXAMPLES)}, None, mode)
      terms = sum((term.mean() for term in out.terms.values()), start=jnp.zeros(()))
      return terms / POSITIONS + jnp.sum(direction * out.vectors), (out.codes, out.statistics)

    (value, (codes, statistics)), slope = jax.value_and_grad(loss, has_aux=True)(x)
    variables = module.absorb(variables, statistics) if jax.tree.leaves(statistics) else variables
    return variables, value, slope, codes

  return jax.jit(training, donate_argnums=0)


def ours(kind: str) -> Callable[[int], None]:
  x, direction, key = jnp.asarray(vectors(kind, 0)), jnp.asarray(vectors(kind, 1)), jax.random.key(0)
  held, step = [our_variables(kind)], our_training(kind)

  def run(n: int) -> None:
    for _ in range(n):
      held[0], *out = step(held[0], x, direction, key)
      jax.block_until_ready(out)
    jax.block_until_ready(held[0])

  return run


# --- PyTorch ---


def their_layer(kind: str) -> Any:
  if kind == "fsq":
    return FSQ(list(LEVELS)).train()
  if kind == "lfq":
    return LFQ(dim=BITS, codebook_size=2**BITS, entropy_loss_weight=1.0, commitment_loss_weight=1.0).train()
  k, mean = KINDS[kind], VECTORS / KINDS[kind]
  layer = VectorQuantize(
    CHANNELS, k, decay=0.99, eps=1e-5 * mean, ema_update=True, use_cosine_sim=False, rotation_trick=False
  ).train()
  codes = torch.tensor(first_codes(k))[None]
  layer._codebook.embed.copy_(codes)
  layer._codebook.cluster_size.fill_(mean)
  layer._codebook.embed_avg.copy_(codes * mean)
  return layer


def their_training(layer: Any, x: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, ...]:
  x = x.detach().requires_grad_()
  found, index, *losses = layer(x)
  loss = sum((term.sum() for term in losses), start=(direction * found).sum())
  (slope,) = torch.autograd.grad(loss, x)
  return slope, index


def pytorch(kind: str, threads: int, compiled: bool = False) -> Callable[[int], None]:
  layer: Any = their_layer(kind)
  layer = torch.compile(layer) if compiled else layer
  x, direction = (torch.tensor(vectors(kind, seed)) for seed in (0, 1))

  def run(n: int) -> None:
    torch.set_num_threads(threads)
    for _ in range(n):
      their_training(layer, x, direction)

  return run


# --- both ---


def agreement(kind: str) -> float:
  """The share of vectors with the same code in both; an error if too small."""
  x, direction = vectors(kind, 2), vectors(kind, 1)
  codes = np.asarray(our_training(kind)(our_variables(kind), x, direction, jax.random.key(0))[3])
  _, theirs = their_training(their_layer(kind), torch.tensor(x), torch.tensor(direction))
  index = theirs.numpy().reshape(codes.shape)
  if kind == "lfq":  # their first channel is the highest bit
    index = sum(((index >> bit) & 1) << (BITS - 1 - bit) for bit in range(BITS))
  share = float(np.mean(codes == index))
  print(f"{kind}: {share:.2%} of the vectors have the same code")
  if share < (0.99 if kind == "fsq" else 0.9999):
    raise SystemExit(f"{kind}: vae_jax and vector-quantize-pytorch disagree")
  return share


def runners(kind: str) -> list[Runner]:
  name = "torch vector-quantize-pytorch"
  made = [Runner(f"vae_jax {kind}", partial(ours, kind), VECTORS)]
  for threads in sorted({1, THREADS}):
    made.append(Runner(f"{name}, {threads} threads", partial(pytorch, kind, threads), VECTORS))
  compiled = partial(pytorch, kind, THREADS, True)
  return [*made, Runner(f"{name} compiled, {THREADS} threads", compiled, VECTORS)]


def main() -> None:
  args = timing.parser(__doc__).parse_args()
  warnings.filterwarnings("ignore", category=RuntimeWarning, message=".*fork")
  result: dict[str, Any] = {
    "benchmark": "quantisers",
    "unit": "vectors",
    "settings": {
      "examples": EXAMPLES,
      "positions": POSITIONS,
      "channels": CHANNELS,
      "rounds": args.rounds,
      "quick": args.quick,
    },
    **timing.about(),
    "torch": torch.__version__,
    "vector_quantize_pytorch": version("vector-quantize-pytorch"),
    "threads": {"torch": THREADS, "vae_jax": "all"},
    "agreement": {},
    "runners": {},
    "ratios": {},
  }
  print(f"{result['hardware']}, jax {jax.__version__}, torch {torch.__version__}")
  for kind in KINDS:
    result["agreement"][kind] = agreement(kind)
    torch.compiler.reset()
    jax.clear_caches()  # the first call compiles, here too
    found = timing.measure(runners(kind), args.rounds, 0.05 if args.quick else args.seconds)
    for row in found.values():
      if "by_round" in row:
        row["milliseconds"] = timing.rounded(1e3 * VECTORS / row["items_per_second"])
    ratio = timing.ratio(found, f"vae_jax {kind}", "torch")
    result["runners"][kind], result["ratios"][kind] = found, ratio
    for name, row in found.items():
      print(f"  {name:52s}" + (f"{row['milliseconds']:>10g} ms" if "by_round" in row else "    failed"))
    if ratio:
      print(f"  {ratio['median']} times as fast ({ratio['of']})")
    sys.stdout.flush()
  timing.finish(result, args.output)


if __name__ == "__main__":
  main()
