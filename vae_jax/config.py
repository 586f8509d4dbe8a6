"""Configuration: every key with its default and meaning, config files, command-line overrides.

A config is a locked, typed `ml_collections.ConfigDict`. `KEYS` below is the one place where a key is born. A
config file is Python with a `get_config()` that starts from `base_config()` and changes values; it is run, so
open only files that you trust. A workdir keeps the result as `config.json`, which is data and is never run.
"""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vae_jax.errors import UserError, nearest

KEYS: dict[str, tuple[Any, str]] = {
  "data.name": ("digits", "digits | photos | idx | folder | paired_folder | npz | any TFDS data set (mnist, cifar10, ...)"),
  "data.dir": ("", "folder (or .npz file) of idx, folder, paired_folder, npz; TFDS: where it is prepared ('': default)"),
  "data.train": ("train", "split to train on; slices as in 'train[:90%]' or 'train[100:]'"),
  "data.validation": ("validation", "split scored during training; chooses the best checkpoint"),
  "data.test": ("test", "split that evaluate.py scores; never seen in training"),
  "data.size": ((0, 0), "height and width that the model sees; (0, 0): as stored"),
  "data.fit": ("crop", "images of another size: crop (random in training, centre otherwise) | resize (then centre crop)"),
  "data.channels": (0, "0: as stored | 1: grey | 3: RGB"),
  "data.low": ("low", "paired_folder: name of the folder with degraded images"),
  "data.high": ("high", "paired_folder: name of the folder with clean images"),
  "data.flip": (False, "mirror training images left-right at random"),
  "data.binarize": ("none", "none | dynamic: draw pixels from Bernoulli(value) anew at each use | threshold: value > 0.5"),
  "data.dequantize": (False, "add uniform noise within a grey level, for densities over continuous pixels"),
  "data.resident_mb": (1024, "data sets up to this size in uint8 are decoded once and kept on the device"),
  "data.workers": (2, "threads that decode images of larger data sets"),
  "data.max_bad": (10, "images that may fail to decode (named, skipped) before the run is refused"),
  "data.degrade.name": ("identity", "what the encoder sees: identity | gaussian_noise | poisson_gaussian | blur_down | bicubic_down"),
  "data.degrade.sigma": (0.1, "gaussian_noise, poisson_gaussian: standard deviation of the noise in [0, 1] units"),
  "data.degrade.sigma_max": (0.0, "gaussian_noise: above sigma, each image draws its sigma uniformly from [sigma, sigma_max]"),
  "data.degrade.peak": (30.0, "poisson_gaussian: expected photon count of a white pixel"),
  "data.degrade.factor": (2, "blur_down, bicubic_down: down-sampling factor"),
  "data.degrade.blur": (1.0, "blur_down: standard deviation of the Gaussian blur in pixels of the clean image"),
  "model.name": ("mlp_vae", "mlp_vae | conv_vae"),
  "model.latent_dim": (16, "mlp_vae, conv_vae: size of the latent vector"),
  "model.hidden": ((512,), "mlp_vae: widths of the encoder's hidden layers; the decoder mirrors them"),
  "model.channels": ((32, 64), "conv_vae: channels at each resolution; each entry after the stem halves height and width"),
  "model.blocks": (1, "conv_vae: residual blocks at each resolution"),
  "model.dense": (256, "conv_vae: width of the dense layer between the last feature map and the latent vector"),
  "model.activation": ("relu", "relu | tanh | silu | gelu"),
  "model.dropout": (0.0, "conv_vae: dropout rate inside residual blocks"),
  "model.likelihood": ("bernoulli", "bernoulli | gaussian | laplace | logistic_mixture"),
  "model.sigma": ("learned", "gaussian: learned (one scale) | optimal (closed form of Rybkin et al. 2021) | a number"),
  "model.mixtures": (10, "logistic_mixture: number of components"),
  "objective.name": ("elbo", "elbo | iwae (Burda et al. 2016, with objective.samples importance samples)"),
  "objective.samples": (1, "posterior samples per image"),
  "objective.beta": (1.0, "weight of the rate (KL, nats); 1 is the evidence bound"),
  "objective.beta_schedule": ("constant", "constant | linear (0 to beta over beta_steps) | cyclical (period beta_steps)"),
  "objective.beta_steps": (0, "length of the linear ramp, or of one cycle (first half ramp, second half at beta)"),
  "objective.free_bits": (0.0, "nats per latent unit and image below which the KL is not penalised"),
  "objective.alpha": (1.0, "weight of the distortion (negative log-likelihood, nats)"),
  "objective.vae_weight": (1.0, "weight of alpha * distortion + beta * rate beside other terms"),
  "training.steps": (2000, "optimiser steps"),
  "training.batch_size": (128, "global batch size"),
  "training.seed": (0, "seed of initialisation, data order and noise"),
  "training.steps_per_call": (50, "optimiser steps per dispatch (lax.scan); hides Python and transfer time"),
  "training.log_every": (100, "steps between rows of metrics.jsonl"),
  "training.eval_every": (1000, "steps between validation scores and picture grids"),
  "training.checkpoint_every": (1000, "steps between checkpoints"),
  "training.parallel": ("jit", "jit: one program over all devices, batch sharded on a 'data' mesh axis"),
  "training.dtype": ("float32", "compute type: float32 | bfloat16; parameters and statistics stay float32"),
  "training.learning_rate": (1e-3, "peak learning rate"),
  "training.warmup_steps": (100, "steps of linear warm-up, before the cosine decay"),
  "training.final_learning_rate": (0.0, "learning rate at the last step, as a fraction of the peak"),
  "training.adam_eps": (1e-8, "epsilon of Adam"),
  "training.weight_decay": (0.0, "decoupled weight decay"),
  "training.clip_norm": (0.0, "clip gradients to this global norm; 0: off"),
  "training.ema_decay": (0.999, "decay of the moving average of the parameters that is scored and sampled; 0: off"),
  "training.max_skipped": (20, "non-finite steps in a row (each is skipped) before the run aborts"),
  "training.keep": (2, "newest checkpoints to keep, beside the best one"),
  "evaluation.batch_size": (256, "images per evaluation batch"),
  "evaluation.samples": (100, "K of the IWAE bound that evaluate.py computes"),
  "evaluation.pictures": (64, "images in a picture grid"),
}


def base_config() -> ConfigDict:
  """All keys at their defaults, locked: an unknown key or a value of another type is an error."""
  tree: dict[str, Any] = {}
  for path, (default, _) in KEYS.items():
    *parents, leaf = path.split(".")
    node = tree
    for name in parents:
      node = node.setdefault(name, {})
    node[leaf] = default
  return ConfigDict(tree).lock()
