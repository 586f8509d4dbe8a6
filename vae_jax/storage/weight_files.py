"""A file of arrays -> {name: array}, without running anything that the file says. Knows nothing of networks.

Weights circulate as pickles (.pth, .ckpt), which are programs: `pickle.load` runs what they ask for. Here their opcodes
are read one by one, and nothing but the few functions of this module can be called. What a file declares (sizes,
shapes, offsets) is checked against what it holds before memory is taken.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from vae_jax.errors import UserError
from vae_jax.storage import hdf5
from vae_jax.storage.hdf5 import Refused as _Refused

MAX_BYTES = 4 << 30  # of a file, and of what it unpacks to; the largest network in use here has 0.6 GB
MAX_ITEMS = 100_000  # arrays, groups and pickle opcodes: ResNet-50 has some 320 arrays and 13,000 opcodes
MAX_NAME = 200  # characters
MAX_DEPTH = 12  # of nested dicts and groups
MAX_AXES = 16  # of an array, and of what else a pickle hands to a function
MAX_MEMBERS = 20_000  # of a zip file, slower to read than pickle opcodes
MAX_HEADER = 10 << 20  # bytes of the JSON before safetensors; the largest networks have some 0.2 MB
MAX_RATIO, SMALL = 20, 64 << 20  # a zip file may unpack to so many times its size, or to so many bytes

LEGACY = 0x1950A86A20F9469CFC6C  # the number that torch's files of before 1.6 begin with
KNOWN = ".pth of torch, .h5 of Keras, .safetensors, .npz, or a pickle of nested dicts of numpy arrays"


class Arrays(NamedTuple):
  """arrays: by name, nested names joined with "/"; often read-only views of the file's bytes. sha256: of the file."""

  arrays: dict[str, np.ndarray]
  sha256: str


def read_arrays(path: str | Path, sha256: str | None = None) -> Arrays:
  """Reads any of `KNOWN`, told apart by content; bfloat16 comes out as float32, other types as they are.

  sha256: the digest expected, or its first 8 or more hexadecimal digits.

  Raises UserError, in one line with the path: no such file, another digest, another or a damaged format, a pickle that
  asks for more than arrays, a missing optional package.
  """
  path = Path(path)
  data = _bytes(path)
  digest = hashlib.sha256(data).hexdigest()
  if sha256 is not None:
    wanted = sha256.strip().lower()
    if not re.fullmatch("[0-9a-f]{8,64}", wanted):
      raise UserError(f"sha256 = {sha256!r}, expected of {path}, is not 8 to 64 hexadecimal digits")
    if not digest.startswith(wanted):
      raise UserError(
        f"{path} has sha256 {digest}, not {wanted} as expected; fetch it again, or rename it if saved anew"
      )
  kind = "weights"
  try:
    kind, read = _format(data)
    return Arrays(read(data), digest)
  except _Refused as error:
    raise UserError(f"{path} {error}") from None
  except ImportError as error:
    raise UserError(f"{path} needs the package {error.name}: pip install {error.name}") from None
  except Exception as error:  # whatever a parser trips over in a damaged file
    words = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_NAME]
    raise UserError(f"{path} is not a whole {kind} file ({words}); fetch it again") from None


def _bytes(path: Path) -> bytes:
  try:
    path = path.expanduser()
    if not path.exists():
      raise UserError(f"{path} does not exist; give a file with weights: {KNOWN}")
    if not path.is_file():
      raise UserError(f"{path} is not a file; give a file with weights: {KNOWN}")
    if (size := path.stat().st_size) > MAX_BYTES:
      raise UserError(f"{path} has {size} bytes, more than the {MAX_BYTES} that are read")
    return path.read_bytes()
  except (OSError, ValueError, RuntimeError, MemoryError) as error:
    words = " ".join(str(getattr(error, "strerror", None) or error).split())
    raise UserError(f"{path} cannot be read: {words}") from None


def _format(data: bytes) -> tuple[str, Callable[[bytes], dict[str, np.ndarray]]]:
  """The format's name and reader, by the first bytes."""
  if data[:4] in (b"PK\3\4", b"PK\5\6"):
    return "zip", _read_zip
  if data[:8] == hdf5.SIGNATURE:
    return "HDF5", _read_hdf5
  if data[257:262] == b"ustar":
    raise _Refused("is a tar archive, as torch wrote before 0.1.10, which is not read; give a newer file")
  if data[:1] == b"\x80" and LEGACY.to_bytes(10, "little") in data[:32]:
    return "torch", _read_legacy
  if data[:1] == b"\x80" and data[1:2] in (b"\2", b"\3", b"\4", b"\5"):
    return "pickle", lambda data: _flatten(_unpickle(data, NUMPY))
  if data[8:9] == b"{":
    return "safetensors", _read_safetensors
  if not data:
    raise _Refused(f"is empty; weights are: {KNOWN}")
  if data[:6] == b"\x93NUMPY":
    raise _Refused("holds one array without a name (.npy); give an .npz with named ones")
  if re.match(rb"\s*<(!doctype|html)", data[:64], re.IGNORECASE):
    raise _Refused("is an HTML page, as after a download that failed; fetch it again")
  if data.startswith(b"version https://git-lfs"):
    raise _Refused("is a Git LFS pointer, not the file itself; fetch it with git lfs pull")
  raise _Refused(f"is none of: {KNOWN}, whatever its extension says")


def _quote(name: object) -> str:
  return repr(str(name)[:MAX_NAME])


def _decode(values: np.ndarray) -> np.ndarray:
  """The bits of bfloat16, as unsigned integers of 16 bits -> float32."""
  return (values.astype(np.uint32) << 16).view(np.float32)


# --- zip: torch and numpy ---------------------------------------------------------------------------------------------


def _read_zip(data: bytes) -> dict[str, np.ndarray]:
  if data.count(b"PK\1\2") > MAX_MEMBERS:
    raise _Refused(f"holds more than {MAX_MEMBERS} members; weights are a few hundred, save them alone")
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    members = {member.filename: member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
      raise _Refused("holds two members of one name; it was tampered with or is damaged")
    most = min(MAX_BYTES, max(SMALL, MAX_RATIO * len(data)))
    if (total := sum(member.file_size for member in members.values())) > most:
      raise _Refused(f"would unpack to {total} bytes, more than the {most} that are read of {len(data)}")
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) == 1:
      return _read_torch(archive, members, roots[0], len(data))
    if members and all(name.endswith(".npy") for name in members):
      return {name.removesuffix(".npy"): _npy(_member(archive, m), name) for name, m in members.items()}
    if "model.weights.h5" in members:
      raise _Refused("is a .keras model; save its weights alone: model.save_weights('weights.weights.h5')")
    found = ", ".join(map(_quote, list(members)[:3])) or "nothing"
    raise _Refused(f"is a zip file of {found}, neither of torch nor of numpy; weights are: {KNOWN}")


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
  if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise _Refused(
      f"has {_quote(member.filename)} in a compression that is not read; save it again with numpy"
    )
  with archive.open(member) as file:
    data = file.read(member.file_size)  # a bound: a member may unpack to more than it declares
  if len(data) != member.file_size:
    raise EOFError(f"{_quote(member.filename)} is cut short")
  return data


def _npy(data: bytes, name: str) -> np.ndarray:
  """numpy's own reader takes the memory that the header declares before it looks for the data."""
  file = io.BytesIO(data)
  version = np.lib.format.read_magic(file)
  headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
  if version not in headers:
    raise _Refused(f"has {_quote(name)} in version {version} of numpy's format; only 1.0 and 2.0 are read")
  shape, fortran, dtype = headers[version](file)
  if dtype.kind not in "fiub":
    raise _Refused(f"has {_quote(name)} of type {str(dtype)[:MAX_NAME]}; only arrays of numbers are read")
  return _array(memoryview(data)[file.tell() :], shape, dtype, fortran)


def _array(data: bytes | memoryview, shape: Any, dtype: np.dtype, fortran: bool) -> np.ndarray:
  if not (type(shape) is tuple and len(shape) <= MAX_AXES and all(type(n) is int and n >= 0 for n in shape)):
    raise ValueError("an array's shape is no tuple of sizes")
  if len(data) != math.prod(shape) * dtype.itemsize:
    raise ValueError(f"{len(data)} bytes are not an array of shape {str(shape)[:MAX_NAME]}")
  return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _read_torch(
  archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], root: str, size: int
) -> dict[str, np.ndarray]:
  """What `torch.save` writes since 1.6: data.pkl names the tensors; data/N, uncompressed, are their storages."""
  for name, member in members.items():
    if not re.fullmatch(re.escape(root) + r"(data\.pkl|byteorder|version|data/\w+|\..+)", name):
      raise _Refused(
        f"holds {_quote(name)}, which is no tensor; save a state dict: torch.save(model.state_dict(), f)"
      )
    if member.compress_type != zipfile.ZIP_STORED:
      raise _Refused(f"has {_quote(name)} compressed, which torch never does; save it again with torch")
  if sum(member.file_size for member in members.values()) > size:
    raise _Refused("declares more bytes than it has; it was tampered with or is damaged")
  if f"{root}byteorder" in members and _member(archive, members[f"{root}byteorder"]) != b"little":
    raise _Refused("is not said to be from a little-endian machine; only such files are read, give another")
  storages: dict[tuple[str, np.dtype], np.ndarray] = {}

  def storage(where: Any) -> _Storage:
    dtype, key, count = _described(where)
    if (key, dtype) not in storages:
      if f"{root}data/{key}" not in members:
        raise _Refused(f"has no storage {_quote(f'data/{key}')}, which its tensors ask for; fetch it again")
      values = np.frombuffer(_member(archive, members[f"{root}data/{key}"]), dtype)
      storages[key, dtype] = _decode(values) if dtype == BFLOAT16 else values
    if not 0 <= count <= storages[key, dtype].size:
      raise ValueError(f"storage {_quote(key)} has fewer than {count} elements")
    return _Storage(storages[key, dtype][:count])

  return _flatten(_unpickle(_member(archive, members[f"{root}data.pkl"]), TORCH, storage))


# --- torch before 1.6 -------------------------------------------------------------------------------------------------


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
  """What `torch.save` wrote from 0.1.10 to 1.5: a row of pickles (the number above, a version, the machine, the
  tensors, the keys of their storages), then for each key the number of elements and the elements.
  """
  file = io.BytesIO(data)
  storages: dict[str, np.ndarray] = {}
  declared = 0

  def storage(where: Any) -> _Storage:
    """Elements that are filled in later, since they follow the tensors."""
    nonlocal declared
    dtype, key, count = _described(where)
    if dtype == BFLOAT16:
      raise _Refused(
        "holds bfloat16 in the format of torch before 1.6, which is not read; save it with a newer"
      )
    if key not in storages:
      declared += count * dtype.itemsize
      if count < 0 or declared > len(data):
        raise ValueError(f"storage {_quote(key)} is declared larger than the file")
      storages[key] = np.zeros(count, dtype)
    if (dtype, count) != (storages[key].dtype, storages[key].size):
      raise ValueError(f"storage {_quote(key)} is described in two ways")
    return _Storage(storages[key])

  if _unpickle(file, {}) != LEGACY or _unpickle(file, {}) != 1001:
    raise _Refused("is in no version of torch's format from before 1.6; it is damaged, fetch it again")
  machine = _unpickle(file, {})
  if type(machine) is not dict or machine.get("little_endian") is not True:
    raise _Refused("is not said to be from a little-endian machine; only such files are read, give another")
  tree = _unpickle(file, TORCH, storage)
  keys = _unpickle(file, {})
  if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(storages):
    raise ValueError("its storages are not those that its tensors ask for")
  for key in keys:
    values = storages[key]
    count, block = file.read(8), file.read(values.nbytes)
    if count != values.size.to_bytes(8, "little") or len(block) != values.nbytes:
      raise ValueError(f"storage {_quote(key)} has not the {values.size} elements that its tensors ask for")
    values[...] = np.frombuffer(block, values.dtype)
  if file.tell() != len(data):
    raise ValueError("bytes follow the last storage")
  return _flatten(tree)


# --- pickle -----------------------------------------------------------------------------------------------------------


class _Call(NamedTuple):
  """A function of this module that pickles call under the name of another."""

  function: Callable[..., Any]


class _Storage(NamedTuple):
  """The elements that tensors are views of: all of them, in order. A type of its own, since no tensor may pose as one:
  the bounds of a view are not those of the elements that lie behind it.
  """

  values: np.ndarray


class _Shell:
  """An array or a dtype that a pickle makes first and fills afterwards (BUILD)."""

  def __init__(self, fill: Callable[..., Any], *arguments: Any):
    self.fill, self.arguments, self.value = fill, arguments, None

  def build(self, state: Any) -> None:
    self.value = self.fill(*self.arguments, *state)


def _fill_dtype(code: Any, _version: int, order: Any, *rest: Any) -> np.dtype:
  if not (re.fullmatch("[fiu][1248]|b1", code) and order in ("<", ">", "|", "=")):
    raise _Refused(f"holds arrays of type {_quote(code)}; only numbers are read")
  return np.dtype(order + code)


def _fill_array(_version: int, shape: Any, dtype: Any, fortran: Any, data: Any) -> np.ndarray:
  if not (type(dtype) is _Shell and isinstance(dtype.value, np.dtype) and type(data) is bytes):
    raise _Refused("holds arrays of other things than numbers; only numbers are read")
  return _array(data, shape, dtype.value, bool(fortran))


def _described(where: Any) -> tuple[np.dtype, str, int]:
  """("storage", type, key, device, number of elements[, what it is a view of]) -> type, key, number."""
  if type(where) is not tuple or len(where) > MAX_AXES:
    raise ValueError("a tensor's storage is not described as torch does")
  tag, dtype, key, _, count, *view = where
  # A pickle cannot make a dtype itself: it is one of those in TORCH.
  if not (tag == "storage" and isinstance(dtype, np.dtype) and type(key) is str and type(count) is int):
    raise ValueError("a tensor's storage is not described as torch does")
  if any(part is not None for part in view):
    raise _Refused(
      f"has storage {_quote(key)} as a view of another, which is not read; save copies: tensor.clone()"
    )
  return dtype, key, count


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> np.ndarray:
  """torch's description of a tensor, checked against its storage -> a view. rest: gradient, hooks, metadata."""
  if not (type(storage) is _Storage and type(shape) is type(strides) is tuple):
    raise ValueError("a tensor is not described as torch does")
  if len(shape) != len(strides) or len(shape) > 8 or any(rest[2:]):
    raise ValueError(f"a tensor of {len(shape)} axes and {len(strides)} strides")
  if not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
    raise ValueError("a tensor is not described as torch does")
  values = storage.values
  last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
  count = math.prod(shape)
  if count and (last >= values.size or count > values.size):
    raise ValueError(f"a tensor of shape {str(shape)[:MAX_NAME]} reaches beyond its storage of {values.size}")
  if not count:
    return np.zeros(shape, values.dtype)
  steps = [step * values.itemsize for step in strides]
  return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)


def _parameter(tensor: Any, *rest: Any) -> np.ndarray:
  if not isinstance(tensor, np.ndarray):
    raise ValueError("a parameter that is no tensor")
  return tensor


def _assign(target: Any, pairs: Iterable[Any]) -> None:
  for key, value in pairs:
    if not (type(target) is dict and type(key) is str and len(key) <= MAX_NAME):
      raise _Refused(
        f"holds other than dicts with names up to {MAX_NAME} characters; save nested dicts of arrays"
      )
    target[key] = value


def _ordered(pairs: Any = None) -> dict[str, Any]:
  """Python 2 fills an OrderedDict with a list, which is used up: one list must not fill many."""
  ordered: dict[str, Any] = {}
  if pairs is not None:
    _assign(ordered, pairs)
    pairs.clear()
  return ordered


BFLOAT16 = np.dtype("<u2")
TORCH = {
  "collections OrderedDict": _Call(_ordered),
  "torch._utils _rebuild_tensor": _Call(_tensor),
  "torch._utils _rebuild_tensor_v2": _Call(_tensor),
  "torch._utils _rebuild_parameter": _Call(_parameter),
  "torch.nn.parameter Parameter": _Call(_parameter),
  "torch FloatStorage": np.dtype("<f4"),
  "torch DoubleStorage": np.dtype("<f8"),
  "torch HalfStorage": np.dtype("<f2"),
  "torch BFloat16Storage": BFLOAT16,
  "torch LongStorage": np.dtype("<i8"),
}
NUMPY = {
  "numpy.core.multiarray _reconstruct": _Call(lambda *_: _Shell(_fill_array)),
  "numpy._core.multiarray _reconstruct": _Call(lambda *_: _Shell(_fill_array)),
  "numpy ndarray": None,
  "numpy dtype": _Call(lambda code, *_: _Shell(_fill_dtype, code)),
}

_NUMBERS = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"))
_TEXTS = frozenset(
  ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8")
) | {"SHORT_BINSTRING"}  # of Python 2
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _unpickle(
  data: bytes | io.BytesIO, known: Mapping[str, Any], storage: Callable[[Any], _Storage] | None = None
) -> Any:
  """What a pickle builds of dicts with short names as keys, lists, tuples, literals and the names `known`.

  An interpreter of the opcodes that plain data need; everything else is refused. data: a file is read up to the
  pickle's end. storage: for persistent ids.
  """
  stack: list[Any] = []
  marks: list[int] = []
  memo: dict[int, Any] = {}

  def since_mark() -> list[Any]:
    start = marks.pop()
    items = stack[start:]
    del stack[start:]
    return items

  for count, (opcode, given, _) in enumerate(pickletools.genops(data)):
    name, argument = opcode.name, cast(Any, given)
    if count > MAX_ITEMS:
      raise _Refused(f"holds a pickle of more than {MAX_ITEMS} steps; save nested dicts of arrays alone")
    if name in _NUMBERS or name in _TEXTS:
      stack.append(argument)
    elif name in _CONSTANTS:
      stack.append(_CONSTANTS[name])
    elif name in _TUPLES:
      start = len(stack) - _TUPLES[name]
      if start < 0:
        raise ValueError("a tuple of more than there is")
      stack[start:] = [tuple(stack[start:])]
    elif name == "TUPLE":
      stack.append(tuple(since_mark()))
    elif name == "EMPTY_DICT":
      stack.append({})
    elif name == "EMPTY_LIST":
      stack.append([])
    elif name == "MARK":
      marks.append(len(stack))
    elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
      memo[len(memo) if argument is None else argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
      stack.append(memo[argument])
    elif name == "SETITEM":
      value, key = stack.pop(), stack.pop()
      _assign(stack[-1], [(key, value)])
    elif name == "SETITEMS":
      items = since_mark()
      _assign(stack[-1], zip(items[::2], items[1::2], strict=True))
    elif name in ("APPEND", "APPENDS"):
      items = since_mark() if name == "APPENDS" else [stack.pop()]
      if type(stack[-1]) is not list:
        raise ValueError("items for what is no list")
      stack[-1] += items
    elif name in ("GLOBAL", "STACK_GLOBAL"):
      if name == "STACK_GLOBAL":
        attribute, module = stack.pop(), stack.pop()
        if type(module) is not str or type(attribute) is not str:  # nested tuples can be endless as text
          raise ValueError("a name that is no text")
        argument = f"{module} {attribute}"
      if argument not in known:
        asked = _quote(argument.replace(" ", "."))
        raise _Refused(f"asks for {asked}, which is more than arrays need: it is not loaded; do not trust it")
      stack.append(known[argument])
    elif name == "REDUCE":
      arguments, function = stack.pop(), stack.pop()
      if not (isinstance(function, _Call) and type(arguments) is tuple):
        raise _Refused("holds a pickle that calls what is no function; do not trust it")
      if len(arguments) > MAX_AXES:
        raise ValueError(f"a call with {len(arguments)} arguments")
      stack.append(function.function(*arguments))
    elif name == "BUILD":
      state = stack.pop()
      if type(stack[-1]) is _Shell:
        if type(state) is not tuple or len(state) > MAX_AXES:
          raise ValueError("an array is not described as numpy does")
        stack[-1].build(state)
      elif not isinstance(stack[-1], (dict, np.ndarray)):  # metadata, of a parameter too, are not needed
        raise _Refused("holds a pickle that fills in what is no array; do not trust it")
    elif name == "BINPERSID" and storage is not None:
      stack.append(storage(stack.pop()))
    elif name == "STOP":
      return stack.pop()
    elif name not in ("PROTO", "FRAME"):
      raise _Refused(
        f"holds a pickle with opcode {name}, which dicts of arrays do not need; save such dicts alone"
      )
  raise EOFError("the pickle has no end")


def _flatten(tree: Any) -> dict[str, np.ndarray]:
  """Nested dicts of arrays -> {"a/b": array}. A pickle can hold one dict in many places, or in itself."""
  if type(tree) is not dict:
    raise _Refused("does not hold a dict of arrays; save a state dict, or nested dicts of arrays")
  arrays: dict[str, np.ndarray] = {}
  pending: list[tuple[tuple[str, ...], Any]] = [((), tree)]
  for steps in range(MAX_ITEMS):
    if not pending:
      return arrays
    path, node = pending.pop()
    if type(node) is dict and len(path) < MAX_DEPTH and len(pending) + len(node) + steps < MAX_ITEMS:
      pending += [((*path, key), value) for key, value in reversed(node.items())]
      continue
    node = node.value if type(node) is _Shell else node
    if not isinstance(node, np.ndarray):
      what = "dicts nested without end" if type(node) is dict else type(node).__name__
      raise _Refused(f"holds {_quote('/'.join(path))}, of type {what}; save nested dicts of arrays alone")
    arrays["/".join(path)] = node
  raise _Refused(f"holds more than {MAX_ITEMS} entries")


# --- HDF5 -------------------------------------------------------------------------------------------------------------


def _read_hdf5(data: bytes) -> dict[str, np.ndarray]:
  file = hdf5.File(data)
  arrays: dict[str, np.ndarray] = {}
  total = 0

  def walk(
    address: int, path: tuple[str, ...]
  ) -> Iterator[tuple[tuple[str, ...], hdf5.Part, hdf5.Part, int]]:
    """(path, array, its group, how many the group holds)"""
    if len(path) > MAX_DEPTH:
      raise _Refused(f"holds groups nested without end, at {_quote('/'.join(path))}")
    group = file.part(address)
    links = list(file.links(group))
    for name, target in links:
      here = (*path, name)
      if target is None:
        raise _Refused(
          f"has a link {_quote('/'.join(here))}, possibly to another file: links are not followed"
        )
      item = file.part(target)
      if item.is_group:
        yield from walk(target, here)
      else:
        yield here, item, group, len(links)

  for path, item, group, count in walk(file.root, ()):
    if path[0] in ("optimizer_weights", "optimizer"):
      continue
    where = _quote("/".join(path))
    try:
      array = file.array(item)
    except _Refused as error:
      raise _Refused(f"has {where}, {error}") from None
    total += array.nbytes
    if total > len(data):
      raise _Refused(f"declares more bytes than it has, at {where}; it is damaged or was tampered with")
    name = _keras_name(path, file.text(group, "name"), count)
    if name in arrays:
      raise _Refused(f"has two arrays that Keras would call {_quote(name)}; save one network alone")
    arrays[name] = array
  return arrays


def _keras_name(path: tuple[str, ...], named: str | None, count: int) -> str:
  """Where Keras puts a weight, one of `count` in its group -> "layer/weight", as "block1_conv1/kernel".

  Keras 3's .weights.h5: layers/<class>_<n>/vars/<i>, the layer's name in an attribute of vars. Before, and in whole
  models: [model_weights/]layer/[...]/layer/kernel:0.
  """
  if len(path) > 2 and path[-2] == "vars":
    names = {1: ("kernel",), 2: ("kernel", "bias"), 4: ("gamma", "beta", "moving_mean", "moving_variance")}
    weights, index = names.get(count, ()), path[-1]
    weight = weights[int(index)] if re.fullmatch("[0-9]{1,3}", index) and int(index) < len(weights) else index
    return f"{(named or path[-3])[:MAX_NAME]}/{weight}"
  return "/".join((*path[-2:-1], path[-1].split(":")[0]))


# --- safetensors ------------------------------------------------------------------------------------------------------

_SAFE = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2"}
_SAFE |= {"I8": "i1", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "?"}


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
  from safetensors import deserialize

  if (size := int.from_bytes(data[:8], "little")) > MAX_HEADER:
    raise _Refused(f"declares a header too large to be one, {size} bytes; it is damaged or was tampered with")
  arrays = {}
  for name, entry in deserialize(data):
    if entry["dtype"] not in _SAFE:
      raise _Refused(f"has {_quote(name)} of type {entry['dtype']}; read are: {', '.join(_SAFE)}")
    values = np.frombuffer(entry["data"], _SAFE[entry["dtype"]]).reshape(entry["shape"])
    arrays[name] = _decode(values) if entry["dtype"] == "BF16" else values
  return arrays
