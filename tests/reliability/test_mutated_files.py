"""Real files, mutated: every reader of weights gives arrays or an error of one line, at once and in little memory."""

import contextlib
import copy
import dataclasses
import hashlib
import io
import json
import pickle
import re
import resource
import struct
import time
import warnings
import zipfile

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trained import shapes

import vae_jax
from vae_jax import metrics
from vae_jax.configuration import apply_overrides, base_config, from_json, to_json
from vae_jax.data.sources import open_source
from vae_jax.errors import UserError
from vae_jax.perceptual.heads import load_lpips_heads
from vae_jax.runs import describe_spec
from vae_jax.storage import exported as pretrained
from vae_jax.storage.weight_files import read_arrays
from vae_jax.types import image_spec

SECONDS, MIB = 10, 500  # that a reader may take

# --- the files, opcode by opcode where their own libraries are not at hand --------------------------------------------

WIDTHS = (64, 192, 384, 256, 256)  # of the heads of LPIPS on AlexNet: a real file of weights, and small
HEADS = {
  f"lin{k}.model.1.weight": np.random.default_rng(k).random((1, n, 1, 1), "f4") for k, n in enumerate(WIDTHS)
}

ORDERED = b"ccollections\nOrderedDict\n)R"
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # of torch before 1.6, then 1001
BEFORE = MAGIC + b"\x80\x02M\xe9\x03." + b"\x80\x02}X\x0d\0\0\0little_endian\x88s."


def text(word):
  return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


def numbers(*values):
  return b"(" + b"".join(b"J" + struct.pack("<i", n) for n in values) + b"t"


def storage(key, count):
  where = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
  return where + b"J" + struct.pack("<i", count) + b"tQ"


def rebuilt(where, offset, shape, strides):
  """What torch.save writes of a tensor, a view of the elements `where`."""
  arguments = (
    where + b"J" + struct.pack("<i", offset) + numbers(*shape) + numbers(*strides) + b"\x89" + ORDERED
  )
  return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def tree(items):
  return b"\x80\x02" + ORDERED + b"(" + b"".join(text(k) + v for k, v in items.items()) + b"u."


def tensors(arrays=HEADS):
  """The pickle within a torch file, whose storages are called 0, 1, ..."""
  items = {}
  for n, (name, array) in enumerate(arrays.items()):
    strides = [stride // 4 for stride in array.strides]
    items[name] = rebuilt(storage(str(n), array.size), 0, array.shape, strides)
  return tree(items)


def zipped(members, compression=zipfile.ZIP_STORED):
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", compression) as archive:
    for name, data in members.items():
      archive.writestr(zipfile.ZipInfo(name), data, compression)
  return file.getvalue()


def torch_zip(pickled, arrays=HEADS, **others):
  data = {f"a/data/{n}": array.tobytes() for n, array in enumerate(arrays.values())}
  return zipped({"a/data.pkl": pickled, "a/version": b"3\n", **data, **others})


def legacy(arrays=HEADS):
  keys = b"\x80\x02](" + b"".join(text(str(n)) for n in range(len(arrays))) + b"e."
  blocks = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in arrays.values())
  return BEFORE + tensors(arrays) + keys + blocks


def npz(save=np.savez, **arrays):
  file = io.BytesIO()
  save(file, **arrays)
  return file.getvalue()


def npy(array):
  file = io.BytesIO()
  np.save(file, array)
  return file.getvalue()


def safetensors(arrays=HEADS):
  from safetensors.numpy import save

  return save(arrays)


def hdf5(fill, form=None):
  """`form`: "earliest" or "latest"; the latter has checksums, and other structures."""
  import h5py

  file = io.BytesIO()
  with h5py.File(file, "w", libver=form) as group:
    fill(group)
  return file.getvalue()


def keras2(group):
  for name, array in HEADS.items():
    layer = group.create_group(f"model_weights/{name}")
    layer.attrs["weight_names"] = [f"{name}/kernel:0".encode()]
    layer[f"{name}/kernel:0"] = array
  group["optimizer_weights/iter"] = np.int64(3)


def keras3(group):
  for n, (name, array) in enumerate(HEADS.items()):
    layer = group.create_group(f"layers/conv2d_{n}/vars")
    layer.attrs["name"] = name
    layer["0"] = array


def many(group):
  """More links than a group holds without an index."""
  for n in range(12):
    group[f"other{n}/bias:0"] = np.ones(2, "f4")
  keras3(group)


def statistics():
  protocol = json.dumps(dataclasses.asdict(metrics.Protocol(*"abcde")))
  return npz(mu=np.zeros(6), sigma=np.eye(6), count=np.int64(50), protocol=np.array(protocol))


def images():
  return npz(image=np.zeros((5, 4, 4, 1), np.uint8), label=np.arange(5))


def same(data):
  return data


# By format, real files and parts of them that a checksum guards; how such a part becomes a file.
FILES = {
  "torch": [(lambda: torch_zip(tensors()), same), (tensors, torch_zip)],
  "torch before 1.6": [(legacy, same)],
  "npz": [
    (lambda: npz(**HEADS), same),
    (lambda: npz(np.savez_compressed, **HEADS), same),
    (lambda: npy(HEADS["lin0.model.1.weight"]), lambda data: zipped({"lin0.model.1.weight.npy": data})),
  ],
  "pickle": [
    (lambda protocol=protocol: pickle.dumps({"lpips": HEADS}, protocol), same) for protocol in (3, 4)
  ],
  "safetensors": [(safetensors, same)],
  "hdf5": [
    (lambda: hdf5(keras2, "earliest"), same),
    (lambda: hdf5(keras3, "earliest"), same),
    (lambda: hdf5(many, "latest"), same),
  ],
}


# --- mutations --------------------------------------------------------------------------------------------------------

# Where lengths, counts and offsets lie, relative to what can be found: zip, npy, pickle, HDF5, JSON.
FIELDS = [
  (re.compile(b"^", re.DOTALL), (0, 1, 4, 8, 12, 13)),
  (re.compile(b"PK\3\4"), (6, 8, 18, 22, 26, 28)),
  (re.compile(b"PK\1\2"), (8, 10, 20, 24, 28, 30, 32, 42)),
  (re.compile(b"PK\5\6"), (4, 8, 10, 12, 16, 20)),
  (re.compile(b"NUMPY"), (5, 7)),
  (re.compile(rb"[XBUCJKMhjqr\x8a-\x8e\x95]", re.DOTALL), (1,)),
  (re.compile(b"TREE|SNOD|HEAP|OHDR|OCHK|FRHP|BTHD"), (4, 5, 6, 8, 16, 24, 32)),
  (re.compile(rb"\d+"), (0,)),
]
EXTREMES = [
  *(bytes(n) for n in (1, 2, 4, 8)),
  *(b"\xff" * n for n in (1, 2, 4, 8)),
  *(b"\xff" * (n - 1) + b"\x7f" for n in (2, 4, 8)),
  *(struct.pack("<Q", n) for n in (1, 2**20, 2**31, 2**32, 2**40, 2**62)),
  *(b"9" * 5, b"-1", b"1e9", b"99999999999999999999"),
]
PLACE = st.floats(0, 1, exclude_max=True)
EDIT = st.tuples(
  st.sampled_from(["flip", "set", "length", "length", "copy", "donate", "repeat", "delete", "zero"]),
  PLACE,
  PLACE,
  st.one_of(st.sampled_from(EXTREMES), st.binary(min_size=1, max_size=6)),
  st.integers(1, 300),
)
EDITS = st.tuples(st.lists(EDIT, min_size=1, max_size=4), st.one_of(st.just(1.0), st.just(1.0), PLACE))


def length_fields(data):
  return [
    found.start() + offset
    for pattern, offsets in FIELDS
    for found in pattern.finditer(data)
    for offset in offsets
  ]


def mutated(data, fields, donor, edits):
  edits, end = edits
  data = bytearray(data)
  for how, place, other, piece, size in edits:
    at, source = int(place * len(data)), int(other * len(data))
    if how == "flip" and data:
      data[at] ^= 1 << size % 8
    elif how == "set":
      data[at : at + len(piece)] = piece
    elif how == "length":
      at = fields[int(place * len(fields))]
      data[at : at + len(piece)] = piece
    elif how == "copy":
      data[at : at + size] = data[source : source + size]
    elif how == "donate":
      source = int(other * len(donor))
      data[at : at + size] = donor[source : source + size]
    elif how == "repeat":
      data[at:at] = data[at : at + size] * (1 + len(piece))
    elif how == "delete":
      del data[at : at + size]
    else:
      data[at : at + size] = bytes(len(data[at : at + size]))
  return bytes(data[: max(1, round(end * len(data)))])


@contextlib.contextmanager
def little_memory():
  """Fails where the process needed MIB more, at any moment, than at the beginning."""
  try:
    with open("/proc/self/clear_refs", "w") as file:
      file.write("5")  # the peak begins anew
  except OSError:
    pass

  def peak():
    try:
      with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\s*(\d+)", file.read())[1]) / 2**10
    except OSError:
      return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

  before = peak()
  yield
  assert peak() - before < MIB


def outcome(read, path):
  """What `read(path)` gives; None for an error of one line. Nothing else may happen, and nothing slowly."""
  began = time.thread_time()
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # numpy's, on headers of Python 2: as outside of tests
      return read(path)
  except UserError as error:
    line = str(error)
    assert "\n" not in line and len(line) < 1000 and str(path) in line
    return None
  finally:
    assert time.thread_time() - began < SECONDS


def examine(path, whole, seal, read, examples):
  """`examples` mutations of a file through its reader."""
  donor = torch_zip(tensors()) + legacy() + hdf5(keras3)
  fields = length_fields(whole)

  def attempt(data):
    path.write_bytes(seal(data))
    return outcome(read, path)

  @settings(
    max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=HealthCheck
  )
  @given(EDITS)
  def check(edits):
    attempt(mutated(whole, fields, donor, edits))

  assert attempt(whole) is not None
  with little_memory():
    check()


def arrays_of(path):
  """Every byte of every array is read, also by the caller."""
  arrays = read_arrays(path).arrays
  assert all(isinstance(array, np.ndarray) for array in arrays.values())
  size = path.stat().st_size
  assert sum(len(array.tobytes()) for array in arrays.values()) <= max(4 * size, 64 << 20)
  with contextlib.suppress(UserError):
    heads = load_lpips_heads("alexnet", path)
    assert [(head.shape, head.dtype) for head in heads] == [((n,), np.float32) for n in WIDTHS]
  return arrays


MANY = [250, pytest.param(5000, marks=pytest.mark.slow)]
SOME = [100, MANY[1]]


@pytest.mark.parametrize("examples", MANY)
@pytest.mark.parametrize("kind", FILES)
def test_weights(tmp_path, kind, examples):
  for make, seal in FILES[kind]:
    examine(tmp_path / "weights.bin", make(), seal, arrays_of, -(-examples // len(FILES[kind])))


@pytest.mark.parametrize("examples", SOME)
def test_statistics(tmp_path, examples):
  examine(tmp_path / "statistics.npz", statistics(), same, metrics.load_statistics, examples)


@pytest.mark.parametrize("examples", SOME)
def test_images_in_npz(tmp_path, examples):
  data = apply_overrides(base_config(), ["data.name=npz", f"data.dir={tmp_path / 'train.npz'}"]).data
  examine(tmp_path / "train.npz", images(), same, lambda path: open_source(data, "train"), examples)


# --- models -----------------------------------------------------------------------------------------------------------

CONFIG = apply_overrides(base_config(), ["model.hidden=8", "model.latent_dim=3"])
SHAPE = (5, 4, 1)


def variables(config=CONFIG, shape=SHAPE):
  return jax.tree.map(lambda x: np.full(x.shape, 0.1, x.dtype), shapes(config, image_spec(shape)))


def save_model(folder, config=CONFIG, bits=32, **changes):
  meta = {"config": config.to_dict(), "image_shape": SHAPE, "input_shape": SHAPE, "step": 7} | changes
  pretrained.save(folder, variables(config), meta, bits=bits)
  return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return save_model(tmp_path_factory.mktemp("model"))


def sealed(folder, content):
  """Whoever changes the weights writes their digest too."""
  meta = json.loads((folder / "config.json").read_text()) | {"sha256": hashlib.sha256(content).hexdigest()}
  (folder / "config.json").write_text(json.dumps(meta))
  return content


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("examples", MANY)
def test_weights_of_a_model(tmp_path, monkeypatch, examples, bits):
  monkeypatch.setattr(pretrained, "_LEAST_VALUES", 1)
  save_model(tmp_path, bits=bits)
  whole = (tmp_path / "model.safetensors").read_bytes()
  assert (b"kernel:scale" in whole) == (bits == 8)
  read = lambda path: pretrained.read(path.parent)  # noqa: E731
  examine(tmp_path / "model.safetensors", whole, lambda data: sealed(tmp_path, data), read, examples)


@pytest.mark.parametrize("examples", MANY)
def test_description_of_a_model(tmp_path, model, examples):
  save_model(tmp_path)
  read = lambda path: pretrained.read(path.parent)  # noqa: E731
  whole = (model / "config.json").read_bytes()
  examine(tmp_path / "config.json", whole, same, lambda path: _of_the_folder(read, path), examples)


def _of_the_folder(read, path):
  try:
    return read(path)
  except UserError as error:
    raise UserError(f"{path}: {error}") from None  # of the weights, or of the folder


WRONG = [
  None,
  True,
  -1,
  2**31,
  10**40,
  0.5,
  "",
  "../../x",
  "a\x1b[31m\nb",
  [],
  [1, 2, 3],
  [[]],
  {"a": 1},
  [10**9] * 3,
]


def places(node, path=()):
  """Yields the path of every value, object and list in a JSON tree."""
  yield path
  for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
    yield from places(node[key], (*path, key))


def replaced(whole, path, value):
  if not path:
    return value
  changed = copy.deepcopy(whole)
  node = changed
  for key in path[:-1]:
    node = node[key]
  node[path[-1]] = value
  return changed


def test_wrong_types_in_every_place_of_a_config():
  whole = json.loads(to_json(CONFIG))
  for path in places(whole):
    for value in WRONG:
      try:
        config = from_json(json.dumps(replaced(whole, path, value)), "runs/a/config.json")
      except UserError as error:
        line = str(error)
        assert line.startswith("runs/a/config.json") and line.isprintable() and len(line) < 1000, line
      else:
        assert config.is_locked


def test_wrong_types_in_every_place_of_a_model(tmp_path):
  save_model(tmp_path, **describe_spec(image_spec(SHAPE)))
  whole = json.loads((tmp_path / "config.json").read_text())
  others = ("data", "objective", "training", "evaluation")  # see above
  shown = [
    path for path in places(whole) if not (path[:1] == ("config",) and path[1:2] in [(o,) for o in others])
  ]
  loaded = 0
  with little_memory():
    for path in shown:
      for value in WRONG:
        (tmp_path / "config.json").write_text(json.dumps(replaced(whole, path, value)))
        loaded += outcome(lambda folder: vae_jax.load(folder), tmp_path) is not None
  assert 0 < loaded < 100  # what a family does not use, such as model.blocks
