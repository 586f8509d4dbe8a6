"""Flags -> a checked config or request; mistakes -> one line on standard error and status 2."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vae_jax
from vae_jax import cli
from vae_jax.cli import main as command_line
from vae_jax.commands import command
from vae_jax.configuration import apply_overrides, base_config, every_key, keys_of, to_json
from vae_jax.errors import UserError
from vae_jax.storage import exported as pretrained
from vae_jax.training.stopping import Stopped

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
  """Every test in an empty folder with one config."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "tiny.py").write_text(
    "from vae_jax.configuration import base_config\ndef get_config():\n  config = base_config()\n"
    "  config.training.steps = 7\n  return config\n"
  )


@pytest.fixture
def workdir(tmp_path):
  folder = tmp_path / "runs" / "a"
  folder.mkdir(parents=True)
  (folder / "config.json").write_text(to_json(apply_overrides(base_config(), ["evaluation.samples=9"])))
  return folder


def _fails(capsys, parse, argv):
  """The one line that `argv` ends with."""
  with pytest.raises(SystemExit) as end:
    cli.run(lambda: parse(argv))
  out, err = capsys.readouterr()
  assert end.value.code == 2 and out == ""
  assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
  return err


def test_train_defaults():
  args = cli.parse_train([])
  assert args.config.data.name == "digits" and args.workdir == Path("runs/mnist_vae") and args.overrides == []


def test_train_flags(monkeypatch):
  argv = "--config configs/tiny.py --config.training.seed=3 --config.model.hidden 8,8 --config.data.flip true"
  args = cli.parse_train([*argv.split(), "--config.training.warmup_steps", "0"])
  assert args.workdir == Path("runs/tiny") and args.config.is_locked
  assert (args.config.training.steps, args.config.training.seed) == (7, 3)
  assert args.config.model.hidden == (8, 8) and args.config.data.flip is True
  assert args.overrides == [
    "training.seed=3",
    "model.hidden=8,8",
    "data.flip=true",
    "training.warmup_steps=0",
  ]
  assert cli.parse_train(["--config=configs/tiny.py", "--workdir=x/y"]).workdir == Path("x/y")
  monkeypatch.setenv("HOME", "/home/me")
  args = cli.parse_train(["--workdir=~/x", "--config.data.dir=~/y"])
  assert (str(args.workdir), args.config.data.dir) == ("/home/me/x", "/home/me/y")


def test_a_config_by_name_is_of_this_folder_or_of_the_package():
  """tiny lies in configs/ of the current folder; mnist_conv comes with vae_jax, also as configs/mnist_conv.py."""
  args = cli.parse_train(["--config", "tiny"])
  assert args.config.training.steps == 7 and args.workdir == Path("runs/tiny")
  for name in ("mnist_conv", "configs/mnist_conv.py"):
    args = cli.parse_train(["--config", name])
    assert args.config.model.name == "conv_vae" and args.workdir == Path("runs/mnist_conv")
  Path("configs/mnist_conv.py").write_text(Path("configs/tiny.py").read_text())
  assert cli.parse_train(["--config", "mnist_conv"]).config.training.steps == 7


def test_train_reads_sys_argv(monkeypatch):
  monkeypatch.setattr(sys, "argv", ["train.py", "--config.training.steps=11"])
  assert cli.parse_train().config.training.steps == 11


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    ("--confg x", "unknown flag '--confg'; did you mean '--config'?"),
    ("--work_dir=x", "unknown flag '--work_dir'; did you mean '--workdir'?"),
    ("--conf configs/tiny.py", "unknown flag '--conf'"),
    ("--training.steps=3", "did you mean '--config.training.steps'?"),
    ("--latent_dim=3", "did you mean '--config.model.latent_dim'?"),
    ("--learning-rate 1", "did you mean '--config.training.learning_rate'?"),
    ("-q", "unknown flag '-q'"),
    ("training.steps=3", "unexpected argument 'training.steps=3'"),
    ("--workdir", "argument --workdir: expected one argument"),
    ("--config nope.py", "there is no config file 'nope.py'"),
    ("--config tinny", "there is no config 'tinny'; did you mean 'tiny'?"),
    ("--config other/tiny.py", "there is no config file 'other/tiny.py'; did you mean 'tiny'?"),
    ("--config zzz", "there is no config 'zzz'; 'vae-jax configs' lists those that have a name"),
    ("--resume", "unknown flag '--resume'; to resume a run, run the same command again"),
    ("--epochs=3", "give --config.training.steps=N"),
    ("--zzz", "unknown flag '--zzz'; known flags: --config, --coordinator"),
    ("--config.training.stepss=3", "did you mean 'training.steps'?"),
    ("--config.training.steps", "--config.training.steps has no value"),
    ("--config.data.flip --workdir x", "--config.data.flip has no value"),
    ("--config.training.steps=many", "training.steps='many' must be a 31-bit integer"),
    ("--config.training.steps -3", "training.steps=-3 must be > 0"),
    ("--config.model.name=gan", "model.name='gan' is not a model; known models: "),
    (
      "--config.model.channels=8",
      "model.channels is a key of conv_vae, restoration_vae, transformation_net",
    ),
    (
      "--config.model.unshuffle=2 --config.model.name=conv_vae",
      "model.unshuffle is a key of restoration_vae, not of conv_vae",
    ),
    ("--unshuffle=2", "did you mean '--config.model.unshuffle'?"),
    ("--workdir configs/tiny.py", "configs/tiny.py is a file"),
    ("--workdir configs/tiny.py/run", "configs/tiny.py is a file"),
    ("--help --confg x", "unknown flag '--confg'"),
  ],
)
def test_bad_train_flags(capsys, argv, message):
  assert message in _fails(capsys, cli.parse_train, argv.split())


def test_train_help_shows_the_config(capsys):
  for argv, steps in (["--help"], "6000"), (["--config", "configs/tiny.py", "-h"], "7"):
    with pytest.raises(SystemExit) as end:
      cli.parse_train(argv)
    out = capsys.readouterr().out
    assert end.value.code == 0 and "--workdir DIR" in out and "usage: python train.py" in out
    assert f"--config.training.steps={steps}  (default 2000)" in out
    for key, (_, meaning, _) in keys_of("mlp_vae").items():
      assert f"--config.{key}=" in out and meaning in " ".join(out.split())
    assert not [key for key in set(every_key()) - set(keys_of("mlp_vae")) if f"--config.{key}=" in out]


def test_train_help_shows_the_keys_of_the_family_that_is_asked_for(capsys):
  with pytest.raises(SystemExit):
    cli.parse_train(["--help", "--config.model.name=restoration_vae"])
  out = capsys.readouterr().out
  assert "--config.model.unshuffle=1" in out and "--config.objective.restoration=" in out
  assert "--config.model.name=restoration_vae  (default" not in out and "--config.model.hidden=" not in out


def test_evaluate_defaults_come_from_the_run(workdir):
  args = cli.parse_evaluate(["--workdir", str(workdir)])
  assert (args.mode, args.model, args.checkpoint, args.method) == ("score", workdir, "newest", "spherical")
  assert args.folder == workdir / "evaluation" and args.config.evaluation.samples == 9
  assert (args.samples, args.batch_size, args.split, args.num, args.seed) == (9, 256, "test", 64, 0)
  assert args.temperature == 1.0 and args.output is None and args.input is None
  assert cli.parse_evaluate(["--workdir", str(workdir), "--mode", "interpolate"]).num == 8


def test_evaluate_flags(workdir):
  def parse(text):
    return cli.parse_evaluate(["--workdir", "runs/a", *text.split()])

  args = parse("--mode sample --num 3 --temperature 0 --seed 5 --output x.png")
  assert (args.num, args.temperature, args.seed, args.output) == (3, 0.0, 5, "x.png")
  args = parse("--samples 0 --split train[:10] --batch_size 2 --checkpoint 0")
  assert (args.samples, args.split, args.batch_size, args.checkpoint) == (0, "train[:10]", 2, 0)
  args = parse("--mode reconstruct --input configs runs --checkpoint best")
  assert args.input == [Path("configs"), Path("runs")] and args.checkpoint == "best"
  assert parse("--mode interpolate --method linear --input configs").method == "linear"
  args = parse("--mode restore --input configs runs --samples 3 --tile 16 --ensemble --output x")
  assert (args.input, args.samples, args.tile) == ([Path("configs"), Path("runs")], 3, 16)
  assert (args.ensemble, args.output, args.data_dir, args.lpips) == (True, "x", None, None)
  assert parse("--data_dir y").data_dir == "y"
  args = parse("--mode restore --input configs/tiny.py --output x.jpg")
  assert (args.samples, args.tile, args.ensemble, args.output) == (0, 256, False, "x.jpg")
  args = parse("--mode benchmark --input configs --lpips squeezenet --output x.JSON")
  assert (args.num, args.samples, args.lpips, args.output) == (None, 0, "squeezenet", "x.JSON")
  assert parse("--mode benchmark --input configs --num 2 --seed 4").num == 2
  words = ["--workdir", "runs/a", "--mode", "benchmark", "--input", "configs", "--degrade"]
  assert cli.parse_evaluate([*words, " noise  25;round "]).degrade == "noise 25; round"
  assert parse("--mode export --output x").output == "x" and parse("--mode export").bits == 32
  assert parse("--mode export --bits 8").bits == 8


def models(tmp_path, monkeypatch, *names):
  """Folders that pass for pretrained models."""
  monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "models")
  for name in names:
    (tmp_path / "models" / name).mkdir(parents=True)
    (tmp_path / "models" / name / pretrained.WEIGHTS).write_bytes(b"")


def test_evaluate_a_model_of_the_project(tmp_path, monkeypatch, capsys):
  """--pretrained NAME: its config and place, results under evaluation/NAME; mistakes in one line."""
  monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "models")
  config = apply_overrides(base_config(), ["evaluation.samples=7"]).to_dict()
  meta = {"config": config, "image_shape": [4, 4, 1], "input_shape": [4, 4, 1], "step": 1}
  pretrained.save(tmp_path / "models" / "superres", {"w": np.zeros(2, np.float32)}, meta)
  args = cli.parse_evaluate(["--pretrained", "superres", "--mode", "score"])
  assert (args.model, args.folder) == (tmp_path / "models" / "superres", Path("evaluation/superres"))
  assert args.samples == 7 and args.config.is_locked
  parse = cli.parse_evaluate
  assert "is unknown; did you mean 'superres'?" in _fails(capsys, parse, ["--pretrained", "supperes"])
  words = ["--pretrained", "superres", "--mode", "export"]
  assert "models/superres is exported already" in _fails(capsys, parse, words)
  args = parse(["--workdir", "models/superres"])  # an exported folder is as good as a run
  assert (args.model, args.folder) == (Path("models/superres"), Path("models/superres/evaluation"))
  assert args.samples == 7
  (tmp_path / "models" / "superres" / "config.json").write_text("{}")
  assert "does not describe a model" in _fails(capsys, parse, ["--pretrained", "superres", "--mode", "score"])


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (
      "",
      "or --pretrained is required: give the folder of a run, or the name of a model (new); runs here: runs/a",
    ),
    ("--workdir runs/a --pretrained x", "--workdir and --pretrained exclude one another"),
    ("--pretrained nothing_like_it", "--pretrained nothing_like_it is unknown"),
    ("--pretrained new", "--pretrained new needs --mode, such as --mode restore --input photo.jpg"),
    ("--workdir runs/b", "--workdir runs/b is not a run: it has no config.json; runs here: runs/a"),
    ("--workdir runs/a --mode restored", "invalid choice: 'restored'"),
    ("--workdir runs/a --mode restore", "--mode restore needs --input: your image files or folders"),
    ("--workdir runs/a --mode benchmark", "--mode benchmark needs --input"),
    (
      "--workdir runs/a --mode benchmark --input configs runs",
      "--input configs runs: --mode benchmark takes one",
    ),
    ("--workdir runs/a --mode benchmark --input configs/tiny.py", "--mode benchmark takes one folder"),
    (
      "--workdir runs/a --mode benchmark --input configs --output x.png",
      "'x.png' must be the name of a .json",
    ),
    (
      "--workdir runs/a --mode benchmark --input configs --degrade nois",
      "--degrade: step 1, 'nois': 'nois' is not",
    ),
    (
      "--workdir runs/a --mode sample --degrade round",
      "--degrade has no effect in --mode sample, only in benchmark",
    ),
    ("--workdir runs/a --mode restore --input no", "--input no does not exist"),
    ("--workdir runs/a --mode restore --input configs --tile 15", "--tile: '15' must be an integer >= 16"),
    (
      "--workdir runs/a --mode restore --input configs --lpips vgg16",
      "--lpips has no effect in --mode restore",
    ),
    ("--workdir runs/a --mode restore --input configs --num 3", "--num has no effect in --mode restore"),
    ("--workdir runs/a --mode restore --input configs --split x", "--split has no effect in --mode restore"),
    (
      "--workdir runs/a --tile 32",
      "--tile has no effect in --mode score, only in restore or benchmark; leave it out",
    ),
    ("--workdir runs/a --mode restore --input configs --scale 2", "--scale has no effect on a model that is"),
    ("--workdir runs/a --scale 2", "--scale has no effect in --mode score, only in restore; leave it out"),
    ("--pretrained auto --mode restore --input configs --scale 3", "--scale: invalid choice: 3 (choose from"),
    ("--pretrained auto --mode benchmark --input configs", "name a model instead (new)"),
    ("--pretrained auto", "--pretrained auto needs --mode, such as --mode restore"),
    ("--pretrained auto --mode restore", "--mode restore needs --input"),
    ("--pretrained auto --mode restore --input configs --checkpoint 3", "--checkpoint has no effect with"),
    ("--pretrained auto --mode restore --input configs --sigma 25", "--sigma needs the name of a model that"),
    ("--pretrained atuo --mode restore --input configs", "is unknown; did you mean 'auto'?"),
    ("--workdir runs/a --ensemble", "--ensemble has no effect in --mode score"),
    (
      "--workdir runs/a --num 3",
      "--num has no effect in --mode score, only in sample, encode, reconstruct, complete and 12 others; "
      "give a part of a split, such as --split 'test[:3]'",
    ),
    ("--workdir runs/a --lpips resnet", "--lpips: invalid choice: 'resnet'"),
    ("--workdir runs/a --temperature 1", "--temperature has no effect in --mode score, only in"),
    (
      "--workdir runs/a --mode restore --input configs --temperature 1",
      "--temperature has no effect without draws; give --samples N, or leave it out",
    ),
    ("--workdir runs/a --mode sample --samples 0", "--samples has no effect in --mode sample"),
    ("--workdir runs/a --mode export --seed 0", "--seed has no effect in --mode export"),
    ("--workdir runs/a --mode export --bits 4", "--bits: invalid choice: 4 (choose from"),
    ("--workdir runs/a --bits 8", "--bits has no effect in --mode score, only in export; leave it out"),
    ("--workdir runs/a --mode reconstruct --method linear", "--method has no effect in --mode reconstruct"),
    ("--workdir runs/a --method cubic", "invalid choice: 'cubic'"),
    ("--workdir runs/a --num 0", "--num: '0' must be an integer >= 1"),
    ("--workdir runs/a --num 2.5", "--num: '2.5' must be an integer >= 1"),
    ("--workdir runs/a --num 9999999999", "--num: '9999999999' must be an integer"),
    ("--workdir runs/a --temperature -0.1", "--temperature: '-0.1' must be a number >= 0"),
    ("--workdir runs/a --temperature nan", "--temperature: 'nan' must be a number >= 0"),
    ("--workdir runs/a --temperature inf", "--temperature: 'inf' must be a number >= 0"),
    ("--workdir runs/a --samples -1", "--samples: '-1' must be an integer >= 0"),
    ("--workdir runs/a --batch_size 0", "--batch_size: '0' must be an integer >= 1"),
    ("--workdir runs/a --seed x", "--seed: 'x' must be an integer >= 0"),
    ("--workdir runs/a --checkpoint newst", "--checkpoint: 'newst' must be newest, best or a step"),
    ("--workdir runs/a --checkpoint -1", "--checkpoint"),
    ("--workdir runs/a --split=", "--split '' must be"),
    ("--workdir runs/a --batchsize 3", "unknown flag '--batchsize'; did you mean '--batch_size'?"),
    ("--workdir runs/a --config.training.steps=3", "unknown flag '--config.training.steps'"),
    ("--workdir runs/a --mode sample --input configs", "--input has no effect in --mode sample"),
    ("--workdir runs/a --mode reconstruct --input no.png", "--input no.png does not exist"),
    ("--workdir runs/a --mode reconstruct --input", "--input: expected at least one argument"),
    ("--workdir runs/a --output x.png", "--output has no effect in --mode score"),
    ("--workdir runs/a --mode sample --output x.jpg", "--output 'x.jpg' must be the name of a .png file"),
    ("--workdir runs/a --mode sample --output runs", "--output runs is not empty; name a new or an empty"),
    ("--workdir runs/a --mode sample --output configs/tiny.py/", "--output configs/tiny.py is a file"),
    ("--workdir runs/a --mode sample --batch_size 3", "--batch_size has no effect on one picture"),
    ("--workdir runs/a --mode encode --output x", "--output 'x' must be the name of a .npz file"),
    ("--workdir runs/a --mode reconstruct --output runs", "--output 'runs' must be"),
  ],
)
def test_bad_evaluate_flags(workdir, tmp_path, monkeypatch, capsys, argv, message):
  models(tmp_path, monkeypatch, "new")
  assert message in _fails(capsys, cli.parse_evaluate, argv.split())


def test_a_model_chosen_by_the_photograph(tmp_path, monkeypatch, capsys):
  models(tmp_path, monkeypatch, "new")
  words = ["--pretrained", "auto", "--input", "configs"]
  args = cli.parse_evaluate(words, "restore", "vae-jax restore")
  assert (args.model, args.scale, args.tile, args.samples) == (None, 1, 256, 0)
  assert args.folder == Path("evaluation/auto")
  assert cli.parse_evaluate([*words, "--mode", "restore", "--scale", "4"]).scale == 4
  models(tmp_path / "none", monkeypatch)
  assert "there are no models in" in _fails(capsys, cli.parse_evaluate, [*words, "--mode", "restore"])


def test_evaluate_without_any_run(capsys):
  assert "train one first" in _fails(capsys, cli.parse_evaluate, ["--workdir", "runs/a"])


def test_a_long_list_of_runs_is_cut(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  for i in range(20):
    (tmp_path / "runs" / f"r{i}").mkdir(parents=True)
    (tmp_path / "runs" / f"r{i}" / "config.json").write_text("{}")
  assert "runs/r15 and 12 more" in _fails(capsys, cli.parse_evaluate, ["--workdir", "runs/a"])


def test_a_workdir_like_a_flag_is_given_by_an_equals_sign():
  from vae_jax.cli import train

  assert [train._word(x) for x in ("runs/a", "-a", "a b")] == [" runs/a", "=-a", " 'a b'"]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b'{"training": {"warp": 1}}'])
def test_evaluate_refuses_a_damaged_config(workdir, capsys, content):
  (workdir / "config.json").write_bytes(content)
  assert "runs/a/config.json" in _fails(capsys, cli.parse_evaluate, ["--workdir", "runs/a"])


def test_evaluate_help(tmp_path, monkeypatch, capsys):
  models(tmp_path, monkeypatch, "clear_skies", "superres_x9")
  with pytest.raises(SystemExit) as end:
    cli.parse_evaluate(["--help"])
  out = capsys.readouterr().out
  assert end.value.code == 0
  assert "pretrained models: clear_skies, superres_x9\n" in out
  after = out.split("\nmodes:\n")[1].splitlines()
  assert [line.split()[0] for line in after if re.match("  [a-z]", line)][: len(cli.MODES)] == list(cli.MODES)
  at = next(i for i, line in enumerate(after) if line.startswith("  sample "))
  flags = " ".join(after[at + 1 :]).split()
  assert flags[: len(command("sample").FLAGS)] == [f"--{flag}" for flag in command("sample").FLAGS]
  examples = out.split("examples:\n")[1].splitlines()
  assert len(examples) == 3 and "--mode restore --pretrained superres_x2" in examples[2]
  assert "evaluation/NAME" in out.split("--output PATH  ")[1].split("--num")[0]
  for flag in ("workdir", "mode", "num", "output", "temperature", "samples", "seed", "split", "batch_size"):
    assert f"--{flag} " in out
  for flag in (
    "checkpoint",
    "method",
    "input",
    "pretrained",
    "data_dir",
    "tile",
    "ensemble",
    "lpips",
  ):
    assert f"--{flag} " in out


def test_a_command_of_one_mode_shows_its_own_flags_and_knows_the_others(workdir, capsys):
  with pytest.raises(SystemExit):
    cli.parse_evaluate(["--help"], "export", "vae-jax export")
  out = capsys.readouterr().out
  assert "usage: vae-jax export" in out and "--output" in out and "--tile" not in out and "--mode" not in out

  def parse(argv):
    return cli.parse_evaluate(argv, "sample", "vae-jax sample")

  assert parse(["--workdir", "runs/a"]).mode == "sample"
  assert "--tile has no effect in sample" in _fails(capsys, parse, ["--workdir", "runs/a", "--tile", "32"])
  assert "vae-jax sample --help lists the flags" in _fails(capsys, parse, ["--workdir"])


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    ([], ["usage: vae-jax", *command_line.COMMANDS, "superres_x2", "examples:"]),
    (["--help"], ["usage: vae-jax", *command_line.COMMANDS, "superres_x2", "examples:"]),
    (["--version"], [f"vae_jax {vae_jax.__version__}"]),
    (["train", "--help"], ["usage: vae-jax train", "--workdir DIR", "--config.training.steps=6000"]),
    (["evaluate", "--help"], ["usage: vae-jax evaluate", "--mode"]),
    (["configs", "--help"], ["usage: vae-jax configs"]),
    *[([mode, "--help"], [f"usage: vae-jax {mode}", f"  vae-jax {mode} "]) for mode in cli.MODES],
  ],
)
def test_help_of_the_console_command(capsys, argv, words):
  with pytest.raises(SystemExit) as end:
    cli.run(lambda: command_line.main(argv))
  out, err = capsys.readouterr()
  assert (end.value.code, err) == (0, "") and all(word in out for word in words)


def test_the_console_command_lists_configs_and_refuses_what_it_does_not_know(workdir, capsys):
  command_line.main(["configs"])
  out = capsys.readouterr().out
  assert re.search(r"^mnist_conv +A convolutional VAE", out, re.MULTILINE) and re.search(
    "^tiny *$", out, re.MULTILINE
  )
  assert "vae-jax has no command sampel; did you mean 'sample'?" in _fails(
    capsys, command_line.main, ["sampel"]
  )
  assert "vae-jax needs a command before --pretrained, such as 'vae-jax restore --pretrained" in _fails(
    capsys, command_line.main, ["--pretrained", "superres_x2"]
  )
  assert "unknown flag '--x'" in _fails(capsys, command_line.main, ["configs", "--x"])
  assert "unknown flag '--resume'" in _fails(capsys, command_line.main, ["train", "--resume"])
  assert "restore needs --input" in _fails(capsys, command_line.main, ["restore", "--workdir", "runs/a"])


def test_run_passes_success_and_squashes_newlines(capsys):
  cli.run(lambda: None)

  def fail():
    raise UserError("first\n  second\r\nthird")

  with pytest.raises(SystemExit) as end:
    cli.run(fail)
  assert end.value.code == 2 and capsys.readouterr().err == "error: first second third\n"


def test_run_on_an_interrupt_and_on_a_bug(capsys, monkeypatch):
  monkeypatch.setattr(os, "_exit", sys.exit)

  def raises(error):
    def main():
      raise error

    return main

  with pytest.raises(SystemExit) as end:
    cli.run(raises(KeyboardInterrupt()))
  assert end.value.code == 130 and capsys.readouterr().err.count("\n") == 1
  with pytest.raises(SystemExit) as end:
    cli.run(raises(Stopped("stopped at step 3", 143)))
  assert end.value.code == 143 and capsys.readouterr().err == "stopped at step 3\n"
  with pytest.raises(ZeroDivisionError):
    cli.run(raises(ZeroDivisionError()))


def test_a_process_ends_with_one_line_and_status_2():
  code = "from vae_jax import cli; cli.run(cli.parse_train)"
  environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}

  def call(*argv):
    return subprocess.run(
      [sys.executable, "-c", code, *argv], capture_output=True, text=True, env=environment
    )

  done = call("--confg", "x")
  assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
  done = call("--help")
  assert (done.returncode, done.stderr) == (0, "") and "--config.training.steps=6000" in done.stdout
