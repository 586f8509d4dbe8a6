"""What a model makes of a split's images: rows in order, of latents or of vectors of codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trained import spec_of, trained

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data import pipeline
from vae_jax.errors import UserError
from vae_jax.evaluation import open_split
from vae_jax.evaluation.latents import encoded_images, width

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 1), np.uint8)
SMALL = {
  "mlp_vae": ["model.hidden=6", "model.latent_dim=3"],
  "rae": ["model.channels=4", "model.latent_dim=3", "model.dense=4"],
  "vq_vae": ["model.channels=4,4", "model.codes=6", "model.code_dim=2", "model.levels=2"],
  "vq_vae_2": ["model.channels=4,4", "model.codes=6", "model.code_dim=2"],
  "restoration_vae": ["model.channels=4", "model.latent_dim=2", "data.degrade.name=gaussian_noise"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  np.savez(folder / "test.npz", image=IMAGES, label=np.arange(11, dtype=np.int32))
  return folder


def model_of(folder, family):
  words = ["data.name=npz", f"data.dir={folder}", *SMALL[family]]
  return trained(apply_overrides(base_config(family), words), spec_of((8, 8, 1)), scale=0.5)


@pytest.mark.parametrize("family", ["mlp_vae", "rae", "vq_vae", "vq_vae_2"])
def test_rows_are_those_of_the_images_in_order(folder, family):
  model = model_of(folder, family)
  chosen = pipeline.Chosen(open_split(model, "test"), [9, 2, 3, 5, 10])
  found = encoded_images(model, chosen, "test", 2, 0, ["means", "pixels", "label", "draws"])
  images = IMAGES[[9, 2, 3, 5, 10]]
  coded = model.can("tokens")
  means = model.code_vectors(images) if coded else model.encode(images).mean
  np.testing.assert_allclose(found.rows["means"], means, rtol=1e-5, atol=1e-6)
  assert found.rows["means"].shape == (5, width(model)) and found.rows["label"].tolist() == [9, 2, 3, 5, 10]
  np.testing.assert_allclose(found.rows["pixels"], images.reshape(5, -1) / 255, rtol=1e-6)
  assert found.spread == (family == "mlp_vae")
  assert found.spread != np.array_equal(found.rows["means"], found.rows["draws"])


@pytest.mark.parametrize("family", ["vq_vae", "vq_vae_2"])
def test_vectors_of_codes_are_what_the_decoder_sees(folder, family):
  model = model_of(folder, family)
  vectors, codes = np.asarray(model.code_vectors(IMAGES)), np.asarray(model.tokens(IMAGES))
  whole = sum(h * w * 2 for h, w, _ in model.module.layout)
  assert vectors.shape == (11, whole) and len(np.unique(vectors, axis=0)) == len(np.unique(codes, axis=0)) > 1
  if family == "vq_vae":
    positions = jnp.asarray(vectors.reshape(11, -1, 2))
    pixels = model.module.apply(model.variables, positions, method="pixels")
    likelihood = model.module.likelihood
    np.testing.assert_allclose(likelihood.mean(pixels, 0.0), model.reconstruct(IMAGES), atol=1e-5)
  else:  # the coarse map first: its vectors are rows of its book
    books = [np.asarray(model.variables["codebook"][f"levels_{i}"]["codes"]) for i in range(2)]
    h, w, _ = model.module.layout[0]
    parts = np.split(codes, [h * w], axis=1)
    expected = [book[part].reshape(11, -1) for book, part in zip(books, parts, strict=True)]
    np.testing.assert_array_equal(vectors, np.concatenate(expected, axis=1))


def test_a_model_without_latents_and_latents_that_are_not_finite_are_refused(folder):
  with pytest.raises(
    UserError, match=r"this run \(restoration_vae .*cannot encode images into latents; .* can"
  ):
    model = model_of(folder, "restoration_vae")
    encoded_images(model, open_split(model, "test"), "test", 4, 0, ["means"])
  model = model_of(folder, "mlp_vae")
  model.variables = jax.tree.map(lambda x: x * np.nan, model.variables)
  with pytest.raises(UserError, match="the latents of 11 of the 11 images of test are not finite"):
    encoded_images(model, open_split(model, "test"), "test", 4, 0, ["means"])
