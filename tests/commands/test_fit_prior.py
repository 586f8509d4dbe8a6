"""--mode fit_prior: what is fitted, to which latents and weights, and who draws from it."""

import json
import shutil

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from trained import spec_of, trained

from vae_jax import evaluation, inference, priors
from vae_jax.cli.evaluate import main
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.models import mlp_vae
from vae_jax.priors import flow
from vae_jax.storage import fitted
from vae_jax.training.loop import train

SHAPE, COUNTS = (4, 4, 1), {"train": 60, "validation": 30, "test": 12}
MLP = ("mlp_vae", "model.hidden=4", "model.latent_dim=2")
OTHERS = {
  "restoration_vae": ["model.channels=4", "model.latent_dim=2", "data.degrade.name=gaussian_noise"],
  "vq_vae": ["model.channels=4", "model.code_dim=2", "model.codes=8"],
  "cvae": ["model.hidden=4", "model.latent_dim=2", "model.classes=3"],
}


@pytest.fixture
def place(tmp_path, monkeypatch):
  """A folder with data."""
  monkeypatch.chdir(tmp_path)
  random = np.random.default_rng(0)
  (tmp_path / "data").mkdir()
  for split, n in COUNTS.items():
    images = random.integers(0, 256, (n, *SHAPE), np.uint8)
    np.savez(tmp_path / "data" / f"{split}.npz", image=images, label=np.arange(n, dtype=np.int32) % 3)
  return tmp_path


def exported(family, *overrides, seed=0, folder="model", shape=SHAPE):
  config = apply_overrides(base_config(family), ["data.name=npz", "data.dir=data", *overrides])
  spec = spec_of(shape) | ({"label": jax.ShapeDtypeStruct((), np.int32)} if family == "cvae" else {})
  inference.export(trained(config, spec, seed), folder)
  return inference.load(folder)


def fit(*words, folder="model"):
  main(["--workdir", folder, "--mode", "fit_prior", *words])


def sample(*words, folder="model"):
  main(["--workdir", folder, "--mode", "sample", "--num", "5", "--output", "out/", *words])


def report(kind, folder="model"):
  with open(f"{folder}/priors/{kind}.json") as file:
    return json.load(file)


def refused(match, function, *words):
  with pytest.raises(UserError, match=match) as error:
    function(*words)
  assert "\n" not in str(error.value)


def images_of(split):
  with np.load(f"data/{split}.npz") as file:
    return file["image"]


def test_draws_of_the_posterior_are_fitted_whatever_the_batch_size(place, capsys):
  model = exported(*MLP)
  fit("--prior", "gaussian", "--batch_size", "7", "--seed", "3")
  prior = model.fitted_prior("gaussian")
  q = [model.encode(images_of(split)) for split in ("train", "validation")]
  z = [evaluation.latents_of(model, split, 64, 3) for split in ("train", "validation")]
  assert [spread for _, spread in z] == [True, True]
  (train, held), draws = (part for part, _ in z), [part for part, _ in z]
  for posterior, drawn in zip(q, draws, strict=True):  # standard normal about the means
    eps = (drawn - posterior.mean) * np.exp(-0.5 * np.asarray(posterior.logvar))
    assert np.abs(eps.mean()) < 0.4 and 0.7 < eps.std() < 1.3
  expected = multivariate_normal(train.mean(axis=0), np.cov(train.T, bias=True))
  np.testing.assert_allclose(prior.log_prob(held), expected.logpdf(held), rtol=1e-3, atol=1e-3)
  found = report("gaussian")
  normal = multivariate_normal(np.zeros(2))
  for part, latents in ("train", train), ("validation", held):
    scores = found["log_likelihood"][part]
    assert list(scores) == ["gaussian", "standard_normal"]
    np.testing.assert_allclose(scores["gaussian"], expected.logpdf(latents).mean(), rtol=1e-3)
    np.testing.assert_allclose(scores["standard_normal"], normal.logpdf(latents).mean(), rtol=1e-5)
    assert found[part] == {"data": "npz", "folder": "data", "split": part, "images": COUNTS[part]}
  assert (found["prior"], found["encoded"], found["latents"]) == ("gaussian", "draws of q(z | x)", 2)
  assert (found["step"], found["seed"], found["family"]) == (1, 3, "mlp_vae")
  assert found["weights"] == model.run.digest
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == (
    "gaussian, fitted to draws of q(z | x) of 60 images (train of npz), 2 latents, checkpoint of step 1"
  )
  assert [line.split()[0] for line in lines[2:4]] == ["gaussian", "N(0,"]
  assert lines[-1] == "wrote model/priors/gaussian.json: --prior gaussian draws from it (sample, frechet)"


def test_samples_are_those_of_the_prior_and_say_so(place, capsys):
  model = exported(*MLP)
  sample("--output", "own/")
  assert capsys.readouterr().out == "wrote 5 images into own\n"
  fit("--prior", "mixture", "--components", "2")
  capsys.readouterr()
  sample("--prior", "mixture", "--temperature", "0.5", "--batch_size", "3")
  assert capsys.readouterr().out.splitlines() == [
    "prior: mixture of 2 components, fitted to the latents of the training images",
    "wrote 5 images into out",
  ]
  from PIL import Image

  prior = model.fitted_prior("mixture")
  made = model.sample(0, 5, 0.5, prior=prior)
  np.testing.assert_array_equal(made, model.decode(model.latents(0, 5, 0.5, prior="mixture")))
  levels = np.floor(np.asarray(made)[..., 0] * 255 + 0.5)
  for i in range(5):
    with Image.open(f"out/00000{i}.png") as image:
      np.testing.assert_allclose(np.asarray(image), levels[i], atol=1)
  np.testing.assert_allclose(model.sample(0, 2, 0.5, prior=prior, start=3), made[3:], rtol=1e-5, atol=1e-6)
  assert not np.allclose(made, model.sample(0, 5, 0.5))
  assert model.sample(0, 2, prior="mixture", pixels=True).shape == (2, *SHAPE)
  sample("--output", "own.png")
  assert capsys.readouterr().out.splitlines()[0] == (
    "prior: the model's own; --prior mixture draws from a fitted one"
  )
  main(["--workdir", "model", "--mode", "sample", "--prior", "mixture"])
  assert (place / "model/evaluation/sample_prior-mixture.png").exists()


def test_a_prior_of_other_weights_is_refused_and_a_new_fit_takes_its_place(place, capsys):
  exported(*MLP)
  fit("--prior", "gaussian")
  exported(*MLP, seed=1)  # the folder's priors stay
  refused(
    r"gaussian\.json was fitted to other weights, and this is step 1 with weights of digest \w{12}; fit it again",
    lambda: sample("--prior", "gaussian"),
  )
  assert not (place / "out").exists()
  fit("--prior", "gaussian")
  sample("--prior", "gaussian")


def test_a_run_continues_beside_its_priors(place):
  words = [
    *(
      f"data.dir={place}/data",
      "data.name=npz",
      "model.hidden=4",
      "model.latent_dim=2",
      "training.warmup_steps=0",
    ),
    *(
      "training.batch_size=8",
      "training.log_every=2",
      "training.eval_every=2",
      "training.checkpoint_every=2",
    ),
    *(
      "evaluation.batch_size=8",
      "evaluation.pictures=2",
      "evaluation.samples=2",
      "training.learning_rate=0.1",
    ),
  ]
  train(apply_overrides(base_config(), [*words, "training.steps=2"]), place / "run")
  fit("--prior", "gaussian", folder="run")
  assert inference.load("run").sample(0, 2, prior="gaussian").shape == (2, *SHAPE)
  train(apply_overrides(base_config(), [*words, "training.steps=4"]), place / "run")
  model = inference.load("run")
  refused(r"was fitted to those of step 2, and this is step 4", lambda: model.fitted_prior("gaussian"))
  assert inference.load("run", 2).fitted_prior("gaussian").units == 2
  fit("--prior", "gaussian", folder="run")
  assert report("gaussian", "run")["step"] == 4
  assert inference.load("run").fitted_prior("gaussian").units == 2


def test_an_export_carries_the_priors_of_its_weights(place, capsys):
  model = exported(*MLP)
  fit("--prior", "gaussian")
  fit("--prior", "mixture", "--components", "2")
  changed = json.loads((place / "model/priors/mixture.json").read_text()) | {"weights": "0" * 64}
  (place / "model/priors/mixture.json").write_text(json.dumps(changed))
  capsys.readouterr()
  inference.export(model, "copy")
  assert capsys.readouterr().err == (
    "note: the prior mixture is left out: it was fitted to other weights; fit one to the export (--mode fit_prior)\n"
  )
  copy = inference.load("copy")
  assert copy.fitted_priors() == ["gaussian"] and model.fitted_priors() == ["gaussian", "mixture"]
  np.testing.assert_array_equal(
    copy.sample(0, 3, prior="gaussian"), model.sample(0, 3, prior=model.fitted_prior("gaussian"))
  )
  assert report("gaussian", "copy") == report("gaussian")
  (place / "model/priors/gaussian.json").write_text("{")
  inference.export(model, "bare")
  assert "gaussian is left out: model/priors/gaussian.json: does not describe" in capsys.readouterr().err
  inference.export(model, "small", bits=16)
  assert (
    "gaussian is left out: it was fitted to the weights before they had 16 bits" in capsys.readouterr().err
  )
  assert inference.load("small").fitted_priors() == []


def test_a_model_without_a_prior_of_its_own_gets_one(place, capsys, monkeypatch):
  """Codes of a deterministic encoder, which has no spread."""

  class Codes(mlp_vae.FAMILY):
    CAN = frozenset({"encode", "decode"})

    def encode(self, batch):
      return super().encode(batch)._replace(logvar=np.full((len(batch["image"]), 2), -np.inf, np.float32))

  build = mlp_vae.build
  monkeypatch.setattr(
    mlp_vae,
    "build",
    lambda *args: Codes(
      **{f: getattr(build(*args), f) for f in ("encoder", "decoder", "likelihood", "latent_dim")}
    ),
  )
  model = exported(*MLP)
  refused(
    r"cannot sample new images; .*or fit a prior to its latents \(--mode fit_prior\), and give --prior",
    lambda: sample(),
  )
  fit("--prior", "gaussian")
  codes = np.asarray(model.encode(images_of("train")).mean)
  np.testing.assert_allclose(evaluation.latents_of(model, "train", 9, 0)[0], codes, rtol=1e-5, atol=1e-6)
  assert report("gaussian")["encoded"] == "codes"
  sample("--prior", "gaussian")
  assert len(list((place / "out").iterdir())) == 5


def test_an_over_fitted_prior_is_said(place, capsys, monkeypatch):
  exported(*MLP)
  fit("--prior", "mixture", "--components", "25")
  err = capsys.readouterr().err
  assert "note: on the validation images the mixture has " in err and "it is over-fitted; give fewer" in err
  found = report("mixture")
  scores = found["log_likelihood"]["validation"]
  assert list(scores) == ["mixture", "gaussian", "standard_normal"] and scores["mixture"] < scores["gaussian"]
  assert any("over-fitted" in remark for remark in found["remarks"]) and found["components"] == 25


def test_a_flow_is_fitted_kept_and_drawn_from(place, monkeypatch):
  for name, value in {"LAYERS": 2, "HIDDEN": 4, "ROUND": 5, "PATIENCE": 2, "MOST_ROUNDS": 4}.items():
    monkeypatch.setattr(flow, name, value)
  model = exported(*MLP)
  fit("--prior", "flow")
  prior = model.fitted_prior("flow")
  assert prior.words == "flow of 2 layers" and report("flow")["layers"] == 2
  sample("--prior", "flow")
  assert model.sample(0, 3, 0.5, prior=prior).shape == (3, *SHAPE)


# --- refusals ---


def damages(folder):
  """What may happen to the files of a prior, each with what is said."""
  numbers, described = folder / "gaussian.safetensors", folder / "gaussian.json"
  text = described.read_text()
  return [
    (lambda: numbers.write_bytes(numbers.read_bytes()[:-4]), "does not match its checksum; fit it again"),
    (numbers.unlink, r"cannot be read \(No such file or directory\); fit it again"),
    (lambda: described.write_text(text[:40]), "does not describe a prior; fit it again"),
    (lambda: described.write_text("[1]"), "does not describe a prior"),
    (lambda: described.write_text(text.replace('"weights"', '"w"')), "does not describe a prior"),
    (
      lambda: described.write_text(text.replace('version": 1', 'version": 2')),
      "has format 2, .*update vae_jax",
    ),
    (
      described.unlink,
      r"gaussian.json is not there: no such prior was fitted; fit one \(--mode fit_prior --prior gaussian\)",
    ),
  ]


def test_damaged_files_are_one_line(place):
  model = exported(*MLP)
  fit("--prior", "gaussian")
  shutil.copytree("model/priors", "kept")
  for number in range(7):
    shutil.rmtree("model/priors")
    shutil.copytree("kept", "model/priors")
    damage, said = damages(place / "model/priors")[number]
    damage()
    refused(said, lambda: model.fitted_prior("gaussian"))
  meta = json.loads((place / "kept/gaussian.json").read_text())
  arrays = priors.to_arrays(priors.fit("gaussian", np.random.default_rng(0).normal(size=(9, 3))).prior)
  fitted.save("model", "gaussian", arrays, {"weights": meta["weights"]})
  refused(
    r"holds no such prior \('cholesky' is float32\[3, 3\], not float32\[2, 2\]\)",
    model.fitted_prior,
    "gaussian",
  )
  shutil.rmtree("model/priors")
  (place / "model/priors").symlink_to(place / "kept")
  refused("model/priors is a link, which may lead anywhere; remove it", lambda: fit("--prior", "gaussian"))


def test_priors_that_do_not_fit_the_model_are_refused(place):
  model = exported(*MLP)
  three = priors.fit("gaussian", np.random.default_rng(0).normal(size=(9, 3))).prior
  refused("a prior of 3 latents: this model has 2", lambda: model.sample(0, 2, prior=three))
  refused("prior 'mixtur' is unknown; did you mean 'mixture'", lambda: model.sample(0, 2, prior="mixtur"))
  refused("prior=5?3?.*: give 'gaussian', 'mixture', 'flow' or what", lambda: model.sample(0, 2, prior=5))
  two = priors.fit("gaussian", np.random.default_rng(0).normal(size=(9, 2))).prior
  refused("num = 2, temperature = -1", lambda: model.sample(0, 2, -1, prior=two))
  memory = trained(model.config, model.spec)
  refused("this model has no folder where a prior could lie", memory.fitted_prior, "gaussian")
  assert memory.fitted_priors() == [] and memory.sample(0, 2, prior=two).shape == (2, *SHAPE)
  with pytest.raises(UserError, match="no folder"):
    evaluation.save_prior(memory, evaluation.fit_prior(memory, "gaussian"))


@pytest.mark.parametrize(
  ("family", "said"),
  [
    (
      "restoration_vae",
      r"this run \(restoration_vae of 8 x 8 x 1\) cannot encode images into latents; .* can",
    ),
    ("vq_vae", r"this run \(vq_vae of 8 x 8 x 1\) cannot encode images into latents; mlp_vae"),
    (
      "cvae",
      r"this run \(cvae\) has another density of latents for each label, which one fitted prior would mix",
    ),
  ],
)
def test_families_whose_latents_have_no_such_prior(place, family, said):
  model = exported(family, *OTHERS[family], shape=(8, 8, 1))
  refused(said, lambda: fit("--prior", "gaussian"))
  refused(said, lambda: model.check_prior())
  assert not (place / "model/priors").exists()


MISTAKES = [
  ("--mode fit_prior", "--mode fit_prior needs --prior, what to fit: gaussian or mixture or flow"),
  (
    "--mode fit_prior --prior flow --components 3",
    "--components has no effect on --prior flow, only on mixture",
  ),
  ("--mode fit_prior --prior mixture --components 0", "'0' must be an integer >= 1 and <= 1000"),
  ("--mode fit_prior --prior vamp", "invalid choice: 'vamp'"),
  ("--mode fit_prior --prior gaussian --output x", "--output has no effect in --mode fit_prior"),
  ("--mode score --prior gaussian", "--prior has no effect in --mode score, only in"),
  ("--mode sample --prior mixture", "mixture.json is not there: no such prior was fitted"),
  ("--mode frechet --of reconstructions --prior flow", "--prior has no effect with --of reconstructions"),
  ("--mode fit_prior --prior mixture --components 61", "components = 61 for the latents of 60 images"),
]


def test_mistakes_are_one_line(place):
  exported(*MLP)
  for words, said in MISTAKES:
    refused(said, lambda words=words: main(["--workdir", "model", *words.split()]))
    assert not (place / "model/priors").exists() and not (place / "model/evaluation").exists(), words


def test_latents_that_are_not_finite_and_one_image_are_refused(place):
  model = exported(*MLP)
  one = images_of("train")[:1]
  np.savez("data/train.npz", image=one)
  refused("the latents of 1 image have no spread", lambda: fit("--prior", "gaussian"))
  q = model.encode(images_of("validation"))
  model.encode = lambda images, **fields: q._replace(mean=q.mean.at[:2].set(np.nan))
  refused(
    "of 2 of the 30 images of validation are not finite", evaluation.latents_of, model, "validation", 30, 0
  )


def test_the_distances_of_samples_say_which_prior(place):
  exported(*MLP, shape=(18, 18, 1))
  random = np.random.default_rng(0)
  for split in COUNTS:
    np.savez(f"data/{split}.npz", image=random.integers(0, 256, (9, 18, 18, 1), np.uint8))
  fit("--prior", "gaussian")
  network = ["--network", "squeezenet", "--layer", "relu1", "--weights", "random"]
  scores = {}
  for words in ["--prior", "gaussian"], []:
    main(["--workdir", "model", "--mode", "frechet", *network, "--output", "s.json", *words])
    scores[len(words)] = json.loads((place / "s.json").read_text())
  assert [scores[n]["prior"] for n in (2, 0)] == ["gaussian", "N(0, I)"]
  assert scores[2]["frechet_squeezenet_relu1"] != scores[0]["frechet_squeezenet_relu1"]
