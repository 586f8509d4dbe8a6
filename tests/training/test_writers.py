"""Logs: rows are exact, a resumed run leaves none twice, and TensorBoard files hold what was written."""

import io
import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vae_jax.configuration import base_config
from vae_jax.errors import UserError
from vae_jax.training.writers import TIMES, MetricsLog, Writers


def rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def events(folder):
  """What the event files hold, read by the layout of TFRecord: length, its CRC, data, its CRC."""
  from tensorboardX.proto import event_pb2

  found = []
  for path in sorted(folder.iterdir()):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
      data = data[16 + length :]
  return found


def test_a_row(tmp_path):
  log = MetricsLog(tmp_path / "new" / "metrics.jsonl")
  third = np.float32(1 / 3)
  log.write(7, "train", {"rate": 0.1, "distortion": 1e300, "loss": third, "mse": jnp.float32(2)}, 1.23456)
  text = log.path.read_text()  # before it is closed: a row is on disk at once
  log.close()
  assert text == (
    '{"step": 7, "split": "train", "distortion": 1e+300, "loss": 0.3333333432674408, "mse": 2.0, '
    '"rate": 0.1, "seconds": 1.235}\n'
  )
  assert rows(log.path)[0]["loss"] == float(third)


def test_non_finite_metrics_are_null_and_named(tmp_path):
  log = MetricsLog(tmp_path / "metrics.jsonl")
  log.write(1, "train", {"b": float("nan"), "c": 1.0, "a": -float("inf")}, 0)
  (row,) = rows(log.path)
  assert list(row) == ["step", "split", "a", "b", "c", "nonfinite", "seconds"]
  assert (row["a"], row["b"], row["c"], row["nonfinite"]) == (None, None, 1.0, ["a", "b"])
  log.close()


@pytest.mark.parametrize("name", ["step", "split", "nonfinite", *TIMES])
def test_a_metric_may_not_take_the_name_of_a_column(tmp_path, name):
  log = MetricsLog(tmp_path / "metrics.jsonl")
  with pytest.raises(ValueError, match=f"'{name}'"):
    log.write(1, "train", {name: 1.0}, 0)
  log.close()
  assert not rows(log.path)


def write(path, steps, resume_step=None):
  log = MetricsLog(path, resume_step)
  for step in steps:
    log.write(step, "train", {"loss": step / 10}, 0)
    log.write(step, "validation", {"neg_elbo": step / 10}, 0)
  log.close()


def test_a_resumed_run_leaves_the_file_of_an_uninterrupted_one(tmp_path):
  write(tmp_path / "whole", [10, 20, 30, 40])
  write(tmp_path / "cut", [10, 20, 30])
  with (tmp_path / "cut").open("a") as file:
    file.write('{"step": 40, "spl')  # killed while writing
  write(tmp_path / "cut", [30, 40], resume_step=20)
  assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()
  assert {p.name for p in tmp_path.iterdir()} == {"cut", "whole"}
  write(tmp_path / "cut", [10], resume_step=0)
  assert [row["step"] for row in rows(tmp_path / "cut")] == [10, 10]


@pytest.mark.parametrize("tail", ['{"step": 3', "\x00\x00\x00", "{}\n", "3\n"])
def test_a_torn_last_row_is_dropped(tmp_path, tail):
  path = tmp_path / "metrics.jsonl"
  write(path, [1, 2])
  whole = path.read_bytes()
  path.write_bytes(whole + tail.encode())
  MetricsLog(path).close()
  assert path.read_bytes() == whole


def test_a_whole_row_without_its_line_end_stays(tmp_path):
  path = tmp_path / "metrics.jsonl"
  write(path, [1, 2])
  whole = path.read_bytes()
  path.write_bytes(whole.rstrip())
  write(path, [3])
  assert path.read_bytes().startswith(whole) and [r["step"] for r in rows(path)] == [1, 1, 2, 2, 3, 3]


def test_an_unharmed_file_is_not_rewritten(tmp_path):
  path = tmp_path / "m"
  write(path, [1, 2])
  whole, inode = path.read_bytes(), path.stat().st_ino
  write(path, [3], resume_step=2)
  assert path.read_bytes().startswith(whole) and path.stat().st_ino == inode


def test_what_is_not_ours_is_refused(tmp_path):
  path = tmp_path / "metrics.jsonl"
  write(path, [1])
  path.write_text("garbage\n" + path.read_text())
  before = path.read_text()
  with pytest.raises(UserError, match=r"metrics.jsonl line 1 is not a row of metrics; delete that line"):
    MetricsLog(path, resume_step=1)
  assert path.read_text() == before
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"cannot write .*file/metrics.jsonl \(.*\); choose another workdir"):
    MetricsLog(tmp_path / "file" / "metrics.jsonl")


def test_writers(tmp_path, capsys):
  picture = np.random.default_rng(0).integers(0, 256, (20, 30, 1), np.uint8)
  colour = np.repeat(picture, 3, axis=2)
  with Writers(tmp_path / "run", 0, 100, 8) as out:
    out.scalars(50, "train", {"loss": np.float32(0.25), "bad": float("nan")}, 1.0)
    out.image(50, "samples", picture)
    out.image(50, "reconstructions", colour)
    out.progress(100, loss=0.25)
  assert rows(tmp_path / "run" / "metrics.jsonl")[0]["loss"] == 0.25
  with Image.open(tmp_path / "run" / "images" / "samples_0000050.png") as image:
    np.testing.assert_array_equal(np.asarray(image), picture[..., 0])
  values = {v.tag: (e.step, v) for e in events(tmp_path / "run" / "tensorboard") for v in e.summary.value}
  assert set(values) == {"train/loss", "samples", "reconstructions"}
  assert values["train/loss"][0] == 50 and values["train/loss"][1].simple_value == 0.25
  with Image.open(io.BytesIO(values["reconstructions"][1].image.encoded_image_string)) as image:
    np.testing.assert_array_equal(np.asarray(image), colour)
  with Image.open(io.BytesIO(values["samples"][1].image.encoded_image_string)) as image:
    np.testing.assert_array_equal(np.asarray(image.convert("L")), picture[..., 0])
  assert "step 100/100, loss 0.25" in capsys.readouterr().err


def test_rows_of_training_have_their_speed(tmp_path):
  with Writers(tmp_path, 0, 100, 8) as out:
    out.scalars(50, "train", {"loss": 1.0}, 1.0, waiting=0.25)
    out.scalars(50, "validation", {"loss": 1.0}, 1.0)
  train, validation = rows(tmp_path / "metrics.jsonl")
  assert list(train)[-3:] == list(TIMES) and train["images_per_second"] > 0 and train["waiting"] == 0.25
  assert list(validation)[-2:] == ["loss", "seconds"]
  tags = [v.tag for e in events(tmp_path / "tensorboard") for v in e.summary.value]
  assert tags == ["train/loss", "train/waiting", "train/images_per_second", "validation/loss"]


def test_tensorboard_has_the_config_as_hyperparameters(tmp_path):
  """By the protocol of TensorBoard's plugin `hparams`: once a run, with its scalars as metrics."""
  from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

  for resume in (0, 10):
    with Writers(tmp_path, resume, 100, 8, config=base_config(), parameters=1234) as out:
      out.scalars(resume + 10, "train", {"loss": 1.0}, 1.0)
  found = [
    v for e in events(tmp_path / "tensorboard") for v in e.summary.value if v.metadata.plugin_data.plugin_name
  ]
  assert [v.tag for v in found] == ["_hparams_/experiment", "_hparams_/session_start_info"]
  data = [HParamsPluginData.FromString(v.metadata.plugin_data.content) for v in found]
  assert [info.name.tag for info in data[0].experiment.metric_infos] == ["train/loss", "validation/loss"]
  values = data[1].session_start_info.hparams
  assert values["parameters"].number_value == 1234 and values["model.name"].string_value == "mlp_vae"
  assert (
    values["training.learning_rate"].number_value == 1e-3 and values["data.size"].string_value == "(0, 0)"
  )


def test_writers_resume(tmp_path):
  for resume, steps in ((0, (10, 20, 30)), (20, (30, 40))):
    with Writers(tmp_path, resume, 100, 8) as out:
      for step in steps:
        out.scalars(step, "train", {"loss": 1.0}, 1.0)
  assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == [10, 20, 30, 40]
  starts = [e.step for e in events(tmp_path / "tensorboard") if e.HasField("session_log")]
  assert starts == [21]  # TensorBoard forgets what it had from there on


def test_other_processes_write_nothing(tmp_path, capsys):
  with Writers(tmp_path / "run", 0, 100, 8, enabled=False) as out:
    out.scalars(1, "train", {"loss": 1.0}, 1.0)
    out.image(1, "samples", np.zeros((4, 4, 1), np.uint8))
    out.progress(100)
  assert not (tmp_path / "run").exists() and not capsys.readouterr().err
