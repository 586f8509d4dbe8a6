"""Densities over latent vectors, fitted after training to the latents of images (Ghosh et al. 2020, arXiv:1903.12436,
section 4): `sample` draws from one in place of the prior that the model was trained with.

    found = fit("mixture", z, components=10)      # z: float [n, d], such as draws of q(z | x)
    found.prior.log_prob(z)                       # nats, [n]
    noise = jax.vmap(found.prior.noise)(keys)     # a key for each example
    found.prior.transform(noise, temperature=0.8) # latents, [n, d]

Light at import: `fit` imports the file of the kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from vae_jax.priors.base import Fit, Prior

__all__ = ["KINDS", "MOST_COMPONENTS", "fit", "from_arrays", "to_arrays"]

KINDS = ("gaussian", "mixture", "flow")
MOST_COMPONENTS = 1000
MOST_NUMBERS = 2**28  # of all covariances: 2 GiB in float64


def fit(
  kind: str,
  z: Any,
  *,
  components: int = 10,
  seed: int = 0,
  progress: Callable[[int, int], object] | None = None,
) -> Fit:
  """Fits a density to latents, in float64 where that matters; the result computes in float32.

  Args:
    kind: "gaussian", of full covariance; "mixture", of such Gaussians, by EM; "flow", RealNVP.
    z: latents, float [n, d].
    components: of the mixture.
    seed: of the start of EM; of the flow's first weights, its batches and what it holds out.
    progress: is told (done, total) now and then.

  Returns:
    Fit: `prior`, `facts` about the fit as JSON data, `remarks` that a person should read.

  Raises:
    UserError: another kind, latents that are not finite, too few, too long or all alike, more components than latents.
  """
  from vae_jax.errors import UserError, nearest
  from vae_jax.priors.base import checked

  if kind not in KINDS:
    raise UserError(f"prior {str(kind)[:80]!r} is unknown{nearest(str(kind)[:80], KINDS, what='priors')}")
  tell = progress or (lambda done, total: None)
  latents = checked(z)
  of = components if kind == "mixture" and isinstance(components, int) else 1
  if of * latents.shape[1] ** 2 > MOST_NUMBERS:
    raise UserError(
      f"{of} covariance{'s' * (of > 1)} of {latents.shape[1]} latents: more than the {MOST_NUMBERS:,} numbers that a "
      "prior may have; give fewer components, or train a model with fewer latents"
    )
  if kind == "gaussian":
    from vae_jax.priors.gaussian import fit_gaussian

    return fit_gaussian(latents)
  if kind == "mixture":
    from vae_jax.priors.mixture import fit_mixture

    return fit_mixture(latents, components, seed, tell)
  from vae_jax.priors.flow import fit_flow

  return fit_flow(latents, seed, tell)


def to_arrays(prior: Prior) -> dict[str, Any]:
  """The numbers of a prior by name, float32 on the host; `from_arrays` makes the prior of them."""
  from vae_jax.priors import arrays

  return arrays.to_arrays(prior)


def from_arrays(kind: str, given: dict[str, Any], units: int) -> Prior:
  """The prior of such numbers. Raises ValueError where they are none of this kind over `units` latents."""
  from vae_jax.priors import arrays

  return arrays.from_arrays(kind, given, units)
