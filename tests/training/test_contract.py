"""The losses of 20 steps are the same however they are run, for every family; order, flips and noise are random.

A family is one line of `FAMILIES`: that it is in a name before the comma, and the config with which it is small.
"""

import functools

import jax
import numpy as np
import pytest

from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.data import pipeline
from vae_jax.data.prepare import make_prepare
from vae_jax.errors import UserError
from vae_jax.models import build, needs
from vae_jax.objectives import load_frozen, make_objective
from vae_jax.training import assemble, parallel, state, steps

SHAPE, STEPS, BATCH = (8, 8, 1), 20, 16
DEVICES = jax.devices("cpu")  # eight, see conftest
MLP = "model.hidden=16 model.latent_dim=2"
CONV = "model.channels=4 model.dense=8 model.latent_dim=2 model.likelihood=gaussian"
AUTO = "model.channels=4 model.dense=8 model.latent_dim=2 model.sigma=0.3"
CODES = "model.codes=4 model.layout=2,2,1 model.width=8 model.layers=2 data.flip=false"
NOISE = "model.channels=4 data.degrade.name=gaussian_noise model.likelihood=laplace model.sigma=0.3"
VQ = "model.channels=4,6 model.blocks=0 model.sigma=0.3"
JUDGE = "objective.adversarial.weight=0.5 objective.adversarial.start=5 objective.adversarial.channels=4,8"
BOOK = "model.codes=12 model.code_dim=3 model.kmeans_steps=2"
NETS = (
  "model.ch=4 model.ch_mult=1,2 model.num_res_blocks=1 model.attn_resolutions=4 model.norm_groups=2 "
  "model.z_channels=4"
)
FAMILIES = {
  "mlp_vae": f"{MLP} data.binarize=dynamic objective.free_bits=0.1",
  "mlp_vae, iwae": f"{MLP} objective.name=iwae objective.samples=3",
  "mlp_vae, dreg": f"{MLP} objective.name=iwae objective.samples=3 objective.gradient=dreg model.prior=vamp "
  "model.components=3",
  "mlp_vae, piwae": f"{MLP} objective.name=piwae objective.samples=4 objective.groups=2 model.posterior=iaf "
  "model.prior=real_nvp model.flow_layers=2 model.flow_hidden=4",
  "mlp_vae, total correlation": f"{MLP} objective.total_correlation=2",
  "mlp_vae, dip": f"{MLP} objective.dip=1 objective.beta=3 objective.capacity=2 objective.capacity_steps=10",
  "mlp_vae, mmd": f"{MLP} objective.mmd=5",
  "mlp_vae, free bits": f"{MLP} objective.free_bits=0.5 objective.free_bits_over=batch",
  "mlp_vae, two opponents": f"{MLP} {JUDGE} objective.factor_vae.weight=3 objective.factor_vae.hidden=8 "
  "objective.factor_vae.learning_rate=1e-3 training.adam_eps=1e-3",  # smaller ones blow up rounding
  "conv_vae": f"{CONV} objective.beta_schedule=linear objective.beta_steps=10",
  "conv_vae, adversarial": f"{CONV} {JUDGE}",
  "restoration_vae": f"{NOISE} model.latent_dim=2",
  "transformation_net": NOISE,
  "cvae": f"{MLP} model.classes=4 data.binarize=dynamic",
  "conv_cvae": f"{CONV} model.classes=4",
  "structured_cvae": f"{MLP} data.binarize=dynamic",
  "structured_cvae, hybrid": f"{MLP} model.kind=hybrid model.observed=upper_left,lower_right objective.gsnn=0.5",
  "structured_cvae, nn": f"{MLP} model.kind=nn",
  "vae_gan": "model.channels=4 model.dense=8 model.latent_dim=2 objective.discriminator.channels=4,6 "
  "objective.discriminator.dense=8 objective.gamma=0.1 training.adam_eps=1e-3",  # smaller ones blow up rounding
  "vq_vae": f"{VQ} {BOOK}",
  "vq_vae, groups and levels": f"{VQ} model.code_dim=4 model.codes=6 model.groups=2 model.levels=2",
  "vq_vae, cosine": f"{VQ} model.code_dim=4 model.codes=6 model.distance=cosine model.gradient=rotation "
  "training.adam_eps=1e-3",  # smaller ones blow up rounding
  "vq_vae, fsq": f"{VQ} model.quantiser=fsq model.fsq_levels=4,3",
  "vq_vae, lfq": f"{VQ} model.quantiser=lfq model.codes=8 model.decay=0.5",
  "vq_vae, gumbel": f"{VQ} model.quantiser=gumbel model.codes=6 model.code_dim=4 model.temperature_steps=10",
  "vq_model": f"{BOOK} {NETS} model.sigma=0.3 training.adam_eps=1e-3",  # keys' biases have no gradient but rounding
  "vq_model, adversarial": f"{BOOK} {NETS} model.sigma=0.3 {JUDGE} training.adam_eps=1e-3",
  "vq_vae_2": f"model.channels=4 model.blocks=0 model.sigma=0.3 {BOOK}",
  "vq_vae_2, three maps": f"model.channels=4 model.blocks=1 model.maps=3 model.sigma=0.3 {BOOK} "
  "model.codebook=gradient",
  "latent_vae": "model.hidden=16,8",
  "code_transformer": f"{CODES} model.heads=2",
  "code_transformer, label": f"{CODES} model.heads=2 model.condition=label model.classes=4",
  "code_transformer, text": f"{CODES} model.heads=2 model.condition=text",
  "masked_codes": f"{CODES} model.heads=2 model.decode_steps=2 model.condition=label model.classes=4",
  "code_convolution": f"{CODES} model.condition=label model.classes=4",
  "captioner": "model.channels=4 model.blocks=0 model.width=8 model.layers=1 model.heads=2",
  "rae": f"{AUTO} objective.regulariser=0.01",
  "rae, gradient": f"{AUTO} model.regulariser=gp objective.regulariser=0.01",
  "rae, spectral": f"{AUTO} model.regulariser=sn",
  "wae": f"{AUTO} model.encoder=gaussian",
  "aae": f"{AUTO} objective.latent_adversarial.hidden=8 training.adam_eps=1e-3",
}
WAYS = {  # devices, way, fsdp, parts of a batch
  "jit on 2": (2, "jit", False, 1),
  "jit on 8": (8, "jit", False, 1),
  "fsdp on 8": (8, "jit", True, 1),
  "pmap on 2": (2, "pmap", False, 1),
  "pmap on 8": (8, "pmap", False, 1),
  "4 parts": (1, "jit", False, 4),
  "pmap on 2, 4 parts": (2, "pmap", False, 4),
}
# Other cases hold them too: that with an adversarial term, and those with other regularisers or gradients apart.
SLOW = {"conv_vae", "rae", "vq_model", "mlp_vae, piwae"}


@functools.cache
def records(needed):
  """40 records with images and the fields that a model needs."""
  random = np.random.default_rng(0)
  fields = {
    "image": random.integers(0, 256, size=(40, *SHAPE), dtype=np.uint8),
    "label": random.integers(0, 4, size=40, dtype=np.int32),
    "factors": random.normal(size=(40, 3)).astype(np.float32),
    "text": random.integers(1, 9, size=(40, 5), dtype=np.int32),
    "codes": random.integers(0, 4, size=(40, 4), dtype=np.int32),
    "latents": random.normal(size=(40, 3)).astype(np.float32),
  }
  return {field: fields[field] for field in sorted({"image"} | needed)}


def configured(case, *overrides):
  name = case.split(",")[0]
  words = f"data.flip=true {FAMILIES[case]} training.steps=100 training.learning_rate=1e-3".split()
  return apply_overrides(base_config(name), [*words, *overrides])


def made(case, accumulate=1, axis_name=None):
  """The training step, and what makes its first state."""
  config = configured(case, f"training.accumulate={accumulate}", f"training.batch_size={BATCH}")
  validate(config)
  prepare, frozen = make_prepare(config.data, training=True), load_frozen(config.objective)
  spec = assemble.prepared_spec(prepare, records(needs(config.model)), frozen)
  model, tx = build(config.model, spec), state.make_optimizer(config.training)
  opponents = assemble.make_opponents(config, spec)
  step = steps.make_train_step(
    model,
    make_objective(config.objective, model.terms, 40),
    prepare,
    tx,
    state.make_learning_rate(config.training),
    samples=config.objective.get("samples", 1),
    ema_decay=0.9,
    root=jax.random.key(1),
    opponents=opponents,
    accumulate=accumulate,
    axis_name=axis_name,
  )
  return step, functools.partial(state.init_state, model, tx, spec, jax.random.key(0), opponents=opponents)


@functools.cache
def initial(case):
  """The first state, on the host: a step donates what it is given."""
  return jax.device_get(jax.jit(made(case)[1])())


@functools.cache
def curves(case, count=1, way="jit", fsdp=False, accumulate=1):
  """Every loss of 20 steps, by name: the model's, and those of opponents."""
  placement = parallel.make_placement(BATCH, DEVICES[:count], way, fsdp)
  step, _ = made(case, accumulate, placement.axis_name)
  first, data = initial(case), records(needs(configured(case).model))
  call = parallel.compile_train_call(steps.make_train_call(step), placement, first)
  train_state, stored = jax.device_put(first, placement.state(first)), placement.put(data)
  index = pipeline.order(0, 40, pipeline.positions(0, STEPS, BATCH))
  rows = []
  for at in range(STEPS):
    batches = placement.put_batch({"index": index[at : at + 1]}, axis=1)
    train_state, metrics = call(train_state, stored, batches)
    rows.append({name: x[0] for name, x in metrics.items() if name.endswith("loss")})
  assert int(train_state.skipped) == 0
  return {name: np.array([row[name] for row in jax.device_get(rows)]) for name in rows[0]}


@functools.cache
def is_of_the_whole_batch(case):
  """Whether a term of the loss cannot be made of parts of a batch."""
  try:
    config = configured(case, "training.accumulate=4")
    validate(config)
    assemble.make_opponents(config, {})
  except UserError as error:
    assert "training.accumulate=4 must be 1 with" in str(error) and "\n" not in str(error)
    return True
  return False


def quick(case):
  """The way in which a case may differ most from one device, or the one that XLA has most to divide in."""
  return "pmap on 8" if is_of_the_whole_batch(case) else "fsdp on 8"


def cases():
  for case in FAMILIES:
    for way, (_, _, _, accumulate) in WAYS.items():
      if accumulate == 1 or not is_of_the_whole_batch(case):
        slow = case in SLOW or way != quick(case)
        yield pytest.param(case, way, marks=pytest.mark.slow if slow else (), id=f"{case}: {way}")


@pytest.mark.parametrize(("case", "way"), list(cases()))
def test_twenty_steps_have_the_same_losses(case, way):
  alone, other = curves(case), curves(case, *WAYS[way])
  loss = alone["loss"]
  assert np.isfinite(loss).all() and np.std(loss) > 1e-3 * np.abs(loss.mean())
  assert alone.keys() == other.keys()
  for name in alone:
    np.testing.assert_allclose(other[name], alone[name], rtol=1e-5, err_msg=name)


def test_terms_over_the_whole_batch_and_opponents_refuse_parts():
  found = {case for case in FAMILIES if is_of_the_whole_batch(case)}
  assert found >= {
    f"mlp_vae, {term}" for term in ("total correlation", "dip", "mmd", "free bits", "two opponents")
  }
  assert "conv_vae, adversarial" in found and not found & {
    "mlp_vae",
    "mlp_vae, iwae",
    "mlp_vae, dreg",
    "conv_vae",
  }


def test_two_opponents_learn_and_count_in_the_loss():
  found = curves("mlp_vae, two opponents")
  assert {"adversarial_discriminator_loss", "factor_vae_discriminator_loss"} < found.keys()
  assert all(np.ptp(curve) > 1e-3 for curve in found.values())


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
  "case",
  ["conv_vae, adversarial", "restoration_vae", "transformation_net", "rae, gradient", "vq_model", "vq_vae_2"],
)
def test_steps_have_no_convolution_that_is_slow_in_loops_on_cpus(case, accumulate):
  step, make = made(case, accumulate=1 if is_of_the_whole_batch(case) else accumulate)
  images = np.zeros((2, BATCH, *SHAPE), np.uint8)
  program = jax.jit(steps.make_train_call(step)).lower(jax.eval_shape(make), {}, {"image": images})
  found = [line for line in program.as_text().splitlines() if "stablehlo.convolution(" in line]
  order = "dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
  assert found and all(order in line and "_dilate = [2" not in line for line in found)
