"""Layers against XLA's convolution, loops and formulas."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.models import blocks


def normal(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def filled(module, *inputs):
  """Variables of the module's shapes with normal values: initialisers take long to compile."""
  leaves, tree = jax.tree.flatten(jax.eval_shape(module.init, jax.random.key(0), *inputs))
  return jax.tree.unflatten(tree, [normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def disordered(program):
  """The convolutions of a lowered program that XLA does not run as products in a loop on a CPU."""
  found = [line for line in program.splitlines() if "stablehlo.convolution(" in line]
  assert found
  order = "dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
  dilated = re.compile(r"_dilate = \[(?!1, 1\])")
  return [line for line in found if order not in line or dilated.search(line)]


def xla_conv(x, kernel, strides, padding):
  return jax.lax.conv_general_dilated(
    x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
  )


@pytest.mark.parametrize("size", [(5, 6), (7, 3)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 4])
def test_loop_conv_is_the_convolution_of_xla(size, stride, kernel):
  x, weights = normal(0, 2, *size, 3), normal(1, kernel, kernel, 3, 5)
  shape = blocks.halved(size, stride - 1)
  cotangent = normal(2, 2, *shape, 5)

  def both(conv):  # value and gradients of a scalar that weights every output differently
    y, back = jax.vjp(lambda x, w: conv(x, w, (stride, stride), "SAME"), x, weights)
    return y, *back(cotangent)

  ours, expected = jax.jit(lambda: (both(blocks.loop_conv), both(xla_conv)))()
  assert expected[0].shape == cotangent.shape
  for a, b in zip(ours, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_loop_conv_takes_explicit_padding_and_uneven_strides():
  x, weights, padding = normal(0, 1, 7, 6, 2), normal(1, 3, 4, 2, 3), [(0, 2), (1, 0)]
  expected = xla_conv(x, weights, (2, 1), padding)
  np.testing.assert_allclose(blocks.loop_conv(x, weights, (2, 1), padding), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 2)])
def test_conv_has_equal_parameters_and_results_in_loops_on_every_backend(monkeypatch, kernel, stride):
  x, conv, results = normal(0, 2, 5, 7, 3), blocks.Conv(4, kernel, stride), {}
  for backend in ("cpu", "gpu"):
    monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
    with blocks.in_loop():
      variables = filled(conv, x)
      traced = jax.jit(lambda v: conv.apply(v, x)).trace(variables)
    assert ("custom_vjp" in str(traced.jaxpr)) == (backend == "cpu")
    results[backend] = variables, traced.lower().compile()(variables)
  (variables, ours), (others, theirs) = results["cpu"], results["gpu"]
  jax.tree.map(np.testing.assert_array_equal, variables, others)
  np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
  assert ours.shape == (2, -(-5 // stride), -(-7 // stride), 4)


@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_shuffle_is_a_loop_over_pixels(factor):
  # Channel (i * f + j) * c + k of a pixel becomes channel k of sub-pixel (i, j): "depth to space". PyTorch's
  # PixelShuffle reads k * f * f + i * f + j instead: the same layer with its input channels in another order.
  b, h, w, c = 2, 2, 3, 2
  x = np.asarray(normal(0, b, h, w, factor**2 * c))
  expected = np.zeros((b, h * factor, w * factor, c), np.float32)
  for y, u, i, j, k in np.ndindex(h, w, factor, factor, c):
    expected[:, y * factor + i, u * factor + j, k] = x[:, y, u, (i * factor + j) * c + k]
  np.testing.assert_array_equal(blocks.pixel_shuffle(jnp.asarray(x), factor), expected)

  torch_order = [k * factor**2 + i * factor + j for i, j, k in np.ndindex(factor, factor, c)]
  torch_like = np.zeros_like(expected)
  for y, u, i, j, k in np.ndindex(h, w, factor, factor, c):
    torch_like[:, y * factor + i, u * factor + j, k] = x[:, y, u, k * factor**2 + i * factor + j]
  np.testing.assert_array_equal(blocks.pixel_shuffle(jnp.asarray(x[..., torch_order]), factor), torch_like)


@pytest.mark.parametrize(
  ("size", "times", "expected"),
  [((28, 28), 2, (7, 7)), ((7, 5), 1, (4, 3)), ((7, 5), 3, (1, 1)), ((1, 2), 4, (1, 1)), ((9, 8), 0, (9, 8))],
)
def test_halved_rounds_up_as_strided_convolutions_do(size, times, expected):
  assert blocks.halved(size, times) == expected

  def shrunk(x):
    for _ in range(times):
      x = blocks.loop_conv(x, jnp.zeros((4, 4, 1, 1)), (2, 2), "SAME")
    return x

  assert jax.eval_shape(shrunk, jnp.zeros((1, *size, 1))).shape[1:3] == expected


@pytest.mark.parametrize("size", [(5, 6), (6, 5), (6, 6)])
def test_upsample_crops_to_odd_sizes(size):
  x = normal(0, 2, 3, 3, 4)
  variables = filled(blocks.Upsample(5, size), x)
  y = jax.jit(blocks.Upsample(5, size).apply)(variables, x)
  assert y.shape == (2, *size, 5)
  whole = jax.jit(blocks.Upsample(5, (6, 6)).apply)(variables, x)
  np.testing.assert_array_equal(y, whole[:, : size[0], : size[1]])


def test_residual_block_starts_as_the_identity_and_its_kernels_learn(key):
  x, block = normal(0, 2, 5, 4, 6), blocks.ResidualBlock("silu")

  @jax.jit
  def value_and_gradient(key):
    variables = block.init(key, x)
    return block.apply(variables, x), jax.grad(lambda v: jnp.square(block.apply(v, x)).sum())(variables)

  y, grads = value_and_gradient(key)
  np.testing.assert_array_equal(y, x)
  assert np.abs(grads["params"]["Conv_1"]["Conv_0"]["kernel"]).max() > 0


@pytest.mark.parametrize("channels", [1, 6, 12, 16])
def test_norm_is_group_norm_per_example(channels):
  x, scale, bias = 3 + 2 * normal(0, 3, 4, 5, channels), normal(1, channels), normal(2, channels)
  y = jax.jit(blocks.Norm().apply)({"params": {"GroupNorm_0": {"scale": scale, "bias": bias}}}, x)
  groups = {1: 1, 6: 2, 12: 4, 16: 8}[channels]
  parts = np.asarray(x, np.float64).reshape(3, 4 * 5, groups, channels // groups)
  mean, var = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
  expected = ((parts - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)
  expected = expected * np.asarray(scale) + np.asarray(bias)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_pixel_unshuffle_gathers_and_is_undone_by_pixel_shuffle(factor):
  x = normal(0, 2, 2 * factor, 3 * factor, 5)
  y = blocks.pixel_unshuffle(x, factor)
  assert y.shape == (2, 2, 3, 5 * factor**2)
  for i in range(factor):
    for j in range(factor):
      start = (i * factor + j) * 5
      np.testing.assert_array_equal(y[..., start : start + 5], x[:, i::factor, j::factor])
  np.testing.assert_array_equal(blocks.pixel_shuffle(y, factor), x)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 2), (3, 2), (1, 2)])
def test_gradients_in_loops_on_cpus_are_convolutions_of_one_order_of_axes(kernel, stride):
  """XLA is slow there at all others (jax-ml/jax#12868); outside of loops its own need no help."""
  conv, x = blocks.Conv(4, kernel, stride), jnp.ones((2, 6, 7, 3))
  variables = conv.init(jax.random.key(0), x)

  def loss(variables, x):
    return jnp.square(conv.apply(variables, x)).sum()

  def program():
    # A function of its own each time: traces are kept.
    return jax.jit(jax.grad(lambda *args: loss(*args), (0, 1))).lower(variables, x).as_text()

  assert disordered(program())
  with blocks.in_loop():
    assert not disordered(program())
  assert disordered(program())


def test_loop_conv_can_be_differentiated_twice():
  x, weights = normal(0, 2, 5, 6, 3), normal(1, 4, 4, 3, 2)

  def slope(conv):  # as a penalty on gradients needs it
    def scalar(x, w):
      return jnp.sin(conv(x, w, (2, 2), "SAME")).sum()

    return jax.grad(lambda w: jnp.square(jax.grad(scalar)(x, w)).sum())(weights)

  np.testing.assert_allclose(slope(blocks.loop_conv), slope(xla_conv), rtol=1e-4, atol=1e-4)
