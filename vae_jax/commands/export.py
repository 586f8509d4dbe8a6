"""Writes a run as one small folder."""

from __future__ import annotations

from typing import Any

HELP = "write the run as one small folder, which --workdir and vae_jax.load take"
EXAMPLE = "--workdir runs/mnist_vae --output mnist_vae/"
FLAGS = ("output", "bits")
NEEDS = None
OUTPUT = ()


def run(model: Any, args: Any) -> None:
  """Writes the weights and their description."""
  from vae_jax import inference

  output = args.output or args.folder / "export"
  inference.export(model, output, bits=args.bits)
  print(f"wrote {output}: load it with vae_jax.load({str(output)!r})")
