"""The VQModel against that of diffusers, and the names of its published weights.

tests/golden/vq_model.npz was made by PyTorch, once: the VQModel of diffusers 0.42.1 (torch 2.14.1) with random weights,
block_out_channels (4, 8), one layer a block, attention at the lower resolution, 2 groups, latent_channels 6,
vq_embed_dim 5, 7 codes near vectors that it encodes to. `names` are its parameters with their shapes, `weights` their
values in that order. Images (in [0, 1]) are given to it as 2 x - 1. `encoded`: encode(image).latents; `codes`: their
indices; `decoded`: decode(map, force_not_quantize=True), in [0, 1]. Maps and images are NHWC.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.errors import UserError
from vae_jax.generator import new_key
from vae_jax.models import build
from vae_jax.models.contract import Mode, init_variables
from vae_jax.models.vq_names import params_of, path_of, taming_name
from vae_jax.models.vq_networks import enlarging
from vae_jax.types import image_spec

SHAPE = (8, 12, 3)
WORDS = (
  "model.ch=4 model.ch_mult=1,2 model.num_res_blocks=1 model.attn_resolutions=4 model.norm_groups=2 model.z_channels=6 "
  "model.code_dim=5 model.codes=7 model.codebook=gradient"
)

REST = {"codebook": {"counts": np.ones(7, np.float32), "updates": np.int32(5)}}


def made(*overrides, shape=SHAPE):
  config = apply_overrides(base_config("vq_model"), [*WORDS.split(), *overrides])
  return build(config.model, image_spec(shape))


def shapes_of(model, shape=SHAPE):
  """Every variable's shape, by path."""
  tree = jax.eval_shape(lambda: init_variables(model, image_spec(shape), new_key(0)))
  return {path: x.shape for path, x in flatten_dict(tree, sep="/").items()}


@pytest.fixture(scope="module")
def golden():
  with np.load(Path(__file__).parents[1] / "golden/vq_model.npz") as file:
    found = dict(file)
  sizes = json.loads(str(found["names"]))
  ends = np.cumsum([np.prod(size) for size in sizes.values()])[:-1]
  parts = np.split(found["weights"], ends)
  state = {name: x.reshape(sizes[name]) for name, x in zip(sizes, parts, strict=True)}
  return found | {"state": state}


@pytest.fixture(scope="module")
def params(golden):
  return params_of(golden["state"], levels=2)


# --- the network ---


def test_the_parameters_of_diffusers_are_all_that_there_are(params):
  wanted = {k.removeprefix("params/"): x for k, x in shapes_of(made()).items() if k.startswith("params/")}
  assert {path: x.shape for path, x in params.items()} == wanted


def test_vectors_codes_and_images_are_those_of_diffusers(golden, params):
  model = made()
  variables = {"params": unflatten_dict(params, sep="/"), **REST}

  @jax.jit
  def run(variables, image, vectors):
    found = model.apply(variables, {"image": image}, method="vectors")
    codes = model.apply(variables, {"image": image}, method="tokens")
    decoded = model.apply(variables, vectors, method="pixels")
    rebuilt = model.apply(variables, codes, {}, method="from_tokens")
    return found, codes, 0.5 + decoded, rebuilt

  image, vectors = golden["image"], golden["map"].reshape(2, 24, 5)
  found, codes, decoded, rebuilt = run(variables, image, vectors)
  np.testing.assert_allclose(found, golden["encoded"].reshape(2, 24, 5), atol=1e-5)
  np.testing.assert_array_equal(codes, golden["codes"])
  assert len(np.unique(codes)) > 3
  np.testing.assert_allclose(decoded, golden["decoded"], atol=1e-5)
  assert rebuilt.shape == image.shape and rebuilt.min() >= 0 and rebuilt.max() <= 1


def test_enlarging_is_the_convolution_of_the_image_with_each_pixel_four_times():
  random = np.random.default_rng(0)
  x = random.normal(size=(2, 5, 4, 3)).astype(np.float32)
  kernel = random.normal(size=(3, 3, 3, 6)).astype(np.float32)

  def plain(x, kernel):
    large = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return jax.lax.conv_general_dilated(
      large, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  both = jax.jit(lambda x, kernel: (enlarging(x, kernel), plain(x, kernel)))(x, kernel)
  assert both[0].shape == (2, 10, 8, 6)
  np.testing.assert_allclose(*both, atol=1e-5)


def test_gradients_pass_straight_to_the_encoder(golden, params):
  model = made()
  params = unflatten_dict(params, sep="/")
  mode = Mode(jnp.zeros((), jnp.int32), new_key(0))

  def distortion(params):
    batch = {"image": golden["image"]}
    found = model.apply({"params": params, **REST}, batch, jax.random.split(mode.key, 2), mode)
    return found.terms["distortion"].sum()

  slope = jax.jit(jax.grad(distortion))(params)
  assert np.abs(slope["encoder"]["conv_in"]["kernel"]).max() > 0
  np.testing.assert_array_equal(slope["codes"], 0)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_before_codes_have_begun_gradients_are_finite(codebook):
  """All codes are zeros then, and so is what the decoder sees; each of its 15 norms takes the slope 1,000 of a map of
  zeros, where biases do not keep maps from it."""
  model = made(f"model.codebook={codebook}")
  image = jnp.asarray(np.random.default_rng(0).uniform(size=(2, *SHAPE)), jnp.float32)

  def largest(key):
    variables = init_variables(model, image_spec(SHAPE), key)
    params = variables.pop("params")

    def loss(params):
      mode = Mode(jnp.zeros((), jnp.int32), key)
      batch = {"image": image}
      found = model.apply({"params": params, **variables}, batch, jax.random.split(key, 2), mode)
      return found.terms["distortion"].mean()

    return jax.tree.map(lambda x: jnp.abs(x).max(), jax.grad(loss)(params))

  slopes = jax.tree.leaves(jax.jit(largest)(new_key(0)))
  assert np.isfinite(slopes).all() and max(slopes) < 1e6


def test_remat_computes_blocks_again_and_changes_no_parameter():
  assert shapes_of(made("model.remat=true")) == shapes_of(made())
  again = []
  for words in ("model.remat=false", "model.remat=true"):
    model = made(words)

    def loss(variables, image, model=model):
      return model.apply(variables, {"image": image}, method="vectors").sum()

    like = jax.eval_shape(lambda model=model: init_variables(model, image_spec(SHAPE), new_key(0)))
    program = jax.make_jaxpr(jax.grad(loss, allow_int=True))(like, jnp.zeros((1, *SHAPE)))
    again.append(str(program).count("conv_general_dilated["))
  assert again[1] > again[0]


def test_codes_lie_at_the_lowest_resolution():
  assert made().layout == ((4, 6, 1),) and made().positions == 24
  assert made("model.ch_mult=1,2,2", "model.attn_resolutions=()").layout == ((2, 3, 1),)


def test_attention_is_where_the_shorter_side_is_named():
  def having(*words):
    return {path.split("/")[2] for path in shapes_of(made(*words)) if "attn" in path}

  assert having("model.attn_resolutions=()") == {"mid_attn_1"}
  assert having() == {"mid_attn_1", "down_1_attn_0", "up_1_attn_0", "up_1_attn_1"}
  assert "down_0_attn_0" in having("model.attn_resolutions=8,4")


# --- names ---

# (taming-transformers, diffusers, path), of a model with 5 levels.
NAMES = [
  ("encoder.conv_in.weight", "encoder.conv_in.weight", "encoder/conv_in/kernel"),
  (
    "encoder.down.0.block.1.norm1.weight",
    "encoder.down_blocks.0.resnets.1.norm1.weight",
    "encoder/down_0_block_1/norm1/scale",
  ),
  (
    "encoder.down.4.attn.0.q.bias",
    "encoder.down_blocks.4.attentions.0.to_q.bias",
    "encoder/down_4_attn_0/q/bias",
  ),
  (
    "encoder.down.3.downsample.conv.weight",
    "encoder.down_blocks.3.downsamplers.0.conv.weight",
    "encoder/down_3_downsample/kernel",
  ),
  (
    "decoder.mid.block_2.conv2.weight",
    "decoder.mid_block.resnets.1.conv2.weight",
    "decoder/mid_block_2/conv2/kernel",
  ),
  (
    "decoder.mid.attn_1.norm.weight",
    "decoder.mid_block.attentions.0.group_norm.weight",
    "decoder/mid_attn_1/norm/scale",
  ),
  (
    "decoder.mid.attn_1.proj_out.weight",
    "decoder.mid_block.attentions.0.to_out.0.weight",
    "decoder/mid_attn_1/proj_out/kernel",
  ),
  (
    "decoder.up.0.block.2.nin_shortcut.weight",
    "decoder.up_blocks.4.resnets.2.conv_shortcut.weight",
    "decoder/up_0_block_2/nin_shortcut/kernel",
  ),
  (
    "decoder.up.4.upsample.conv.bias",
    "decoder.up_blocks.0.upsamplers.0.conv.bias",
    "decoder/up_4_upsample/bias",
  ),
  ("decoder.norm_out.bias", "decoder.conv_norm_out.bias", "decoder/norm_out/bias"),
  ("quant_conv.weight", "quant_conv.weight", "quant_conv/kernel"),
  ("quantize.embedding.weight", "quantize.embedding.weight", "codes"),
]


@pytest.mark.parametrize(("taming", "diffusers", "path"), NAMES, ids=[path for *_, path in NAMES])
def test_both_names_lead_to_the_same_parameter(taming, diffusers, path):
  assert taming_name(diffusers, 5) == taming and taming_name(taming, 5) == taming
  assert path_of(taming, 5) == path_of(diffusers, 5) == tuple(path.split("/"))


def test_what_is_beside_the_model_is_left_out_and_what_is_unknown_is_refused():
  assert path_of("loss.discriminator.main.0.weight", 5) is None
  for name in (
    "encoder.down.0.block.0.norm3.weight",
    "conv_in.weight",
    "encoder.quant_conv.weight",
    "x" * 300,
  ):
    with pytest.raises(UserError, match="is no parameter of a VQGAN; give weights") as error:
      path_of(name, 5)
    assert len(str(error.value)) < 200


def test_kernels_change_their_axes_and_the_last_layer_its_range():
  random = np.random.default_rng(0)
  given = {
    "decoder.conv_out.weight": random.normal(size=(3, 4, 3, 3)).astype(np.float32),
    "post_quant_conv.weight": random.normal(size=(6, 5, 1, 1)).astype(np.float32),
    "encoder.mid.attn_1.q.weight": random.normal(size=(8, 8)).astype(np.float32),
  }
  found = params_of(given, 2)
  np.testing.assert_array_equal(
    found["decoder/conv_out/kernel"][2, 1, 3, 0], 0.5 * given["decoder.conv_out.weight"][0, 3, 2, 1]
  )
  np.testing.assert_array_equal(
    found["post_quant_conv/kernel"][4, 1], given["post_quant_conv.weight"][1, 4, 0, 0]
  )
  np.testing.assert_array_equal(found["encoder/mid_attn_1/q/kernel"], given["encoder.mid.attn_1.q.weight"].T)


# --- what is refused ---


@pytest.mark.parametrize(
  ("words", "said"),
  [
    (
      "model.norm_groups=8",
      "model.norm_groups=8 must divide all widths, and model.ch=4 gives 4; set it to 4",
    ),
    ("model.ch_mult=1,2,2,2", "halves images 3 times, and 8 x 12 are no multiples of 8; set data.size"),
    (
      "model.attn_resolutions=4,6",
      "model.attn_resolutions=4,6: no map has the side 6; shorter sides here are 8, 4",
    ),
  ],
)
def test_models_that_do_not_fit_are_refused_in_one_line(words, said):
  config = apply_overrides(base_config("vq_model"), [*WORDS.split(), words])
  with pytest.raises(UserError) as error:
    validate(config)
    build(config.model, image_spec(SHAPE))
  assert said in str(error.value) and "\n" not in str(error.value)


def test_smaller_degraded_images_are_refused():
  config = apply_overrides(base_config("vq_model"), WORDS.split())
  with pytest.raises(UserError, match=r"degraded images are 4 x 6 for 8 x 12; set data\.degrade\.name"):
    build(config.model, image_spec(SHAPE, (4, 6, 3)))
