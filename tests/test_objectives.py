"""Objectives against hand values and float64 formulas; gradients at the extremes of every likelihood."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from vae_jax import distributions as dist
from vae_jax import losses, perceptual
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.models.contract import Output
from vae_jax.objectives import Objective, beta_at, load_frozen, make_objective
from vae_jax.perceptual import LPIPS, Extractor

SAMPLES, BATCH, LATENTS = 3, 4, 5
TERMS = ("distortion", "rate")


def objective(*overrides, terms=TERMS):
  config = apply_overrides(base_config(), [f"objective.{o}" for o in overrides]).objective
  return make_objective(config, terms)


def output(samples=SAMPLES):
  """An output of two layers with 2 + 3 units; terms of the size of a trained model's."""
  random = np.random.default_rng(0)
  kl_units = random.exponential(size=(BATCH, LATENTS)).astype(np.float32)
  made = Output(
    terms={
      "distortion": (80 + 5 * random.normal(size=BATCH)).astype(np.float32),
      "rate": kl_units.sum(-1),
    },
    rates=np.stack([kl_units[:, :2].sum(-1), kl_units[:, 2:].sum(-1)], axis=-1),
    log_weight=(-90 + 5 * random.normal(size=(samples, BATCH))).astype(np.float32),
    kl_units=kl_units,
    latents={"mean": np.zeros((BATCH, LATENTS), np.float32)},
    reconstruction=np.zeros((BATCH, 2, 2, 1), np.float32),
  )
  return jax.tree.map(jnp.asarray, made)


def terms_of(o):
  """Distortion and rate in float64."""
  return np.asarray(o.terms["distortion"], np.float64), np.asarray(o.kl_units, np.float64).sum(-1)


@pytest.mark.parametrize(
  ("schedule", "expected"),
  [
    ("constant", {0: 4.0, 7: 4.0, 1000: 4.0}),
    ("linear", {0: 0.0, 1: 0.4, 5: 2.0, 9: 3.6, 10: 4.0, 11: 4.0, 1000: 4.0}),
    ("cyclical", {0: 0.0, 1: 0.8, 4: 3.2, 5: 4.0, 9: 4.0, 10: 0.0, 12: 1.6, 15: 4.0, 19: 4.0, 1000: 0.0}),
  ],
)
def test_beta_follows_its_schedule(schedule, expected):
  got = [float(beta_at(jnp.int32(step), 4.0, schedule, 10)) for step in expected]
  np.testing.assert_allclose(got, list(expected.values()), rtol=1e-6)


def test_an_unknown_schedule_is_refused():
  with pytest.raises(ValueError, match=r"'cosine'.*constant, linear, cyclical"):
    beta_at(0, 1.0, "cosine", 10)


@pytest.mark.parametrize(("schedule", "period"), [("linear", 0), ("cyclical", 0), ("cyclical", 1)])
def test_a_schedule_too_short_to_leave_0_is_refused(schedule, period):
  """0 / 0 was the weight of the first step, and a cycle of one step is always at its beginning."""
  with pytest.raises(UserError, match=f"a {schedule} schedule of beta over {period} steps"):
    beta_at(0, 1.0, schedule, period)


def test_elbo_at_weight_one_is_distortion_plus_rate():
  o = output()
  loss, parts = objective()(o, {}, 0)
  distortion, rate = terms_of(o)
  assert loss.shape == (BATCH,) and {part.shape for part in parts.values()} == {(BATCH,)}
  np.testing.assert_allclose(loss, distortion + rate, rtol=1e-6)
  np.testing.assert_allclose(parts["distortion"], distortion, rtol=1e-6)
  np.testing.assert_allclose(parts["rate"], rate, rtol=1e-6)


def test_weights_change_the_loss_and_not_what_is_reported_raw():
  o = output()
  weights = ["alpha=0.5", "beta=4", "vae_weight=0.1", "beta_schedule=linear", "beta_steps=10"]
  loss, parts = objective(*weights)(o, {}, 5)
  distortion, rate = terms_of(o)
  np.testing.assert_allclose(loss, 0.1 * (0.5 * distortion + 2.0 * rate), rtol=1e-6)
  np.testing.assert_allclose(parts["weighted_distortion"], 0.05 * distortion, rtol=1e-6)
  np.testing.assert_allclose(parts["weighted_rate"], 0.2 * rate, rtol=1e-6)
  np.testing.assert_allclose(parts["beta"], 2.0)
  np.testing.assert_allclose(parts["neg_elbo"], distortion + rate, rtol=1e-6)


@pytest.mark.parametrize("nats", [0.25, 1.0, 100.0])
def test_free_bits_floor_every_unit_of_every_example(nats):
  o = output()
  loss, parts = objective(f"free_bits={nats}", "beta=2")(o, {}, 0)
  penalised = np.maximum(np.asarray(o.kl_units, np.float64), nats).sum(-1)
  np.testing.assert_allclose(loss, o.terms["distortion"] + 2 * penalised, rtol=1e-6)
  np.testing.assert_allclose(parts["rate"], o.kl_units.sum(-1), rtol=1e-6)
  slope = jax.grad(lambda k: objective(f"free_bits={nats}")(o._replace(kl_units=k), {}, 0)[0].sum())(
    o.kl_units
  )
  np.testing.assert_array_equal(slope, np.asarray(o.kl_units > nats, np.float32))


@pytest.mark.parametrize("over", ["batch", "group"])
@pytest.mark.parametrize("nats", [0.8, 2.5, 100.0])
def test_free_bits_of_means_are_added_to_the_rate(over, nats, key):
  """sum_g max(nats, mean_g), times the weight that the rate has at the step; as closed form, with its gradient."""
  o = output()
  made = objective(
    f"free_bits={nats}",
    f"free_bits_over={over}",
    "beta=4",
    "beta_schedule=linear",
    "beta_steps=10",
    "vae_weight=3",
  )
  kl = np.asarray(o.kl_units if over == "batch" else o.rates, np.float64)
  floor = np.maximum(nats, kl.mean(0)).sum()

  def both(o, step):
    loss, parts = made(o, {}, step)
    more, scalars = made.over_batch(o, key, step)
    return loss.mean() + more, parts | scalars

  loss, parts = jax.jit(both)(o, 5)
  np.testing.assert_allclose(loss, 3 * (np.mean(o.terms["distortion"]) + 2 * floor), rtol=1e-6)
  np.testing.assert_allclose(parts["free_bits"], floor - kl.mean(0).sum(), rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(parts["rate"], o.kl_units.sum(-1), rtol=1e-6)

  def of_kl(kl):
    rates = jnp.stack([kl[:, :2].sum(-1), kl[:, 2:].sum(-1)], axis=-1)
    return both(o._replace(kl_units=kl, rates=rates, terms=o.terms | {"rate": kl.sum(-1)}), 5)[0]

  above = np.repeat(kl.mean(0) > nats, [1] * LATENTS if over == "batch" else [2, 3])
  np.testing.assert_allclose(
    jax.grad(of_kl)(o.kl_units), np.broadcast_to(6 / BATCH * above, (BATCH, LATENTS))
  )
  np.testing.assert_allclose(
    made.at_the_end()(o, {}, 0)[0], 3 * (o.terms["distortion"] + 4 * o.kl_units.sum(-1))
  )


@pytest.mark.parametrize(("steps", "step", "capacity"), [(0, 0, 20.0), (8, 2, 5.0), (8, 9, 20.0)])
def test_the_rate_is_held_at_a_capacity(steps, step, capacity, key):
  """Burgess et al. 2018, eq. 8: gamma |KL - C| in place of the KL, with C on its way to its end."""
  o = output()
  made = objective("beta=30", "capacity=20", f"capacity_steps={steps}", "vae_weight=2")
  distortion, rate = terms_of(o)

  def total(scale):
    loss, parts = made(o._replace(terms=o.terms | {"rate": scale * o.terms["rate"]}), {}, step)
    more, scalars = made.over_batch(o._replace(terms=o.terms | {"rate": scale * o.terms["rate"]}), key, step)
    return loss.mean() + more, parts | scalars

  (loss, parts), slope = jax.value_and_grad(total, has_aux=True)(1.0)
  assert 5 < rate.mean() < 20  # one case presses it down, the others up
  np.testing.assert_allclose(loss, 2 * (distortion.mean() + 30 * abs(rate.mean() - capacity)), rtol=1e-6)
  np.testing.assert_allclose(slope, 2 * 30 * np.sign(rate.mean() - capacity) * rate.mean(), rtol=1e-5)
  np.testing.assert_allclose(parts["capacity"], abs(rate.mean() - capacity), rtol=1e-6)
  np.testing.assert_allclose(parts["rate"], rate, rtol=1e-6)
  np.testing.assert_allclose(made.at_the_end()(o, {}, 0)[0], 2 * distortion, rtol=1e-6)


def test_scores_use_the_weights_at_which_schedules_end():
  """At step 0 a linear schedule would leave the rate out."""
  o, made = output(), objective("beta=4", "beta_schedule=linear", "beta_steps=10")
  distortion, rate = terms_of(o)
  np.testing.assert_allclose(made(o, {}, 0)[0], distortion, rtol=1e-6)
  np.testing.assert_allclose(made.at_the_end()(o, {}, 0)[0], distortion + 4 * rate, rtol=1e-6)
  with pytest.raises(ValueError, match=r"weight of 'rate' is a schedule; give Objective\(ends="):
    Objective({"distortion": 1.0, "rate": made.weights["rate"]}).at_the_end()


def test_iwae_is_the_log_mean_of_the_weights():
  o = output()
  loss, parts = objective("name=iwae", "vae_weight=2")(o, {}, 0)
  expected = -(scipy.special.logsumexp(np.asarray(o.log_weight, np.float64), axis=0) - np.log(SAMPLES))
  np.testing.assert_allclose(loss, 2 * expected, rtol=1e-6)
  np.testing.assert_allclose(parts["neg_iwae"], expected, rtol=1e-6)
  np.testing.assert_allclose(parts["neg_elbo"], o.terms["distortion"] + o.kl_units.sum(-1), rtol=1e-6)


def test_iwae_of_one_sample_is_its_weight():
  o = output(samples=1)
  np.testing.assert_allclose(objective("name=iwae")(o, {}, 0)[0], -o.log_weight[0], rtol=1e-6)


def test_an_example_does_not_depend_on_its_neighbours():
  o = output()
  part = o._replace(
    terms={name: x[1:] for name, x in o.terms.items()},
    rates=o.rates[1:],
    log_weight=o.log_weight[:, 1:],
    kl_units=o.kl_units[1:],
    latents={"mean": o.latents["mean"][1:]},
    reconstruction=o.reconstruction[1:],
  )
  for overrides in (["free_bits=0.5"], ["name=iwae"]):
    whole = objective(*overrides)(o, {}, 0)[0]
    np.testing.assert_allclose(objective(*overrides)(part, {}, 0)[0], whole[1:], rtol=1e-6)


def test_a_term_of_the_family_has_the_weight_of_its_name():
  o = output()
  restoration = jnp.arange(BATCH, dtype=jnp.float32)
  config = apply_overrides(
    base_config("restoration_vae"), ["objective.restoration=3", "objective.vae_weight=2"]
  )
  made = make_objective(config.objective, (*TERMS, "restoration"))
  loss, parts = made(o._replace(terms=o.terms | {"restoration": restoration}), {}, 0)
  distortion, rate = terms_of(o)
  np.testing.assert_allclose(loss, 2 * (distortion + rate) + 3 * restoration, rtol=1e-6)
  np.testing.assert_array_equal(parts["restoration"], restoration)
  np.testing.assert_allclose(parts["weighted_restoration"], 3 * restoration, rtol=1e-6)


# --- terms over a batch ---


def spread():
  """An output with latents of 16 examples."""
  z, mean, logvar = jnp.asarray(np.random.default_rng(2).normal(size=(3, 16, LATENTS)), jnp.float32)
  return output()._replace(latents={"z": z, "mean": mean, "logvar": logvar})


@pytest.mark.parametrize(("estimate", "kind"), [("weighted", "i"), ("stratified", "ii")])
def test_terms_over_the_batch_are_added_with_their_weights(estimate, kind, key):
  o = spread()
  given = ["objective.total_correlation=2", "objective.dip=3", "objective.dip_diagonal=4", "objective.mmd=5"]
  given += [f"objective.total_correlation_estimate={estimate}", f"objective.dip_kind={kind}"]
  config = apply_overrides(base_config(), given).objective
  loss, parts = jax.jit(make_objective(config, TERMS, examples=100).over_batch)(o, key, 0)
  z, mean, logvar = (o.latents[name] for name in ("z", "mean", "logvar"))
  expected = {
    "total_correlation": (2, losses.total_correlation(z, mean, logvar, 100, estimate)),
    "dip": (3, losses.dip_penalty(mean, logvar, 1.0, 4.0, kind)),
    "mmd": (5, losses.mmd(z, jax.random.normal(jax.random.fold_in(key, 2), z.shape))),
  }
  for name, (weight, value) in expected.items():
    np.testing.assert_allclose(parts[name], value, rtol=1e-6)
    np.testing.assert_allclose(parts[f"weighted_{name}"], weight * value, rtol=1e-6)
  np.testing.assert_allclose(loss, sum(weight * value for weight, value in expected.values()), rtol=1e-6)
  assert loss.shape == () and all(part.shape == () for part in parts.values())


def test_a_term_over_the_batch_sees_what_is_gathered(key):
  """Half of the examples, and all of them by `whole`: the same as all."""
  o, config = (
    spread(),
    apply_overrides(base_config(), ["objective.total_correlation=1", "objective.mmd=1"]).objective,
  )
  made = make_objective(config, TERMS, examples=100)
  half = o._replace(latents={name: x[:8] for name, x in o.latents.items()})
  gathered = {id(half.latents[name]): x for name, x in o.latents.items()}

  @jax.jit
  def losses_of(key):
    whole = made.over_batch(half, key, 0, lambda x: gathered[id(x)])
    return [loss for loss, _ in (whole, made.over_batch(o, key, 0), made.over_batch(half, key, 0))]

  loss, same, other = losses_of(key)
  np.testing.assert_array_equal(loss, same)
  assert loss != other


def test_without_a_weight_there_is_no_term_over_the_batch(key):
  assert objective().whole == {}
  loss, parts = objective().over_batch(output(), key, 0)
  assert loss == 0 and parts == {}


@pytest.mark.parametrize("name", ["elbo", "iwae"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "laplace", "logistic_mixture"])
def test_gradients_are_finite_at_extreme_decoder_outputs(likelihood, name):
  p = dist.make_likelihood(likelihood, 1, mixtures=2)
  extremes = np.array([0.0, 1e-6, 3.0, -3.0, 88.0, -88.0, 1e4, -1e4], np.float32)
  params = np.broadcast_to(extremes[None, :, None, None, None], (2, 8, 1, 2, p.channels))
  image = np.broadcast_to(np.array([[[[0.0], [1.0]]]], np.float32), (8, 1, 2, 1))

  def loss(params, logvar):
    posterior = dist.Gaussian(jnp.zeros((8, 2)), dist.bound_logvar(logvar))
    z = dist.sample(posterior, jnp.full((2, 8, 2), 3.0))
    kl_units, distortion = dist.kl_standard_normal(posterior), -p.log_prob(params, image, -2.0)
    weight = dist.standard_normal_log_prob(z) - dist.log_prob(posterior, z) - distortion
    terms = {"distortion": distortion.mean(0), "rate": kl_units.sum(-1)}
    o = Output(terms, jnp.asarray(image), kl_units.sum(-1, keepdims=True), kl_units, weight)
    return objective(f"name={name}")(o, {}, 0)[0].mean()

  logvar = np.broadcast_to(np.array([1e4, -1e4], np.float32), (8, 2))
  value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, logvar)
  assert jnp.isfinite(value) and all(jnp.isfinite(g).all() for g in grads)


# --- terms on the reconstructed image ---


def pictures(size=(12, 13)):
  """An output with a reconstruction in [0, 1], and the clean images."""
  random = np.random.default_rng(1)
  image, reconstruction = random.random((2, BATCH, *size, 3), dtype=np.float32)
  return output()._replace(reconstruction=jnp.asarray(reconstruction)), image


@pytest.mark.parametrize(
  "name, term, size",
  [
    ("ssim", losses.ssim_loss, (12, 13)),
    ("ms_ssim", losses.ms_ssim_loss, (176, 176)),
    ("total_variation", lambda reconstruction, image: losses.total_variation(reconstruction), (12, 13)),
  ],
)
def test_an_image_term_is_added_with_its_weight(name, term, size):
  o, image = pictures(size)
  # noise against other noise has structure of either sign, which MS-SSIM cuts off
  image = 0.5 * image + 0.5 * o.reconstruction
  plain, _ = objective()(o, {}, 0)
  loss, parts = objective(f"{name}=3")(o, {"image": image}, 0)
  expected = term(o.reconstruction, image)
  np.testing.assert_allclose(parts[name], expected, rtol=1e-6)
  np.testing.assert_allclose(loss, plain + 3 * expected, rtol=1e-6)
  np.testing.assert_allclose(parts[f"weighted_{name}"], 3 * expected, rtol=1e-6)


PERCEPTUAL = [
  "perceptual.network=alexnet",
  "perceptual.layers=relu1, relu2",
  "perceptual.weights=random",
  "perceptual.weight=7",
]


def with_perceptual(*overrides):
  config = apply_overrides(base_config(), [f"objective.{o}" for o in [*PERCEPTUAL, *overrides]]).objective
  frozen = load_frozen(config)
  return make_objective(config, TERMS), frozen, frozen["perceptual"]


def test_the_perceptual_term_is_the_weighted_distance_of_the_features():
  o, image = pictures((32, 32))
  plain, _ = objective()(o, {}, 0)
  made, frozen, network = with_perceptual("perceptual.layer_weights=0.5, 2", "perceptual.distance=l1")
  loss, parts = made(o, {"image": image}, 0, frozen)
  expected = sum(
    w * np.abs(network(o.reconstruction)[k] - network(image)[k]).mean((1, 2, 3))
    for k, w in (("relu1", 0.5), ("relu2", 2.0))
  )
  np.testing.assert_allclose(parts["perceptual"], expected, rtol=1e-5)
  np.testing.assert_allclose(loss, plain + 7 * expected, rtol=1e-5)


def test_the_perceptual_term_sees_images_moved_alike():
  """Within most^2 steps each move comes once, for all places; the distance is that of the moved images."""
  o, image = pictures((32, 32))
  made, frozen, network = with_perceptual("perceptual.layers=relu1", "perceptual.shift=3")
  batch = {"image": image, "place": jnp.arange(len(image))}
  found = np.stack([made(o, batch, step, frozen)[1]["perceptual"] for step in range(9)])
  moves = list(itertools.product(range(3), repeat=2))

  def distance(rows, columns):
    a, b = (jnp.roll(x, (rows, columns), (1, 2)) for x in (o.reconstruction, image))
    return losses.perceptual_loss(network(a), network(b))

  expected = np.stack([distance(*move) for move in moves])
  assert np.ptp(expected, axis=0).min() > 1e-6  # borders of the network see other pixels
  np.testing.assert_allclose(np.sort(found, axis=0), np.sort(expected, axis=0), rtol=1e-4)
  scored = made(o, {"image": image}, 4, frozen)[1][
    "perceptual"
  ]  # a batch that is not trained on has no places
  np.testing.assert_allclose(scored, distance(0, 0), rtol=1e-5)


def test_channels_are_scaled_where_asked():
  o, image = pictures((32, 32))
  made, frozen, network = with_perceptual("perceptual.layers=relu1", "perceptual.unit_channels=true")
  expected = losses.perceptual_loss(network(o.reconstruction), network(image), unit_channels=True)
  np.testing.assert_allclose(made(o, {"image": image}, 0, frozen)[1]["perceptual"], expected, rtol=1e-5)


def test_lpips_is_a_term_without_gradient_to_the_image(monkeypatch):
  """On one layer with a head of ones, since the learned ones are in an optional package."""
  asked = {}

  def load_lpips(network, **options):
    asked.update(options, network=network)
    return LPIPS(perceptual.load(network, ("relu1",), weights="random"), {"relu1": jnp.ones(64)})

  monkeypatch.setattr("vae_jax.objectives.load_lpips", load_lpips)
  o, image = pictures((32, 32))
  made, frozen, network = with_perceptual("perceptual.distance=lpips", "perceptual.heads=w.pth")
  assert asked == {
    "network": "alexnet",
    "weights": "random",
    "heads": "w.pth",
    "sha256": None,
    "dtype": "float32",
  }

  def loss(reconstruction, image):
    values, parts = made(o._replace(reconstruction=reconstruction), {"image": image}, 0, frozen)
    return values.sum(), parts["perceptual"]

  (to_reconstruction, to_image), value = jax.grad(loss, (0, 1), has_aux=True)(o.reconstruction, image)
  np.testing.assert_allclose(value, network(o.reconstruction, image), rtol=1e-5)
  assert np.abs(to_reconstruction).max() > 0 and (to_image == 0).all()


def test_the_digest_and_the_type_reach_the_network(tmp_path):
  path = tmp_path / "alexnet.npz"
  np.savez(path, **{"conv1/kernel": np.ones((11, 11, 3, 64), "f4"), "conv1/bias": np.ones(64, "f4")})
  given = [f"perceptual.weights={path}", "perceptual.layers=relu1", "perceptual.dtype=bfloat16"]
  *_, network = with_perceptual(*given)
  assert network.module.dtype == jnp.bfloat16
  with_perceptual(*given, f"perceptual.sha256={network.sha256}")
  with pytest.raises(UserError, match="has sha256"):
    with_perceptual(*given, f"perceptual.sha256={'0' * 64}")


def test_target_features_are_computed_once_and_have_no_gradient(monkeypatch):
  o, image = pictures((32, 32))
  made, frozen, _ = with_perceptual()
  calls = []
  forward = Extractor.__call__
  monkeypatch.setattr(Extractor, "__call__", lambda self, *a: calls.append(a[0].shape) or forward(self, *a))

  def loss(reconstruction, image):
    return made(o._replace(reconstruction=reconstruction), {"image": image}, 0, frozen)[0].sum()

  to_reconstruction, to_image = jax.grad(loss, (0, 1))(o.reconstruction, image)
  assert calls == [image.shape, image.shape]  # one sample is compared, however many there are
  assert np.abs(to_reconstruction).max() > 0 and (to_image == 0).all()


def test_rematerialisation_changes_no_gradient():
  o, image = pictures((32, 32))

  def slope(*overrides):
    made, frozen, _ = with_perceptual(*overrides)
    batch = {"image": image}
    gradient = jax.grad(lambda r: made(o._replace(reconstruction=r), batch, 0, frozen)[0].sum())
    assert ("remat" in str(jax.make_jaxpr(gradient)(o.reconstruction))) == bool(overrides)
    return jax.jit(gradient)(o.reconstruction)

  np.testing.assert_allclose(slope("perceptual.remat=true"), slope(), rtol=1e-4, atol=1e-6)


def test_nothing_is_loaded_where_the_weight_is_zero():
  config = apply_overrides(base_config(), ["objective.perceptual.weights=nowhere.pth"]).objective
  assert load_frozen(config) == {}


@pytest.mark.parametrize(
  "override, fault",
  [
    ("perceptual.layers=relu9", "relu9"),
    ("perceptual.weights=nowhere.pth", "nowhere.pth"),
    ("perceptual.network=squeezenet", "relu2"),
  ],
)
def test_a_network_that_cannot_be_had_is_an_error_and_not_another_network(override, fault):
  with pytest.raises(UserError, match=fault) as error:
    with_perceptual(override)
  assert "\n" not in str(error.value)
