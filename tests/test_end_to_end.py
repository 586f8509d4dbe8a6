"""The two commands as a person gives them: in processes of their own, elsewhere than the checkout."""

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from said import PATIENCE, unexpected

from vae_jax import cli, evaluation, inference
from vae_jax.configuration import from_json
from vae_jax.storage import exported as pretrained
from vae_jax.storage.checkpoints import Checkpoints

ROOT = Path(__file__).parents[1]
TINY = {
  "model.hidden": "16",
  "model.latent_dim": "4",
  "training.steps": "50",
  "training.batch_size": "32",
  "training.log_every": "10",
  "training.eval_every": "20",
  "training.checkpoint_every": "10",
  "training.warmup_steps": "5",
  "training.learning_rate": "0.01",
  "evaluation.pictures": "16",
  "evaluation.samples": "10",
}
# Where one of these can be imported, an import leaves a line in $IMPORTED; where it cannot, the program fails.
SPY = """
import os, sys
frame = sys._getframe(1)
while "importlib" in frame.f_code.co_filename:
  frame = frame.f_back
with open(os.environ["IMPORTED"], "a") as file:
  file.write(f"{__name__} from {frame.f_code.co_filename}\\n")
raise ImportError(__name__)
"""


def flags(values):
  return [f"--config.{key}={value}" for key, value in values.items()]


class Place:
  """An empty folder from which commands are given, with a cache of its own."""

  def __init__(self, folder, forbidden):
    self.folder, self.record = folder, folder / "imported"
    (folder / "spies").mkdir()
    for name in forbidden:
      (folder / "spies" / f"{name}.py").write_text(SPY)
    self.environment = {
      k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_", "VAE_JAX_"))
    } | {
      "JAX_PLATFORMS": "cpu",
      "VAE_JAX_DATA": str(folder / "cache"),
      "PYTHONPATH": str(folder / "spies"),
      "IMPORTED": str(self.record),
      "COLUMNS": "100",
    }

  def call(self, script, *argv, status=0):
    """(stdout, stderr) of `python script argv`, once its exit status is checked."""
    done = subprocess.run(
      [sys.executable, "-W", "error::DeprecationWarning:vae_jax", str(ROOT / script), *map(str, argv)],
      cwd=self.folder,
      env=self.environment,
      capture_output=True,
      text=True,
      timeout=PATIENCE,
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr

  def imported(self):
    """What was imported of the forbidden; TensorBoardX asks for torch by itself, and goes on without."""
    lines = self.record.read_text().splitlines() if self.record.exists() else []
    return [line for line in lines if not (line.startswith("torch ") and "tensorboardX" in line)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  return Place(tmp_path_factory.mktemp("place"), ["tensorflow", "torch", "keras"])


@pytest.fixture(scope="module")
def trained(place):
  """(workdir, stdout, stderr) of a run on the embedded digits."""
  return place.folder / "runs" / "a", *place.call("train.py", "--workdir", "runs/a", *flags(TINY))


def script(name):
  spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


TRAIN, EVALUATE = script("train"), script("evaluate")


@pytest.fixture
def here(place, trained, monkeypatch):
  """The same folder and cache in this process, which has eight devices where the run had one."""
  monkeypatch.chdir(place.folder)
  monkeypatch.setenv("VAE_JAX_DATA", str(place.folder / "cache"))
  assert jax.device_count() == 8
  return place.folder


def evaluate(*argv):
  """`python evaluate.py --workdir runs/a argv` in this process."""
  cli.run(lambda: EVALUATE.main(["--workdir", "runs/a", *map(str, argv)]))


def refused(capsys, main, *argv):
  """The line with which a command is refused, once its form and the status are checked."""
  with pytest.raises(SystemExit) as end:
    cli.run(lambda: main([str(word) for word in argv]))
  out, err = capsys.readouterr()
  assert end.value.code == 2 and out == ""
  assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
  return err


def picture(path):
  with Image.open(path) as opened:
    assert opened.format == "PNG"
    pixels = np.asarray(opened)
  assert pixels.dtype == np.uint8 and pixels.std() > 0
  return pixels


def listing(folder):
  return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def files(folder):
  return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- train.py ---


def test_training_prints_what_comes_next(trained):
  _, out, err = trained
  assert out == "trained: runs/a; next: python evaluate.py --workdir runs/a\n"
  lines = err.splitlines()
  assert not unexpected(err)
  assert lines[-1].startswith("step 50/50, loss ")


def test_training_leaves_a_run(place, trained):
  workdir = trained[0]
  config = from_json((workdir / "config.json").read_text())
  assert config.data.name == "digits" and config.model.hidden == (16,) and config.training.steps == 50
  found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  places = [(row["step"], row["split"]) for row in found]
  assert places == [(s, "train") for s in (10, 20)] + [(20, "validation"), (30, "train"), (40, "train")] + [
    (40, "validation"),
    (50, "train"),
    (50, "validation"),
  ]
  for row in found:
    assert list(row)[:2] == ["step", "split"] and list(row)[-1] == "seconds"
    assert all(math.isfinite(value) for name, value in row.items() if name != "split")
  assert found[-2]["loss"] < 0.7 * found[0]["loss"]
  assert found[-1]["neg_elbo"] < found[2]["neg_elbo"]
  shown = sorted(p.name for p in (workdir / "images").iterdir())
  assert shown == [f"{n}_00000{s}.png" for n in ("reconstructions", "samples") for s in (20, 40, 50)]
  for name in shown:
    picture(workdir / "images" / name)
  assert Checkpoints(workdir / "checkpoints").steps() == [40, 50]
  assert list((workdir / "tensorboard").iterdir())
  assert {p.name for p in place.folder.iterdir()} <= {"runs", "cache", "spies", "imported"}


def test_the_same_command_again_trains_no_further(place, trained):
  before = {name: content for name, content in files(trained[0]).items() if "tensorboard" not in name}
  out, err = place.call("train.py", "--workdir", "runs/a", *flags(TINY))
  assert (out, err) == (f"runs/a: finished already at step 50 of 50\n{trained[1]}", "")
  after = {name: content for name, content in files(trained[0]).items() if "tensorboard" not in name}
  assert {k: v for k, v in after.items() if not k.startswith("evaluation")} == {
    k: v for k, v in before.items() if not k.startswith("evaluation")
  }


# --- evaluate.py ---


@pytest.fixture(scope="module")
def scored(place, trained):
  """(stdout, stderr) of scoring the run, on one device."""
  return place.call("evaluate.py", "--workdir", "runs/a")


def test_scoring(trained, scored):
  out, err = scored
  folder = trained[0] / "evaluation"
  scores = json.loads((folder / "metrics.json").read_text())
  assert {
    "neg_elbo",
    "rate",
    "distortion",
    "iwae_nll",
    "iwae_samples",
    "bits_per_dim",
    "likelihood",
    "psnr",
    "examples",
    "active_units",
    "split",
    "step",
    "seed",
  } <= set(scores)
  assert (scores["examples"], scores["step"], scores["split"], scores["iwae_samples"]) == (
    500,
    50,
    "test",
    10,
  )
  assert scores["likelihood"] == "Bernoulli" and scores["binarize"] == "dynamic"
  np.testing.assert_allclose(scores["neg_elbo"], scores["rate"] + scores["distortion"], rtol=1e-6)
  np.testing.assert_allclose(scores["bits_per_dim"], scores["iwae_nll"] / 784 / math.log(2))
  assert scores["iwae_nll"] < scores["neg_elbo"] < 784 * math.log(2)  # better than a coin for each pixel
  assert f"{scores['neg_elbo']:.3f}" in out and "wrote runs/a/evaluation/metrics.json" in out
  assert "Traceback" not in err and "Warning" not in err
  for name in ("reconstructions.png", "samples.png"):
    picture(folder / name)


def test_reconstructing_files_of_odd_size_and_mode(place, trained):
  own = place.folder / "runs" / "own"
  own.mkdir()
  ramp = np.linspace(0, 255, 37 * 53).reshape(37, 53).astype(np.uint8)
  Image.fromarray(ramp).convert("P").save(own / "palette.png")
  Image.fromarray(np.dstack([ramp, ramp[::-1], ramp, ramp])).save(own / "rgba.png")
  Image.fromarray(ramp.astype(np.uint16) * 257).save(own / "sixteen.png")
  Image.fromarray(ramp > 99).save(own / "binary.png")
  words = ("--mode", "reconstruct", "--input", "runs/own", "runs/own/rgba.png", "--output", "runs/out/r.png")
  out, err = place.call("evaluate.py", "--workdir", "runs/a", *words)
  assert out == "wrote runs/out/r.png\n"
  (said,) = set(err.splitlines())  # it is given twice
  assert said.startswith("note: runs/own/rgba.png has transparent pixels")
  picture(place.folder / "runs" / "out" / "r.png")
  shutil.rmtree(own)
  shutil.rmtree(place.folder / "runs" / "out")


@pytest.mark.parametrize(
  ("mode", "words", "suffix"),
  [
    ("sample", ["--num", 5, "--temperature", 0.7, "--seed", 3], "_num-5_seed-3_temperature-0.7"),
    (
      "reconstruct",
      ["--num", 3, "--split", "train[:10]", "--checkpoint", 40],
      "_train-first-10_num-3_step-40",
    ),
    ("interpolate", [], ""),
    ("interpolate", ["--method", "linear", "--num", 2, "--checkpoint", "best"], "_num-2_method-linear_best"),
  ],
)
def test_pictures(here, capsys, mode, words, suffix):
  """Twice the same, at the default place, under a name that says what is asked for, and at a given one."""
  evaluate("--mode", mode, *words)
  evaluate("--mode", mode, *words, "--output", "runs/other.PNG")
  out, err = capsys.readouterr()
  assert out == f"wrote runs/a/evaluation/{mode}{suffix}.png\nwrote runs/other.PNG\n" and err == ""
  first = picture(here / "runs" / "a" / "evaluation" / f"{mode}{suffix}.png")
  np.testing.assert_array_equal(first, picture(here / "runs" / "other.PNG"))
  (here / "runs" / "other.PNG").unlink()


def test_a_run_of_one_device_is_scored_alike_on_eight(here, trained, scored):
  there = json.loads((trained[0] / "evaluation" / "metrics.json").read_text())
  got = evaluation.score_split(inference.load("runs/a"), "test", samples=10, batch_size=256)
  for name, value in got.items():
    if isinstance(value, float):
      np.testing.assert_allclose(value, there[name], rtol=1e-5, err_msg=name)
    else:
      assert value == there[name], name


def test_neither_tensorflow_nor_torch_is_ever_imported(place, trained, scored):
  assert not place.imported()


def test_a_small_npz_needs_no_data_library(tmp_path):
  place = Place(tmp_path, ["tensorflow", "torch", "tensorflow_datasets", "grain", "array_record"])
  place.environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiles faster
  random = np.random.default_rng(0)
  (tmp_path / "data").mkdir()
  for split in ("train", "validation", "test"):
    np.savez(
      tmp_path / "data" / f"{split}.npz", image=random.integers(0, 256, size=(9, 6, 5), dtype=np.uint8)
    )
  values = TINY | {"data.name": "npz", "data.dir": "data", "training.steps": "10", "training.batch_size": "4"}
  place.call("train.py", "--workdir", "run", *flags(values))
  out, _ = place.call("evaluate.py", "--workdir", "run", "--samples", "0")
  assert "test: 9 images" in out and "IWAE" not in out
  assert not place.imported()


# --- refusals ---


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (
      ["--config.model.latentdim=3"],
      "unknown config key 'model.latentdim'; did you mean 'model.latent_dim'?",
    ),
    (["--work-dir=x"], "unknown flag '--work-dir'; did you mean '--workdir'?"),
    (["--config.training.steps=1.5"], "training.steps='1.5' must be a 31-bit integer"),
    (["--config.data.flip=maybe"], "data.flip='maybe' must be true or false"),
    (["--config.model.hidden=8,0"], "model.hidden=8,0 must be one or more widths > 0"),
    (["--config.data.size=-1,4"], "data.size=-1,4 must be 0,0 or height,width > 0"),
    (["--config.training.batch_size=0"], "training.batch_size=0 must be > 0"),
    (["--config.training.learning_rate=nan"], "training.learning_rate"),
    (["--config.data.name=folder"], "data.name=folder needs data.dir"),
    (["--config.data.name=folder", "--config.data.dir=nowhere"], "data.dir='nowhere' is no folder"),
    (["--config.data.name=folder", "--config.data.dir=empty"], "data.dir=empty: no image files"),
    (["--config.data.name=npz", "--config.data.dir=broken.npz"], "broken.npz: cannot be read as .npz"),
    (["--config.data.name=digts"], "data.name='digts' is not a data set; did you mean 'digits'?"),
    (["--config.data.validation=valdation"], "no split 'valdation', only train, validation, test"),
    (["--config.data.train=train[:0]"], "split 'train[:0]': selects none of the 4000 records"),
    (["--config.training.batch_size=9"], "must be a multiple of the 8 devices"),
    (["--config.data.degrade.sigma=-1"], "data.degrade.sigma=-1.0 must be >= 0"),
  ],
)
def test_a_bad_training_command_makes_no_workdir(here, capsys, tmp_path, monkeypatch, words, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "empty").mkdir()
  (tmp_path / "broken.npz").write_bytes(b"PK\3\4 no archive")
  before = listing(tmp_path)
  assert message in refused(capsys, TRAIN.main, "--workdir", "run", *flags(TINY), *words)
  assert listing(tmp_path) == before


def test_a_workdir_of_another_config_is_left_alone(here, capsys):
  before = files(here / "runs" / "a")
  err = refused(capsys, TRAIN.main, "--workdir", "runs/a", *flags(TINY), "--config.model.latent_dim=5")
  assert "runs/a holds a run with another config: model.latent_dim is " in err
  assert files(here / "runs" / "a") == before


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--workdir", "runs/b"], "runs/b is not a run: it has no config.json; runs here: runs/a"),
    (["--workdir", "runs/a", "--checkpoint", 30], "no checkpoint of step 30 in"),
    (["--workdir", "runs/a", "--split", "tset"], "has no split 'tset'"),
    (["--workdir", "runs/a", "--sample", 3], "unknown flag '--sample'; did you mean '--samples'?"),
    (["--workdir", "runs/a", "--mode", "reconstruct", "--input", "bad"], "bad/huge.tif: cannot be decoded"),
    (
      ["--workdir", "runs/a", "--mode", "reconstruct", "--input", "bad/x.png"],
      "bad/x.png: cannot be decoded",
    ),
    (["--workdir", "runs/a", "--mode", "interpolate", "--input", "one.png"], "1 image is too few"),
    (["--workdir", "runs/a", "--mode", "interpolate", "--split", "test[:1]"], "1 image is too few"),
  ],
)
def test_a_bad_evaluation_command_writes_nothing(here, capsys, words, message):
  (here / "bad").mkdir()
  (here / "bad" / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n but no picture")
  Image.fromarray(np.full((4, 4), 2.0, np.float32)).save(here / "bad" / "huge.tif")  # values outside [0, 1]
  Image.fromarray(np.eye(30, dtype=np.uint8)).save(here / "one.png")
  before = listing(here / "runs")
  try:
    assert message in refused(capsys, EVALUATE.main, *words)
    assert listing(here / "runs") == before
  finally:
    shutil.rmtree(here / "bad")
    (here / "one.png").unlink()


def test_a_picture_that_cannot_be_written(here, capsys):
  (here / "file").write_text("")
  words = ("--workdir", "runs/a", "--mode", "sample", "--num", "4", "--output", "file/x.png")
  assert "file/x.png" in refused(capsys, EVALUATE.main, *words)
  (here / "file").unlink()


def damage(step):
  file = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
  file.write_bytes(file.read_bytes()[:-9])


def test_damaged_and_missing_checkpoints(place, here, capsys):
  """The older one with one line of warning; then an error that names the damage; then one that finds none."""
  shutil.copytree(here / "runs" / "a", here / "runs" / "c")
  damage(here / "runs" / "c" / "checkpoints" / "50")
  words = ("--workdir", "runs/c", "--mode", "sample", "--num", "4", "--output", "runs/c/x.png")
  out, err = place.call("evaluate.py", *words)
  assert out == "wrote runs/c/x.png\n" and err.count("\n") == 1
  assert "checkpoints/50 is damaged" in err and "falling back to step 40" in err
  err = refused(capsys, EVALUATE.main, *words, "--checkpoint", "50")
  assert "50 is damaged" in err and "use another step: 40" in err
  damage(here / "runs" / "c" / "checkpoints" / "40")
  assert "no other can be read" in refused(capsys, EVALUATE.main, *words)
  shutil.rmtree(here / "runs" / "c" / "checkpoints")
  assert "no checkpoint in" in refused(capsys, EVALUATE.main, *words)
  shutil.rmtree(here / "runs" / "c")


def test_a_process_that_fails_prints_one_line(place, trained):
  out, err = place.call("train.py", "--workdir", "runs/d", "--config.data.train=train[:0]", status=2)
  assert out == "" and err.startswith("error: ") and err.count("\n") == 1
  assert not (place.folder / "runs" / "d").exists()


# --- restoration, from photographs to a model of one's own ---


def photograph(height, width, seed):
  """Smooth patches and edges, uint8 [h, w, 3]."""
  random = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width]
  waves = [np.sin(x / random.uniform(2, 9) + y / random.uniform(2, 9)) for _ in range(3)]
  return np.uint8(np.rint(255 * (0.5 + 0.2 * np.stack(waves, -1) + 0.2 * ((x // 9 + y // 7) % 2)[..., None])))


RESTORATION = {
  "data.name": "folder",
  "data.dir": "photos",
  "data.train": "train",
  "data.validation": "train[:2]",
  "data.test": "train[4:]",
  "data.size": "16,16",
  "data.channels": "3",
  "data.flip": "true",
  "data.rotate": "true",
  "data.binarize": "none",
  "data.degrade.name": "bicubic_down",
  "model.name": "restoration_vae",
  "model.channels": "4,4",
  "model.latent_dim": "2",
  "model.likelihood": "laplace",
  "training.steps": "4",
  "training.learning_rate": "0.0001",
  "training.batch_size": "8",
  "training.log_every": "2",
  "training.eval_every": "4",
  "training.checkpoint_every": "2",
  "evaluation.batch_size": "8",
  "evaluation.pictures": "2",
  "evaluation.samples": "3",
}


@pytest.mark.slow
def test_restoration_from_photographs_to_an_exported_model(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("VAE_JAX_DATA", str(tmp_path / "cache"))
  monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "pretrained")
  (tmp_path / "photos" / "train").mkdir(parents=True)
  for i in range(6):
    Image.fromarray(photograph(20 + i, 24, i)).save(tmp_path / "photos" / "train" / f"{i}.png")

  def call(main, *words):
    main([str(word) for word in words])
    return capsys.readouterr().out

  words = ("--workdir", "run", *flags(RESTORATION))
  assert call(TRAIN.main, *words) == "trained: run; next: python evaluate.py --workdir run\n"
  assert call(TRAIN.main, *words).startswith("run: finished already at step 4 of 4\n")

  # Scores.
  out = call(EVALUATE.main, "--workdir", "run")
  scores = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
  assert f"{scores['psnr']:.2f} dB PSNR" in out and "Laplace (scale learned)" in out
  assert scores["examples"] == 2 and scores["latent_units"] == 4 and scores["iwae_samples"] == 3
  np.testing.assert_allclose(scores["neg_elbo"], scores["rate"] + scores["distortion"], rtol=1e-6)
  for name in ("reconstructions", "samples"):
    picture(tmp_path / "run" / "evaluation" / f"{name}.png")
  moved = tmp_path / "photos"
  moved.rename(tmp_path / "elsewhere")
  call(EVALUATE.main, "--workdir", "run", "--data_dir", "elsewhere", "--samples", 0, "--split", "train[:1]")
  assert "no folder" in refused(capsys, EVALUATE.main, "--workdir", "run")

  # Photographs: with alpha, and a JPEG.
  (tmp_path / "own").mkdir()
  alpha = np.linspace(0, 255, 21 * 17).reshape(21, 17, 1).astype(np.uint8)
  Image.fromarray(np.concatenate([photograph(21, 17, 7), alpha], -1)).save(tmp_path / "own" / "alpha.png")
  Image.fromarray(photograph(40, 19, 8)).save(tmp_path / "own" / "photo.jpg", quality=95)
  out = call(
    EVALUATE.main, "--workdir", "run", "--mode", "restore", "--input", "own", "--samples", 2, "--tile", 16
  )
  folder = tmp_path / "run" / "evaluation" / "restored"
  names = {
    f"{n}{k}" for n, e in (("alpha", ".png"), ("photo", ".jpg")) for k in (e, f"_sample01{e}", f"_mean{e}")
  }
  assert names <= set(listing(folder)) and len(listing(folder)) == 10
  assert out.splitlines() == [f"wrote run/evaluation/restored/{name}" for name in map(str, out_names(out))]
  with Image.open(folder / "alpha.png") as opened:
    assert opened.mode == "RGBA" and opened.size == (34, 42)
    restored = np.asarray(opened)
  assert restored[..., 3].std() > 50
  with Image.open(folder / "photo.jpg") as opened:
    assert opened.format == "JPEG" and opened.mode == "RGB" and opened.size == (38, 80)
    small = np.asarray(opened.resize((19, 40), Image.Resampling.BOX), np.float64)
  assert np.abs(small - photograph(40, 19, 8)).mean() < 12  # it is that photograph, twice as large
  assert len({(folder / f"alpha{k}.png").read_bytes() for k in ("", "_sample01", "_sample02", "_mean")}) == 4

  # A benchmark: four steps from bicubic interpolation.
  words = (
    "--mode",
    "benchmark",
    "--input",
    "elsewhere/train",
    "--num",
    2,
    "--output",
    "b.json",
    "--ensemble",
  )
  out = call(EVALUATE.main, "--workdir", "run", *words)
  found = json.loads((tmp_path / "b.json").read_text())
  assert found["count"] == 2 and "bicubic" in out and out.endswith("wrote b.json and b.png\n")
  assert abs(found["mean"]["ours"]["psnr_y"] - found["mean"]["bicubic"]["psnr_y"]) < 3
  picture(tmp_path / "b.png")

  # A model in one folder, by its name and by its place.
  call(EVALUATE.main, "--workdir", "run", "--mode", "export", "--output", "pretrained/tiny")
  words = ("--mode", "restore", "--input", "own/photo.jpg", "--output")
  call(EVALUATE.main, "--pretrained", "tiny", *words, "again.jpg")
  call(EVALUATE.main, "--workdir", "pretrained/tiny", *words, "place.jpg")
  for name in ("again.jpg", "place.jpg"):
    assert (tmp_path / name).read_bytes() == (folder / "photo.jpg").read_bytes()
  out = call(EVALUATE.main, "--workdir", "run", "--mode", "export")
  assert out == "wrote run/evaluation/export: load it with vae_jax.load('run/evaluation/export')\n"
  assert inference.load("run/evaluation/export").step == 4

  # What such a run cannot do.
  for mode in ("sample", "interpolate"):
    err = refused(capsys, EVALUATE.main, "--workdir", "run", "--mode", mode, "--data_dir", "elsewhere")
    assert "this run (restoration_vae of 16 x 16 x 3) cannot " in err and "; mlp_vae, conv_vae" in err


def out_names(out):
  return [Path(line.removeprefix("wrote ")).name for line in out.splitlines()]
