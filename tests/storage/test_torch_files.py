"""Files that torch wrote, in both formats: what is read of them, and what is refused."""

import functools
import hashlib
import io
import pickle
import re
import sys
import types
import zipfile

import numpy as np
import pytest
from torch_files import ORDERED, integers, mapping, pth, tensor, text, zipped
from weight_bytes import MACHINE, MAGIC, A, legacy, listed, peak_of, refusal, stored, torch_zip

from vae_jax.storage.weight_files import read_arrays

FOUR = np.arange(4, dtype="<f4")


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
