"""MNIST in the fixed binarisation of Larochelle: a VAE, and with one flag each a learned prior or a flow as posterior.

    python train.py --config configs/mnist_static.py
    python train.py --config configs/mnist_static.py --workdir runs/static_mixture --config.model.prior=mixture
    python train.py --config configs/mnist_static.py --workdir runs/static_vamp --config.model.prior=vamp
    python train.py --config configs/mnist_static.py --workdir runs/static_flow_prior --config.model.prior=real_nvp
    python train.py --config configs/mnist_static.py --workdir runs/static_iaf --config.model.posterior=iaf
    python train.py --config configs/mnist_static.py --workdir runs/static_flow --config.model.posterior=real_nvp
    python evaluate.py --workdir runs/static_vamp --checkpoint best --samples 1000

cost: 5 to 15 minutes on one core of a busy 2-core CPU, the most for the VampPrior.
figure: NLL (1,000 samples) 89.66 nats; mixture 86.97, VampPrior 86.26, RealNVP as prior 84.72, IAF 87.63.

The networks are 784-300-300-40 and its mirror in all six. The images are train.npz, validation.npz and test.npz in
data/binarized_mnist; docs/data.md says how to make them. With fixed pixels a VAE overfits, so score the best
checkpoint.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("mlp_vae")
  config.data.name = "npz"
  config.data.dir = "data/binarized_mnist"
  config.model.hidden = (300, 300)
  config.model.activation = "silu"
  config.model.latent_dim = 40
  config.model.likelihood = "bernoulli"
  config.model.components = 500
  config.model.flow_layers = 4
  config.model.flow_hidden = 200
  config.objective.beta_schedule = "linear"
  config.objective.beta_steps = 4000
  config.training.steps = 40_000
  config.training.batch_size = 100
  config.training.learning_rate = 1e-3
  config.training.steps_per_call = 100
  config.training.log_every = 200
  config.training.eval_every = 2000
  config.training.checkpoint_every = 2000
  config.evaluation.samples = 1000
  return config
