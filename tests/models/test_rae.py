"""Regularised autoencoders: each regulariser against a computation without tricks, and how they train."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import filled, mode
from trained import trained

from vae_jax import distributions as dist
from vae_jax import evaluation
from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.errors import UserError
from vae_jax.models import build, rae, spectral
from vae_jax.models.contract import init_variables
from vae_jax.types import image_spec

SPEC = image_spec((4, 4, 1))
IMAGES = np.random.default_rng(0).uniform(size=(3, 4, 4, 1)).astype(np.float32)
SMALL = "model.channels=4 model.blocks=1 model.dense=5 model.latent_dim=3"


def configured(*words):
  config = apply_overrides(base_config("rae"), [*SMALL.split(), *words])
  validate(config)
  return config


def built(regulariser):
  return build(configured(f"model.regulariser={regulariser}").model, SPEC)


@functools.cache
def params():
  return filled(built("l2"), SPEC)


@functools.cache
def scored(regulariser, copies=0, key=0):
  """The output for the images, or for many copies of the first, and the keys of the examples."""
  images = np.repeat(IMAGES[:1], copies, axis=0) if copies else IMAGES
  keys = jax.random.split(jax.random.key(key), len(images))
  apply = jax.jit(lambda p: built(regulariser).apply({"params": p}, {"image": images}, keys, mode()))
  return apply(params()), keys


def decoded(z):
  """What the decoder gives for latents, without the model around it."""
  return built("l2").decoder.clone(parent=None).apply({"params": params()["decoder"]}, z)


def test_the_distortion_is_the_squared_error_and_a_constant():
  output, _ = scored("l2")
  z = np.asarray(output.latents["z"], np.float64)
  error = np.square(IMAGES - (0.5 + np.float64(decoded(jnp.asarray(z, jnp.float32))))).sum((1, 2, 3))
  np.testing.assert_allclose(output.terms["distortion"] - 8 * np.log(np.pi), error, rtol=2e-4)
  np.testing.assert_allclose(output.terms["latent_norm"], np.square(z).sum(1) / 2, rtol=1e-5)


def test_l2_is_the_sum_of_the_squares_of_the_decoders_kernels():
  output, _ = scored("l2")
  kernels = [
    x for path, x in jax.tree_util.tree_leaves_with_path(params()["decoder"]) if path[-1].key == "kernel"
  ]
  assert len(kernels) == 6
  np.testing.assert_allclose(
    output.terms["regulariser"], [sum(np.square(np.float64(k)).sum() for k in kernels)] * 3, rtol=1e-5
  )
  slope = jax.grad(lambda p: rae.squared_kernels({"a": {"kernel": p, "bias": p}}))(jnp.asarray([[2.0, -3.0]]))
  np.testing.assert_allclose(slope, [[4, -6]])


def test_the_gradient_penalty_is_that_of_the_whole_jacobian():
  """Directions that are the pixels one by one give the sum; drawn ones give each and, about, the mean."""
  output, keys = scored("gp")
  z = output.latents["z"]
  jacobians = np.float64(jax.jit(jax.vmap(jax.jacfwd(lambda z: decoded(z[None])[0].reshape(-1))))(z))
  assert jacobians.shape == (3, 16, 3)
  whole = np.square(jacobians).sum((1, 2))
  one = jax.jit(
    lambda v: rae.gradient_penalty(decoded, z, jnp.broadcast_to(v.reshape(1, 4, 4, 1), (3, 4, 4, 1)))
  )
  np.testing.assert_allclose(sum(one(v) for v in np.eye(16, dtype=np.float32)), whole, rtol=1e-4)
  drawn = [np.float64(jax.random.normal(key, (16,))) for key in keys]
  expected = [np.square(v @ jacobian).sum() for v, jacobian in zip(drawn, jacobians, strict=True)]
  np.testing.assert_allclose(output.terms["regulariser"], expected, rtol=1e-4)
  many, _ = scored("gp", copies=1024, key=1)
  assert 4 * np.sqrt(2 / 1024) < 0.18  # of the mean of so many, where one direction has all of |J|
  np.testing.assert_allclose(many.terms["regulariser"].mean(), whole[0], rtol=0.18)


def test_spectral_normalisation_divides_the_decoders_kernels_alone():
  """Vectors move with `absorb`, and the decoder is that of kernels with a largest singular value of 1."""
  model = built("sn")
  assert model.terms == ("distortion", "latent_norm")
  variables = {
    "params": params(),
    "spectral": {"vectors": spectral.fresh(params()["decoder"], jax.random.key(0))},
  }
  like = jax.eval_shape(lambda: init_variables(model, SPEC, jax.random.key(0)))
  assert jax.tree.map(lambda x: x.shape, variables) == jax.tree.map(lambda x: x.shape, like)
  keys = jax.random.split(jax.random.key(0), 3)

  def output(variables, training):
    return model.apply(variables, {"image": IMAGES}, keys, mode(training=training))

  @jax.jit
  def looked_at(variables):
    """After 100 iterations: the statistics of an evaluation, latents, pixels and reconstructions."""
    step = lambda _, found: model.absorb(found, output(found, True).statistics)  # noqa: E731
    variables = jax.lax.fori_loop(0, 100, step, variables)
    posterior = model.apply(variables, {"image": IMAGES}, method="encode")
    pixels = model.apply(variables, posterior.mean, {}, method="pixels")
    again = model.apply(variables, {"image": IMAGES}, method="reconstruct")
    return output(variables, False).statistics, posterior.mean, pixels, again

  statistics, z, pixels, again = looked_at(variables)
  assert statistics == ()
  np.testing.assert_allclose(z, scored("l2")[0].latents["z"], rtol=1e-4)
  divided = jax.tree_util.tree_map_with_path(
    lambda path, x: x / np.linalg.norm(x.reshape(-1, x.shape[-1]), 2) if path[-1].key == "kernel" else x,
    params()["decoder"],
  )
  expected = jax.jit(lambda p, z: model.decoder.clone(parent=None).apply({"params": p}, z))(divided, z)
  np.testing.assert_allclose(pixels, expected, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(again, np.clip(expected + 0.5, 0, 1), rtol=1e-3, atol=1e-4)


def test_the_posterior_is_a_point():
  posterior = trained(configured(), SPEC, scale=0.3).encode(IMAGES)
  assert np.isneginf(posterior.logvar).all() and np.exp(posterior.logvar).sum() == 0
  np.testing.assert_array_equal(dist.sample(posterior, np.full((3, 3), 1e30, np.float32)), posterior.mean)
  assert np.isposinf(dist.kl_standard_normal(posterior)).all()


def test_what_it_cannot_do_has_a_reason():
  model = trained(configured(), SPEC)
  with pytest.raises(UserError, match=r"cannot sample new images; .* can; or fit a prior to its latents"):
    model.sample(0, 1)
  assert model.decode(np.zeros((2, 3))).shape == (2, 4, 4, 1)


def test_scores_say_why_there_is_no_bound(tmp_path):
  np.savez(tmp_path / "test.npz", image=np.uint8(255 * IMAGES))
  model = trained(configured("data.name=npz", f"data.dir={tmp_path}"), SPEC, scale=0.3)
  scores = evaluation.score_split(model, "test", samples=2, batch_size=4)
  why = f"rae has {rae.RAE.UNBOUNDED}"
  assert scores["absent"] == {"neg_elbo": why} and f"no neg_elbo: {why}" in evaluation.summary(scores)
  assert not {"neg_elbo", "rate", "iwae_nll", "bits_per_dim"} & scores.keys()
  assert np.isfinite([x for x in scores.values() if isinstance(x, float)]).all() and "psnr" in scores


@pytest.mark.parametrize("key", ["objective.beta", "objective.mmd", "objective.total_correlation"])
def test_terms_of_a_posterior_are_not_its_keys(key):
  with pytest.raises(UserError, match=f"{key} is a key of .*, not of rae"):
    configured(f"{key}=1")
