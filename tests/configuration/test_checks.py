"""What a config must not say."""

import re

import pytest

from vae_jax.configuration import apply_overrides, base_config, differences, from_json, to_json, validate
from vae_jax.errors import UserError


def _set(*overrides, family="mlp_vae"):
  return apply_overrides(base_config(family), overrides)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (["data.name="], "data.name='' must be text that is not empty"),
    (["data.name=idx"], "data.name=idx needs data.dir"),
    (["data.name=npz"], "data.name=npz needs data.dir"),
    (["data.name=paired_folder", "data.dir=x", "data.low=high"], "data.low=high and data.high=high"),
    (["data.train="], "data.train='' must be"),
    (["data.validation="], "data.validation='' must be"),
    (["data.test= "], "data.test='' must be"),
    (["data.size=5000"], "data.size=5000,5000 must be 0,0 or"),
    (["data.size=32,0"], "data.size=32,0 must be"),
    (["data.size=1,2,3"], "data.size=1,2,3 must be"),
    (["data.fit=stretch"], "data.fit=stretch must be crop | resize"),
    (["data.channels=2"], "data.channels=2 must be 0 | 1 | 3"),
    (["data.without=-1"], "data.without=-1 must be labels >= 0"),
    (["data.without=1", "data.name=scenes"], "data.without=1 needs labels, and data.name=scenes has none"),
    (["data.without=1,2", "data.test=train"], "data.without=1,2 leaves images out of data.train and"),
    (["data.mutate=1"], "data.mutate=1.0 must be >= 0 and < 1"),
    (
      ["data.mutate=0.1", "data.name=paired_folder", "data.dir=x"],
      "data.mutate=0.1 changes clean images, and those of data.name=paired_folder",
    ),
    (["data.binarize=static"], "data.binarize=static must be none | dynamic | threshold"),
    (["data.resident_mb=-1"], "data.resident_mb=-1 must be >= 0"),
    (["data.workers=0"], "data.workers=0 must be > 0"),
    (["data.max_bad=-1"], "data.max_bad=-1 must be >= 0"),
    (["data.degrade.name=snow"], "data.degrade.name=snow must be identity"),
    (["data.degrade.sigma=-0.1"], "data.degrade.sigma=-0.1 must be >= 0"),
    (["data.degrade.sigma_max=0.05"], "data.degrade.sigma_max=0.05 must be 0 or >= sigma=0.1"),
    (["data.degrade.peak=0"], "data.degrade.peak=0.0 must be >= 1e-06 and <= 1000000"),
    (["data.degrade.factor=1"], "data.degrade.factor=1 must be >= 2"),
    (["data.degrade.blur=-1"], "data.degrade.blur=-1.0 must be >= 0"),
    (["model.name=gan"], "model.name='gan' is not a model; known models: "),
    (["model.latent_dim=0"], "model.latent_dim=0 must be > 0"),
    (["model.hidden=3,0"], "model.hidden=3,0 must be one or more widths > 0"),
    (["model.name=conv_vae", "model.channels=-4"], "model.channels=-4 must be"),
    (["model.name=conv_vae", "model.blocks=-1"], "model.blocks=-1 must be >= 0"),
    (["model.name=conv_vae", "model.dense=-1"], "model.dense=-1 must be >= 0"),
    (["model.name=conv_vae", "model.latent_dim=0"], "model.latent_dim=0 must be > 0"),
    (
      ["model.likelihood=laplace", "model.sigma=optimal"],
      "model.sigma=optimal must be learned or a number > 0",
    ),
    *(
      (
        [f"model.name={name}", "model.likelihood=bernoulli"],
        "model.likelihood=bernoulli must be gaussian | laplace",
      )
      for name in ("restoration_vae", "transformation_net")
    ),
    (["model.name=restoration_vae", "model.unshuffle=0"], "model.unshuffle=0 must be > 0"),
    (["model.name=restoration_vae", "objective.restoration=-1"], "objective.restoration=-1.0 must be >= 0"),
    (["objective.dip_kind=iii"], "objective.dip_kind=iii must be i | ii"),
    (["data.rotate=true"], "data.rotate=true needs a square data.size, such as 64,64, not 0,0"),
    (["data.rotate=true", "data.size=32,48"], "data.rotate=true needs a square data.size"),
    (["model.activation=Relu"], "model.activation=Relu must be relu | tanh"),
    (["model.likelihood=poisson"], "model.likelihood=poisson must be bernoulli"),
    (["model.sigma=-1"], "model.sigma=-1 must be learned | optimal | a number > 0"),
    (["model.sigma=0"], "model.sigma=0 must be"),
    (["model.sigma=nan"], "model.sigma=nan must be"),
    (["model.sigma=inf"], "model.sigma=inf must be"),
    (["model.sigma=big"], "model.sigma=big must be"),
    (["model.mixtures=0"], "model.mixtures=0 must be > 0"),
    (["objective.name=vae"], "objective.name=vae must be elbo | iwae"),
    (["objective.name=iwae", "objective.samples=0"], "objective.samples=0 must be > 0"),
    (["objective.name=iwae", "objective.beta=2"], "objective.beta=2.0 must be 1.0 for objective.name=iwae"),
    (["objective.name=iwae", "objective.free_bits=2"], "objective.free_bits=2.0 must be 0.0"),
    (["objective.beta=-1"], "objective.beta=-1.0 must be >= 0"),
    (["objective.beta_schedule=cosine"], "objective.beta_schedule=cosine must be constant | linear"),
    (["objective.beta_schedule=linear"], "objective.beta_schedule=linear needs objective.beta_steps >= 1"),
    (
      ["objective.beta_schedule=cyclical", "objective.beta_steps=1"],
      "objective.beta_schedule=cyclical needs objective.beta_steps >= 2",
    ),
    (["objective.free_bits_over=batch"], "objective.free_bits_over=batch needs objective.free_bits > 0"),
    (
      ["objective.free_bits_over=group", "objective.free_bits=1", "training.accumulate=2"],
      "training.accumulate=2 must be 1 with objective.free_bits_over=group",
    ),
    (
      ["objective.capacity=5", "training.accumulate=2"],
      "training.accumulate=2 must be 1 with objective.capacity, a term over the whole batch",
    ),
    (
      ["objective.factor_vae.weight=5", "training.accumulate=2"],
      "training.accumulate=2 must be 1 with objective.factor_vae.weight, a term over the whole batch",
    ),
    (
      ["objective.factor_vae.weight=5", "training.batch_size=1"],
      "training.batch_size=1 must be at least 2 with objective.factor_vae.weight",
    ),
    (
      ["objective.capacity=5", "objective.free_bits=1"],
      "objective.capacity=5.0 contradicts objective.free_bits=1.0",
    ),
    (
      ["objective.capacity=5", "objective.name=iwae"],
      "objective.capacity=5.0 must be 0.0 for objective.name=iwae",
    ),
    (["objective.capacity_steps=5"], "objective.capacity_steps=5 needs objective.capacity > 0"),
    (
      ["data.name=sprites", "data.flip=true"],
      "data.flip=true moves the images of data.name=sprites, and their factors",
    ),
    (["objective.beta_steps=-5"], "objective.beta_steps=-5 must be >= 0"),
    (["objective.free_bits=-1"], "objective.free_bits=-1.0 must be >= 0"),
    (["objective.alpha=-1"], "objective.alpha=-1.0 must be >= 0"),
    (["objective.vae_weight=-1"], "objective.vae_weight=-1.0 must be >= 0"),
    (["objective.perceptual.layer_weights=1,x"], "layer_weights=1,x must be comma-separated numbers"),
    (["objective.perceptual.layer_weights=inf"], "layer_weights=inf must be comma-separated numbers"),
    (
      ["objective.perceptual.layer_weights=1,2", "objective.perceptual.weight=1"],
      "layer_weights=1,2 has 2 numbers for 1 layers (relu3_3)",
    ),
    (
      [
        "objective.perceptual.weight=1",
        "objective.perceptual.network=vgg19",
        "objective.perceptual.distance=lpips",
      ],
      "objective.perceptual.network=vgg19 has no LPIPS heads; give one of alexnet, vgg16, squeezenet",
    ),
    (["evaluation.lpips=vgg19"], "evaluation.lpips=vgg19 must be none | alexnet | vgg16 | squeezenet"),
    *(
      ([f"training.{k}=0"], f"training.{k}=0 must be > 0") for k in ("steps", "batch_size", "steps_per_call")
    ),
    *(
      ([f"training.{k}_every=0"], f"training.{k}_every=0 must be > 0") for k in ("log", "eval", "checkpoint")
    ),
    (["training.seed=-1"], "training.seed=-1 must be >= 0"),
    (["training.parallel=shmap"], "training.parallel=shmap must be jit | pmap"),
    (
      ["training.parallel=pmap", "training.fsdp=true"],
      "training.fsdp=true must be false for training.parallel=pmap",
    ),
    (
      ["training.accumulate=3"],
      "training.accumulate=3 must divide training.batch_size=128, e.g. training.batch_size=129",
    ),
    (
      ["training.accumulate=2", "objective.adversarial.weight=1"],
      "training.accumulate=2 must be 1 with an adversarial term",
    ),
    *(
      (
        ["training.batch_size=1", f"objective.{k}=1"],
        f"training.batch_size=1 must be at least 2 with objective.{k}",
      )
      for k in ("total_correlation", "dip", "mmd")
    ),
    (
      ["model.name=cvae", "objective.mmd=2"],
      "objective.mmd=2.0 compares latents with a standard normal prior, and model.name=cvae learns one for each label",
    ),
    (
      ["model.name=restoration_vae", "model.latent_dim=0", "objective.name=iwae"],
      "objective.name=iwae needs latents, and model.latent_dim=0 has none; set objective.name=elbo",
    ),
    (["training.dtype=float16"], "training.dtype=float16 must be float32 | bfloat16"),
    (["training.learning_rate=0"], "training.learning_rate=0.0 must be > 0"),
    (["training.warmup_steps=-1"], "training.warmup_steps=-1 must be >= 0"),
    (["training.final_learning_rate=1.1"], "training.final_learning_rate=1.1 must be >= 0 and <= 1"),
    (["training.adam_eps=0"], "training.adam_eps=0.0 must be > 0"),
    (["training.weight_decay=-1"], "training.weight_decay=-1.0 must be >= 0"),
    (["training.clip_norm=-1"], "training.clip_norm=-1.0 must be >= 0"),
    (["training.ema_decay=1"], "training.ema_decay=1.0 must be >= 0 and < 1"),
    (["training.max_skipped=0"], "training.max_skipped=0 must be > 0"),
    (["training.keep=0"], "training.keep=0 must be > 0"),
    *(
      ([f"evaluation.{k}=0"], f"evaluation.{k}=0 must be > 0") for k in ("batch_size", "samples", "pictures")
    ),
    (["data.dequantize=true"], "data.dequantize=true must be false for model.likelihood=bernoulli"),
    (
      ["data.dequantize=true", "data.binarize=dynamic", "model.likelihood=gaussian"],
      "data.dequantize=true contradicts data.binarize=dynamic",
    ),
    (
      ["model.likelihood=logistic_mixture", "data.dequantize=true"],
      "data.dequantize=true must be false for model.likelihood=logistic_mixture",
    ),
    (
      ["model.likelihood=logistic_mixture", "data.binarize=threshold"],
      "data.binarize=threshold must be none for model.likelihood=logistic_mixture",
    ),
  ],
)
def test_validate_refuses(overrides, message):
  with pytest.raises(UserError, match=re.escape(message)) as error:
    validate(_set(*overrides))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "overrides",
  [
    ["model.likelihood=gaussian", "data.dequantize=true", "model.sigma=0.05"],
    ["model.likelihood=gaussian", "data.binarize=dynamic"],
    ["model.likelihood=laplace", "data.dequantize=true"],
    ["objective.name=iwae", "objective.samples=50"],
    ["objective.beta_schedule=cyclical", "objective.beta_steps=10"],
    ["data.name=cifar10"],
    ["data.degrade.sigma_max=0.1"],
    ["training.steps=3"],  # shorter than the warm-up and than a dispatch: the loop shortens both
    ["training.log_every=1", "training.eval_every=7"],
    ["model.name=restoration_vae"],  # whose likelihood is not that of the other families
    ["model.name=restoration_vae", "model.latent_dim=0"],
    ["model.name=transformation_net"],
  ],
)
def test_validate_accepts(overrides):
  config = _set(*overrides)
  validate(config)
  # A run keeps it, and validates it again when it is opened.
  assert differences(from_json(to_json(config)), config) == []


@pytest.mark.parametrize(
  ("key", "value"), [("steps", True), ("steps", None), ("dtype", None), ("ema_decay", None)]
)
def test_validate_finds_types_that_config_dict_lets_through(key, value):
  config = base_config()
  config.training[key] = value
  with pytest.raises(UserError, match=f"training.{key}={value} must be"):
    validate(config)
