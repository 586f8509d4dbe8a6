"""Runs, trained models and stored files give what they gave when the values of tests/golden were recorded.

All of it is seen from outside: `train` and its metrics.jsonl, `vae_jax.load`, evaluate.py. So these tests hold for any
internals. `python tests/test_behaviour.py` records tests/golden/behaviour.json anew, which is right only where what a
run computes is meant to change. tests/golden/pin.py compares two versions on one machine, bit for bit.
"""

import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

import vae_jax
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.storage import exported
from vae_jax.training.loop import train

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "golden"
GOLDEN = FOLDER / "behaviour.json"
SHAPE, STEPS = (8, 8, 1), 3
SPLITS = {"train": 40, "validation": 10, "test": 6}

CONV = "model.latent_dim=2 model.channels=4 model.blocks=1 model.dense=8 model.likelihood=gaussian"
RESTORING = (
  "data.degrade.name=gaussian_noise model.channels=4 model.blocks=1 model.likelihood=laplace model.sigma=0.3"
)
CASES = {
  "mlp_vae": "model.name=mlp_vae model.latent_dim=2 model.hidden=16 data.binarize=dynamic objective.free_bits=0.1",
  "conv_vae": f"model.name=conv_vae {CONV} objective.beta_schedule=linear objective.beta_steps=2",
  "conv_vae, adversarial": f"model.name=conv_vae {CONV} objective.adversarial.weight=0.5 "
  "objective.adversarial.start=1 objective.adversarial.channels=4,8",
  "conv_vae, terms": f"model.name=conv_vae {CONV} model.sigma=optimal objective.alpha=0.5 objective.beta=2 "
  "objective.vae_weight=0.7 objective.total_variation=0.1 objective.perceptual.weight=3 "
  "objective.perceptual.network=squeezenet objective.perceptual.weights=random objective.perceptual.layers=relu1",
  "iwae": "model.name=mlp_vae model.latent_dim=2 model.hidden=16 objective.name=iwae objective.samples=3",
  "restoration_vae": f"model.name=restoration_vae model.latent_dim=2 {RESTORING} objective.restoration=0.5",
  "transformation_net": f"model.name=transformation_net {RESTORING}",
}
RUN = (
  f"data.name=npz data.flip=true training.steps={STEPS} training.batch_size=16 training.learning_rate=1e-3 "
  "training.warmup_steps=2 training.ema_decay=0.9 training.log_every=1 training.eval_every=100 "
  "training.checkpoint_every=100 evaluation.batch_size=8 evaluation.samples=3 evaluation.pictures=4"
)
RESTORERS = ("restoration_vae", "transformation_net")
PRETRAINED = exported.names()


def make_config(case, data, *overrides):
  """The config of a case, or of one that is given in words. All configs here are made by it, the family first."""
  words = [*CASES.get(case, case).split(), *RUN.split(), f"data.dir={data}", *overrides]
  return apply_overrides(base_config(), words)


def write_data(folder, shape=SHAPE):
  """Random images as train.npz, validation.npz, test.npz."""
  random = np.random.default_rng(0)
  for split, count in SPLITS.items():
    images = random.integers(0, 256, size=(count, *shape), dtype=np.uint8)
    np.savez(Path(folder) / f"{split}.npz", image=images)
  return folder


def read_rows(workdir):
  """The rows of metrics.jsonl without times."""
  found = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
  return [
    {k: v for k, v in row.items() if k not in ("waiting", "images_per_second", "seconds")} for row in found
  ]


def see_run(folder, case):
  """Arrays that the trained model of a case gives for fixed images, latents and keys."""
  model, images = vae_jax.load(folder), np.random.default_rng(1).uniform(size=(2, *SHAPE)).astype(np.float32)
  if case in RESTORERS:
    found = {"restore": model.restore(images), "reconstruct": model.reconstruct(images)}
    if case != "transformation_net":  # which has nothing to draw
      found["draws"] = model.restore(images, jax.random.key(3), samples=2, temperature=1.0)
  else:
    found = {
      "sample": model.sample(jax.random.key(2), 3),
      "encode": model.encode(images).mean,
      "decode": model.decode(np.array([[0.5, -1.0], [2.0, 0.0]], np.float32)),
      "reconstruct": model.reconstruct(images),
    }
  return {name: np.asarray(x) for name, x in found.items()}


def see_pretrained(name):
  """An estimate and a draw, by a model that comes with the project, for one image of 24 x 20; or samples."""
  model = vae_jax.load(name)
  if not model.can("restore"):
    latents = np.linspace(-2, 2, model.module.units, dtype=np.float32)[None]
    drawn = model.sample(jax.random.key(0), 2, prior="mixture")
    return {"sample": np.asarray(drawn), "decode": np.asarray(model.decode(latents))}
  image = np.random.default_rng(0).uniform(size=(1, 24, 20, 3)).astype(np.float32)
  image = image[..., :1] if name == "denoise_grey" else image
  draw = model.restore(image, jax.random.key(0), samples=1, temperature=1.0)
  return {"estimate": np.asarray(model.restore(image)), "draw": np.asarray(draw)}


def score(workdir):
  """What `python evaluate.py --workdir` leaves in evaluation/metrics.json, without times."""
  run_evaluate("--workdir", str(workdir), "--samples", "3", "--batch_size", "4")
  found = json.loads((Path(workdir) / "evaluation" / "metrics.json").read_text())
  return {k: v for k, v in found.items() if k != "seconds"}


def run_evaluate(*argv):
  """`python evaluate.py argv`, in this process."""
  spec = importlib.util.spec_from_file_location("evaluate", ROOT / "evaluate.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  module.main(list(argv))


def summarize(array):
  """The shape, mean, standard deviation and 16 values, spread out, of an array."""
  flat = np.asarray(array, np.float64).ravel()
  places = np.linspace(0, flat.size - 1, min(16, flat.size)).astype(int)
  values = [float(f"{v:.9g}") for v in (flat.mean(), flat.std(), *flat[places])]
  return {"shape": list(np.shape(array)), "mean": values[0], "std": values[1], "values": values[2:]}


def assert_close(got, golden, atol=0.0, where=""):
  """All names that are recorded, the same texts and shapes, and numbers that are equal to rtol 1e-5."""
  if isinstance(golden, dict):
    assert not set(golden) - set(got), where
    for name in golden:
      assert_close(got[name], golden[name], atol, f"{where}/{name}")
  elif isinstance(golden, list):
    assert len(got) == len(golden), where
    for i, (a, b) in enumerate(zip(got, golden, strict=True)):
      assert_close(a, b, atol, f"{where}/{i}")
  elif isinstance(golden, float):
    np.testing.assert_allclose(got, golden, rtol=1e-5, atol=atol, err_msg=where)
  else:
    assert got == golden, where


def read_golden(*path):
  found = json.loads(GOLDEN.read_text())
  for name in path:
    found = found[name]
  return found


# --- runs ---


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=CASES)
def run(request, data, tmp_path_factory):
  """A finished run of each case: (case, workdir)."""
  workdir = tmp_path_factory.mktemp("run")
  train(make_config(request.param, data), workdir)
  return request.param, workdir


def test_rows_of_a_run(run):
  case, workdir = run
  rows = read_rows(workdir)
  assert [(row["step"], row["split"]) for row in rows] == [
    *((n + 1, "train") for n in range(STEPS)),
    (STEPS, "validation"),
  ]
  assert {"loss", "gradient_norm"} <= set(rows[0])
  assert_close(rows, read_golden("runs", case, "rows"))


def test_what_a_trained_model_gives(run):
  case, workdir = run
  seen = see_run(workdir, case)
  assert_close({k: summarize(x) for k, x in seen.items()}, read_golden("runs", case, "outputs"), atol=1e-5)


def test_scores_of_a_run(run):
  case, workdir = run
  assert_close(score(workdir), read_golden("runs", case, "scores"))


def test_an_export_gives_what_the_run_gives(run, tmp_path):
  case, workdir = run
  run_evaluate("--workdir", str(workdir), "--mode", "export", "--output", str(tmp_path / "export"))
  seen, exported = see_run(workdir, case), see_run(tmp_path / "export", case)
  assert seen.keys() == exported.keys()
  for name, array in seen.items():
    np.testing.assert_array_equal(exported[name], array)


# --- models that come with the project ---


@pytest.mark.parametrize("name", PRETRAINED)
def test_what_a_pretrained_model_gives(name):
  seen = see_pretrained(name)
  assert_close({k: summarize(x) for k, x in seen.items()}, read_golden("pretrained", name), atol=1e-5)


# --- stored files ---


def test_an_export_of_format_1():
  """tests/golden/export_v1 was written by `evaluate.py --mode export`; see the README there."""
  folder = FOLDER / "export_v1"
  expected, model = json.loads((folder / "expected.json").read_text()), vae_jax.load(folder)
  assert model.step == STEPS and model.image_shape == (4, 4, 1)
  image = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 4, 4, 1)
  sample, mean = model.sample(jax.random.key(0), 2), model.encode(image).mean
  np.testing.assert_allclose(sample, expected["sample"], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(mean, expected["encode"], rtol=1e-5, atol=1e-6)
  assert size(folder) < 20_000


# The run of tests/golden/checkpoint_adversarial_v1.
ADVERSARIAL = (
  "model.name=mlp_vae model.latent_dim=2 model.hidden=4 model.likelihood=gaussian model.sigma=1.0 "
  "objective.adversarial.weight=0.5 objective.adversarial.start=1 objective.adversarial.channels=2"
)
FOUR = ("training.steps=4", "training.checkpoint_every=2", "training.eval_every=4")


def test_a_run_with_an_adversarial_term_continues_from_its_checkpoint(data, tmp_path):
  """tests/golden/checkpoint_adversarial_v1 is a run that ended after step 2 of 4; see the README there."""
  folder = FOLDER / "checkpoint_adversarial_v1"
  workdir = shutil.copytree(folder, tmp_path / "run")
  assert vae_jax.load(workdir).step == 2
  train(make_config(ADVERSARIAL, data, *FOUR), workdir)
  rows, expected = read_rows(workdir), json.loads((folder / "expected.json").read_text())
  assert [(row["step"], row["split"]) for row in rows] == [(3, "train"), (4, "train"), (4, "validation")]
  assert_close(rows, expected["rows"])
  assert size(folder) < 100_000


def size(folder):
  return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def record():
  """Writes behaviour.json, as this version has it."""
  golden = {"runs": {}, "pretrained": {}}
  with tempfile.TemporaryDirectory() as folder:
    data = write_data(folder)
    for number, case in enumerate(CASES):
      workdir = Path(folder) / str(number)
      train(make_config(case, data), workdir)
      outputs = {k: summarize(x) for k, x in see_run(workdir, case).items()}
      golden["runs"][case] = {"rows": read_rows(workdir), "outputs": outputs, "scores": score(workdir)}
  for name in PRETRAINED:
    golden["pretrained"][name] = {k: summarize(x) for k, x in see_pretrained(name).items()}
  GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
  sys.path.insert(0, str(Path(__file__).parent))
  import conftest  # noqa: F401  # the devices and compiler flags of the tests

  record()
