"""Images whose pixels are partly hidden, completed by draws of p(z | observed pixels), of any model with latents."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from vae_jax.checks import extent
from vae_jax.compiling import jit
from vae_jax.errors import UserError
from vae_jax.generator import standard
from vae_jax.inference.base import as_key
from vae_jax.inference.complete import HIDDEN, Completes
from vae_jax.inference.hamiltonian import potential_scale, run_chains
from vae_jax.priors.base import Prior
from vae_jax.runs import Run
from vae_jax.training.steps import example_keys
from vae_jax.types import Array, ArrayLike, Batch, Key, Variables

INPAINT_STREAM = 2
STEPS, LEAST_STEPS, MOST_STEPS = 300, 20, 10**6
POOL = 64  # draws of p(z) by which its deviations are known


class Inpainted(NamedTuple):
  """Completions of n images by `s` chains each.

  images: float32 in [0, 1]: the observed pixels as they were given, in the hidden ones the mean of p(x | z).
  z: the latents, one draw of p(z | observed pixels) from each chain; `decode` takes them.
  acceptance: mean probability with which the kept moves of a chain were accepted; about 0.8. Near 0 the chain stood
    still, and its z is no such draw.
  log_likelihood: log p(observed pixels | z) in nats, summed over them.
  rhat: split R-hat of the chains of an image, the largest of its latents. 1 where they agree; far above it they are in
    different parts of the density, whose shares of it are not known.
  """

  images: Float[Array, "s n h w c"]
  z: Float[Array, "s n d"]
  acceptance: Float[Array, "s n"]
  log_likelihood: Float[Array, "s n"]
  rhat: Float[Array, " n"]


class Inpaints(Completes):
  """inpaint, hidden."""

  def __init__(self, run: Run):
    super().__init__(run)
    self._inpaint = standard()(jit(self._by_chains, static_argnums=(6, 7)))

  def inpaint(
    self,
    images: ArrayLike,
    mask: ArrayLike,
    key: Key | int,
    samples: int = 4,
    steps: int = STEPS,
    prior: str | Prior | None = None,
    start: int = 0,
    **condition: Any,
  ) -> Inpainted:
    """Draws completions of images whose pixels are partly hidden.

    Each is decoded from a draw of p(z | observed pixels) ~ p(z) p(observed pixels | z), by a Markov chain of its own:
    Hamiltonian Monte Carlo from an annealed start (`inference.hamiltonian`).

    Args:
      images: [n, h, w, c], uint8 or float in [0, 1]. Hidden pixels have no effect, but must be finite as well.
      mask: bool, or 0 and 1: True where a pixel is hidden, with all its channels. [h, w], or [n, h, w].
      key: a key, or a seed. What is drawn for an image does not depend on the others.
      samples: chains of each image, and so completions; at least 1.
      steps: moves of each chain, from 20 to 1,000,000. `acceptance` and `rhat` are of the last two fifths.
      prior: as in `sample`: None for the model's own, or a fitted one.
      start: where the images begin in a longer sequence of them, so that many are completed in parts.
      condition: the fields that the family needs, such as label=7 or label=[n labels].

    Raises UserError: the model cannot; an image has no hidden pixels; shapes or values that do not fit; a likelihood
    that is not finite.
    """
    self._check_inpaints(prior)
    images, key = self._images(images), as_key(key)
    hidden = self.hidden(mask, len(images))
    if samples < 1 or not LEAST_STEPS <= steps <= MOST_STEPS:
      raise UserError(
        f"samples = {samples}, steps = {steps}: samples must be at least 1, steps from {LEAST_STEPS} to {MOST_STEPS}"
      )
    fitted = self.fitted_prior(prior) if isinstance(prior, str) else prior
    fields = self._condition(len(images), condition)
    keys = example_keys(key, INPAINT_STREAM, start + jnp.arange(len(images)))
    found = self._inpaint(self.variables, fitted, keys, images, hidden, fields, samples, steps)
    seen = extent(found.log_likelihood)
    if seen is not None and np.isnan(seen.mean):
      raise UserError(
        "log p(observed pixels | z) is not finite (nan or inf): the model's weights are damaged, or give the pixels no "
        "density; use another --checkpoint"
      )
    return found

  def hidden(self, mask: ArrayLike, num: int = 1) -> Bool[np.ndarray, "n h w"]:
    """A mask, as `inpaint` takes it, for each of `num` images. Raises UserError."""
    mask, shape = np.asarray(mask), self.image_shape[:2]
    if mask.shape not in (shape, (num, *shape)):
      raise UserError(
        f"a mask of shape {list(mask.shape)}: this model takes {list(shape)}, or {[num, *shape]} for {num} images"
      )
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
      raise UserError(
        f"a mask of {mask.dtype} with values other than 0 and 1; give bool, such as mask > 127: True is hidden"
      )
    each = np.broadcast_to(mask.astype(bool), (num, *shape))
    if not each.any(axis=(1, 2)).all():
      raise UserError(
        "a mask that hides no pixel leaves nothing to fill in; it is True where pixels are hidden"
      )
    return each

  def _check_inpaints(self, prior: str | Prior | None) -> None:
    """Raises UserError where the model cannot fill in pixels, with this prior or its own."""
    name = self.config.model.name
    self.require("inpaint")
    if prior is None:
      self.require("sample")
    else:
      self.check_prior()
    if self.config.data.degrade.name != "identity":
      raise UserError(
        f"this run ({name}) was trained with data.degrade.name={self.config.data.degrade.name}: its encoder sees "
        "degraded images; inpaint needs one of clean images"
      )

  def _by_chains(
    self,
    variables: Variables,
    prior: Prior | None,
    keys: Key,
    images: Float[Array, "n h w c"],
    hidden: Bool[Array, "n h w"],
    fields: Batch,
    samples: int,
    steps: int,
  ) -> Inpainted:
    """The compiled part of `inpaint`: rows are the chains of all images, the first of each image before the second."""
    n = len(images)

    def each(x: Array, times: int = samples) -> Array:
      return jnp.tile(x, (times, *(1,) * (x.ndim - 1)))

    def call(method: str, *args: Any) -> Any:
      return self.module.apply(variables, *args, method=method)

    def from_prior(keys: Key, condition: Batch) -> Float[Array, "m d"]:
      if prior is not None:
        return prior.transform(jax.vmap(prior.noise)(keys))
      return call("latents", jax.vmap(lambda key: self.module.noise(key, self.spec))(keys), condition)

    def log_density(z: Array) -> tuple[Array, Array]:
      of_z = call("log_prior", z[None], batch)[0] if prior is None else prior.log_prob(z)
      return of_z, call("log_observed", z, batch, observed)

    shown = jnp.where(hidden[..., None], HIDDEN, images)
    batch: Any = jax.tree.map(each, {**fields, "image": shown})
    observed = each(~hidden)
    first, second = (_folded(keys, part) for part in (0, 1))
    pool = from_prior(_several(first, POOL), jax.tree.map(lambda x: each(x, POOL), fields))
    scale = each(pool.reshape(POOL, n, -1).std(axis=0))
    begin = from_prior(_several(second, samples), jax.tree.map(each, fields))
    chains = run_chains(log_density, begin, scale, _several(_folded(keys, 2), samples), steps)
    filled = jnp.where(observed[..., None], batch["image"], call("decode", chains.z, batch))
    means, variances = (x.reshape(2, samples, n, -1) for x in (chains.means, chains.variances))
    return Inpainted(
      filled.reshape(samples, n, *filled.shape[1:]),
      chains.z.reshape(samples, n, -1),
      chains.acceptance.reshape(samples, n),
      chains.log_likelihood.reshape(samples, n),
      potential_scale(means, variances, steps),
    )


def _folded(keys: Key, part: int) -> Key:
  return jax.vmap(lambda key: jax.random.fold_in(key, part))(keys)


def _several(keys: Key, num: int) -> Key:
  """Keys [num * n]: the first of each image before the second."""
  return jax.vmap(lambda i: jax.vmap(lambda key: jax.random.fold_in(key, i))(keys))(jnp.arange(num)).ravel()
