"""Checkpoints: what was saved comes back bit for bit, or an error says what is wrong."""

import json
import logging
import shutil
import threading

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding
from said import PATIENCE

from vae_jax.errors import UserError
from vae_jax.storage import checkpoint_arrays, checkpoints, verification
from vae_jax.storage.checkpoints import Checkpoints

META = {
  "config": {"model": {"name": "mlp_vae", "hidden": [512, 256]}},
  "image_shape": [28, 28, 1],
  "jax": "0.10.2",
}


@flax.struct.dataclass
class State:
  step: jax.Array
  params: dict
  ema_params: dict
  opt_state: optax.OptState


def make_state(step=3, seed=0):
  rng = np.random.default_rng(seed)
  params = {
    "encoder": {"kernel": rng.standard_normal((16, 8)).astype(np.float32), "bias": np.zeros(8, np.float32)},
    "empty": np.zeros((0, 4), np.float32),
    "half": rng.standard_normal((8, 2)).astype(jnp.bfloat16),
  }
  params = jax.tree.map(jnp.asarray, params)
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
  _, opt_state = tx.update(params, tx.init(params), params)
  return State(jnp.asarray(step, jnp.int32), params, jax.tree.map(lambda x: x * 2, params), opt_state)


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype and x.shape == y.shape
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """A folder with steps 100 and 200; copy it before harming it."""
  folder = tmp_path_factory.mktemp("run") / "checkpoints"
  with Checkpoints(folder) as store:
    store.save(100, make_state(100, seed=1), meta=META, score=2.0)
    store.save(200, make_state(200, seed=2), meta=META, score=1.0)
  return folder


def mesh():
  return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def test_round_trip_of_a_state_with_an_optimiser(tmp_path):
  state = make_state()
  with Checkpoints(tmp_path / "a" / "b") as store:
    store.save(3, state, meta=META, score=0.5)
  restored, meta = Checkpoints(tmp_path / "a" / "b").restore(like=state)
  assert_same(restored, state)
  assert meta == META | {"step": 3, "score": 0.5, "format_version": verification.FORMAT_VERSION}


def test_without_like_nested_dicts_of_numpy(written):
  restored, _ = Checkpoints(written).restore(100)
  state = make_state(100, seed=1)
  assert set(restored) == {"step", "params", "ema_params", "opt_state"}
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(restored))
  assert_same(restored["params"], jax.tree.map(np.asarray, state.params))
  adam = state.opt_state[1][0]
  assert_same(restored["opt_state"]["1"]["0"]["mu"], jax.tree.map(np.asarray, adam.mu))
  assert restored["step"] == 100 and restored["opt_state"]["1"]["0"]["count"] == 1


def test_a_part_alone(written):
  state = make_state(200, seed=2)
  plain, _ = Checkpoints(written).restore(only="ema_params")
  assert_same(plain, jax.tree.map(np.asarray, state.ema_params))
  placed, _ = Checkpoints(written).restore(only="ema_params", like=state.ema_params)
  assert_same(placed, state.ema_params)
  first, _ = Checkpoints(written).restore(only=("ema", "ema_params"))
  jax.tree.map(np.testing.assert_array_equal, first, plain)
  step, _ = Checkpoints(written).restore(only="step")
  assert step == 200
  with pytest.raises(UserError, match="no part 'ema'; it has ema_params, opt_state, params, step"):
    Checkpoints(written).restore(only="ema")


def test_eight_devices_wrote_one_reads_and_the_other_way_round(tmp_path):
  sharded, replicated = NamedSharding(mesh(), PartitionSpec("data")), NamedSharding(mesh(), PartitionSpec())
  host = {"rows": np.arange(64, dtype=np.float32).reshape(16, 4), "all": np.arange(3, dtype=np.int32)}
  state = {"rows": jax.device_put(host["rows"], sharded), "all": jax.device_put(host["all"], replicated)}
  with Checkpoints(tmp_path) as store:
    store.save(1, state, meta={})
    one = SingleDeviceSharding(jax.devices()[5])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), state)
    store.wait()
    restored, _ = store.restore(like=like)
    assert_same(jax.device_get(restored), host)
    assert all(x.sharding == one for x in jax.tree.leaves(restored))
    store.save(2, restored, meta={})
    store.wait()
    back, _ = store.restore(2, like=state)
    assert_same(jax.device_get(back), host)
    assert back["rows"].sharding == sharded and back["all"].sharding == replicated
    assert_same(store.restore()[0], host)


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
  replicated = NamedSharding(mesh(), PartitionSpec())
  step = jax.jit(lambda x: jax.tree.map(lambda a: a + 1, x), donate_argnums=0)
  with Checkpoints(tmp_path, keep=9) as store:
    state = jax.device_put({"a": np.zeros((512, 512), np.float32), "n": np.zeros((), np.int32)}, replicated)
    for i in range(4):
      store.save(i, state, meta={})
      for _ in range(3):
        previous, state = state, step(state)
      assert previous["a"].is_deleted()
    store.wait()
    for i in range(4):
      restored, _ = store.restore(i, like=state)
      np.testing.assert_array_equal(np.asarray(restored["a"]), np.full((512, 512), 3 * i, np.float32))
      kept = np.array(restored["a"])
      after = step(restored)  # what was restored may be donated as well
      np.testing.assert_array_equal(np.asarray(after["a"]), kept + 1)
      assert {float(s.data[0, 0]) for s in after["a"].addressable_shards} == {3 * i + 1.0}


def test_what_happens_after_save_is_not_saved(tmp_path):
  state = {"x": np.zeros((1000, 1000), np.float32)}
  with Checkpoints(tmp_path) as store:
    store.save(1, state, meta={})
    state["x"] += 1
    store.wait()
    assert not store.restore()[0]["x"].any()


def test_saving_is_in_the_background(tmp_path, monkeypatch):
  original, looked = checkpoints.checksum, threading.Event()
  monkeypatch.setattr(checkpoints, "checksum", lambda path: (looked.wait(PATIENCE), original(path))[1])
  with Checkpoints(tmp_path) as store:
    store.save(1, make_state(), meta={})
    assert store.steps() == [] and store.latest() is None  # still being written
    looked.set()
    store.wait()
    assert store.steps() == [1]


def test_keeps_the_newest_and_the_best(tmp_path):
  scores = {10: 5.0, 20: 1.0, 30: 3.0, 40: float("nan"), 50: -float("inf"), 60: None, 70: 4.0}
  with Checkpoints(tmp_path, keep=2) as store:
    for step, score in scores.items():
      store.save(step, {"x": np.full(3, step)}, meta={}, score=score)
    store.wait()
    assert store.steps() == [20, 60, 70]
    assert (store.best(), store.latest()) == (20, 70)
    assert store.restore(20)[1]["score"] == 1.0 and store.restore(60)[1]["score"] is None
    store.save(80, {"x": np.full(3, 80)}, meta={}, score=1.0)  # as good, and newer
  assert Checkpoints(tmp_path).steps() == [70, 80] and Checkpoints(tmp_path).best() == 80


def test_no_score_no_best(tmp_path):
  with Checkpoints(tmp_path, keep=1) as store:
    for step in (1, 2):
      store.save(step, {"x": np.ones(2)}, meta={}, score=float("nan"))
  assert Checkpoints(tmp_path).best() is None and Checkpoints(tmp_path).steps() == [2]


def test_an_existing_step_is_left_alone_unless_damaged(tmp_path, written):
  folder = shutil.copytree(written, tmp_path / "c")
  new = make_state(200, seed=9)
  with Checkpoints(folder) as store:
    store.save(200, new, meta={})
    store.wait()
    assert_same(store.restore(200, like=new)[0], make_state(200, seed=2))
    (folder / "200" / "manifest.ocdbt").write_bytes(b"")
    store.save(200, new, meta={})
    store.wait()
    assert_same(store.restore(200, like=new)[0], new)
  assert store.steps() == [100, 200]


def test_every_damaged_file_is_noticed(tmp_path, written):
  files = [p.relative_to(written / "200") for p in (written / "200").rglob("*") if p.is_file()]
  assert len(files) > 6
  good = make_state(200, seed=2)
  old = make_state(100, seed=1)
  unused = 0
  for name in files:
    for how in ("delete", "empty", "halve", "flip"):
      folder = tmp_path / f"{name.name}-{how}-{len(name.parts)}"
      shutil.copytree(written, folder)
      file = folder / "200" / name
      data = file.read_bytes()
      middle = len(data) // 2
      if how == "delete":
        file.unlink()
      else:
        flipped = data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
        file.write_bytes({"empty": b"", "halve": data[:middle], "flip": flipped}[how])
      warnings = []
      store = Checkpoints(folder, warn=warnings.append)
      if name.name in verification.UNSEALED:
        assert_same(store.restore(200, like=good)[0], good)
        unused += 1
        continue
      with pytest.raises(UserError, match=r"200 is damaged \(.*; use another step: 100$") as error:
        store.restore(200, like=good)
      assert str(folder) in str(error.value) and "\n" not in str(error.value)
      restored, meta = store.restore(like=good)
      assert_same(restored, old)
      assert meta["step"] == 100
      assert len(warnings) == 1 and "falling back to step 100" in warnings[0]
  assert unused < len(files) * 2


def test_a_checksum_is_not_all_that_stands_between_us_and_garbage(tmp_path, written, monkeypatch):
  """What the library of the arrays cannot read is an error of ours too."""
  folder = shutil.copytree(written, tmp_path / "c")
  (folder / "200" / "manifest.ocdbt").write_text("{")
  monkeypatch.setattr(checkpoints, "verify", verification.read_header)
  with pytest.raises(UserError, match="200 is damaged"):
    Checkpoints(folder).restore(200)


def test_all_damaged(tmp_path, written):
  folder = shutil.copytree(written, tmp_path / "c")
  for step in ("100", "200"):
    (folder / step / "checkpoint.json").write_text("{}")
  with pytest.raises(
    UserError, match=r"200 is damaged \(checkpoint.json cannot be read\); no other can be read"
  ):
    Checkpoints(folder).restore()
  assert Checkpoints(folder).best() is None


def test_by_default_the_fall_back_is_logged(tmp_path, written, caplog):
  folder = shutil.copytree(written, tmp_path / "c")
  (folder / "200" / "checkpoint.json").unlink()
  with caplog.at_level(logging.WARNING):
    Checkpoints(folder).restore()
  assert "checkpoint.json is missing" in caplog.text


def test_a_run_that_fell_back_drops_the_damaged_step(tmp_path, written):
  folder = shutil.copytree(written, tmp_path / "c")
  (folder / "200" / "manifest.ocdbt").unlink()
  with Checkpoints(folder, keep=1, warn=lambda _: None) as store:
    assert store.best() == 200  # nobody has looked inside yet
    _, meta = store.restore()
    assert meta["step"] == 100
    store.save(150, make_state(150), meta={})
  assert store.steps() == [100, 150]  # 100 is the best
  assert store.restore()[1]["step"] == 150


def test_foreign_files_and_leftovers(tmp_path, written):
  folder = shutil.copytree(written, tmp_path / "c")
  (folder / "notes.txt").write_text("mine")
  (folder / "300").write_text("a file, not a folder")
  (folder / "007").mkdir()
  (folder / "best").mkdir()
  (folder / "300.orbax-checkpoint-tmp").mkdir()
  (folder / "50.removed").mkdir()
  reader = Checkpoints(folder)
  assert reader.steps() == [100, 200] and reader.restore()[1]["step"] == 200
  reader.close()
  assert (folder / "300.orbax-checkpoint-tmp").exists()  # a reader deletes nothing
  with Checkpoints(folder) as store:
    store.save(400, make_state(), meta={})
  assert sorted(p.name for p in folder.iterdir()) == ["007", "200", "300", "400", "best", "notes.txt"]


def test_empty_missing_and_unknown(tmp_path, written):
  for folder in (tmp_path, tmp_path / "absent"):
    store = Checkpoints(folder)
    assert store.steps() == [] and store.latest() is None and store.best() is None
    with pytest.raises(UserError, match=r"no checkpoint in .*; train first"):
      store.restore()
    store.wait()
    store.close()
  assert not (tmp_path / "absent").exists()
  with pytest.raises(UserError, match=r"no checkpoint of step 7 in .*; there are 100, 200"):
    Checkpoints(written).restore(7)
  with pytest.raises(UserError, match="keep is 0"):
    Checkpoints(tmp_path, keep=0)


def test_a_newer_format_is_refused(tmp_path, written):
  folder = shutil.copytree(written, tmp_path / "c")
  header = folder / "200" / "checkpoint.json"
  header.write_text(json.dumps(json.loads(header.read_text()) | {"format_version": 99}))
  for step in (None, 200):
    with pytest.raises(UserError, match="format 99, this vae_jax reads up to 1; update vae_jax"):
      Checkpoints(folder).restore(step)
  assert Checkpoints(folder).best() == 100


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda s: s.replace(params=s.params | {"more": jnp.ones(1)}), "lacks params/more"),
    (lambda s: s.replace(params={}), "has params/empty, which this model lacks"),
    (lambda s: s.replace(step=jnp.zeros(2, jnp.int32)), r"step is int32\[\], not int32\[2\]"),
    (lambda s: s.replace(step=jnp.zeros((), jnp.float32)), r"step is int32\[\], not float32\[\]"),
  ],
)
def test_another_model_is_refused(written, change, message):
  with pytest.raises(UserError, match=message + "; use the config that wrote it, or another workdir"):
    Checkpoints(written).restore(like=change(make_state()))


def test_meta_must_be_json(tmp_path):
  with Checkpoints(tmp_path) as store:
    with pytest.raises(TypeError):
      store.save(1, {"x": np.ones(2)}, meta={"a": object()})
    with pytest.raises(ValueError, match="JSON"):
      store.save(1, {"x": np.ones(2)}, meta={"a": float("nan")})
  assert store.steps() == []


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot be written to"), Checkpoints(tmp_path / "file" / "c") as store:
    store.save(1, {"x": np.ones(2)}, meta={})


def test_a_failure_in_the_background_is_reported(tmp_path, monkeypatch):
  def full(path):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(checkpoints, "checksum", full)
  store = Checkpoints(tmp_path)
  store.save(1, {"x": np.ones(2)}, meta={})
  with pytest.raises(UserError, match=r"was not written \(.*No space left on device.*\); free some space"):
    store.wait()
  assert store.steps() == []
  store.close()


def test_a_save_that_stores_something_else_is_not_a_checkpoint(tmp_path, monkeypatch):
  """What was written is read back before it counts."""
  store = Checkpoints(tmp_path)
  store.save(1, {"x": np.arange(3.0)}, meta={})
  store.wait()
  nest = checkpoints.nest
  monkeypatch.setattr(checkpoints, "nest", lambda flat: nest({name: x + 1 for name, x in flat.items()}))
  store.save(2, {"x": np.arange(3.0)}, meta={})
  with pytest.raises(UserError, match=r"2 was not written \(x is not stored as it was\).*is of step 1$"):
    store.wait()
  assert store.steps() == [1] and [p.name for p in tmp_path.iterdir()] == ["1"]


def test_a_trial_that_cannot_be_read_again_is_refused(tmp_path, monkeypatch):
  def unreadable(path, arrays):
    raise verification.Damaged("not there")

  monkeypatch.setattr(checkpoints, "compare_stored", unreadable)
  folder = tmp_path / "checkpoints"
  with pytest.raises(UserError, match=rf"cannot be written to {folder} \(not there\)"):
    Checkpoints(folder).try_out({"x": np.zeros(2)})
  assert not folder.exists()


def test_arrays_that_a_save_did_not_merge_are_read_all_the_same(tmp_path, written):
  """As Orbax left them in a folder whose name is a pattern: runs/a[1]."""
  folder = shutil.copytree(written / "200", tmp_path / "200")
  record = verification.read_header(folder)["arrays"]
  merged = checkpoint_arrays.read_stored(folder, record)
  (folder / "manifest.ocdbt").unlink()
  shutil.rmtree(folder / "d")
  assert_same(checkpoint_arrays.read_stored(folder, record), merged)
