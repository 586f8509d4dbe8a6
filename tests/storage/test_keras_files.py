"""Files that Keras wrote: the names of its weights, and HDF5 beside its own library."""

import io
import sys

import numpy as np
import pytest
from weight_bytes import A, hdf5, keras, refusal

from vae_jax.storage.weight_files import read_arrays


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
