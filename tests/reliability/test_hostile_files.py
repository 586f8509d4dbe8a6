"""Files of a stranger: none runs code, leads out of its folder, hangs, or takes memory that it has no data for.

Malicious pickles are tried with Python's own unpickler first, so that each is known to bite.
"""

import ast
import contextlib
import copyreg
import hashlib
import io
import json
import os
import pickle
import shlex
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from said import PATIENCE
from test_mutated_files import (
  BEFORE,
  CONFIG,
  ORDERED,
  SHAPE,
  hdf5,
  numbers,
  rebuilt,
  save_model,
  storage,
  text,
  torch_zip,
  tree,
  variables,
  zipped,
)

import vae_jax
from vae_jax import cli, metrics, perceptual
from vae_jax.configuration import apply_overrides, base_config, from_json, to_json
from vae_jax.data.sources import open_source
from vae_jax.errors import UserError
from vae_jax.objectives import load_frozen, load_scoring_network
from vae_jax.perceptual.heads import load_lpips_heads
from vae_jax.perceptual.weights import load_weights
from vae_jax.storage import exported as pretrained
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.storage.weight_files import read_arrays

ROOT = Path(__file__).parents[2]
HEADER = "checkpoint.json"


@contextlib.contextmanager
def refused(*words):
  """A UserError of one line with the `words`, at once."""
  began = time.thread_time()
  with pytest.raises(UserError) as error:
    yield
  spent = time.thread_time() - began
  line = str(error.value)
  assert "\n" not in line and len(line) < 1000, line
  assert all(word in line for word in words), line
  assert spent < 10, spent  # far from what a decompression or a loop of minutes would take, on any machine


@contextlib.contextmanager
def within(mib):
  """Fails where Python and numpy ask for more memory than this, even where nobody would write to it."""
  tracemalloc.start()
  try:
    yield
    taken = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert taken < mib * 2**20


# --- pickles ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def marker(tmp_path):
  """What a pickle makes if it runs; it must not be there at the end."""
  path = tmp_path / "ran"
  yield path
  assert not path.exists()


EXTENSION = 0x77
KINDS = ("REDUCE", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "EXT1")


def malicious(kind, marker):
  """Opcodes that leave something on the stack, and call os.system on the way."""
  command = text(f"touch {shlex.quote(str(marker))}")
  system = b"cos\nsystem\n"
  lazily = b"cbuiltins\nmap\n(" + system + b"](" + command + b"et"  # class, arguments
  return {
    "REDUCE": system + command + b"\x85R",
    "STACK_GLOBAL": text("os") + text("system") + b"\x93" + command + b"\x85R",
    "INST": b"(" + command + b"ios\nsystem\n",
    "OBJ": b"(" + system + command + b"o",
    "NEWOBJ": b"cbuiltins\nlist\n" + lazily + b"\x81\x85R",
    "NEWOBJ_EX": b"cbuiltins\nlist\n" + lazily + b"}\x92\x85R",
    "BUILD": b"cfunctools\npartial\ncbuiltins\nint\n\x85R("
    + system
    + command
    + b"\x85}Ntb)R",  # by __setstate__
    "EXT1": b"\x82" + bytes([EXTENSION]) + command + b"\x85R",
  }[kind]


@pytest.fixture
def extension():
  copyreg.add_extension("os", "system", EXTENSION)
  yield
  copyreg.remove_extension("os", "system", EXTENSION)


def object_npy(pickled):
  """A .npy of an object array, whose elements are a pickle."""
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
  return file.getvalue() + pickled


@pytest.mark.parametrize("kind", KINDS)
def test_pickles_do_not_run(write, marker, extension, kind):
  call = malicious(kind, marker)
  alone = b"\x80\x04" + call + b"."
  pickle.loads(alone)
  assert marker.exists()
  marker.unlink()

  values = [b"}" + text("x") + call + b"s.", b"(" + call + text("x") + b"d.", call + b"."]
  plain = [b"\x80" + bytes([protocol]) + value for protocol in (2, 3, 4, 5) for value in values]
  persistent = b"\x80\x02" + ORDERED + b"(" + text("x") + call + b"Qu."  # as what identifies a storage
  keyed = b"\x80\x02" + ORDERED + b"(" + call + b"K\x01u."
  metadata = b"\x80\x02" + ORDERED + b"}" + text("_metadata") + call + b"sb."
  inside = [alone, tree({"x": call}), persistent, keyed, metadata]
  files = [*plain, *(torch_zip(body) for body in inside)]
  files += [BEFORE + body + b"\x80\x02]." for body in inside]
  files += [BEFORE[:21] + alone, BEFORE[:27] + alone, BEFORE + tree({}) + alone]
  files += [zipped({"x.npy": object_npy(body)}) for body in (alone, pickle.dumps(np.zeros(1)))]
  files += [object_npy(alone), b"P" + text("x") + alone]
  for data in files:
    with refused():
      read_arrays(write(data, "weights.pth"))
  with np.load(io.BytesIO(zipped({"x.npy": object_npy(alone)})), allow_pickle=True) as file:
    file["x"]  # as a careless reader would
  assert marker.exists()
  marker.unlink()


def doors(path):
  """What reads the file that a config, a flag or an argument names."""
  keys = ("objective.perceptual.weights", "objective.perceptual.heads", "evaluation.lpips_weights")
  named = [f"{key}={path}" for key in (*keys, "evaluation.lpips_heads", "data.dir")]
  on = ["objective.perceptual.weight=1", "evaluation.lpips=squeezenet", "data.name=npz"]
  config = apply_overrides(base_config(), [*named, *on])
  lpips = apply_overrides(
    config, ["objective.perceptual.distance=lpips", "objective.perceptual.network=alexnet"]
  )
  return [
    lambda: load_frozen(config.objective, base_config().evaluation),
    lambda: load_frozen(lpips.objective, base_config().evaluation),
    lambda: load_scoring_network(config.evaluation),
    lambda: open_source(config.data, "train"),
    lambda: perceptual.load("inception_fid", ("pool2048",), weights=path),
    lambda: metrics.load_statistics(path, protocol=metrics.Protocol(*"abcde"), count=9),
    lambda: load_lpips_heads("alexnet", path),
    lambda: vae_jax.load(path),
  ]


def test_no_door_runs_a_pickle(write, marker, tmp_path):
  alone = b"\x80\x04" + malicious("REDUCE", marker) + b"."
  hidden = zipped(
    {f"{name}.npy": object_npy(alone) for name in ("image", "label", "mu", "sigma", "count", "x")}
  )
  for n, data in enumerate((alone, torch_zip(alone), BEFORE + alone, hidden)):
    for door in doors(write(data, f"weights{n}.pth")):
      with refused():
        door()

  model = save_model(tmp_path / "model")
  for name in ("model.safetensors", "config.json"):
    (model / name).write_bytes(alone)
    with refused("model"):
      vae_jax.load(model)
    with contextlib.suppress(UserError):  # scoring reads the description alone
      cli.parse_evaluate(["--workdir", str(model)])


def test_no_file_of_a_run_is_unpickled(run, marker, tmp_path):
  """Each file of a checkpoint in turn becomes a pickle; also where training starts from it."""
  alone = b"\x80\x04" + malicious("REDUCE", marker) + b"."
  files = [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
  assert len(files) > 5
  for name in files:
    folder = shutil.copytree(run, tmp_path / "copy")
    (folder / name).write_bytes(alone)
    if name.name != HEADER:
      reseal(folder)
    with contextlib.suppress(UserError):  # Orbax writes some files that nobody reads
      vae_jax.load(folder)
    with contextlib.suppress(UserError):
      Checkpoints(folder / "checkpoints").restore(only=("ema", "params"))
    shutil.rmtree(folder)


FORBIDDEN = {
  "pickle",
  "_pickle",
  "dill",
  "cloudpickle",
  "joblib",
  "shelve",
  "marshal",
  "yaml",
  "torch",
  "h5py",
  "runpy",
}


def test_the_package_has_no_reader_that_runs_files():
  """Nothing is unpickled, no YAML is read, HDF5's own library is not used; one function runs Python: config files."""
  runs = set()
  for path in [*(ROOT / "vae_jax").rglob("*.py"), ROOT / "train.py", ROOT / "evaluate.py"]:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import | ast.ImportFrom):
        module = getattr(node, "module", None) or ""
        names = {alias.name.split(".")[0] for alias in node.names} if not module else {module.split(".")[0]}
        assert not names & FORBIDDEN, (path, names)
      if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if called in ("eval", "exec", "compile", "__import__", "importlib.import_module"):
          runs.add((path.name, called))
        if called in ("np.load", "numpy.load"):
          assert "allow_pickle=False" in ast.unparse(node), path
  ours = {
    ("__init__.py", "importlib.import_module"),
    ("score_folder.py", "importlib.import_module"),
    ("baselines.py", "importlib.import_module"),
  }  # fixed names
  assert runs - ours == {("files.py", "exec"), ("files.py", "compile")}


# --- a folder with Python files in it ---------------------------------------------------------------------------------

TRAPS = (
  "config.py",
  "configs/mnist_vae.py",
  "evil.py",
  "json.py",
  "numpy.py",
  "vae_jax.py",
  "sitecustomize.py",
)
TRAPS += ("conftest.py", "checkpoints/__init__.py", "__init__.py", "setup.py", "evaluate.py", "train.py")


def lay_traps(folder, marker):
  for name in TRAPS:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(f"open({str(marker)!r}, 'w').close()\ndef get_config(): pass\n")


def save_run(folder):
  """As `train` leaves it."""
  meta = {"config": CONFIG.to_dict(), "image_shape": list(SHAPE), "input_shape": list(SHAPE)}
  with Checkpoints(folder / "checkpoints") as store:
    store.save(3, {"params": variables()["params"], "ema": variables()["params"]}, meta=meta, score=1.0)
  (folder / "config.json").write_text(to_json(CONFIG))
  return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return save_run(tmp_path_factory.mktemp("run"))


def test_loading_runs_nothing_in_the_folder(run, tmp_path, marker, monkeypatch):
  folder = shutil.copytree(run, tmp_path / "copy")
  lay_traps(folder, marker)
  exec((folder / "evil.py").read_text(), {})
  assert marker.exists()  # the traps work
  marker.unlink()
  done = subprocess.run(
    [sys.executable, str(ROOT / "evaluate.py"), "--workdir", ".", "--mode", "sample", "--num", "1"],
    cwd=folder,
    env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=PATIENCE,
  )
  assert done.returncode == 0, done.stderr
  assert (folder / "evaluation" / "sample_num-1.png").exists()

  model = save_model(tmp_path / "model")
  lay_traps(model, marker)
  monkeypatch.chdir(model)
  for name in (".", str(model)):
    assert vae_jax.load(name).step == 7
    cli.parse_evaluate(["--workdir", name])
  assert not list(model.rglob("*.pyc"))


# --- a run's checkpoint -----------------------------------------------------------------------------------------------


def reseal(folder, change=lambda body: None):
  """Whoever writes a checkpoint writes its checksums."""
  place = folder / "checkpoints" / "3"
  body = json.loads((place / HEADER).read_text())["body"]
  for name in body["files"]:
    content = (place / name).read_bytes()
    body["files"][name] = [len(content), zlib.crc32(content)]
  body = change(body) or body
  crc = zlib.crc32(json.dumps(body, sort_keys=True).encode())
  (place / HEADER).write_text(json.dumps({"format_version": 1, "crc32": crc, "body": body}))


def put(*path):
  """A change of a checkpoint's header: path and value."""
  *path, last, value = path

  def change(body):
    node = body
    for key in path:
      node = node[key]
    node[last] = value

  return change


def first_shape(shape):
  def change(body):
    body["arrays"][min(name for name in body["arrays"] if "kernel" in name and name.startswith("ema"))][0] = (
      shape
    )

  return change


HOSTILE_HEADERS = {
  "file above": put("files", "../../config.json", [2, 2]),
  "file above, inside": put("files", "d/../../../config.json", [2, 2]),
  "absolute file": put("files", "/etc/hostname", [2, 2]),
  "file without end": put("files", "/dev/zero", [0, 0]),
  "files a list": put("files", []),
  "array in ema, above": put("arrays", "ema/../../x", [[1], "float32"]),
  "absolute array": put("arrays", "/etc/hostname", [[1], "float32"]),
  "array within an array": put("arrays", "ema/encoder/Dense_0/kernel/x", [[1], "float32"]),
  "deep array": put("arrays", "ema/" + "a/" * 5000 + "x", [[1], "float32"]),
  "terabytes": first_shape([10**12]),
  "sides of terabytes": first_shape([10**6, 10**6]),
  "2^70": first_shape([2**70]),
  "negative": first_shape([-1, 8]),
  "many axes": first_shape([1] * 40),
  "text": first_shape(["20", 8]),
  "objects": put("arrays", "ema/x", [[1], "object"]),
  "a class": put("arrays", "ema/x", [[1], "os.system"]),
  "no arrays": put("arrays", {}),
  "another shape": put("arrays", "ema/log_scale", [[3], "float32"]),
  "huge images": put("meta", "image_shape", [10**9, 10**9, 3]),
  "text images": put("meta", "image_shape", ["5", "4", "1"]),
  "no images": put("meta", "image_shape", [0, 0, 0]),
  "other images": put("meta", "image_shape", [50, 40, 1]),
  "config a list": put("meta", "config", []),
  "wide": put("meta", "config", "model", "hidden", [2**16]),
  "wide beyond": put("meta", "config", "model", "hidden", [10**9]),
  "deep": put("meta", "config", "model", "hidden", [8] * 10**4),
  "meta a list": put("meta", []),
  "body a list": lambda body: [body],
  "nested": lambda body: body | {"meta": json.loads("[" * 900 + "]" * 900)},
}


def test_headers_that_are_not_hostile(run, tmp_path):
  folder = shutil.copytree(run, tmp_path / "copy")
  for change in (lambda body: None, put("meta", "step", "8"), put("arrays", "../x", [[1], "float32"])):
    reseal(folder, change)
    assert vae_jax.load(folder).step == 3  # meta's is another; only ema is read, names are never paths


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_hostile_headers(run, tmp_path, name):
  folder = shutil.copytree(run, tmp_path / "copy")
  reseal(folder, HOSTILE_HEADERS[name])
  with within(100), refused("copy"):
    vae_jax.load(folder)


@pytest.mark.parametrize(
  "content",
  [
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"format_version": ' + b"9" * 5000 + b"}",
    b'{"format_version": NaN, "crc32": Infinity, "body": -Infinity}',
    b'{"format_version": 1e999, "crc32": 0, "body": {}}',
    b'{"format_version": 1, "crc32": 0, "body": {}, "body": {}}',
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b" " * 2**20,
  ],
)
@pytest.mark.parametrize("name", [f"checkpoints/3/{HEADER}", "config.json", "model/config.json"])
def test_hostile_json(run, tmp_path, name, content):
  folder = shutil.copytree(run, tmp_path / "copy")
  save_model(folder / "model")
  (folder / name).write_bytes(content)
  place = folder / "model" if "model" in name else folder
  with refused(str(place)):
    if name == "config.json":
      cli.parse_evaluate(["--workdir", str(place)])
    vae_jax.load(place)


def test_json_that_says_a_thing_twice_or_without_end():
  assert from_json("{}") == base_config()
  for content, words in {
    '{"model": {"hidden": [8], "hidden": [9]}}': "'hidden' is there twice",
    '{"model": {}, "model": {}}': "'model' is there twice",
    "[" * 500 + "]" * 500: "nested more than",
    '{"training": {"steps": ' + "9" * 5000 + "}}": "5000 digits",
    '{"model": {"name": "' + "x" * 2**20 + '"}}': "characters",
    '{"model": {"name": "' + "x" * 2**19 + '"}}': "model.name='xxx",
    '{"' + "x" * 2**19 + '": 1}': "unknown config key",
    '{"training": {"learning_rate": [1.0]}}': "must be a number",
  }.items():
    with refused("c.json", words):
      from_json(content, "c.json")


@pytest.mark.parametrize(
  "name", [f"checkpoints/3/{HEADER}", "checkpoints/3/manifest.ocdbt", "model/config.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nowhere"])
def test_what_is_no_file_is_not_waited_for(run, tmp_path, name, kind):
  folder = shutil.copytree(run, tmp_path / "copy")
  save_model(folder / "model")
  (folder / name).unlink()
  if kind == "pipe":
    os.mkfifo(folder / name)
  elif kind == "folder":
    (folder / name).mkdir()
  else:
    (folder / name).symlink_to("/dev/zero" if kind == "device" else "/nowhere")
  place = folder / "model" if "model" in name else folder
  with refused(str(place)):
    vae_jax.load(place)


def crc32c(data):
  from tensorboardX.crc32c import crc32c

  return struct.pack("<I", crc32c(data))


def test_a_checkpoint_cannot_point_elsewhere(run, tmp_path):
  """The store of arrays names its files; here one that lies beside the run, with all checksums right."""
  import tensorstore as ts

  folder = shutil.copytree(run, tmp_path / "copy")
  place = folder / "checkpoints" / "3"
  body = json.loads((place / HEADER).read_text())["body"]
  for name in [*body["files"], "_CHECKPOINT_METADATA"]:
    (place / name).unlink(missing_ok=True)
  inside, outside = "xx/xx/xx/outside/", "../../../outside/"
  plain = {"max_inline_value_bytes": 0, "compression": None}  # so that the names can be found
  base = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{place}/"}, "config": plain}
  for name, (shape, _) in body["arrays"].items():
    kvstore = base | {"path": name.replace("/", ".") + "/", "value_data_prefix": inside}
    metadata = {"shape": shape, "dtype": "<f4", "chunks": [max(n, 1) for n in shape], "compressor": None}
    store = ts.open({"driver": "zarr", "kvstore": kvstore, "metadata": metadata}, create=True).result()
    store.write(np.full(shape, 0.5, np.float32)).result()

  def seal(_):
    files = [
      path for path in place.rglob("*") if path.is_file() and path.name != HEADER and "xx" not in path.parts
    ]
    sums = {str(p.relative_to(place)): [p.stat().st_size, zlib.crc32(p.read_bytes())] for p in files}
    return body | {"files": sums}

  body["files"] = {}
  (place / HEADER).write_text(json.dumps({"body": body}))
  reseal(folder, seal)
  assert vae_jax.load(folder).params["encoder"]["Dense_0"]["kernel"][0, 0] == 0.5  # the store is read

  for path in place.rglob("*"):
    content = path.read_bytes() if path.is_file() else b""
    if inside.encode() in content:
      for magic in (b"\x0c\xdb\x3a\x2a", b"\x0c\xdb\x20\xde"):  # of a manifest, of a node: then the length
        at = content.find(magic)
        while at >= 0:
          end = at + int.from_bytes(content[at + 4 : at + 12], "little") - 4
          assert content[end : end + 4] == crc32c(content[at:end])
          part = content[at:end].replace(inside.encode(), outside.encode())
          content = content[:at] + part + crc32c(part) + content[end + 4 :]
          at = content.find(magic, end)
      path.write_bytes(content)
  shutil.copytree(place / inside, place / outside)
  reseal(folder, seal)
  with refused("damaged"):
    vae_jax.load(folder)


def test_a_chunk_larger_than_its_array_is_not_unpacked(run, tmp_path):
  """1 GB of zeros in a chunk of a few kilobytes."""
  import tensorstore as ts

  folder = shutil.copytree(run, tmp_path / "copy")
  place = folder / "checkpoints" / "3"
  name = "ema.encoder.Dense_0.kernel"
  kvstore = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{place}/"}, "path": f"{name}/"}
  metadata = {"shape": [20, 8], "dtype": "<f4", "chunks": [2**15, 2**13], "compressor": {"id": "zstd"}}
  spec = {"driver": "zarr", "kvstore": kvstore, "metadata": metadata}
  ts.open(spec, create=True, delete_existing=True).result()
  reseal(folder)
  body = json.loads((place / HEADER).read_text())["body"]
  files = [path for path in place.rglob("*") if path.is_file() and path.name != HEADER]
  sums = {str(p.relative_to(place)): [p.stat().st_size, zlib.crc32(p.read_bytes())] for p in files}
  reseal(folder, lambda _: body | {"files": sums})
  with refused("damaged"):
    vae_jax.load(folder)


# --- a model's folder -------------------------------------------------------------------------------------------------


def change_model(folder, weights=None, **changes):
  """Whoever changes the weights writes their digest."""
  from safetensors.numpy import load, save

  path = folder / "model.safetensors"
  if weights is not None:
    flat = load(path.read_bytes())
    path.write_bytes(weights if isinstance(weights, bytes) else save(weights(flat) or flat))
  meta = json.loads((folder / "config.json").read_text())
  for key, value in changes.items():
    put(*key.split("__"), value)(meta)
  meta["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
  (folder / "config.json").write_text(json.dumps(meta))


ONE = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def header(entries, data=bytes(8)):
  content = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
  return struct.pack("<Q", len(content)) + content + data


HOSTILE_SAFETENSORS = {
  "header without end": struct.pack("<Q", 2**63) + b"{}",
  "header of 99 MB": struct.pack("<Q", 99_000_000) + b"{}",
  "header of 0": bytes(8) + b"{",
  "beyond the end": header({"x": ONE["x"] | {"data_offsets": [0, 800], "shape": [200]}}),
  "beyond 2^64": header(b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 18446744073709551616]}}'),
  "backwards": header({"x": ONE["x"] | {"data_offsets": [8, 0]}}),
  "negative": header({"x": ONE["x"] | {"data_offsets": [-8, 0]}}),
  "overlapping": header({"x": ONE["x"], "y": ONE["x"]}),
  "negative shape": header({"x": ONE["x"] | {"shape": [-1, -2]}}),
  "shape of 2^64": header({"x": ONE["x"] | {"shape": [2**32, 2**32]}}),
  "other shape": header({"x": ONE["x"] | {"shape": [3]}}),
  "many axes": header({"x": ONE["x"] | {"shape": [2] + [1] * 100}}),
  "unknown type": header({"x": ONE["x"] | {"dtype": "os.system"}}),
  "twice": header(b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, '
                  b'"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}', bytes(16)),
  "nested": header(b'{"x": ' + b"[" * 100_000),
  "code": header(b"__import__('os').system('true')"),
  "a good header in 11 MB": header(json.dumps(ONE).encode() + b" " * 11 * 2**20),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_SAFETENSORS)
def test_hostile_safetensors(write, tmp_path, name):
  with refused("weights.bin"):
    read_arrays(write(HOSTILE_SAFETENSORS[name]))
  model = save_model(tmp_path / "model")
  change_model(model, HOSTILE_SAFETENSORS[name])
  with refused("model.safetensors"):
    vae_jax.load(model)


def renamed(name):
  return lambda flat: flat | {name: np.zeros(1, np.float32)}


HOSTILE_MODELS = {
  "wider than memory": {"config__model__hidden": [2**16]},
  "all that a config may be": {"config__model__hidden": [2**16] * 16, "config__model__latent_dim": 2**16},
  "10^9 channels": {"config__model__hidden": [10**9]},
  "10^6 layers": {"config__model__hidden": [8] * 10**4},
  "blocks": {
    "config__model__name": "conv_vae", "config__model__blocks": 256, "config__model__channels": [2**16] * 16,
  },
  "restoration": {
    "config__model__name": "restoration_vae", "config__model__blocks": 256, "config__model__channels": [8] * 16,
    "config__model__likelihood": "gaussian",
  },
  "a coarse restoration": {
    "config__model__name": "restoration_vae", "config__model__blocks": 0, "config__model__channels": [8] * 14,
    "config__model__likelihood": "gaussian", "config__model__unshuffle": 16,
    "weights": lambda flat: flat | {f"x{n}": np.zeros(1, np.float32) for n in range(20)},
  },
  "an enlargement": {
    "config__model__name": "transformation_net", "config__model__likelihood": "gaussian",
    "config__model__latent_dim": 0, "image_shape": [65536, 1024, 1], "input_shape": [64, 1, 1],
  },
  "a coarse enlargement": {
    "config__model__name": "restoration_vae", "config__model__blocks": 0, "config__model__channels": [8] * 8,
    "config__model__likelihood": "gaussian", "config__model__unshuffle": 16,
    "image_shape": [13056, 13056, 1], "input_shape": [204, 204, 1],
    "weights": lambda flat: flat | {f"x{n}": np.zeros(1, np.float32) for n in range(20)},
  },
  "wide flows": {
    "config__model__latent_dim": 2**16, "config__model__posterior": "iaf", "config__model__flow_layers": 32,
    "config__model__flow_hidden": 2**16,
  },
  "pseudo-inputs": {"config__model__prior": "vamp", "config__model__components": 10**5},
  "another family": {"config__model__name": "conv_vae"},
  "images of 10^9": {"image_shape": [10**9, 10**9, 3], "input_shape": [10**9, 10**9, 3]},
  "long images": {"image_shape": [2**40, 1, 1]},
  "many channels": {"image_shape": [5, 4, 10**8]},
  "large images": {"image_shape": [14000, 14000, 1]},
  "text": {"image_shape": "5,4,1"},
  "texts": {"image_shape": ["5", "4", "1"]},
  "booleans": {"image_shape": [True, True, True]},
  "two": {"image_shape": [5, 4]},
  "zero": {"input_shape": [0, 4, 1]},
  "NaN": {"image_shape": [float("nan"), 4, 1]},
  "other inputs": {"input_shape": [5, 5, 1]},
  "step": {"step": "7"},
  "fields a list": {"spec": [["image", [5, 4, 1], "float32"]]},
  "fields without images": {"spec": {"label": [[], "int32"]}},
  "fields of other images": {"spec": {"image": [[50, 40, 1], "float32"]}},
  "an unknown field": {"spec": {"image": [[5, 4, 1], "float32"], "../../x": [[1], "float32"]}},
  "a field of objects": {"spec": {"image": [[5, 4, 1], "float32"], "text": [[1], "object"]}},
  "a field of 2^70": {"spec": {"image": [[5, 4, 1], "float32"], "text": [[2**70], "int32"]}},
  "a field of many axes": {"spec": {"image": [[5, 4, 1], "float32"], "text": [[1] * 40, "int32"]}},
  "images of numbers": {"spec": {"image": [5, "float32"]}},
  "an unread first stage": {"first_stage": {"config": {}, "step": 1}},
  "another family's format": {"format_version": 2**40, "words": "update vae_jax"},
  "path": {"weights": renamed("../../../x")},
  "absolute": {"weights": renamed("/etc/x")},
  "long": {"weights": renamed("x" * 300), "words": "names are short"},
  "deep": {"weights": renamed("/".join("x" * 90))},
  "deep beyond": {"weights": renamed("/".join("x" * 50_000)), "words": "names are short"},
  "in an array": {"weights": renamed("decoder/Dense_0/kernel/x")},
  "of integers": {"weights": lambda flat: {k: v.astype(np.int32) for k, v in flat.items()}},
  "of 64 bits": {"weights": lambda flat: {k: v.astype(np.float64) for k, v in flat.items()}, "words": "not F64 of"},
  "of 8 bits": {"weights": lambda flat: {k: v.astype(np.int8) for k, v in flat.items()}, "words": "has no scale"},
  "none": {"weights": lambda flat: {"x": np.zeros(0, np.float32)}},
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_MODELS)
def test_hostile_models_are_refused_before_they_take_memory(tmp_path, name):
  model = save_model(tmp_path / "model")
  changes = dict(HOSTILE_MODELS[name])
  words = changes.pop("words", "model")
  change_model(model, **changes)
  with within(100), refused(words):
    vae_jax.load(model)


@pytest.mark.parametrize("side", [2**17, 10**9])
def test_a_map_of_latents_is_of_no_size_that_its_weights_would_tell(tmp_path, side):
  config = apply_overrides(
    CONFIG, ["model.name=conv_vae", "model.dense=0", "model.channels=4", "model.blocks=0"]
  )
  pretrained.save(
    tmp_path,
    variables(config),
    {"config": config.to_dict(), "image_shape": SHAPE, "input_shape": SHAPE, "step": 7},
  )
  assert vae_jax.load(tmp_path).image_shape == SHAPE
  change_model(tmp_path, image_shape=[side, side, 1], input_shape=[side, side, 1])
  with within(100), refused("too large"):
    vae_jax.load(tmp_path)


# --- bombs ------------------------------------------------------------------------------------------------------------


def npy_header(shape, code="<f4", version=1):
  text = f"{{'descr': {code!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
  text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
  return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text


def overlapping(count, size):
  """Members that are all the same compressed bytes."""
  file = io.BytesIO(zipped({"x.npy": npy_header(f"({size // 4},)") + bytes(size)}, zipfile.ZIP_DEFLATED))
  data = file.getvalue()
  start = data.index(b"PK\1\2")
  end = data.index(b"PK\5\6")
  entries = [data[start:end].replace(b"x.npy", b"%05d.npy" % n) for n in range(count)]
  entries = [entry[:28] + struct.pack("<H", 9) + entry[30:] for entry in entries]
  body = b"".join(entries)
  tail = data[end : end + 8] + struct.pack("<HHII", count, count, len(body), start) + b"\0\0"
  return data[:start] + body + tail


def many_members(count):
  entry = zipped({"x.npy": b""})
  start, end = entry.index(b"PK\1\2"), entry.index(b"PK\5\6")
  size = count * (end - start)
  return (
    entry[:start] + entry[start:end] * count + entry[end : end + 12] + struct.pack("<IIH", size, start, 0)
  )


def wide(*first, rest=b"N"):
  """A tuple of many, to be used again and again."""
  return b"(" + b"".join(first) + rest * 40_000 + b"tq\x05"


def again(start, opcodes, count=15_000):
  """A pickle that does the same for many names."""
  return start + b"(" + b"".join(text(str(n)) + opcodes for n in range(count)) + b"u."


def tree_in_itself():
  data = bytearray(hdf5(lambda root: root.create_dataset("x", data=1.0), "earliest"))
  at = data.index(b"TREE")
  data[at + 5] = 1
  data[at + 32 : at + 40] = struct.pack("<Q", at)
  return bytes(data)


TORCH = b"\x80\x02" + ORDERED
SCALAR = rebuilt(storage("0", 1), 0, (), ())
WHERE = (text("storage"), b"ctorch\nFloatStorage\n", text("0"), text("cpu"), b"K\x01")
BOMBS = {
  "zeros": lambda: zipped({"x.npy": npy_header(f"({2**25},)") + bytes(2**27)}, zipfile.ZIP_DEFLATED),
  "overlapping": lambda: overlapping(200, 2**20),
  "members": lambda: many_members(300_000),
  "torch's members": lambda: many_members(300_000).replace(b"x.npy", b"a/d/x"),
  "shape": lambda: zipped({"x.npy": npy_header("(1000000, 1000000)")}),
  "shape of 2^100": lambda: zipped({"x.npy": npy_header(f"({2**100},)")}),
  "negative shape": lambda: zipped({"x.npy": npy_header("(-4, -1)") + bytes(16)}),
  "empty and huge": lambda: zipped({"x.npy": npy_header(f"(0, {2**62})")}),
  "digits": lambda: zipped({"x.npy": npy_header("(" + "9" * 5000 + ",)")}),
  "brackets": lambda: zipped({"x.npy": npy_header("(" * 4000 + ")" * 4000)}),
  "minus": lambda: zipped({"x.npy": npy_header("-" * 9000 + "1")}),
  "header": lambda: zipped({"x.npy": npy_header("(1,)" + " " * 10**6, version=2)}),
  "code": lambda: zipped({"x.npy": npy_header("__import__('os').system('false')")}),
  "code as type": lambda: zipped({"x.npy": npy_header("(1,)", "__import__('os').system('false')") + bytes(4)}),
  "tuple as shape": lambda: torch_zip(
    again(
      TORCH + wide(rest=b"K\x00"),
      b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage("0", 1) + b"K\x00h\x05h\x05\x89NtR",
      3000,
    )
  ),
  "tuple as arguments": lambda: torch_zip(
    again(TORCH + wide(SCALAR) + b"0", b"ctorch._utils\n_rebuild_parameter\nh\x05R").replace(b"tq\x050", b"tq\x05")
  ),
  "tuple as a storage": lambda: torch_zip(again(TORCH + wide(*WHERE), b"h\x05Q")),
  "tuple as a state": lambda: again(
    b"\x80\x04}" + wide(b"K\x03", text("<")), b"cnumpy\ndtype\n" + text("f4") + b"\x85Rh\x05b"
  ),
  "one group everywhere": lambda: hdf5(group_in_itself),
  "a tree in itself": tree_in_itself,
}  # fmt: skip


def group_in_itself(root):
  group = root.create_group("a")
  for n in range(30):
    group[str(n)] = group


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(write, name):
  path = write(BOMBS[name]())
  with within(100), refused("weights.bin"):
    read_arrays(path)


def test_npz_where_statistics_and_images_are_read(tmp_path):
  """Sizes that no memory has; headers that end numpy's parser."""
  for name in (
    "shape",
    "digits",
    "brackets",
    "minus",
    "code",
    "code as type",
    "empty and huge",
    "negative shape",
  ):
    content = zipfile.ZipFile(io.BytesIO(BOMBS[name]())).read("x.npy")
    path = tmp_path / f"{name}.npz"
    path.write_bytes(zipped(dict.fromkeys(("mu.npy", "image.npy", "sigma.npy"), content)))
    data = apply_overrides(base_config(), ["data.name=npz", f"data.dir={path}"]).data
    with refused(path.name):
      open_source(data, "train")
    with refused(path.name):
      metrics.load_statistics(path, protocol=metrics.Protocol(*"abcde"), count=9)


@pytest.mark.parametrize("name", ["image", "label", "mu", "sigma"])
def test_npz_members_that_are_no_arrays(tmp_path, name):
  arrays = {
    "image": np.zeros((2, 4, 4, 1), np.uint8),
    "label": np.arange(2),
    "mu": np.zeros(3),
    "sigma": np.eye(3),
  }
  members = {}
  for key, array in arrays.items():
    file = io.BytesIO()
    np.save(file, array)
    members[f"{key}.npy"] = b"text" if key == name else file.getvalue()
  path = tmp_path / "x.npz"
  path.write_bytes(zipped(members))
  data = apply_overrides(base_config(), ["data.name=npz", f"data.dir={path}"]).data
  with refused("x.npz"):
    if name in ("image", "label"):
      open_source(data, "train")
    else:
      metrics.load_statistics(path, protocol=metrics.Protocol(*"abcde"), count=9)


# --- tensors that lie about memory ------------------------------------------------------------------------------------


def test_a_tensor_is_no_storage_of_another(write):
  """A view of one element, taken for as many elements as it repeats, would read what lies behind the file."""
  count = 1000
  elements = {"x": np.ones(count, np.float32)}
  once = rebuilt(storage("0", count), count - 1, (count,), (0,))
  assert read_arrays(write(torch_zip(tree({"x": once}), elements))).arrays["x"].tolist() == [1] * count
  for pose in (once, b"ctorch._utils\n_rebuild_parameter\n" + once + b"\x85R"):
    beyond = rebuilt(pose, 0, (count,), (1,))
    for data in (
      torch_zip(tree({"x": beyond}), elements),
      BEFORE
      + tree({"x": beyond})
      + b"\x80\x02]("
      + text("0")
      + b"e."
      + struct.pack("<q", count)
      + bytes(4 * count),
    ):
      with refused("not described as torch does"):
        read_arrays(write(data))
  with refused("of type"):
    read_arrays(write(torch_zip(tree({"x": storage("0", count)}), elements)))
  with refused("not described as torch does"):
    read_arrays(write(torch_zip(tree({"x": rebuilt(numbers(1, 2), 0, (2,), (1,))}), elements)))


# --- names that become paths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../x", "..", ".", "/etc", "superres_x2/../../x", "~", "a\0b", ""])
def test_names_of_models_are_no_paths(name):
  with refused():
    cli.parse_evaluate(["--pretrained", name, "--mode", "sample"])


@pytest.mark.parametrize(
  "source", ["hf:a/b/../../x", "hf:../../x", "hf:a/../x", "hf:a/b//x", "hf:a/b/./x", "hf:a/b"]
)
def test_names_on_the_hub_are_no_paths(source, monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with refused("is not hf:owner/repo/file"):
    load_weights("vgg16", source)


def test_what_is_read_writes_nothing(run, tmp_path):
  """Names in archives and checkpoints with ../ in them; before and after, the folders hold the same."""
  folder = tmp_path / "in" / "side"
  folder.mkdir(parents=True)
  archive = folder / "weights.npz"
  archive.write_bytes(
    zipped({name: npy_header("(1,)") + bytes(4) for name in ("../a.npy", "/tmp/b.npy", "c/../d.npy")})
  )
  assert set(read_arrays(archive).arrays) == {"../a", "/tmp/b", "c/../d"}  # names, no paths
  with refused("weights.npz"):
    load_weights("vgg16", archive)
  shutil.copytree(run, folder / "run")
  vae_jax.load(folder / "run")
  vae_jax.load(save_model(folder / "model"))
  files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
  expected = {f"in/side/run/{path.relative_to(run)}" for path in run.rglob("*") if path.is_file()}
  assert files == expected | {
    "in/side/weights.npz",
    *(f"in/side/model/{n}" for n in ("config.json", "model.safetensors")),
  }
  assert pretrained.is_model(folder / "model")
