"""Whole-split scores: every example once, whatever the batch size; and the pictures and files beside them."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from trained import spec_of, trained

from vae_jax import evaluation
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.objectives import load_scoring_network
from vae_jax.progress import FileProgress
from vae_jax.storage import exported as pretrained

SHAPE = (5, 4, 1)
NUM = 17  # in batches of 8, 16 and 24 of different padding


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  random = np.random.default_rng(0)
  for split, n in ("train", 8), ("validation", 4), ("test", NUM):
    np.savez(folder / f"{split}.npz", image=random.integers(0, 256, size=(n, *SHAPE), dtype=np.uint8))
  return folder


def make(data, *overrides, input_shape=SHAPE, family="mlp_vae"):
  """A model with normal parameters, as if it had been trained on the data."""
  config = apply_overrides(
    base_config(family), ["data.name=npz", f"data.dir={data}", "model.latent_dim=3", *overrides]
  )
  if family == "mlp_vae":
    config.model.hidden = (8,)
  return trained(config, spec_of(SHAPE, input_shape), seed=1, scale=0.3, step=7)


@pytest.fixture(scope="module")
def model(data):
  return make(data, "data.binarize=dynamic")


@pytest.fixture(scope="module")
def scores(model):
  return evaluation.score_split(model, "test", samples=12, batch_size=64)


def assert_equal_scores(a, b, **tolerance):
  assert set(a) == set(b)
  for name, value in a.items():
    if isinstance(value, float):
      np.testing.assert_allclose(value, b[name], err_msg=name, **tolerance)
    else:
      assert value == b[name], name


# --- scores ---


def test_the_scores_and_what_they_were_measured_on(scores):
  assert scores["examples"] == NUM and scores["split"] == "test" and scores["step"] == 7
  assert scores["likelihood"] == "Bernoulli" and scores["binarize"] == "dynamic"
  assert scores["dequantize"] is False
  assert scores["iwae_samples"] == 12 and scores["seed"] == 0 and scores["latent_units"] == 3
  assert 0 <= scores["active_units"] <= 3 and isinstance(scores["active_units"], int)
  assert json.loads(json.dumps(scores)) == scores


def test_nothing_that_was_not_asked_for_is_scored(scores):
  assert not {"ssim", "lpips", "lpips_network"} & set(scores)  # images of 5 x 4 have no window of SSIM


def test_scores_add_up(scores):
  np.testing.assert_allclose(scores["neg_elbo"], scores["rate"] + scores["distortion"], rtol=1e-6)
  for bits, nats in ("bits_per_dim", "iwae_nll"), ("neg_elbo_bits_per_dim", "neg_elbo"):
    np.testing.assert_allclose(scores[bits], scores[nats] / (20 * math.log(2)), rtol=1e-12)
  assert scores["iwae_nll"] < scores["neg_elbo"]  # Jensen, in expectation; these draws are fixed


def test_scores_do_not_depend_on_the_batch_size(model, scores):
  for batch_size in (8, 10):  # the latter is 16, a multiple of the devices
    other = evaluation.score_split(model, "test", samples=12, batch_size=batch_size)
    assert_equal_scores(scores, other, rtol=1e-5)


def test_scoring_twice_gives_the_same_and_another_seed_does_not(model, scores):
  again = evaluation.score_split(model, "test", samples=12, batch_size=64)
  assert_equal_scores(scores, again, rtol=0)
  other = evaluation.score_split(model, "test", samples=12, batch_size=64, seed=1)
  assert other["seed"] == 1 and abs(other["distortion"] / scores["distortion"] - 1) > 1e-4


def test_scores_against_float64_without_any_draw(data):
  """Rate, active units and mean squared error of a posterior so narrow that its sample is its mean."""
  model = make(data, "model.likelihood=gaussian", "model.sigma=0.1")
  bias = model.params["encoder"]["posterior"]["bias"]
  model.params["encoder"]["posterior"]["bias"] = bias.at[3:].set(-1000.0)  # logvar = -12
  model.params["encoder"]["posterior"]["kernel"] = (
    model.params["encoder"]["posterior"]["kernel"].at[:, 3:].set(0.0)
  )
  scores = evaluation.score_split(model, "test", samples=0, batch_size=4)
  images = np.load(data / "test.npz")["image"].astype(np.float64) / 255
  mean = np.asarray(model.encode(images).mean, np.float64)
  rate = 0.5 * (mean**2 + math.exp(-12) + 12 - 1).sum(-1)
  np.testing.assert_allclose(scores["rate"], rate.mean(), rtol=1e-5)
  assert scores["active_units"] == (mean.var(axis=0) > 0.01).sum()
  assert (scores["posterior_active"], scores["posterior_null"]) == (3, 0) and "sigma" not in scores
  spread = mean.var(axis=0) + math.exp(-12)
  gap = 0.5 * (spread + mean.mean(axis=0) ** 2 - 1 - np.log(spread)).sum()
  np.testing.assert_allclose(scores["prior_gap"], gap, rtol=1e-4)
  errors = ((np.asarray(model.reconstruct(images), np.float64) - images) ** 2).mean(axis=(1, 2, 3))
  np.testing.assert_allclose(scores["mse"], errors.mean(), rtol=0.02)  # the sample has a deviation of e^-6
  np.testing.assert_allclose(scores["psnr"], (-10 * np.log10(errors)).mean(), rtol=0.01)
  params = model.module.apply(model.variables, jnp.asarray(mean, jnp.float32), {}, method="pixels")
  squares = ((images - 0.5 - np.asarray(params, np.float64)) ** 2).sum(axis=(1, 2, 3))
  distortion = squares / (2 * 0.1**2) + 20 * math.log(0.1 * math.sqrt(2 * math.pi))
  np.testing.assert_allclose(scores["distortion"], distortion.mean(), rtol=0.01)
  # A density over [0, 1] has 8 bits more on the scale of grey levels.
  bits = scores["neg_elbo"] / (20 * math.log(2)) + 8
  np.testing.assert_allclose([scores["bits_per_dim"], scores["neg_elbo_bits_per_dim"]], bits, rtol=1e-12)
  assert "iwae_nll" not in scores and scores["iwae_samples"] == 0


def test_lpips_is_scored_and_named_where_asked_for(data, monkeypatch):
  """A squared difference in place of the network, whose score is known: `mse`."""
  distance = jax.tree_util.Partial(lambda a, b: ((a - b) ** 2).mean((1, 2, 3)))
  monkeypatch.setattr(evaluation.scores, "load_scoring_network", lambda config: distance)
  scored = evaluation.score_split(make(data, "evaluation.lpips=vgg16"), "test", samples=0, batch_size=64)
  np.testing.assert_allclose(scored["lpips"], scored["mse"], rtol=1e-6)
  assert scored["lpips_network"] == "vgg16"
  assert evaluation.summary(scored | {"ssim": 0.5}).count(f", SSIM 0.5000, LPIPS {scored['lpips']:.4f}") == 1


def test_the_scoring_network_is_the_one_that_the_config_names():
  config = apply_overrides(base_config(), ["evaluation.lpips=squeezenet", "evaluation.lpips_heads=no.pth"])
  with pytest.raises(UserError, match=r"no\.pth does not exist"):
    load_scoring_network(config.evaluation)
  assert load_scoring_network(base_config().evaluation) is None


def test_a_limit_scores_the_first_images(model, scores):
  first = evaluation.score_split(model, "test", samples=12, batch_size=64, limit=4)
  sliced = evaluation.score_split(model, "test[:4]", samples=12, batch_size=64)
  assert first["examples"] == sliced["examples"] == 4
  assert_equal_scores(first, sliced | {"split": "test"}, rtol=1e-6)
  assert first["distortion"] != scores["distortion"]
  rest = evaluation.score_split(model, "test", samples=12, batch_size=64, limit=100)
  assert_equal_scores(rest, scores, rtol=0)


@pytest.mark.parametrize(("split", "message"), [("tset", "no split 'tset'"), ("test[50:]", "out of range")])
def test_an_unknown_split_is_refused(model, split, message):
  with pytest.raises(UserError, match=message):
    evaluation.score_split(model, split, samples=0, batch_size=8)


def test_data_of_another_shape_are_refused(model, tmp_path):
  np.savez(tmp_path / "test.npz", image=np.full((3, 7, 4, 1), 9, np.uint8))
  other = make(tmp_path)
  with pytest.raises(UserError, match="7 x 4 pixels, expected 5 x 4"):
    evaluation.score_split(other, "test", samples=0, batch_size=8)


# --- for a person ---


def test_the_summary_shows_the_scores(scores):
  text = evaluation.summary(scores)
  for name, digits in ("neg_elbo", 3), ("rate", 3), ("distortion", 3), ("iwae_nll", 3), ("bits_per_dim", 4):
    assert f"{scores[name]:.{digits}f}" in text
  for words in (
    "test: 17 images",
    "step 7",
    "Bernoulli",
    "NLL (IWAE-12)",
    "dB PSNR",
    f"{scores['active_units']} of 3",
    f"{scores['posterior_active']} active (variance < 0.1), {scores['posterior_null']} null (> 0.9)",
    f"at least {scores['prior_gap']:.3f} nats from the prior",
  ):
    assert words in text
  without = evaluation.summary({k: v for k, v in scores.items() if k != "iwae_nll"})
  assert "IWAE" not in without and len(without.splitlines()) == len(text.splitlines()) - 1


def test_the_summary_of_a_broken_model_can_be_printed(scores):
  assert "nan nats" in evaluation.summary(scores | {"neg_elbo": math.nan, "psnr": math.inf})


# --- files ---


def test_evaluate_writes_scores_and_pictures(model, scores, tmp_path):
  got = evaluation.evaluate(model, tmp_path / "run" / "evaluation", "test", samples=12, batch_size=64)
  assert_equal_scores(scores, {k: v for k, v in got.items() if k != "seconds"}, rtol=0)
  folder = tmp_path / "run" / "evaluation"
  assert json.loads((folder / "metrics.json").read_text()) == got and got["seconds"] >= 0
  assert sorted(p.name for p in folder.iterdir()) == ["metrics.json", "reconstructions.png", "samples.png"]
  for name in ("reconstructions", "samples"):
    with Image.open(folder / f"{name}.png") as picture:
      assert np.asarray(picture).std() > 0


def test_scores_name_their_data(model, data, scores, tmp_path):
  assert (scores["data"], scores["folder"], scores["split"]) == ("npz", str(data), "test")
  again = evaluation.score_split(model, "test", samples=0, batch_size=8)
  assert again["digest"] == scores["digest"] and len(scores["digest"]) == 16  # whatever the batches
  images = np.load(data / "test.npz")["image"]
  np.savez(tmp_path / "test.npz", image=images[::-1])
  other = make(tmp_path, "data.binarize=dynamic")
  assert evaluation.score_split(other, "test", samples=0, batch_size=8)["digest"] != scores["digest"]


def test_other_data_leave_the_scores_of_the_test_split_alone(model, tmp_path):
  evaluation.evaluate(model, tmp_path, "test", samples=0, batch_size=64)
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  evaluation.evaluate(model, tmp_path, "train", samples=0, batch_size=64, suffix="_train")
  assert {name: (tmp_path / name).read_bytes() for name in before} == before
  assert json.loads((tmp_path / "metrics_train.json").read_text())["examples"] == 8
  assert {path.name for path in tmp_path.iterdir()} - set(before) == {
    "metrics_train.json",
    "reconstructions_train.png",
    "samples_train.png",
  }


def test_data_that_have_moved_are_asked_for(tmp_path):
  model = make(tmp_path / "gone")
  with pytest.raises(
    UserError, match=r"gone, from which this run was trained, is not there; .* with --data_dir$"
  ):
    evaluation.score_split(model, "test", samples=0, batch_size=8)


def test_json_of_numbers_that_are_not_finite(tmp_path):
  path = tmp_path / "a" / "b" / "metrics.json"
  evaluation.write_json(path, {"a": math.nan, "b": 1.5, "c": -math.inf, "d": "x"})

  def refuse(word):
    raise AssertionError(word)

  content = json.loads(path.read_text(), parse_constant=refuse)
  assert content == {"a": None, "b": 1.5, "c": None, "d": "x", "nonfinite": ["a", "c"]}
  evaluation.write_json(
    tmp_path / "a.json", {"a": [1, float("nan")], "b": {"c": (2.5, float("inf"))}, "d": (1,)}
  )
  content = json.loads((tmp_path / "a.json").read_text())
  assert content == {"a": [1, None], "b": {"c": [2.5, None]}, "d": [1], "nonfinite": ["a", "b"]}
  evaluation.write_json(path, {"b": 2})
  assert json.loads(path.read_text()) == {"b": 2}
  assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_json_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("here")
  with pytest.raises(UserError, match="cannot be written"):
    evaluation.write_json(tmp_path / "file" / "metrics.json", {})
  (tmp_path / "metrics.json").mkdir()
  with pytest.raises(UserError, match=r"metrics\.json: cannot be written"):
    evaluation.write_json(tmp_path / "metrics.json", {})
  assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "metrics.json"]
  path = tmp_path / "sound.json"
  evaluation.write_json(path, {"a": 1})
  with pytest.raises(TypeError):
    evaluation.write_json(path, {"a": object()})
  assert json.loads(path.read_text()) == {"a": 1}


# --- pictures ---


def test_the_images_that_pictures_show_are_those_of_the_scores(data):
  model = make(data)
  batch = evaluation.prepared(model, "test", 3)
  assert batch["index"].tolist() == [0, 5, 11]  # from all over the split
  images = np.load(data / "test.npz")["image"][[0, 5, 11]]
  np.testing.assert_allclose(batch["image"], images / 255, rtol=1e-6)
  assert set(batch) == {"image", "index"}
  assert len(evaluation.prepared(model, "test", 99)["image"]) == NUM


@pytest.mark.parametrize(
  ("overrides", "input_shape"),
  [
    (["data.degrade.name=gaussian_noise", "data.degrade.sigma=0.8"], SHAPE),
    (["data.degrade.name=poisson_gaussian", "data.degrade.peak=2"], SHAPE),
    (["data.degrade.name=blur_down"], (3, 2, 1)),
    (["data.degrade.name=bicubic_down", "data.degrade.factor=3"], (2, 2, 1)),
  ],
)
def test_pictures_of_degraded_inputs(data, overrides, input_shape):
  """Inputs outside [0, 1], or smaller by a factor that does not divide the image."""
  model = make(data, *overrides, input_shape=input_shape)
  batch = evaluation.prepared(model, "test", 4)
  assert batch["degraded"].shape == (4, *input_shape)
  assert evaluation.reconstructions(model, batch).std() > 0
  assert evaluation.interpolations(model, batch, "spherical", 3).std() > 0


def test_own_images_of_any_size_and_mode(data, tmp_path):
  model = make(data)
  folder = tmp_path / "own"
  folder.mkdir()
  ramp = np.linspace(0, 255, 17 * 33).reshape(17, 33).astype(np.uint8)
  Image.fromarray(ramp).save(folder / "1_grey.png")
  Image.fromarray(np.dstack([ramp, ramp, ramp, ramp])).save(folder / "2_alpha.png")
  Image.fromarray(ramp[:3, :2] > 99).save(folder / "3_tiny_binary.png")
  Image.fromarray(ramp.astype(np.uint16) * 257).save(folder / "4_sixteen.png")
  Image.fromarray(np.dstack([ramp, ramp, ramp])).convert("P").save(folder / "5_palette.png")
  (folder / "notes.txt").write_text("no image")
  batch = evaluation.own_images(model, [folder], 10)
  assert batch["image"].shape == (5, *SHAPE) and batch["image"].dtype == np.float32
  assert 0 <= batch["image"].min() < batch["image"].max() <= 1
  np.testing.assert_allclose(batch["image"][3], batch["image"][0], atol=1 / 255)
  np.testing.assert_allclose(batch["image"][1], batch["image"][0], atol=1 / 255)
  assert (
    np.diff(batch["image"][0, :, :, 0].mean(axis=1)).min() > 0
  )  # upright: the ramp gets brighter downwards
  assert evaluation.reconstructions(model, batch).std() > 0
  assert len(evaluation.own_images(model, [folder], 2)["image"]) == 2
  both = evaluation.own_images(model, [folder / "4_sixteen.png", folder], 2)["image"]
  np.testing.assert_array_equal(both, batch["image"][[3, 0]])


def test_own_images_that_are_enlarged_are_named(data, tmp_path, capsys):
  model = make(data)
  for name, size in (("a.png", SHAPE[:2]), ("b.png", (SHAPE[0], SHAPE[1] - 1)), ("c.png", (3, 40))):
    Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / name)
  said = []
  for paths in (["a.png"], ["b.png"], ["a.png", "b.png", "c.png"]):
    evaluation.own_images(model, [tmp_path / name for name in paths], 3)
    said.append(capsys.readouterr().err)
  b, size = f"{tmp_path}/b.png ({SHAPE[0]} x {SHAPE[1] - 1})", f"{SHAPE[0]} x {SHAPE[1]}"
  assert said[:2] == ["", f"note: {b} is smaller than the model's {size}, so enlarged\n"]
  assert said[2] == f"note: 2 images, such as {b}, are smaller than the model's {size}, so enlarged\n"


def test_own_images_with_transparency_are_named(data, tmp_path, capsys):
  """A stroke that is in the alpha alone is not seen."""
  model = make(data)
  drawn = np.zeros((28, 28, 2), np.uint8)
  drawn[8:20, 12:16, 1] = 255
  for name, image in (("a.png", drawn), ("b.png", drawn[..., 1])):
    Image.fromarray(image).save(tmp_path / name)
  evaluation.own_images(model, [tmp_path], 2)
  err = capsys.readouterr().err
  assert f"note: {tmp_path}/a.png has transparent pixels, which are seen in their stored colours" in err
  assert "b.png" not in err


def test_own_images_of_more_than_8_bits_have_the_white_of_the_run(data, tmp_path):
  Image.fromarray(np.full(SHAPE[:2], 4095, np.uint16)).save(tmp_path / "a.png")
  for white, seen in ((0, 16 / 255), (4095, 1)):
    model = make(data, f"data.white={white}")
    image = evaluation.own_images(model, [tmp_path / "a.png"], 1)["image"]
    np.testing.assert_allclose(image, seen, rtol=1e-6)


def test_own_images_that_are_none_are_named_and_passed_over_in_folders_only(data, tmp_path, capsys):
  model, folder = make(data), tmp_path / "own"
  folder.mkdir()
  for name in ("a.png", "c.png"):
    Image.fromarray(np.full((9, 9), 99, np.uint8)).save(folder / name)
  (folder / "b.png").write_bytes(b"no picture")
  assert len(evaluation.own_images(model, [folder], 10)["image"]) == 2
  err = capsys.readouterr().err
  assert err.startswith("skipped: ") and "b.png: cannot be decoded" in err and err.count("\n") == 1
  (folder / "d.heic").write_bytes(b"")
  evaluation.own_images(model, [folder], 10)
  assert "d.heic: HEIC is not read; convert it to PNG, TIFF or JPEG\n" in capsys.readouterr().err
  (folder / "d.heic").unlink()
  with pytest.raises(UserError, match=r"b\.png: cannot be decoded"):
    evaluation.own_images(model, [folder / "a.png", folder / "b.png"], 10)
  assert len(evaluation.own_images(model, [folder], 1)["image"]) == 1  # no further than needed
  assert capsys.readouterr().err == ""
  for name in ("a.png", "c.png"):
    (folder / name).unlink()
  with pytest.raises(UserError, match=r"b\.png: cannot be decoded"):
    evaluation.own_images(model, [folder], 4)


def test_wrong_own_images_are_refused(data, tmp_path):
  model = make(data)
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match="empty: no images there"):
    evaluation.own_images(model, [tmp_path / "empty"], 4)
  (tmp_path / "broken.png").write_bytes(b"no picture")
  with pytest.raises(UserError, match=r"broken\.png: cannot be decoded"):
    evaluation.own_images(model, [tmp_path / "broken.png"], 4)


def test_interpolation_needs_two_images(model):
  with pytest.raises(UserError, match="1 image is too few"):
    evaluation.interpolations(model, evaluation.prepared(model, "test", 1), "linear")


# --- restoration ---


def doubling(data, *overrides):
  """It doubles images of any size; was trained on ones of 5 x 4, from 3 x 2."""
  overrides = ("data.degrade.name=bicubic_down", "model.channels=4,4", *overrides)
  return make(data, *overrides, input_shape=(3, 2, 1), family="restoration_vae")


@pytest.mark.slow
def test_a_restoration_model_is_scored_alike_in_every_batch_size(data):
  model = doubling(data)
  scores = evaluation.score_split(model, "test", samples=3, batch_size=64)
  other = evaluation.score_split(model, "test", samples=3, batch_size=8)
  assert_equal_scores(scores, other, rtol=1e-4)
  assert scores["latent_units"] == 6 and 0 <= scores["active_units"] <= 6 and scores["rate"] > 0
  batch = evaluation.prepared(model, "test", NUM)
  errors = (
    np.asarray(model.restore(batch["degraded"]))[:, :5, :4] - np.asarray(batch["image"], np.float64)
  ) ** 2
  np.testing.assert_allclose(scores["mse"], errors.mean(), rtol=1e-4)
  without = evaluation.score_split(doubling(data, "model.latent_dim=0"), "test", samples=2, batch_size=64)
  assert without["rate"] == without["latent_units"] == 0 and "active_units" not in without
  np.testing.assert_allclose(without["iwae_nll"], without["neg_elbo"], rtol=1e-6)


@pytest.mark.parametrize("latents", [3, 0])
def test_pictures_of_a_restoration_model_of_odd_size(data, tmp_path, latents):
  """Its images are 6 x 4 where the clean ones are 5 x 4."""
  model = doubling(data, f"model.latent_dim={latents}", "evaluation.pictures=4")
  evaluation.evaluate(model, tmp_path, "test", samples=0, batch_size=8)
  shown = {}
  for name in ("reconstructions", "samples"):
    with Image.open(tmp_path / f"{name}.png") as picture:
      shown[name] = np.asarray(picture)
      assert shown[name].std() > 0
  # Rows: input, reconstruction, clean; input, restored and three draws where there are latents.
  rows = 5 if latents else 2
  cell = 5 * math.ceil(56 / 5)
  assert shown["samples"].shape[0] >= rows * cell and shown["reconstructions"].shape[0] >= 3 * cell


def test_photographs_are_restored_whole(data, tmp_path):
  model = doubling(data)
  photo = np.random.default_rng(0).integers(60, 190, size=(70, 20), dtype=np.uint8)
  Image.fromarray(photo).save(tmp_path / "in.png")
  report = evaluation.restore_photographs(
    model, [tmp_path / "in.png"], tmp_path / "out", samples=2, seed=5, tile=16
  )
  names = ["in.png", "in_mean.png", "in_sample01.png", "in_sample02.png", "in_uncertainty.png"]
  assert sorted(p.name for p in report.written) == names and not report.failed
  image = photo[..., None].astype(np.float32) / 255
  got = {}
  for name in names[:4]:
    with Image.open(tmp_path / "out" / name) as opened:
      got[name] = np.asarray(opened, np.float64) / 255
  np.testing.assert_allclose(got["in.png"], np.asarray(model.restore(image[None]))[0, ..., 0], atol=0.6 / 255)
  key = jax.random.key(5)
  for k in range(2):
    expected = model.restore_image(image, jax.random.fold_in(key, k))[..., 0]
    np.testing.assert_allclose(got[f"in_sample0{k + 1}.png"], expected, atol=0.6 / 255)
  assert np.abs(got["in_sample01.png"] - got["in_sample02.png"]).max() > 1 / 255
  mean = (got["in_sample01.png"] + got["in_sample02.png"]) / 2
  np.testing.assert_allclose(got["in_mean.png"], mean, atol=1.1 / 255)
  evaluation.restore_photographs(model, [tmp_path / "in.png"], tmp_path / "e.png", ensemble=True)
  with Image.open(tmp_path / "e.png") as opened:
    ensemble = np.asarray(opened, np.float64) / 255
  np.testing.assert_allclose(ensemble, model.restore_image(image, ensemble=True)[..., 0], atol=0.6 / 255)
  assert np.abs(ensemble - got["in.png"]).max() > 1 / 255


def test_samples_of_a_model_without_latents_are_refused_before_any_work(data, tmp_path):
  Image.fromarray(np.full((20, 20), 99, np.uint8)).save(tmp_path / "in.png")
  model = doubling(data, "model.latent_dim=0")
  with pytest.raises(
    UserError, match=r"cannot draw restorations; restoration_vae with model.latent_dim > 0 can"
  ):
    evaluation.restore_photographs(model, [tmp_path / "in.png"], tmp_path / "out", samples=2)
  with pytest.raises(
    UserError, match=r"cannot draw restorations; restoration_vae with model.latent_dim > 0 can"
  ):
    evaluation.benchmark_folder(model, tmp_path, tmp_path / "out" / "b.json", samples=2)
  assert not (tmp_path / "out").exists()


def test_photographs_are_no_work_for_a_plain_vae(model, tmp_path, monkeypatch):
  """Said in one line, before any file is looked at: there are none."""
  words = r"this run \(mlp_vae of 5 x 4 x 1\) cannot restore photographs; restoration_vae, trans\w+_net can"
  there = ["dejpeg", "digits", "superres_x2"]  # digits draws digits
  for names, end in ([], "$"), (there, r"; --pretrained dejpeg \| superres_x2$"):
    monkeypatch.setattr(pretrained, "names", lambda names=names: names)
    for samples in 0, 2:
      with pytest.raises(UserError, match=words + end):
        evaluation.restore_photographs(model, [tmp_path / "no.png"], tmp_path / "out", samples=samples)
      with pytest.raises(UserError, match=words + end):
        evaluation.benchmark_folder(model, tmp_path / "no", tmp_path / "b.json", samples=samples)


def test_how_far_a_photograph_is(data, tmp_path, monkeypatch, capsys):
  """A line before anything is compiled; then every tile of every draw counts."""
  model, seen = doubling(data), []
  photo = np.random.default_rng(0).integers(60, 190, size=(40, 20), dtype=np.uint8)
  Image.fromarray(photo).save(tmp_path / "in.png")
  update = FileProgress.update
  monkeypatch.setattr(
    FileProgress,
    "update",
    lambda self, what, done, total, **k: (seen.append((done, total)), update(self, what, done, total, **k)),
  )
  monkeypatch.setattr(type(model.module), "radius", 2)
  evaluation.restore_photographs(
    model, [tmp_path / "in.png"], tmp_path / "out", samples=1, tile=16, ensemble=True
  )
  assert capsys.readouterr().err.startswith("restoring in.png: 0 %, compiling\n")
  tiles = 3  # windows of 16 rows and 2 more on each side, from rows 0, 16 and 20
  expected = [i / (8 * tiles) for i in range(8 * tiles + 1)] + [1 + i / tiles for i in range(1, tiles + 1)]
  np.testing.assert_allclose(sorted({done for done, _ in seen}), expected)
  assert {total for _, total in seen} == {2} and [done for done, _ in seen] == sorted(d for d, _ in seen)


def test_a_folder_is_benchmarked(data, tmp_path):
  model = doubling(data)
  (tmp_path / "clean").mkdir()
  random = np.random.default_rng(0)
  for i in range(3):
    Image.fromarray(random.integers(0, 256, size=(21, 18 + i), dtype=np.uint8)).save(
      tmp_path / "clean" / f"{i}.png"
    )
  path = tmp_path / "out" / "b.json"
  scores = evaluation.benchmark_folder(model, tmp_path / "clean", path, limit=2, samples=2, tile=16)
  assert json.loads(path.read_text()) == json.loads(json.dumps(scores))
  assert [(s["name"], s["height"], s["width"]) for s in scores["images"]] == [
    ("0.png", 20, 18),
    ("1.png", 20, 18),
  ]
  assert {"ours", "draw 1", "draw 2", "bicubic"} < set(scores["mean"])
  assert 0 <= scores["uncertainty"]["coverage"] <= 1
  with Image.open(tmp_path / "out" / "b.png") as sheet:
    assert np.asarray(sheet).std() > 0


def test_a_folder_is_benchmarked_with_another_degradation(data, tmp_path, monkeypatch):
  model, seen = doubling(data), []
  Image.fromarray(np.full((20, 20), 99, np.uint8)).save(tmp_path / "a.png")

  def benchmark(restore, folder, degrade, **options):
    seen.append(dict(degrade))
    return {}, np.zeros((4, 4, 3), np.uint8)

  monkeypatch.setattr("vae_jax.evaluation.photographs.benchmark", benchmark)
  chain = "down 2 box; jpeg 50"
  evaluation.benchmark_folder(model, tmp_path, tmp_path / "b.json", degrade=chain)
  assert seen == [{"name": "chain", "chain": chain}] and (tmp_path / "b.png").is_file()
  (tmp_path / "b.png").unlink()
  with pytest.raises(
    UserError, match=r"'noise 3' has a factor of 1, the model has 2; write 'down 2 bicubic'"
  ):
    evaluation.benchmark_folder(model, tmp_path, tmp_path / "b.json", degrade="noise 3")
  Image.fromarray(np.full((10, 10), 99, np.uint8)).save(tmp_path / "a_LR.png")
  with pytest.raises(UserError, match=r"has no effect on .* pairs"):
    evaluation.benchmark_folder(model, tmp_path, tmp_path / "b.json", degrade=chain)
  assert len(seen) == 1
