"""Whether single latents stand for single factors that images were made from: scores of a split with `factors`."""

from __future__ import annotations

from typing import Any

import numpy as np

from vae_jax import metrics
from vae_jax.data import pipeline
from vae_jax.errors import UserError
from vae_jax.evaluation.latents import encoded_images
from vae_jax.evaluation.records import describe, open_split
from vae_jax.generator import standard
from vae_jax.inference import TrainedVAE
from vae_jax.metrics import disentanglement as protocol

MOST = 10_000  # images, as in Locatello et al. 2019


@standard()
def factor_scores(
  model: TrainedVAE, split: str, *, num: int = MOST, batch_size: int = 64, seed: int = 0
) -> dict[str, Any]:
  """Scores the latents of at most `num` images from all over a split by the factors that its records have.

  Args:
    split: as in `config.data.test`.
    batch_size: images encoded at a time; does not change the scores beyond rounding.
    seed: of the draws from posteriors, and of the votes.

  Returns:
    As JSON data. `mig` of a draw from each posterior, `mig_means` of posterior means; `sap`, `disentanglement`,
    `completeness`, `informativeness` and `factor_vae_score` of means: see `vae_jax.metrics`. For each factor: its
    name, `factors`; how many `values` it has; `factor_entropies` in nats; and by unit `mutual_information` of draws,
    as a share of the entropy, [d][f]. `protocol` in numbers, what was scored, and `absent`: the scores that there are
    none of, with the reason.

  Raises:
    UserError: the model has no latents; the records have no factors, or one that is constant; latents that are not
    finite.
  """
  model.require("encode")
  source = open_split(model, split)
  chosen = pipeline.Chosen(source, _places(len(source), num))
  if "factors" not in source[0]:
    raise UserError(
      f"the images of data.name={source.name} have no factors; use data.name=sprites or dsprites, or an array "
      "'factors' in .npz files"
    )
  found = encoded_images(model, chosen, split, batch_size, seed, ["means", "draws", "factors"])
  means, draws, factors = (found.rows[name] for name in ("means", "draws", "factors"))
  count = factors.shape[1]
  names = source.full.factors or tuple(str(j) for j in range(count))
  unordered = [j for j, name in enumerate(names) if name in source.full.unordered]
  entropies = metrics.factor_entropies(factors)
  shares = metrics.mutual_information(draws, factors) / entropies
  found_scores, absent = _of_means(means, factors, unordered, seed)
  return {
    "mig": metrics.mig(draws, factors),
    "mig_means": metrics.mig(means, factors),
    **found_scores,
    **({"absent": absent} if absent else {}),
    "factors": list(names),
    "unordered": [names[j] for j in unordered],
    "values": [len(np.unique(column)) for column in factors.T],
    "factor_entropies": entropies.tolist(),
    "mutual_information": shares.tolist(),
    "protocol": {
      "bins": protocol.BINS,
      "lasso_alpha": protocol.ALPHA,
      "votes": list(protocol.VOTES),
      "examples_of_a_vote": protocol.EQUAL,
      "least_deviation": protocol.LEAST_DEVIATION,
    },
    "latent_units": model.module.units,
    **describe(model, split),
    "examples": len(chosen),
    "digest": found.digest,
    "step": model.step,
    "seed": seed,
  }


def _places(n: int, num: int) -> list[int]:
  """The places of at most `num` of n records, by chance, in their order: equal distances would meet the same values of
  factors again and again where records are all combinations in turn."""
  return sorted(pipeline.order(0, n, np.arange(min(num, n))).tolist())


def _of_means(
  means: np.ndarray, factors: np.ndarray, unordered: list[int], seed: int
) -> tuple[dict[str, float], dict[str, str]]:
  """The scores of posterior means, and those that cannot be had, each with the reason."""
  scores, absent = {"sap": metrics.sap(means, factors, unordered)}, {}
  if min(means.shape[1], factors.shape[1]) > 1:
    by_lasso = metrics.dci(means, factors, unordered)
    scores |= {
      name: getattr(by_lasso, name) for name in ("disentanglement", "completeness", "informativeness")
    }
  else:
    absent["disentanglement"] = f"{means.shape[1]} latents and {factors.shape[1]} factors; it needs 2 of each"
  try:
    scores["factor_vae_score"] = metrics.factor_vae_score(means, factors, seed=seed)
  except UserError as error:  # too few images
    absent["factor_vae_score"] = str(error)
  return scores, absent


def factor_lines(scores: dict[str, Any]) -> str:
  """The scores as lines for a person, and the two units that tell most of each factor."""
  s, shares = scores, np.array(scores["mutual_information"])
  lines = [
    f"{s['split']} of {s['data']}: {s['examples']} images, {s['latent_units']} latents, checkpoint of step {s['step']}",
    f"  MIG            {s['mig']:10.4f} of draws from posteriors, {s['mig_means']:.4f} of their means",
    f"  SAP            {s['sap']:10.4f}",
  ]
  if "disentanglement" in s:
    lines.append(
      f"  DCI            {s['disentanglement']:10.4f} disentanglement, {s['completeness']:.4f} completeness, "
      f"{s['informativeness']:.4f} informativeness, by a lasso"
    )
  if "factor_vae_score" in s:
    lines.append(f"  FactorVAE      {s['factor_vae_score']:10.4f} (by chance {1 / len(s['factors']):.2f})")
  lines += [f"  no {name}: {reason}" for name, reason in s.get("absent", {}).items()]
  lines.append(f"  {'factor':14}{'values':>7}   units that tell most of it, and the share of its entropy")
  for j, (name, values) in enumerate(zip(s["factors"], s["values"], strict=True)):
    best = np.argsort(-shares[:, j], kind="stable")[:3]
    told = ", ".join(f"z{unit} {shares[unit, j]:.2f}" for unit in best)
    lines.append(f"  {name:14}{values:7d}   {told}")
  return "\n".join(lines)
