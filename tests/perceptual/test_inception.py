"""Inception-v3 of FID against Keras's network, a PyTorch one written out here, and formulas in float64."""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from vae_jax.errors import UserError
from vae_jax.models.blocks import in_loop
from vae_jax.perceptual.inception import LAYERS, BlockE, InceptionFID, resize_images, resize_weights

RTOL = 1e-5  # of the largest value
QUICK = {"xla_backend_optimization_level": 0}  # compiling is most of this file's time
STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_A = "branch1x1 branch5x5_1 branch5x5_2 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3 branch_pool"
_B = "branch3x3 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3"
_C = (
  "branch1x1 branch7x7_1 branch7x7_2 branch7x7_3 branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4"
  " branch7x7dbl_5 branch_pool"
)
_D = "branch3x3_1 branch3x3_2 branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4"
_E = (
  "branch1x1 branch3x3_1 branch3x3_2a branch3x3_2b branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a branch3x3dbl_3b"
  " branch_pool"
)
UNITS = {
  **dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), _A),
  "Mixed_6a": _B,
  **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), _C),
  "Mixed_7a": _D,
  **dict.fromkeys(("Mixed_7b", "Mixed_7c"), _E),
}
# Every unit, in the order in which Keras makes its layers.
ALL_UNITS = [(name,) for name in STEM] + [(b, unit) for b, units in UNITS.items() for unit in units.split()]


def _close(a, b, rtol=RTOL):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  assert a.shape == b.shape
  assert np.abs(b).max() > 0
  assert np.abs(a - b).max() <= rtol * np.abs(b).max()


def _shapes(side=75, **options):
  network = InceptionFID(**{"resize": "none", **options})
  return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))


@pytest.fixture(scope="module")
def variables():
  """Random everything, with kernels scaled so that activations keep their size."""
  rng = np.random.default_rng(0)

  def draw(path, shape):
    if path[-1] == "kernel":
      return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[:-1])))
    if path[-1] in ("scale", "var"):
      return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return rng.normal(0, 0.2, shape).astype(np.float32)

  leaves = flatten_dict(_shapes(layers=LAYERS))
  return unflatten_dict({path: draw(path, leaf.shape) for path, leaf in leaves.items()})


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(1).random((2, 107, 107, 3), np.float32)


@pytest.fixture(scope="module")
def taps(variables, images):
  """All taps and what each block returns, in one compiled pass."""
  network = InceptionFID(layers=LAYERS, resize="none")
  captures = {"capture_intermediates": True, "mutable": ["intermediates"]}
  apply = jax.jit(lambda v, x: network.apply(v, x, **captures), compiler_options=QUICK)
  features, captured = apply(variables, images)
  return features | {name: captured["intermediates"][name]["__call__"][0] for name in UNITS}


# --- Keras


@pytest.fixture(scope="module")
def keras_mixed(variables, images):
  """mixed0..mixed10 of keras.applications.InceptionV3 (arXiv:1512.00567) with our random weights."""
  os.environ.setdefault("KERAS_BACKEND", "jax")
  keras = pytest.importorskip("keras")
  if keras.backend.backend() != "jax":
    pytest.skip("Keras runs on another backend than JAX")
  with pytest.MonkeyPatch.context() as patch:  # its own initialisation compiles for a minute
    for kind in (keras.initializers.GlorotUniform, keras.initializers.Zeros, keras.initializers.Ones):
      patch.setattr(kind, "__call__", lambda self, shape, dtype=None, **_: np.zeros(shape, dtype))
    model = keras.applications.InceptionV3(weights=None, include_top=False, input_shape=images.shape[1:])

  def made(kind):  # in the order of making: names end in a running number, but for the first
    layers = [layer for layer in model.layers if isinstance(layer, kind)]
    return sorted(layers, key=lambda layer: int((re.search(r"_(\d+)$", layer.name) or "00")[1]))

  values = {}
  convs, norms = made(keras.layers.Conv2D), made(keras.layers.BatchNormalization)
  for path, conv, norm in zip(ALL_UNITS, convs, norms, strict=True):
    params, stats = variables["params"], variables["batch_stats"]
    for level in path:
      params, stats = params[level], stats[level]
    # Keras's normalisation has no scale: s (k x - m) / d = ((s k) x - s m) / d.
    assert norm.epsilon == 1e-3 and not norm.scale
    values[f"{conv.name}/kernel"] = params["conv"]["kernel"] * params["bn"]["scale"]
    values[f"{norm.name}/beta"] = params["bn"]["bias"]
    values[f"{norm.name}/moving_mean"] = stats["bn"]["mean"] * params["bn"]["scale"]
    values[f"{norm.name}/moving_variance"] = stats["bn"]["var"]
  mixed = keras.Model(model.input, [model.get_layer(f"mixed{i}").output for i in range(11)])
  groups = mixed.trainable_variables, mixed.non_trainable_variables
  assert {v.path: tuple(v.shape) for group in groups for v in group} == {
    k: v.shape for k, v in values.items()
  }

  def run(values, x):
    return mixed.stateless_call(*([values[v.path] for v in group] for group in groups), x, training=False)[0]

  return jax.jit(run, compiler_options=QUICK)(values, 2 * images - 1)


@pytest.mark.parametrize(("i", "block"), list(enumerate(UNITS))[:10])
def test_blocks_are_those_of_keras(i, block, keras_mixed, taps):
  _close(taps[block], keras_mixed[i])


def test_last_block_with_an_average_is_that_of_keras(keras_mixed, variables):
  last = {group: tree["Mixed_7c"] for group, tree in variables.items()}
  _close(jax.jit(BlockE(pool="average").apply)(last, keras_mixed[9]), keras_mixed[10])


def test_last_block_differs_from_keras_in_the_pool_branch_alone(keras_mixed, taps, variables):
  _close(taps["Mixed_7c"][..., :1856], keras_mixed[10][..., :1856])
  assert np.abs(taps["Mixed_7c"] - keras_mixed[10])[..., 1856:].max() > 0.1


# --- The last block and the taps behind it, written out


def test_last_pool_branch_is_a_maximum(taps, variables):
  x = np.asarray(taps["Mixed_7b"], np.float64)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
  h, w = x.shape[1:3]
  pooled = np.max([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=0)
  params, stats = (variables[group]["Mixed_7c"]["branch_pool"] for group in ("params", "batch_stats"))
  y = (pooled @ np.float64(params["conv"]["kernel"][0, 0]) - stats["bn"]["mean"]) / np.sqrt(
    np.float64(stats["bn"]["var"]) + 1e-3
  )
  expected = np.maximum(y * params["bn"]["scale"] + params["bn"]["bias"], 0)
  _close(taps["Mixed_7c"][..., 1856:], expected)


def test_deep_taps(taps, variables):
  np.testing.assert_array_equal(taps["features768"], taps["Mixed_6e"])
  mean = np.asarray(taps["Mixed_7c"], np.float64).mean((1, 2))
  _close(taps["pool2048"], mean)
  _close(taps["logits"], mean @ variables["params"]["fc"]["kernel"])  # and not the bias


# --- PyTorch


def _torch_network(torch):
  """The network of pytorch-fid by its description, in the names of its state dict."""
  nn, F = torch.nn, torch.nn.functional

  class Unit(nn.Module):
    def __init__(self, c, d, kernel=1, stride=1, padding=0):
      super().__init__()
      self.conv = nn.Conv2d(c, d, kernel, stride=stride, padding=padding, bias=False)
      self.bn = nn.BatchNorm2d(d, eps=0.001)

    def forward(self, x):
      return F.relu(self.bn(self.conv(x)))

  row3, column3 = {"kernel": (1, 3), "padding": (0, 1)}, {"kernel": (3, 1), "padding": (1, 0)}
  row7, column7 = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
  same3, same5, half3 = {"kernel": 3, "padding": 1}, {"kernel": 5, "padding": 2}, {"kernel": 3, "stride": 2}

  def average(x):
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)

  def maximum(x):
    return F.max_pool2d(x, 3, stride=1, padding=1)

  def halve(x):
    return F.max_pool2d(x, 3, stride=2)

  class Mixed(nn.Module):
    """Branches as lists of (name, width, options); a list within ends the branch in a fork; `pool` comes last."""

    def __init__(self, c, branches, pool, pooled=None):
      super().__init__()
      self.plan, self.pool = [], pool
      for branch in branches:
        width, names = c, []
        for step in branch:
          ends = step if isinstance(step, list) else [step]
          for name, d, *options in ends:
            self.add_module(name, Unit(width, d, **(options[0] if options else {})))
          width = ends[0][1]
          names.append([name for name, *_ in ends])
        self.plan.append(names)
      if pooled:
        self.branch_pool = Unit(c, pooled)

    def forward(self, x):
      outputs = []
      for branch in self.plan:
        ends = [x]
        for names in branch:
          ends = [getattr(self, name)(ends[0]) for name in names]
        outputs += ends
      pooled = self.pool(x)
      return torch.cat([*outputs, self.branch_pool(pooled) if hasattr(self, "branch_pool") else pooled], 1)

  def a(c, pooled):
    return Mixed(
      c,
      [
        [("branch1x1", 64)],
        [("branch5x5_1", 48), ("branch5x5_2", 64, same5)],
        [("branch3x3dbl_1", 64), ("branch3x3dbl_2", 96, same3), ("branch3x3dbl_3", 96, same3)],
      ],
      average,
      pooled,
    )

  def b(c):
    double = [("branch3x3dbl_1", 64), ("branch3x3dbl_2", 96, same3), ("branch3x3dbl_3", 96, half3)]
    return Mixed(c, [[("branch3x3", 384, half3)], double], halve)

  def c7(n):
    return Mixed(
      768,
      [
        [("branch1x1", 192)],
        [("branch7x7_1", n), ("branch7x7_2", n, row7), ("branch7x7_3", 192, column7)],
        [
          ("branch7x7dbl_1", n),
          ("branch7x7dbl_2", n, column7),
          ("branch7x7dbl_3", n, row7),
          ("branch7x7dbl_4", n, column7),
          ("branch7x7dbl_5", 192, row7),
        ],
      ],
      average,
      192,
    )

  def d():
    seven = [("branch7x7x3_1", 192), ("branch7x7x3_2", 192, row7), ("branch7x7x3_3", 192, column7)]
    return Mixed(
      768,
      [[("branch3x3_1", 192), ("branch3x3_2", 320, half3)], [*seven, ("branch7x7x3_4", 192, half3)]],
      halve,
    )

  def e(c, pool):
    fork = [("branch3x3_2a", 384, row3), ("branch3x3_2b", 384, column3)]
    double = [("branch3x3dbl_3a", 384, row3), ("branch3x3dbl_3b", 384, column3)]
    return Mixed(
      c,
      [
        [("branch1x1", 320)],
        [("branch3x3_1", 384), fork],
        [("branch3x3dbl_1", 448), ("branch3x3dbl_2", 384, same3), double],
      ],
      pool,
      192,
    )

  stages = {
    "Conv2d_1a_3x3": Unit(3, 32, **half3),
    "Conv2d_2a_3x3": Unit(32, 32, 3),
    "Conv2d_2b_3x3": Unit(32, 64, **same3),
    "pool64": halve,
    "Conv2d_3b_1x1": Unit(64, 80),
    "Conv2d_4a_3x3": Unit(80, 192, 3),
    "pool192": halve,
    "Mixed_5b": a(192, 32),
    "Mixed_5c": a(256, 64),
    "Mixed_5d": a(288, 64),
    "Mixed_6a": b(288),
    "Mixed_6b": c7(128),
    "Mixed_6c": c7(160),
    "Mixed_6d": c7(160),
    "Mixed_6e": c7(192),
    "features768": lambda x: x,
    "Mixed_7a": d(),
    "Mixed_7b": e(1280, average),
    "Mixed_7c": e(2048, maximum),
    "pool2048": lambda x: x.mean((2, 3)),
  }

  class Network(nn.Module):
    def __init__(self):
      super().__init__()
      for name, stage in stages.items():
        if isinstance(stage, nn.Module):
          self.add_module(name, stage)
      self.fc = nn.Linear(2048, 1008)

    def forward(self, x):
      taps = {}
      for name, stage in stages.items():
        x = taps[name] = stage(x)
      return taps | {"logits": x @ self.fc.weight.T}

  return Network()


def _state_dict(torch, variables):
  names = {
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "kernel": "weight",
  }
  state = {}
  for (_, *path, leaf), value in flatten_dict(variables).items():
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]  # HWIO -> OIHW; [in, out] -> [out, in]
    state[".".join((*path, names[leaf]))] = torch.from_numpy(value.transpose(axes).copy())
    if leaf == "mean":
      state[".".join((*path, "num_batches_tracked"))] = torch.tensor(0)
  return state


def test_all_taps_are_those_of_pytorch_fid(variables, images, taps):
  torch = pytest.importorskip("torch")
  network = _torch_network(torch)
  network.load_state_dict(_state_dict(torch, variables), strict=True)
  with torch.no_grad():
    expected = network.double().eval()(torch.from_numpy(2.0 * images.transpose(0, 3, 1, 2) - 1.0).double())
  for name in (*LAYERS, *UNITS):
    value = expected[name].numpy()
    _close(taps[name], value.transpose(0, 2, 3, 1) if value.ndim == 4 else value)


# --- Resizing


@pytest.mark.parametrize(("how", "shift"), [("bilinear", 0.5), ("tf1", 0.0)])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (64, 32), (299, 299), (400, 311)])
def test_resizing_reads_the_right_places(how, shift, size):
  """`np.interp` is linear between pixel centres 0, 1, 2, ... and constant beyond them."""
  x = np.random.default_rng(2).random((1, *size, 2))
  expected = x
  for axis, n in enumerate(size, start=1):
    places = (np.arange(299) + shift) * n / 299 - shift
    expected = np.apply_along_axis(lambda line: np.interp(places, np.arange(n), line), axis, expected)  # noqa: B023
  np.testing.assert_allclose(resize_images(jnp.asarray(x, jnp.float32), how), expected, atol=1e-6)


def test_resizing_by_hand():
  """Two pixels 1 and 2 made four, and four pixels made two (no antialiasing)."""
  np.testing.assert_allclose(resize_weights(2, "tf1", 4) @ [1, 2], [1, 1.5, 2, 2])
  np.testing.assert_allclose(resize_weights(2, "bilinear", 4) @ [1, 2], [1, 1.25, 1.75, 2])
  np.testing.assert_allclose(resize_weights(4, "tf1", 2) @ [1, 2, 3, 9], [1, 3])
  np.testing.assert_allclose(resize_weights(4, "bilinear", 2) @ [1, 2, 3, 9], [1.5, 6])


def test_bilinear_is_that_of_pytorch():
  torch = pytest.importorskip("torch")
  for size in (1, 2, 28, 64, 299, 301, 512):
    eye = torch.eye(size, dtype=torch.float64)[None]
    expected = torch.nn.functional.interpolate(eye, size=299, mode="linear", align_corners=False)[0].T
    np.testing.assert_allclose(resize_weights(size, "bilinear"), expected.numpy(), atol=1e-6)


# --- What a caller sees


def _apply(variables, x, value_range=(0.0, 1.0), **options):
  network = InceptionFID(**{"layers": ("pool64",), "resize": "none", **options})
  return network.apply(variables, x, value_range)


@pytest.mark.parametrize("how", ["bilinear", "tf1"])
def test_images_are_resized_inside(how, variables, images):
  small = images[:1, :16, :24]
  (inside,) = _apply(variables, small, resize=how).values()
  (outside,) = _apply(variables, resize_images(jnp.asarray(small), how)).values()
  assert inside.shape == (1, 73, 73, 64)
  _close(inside, outside)


def test_grey_is_repeated_and_the_range_is_heeded(variables, images):
  grey = images[:1, :75, :75, :1]
  expected = _apply(variables, np.repeat(grey, 3, axis=-1))["pool64"]
  _close(_apply(variables, grey)["pool64"], expected)
  _close(_apply(variables, 255 * grey, (0.0, 255.0))["pool64"], expected)
  _close(_apply(variables, 2 * grey - 1, (-1.0, 1.0))["pool64"], expected)


def test_examples_do_not_mix(variables, images):
  (both,), (second,) = (_apply(variables, x[:, :75, :75]).values() for x in (images, images[1:]))
  _close(both[1:], second)


def test_the_accelerators_convolution_agrees_and_is_precise(monkeypatch, variables, images):
  x, options = images[:1, :75, :75], {"layers": ("pool192",)}
  with in_loop():
    (expected,) = _apply(variables, x, **options).values()
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  (other,) = _apply(variables, x, **options).values()
  _close(other, expected)
  text = str(jax.make_jaxpr(lambda x: _apply(variables, x, **options))(x))
  assert (
    text.count("conv_general_dilated[") == text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == 5
  )


def test_gradients_are_finite(variables):
  """A constant image ties every maximum; black and white are the extremes."""
  gradient = jax.grad(lambda x: _apply(variables, x, layers=("pool192",))["pool192"].sum())
  gradient = jax.jit(gradient, compiler_options=QUICK)
  for value in (0.0, 0.5, 1.0):
    g = gradient(jnp.full((1, 75, 75, 3), value))
    assert np.isfinite(g).all() and np.abs(g).max() > 0


def test_bfloat16_is_near(variables, images):
  half = _apply(variables, images[:1, :75, :75], dtype=jnp.bfloat16)["pool64"]
  assert half.dtype == jnp.bfloat16
  _close(half, _apply(variables, images[:1, :75, :75])["pool64"], rtol=0.05)


def test_shapes_and_types_at_299():
  """Maps are of the compute type; parameters, and the features that statistics are made of, stay float32."""
  network = InceptionFID(layers=LAYERS, dtype=jnp.bfloat16)
  features, made = jax.eval_shape(network.init_with_output, jax.random.key(0), jnp.zeros((3, 32, 48, 1)))
  assert {name: (*f.shape[1:], f.dtype) for name, f in features.items()} == {
    "pool64": (73, 73, 64, jnp.bfloat16),
    "pool192": (35, 35, 192, jnp.bfloat16),
    "features768": (17, 17, 768, jnp.bfloat16),
    "pool2048": (2048, jnp.float32),
    "logits": (1008, jnp.float32),
  }
  assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
  ("layers", "names"),
  [
    (("pool64",), STEM[:3]),
    (("pool192", "pool64"), STEM),
    (("features768",), (*STEM, *(name for name in UNITS if name < "Mixed_7"))),
    (("pool2048",), (*STEM, *UNITS)),
  ],
)
def test_nothing_is_made_below_the_deepest_layer(layers, names):
  made = _shapes(layers=layers)
  assert set(made["params"]) == set(names)
  assert set(made["batch_stats"]) == set(names)


def test_names_and_number_of_parameters(variables):
  """torchvision's 27,161,264 less the auxiliary head's 3,326,696, with 1008 classes for 1000."""
  params = variables["params"]
  leaves = {
    (*unit, *leaf) for unit in ALL_UNITS for leaf in (("conv", "kernel"), ("bn", "scale"), ("bn", "bias"))
  }
  assert set(flatten_dict(params)) == leaves | {("fc", "kernel"), ("fc", "bias")}
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 27_161_264 - 3_326_696 + 8 * 2049


def test_layers_come_in_the_order_asked_for(variables, images):
  assert list(_apply(variables, images[:1, :75, :75], layers=("pool192", "pool64"))) == ["pool192", "pool64"]


@pytest.mark.parametrize(
  ("options", "side", "words"),
  [
    ({"layers": ("pool2084",)}, 75, "'pool2084'.*did you mean 'pool2048'"),
    ({"layers": ("relu5_3",)}, 75, "'relu5_3'.*known layers: features768, logits"),
    ({"layers": ()}, 75, r"layers = \(\) is not a tuple of names"),
    ({"layers": "pool2048"}, 75, "layers = 'pool2048' is not a tuple of names"),
    ({"resize": "tf2"}, 75, "'tf2'.*did you mean 'tf1'"),
    ({"resize": "none"}, 74, "74 x 74.*at least 75 x 75"),
    ({"resize": "bilinear"}, 0, "0 x 0"),
    ({"preprocessing": "sigend"}, 75, "'sigend'.*did you mean 'signed'"),
  ],
)
def test_mistakes_are_told_in_one_line(options, side, words):
  with pytest.raises(UserError, match=words) as error:
    InceptionFID(**options).init(jax.random.key(0), jnp.zeros((1, side, side, 3)))
  assert "\n" not in str(error.value)
