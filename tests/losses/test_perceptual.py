"""Feature distances against their formulas written out in float64, and the published mixes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import losses
from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.errors import UserError
from vae_jax.objectives import apply_preset

SHAPES = {"relu1_2": (3, 7, 5, 4), "relu2_2": (3, 3, 2, 6)}


def features(seed):
  rng = np.random.default_rng(seed)
  return {layer: rng.normal(size=shape).astype(np.float32) for layer, shape in SHAPES.items()}


A, B = features(0), features(1)


def unit(x):
  return x / (np.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10)


def layerwise(term, scale=lambda x: x):
  return [
    np.array(
      [
        term(scale(a.astype(np.float64)), scale(b.astype(np.float64)))
        for a, b in zip(A[k], B[k], strict=True)
      ]
    )
    for k in SHAPES
  ]


@pytest.mark.parametrize("unit_channels", [False, True])
@pytest.mark.parametrize(
  "distance, term",
  [
    ("squared", lambda a, b: ((a - b) ** 2).sum() / a.size),
    ("l1", lambda a, b: np.abs(a - b).sum() / a.size),
  ],
)
def test_the_distance_is_that_of_johnson_per_layer(distance, term, unit_channels):
  first, second = layerwise(term, unit if unit_channels else lambda x: x)
  got = losses.perceptual_loss(A, B, {"relu1_2": 0.5, "relu2_2": 2.0}, distance, unit_channels)
  assert got.shape == (3,) and got.dtype == jnp.float32
  np.testing.assert_allclose(got, 0.5 * first + 2 * second, rtol=1e-5)
  np.testing.assert_allclose(
    losses.perceptual_loss(A, B, distance=distance, unit_channels=unit_channels), first + second, rtol=1e-5
  )


def test_weights_follow_names_whatever_the_order():
  """jit sorts the keys of what it returns."""
  weights = {"relu2_2": 3, "relu1_2": 1}
  swapped = {k: A[k] for k in ("relu2_2", "relu1_2")}
  expected = losses.perceptual_loss(A, B, weights)
  np.testing.assert_array_equal(losses.perceptual_loss(swapped, B, weights), expected)
  np.testing.assert_array_equal(losses.perceptual_loss(jax.jit(lambda f: f)(swapped), B, weights), expected)


def test_lpips_is_the_sum_over_channels_and_the_mean_over_positions():
  heads = {k: np.linspace(0.1, 1, s[-1]) for k, s in SHAPES.items()}
  expected = 0
  for head, (a, b) in zip(
    heads.values(),
    ((unit(A[k].astype(np.float64)), unit(B[k].astype(np.float64))) for k in SHAPES),
    strict=True,
  ):
    expected = expected + (((a - b) ** 2) * head).sum(-1).mean((1, 2))
  np.testing.assert_allclose(losses.lpips(A, B, heads), expected, rtol=1e-5)
  assert (np.asarray(losses.lpips(A, A, heads)) == 0).all()


def test_gram_and_style_loss_are_those_of_johnson():
  (_, h, w, c), a = SHAPES["relu1_2"], A["relu1_2"].astype(np.float64)
  expected = np.array([[[(x[..., i] * x[..., j]).sum() for j in range(c)] for i in range(c)] for x in a]) / (
    h * w * c
  )
  np.testing.assert_allclose(losses.gram(A["relu1_2"]), expected, rtol=1e-4, atol=1e-6)
  other = np.asarray(losses.gram(B["relu1_2"]), np.float64)
  np.testing.assert_allclose(
    losses.style_loss({"relu1_2": A["relu1_2"]}, {"relu1_2": B["relu1_2"]}, {"relu1_2": 2}),
    2 * ((expected - other) ** 2).sum((1, 2)),
    rtol=1e-4,
  )


def test_one_style_image_of_another_size_serves_a_batch():
  style = {"relu1_2": B["relu1_2"][:1, :4, :3]}
  got = losses.style_loss({"relu1_2": A["relu1_2"]}, style)
  one = losses.style_loss({"relu1_2": A["relu1_2"][2:]}, style)
  assert got.shape == (3,)
  np.testing.assert_allclose(got[2:], one, rtol=1e-6)


@pytest.mark.parametrize("case", ["equal", "zero", "huge"])
def test_gradients_are_finite(case):
  a = {
    "equal": B,
    "zero": {k: np.zeros_like(v) for k, v in A.items()},
    "huge": {k: 1e6 * v for k, v in A.items()},
  }[case]
  heads = {k: np.ones(s[-1]) for k, s in SHAPES.items()}
  for loss in (
    lambda f: losses.perceptual_loss(f, B).sum(),
    lambda f: losses.perceptual_loss(f, B, distance="l1", unit_channels=True).sum(),
    lambda f: losses.perceptual_loss(f, B, unit_channels=True).sum(),
    lambda f: losses.lpips(f, B, heads).sum(),
    lambda f: losses.style_loss(f, B).sum(),
  ):
    for slope in jax.tree.leaves(jax.grad(loss)(a)):
      assert np.isfinite(slope).all()


def test_gradients_flow_to_both_sides():
  to_features, to_targets = jax.grad(lambda a, b: losses.perceptual_loss(a, b).sum(), argnums=(0, 1))(A, B)
  for layer in SHAPES:
    expected = 2 * (A[layer] - B[layer]) / A[layer][0].size
    np.testing.assert_allclose(to_features[layer], expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(to_targets[layer], -expected, rtol=1e-5, atol=1e-8)


def test_bfloat16_features_are_reduced_in_float32():
  half = [{k: jnp.asarray(v, jnp.bfloat16) for k, v in f.items()} for f in (A, B)]
  got = losses.perceptual_loss(*half)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, losses.perceptual_loss(A, B), rtol=0.02)


@pytest.mark.parametrize(
  "change, fault",
  [
    (lambda f: {"relu1_2": f["relu1_2"]}, "of the same"),
    (lambda f: {}, "of the same"),
    (lambda f: f | {"relu1_2": f["relu1_2"][:2]}, r"relu1_2: features of shape \(2, 7, 5, 4\)"),
    (lambda f: f | {"relu1_2": f["relu1_2"][0]}, "relu1_2"),
  ],
)
def test_features_that_do_not_fit_are_refused(change, fault):
  with pytest.raises(ValueError, match=fault):
    losses.perceptual_loss(change(A), B)


def test_wrong_weights_heads_and_distances_are_refused():
  with pytest.raises(ValueError, match="weights of layers"):
    losses.perceptual_loss(A, B, {"relu1_2": 1.0})
  with pytest.raises(ValueError, match="head of shape"):
    losses.lpips(A, B, {"relu1_2": np.ones(4), "relu2_2": np.ones(4)})
  with pytest.raises(UserError, match="did you mean 'squared'"):
    losses.perceptual_loss(A, B, distance="square")


@pytest.mark.parametrize(
  ("name", "network", "layers", "distortion", "rate"),
  [
    ("dfc", "vgg19", {"relu1_1": 0.25, "relu2_1": 0.25, "relu3_1": 0.25}, 0.0, 1.0),
    ("perceptual_vae", "vgg16", {"relu3_3": 0.8}, 0.001, 1.0),
    ("johnson", "vgg16", {"relu2_2": 1.0}, 0.0, 0.0),
  ],
)
def test_a_preset_has_the_published_weights(name, network, layers, distortion, rate):
  """The weight of each term of the loss as the papers print it, whatever the config said before."""
  others = ["alpha", "beta", "vae_weight", "perceptual.weight"]
  config = apply_overrides(
    base_config(), [*(f"objective.{key}=7" for key in others), "model.likelihood=laplace", "model.sigma=3"]
  )
  apply_preset(config, name)
  validate(config)
  objective, perceptual = config.objective, config.objective.perceptual
  numbers = [perceptual.weight * float(weight) for weight in perceptual.layer_weights.split(",")]
  assert dict(zip(perceptual.layers.split(","), numbers, strict=True)) == layers
  assert (perceptual.network, perceptual.distance, perceptual.unit_channels) == (network, "squared", False)
  assert (objective.vae_weight * objective.alpha, objective.vae_weight * objective.beta) == (distortion, rate)
  assert config.model.likelihood == "gaussian" and config.model.sigma == losses.PRESETS[name].sigma


def test_the_perceptual_vae_scores_squared_error_by_its_likelihood():
  """sigma^2 = 1/2: -log N = sum of squares + a constant."""
  image, other = np.random.default_rng(0).random((2, 4, 5, 5, 3)).astype(np.float32)
  sigma = losses.PRESETS["perceptual_vae"].sigma
  nll = losses.gaussian_nll(other - 0.5, image, 0.0, float(sigma))
  constant = 75 * 0.5 * np.log(np.pi)
  np.testing.assert_allclose(nll - constant, ((other - image) ** 2).sum((1, 2, 3)), rtol=1e-4)


def test_an_unknown_preset_is_refused():
  with pytest.raises(UserError, match="did you mean 'johnson'"):
    apply_preset(base_config(), "jonson")
