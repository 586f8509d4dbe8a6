"""PyTorch files written by hand, opcode by opcode, for the tests of several packages."""

import io
import struct
import zipfile

import numpy as np
import pytest

ORDERED = b"ccollections\nOrderedDict\n)R"


def text(word):
  return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


def integers(*numbers):
  return b"(" + b"".join(b"J" + struct.pack("<i", n) for n in numbers) + b"t"


def tensor(key, shape, strides, count, offset=0, kind="FloatStorage", view=b""):
  """What torch.save writes of a tensor, opcode by opcode."""
  where = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
  where += b"J" + struct.pack("<i", count) + view + b"tQ"
  arguments = (
    where + b"J" + struct.pack("<i", offset) + integers(*shape) + integers(*strides) + b"\x89" + ORDERED
  )
  return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def mapping(items):
  return b"\x80\x02" + ORDERED + b"(" + b"".join(text(k) + v for k, v in items.items()) + b"u."


def zipped(members, compression=zipfile.ZIP_STORED):
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", compression) as archive:
    for name, data in members.items():
      archive.writestr(zipfile.ZipInfo(name), data, compression)
  return file.getvalue()


def pth(arrays, **others):
  """The bytes of a torch zip file with float32 arrays as contiguous tensors."""
  items, members = {}, {"archive/version": b"3\n", **others}
  for n, (name, array) in enumerate(arrays.items()):
    array = np.asarray(array, "<f4", order="C")
    strides = [stride // 4 for stride in array.strides]
    items[name] = tensor(str(n), array.shape, strides, array.size)
    members[f"archive/data/{n}"] = array.tobytes()
  return zipped({"archive/data.pkl": mapping(items), **members})


def save(path, arrays):
  """Writes arrays as .safetensors, .npz or, under any other ending, as torch does; returns the path."""
  if path.suffix == ".safetensors":
    pytest.importorskip("safetensors.numpy").save_file(
      {k: np.array(v, order="C", ndmin=1) for k, v in arrays.items()}, path
    )
  elif path.suffix == ".npz":
    np.savez(path, **arrays)
  else:
    path.write_bytes(pth(arrays))
  return path
