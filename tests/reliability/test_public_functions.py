"""Every public function of arrays, under every transformation of JAX and with NaN among its values.

The tables below have a call for each public name. A new name has to join them, or `ON_THE_HOST` with the reason.
Programs are mostly traced here, not run: that is where a check of values breaks, and it costs milliseconds.
"""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trained import spec_of, trained

from vae_jax import distributions as dist
from vae_jax import losses, metrics, perceptual, priors
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data import degrade
from vae_jax.errors import UserError
from vae_jax.inference import TrainedVAE, slerp

KEY = jax.random.key(0)
LARGE = 24  # side of images and number of rows with which a reduction is long: 4,096 elements and more


def uniform(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).uniform(0.05, 0.95, shape), jnp.float32)


def images(c=3, side=LARGE, seed=0):
  return uniform(8, side, side, c, seed=seed)


def rows(d=512, seed=0):
  return uniform(16, d, seed=seed)


BIG = uniform(40, 40, 3)  # one image of more than 4,096 values
TWO, THREE = (images(), images(seed=1)), (rows(), rows(seed=1), rows(seed=2))
FEATURES = (uniform(4, 8, 8, 32), uniform(4, 8, 8, 32, seed=1))
GAUSSIANS = dist.Gaussian(rows(), rows(seed=1)), dist.Gaussian(rows(seed=2), rows(seed=3))


def features(function, **others):
  return lambda a, b: function({"relu": a}, {"relu": b}, **others)


def scored(likelihood, channels):
  params = uniform(8, LARGE, LARGE, channels, seed=2)
  scale = (jnp.float32(-1.0),) if likelihood.has_scale else ()
  return [
    (lambda p, x, s=0.0: likelihood.log_prob(p, x, s), (params, images(), *scale)),
    (lambda p: likelihood.mean(p, 0.0), (params,)),
    (lambda p: likelihood.sample(KEY, p, 0.0), (params,)),
  ]


# Calls of each public name, as (function, arguments). Arguments that are arrays are passed, closed over, and damaged.
LOSSES = {
  "absolute_error": [(losses.absolute_error, TWO)],
  "bernoulli_nll": [(losses.bernoulli_nll, TWO)],
  "ciwae_loss": [(lambda w: losses.ciwae_loss(w, 0.3), THREE[:1])],
  "decompose_kl": [(lambda z, m, v: losses.decompose_kl(z, m, v, 100), THREE)],
  "dip_penalty": [(lambda m, v: losses.dip_penalty(m, v, 1.0, 2.0, "ii"), THREE[:2])],
  "discriminator_hinge_loss": [(losses.discriminator_hinge_loss, THREE[:2])],
  "free_bits": [(lambda kl: losses.free_bits(kl, 0.5), THREE[:1])],
  "free_bits_of_batch": [(lambda kl: losses.free_bits_of_batch(kl, 0.5), (uniform(512, 16),))],
  "gaussian_nll": [
    (losses.gaussian_nll, (*TWO, jnp.float32(-1.0))),
    (lambda p, x, s: losses.gaussian_nll(p, x, s, "optimal"), (*TWO, jnp.float32(-1.0))),
  ],
  "generator_hinge_loss": [(losses.generator_hinge_loss, THREE[:1])],
  "gram": [(losses.gram, FEATURES[:1])],
  "iwae_loss": [(losses.iwae_loss, THREE[:1])],
  "kl_gaussian": [(losses.kl_gaussian, THREE[:2])],
  "laplace_nll": [(losses.laplace_nll, (*TWO, jnp.float32(-1.0)))],
  "logistic_mixture_nll": [
    (lambda p, x: losses.logistic_mixture_nll(p, x, 2), (uniform(8, LARGE, LARGE, 20, seed=2), images()))
  ],
  "lpips": [(lambda a, b, h: losses.lpips({"relu": a}, {"relu": b}, {"relu": h}), (*FEATURES, uniform(32)))],
  "miwae_loss": [(lambda w: losses.miwae_loss(w, 4), THREE[:1])],
  "mmd": [(losses.mmd, THREE[:2])],
  "ms_ssim_loss": [(losses.ms_ssim_loss, (uniform(1, 176, 176, 1), uniform(1, 176, 176, 1, seed=1)))],
  "negative_elbo": [(losses.negative_elbo, (rows()[0], rows(seed=1)[0]))],
  "normalize_channels": [(losses.normalize_channels, FEATURES[:1])],
  "perceptual_loss": [(features(losses.perceptual_loss), FEATURES)],
  "squared_error": [(losses.squared_error, TWO)],
  "ssim_loss": [(losses.ssim_loss, TWO)],
  "style_loss": [(features(losses.style_loss), FEATURES)],
  "total_correlation": [(lambda z, m, v: losses.total_correlation(z, m, v, 100), THREE)],
  "total_variation": [(losses.total_variation, TWO[:1])],
  "verdict_cross_entropy": [
    (lambda x, k=k: losses.verdict_cross_entropy(x, k), TWO[:1]) for k in (True, False)
  ],
}
METRICS = {
  "blockiness": [(metrics.blockiness, TWO[:1])],
  "bits_per_dim": [(lambda nats: metrics.bits_per_dim(nats, 12, True), (rows()[0],))],
  "lattice_peak": [(lambda x: metrics.lattice_peak(x, 2), (uniform(40, 40, 3),))],
  "mae": [(metrics.mae, TWO)],
  "ms_ssim": [(metrics.ms_ssim, (uniform(1, 176, 176, 1), uniform(1, 176, 176, 1, seed=1)))],
  "mse": [(metrics.mse, TWO)],
  "psnr_b": [(metrics.psnr_b, TWO)],
  "psnr_rgb": [(metrics.psnr_rgb, (uniform(5000, 1, 1, 1), uniform(5000, 1, 1, 1, seed=1)))],
  "psnr": [(metrics.psnr, (uniform(5000, 1, 1, 1), uniform(5000, 1, 1, 1, seed=1)))],
  "psnr_y": [(metrics.psnr_y, TWO)],
  "rgb_to_y": [(metrics.rgb_to_y, TWO[:1])],
  "ssim": [(metrics.ssim, TWO)],
  "ssim_y": [(metrics.ssim_y, TWO)],
  **{
    name: [(getattr(metrics, name), (images(side=72),))]
    for name in ("uciqe", "uicm", "uiconm", "uiqm", "uism")
  },
}
DISTRIBUTIONS = {
  "absolute": [(dist.absolute, THREE[:1])],
  "at_least": [(lambda x: dist.at_least(x, 0.5), THREE[:1])],
  "bernoulli": scored(dist.bernoulli(3), 3),
  "bound_logvar": [(dist.bound_logvar, THREE[:1])],
  "ciwae_bound": [(lambda w: dist.ciwae_bound(w, 0.3), THREE[:1])],
  "dreg_bound": [(dist.dreg_bound, THREE[:1])],
  "gaussian": scored(dist.gaussian(3), 3),
  "iwae_bound": [(dist.iwae_bound, THREE[:1])],
  "kl": [
    (lambda a, b, c, d: dist.kl(dist.Gaussian(a, b), dist.Gaussian(c, d)), (*GAUSSIANS[0], *GAUSSIANS[1]))
  ],
  "kl_standard_normal": [(lambda m, v: dist.kl_standard_normal(dist.Gaussian(m, v)), THREE[:2])],
  "laplace": scored(dist.laplace(3), 3),
  "log_prob": [(lambda m, v, z: dist.log_prob(dist.Gaussian(m, v), z), THREE)],
  "logistic_mixture": scored(dist.logistic_mixture(3, 2), 20),
  "miwae_bound": [(lambda w: dist.miwae_bound(w, 4), THREE[:1])],
  "mixture_log_prob": [
    (lambda m, v, z: dist.mixture_log_prob(dist.Mixture(jnp.full(16, -2.7726), m, v), z), THREE)
  ],
  "observed_log_prob": [
    (
      lambda p, x: dist.observed_log_prob(dist.bernoulli(3), p, x, 0.0, np.ones((LARGE, LARGE), bool)),
      TWO,
    )
  ],
  "mixture_sample": [
    (
      lambda m, v, u, e: dist.mixture_sample(dist.Mixture(jnp.full(16, -2.7726), m, v), u, e),
      (*THREE[:2], uniform(16), THREE[2]),
    )
  ],
  "logit_laplace": scored(dist.logit_laplace(3), 6),
  "safe_sqrt": [(dist.safe_sqrt, THREE[:1])],
  "sample": [(lambda m, v, eps: dist.sample(dist.Gaussian(m, v), eps), THREE)],
  "standard_normal_log_prob": [(dist.standard_normal_log_prob, THREE[:1])],
  "streaming_logsumexp_update": [
    (lambda m, t, x: dist.streaming_logsumexp_update(dist.StreamingLogSumExp(m, t), x), THREE)
  ],
  "streaming_logsumexp_value": [
    (lambda m, t: dist.streaming_logsumexp_value(dist.StreamingLogSumExp(m, t)), THREE[:2])
  ],
}
DEGRADE = {
  "anisotropic_blur": [
    (lambda x: degrade.anisotropic_blur(x, 1.0, 2.0, 0.5), TWO[:1]),
    (lambda x, s, t: degrade.anisotropic_blur(x, s, 2.0, t, 2.0), (TWO[0], jnp.float32(1), jnp.float32(0.5))),
  ],
  "bicubic_down": [(lambda x: degrade.bicubic_down(KEY, x, 2), TWO[:1])],
  "bicubic_up": [(lambda x: degrade.bicubic_up(x, 2), TWO[:1])],
  "camera_noise": [(lambda x, s: degrade.camera_noise(KEY, x, s, 0.02, 0.5), (BIG, jnp.float32(0.05)))],
  "chain": [
    (
      lambda x: degrade.chain(KEY, x, "blur 0..1 @0.5; down 2 box|lanczos; noise 0..9"),
      (BIG,),
    )
  ],
  "down": [(lambda x: degrade.down(x, 2, "lanczos"), TWO[:1])],
  "gamma": [(degrade.gamma, (TWO[0], jnp.float32(2.2)))],
  "jpeg": [(lambda x, q: degrade.jpeg(x, q), (BIG, jnp.float32(50)))],
  "linear_to_srgb": [(degrade.linear_to_srgb, TWO[:1])],
  "motion_blur": [(lambda x, n: degrade.motion_blur(x, n, 0.5, 3.0), (TWO[0], jnp.float32(2)))],
  "round_to_8_bits": [(degrade.round_to_8_bits, TWO[:1])],
  "sharpen": [(lambda x, a: degrade.sharpen(x, a), (TWO[0], jnp.float32(1)))],
  "srgb_to_linear": [(degrade.srgb_to_linear, TWO[:1])],
  "blur_down": [(lambda x: degrade.blur_down(KEY, x, 2, border="replicate"), TWO[:1])],
  "gaussian_blur": [(lambda x: degrade.gaussian_blur(x, 1.0), TWO[:1])],
  "gaussian_noise": [(lambda x: degrade.gaussian_noise(KEY, x, 0.1, 0.2), TWO[:1])],
  "identity": [(lambda x: degrade.identity(KEY, x), TWO[:1])],
  "poisson_gaussian": [(lambda x: degrade.poisson_gaussian(KEY, x, 30.0, 0.1), TWO[:1])],
  "resize_bicubic": [(lambda x: degrade.resize_bicubic(x, 9, 30), TWO[:1])],
}
ON_THE_HOST = {
  "accumulators and distances in float64": [
    *("ActiveUnits", "ClassStatistics", "CodeUsage", "FeatureSet", "FeatureStatistics", "Mean", "Posteriors"),
    "Protocol",
    *(
      "DCI",
      "Estimate",
      "auroc",
      "auroc_interval",
      "average_precision",
      "class_score",
      "clustering_accuracy",
      "complexity_corrected",
      "compressed_bits",
      "dci",
      "density_coverage",
      "energy_distance",
      "factor_entropies",
      "factor_vae_score",
      "fid",
      "fit_probe",
      "fpr_at_tpr",
      "frechet_distance",
      "inception_score",
      "KMeans",
      "kernel_distance",
      "kernel_distance_subsets",
      "kmeans",
      "likelihood_ratio",
      "linear_probe",
      "mig",
      "mutual_information",
      "normalized_mutual_information",
      "percentiles",
      "precision_recall",
      "Probe",
      "ProbeScore",
      "proportion",
      "sap",
      "score_intervals",
      "typicality",
    ),
    *("kid", "Reference", "compare", "image_features", "score_names"),
  ],
  "files": [
    *("load_features", "load_statistics", "save_statistics", "load", "load_lpips", "load_reference"),
    *("save_reference", "fitted_prior", "fitted_priors"),
  ],
  "containers, makers and names": [
    *(
      "Decomposition",
      "Gaussian",
      "Likelihood",
      "Mixture",
      "Preset",
      "StreamingLogSumExp",
      "make_likelihood",
    ),
    *(
      "streaming_logsumexp_init",
      "feature_protocol",
      "taps",
      "degrade_values",
      "make_degrade",
      "degraded_shape",
      "factor_of",
      "noise_sigma",
    ),
    *("bicubic_weights", "gaussian_weights", "can", "require", "require_told", "check_prior", "hidden"),
  ],
  "of one family, whose tests call them": ["complete", "guessed", "given", "text_log_prob"],
  "cuts tiles of any number, and reports its progress": [
    *("restore_image", "restore_bands", "deviation", "deviation_bands"),
  ],
}


@functools.cache
def networks():
  """Frozen networks with random weights."""
  extractor = perceptual.load("vgg16", ("relu2_2",), weights="random")
  lpips = perceptual.LPIPS(extractor, {"relu2_2": uniform(128)})
  one, other = uniform(2, 64, 64, 3), uniform(2, 64, 64, 3, seed=1)
  return {"Extractor": [(extractor, (one,))], "LPIPS": [(lpips, (one, other))]}


def model(shape, input_shape=None, **others):
  overrides = [f"{name.replace('__', '.')}={value}" for name, value in others.items()]
  return trained(apply_overrides(base_config(), overrides), spec_of(shape, input_shape), scale=0.3)


@functools.cache
def methods():
  """Calls of a loaded model's methods."""
  small = {"model__hidden": 8, "model__latent_dim": 3}
  vae = model((5, 4, 1), **small)
  restorer = model(
    (12, 12, 1),
    data__degrade__name="gaussian_noise",
    model__name="restoration_vae",
    model__channels="4",
    model__latent_dim=2,
    model__likelihood="gaussian",
  )
  codes = model((8, 8, 1), model__name="vq_vae", model__channels="4,4", model__codes=6, model__code_dim=2)
  fitted = [priors.fit(kind, np.asarray(rows(3)), components=2).prior for kind in ("gaussian", "mixture")]
  given, noisy, coded = uniform(3, 5, 4, 1), uniform(3, 12, 12, 1), uniform(3, 8, 8, 1)
  indices = jnp.zeros((3, codes.module.positions), jnp.int32)
  return {
    "encode": [(vae.encode, (given,))],
    "decode": [(vae.decode, (uniform(3, 3),))],
    "latents": [(lambda t: vae.latents(KEY, 3, t), (jnp.float32(0.5),))],
    "sample": [
      (lambda t: vae.sample(KEY, 3, t), (jnp.float32(0.5),)),
      (lambda t: vae.sample(KEY, 3, t, pixels=True), (jnp.float32(0.5),)),
      *((lambda t, prior=prior: vae.sample(KEY, 3, t, prior=prior), (jnp.float32(0.5),)) for prior in fitted),
      (lambda data: vae.sample(jax.random.wrap_key_data(data), 3), (jax.random.key_data(KEY),)),
    ],
    "inpaint": [(lambda x: vae.inpaint(x, np.eye(5, 4) > 0, KEY, samples=2, steps=20), (given,))],
    "reconstruct": [(vae.reconstruct, (given,))],
    "interpolate": [(lambda a, b: vae.interpolate(a, b, 3), (given, given[::-1]))],
    "restore": [
      (restorer.restore, (noisy,)),
      (lambda x: restorer.restore(x, KEY, 2), (noisy,)),
    ],
    "tokens": [(codes.tokens, (coded,))],
    "code_vectors": [(codes.code_vectors, (coded,))],
    "from_tokens": [(codes.from_tokens, (indices,))],
    "from_stage": [(codes.from_stage, (indices,))],
    "slerp": [(lambda a, b: slerp(a, b, jnp.linspace(0, 1, 3)), (uniform(3, 3), uniform(3, 3, seed=1)))],
  }


TABLES = {"losses": LOSSES, "metrics": METRICS, "distributions": DISTRIBUTIONS, "degrade": DEGRADE}
LATER = {"perceptual": networks, "inference": methods}


def public(part):
  """The public functions and classes of a part."""
  if part == "inference":
    return {name for name, value in inspect.getmembers(TrainedVAE, inspect.isfunction) if name[0] != "_"} | {
      "slerp"
    }
  if part == "degrade":
    return {name for name in degrade.__all__ if name[0].islower()}
  module = {"losses": losses, "metrics": metrics, "distributions": dist, "perceptual": perceptual}[part]
  return {name for name in module.__all__ if not name.isupper() or name == "LPIPS"}


@pytest.mark.parametrize("part", [*TABLES, *LATER])
def test_every_public_name_has_a_call_or_a_reason(part):
  known = {*(TABLES[part] if part in TABLES else LATER[part]())}
  assert public(part) - {*itertools.chain(*ON_THE_HOST.values())} == known


def total(tree):
  """The sum of all that a function returned, in float32."""
  return sum((jnp.sum(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(tree)), start=jnp.float32(0.0))


def everywhere(function, arguments):
  """The function under each transformation, its arguments passed and closed over, one inside another."""
  numbers = [i for i, x in enumerate(arguments) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
  twice = jax.tree.map(lambda x: jnp.stack([x, x]), arguments)

  def score(*passed):
    return total(function(*passed))

  def closed(t):
    return t * score(*arguments)

  def summed(one, start, xs):
    return jax.lax.scan(lambda s, x: (s + one(x), None), start, xs)[0]

  found = [score(*arguments), closed(1.0), jax.vmap(function)(*twice), jax.vmap(closed)(jnp.ones(2))]
  found += [summed(lambda x: score(*x), 0.0, twice), summed(closed, 0.0, jnp.ones(2)), jax.grad(closed)(1.0)]
  found += [jax.checkpoint(score)(*arguments), jax.grad(jax.checkpoint(closed))(1.0)]
  if numbers:
    found += [jax.grad(f, argnums=numbers)(*arguments) for f in (score, jax.checkpoint(score))]
    found += [jax.vmap(jax.grad(score, argnums=numbers))(*twice)]
  return found


@pytest.mark.parametrize("part", [*TABLES, *LATER])
def test_every_function_can_be_transformed(part):
  table = TABLES[part] if part in TABLES else LATER[part]()
  for name, calls in table.items():
    for function, arguments in calls:
      for program, passed in (
        (functools.partial(everywhere, function, arguments), ()),
        (function, arguments),
      ):
        assert jax.tree.leaves(jax.eval_shape(program, *passed)), name


@pytest.mark.slow
@pytest.mark.parametrize("part", [*TABLES, *LATER])
def test_transformations_do_not_change_values(part):
  table = TABLES[part] if part in TABLES else LATER[part]()
  for name, calls in table.items():
    for function, arguments in calls:
      once = total(function(*arguments))
      found = jax.jit(functools.partial(everywhere, function))(arguments)
      eager = everywhere(function, arguments)
      for compiled, plain in zip(jax.tree.leaves(found), jax.tree.leaves(eager), strict=True):
        assert np.isfinite(compiled).all(), name
        largest = np.abs(plain).max() + 1e-3
        np.testing.assert_allclose(compiled, plain, rtol=2e-3, atol=2e-3 * largest, err_msg=name)
      np.testing.assert_allclose(found[0], once, rtol=1e-4, atol=1e-5, err_msg=name)


def damaged(function, arguments):
  """The mean of the result in one program with NaN as one value of each argument in turn."""
  means = []
  for i, x in enumerate(arguments):
    bad = x.ravel().at[x.size // 2].set(jnp.nan).reshape(x.shape)
    result = function(*arguments[:i], bad, *arguments[i + 1 :])
    means.append(total(result))
  return means


NAN_CASES = [(part, name) for part, table in TABLES.items() for name in table]


@pytest.mark.parametrize(("part", "name"), [*NAN_CASES, ("perceptual", "Extractor"), ("perceptual", "LPIPS")])
def test_nan_is_not_lost(part, name):
  """On CPUs, jaxlib 0.10 loses NaN in max and min of 4,096 elements, and in an elementwise max that a sum follows."""
  table = TABLES[part] if part in TABLES else LATER[part]()
  for function, arguments in table[name]:
    size = max(x.size for x in arguments)
    assert size >= 4096 or name in ("negative_elbo", "bits_per_dim"), "too small to see it"
    means = jax.jit(functools.partial(damaged, function))(arguments)
    assert np.isnan(means).all(), (name, means)


def test_nan_among_images_is_refused():
  """4,096 elements: fewer keep NaN in a maximum. Arrays of NumPy and of JAX, also as constants of a traced program."""
  vae = model((32, 32, 4), model__hidden=4, model__latent_dim=2)
  clean = np.full((2, 32, 32, 4), 0.5, np.float32)
  clean[1, 16, 16, 0] = np.nan
  extractor, _ = networks()["Extractor"][0]
  for bad in (clean, jnp.asarray(clean)):
    for call in (vae.encode, vae.reconstruct, lambda x: vae.interpolate(x, x, 3)):
      with pytest.raises(UserError, match="not finite"):
        call(bad)
      with pytest.raises(UserError, match="not finite"):
        jax.eval_shape(lambda t, call=call, bad=bad: t * total(call(bad)), jnp.float32(1.0))
    with pytest.raises(UserError, match="not finite"):
      extractor(bad[..., :3])
  wide = np.full((2, 32, 32, 4), 128.0, np.float32)
  with pytest.raises(UserError, match="values from 128 to 128"):
    vae.encode(jnp.asarray(wide))


def test_a_restoration_in_tiles_says_that_it_cannot_be_traced():
  restorer = methods()["restore"][0][0].__self__
  for call in (restorer.restore_image, restorer.deviation):
    with pytest.raises(UserError, match=r"cut on the host.*restore\(image\[None\]\)"):
      jax.jit(call)(uniform(12, 12, 1))


def test_labels_can_be_traced():
  config = apply_overrides(base_config(), ["model.name=cvae", "model.hidden=4", "model.latent_dim=2"])
  spec = spec_of((4, 4, 1)) | {"label": jax.ShapeDtypeStruct((), jnp.int32)}
  cvae = trained(config, spec)
  for label in (jnp.int32(3), jnp.array([1, 2, 3])):
    shape = jax.eval_shape(lambda label: cvae.sample(KEY, 3, label=label), label).shape
    assert shape == (3, 4, 4, 1)
  with pytest.raises(UserError, match="label"):
    cvae.sample(KEY, 3, label=jnp.int32(10))


@pytest.mark.parametrize(
  "name", ["bernoulli_nll", "gaussian_nll", "laplace_nll", "logistic_mixture_nll", "mse", "ssim"]
)
def test_integer_images_are_refused(name):
  """0..255 would be scored as if white were 1."""
  params, levels = np.zeros((1, 12, 12, 1), np.float32), np.full((1, 12, 12, 1), 255, np.uint8)
  function = (LOSSES | METRICS)[name][0][0]
  if name == "logistic_mixture_nll":
    params = np.zeros((1, 12, 12, 6), np.float32)
  others = (0.0,) if name in ("gaussian_nll", "laplace_nll") else ()
  for call in (function, jax.jit(function)):
    with pytest.raises(ValueError, match="uint8"):
      call(params, levels, *others)
    if params.shape == levels.shape:  # the two in the wrong order
      with pytest.raises(ValueError, match="uint8"):
        call(levels, params, *others)
