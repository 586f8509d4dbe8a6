"""model.remat: the same parameters and gradients, fewer values kept for the backward pass (Chen et al. 2016)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import score, shapes

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.models import build
from vae_jax.types import image_spec

SHAPE = (16, 16, 1)
FAMILIES = {
  "conv_vae": "model.likelihood=gaussian model.latent_dim=2 model.dense=8",
  "restoration_vae": "model.likelihood=laplace model.sigma=0.3 model.latent_dim=2",
  "transformation_net": "model.likelihood=laplace",
}


@pytest.mark.parametrize(
  "family", [pytest.param(f, marks=() if f == "transformation_net" else pytest.mark.slow) for f in FAMILIES]
)
def test_less_is_kept_and_the_gradients_are_the_same(family):
  found = []
  for remat in ("false", "true"):
    words = f"model.name={family} model.channels=8 model.blocks=3 model.remat={remat} {FAMILIES[family]}"
    spec = image_spec(SHAPE, SHAPE)
    model = build(apply_overrides(base_config(), words.split()).model, spec)
    image, keys = (
      jnp.asarray(np.random.default_rng(0).uniform(size=(2, *SHAPE)), jnp.float32),
      jax.random.split(jax.random.key(0), 2),
    )
    random = np.random.default_rng(1)
    params = jax.tree.map(
      lambda x: jnp.asarray(0.1 * random.normal(size=x.shape), jnp.float32),  # noqa: B023
      shapes(model, spec),
    )

    def loss(params, model=model, image=image, keys=keys):
      terms = score(model, params, image, keys, image).terms
      return sum(term.mean() for term in terms.values())

    _, pull = jax.vjp(loss, params)
    kept = sum(x.size for x in jax.tree.leaves(pull) if hasattr(x, "size"))
    found.append((jax.tree.structure(params), kept, jax.jit(jax.grad(loss))(params)))
  (structure, kept, gradients), (same, fewer, others) = found
  assert structure == same and fewer < 0.9 * kept
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * np.abs(a).max()), gradients, others
  )
