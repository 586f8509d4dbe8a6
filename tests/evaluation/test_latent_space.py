"""Pictures of a latent space: what is in each cell, against NumPy's own."""

import re

import jax
import numpy as np
import pytest
from PIL import Image
from trained import spec_of, trained

from vae_jax import evaluation, inference, pictures
from vae_jax.cli.evaluate import main
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.evaluation import latent_space

SHAPE = (6, 6, 1)
SMALL = ("model.hidden=4", "model.latent_dim=3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Data in three splits."""
  place, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
  for split, count in (("train", 20), ("validation", 4), ("test", 12)):
    images = random.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    np.savez(place / f"{split}.npz", image=images, label=np.arange(count) % 2)
  return place


def model_of(family, folder, *overrides):
  words = [*SMALL, "data.name=npz", f"data.dir={folder}", "data.size=6,6", *overrides]
  config = apply_overrides(base_config(family), words)
  spec = spec_of(SHAPE) | ({"label": jax.ShapeDtypeStruct((), np.int32)} if family == "cvae" else {})
  return trained(config, spec)


def command(model, place, *words):
  inference.export(model, place / "model")
  main(["--workdir", str(place / "model"), *map(str, words)])


def test_directions_are_the_eigenvectors_of_the_covariance():
  random = np.random.default_rng(0)
  means = random.normal(size=(50, 4)) @ random.normal(size=(4, 4)) + 3
  found = latent_space.principal_directions(means, 3)
  values, vectors = np.linalg.eigh(np.cov(means.T))
  np.testing.assert_allclose(np.square(found.deviations), values[::-1][:3], rtol=1e-9)
  np.testing.assert_allclose(np.abs((found.axes * vectors.T[::-1][:3]).sum(1)), 1, rtol=1e-9)
  np.testing.assert_allclose(found.shares, values[::-1][:3] / values.sum(), rtol=1e-9)
  np.testing.assert_allclose(found.centre, means.mean(0))
  assert len(latent_space.principal_directions(means[:3], 4).axes) == 2  # three points lie in a plane
  with pytest.raises(UserError, match="1 image has no directions"):
    latent_space.principal_directions(means[:1], 2)
  alike = np.float32(means[:1]) * (1 + 1e-7 * random.normal(size=(9, 1))).astype(np.float32)
  with pytest.raises(UserError, match="the latents of all 9 images are alike, so they have no directions"):
    latent_space.principal_directions(alike, 2)


def test_a_walk_is_closed_and_leads_through_draws_of_the_prior(folder):
  model = model_of("mlp_vae", folder)
  frames = list(latent_space.walk(model, 2, seed=3, stops=3, steps=4))
  z = np.asarray(model.latents(3, 6)).reshape(2, 3, 3)
  assert len(frames) == 12
  for stop in range(3):
    np.testing.assert_array_equal(frames[4 * stop], pictures.grid(model.decode(z[:, stop])))
  halfway = inference.slerp(z[:, 2], z[:, 0], np.array([0.75]))[
    0
  ]  # the last frame is on the way back to the first
  np.testing.assert_allclose(frames[-1].astype(int), pictures.grid(model.decode(halfway)), atol=1)


def test_a_walk_of_labels_keeps_them(folder):
  model = model_of("cvae", folder, "model.classes=2")
  by_turn = next(latent_space.walk(model, 2, stops=2, steps=1))
  z = np.asarray(model.latents(0, 4, label=[0, 0, 1, 1])).reshape(2, 2, 3)
  np.testing.assert_array_equal(by_turn, pictures.grid(model.decode(z[:, 0], label=[0, 1])))
  assert not np.array_equal(next(latent_space.walk(model, 2, label=1, stops=2, steps=1)), by_turn)
  with pytest.raises(UserError, match="knows no label"):
    next(latent_space.walk(model_of("mlp_vae", folder), 2, label=1))


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_the_animation(folder, tmp_path, capsys, suffix):
  command(
    model_of("mlp_vae", folder), tmp_path, "--mode", "walk", "--num", 4, "--output", tmp_path / f"w.{suffix}"
  )
  assert capsys.readouterr().out == f"wrote {tmp_path}/w.{suffix}\n"
  with Image.open(tmp_path / f"w.{suffix}") as opened:
    assert opened.n_frames == 60 and opened.info["loop"] == 0 and opened.format == suffix.upper()


def test_an_animation_has_the_colours_of_its_frames(tmp_path):
  frames = [np.full((8, 8, 3), level, np.uint8) for level in ((200, 30, 60), (10, 20, 250))]
  for name in ("a.gif", "a.webp"):
    pictures.save_animation(tmp_path / name, frames)
    with Image.open(tmp_path / name) as opened:
      for i, frame in enumerate(frames):
        opened.seek(i)
        assert np.abs(np.asarray(opened.convert("RGB")).astype(int) - frame).max() <= 4


def test_a_traversal_passes_through_its_start(folder):
  model = model_of("mlp_vae", folder)
  means = np.random.default_rng(1).normal(size=(30, 3)).astype(np.float32)
  known = latent_space.principal_directions(means, 2)
  rows = []
  for start in (None, np.array([1.0, 0.0, -1.0], np.float32)):
    middle = known.centre if start is None else start
    z = [middle + n * known.deviations[i] * known.axes[i] for i in range(2) for n in np.linspace(-3, 3, 9)]
    cells = np.asarray(model.decode(np.stack(z).astype(np.float32))).reshape(2, 9, *SHAPE)
    np.testing.assert_array_equal(cells[0, 4], cells[1, 4])
    rows.append(latent_space.traversals(model, known, start, {}))
    expected = pictures.compare(
      *cells, columns=9, labels=[f"{i + 1}: {100 * known.shares[i]:.0f} %" for i in (0, 1)]
    )
    np.testing.assert_allclose(rows[-1].astype(int), expected, atol=1)
  assert not np.array_equal(*rows)


def test_single_latents_are_set_whatever_the_start(folder):
  means = np.random.default_rng(1).normal(size=(30, 3)) * [0.5, 2.0, 1.0] + 1
  known = latent_space.unit_directions(means, num=2)
  np.testing.assert_array_equal(known.axes, np.eye(3)[[1, 2]])
  np.testing.assert_allclose(known.deviations, means.std(axis=0, ddof=1)[[1, 2]])
  start = latent_space.centred(known, np.array([5.0, 6.0, 7.0]))
  np.testing.assert_allclose(start, [[5, means[:, 1].mean(), 7], [5, 6, means[:, 2].mean()]])
  assert [label.split(":")[0] for label in latent_space.labels(known)] == ["z1", "z2"]
  named = latent_space.unit_directions(means, [2, 0])
  np.testing.assert_array_equal(named.axes, np.eye(3)[[2, 0]])
  with pytest.raises(UserError, match="unit 3: the model has the units 0 to 2; give some of them"):
    latent_space.unit_directions(means, [0, 3])
  model = model_of("mlp_vae", folder)
  rows = latent_space.traversed(model, known, start, {}, np.array([0.0, 2.0]))
  z = np.stack([start[1], start[1] + [0, 0, 2 * known.deviations[1]]]).astype(np.float32)
  np.testing.assert_allclose(rows[1], model.decode(z), atol=1e-6)
  frames = list(latent_space.swings(model, known, start, {}, steps=4))
  ends = latent_space.traversed(model, known, start, {}, np.array([-3.0, 3.0]))
  assert len(frames) == 8
  for frame, end in ((frames[0], 0), (frames[4], 1)):
    shown = pictures.compare(*ends[:, end : end + 1], labels=latent_space.labels(known))
    np.testing.assert_allclose(frame.astype(int), shown, atol=1)


def test_units_by_command(folder, tmp_path, capsys):
  model, place = model_of("mlp_vae", folder), tmp_path / "u"
  command(model, place, "--mode", "traverse", "--units", "2,0", "--output", tmp_path / "u.png")
  means = latent_space.encoded(model, evaluation.prepared(model, "test", 12), 12)
  expected = latent_space.traversals(model, latent_space.unit_directions(means, [2, 0]), None, {})
  np.testing.assert_allclose(np.asarray(Image.open(tmp_path / "u.png")).astype(int), expected[..., 0], atol=1)
  run = ["--workdir", str(place / "model"), "--mode", "traverse"]
  main([*run, "--units", "most", "--num", "2", "--output", str(tmp_path / "u.gif")])
  with Image.open(tmp_path / "u.gif") as opened:
    assert opened.n_frames == 24
  main([*run, "--units", " 1, 0"])
  assert len(list((place / "model" / "evaluation").glob("traverse_units-1-0-*.png"))) == 1
  with pytest.raises(UserError, match="--num 3 has no effect on the units that --units names"):
    main([*run, "--units", "0", "--num", "3"])
  for units in ("", "-1", "1,", "x", "1;2", "9" * 12):
    with pytest.raises(UserError, match="must be most, or whole numbers such as 3,0,7"):
      main([*run, f"--units={units}"])


def test_traverse_by_command(folder, tmp_path, capsys):
  command(model_of("mlp_vae", folder), tmp_path, "--mode", "traverse", "--output", tmp_path / "t.png")
  assert (tmp_path / "t.png").exists()
  conditional = model_of("cvae", folder, "model.classes=2")
  with pytest.raises(UserError, match="needs a label for the images; give --label"):
    command(conditional, tmp_path / "c", "--mode", "traverse")
  command(conditional, tmp_path / "d", "--mode", "traverse", "--label", 1, "--output", tmp_path / "u.png")
  assert "wrote" in capsys.readouterr().out


def test_traverse_takes_one_image_and_data_that_have_moved(folder, tmp_path):
  model = model_of("mlp_vae", folder)
  files = [tmp_path / "a.png", tmp_path / "b.png"]
  for file in files:
    Image.new("L", (6, 6), 90).save(file)
  for given in (files, [tmp_path]):
    with pytest.raises(UserError, match="traverse starts from one image; give one image file"):
      command(model, tmp_path / str(len(given)), "--mode", "traverse", "--input", *given)
  model.config.data.dir = str(tmp_path / "nowhere")
  moved = ["--data_dir", folder, "--split", "train", "--output", tmp_path / "t.png"]
  command(model, tmp_path / "m", "--mode", "traverse", "--input", files[0], *moved)
  there = model_of("mlp_vae", folder)
  means = latent_space.encoded(there, evaluation.prepared(there, "train", 20), 20)
  known = latent_space.principal_directions(means, 8)
  start = np.asarray(model.encode(np.full((1, *SHAPE), 90, np.uint8)).mean)[0]
  expected = latent_space.traversals(model, known, start, {})
  np.testing.assert_allclose(np.asarray(Image.open(tmp_path / "t.png")).astype(int), expected[..., 0], atol=1)


def test_an_attribute_is_the_difference_of_two_means(folder):
  model, random = model_of("mlp_vae", folder), np.random.default_rng(2)
  present, absent = random.normal(size=(5, 3)) + 1, random.normal(size=(7, 3))
  images = random.uniform(size=(2, *SHAPE)).astype(np.float32)
  means = np.asarray(model.encode(images).mean)
  got = latent_space.attribute(model, {"image": images}, means, present, absent)
  away = present.mean(0) - absent.mean(0)
  cells = [images, *(model.decode((means + s * away).astype(np.float32)) for s in (-1, -0.5, 0, 0.5, 1, 1.5))]
  cells = np.stack([np.asarray(x) for x in cells], axis=1).reshape(-1, *SHAPE)
  np.testing.assert_allclose(got.astype(int), pictures.grid(cells, columns=7), atol=1)
  with pytest.raises(UserError, match="the 5 without have the same mean latents"):
    latent_space.attribute(model, {"image": images}, means, present, present[::-1])


def test_latents_that_are_not_finite_are_refused(folder):
  model, images = model_of("mlp_vae", folder), np.zeros((3, *SHAPE), np.float32)
  model.variables = jax.tree.map(lambda x: x * np.nan, model.variables)
  with pytest.raises(UserError, match="the latents of 3 of 3 images are not finite"):
    latent_space.encoded(model, {"image": images}, 2)


def test_attribute_by_command(folder, tmp_path, capsys):
  model, random = model_of("mlp_vae", folder), np.random.default_rng(3)
  for name, count in (("with", 2), ("without", 3)):
    (tmp_path / name).mkdir()
    for i in range(count):
      Image.fromarray(random.integers(0, 256, (6, 6), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
  both = ["--input", tmp_path / "with", tmp_path / "without"]
  command(model, tmp_path, "--mode", "attribute", *both, "--num", 2, "--output", tmp_path / "a.png")
  assert (
    ": 2 examples with the attribute, 3 without; columns: the image, then -1, -0.5, 0, +0.5, +1"
    in capsys.readouterr().out
  )
  with pytest.raises(UserError, match="needs two folders of examples, not 1"):
    command(model, tmp_path / "m", "--mode", "attribute", "--input", tmp_path / "with")
  model.config.data.dir = str(tmp_path / "nowhere")
  with pytest.raises(UserError, match="is not there; give the place of the data with --data_dir"):
    command(model, tmp_path / "n", "--mode", "attribute", *both)
  moved = ["--data_dir", folder, "--split", "train[:3]", "--output", tmp_path / "b.png"]
  command(model, tmp_path / "o", "--mode", "attribute", *both, *moved)
  assert (tmp_path / "b.png").exists()


@pytest.mark.parametrize(("flip", "rotate"), [(False, False), (True, False), (True, True)])
def test_the_nearest_images_are_those_of_all_pairs(folder, flip, rotate):
  model = model_of("mlp_vae", folder, f"data.flip={flip}", f"data.rotate={rotate}")
  images = np.random.default_rng(4).uniform(size=(5, *SHAPE)).astype(np.float32)
  found = latent_space.nearest(model, images, "train", size=7)
  with np.load(folder / "train.npz") as stored:
    train = stored["image"]
  turned = [np.rot90(train, turns, (1, 2)) for turns in range(4 if rotate else 1)]
  candidates = np.concatenate([*turned, *(x[:, :, ::-1] for x in turned)] if flip else turned)
  away = np.sqrt(np.square(images[:, None] - candidates[None] / 255).mean(axis=(2, 3, 4)))
  order = away.argsort(axis=1)[:, :3]
  np.testing.assert_allclose(found.distances, np.take_along_axis(away, order, 1), rtol=1e-5)
  np.testing.assert_array_equal(found.images, candidates[order])
  itself = latent_space.nearest(model, np.float32(candidates[-2:] / 255), "train", size=20)
  np.testing.assert_allclose(itself.distances[:, 0], 0, atol=1e-6)
  np.testing.assert_array_equal(itself.images[:, 0], candidates[-2:])


def test_images_that_are_not_finite_have_no_neighbours(folder):
  images = np.full((4, *SHAPE), 0.5, np.float32)
  images[1, 2, 3], images[2, 0, 0] = np.nan, np.inf
  with pytest.raises(UserError, match="the pixels of 2 of 4 images are not finite"):
    latent_space.nearest(model_of("mlp_vae", folder), images, "train", size=7)


def test_neighbours_by_command(folder, tmp_path, capsys):
  command(
    model_of("mlp_vae", folder), tmp_path, "--mode", "neighbours", "--num", 3, "--output", tmp_path / "n.png"
  )
  out = capsys.readouterr().out
  assert out.startswith(f"wrote {tmp_path}/n.png\nmedian distance to the nearest training image")
  assert ": samples 0." in out and ", reconstructions of test images 0." in out and ", test images 0." in out


def test_neighbours_compares_test_images_as_stored_and_as_reconstructed(folder, tmp_path, capsys):
  noisy = ("data.binarize=dynamic", "data.degrade.name=gaussian_noise", "data.degrade.sigma=0.3")
  model = model_of("mlp_vae", folder, *noisy)
  command(model, tmp_path, "--mode", "neighbours", "--num", 3, "--output", tmp_path / "n.png")
  said = re.findall(r"(?:reconstructions of )?test images ([\d.]+)", capsys.readouterr().out)
  with np.load(folder / "test.npz") as held, np.load(folder / "train.npz") as stored:
    test, train = held["image"][[0, 4, 8]] / 255, stored["image"] / 255
  inputs = evaluation.prepared(model, "test", 3)["degraded"]
  for images, words in zip((np.asarray(model.reconstruct(inputs)), test), said, strict=True):
    nearest = np.sqrt(np.square(images[:, None] - train).mean(axis=(2, 3, 4))).min(axis=1)
    assert float(words) == pytest.approx(np.median(nearest), abs=1e-4)
