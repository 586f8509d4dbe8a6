"""Damaged and hostile run folders: what verifies is used, the rest is named in one line, nothing outside is touched.

Through train.py in processes of their own for the whole way; on `Checkpoints` for every file and every kind of damage.
"""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from said import PATIENCE, unexpected

import vae_jax
from vae_jax.configuration import apply_overrides, base_config, to_json
from vae_jax.errors import UserError
from vae_jax.inference import load
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.storage.verification import FORMAT_VERSION, HEADER, UNSEALED
from vae_jax.training.loop import train
from vae_jax.training.writers import TIMES

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "checkpoint_v1"
WORDS = (
  "data.name=npz data.binarize=dynamic model.hidden=8 model.latent_dim=2 training.batch_size=8 training.log_every=1 "
  "training.eval_every=4 training.checkpoint_every=2 training.steps=16 training.keep=9 evaluation.batch_size=8 "
  "evaluation.pictures=4"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  noise = np.random.default_rng(0)
  for split, n in (("train", 30), ("validation", 5), ("test", 4)):
    np.savez(folder / f"{split}.npz", image=noise.integers(0, 256, (n, 5, 4), dtype=np.uint8))
  return folder


def start(data, workdir, *extra):
  words = [f"--config.{word}" for word in (*WORDS.split(), f"data.dir={data}", *extra)]
  command = [sys.executable, str(ROOT / "train.py"), "--workdir", str(workdir), *words]
  environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  pipe = subprocess.PIPE
  return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def call(data, workdir, *extra, status=0):
  """The lines of standard error that do not tell of a start or of progress, once the exit status is checked."""
  process = start(data, workdir, *extra)
  try:
    _, errors = process.communicate(timeout=PATIENCE)
  finally:
    process.kill()
  assert process.returncode == status, errors
  return unexpected(errors)


def result(workdir):
  """What a run computed: its rows without times, and the arrays of its newest checkpoint."""
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  state, meta = Checkpoints(workdir / "checkpoints").restore()
  leaves = {jax.tree_util.keystr(k): x.tobytes() for k, x in jax.tree_util.tree_leaves_with_path(state)}
  return (
    [{k: v for k, v in row.items() if k not in TIMES} for row in rows],
    leaves,
    meta["step"],
  )


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
  """The workdir of an undisturbed run, with checkpoints of all even steps up to 16."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  assert call(data, workdir) == []
  assert Checkpoints(workdir / "checkpoints").steps() == [*range(2, 17, 2)]
  return workdir


def largest(step):
  return max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(step):
  largest(step).write_bytes(largest(step).read_bytes()[:-9])


def flip(step):
  content = bytearray(largest(step).read_bytes())
  content[len(content) // 2] ^= 16
  largest(step).write_bytes(content)


def lose_a_file(step):
  (step / "manifest.ocdbt").unlink()


def lose_all(step):
  shutil.rmtree(step)
  step.mkdir()


def spoil_header(step):
  (step / HEADER).write_text((step / HEADER).read_text()[:-40])


def interrupt(step):
  step.rename(step.with_name(f"{step.name}.orbax-checkpoint-tmp"))


DAMAGES = {
  truncate: r"bytes instead of",
  flip: "does not match its checksum",
  lose_a_file: "manifest.ocdbt is missing",
  lose_all: "checkpoint.json is missing",
  spoil_header: "checkpoint.json cannot be read",
}


def test_a_run_continues_from_the_newest_that_verifies(data, whole, tmp_path):
  """Every kind of damage at once: one line for each, and in the end what the undisturbed run has."""
  run = shutil.copytree(whole, tmp_path / "run")
  folder = run / "checkpoints"
  interrupt(folder / "16")
  for step, damage in zip((14, 12, 10, 8, 6), DAMAGES, strict=True):
    damage(folder / str(step))
  lines = call(data, run)
  assert len(lines) == len(DAMAGES)
  for line, step, reason in zip(lines, (14, 12, 10, 8, 6), DAMAGES.values(), strict=True):
    assert f"checkpoints/{step} is damaged (" in line and reason in line, line
    assert line.endswith("falling back to step 4")
  assert result(run) == result(whole)
  assert Checkpoints(folder).steps() == [*range(2, 17, 2)]
  for step in Checkpoints(folder).steps():  # those that were damaged are written anew
    Checkpoints(folder).restore(step)
  assert not [p for p in folder.iterdir() if not p.name.isdecimal()]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [*DAMAGES, interrupt], ids=lambda damage: damage.__name__)
def test_one_damage_at_a_time(data, whole, tmp_path, damage):
  run = shutil.copytree(whole, tmp_path / "run")
  damage(run / "checkpoints" / "16")
  lines = call(data, run)
  assert len(lines) == (damage is not interrupt) and all("falling back to step 14" in line for line in lines)
  assert result(run) == result(whole)


@pytest.mark.slow
def test_killed_while_saving(data, whole, tmp_path):
  """SIGKILL as soon as a save has begun: the half-written folder is no checkpoint, and goes away."""
  folder = tmp_path / "run" / "checkpoints"
  for _ in range(20):
    process = start(data, tmp_path / "run")
    while process.poll() is None and not list(folder.glob("*.orbax-checkpoint-tmp")):
      time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if list(folder.glob("*.orbax-checkpoint-tmp")):
      break
    shutil.rmtree(tmp_path / "run")
  else:
    pytest.fail("never killed within a save")
  assert call(data, tmp_path / "run") == []
  assert result(tmp_path / "run") == result(whole)
  assert not [p for p in folder.iterdir() if not p.name.isdecimal()]


def listing(folder):
  return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_of_which_nothing_verifies_is_left_alone(data, whole, tmp_path):
  run = shutil.copytree(whole, tmp_path / "run")
  for step in (run / "checkpoints").iterdir():
    truncate(step)
  before = listing(run)
  (line,) = call(data, run, status=2)
  assert line.startswith("error: checkpoint ") and "checkpoints/16 is damaged" in line
  assert line.endswith(
    "no other can be read; restore a backup, or train again in another workdir and keep this one"
  )
  assert listing(run) == before


@pytest.mark.parametrize(
  "text", ["", "{", '{"model": 3}', "[" * 10**5, '{"data": {"dir": "../x\\u0000"}}', "null"]
)
def test_a_damaged_config_is_one_line(data, whole, tmp_path, text):
  run = shutil.copytree(whole, tmp_path / "run")
  (run / "config.json").write_text(text)
  before = listing(run)
  config = apply_overrides(base_config(), [*WORDS.split(), f"data.dir={data}"])
  with pytest.raises(UserError, match=r"config\.json|another config") as error:
    train(config, run)
  assert "\n" not in str(error.value) and listing(run) == before


# --- every file, every damage ---


def state(seed):
  noise = np.random.default_rng(seed)
  return {"step": np.int32(seed), "params": {"a": noise.standard_normal((9, 5)), "b": np.zeros((0, 3))}}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """Checkpoints 1, 2 and 3; copy them before harming them."""
  folder = tmp_path_factory.mktemp("written") / "checkpoints"
  with Checkpoints(folder, keep=9) as store:
    for step in (1, 2, 3):
      store.save(step, state(step), meta={"n": step}, score=-step)
  return folder


def same(a, b):
  a, b = jax.tree.map(np.asarray, a), jax.tree.map(np.asarray, b)
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def replaced_by_a_folder(file):
  file.unlink()
  file.mkdir()


def linked_to_another(file):
  other = file.parents[9] / "other"
  other.write_bytes(bytes(file.stat().st_size))
  file.unlink()
  file.symlink_to(other)


def linked_to_a_device(file):
  file.unlink()
  file.symlink_to("/dev/zero")


def replaced_by_a_pipe(file):
  file.unlink()
  os.mkfifo(file)


def flipped(file):
  content = bytearray(file.read_bytes())
  content[len(content) // 3] ^= 1
  file.write_bytes(content)


HARMS = {
  "emptied": lambda file: file.write_bytes(b""),
  "halved": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
  "grown": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
  "flipped": flipped,
  "deleted": lambda file: file.unlink(),
  "a folder": replaced_by_a_folder,
  "a link to another": linked_to_another,
  "a dangling link": lambda file: (file.unlink(), file.symlink_to("/nowhere/at/all")),
  "a link to a device": linked_to_a_device,
  "a pipe": replaced_by_a_pipe,
}


@pytest.mark.parametrize("harm", HARMS)
def test_each_file_in_turn(written, tmp_path, harm):
  deep = tmp_path.joinpath(*"abcdefghi")  # links to elsewhere lead out of it
  deep.mkdir(parents=True)
  names = [p.relative_to(written / "3") for p in (written / "3").rglob("*") if p.is_file()]
  sealed = json.loads((written / "3" / HEADER).read_text())["body"]["files"]
  for i, name in enumerate(names):
    folder = shutil.copytree(written, deep / str(i))
    HARMS[harm](folder / "3" / name)
    warnings = []
    restored, meta = Checkpoints(folder, warn=warnings.append).restore()
    if name.as_posix() in sealed or name.name == HEADER:
      same(restored, state(2))
      assert meta["n"] == meta["step"] == 2 and len(warnings) == 1, (name, warnings)
      assert "checkpoints" not in warnings[0] and f"{folder}/3 is damaged (" in warnings[0]
      assert name.as_posix() in warnings[0] and "\n" not in warnings[0]
    else:  # Orbax's own notes, written last, which nobody reads
      assert name.name in UNSEALED
      same(restored, state(3))
      assert not warnings


def test_what_is_missing_from_the_files_is_noticed_where_the_header_was_made_to_fit(written, tmp_path):
  """The arrays are compared with the header even where all checksums are right."""
  folder = shutil.copytree(written, tmp_path / "c")
  body = header(folder)
  body["arrays"]["params/a"] = [[5, 9], "float64"]
  write_header(folder, body)
  assert "params/a is stored as float64[9, 5]" in refused(folder)
  body["arrays"]["params/a"] = [[9, 5], "float32"]
  write_header(folder, body)
  assert "params/a is stored as float64[9, 5]" in refused(folder)
  del body["arrays"]["params/a"]
  body["arrays"]["params/c"] = [[9, 5], "float64"]
  write_header(folder, body)
  assert "is damaged" in refused(folder)


# --- a header of a stranger ---


def header(folder):
  return json.loads((folder / "3" / HEADER).read_text())["body"]


def write_header(folder, body, **outer):
  """With a checksum that is right, as a stranger would."""
  crc = zlib.crc32(json.dumps(body, sort_keys=True).encode())
  seal = {"format_version": FORMAT_VERSION, "crc32": crc, "body": body} | outer
  (folder / "3" / HEADER).write_text(json.dumps(seal))


def refused(folder):
  """Why step 3 is not read; step 2 is read in its place."""
  with pytest.raises(UserError) as error:
    Checkpoints(folder).restore(3)
  assert "\n" not in str(error.value) and "step 3" not in str(error.value)
  warnings = []
  same(Checkpoints(folder, warn=warnings.append).restore()[0], state(2))
  assert len(warnings) == 1 and "3 is damaged" in warnings[0] and "\n" not in warnings[0]
  assert Checkpoints(folder).best() in (2, 3)
  return str(error.value)


def with_(**changes):
  return lambda body: body | changes


HOSTILE = {
  "another step": with_(step=4),
  "a huge step": with_(step=10**4000),
  "a word for a step": with_(step="3"),
  "true for a step": with_(step=True),
  "no step": lambda body: {k: v for k, v in body.items() if k != "step"},
  "a list for meta": with_(meta=[]),
  "no meta": with_(meta=None),
  "a word for a score": with_(score="x"),
  "nan for a score": with_(score=float("nan")),
  "a list for arrays": with_(arrays=[]),
  "a list for files": with_(files=[["manifest.ocdbt", 1, 1]]),
  "a number for a file": with_(files={"manifest.ocdbt": 1}),
  "three numbers for a file": with_(files={"manifest.ocdbt": [1, 2, 3]}),
  "words for a file": with_(files={"manifest.ocdbt": ["1", "2"]}),
  "a negative size": with_(files={"manifest.ocdbt": [-1, 0]}),
  "files elsewhere": with_(files={"../2/manifest.ocdbt": [1, 1]}),
  "files deep elsewhere": with_(files={"d/../../2/checkpoint.json": [1, 1]}),
  "absolute files": with_(files={"/etc/hostname": [1, 1]}),
  "a file with a nul": with_(files={"a\0b": [1, 1]}),
  "half a surrogate for a file": with_(files={"\ud800": [1, 1]}),
  "a very long file": with_(files={"a" * 10**5: [1, 1]}),
  "no files": with_(files={}, arrays={"x": [[10**6], "float32"]}),
  "a terabyte": with_(arrays={"x": [[10**12], "float32"]}),
  "a terabyte in two": with_(arrays={"x": [[10**6, 10**6], "uint8"]}),
  "more than there are atoms": with_(arrays={"x": [[2**62] * 32, "float32"]}),
  "a shape beyond 64 bits": with_(arrays={"x": [[10**30], "float32"]}),
  "a negative shape": with_(arrays={"x": [[-1], "float32"]}),
  "a fraction for a shape": with_(arrays={"x": [[1.5], "float32"]}),
  "a number for a shape": with_(arrays={"x": [3, "float32"]}),
  "a dict for a shape": with_(arrays={"x": [{"0": 1}, "float32"]}),
  "a thousand axes": with_(arrays={"x": [[1] * 1000, "float32"]}),
  "objects": with_(arrays={"x": [[1], "object"]}),
  "text": with_(arrays={"x": [[1], "S1000000000"]}),
  "records": with_(arrays={"x": [[1], "f4,f4"]}),
  "a list for a type": with_(arrays={"x": [[1], ["float32"]]}),
  "no such type": with_(arrays={"x": [[1], "float33"]}),
  "an array that is a folder too": with_(arrays={"x": [[1], "float32"], "x/y": [[1], "float32"]}),
  "an array elsewhere": with_(arrays={"../../x": [[1], "float32"]}),
  "an absolute array": with_(arrays={"/tmp/x": [[1], "float32"]}),
  "an array without a name": with_(arrays={"": [[1], "float32"]}),
  "a very deep array": with_(arrays={"/".join("x" * 10**5): [[1], "float32"]}),
  "an unknown array": with_(arrays={"x": [[1], "float32"]}),
  "a list for all": lambda body: [],
  "a word for all": lambda body: "body",
  "nothing": lambda body: None,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_damage(written, tmp_path, case, capfd):
  folder = shutil.copytree(written, tmp_path / "c")
  before = set(tmp_path.rglob("*"))
  write_header(folder, HOSTILE[case](copy.deepcopy(header(folder))))
  reason = refused(folder)
  assert "3 is damaged (" in reason
  late = ("another step", "a very long file", "no files", "an unknown array", "an array elsewhere")
  assert "is not what it should be" in reason or "claims" in reason or case in late
  assert set(tmp_path.rglob("*")) == before
  out, err = capfd.readouterr()
  assert "Traceback" not in out + err


@pytest.mark.parametrize("absolute", [False, True])
def test_files_elsewhere_are_not_even_looked_at(written, tmp_path, absolute):
  """Their sizes and checksums would be right."""
  folder = shutil.copytree(written, tmp_path / "c")
  body = header(folder)
  entry = json.loads((folder / "2" / HEADER).read_text())["body"]["files"]["manifest.ocdbt"]
  assert entry[0] == (folder / "3" / "../2/manifest.ocdbt").stat().st_size
  write_header(folder, body)
  same(Checkpoints(folder).restore(3)[0], state(3))
  body["files"][str(folder / "2" / "manifest.ocdbt") if absolute else "../2/manifest.ocdbt"] = entry
  write_header(folder, body)
  assert "'files' is not what it should be" in refused(folder)


TEXTS = {
  "nested": "[" * 10**5,
  "nested and closed": "[" * 10**5 + "]" * 10**5,
  "nested objects": '{"a":' * 10**5,
  "nested body": '{"format_version": 1, "crc32": 1, "body": %s}' % ("[" * 900 + "]" * 900),
  "a number of 100,000 digits": '{"format_version": 1, "crc32": %s, "body": {}}' % ("9" * 10**5),
  "a list": "[]",
  "a number": "3",
  "null": "null",
  "no text": "",
  "zeros": "\0" * 100,
  "not UTF-8": b"\xff\xfe{",
  "version 0": '{"format_version": 0, "crc32": 0, "body": {}}',
  "version true": '{"format_version": true, "crc32": 0, "body": {}}',
  "version 1.5": '{"format_version": 1.5, "crc32": 0, "body": {}}',
  "a list for a version": '{"format_version": [1], "crc32": 0, "body": {}}',
  "a huge version": '{"format_version": %s, "crc32": 0, "body": {}}' % ("9" * 4000),
  "infinity": '{"format_version": 1, "crc32": Infinity, "body": {"step": NaN}}',
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_header_that_is_no_header_is_damage(written, tmp_path, case):
  folder = shutil.copytree(written, tmp_path / "c")
  text = TEXTS[case]
  (folder / "3" / HEADER).write_bytes(text if isinstance(text, bytes) else text.encode())
  assert "3 is damaged (" in refused(folder)


def test_a_huge_header_is_not_read(written, tmp_path):
  folder = shutil.copytree(written, tmp_path / "c")
  os.truncate(folder / "3" / HEADER, 2**40)  # a terabyte of nothing, which takes no room
  assert "checkpoint.json has 1099511627776 bytes" in refused(folder)


def test_an_absurd_shape_takes_no_memory(written, tmp_path):
  """Neither one in the header, nor one of an array or a chunk as stored, under a header that claims 8 bytes."""
  import resource

  import tensorstore as ts

  folder = shutil.copytree(written, tmp_path / "c")
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  write_header(folder, with_(arrays={"x": [[2**33], "uint8"]})(header(folder)))
  assert "its files have" in refused(folder)
  for name, shape, chunks in (("x", [2**33], [2**33]), ("y", [8], [2**33]), ("z", [2**33], [8])):
    kvstore = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder / '3'}/"}, "path": f"{name}/"}
    metadata = {"shape": shape, "chunks": chunks, "dtype": "|u1", "fill_value": 0}
    ts.open({"driver": "zarr", "kvstore": kvstore, "metadata": metadata}, create=True).result()
    files = [p for p in (folder / "3").rglob("*") if p.is_file() and p.name != HEADER]
    body = header(written)
    body["files"] = {
      p.relative_to(folder / "3").as_posix(): [p.stat().st_size, zlib.crc32(p.read_bytes())] for p in files
    }
    body["arrays"] = {name: [[8], "uint8"]}
    write_header(folder, body)
    assert f"{name} is stored as uint8{shape}" in refused(folder)
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # kilobytes


@pytest.mark.parametrize("name", ["1٣", "03", "3 ", "-3", "3.0", "1e3"])
def test_names_that_only_look_like_steps(written, tmp_path, name):
  folder = shutil.copytree(written, tmp_path / "c")
  shutil.copytree(folder / "3", folder / name)
  assert Checkpoints(folder).steps() == [1, 2, 3]


def test_a_step_under_another_number_is_damage(written, tmp_path):
  folder = shutil.copytree(written, tmp_path / "c")
  (folder / "3").rename(folder / "7")
  warnings = []
  same(Checkpoints(folder, warn=warnings.append).restore()[0], state(2))
  assert "7 is damaged (checkpoint.json is of step 3)" in warnings[0]


def test_links_out_of_the_folder_are_not_followed_to_delete(written, tmp_path):
  """Neither by a save that replaces a damaged step, nor by one that removes superseded ones."""
  folder = shutil.copytree(written, tmp_path / "run" / "c")
  precious = tmp_path / "precious"
  precious.mkdir()
  (precious / "file").write_text("mine")
  for name in ("4", "5.orbax-checkpoint-tmp", "6.removed"):
    (folder / name).symlink_to(precious)
  with Checkpoints(folder, keep=1, warn=lambda line: None) as store:
    assert store.restore()[1]["step"] == 3
    store.save(4, state(4), meta={})
    store.wait()
    same(store.restore()[0], state(4))
    store.save(5, state(5), meta={}, score=-9)
  assert Checkpoints(folder).steps() == [5]
  assert (precious / "file").read_text() == "mine" and len(list(precious.iterdir())) == 1


def test_what_could_not_be_read_again_is_not_saved(tmp_path):
  with Checkpoints(tmp_path) as store:
    for bad in ({"x": np.array(["text"])}, {"a/b": np.ones(1), "a": np.ones(1)}):
      with pytest.raises(ValueError, match="'arrays' cannot be saved"):
        store.save(1, bad, meta={})
  assert Checkpoints(tmp_path).steps() == []


# --- format versions ---


def test_a_checkpoint_of_format_1(tmp_path):
  """tests/golden/checkpoint_v1 was written by train.py when 1 was the newest format; see the README there."""
  folder = shutil.copytree(GOLDEN, tmp_path / "run")
  model = load(folder)
  assert model.step == 4 and model.image_shape == (4, 4, 1)
  restored, meta = Checkpoints(folder / "checkpoints").restore()
  assert meta["format_version"] == 1
  assert sorted(restored) == ["ema", "opt_state", "params", "skipped", "skipped_in_a_row", "step"]
  expected = json.loads((folder / "expected.json").read_text())
  total = sum(float(np.abs(x).sum(dtype=np.float64)) for x in jax.tree.leaves(restored["ema"]))
  np.testing.assert_allclose(total, expected["sum of |ema|"], rtol=1e-12)
  half = np.full((1, 4, 4, 1), 0.5, np.float32)
  np.testing.assert_allclose(
    float(model.reconstruct(half).sum()), expected["sum of reconstruct(0.5)"], rtol=1e-4
  )
  assert sum(p.stat().st_size for p in GOLDEN.rglob("*") if p.is_file()) < 100_000


def test_load_falls_back_and_says_so(tmp_path, caplog):
  folder = shutil.copytree(GOLDEN, tmp_path / "run")
  truncate(folder / "checkpoints" / "4")
  assert vae_jax.load(folder).step == 2
  assert len(caplog.records) == 1 and "falling back to step 2" in caplog.text
  with pytest.raises(UserError, match=r"4 is damaged .*; use another step: 2$"):
    vae_jax.load(folder, 4)
  flip(folder / "checkpoints" / "2")
  with pytest.raises(UserError, match="no other can be read"):
    vae_jax.load(folder)


def test_a_hostile_description_of_a_model_is_one_line(tmp_path):
  """A header whose checksums are right, of a model that is none."""
  config = json.loads((GOLDEN / "config.json").read_text())
  assert json.loads(to_json(apply_overrides(base_config(), []))).keys() == config.keys()
  metas = [
    {},
    {"config": []},
    {"config": config},
    {"config": config, "image_shape": 3, "input_shape": [4, 4, 1]},
    {"config": config, "image_shape": [4, 4], "input_shape": [4, 4, 1]},
    {"config": config, "image_shape": ["4", None, {}], "input_shape": [4, 4, 1]},
    {"config": config | {"model": {"hidden": "../../x"}}, "image_shape": [4, 4, 1], "input_shape": [4, 4, 1]},
    {"config": {"a": {"b": 1}}, "image_shape": [4, 4, 1], "input_shape": [4, 4, 1]},
  ]
  folder = shutil.copytree(GOLDEN, tmp_path / "run") / "checkpoints"
  shutil.rmtree(folder / "2")
  (folder / "4").rename(folder / "3")
  body = header(folder) | {"step": 3}
  for meta in metas:
    write_header(folder, body | {"meta": meta})
    with pytest.raises(UserError) as error:
      load(tmp_path / "run")
    assert "\n" not in str(error.value), meta
