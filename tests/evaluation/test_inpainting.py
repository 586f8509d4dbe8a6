"""Masks from boxes and files; figures of completions against those by hand; what a person is told."""

import numpy as np
import pytest
from PIL import Image
from trained import spec_of, trained

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data import pipeline
from vae_jax.errors import UserError
from vae_jax.evaluation import inpainting

SHAPE = (4, 6, 1)
IMAGES = np.random.default_rng(0).integers(0, 2, (5, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
  words = ["model.hidden=4", "model.latent_dim=2"]
  return trained(apply_overrides(base_config(), words), spec_of(SHAPE), scale=0.5)


def test_a_box_is_left_top_width_height(model):
  expected = np.zeros((4, 6), bool)
  expected[1:4, 2] = True
  np.testing.assert_array_equal(inpainting.box_mask(model, "2,1,1,3"), expected)
  assert inpainting.box_mask(model, "0,0,6,4").all()


@pytest.mark.parametrize("box", ["0,0,0,2", "0,0,2,0", "5,0,2,1", "0,3,1,2"])
def test_a_box_outside_or_without_a_pixel_is_refused(model, box):
  with pytest.raises(UserError, match=rf"--box {box} must be x,y,w,h within images of 6 x 4"):
    inpainting.box_mask(model, box)


def test_white_is_hidden_in_a_file_of_the_models_size(model, tmp_path):
  grey = np.zeros((4, 6), np.uint8)
  grey[0, :3], grey[2, 5] = 255, 250
  for kind, pixels in {"grey": grey, "colour": np.repeat(grey[..., None], 3, axis=2)}.items():
    Image.fromarray(pixels).save(tmp_path / f"{kind}.png")
    mask, notes = inpainting.mask_file(model, tmp_path / f"{kind}.png")
    np.testing.assert_array_equal(mask, grey > 0)
    assert notes == []
  opaque = np.dstack([np.repeat(grey[..., None], 3, axis=2), np.full((4, 6), 255, np.uint8)])
  Image.fromarray(opaque).save(tmp_path / "opaque.png")
  np.testing.assert_array_equal(inpainting.mask_file(model, tmp_path / "opaque.png")[0], grey > 0)


@pytest.mark.parametrize("size", [(12, 18), (8, 12), (13, 31), (40, 24), (2, 3)])
def test_a_file_of_another_size_lies_where_an_image_of_that_size_would(model, tmp_path, size):
  """A step of brightness from left to right and from top to bottom, through the mask and as a person's image."""
  h, w = size
  grey = np.zeros(size, np.uint8)
  grey[h // 2 :, w // 2 :] = 255
  Image.fromarray(grey).save(tmp_path / "mask.png")
  mask, notes = inpainting.mask_file(model, tmp_path / "mask.png")
  image = pipeline.fit({"image": grey[..., None]}, (4, 6), "resize", None)["image"][..., 0]
  sure = np.abs(image.astype(int) - 128) > 64  # not at the edge, which bicubic resizing blurs
  assert sure.mean() > 0.5
  np.testing.assert_array_equal(mask[sure], image[sure] > 128)
  assert notes == [f"the mask, {w} x {h}, is scaled to 6 x 4 and cut as images are, by nearest pixels"]


def test_images_of_another_form_than_the_mask_are_told(model, tmp_path):
  """A tall photograph loses other parts than a wide mask. One larger by a whole factor lies as the mask does."""
  sizes = {"mask": (8, 18), "alike": (16, 36), "rounded": (24, 55), "tall": (36, 16), "fit": (4, 6)}
  for name, size in sizes.items():
    Image.fromarray(np.full(size, 255, np.uint8)).save(tmp_path / f"{name}.png")
  (tmp_path / "none.png").write_text("no picture")
  images = [tmp_path / f"{name}.png" for name in ("alike", "rounded", "tall", "none")]
  notes = inpainting.mask_file(model, tmp_path / "mask.png", images)[1]
  assert notes[1:] == ["1 of 4 images have another form than the mask, which lies elsewhere on them"]
  assert len(inpainting.mask_file(model, tmp_path / "mask.png", images[:2])[1]) == 1
  assert inpainting.mask_file(model, tmp_path / "fit.png", images)[1] == []  # drawn over what the model sees


def test_what_is_no_mask_is_refused_or_said(model, tmp_path):
  colours = np.zeros((4, 6, 3), np.uint8)
  colours[1, 1] = 255, 0, 0
  clear = np.dstack([np.zeros((4, 6, 3), np.uint8), np.arange(24, dtype=np.uint8).reshape(4, 6)])
  for name, pixels, message in (("red", colours, "has colours"), ("clear", clear, "has transparency")):
    Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=rf"--mask .*{name}\.png {message}; give one of black and white"):
      inpainting.mask_file(model, tmp_path / f"{name}.png")
  (tmp_path / "text.png").write_text("no picture")
  with pytest.raises(UserError, match=r"text\.png: cannot be decoded as an image"):
    inpainting.mask_file(model, tmp_path / "text.png")
  grey = np.full((4, 6), 127, np.uint8)
  grey[0, 0] = 128
  Image.fromarray(grey).save(tmp_path / "grey.png")
  mask, notes = inpainting.mask_file(model, tmp_path / "grey.png")
  assert mask.sum() == 1 and notes == ["24 pixels of the mask are grey; those from 128 on are hidden"]


HOW = {"samples": 3, "steps": 20, "seed": 4}


def test_figures_are_those_of_the_completions(model):
  """In batches of two of five images, the last of which is filled up."""
  mask = inpainting.box_mask(model, "0,0,6,2")
  batch = {"image": IMAGES, "index": np.arange(10, 15)}
  found, picture = inpainting.inpaint_images(model, batch, mask, batch_size=2, **HOW)
  whole = model.inpaint(IMAGES, mask, 4, samples=3, steps=20)
  completed = np.asarray(whole.images, np.float64)
  error = np.square(completed - IMAGES)[:, :, :2].mean(axis=(2, 3, 4))
  of_mean = np.square(completed.mean(axis=0) - IMAGES)[:, :2].mean(axis=(1, 2, 3))
  for i, one in enumerate(found["each"]):
    assert one["image"] == 10 + i
    np.testing.assert_allclose(one["psnr"], -10 * np.log10(error[:, i]), rtol=1e-3)
    np.testing.assert_allclose(one["psnr_of_mean"], -10 * np.log10(of_mean[i]), rtol=1e-3)
    np.testing.assert_allclose(one["acceptance"], whole.acceptance[:, i], rtol=1e-3)
    np.testing.assert_allclose(one["log_likelihood_nats"], whole.log_likelihood[:, i], rtol=1e-3)
    np.testing.assert_allclose(one["rhat"], whole.rhat[i], rtol=1e-2)
  np.testing.assert_allclose(found["psnr"], np.mean(-10 * np.log10(error)), rtol=1e-3)
  np.testing.assert_allclose(found["acceptance"], np.mean(whole.acceptance), rtol=1e-3)
  assert (found["images"], found["hidden_pixels"], found["pixels"]) == (5, 12, 24)
  assert found["prior"] == "N(0, I)" and found["seed"] == 4 and found["step"] == 1
  assert picture.dtype == np.uint8 and picture.shape[0] > picture.shape[1] * 0.5
  lines = list(inpainting.inpaint_lines(found))
  assert lines[0].startswith("5 images, 12 of 24 pixels hidden; 3 completions each, 20 steps")
  assert "dB" in lines[1] and "nats" in lines[2] and "%" in lines[3]


def test_what_spoils_completions_is_said(model):
  facts = {"images": 4, "samples": 2, "stuck_chains": 3, "images_apart": 1}
  grey = np.full((4, 3, 1), 0.5, np.float32)
  notes = list(inpainting._notes(model, facts, grey))
  assert [note.split(":")[0] for note in notes] == [
    "3 of 8 chains took less than 10% of their moves",
    "the chains of 1 of 4 images disagree (R-hat above 2)",
    "observed pixels have grey levels, of which Bernoulli is no likelihood",
  ]
  none = {**facts, "stuck_chains": 0, "images_apart": 0}
  assert list(inpainting._notes(model, none, np.ones((4, 3, 1), np.float32))) == []
  gan = trained(
    apply_overrides(base_config("vae_gan"), ["model.channels=2", "model.latent_dim=2", "model.dense=3"]),
    spec_of((8, 8, 1)),
  )
  assert "has no likelihood of pixels" in next(iter(inpainting._notes(gan, none, grey)))


def test_a_completion_without_an_error_has_no_finite_psnr():
  truth = np.zeros((2, 3, 1), np.float32)
  found = inpainting._psnr(np.stack([truth, truth + 0.1]), truth)
  np.testing.assert_allclose(found, [[np.inf, np.inf], [20, 20]], rtol=1e-5)
