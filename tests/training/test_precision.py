"""bfloat16: a run ends at nearly the score of float32, and keeps parameters, optimiser and likelihoods in float32."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.training.loop import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Bright rectangles on dark ground, 8 x 8."""
  folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
  for split, n in (("train", 256), ("validation", 64)):
    images = np.full((n, 8, 8, 1), 20, np.uint8)
    for image, (y, x, h, w) in zip(images, random.integers(1, 5, size=(n, 4)), strict=True):
      image[y : y + h, x : x + w] = 230
    np.savez(folder / f"{split}.npz", image=images)
  return folder


@pytest.mark.parametrize(
  ("family", "steps"), [("mlp_vae", 200), pytest.param("conv_vae", 60, marks=pytest.mark.slow)]
)
def test_bfloat16_ends_at_the_score_of_float32(data, tmp_path, family, steps):
  scores = {}
  sizes = "model.hidden=32" if family == "mlp_vae" else "model.channels=8 model.dense=32"
  for dtype in ("float32", "bfloat16"):
    words = (
      f"data.name=npz data.dir={data} model.name={family} {sizes} model.latent_dim=4 "
      f"model.likelihood=laplace training.steps={steps} training.batch_size=32 "
      f"training.learning_rate=3e-3 training.log_every={steps} training.eval_every={steps} "
      f"training.checkpoint_every={steps} evaluation.batch_size=64 evaluation.pictures=2 training.dtype={dtype}"
    )
    state = train(apply_overrides(base_config(), words.split()), tmp_path / dtype)
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {np.dtype(np.float32)}
    rows = [json.loads(line) for line in (tmp_path / dtype / "metrics.jsonl").read_text().splitlines()]
    scores[dtype] = {row["split"]: row for row in rows}
  full, half = (scores[dtype]["validation"] for dtype in ("float32", "bfloat16"))
  begin = 64 * (np.log(2) + 0.5)  # what a Laplace density of scale 1 would give for errors of a half
  assert full["neg_elbo"] < begin - 40 and full["neg_elbo"] != half["neg_elbo"]
  assert abs(half["neg_elbo"] - full["neg_elbo"]) < 0.02 * (begin - full["neg_elbo"])
  assert abs(half["psnr"] - full["psnr"]) < 0.3
