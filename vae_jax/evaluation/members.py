"""Scores of several runs that were trained together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vae_jax.training.member import mean_and_deviation

# Columns of a table, where a model has them: nats per image, bits per dimension, dB.
SHOWN = ("neg_elbo", "neg_elbo_latents", "rate", "distortion", "iwae_nll", "bits_per_dim", "psnr")


def scores_of_members(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """What runs have in common, by name: NAME and NAME_std, the mean and sample deviation (of n - 1) of a score that is
  no whole number; what all have alike; a list of other values. `members`: how many runs."""
  common = [name for name in scores[0] if all(name in one for one in scores)]
  floats = [name for name in common if all(isinstance(one[name], float) for one in scores)]
  found: dict[str, Any] = {"members": len(scores)}
  for name in common:
    values = [one[name] for one in scores]
    if name in floats:
      found |= mean_and_deviation([{name: value} for value in values])
    else:
      found[name] = values[0] if all(value == values[0] for value in values) else values
  return found


def member_table(varied: str, scores: Sequence[tuple[Any, dict[str, Any]]]) -> str:
  """A table of runs with the value of `varied`, the config key in which they differ; then mean and sample
  deviation."""
  found = scores_of_members([one for _, one in scores])
  names = [name for name in SHOWN if f"{name}_std" in found]
  lines = [[varied, *names]]
  lines += [[str(value), *(f"{one[name]:.4f}" for name in names)] for value, one in scores]
  lines += [["mean", *(f"{found[name]:.4f}" for name in names)]]
  lines += [["deviation", *(f"{found[f'{name}_std']:.4f}" for name in names)]]
  widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
  return "\n".join(
    "  ".join([line[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(line[1:], widths[1:], strict=True))])
    for line in lines
  )
