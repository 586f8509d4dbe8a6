"""Quantisers of codes: against closed forms, float64 and recorded values."""

import jax
import pytest

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.models import build
from vae_jax.models.contract import init_variables
from vae_jax.types import image_spec

SPEC = image_spec((8, 8, 1))
SMALL = "model.channels=4,6 model.blocks=0 model.codes=12 model.code_dim=3 model.sigma=0.1"


def made(*words):
  return build(apply_overrides(base_config("vq_vae"), [*SMALL.split(), *words]).model, SPEC)


@pytest.mark.parametrize(
  ("codebook", "kept"),
  [("ema", {"codes": (12, 3), "counts": (12,), "sums": (12, 3)}), ("gradient", {"counts": (12,)})],
)
def test_variables_have_the_names_of_runs_before_quantisers(codebook, kept):
  model = made(f"model.codebook={codebook}")
  found = jax.eval_shape(lambda: init_variables(model, SPEC, jax.random.key(0)))
  assert {name: x.shape for name, x in found["codebook"].items()} == {**kept, "updates": ()}
  own = {"codes"} if codebook == "gradient" else set()
  assert found.keys() == {"params", "codebook"} and found["params"].keys() == {"encoder", "decoder", *own}
  assert model.layout == ((2, 2, 1),) and model.codes == 12 and model.positions == 4
