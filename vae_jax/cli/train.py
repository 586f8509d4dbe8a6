"""`vae-jax train`, and train.py of the checkout: flags -> config and workdir -> a trained run."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from vae_jax import configuration as configs
from vae_jax.cli.flags import Parser, number, path, print_and_exit
from vae_jax.errors import UserError
from vae_jax.progress import patience, tell

SCRIPT = "python train.py"
RUNS = Path("runs")
# What to say about flags that other programs have.
ANSWERS = {
  "resume": "to resume a run, run the same command again: it continues the run that is in the workdir",
  "epochs": "training is counted in steps of one batch: give --config.training.steps=N",
  "lr": "did you mean '--config.training.learning_rate'?",
  "gpus": "all visible devices are used; choose some by the environment variable CUDA_VISIBLE_DEVICES",
  "device": "all visible devices are used; JAX_PLATFORMS=cpu in the environment uses the CPU alone",
  "data_dir": "did you mean '--config.data.dir'?",
  "dataset": "did you mean '--config.data.name'?",
  "output": "did you mean '--workdir'?",
}


def main(argv: Sequence[str] | None = None, prog: str = SCRIPT) -> None:
  """Trains; `prog` is the command as the user typed it, for messages. Raises UserError."""
  with patience("loading ..."):
    args = parse_train(argv, prog)
    import jax  # after parsing, so that --help and mistakes are answered at once

    from vae_jax.training import parallel
    from vae_jax.training.loop import train

  with parallel.processes(*args.processes):
    train(args.config, args.workdir)
  if jax.process_index() == 0:
    scores = "python evaluate.py" if prog == SCRIPT else "vae-jax evaluate"
    tell(f"trained: {args.workdir}; next: {scores} --workdir{_word(str(args.workdir))}")


def _word(value: str) -> str:
  """A flag's value as a shell takes it; one that begins with "-" would be read as a flag, unless "=" precedes it."""
  return f"{'=' if value.startswith('-') else ' '}{shlex.quote(value)}"


def parse_train(argv: Sequence[str] | None = None, prog: str = SCRIPT) -> argparse.Namespace:
  """`config` (locked, validated), `workdir` (Path), `overrides` (list of "a.b=value") of a training command, and
  `processes`, for `training.parallel.processes`.

  `--help` prints the flags and every key of the config, and ends with status 0. Raises UserError.
  """
  parser = Parser(prog, "Train a VAE in a workdir, or continue the run that is there.")
  add = parser.add_argument
  add(
    "--config",
    type=path,
    metavar="NAME",
    help=f"name of a config ('vae-jax configs' lists them), or a Python file with get_config() "
    f"(default {configs.DEFAULT_CONFIG})",
  )
  add("--workdir", type=path, metavar="DIR", help="folder of the run (default runs/NAME)")
  add(
    "--coordinator",
    metavar="HOST:PORT",
    help="several processes: where process 0 listens; auto: JAX asks the cluster. SLURM and TPU pods need no flag",
  )
  add("--processes", type=number(int, 1), metavar="N", help="how many processes share the run")
  add("--process", type=number(int, 0), metavar="I", help="which of them this is, from 0")
  parser.epilog = "Any key of the config: --config.KEY=VALUE or --config.KEY VALUE."
  overrides, rest = _split_overrides(sys.argv[1:] if argv is None else argv)
  args = parser.parse(rest, configs.every_key, ANSWERS)
  file = configs.find_config_file(args.config or configs.DEFAULT_CONFIG)
  config = configs.apply_overrides(configs.load_config_file(file), overrides)
  if args.help:
    keys = configs.describe(config, configs.base_config(config.model.name))
    shown = configs.show(str(file))
    print_and_exit(f"{parser.format_help()}\nThe keys and their values in {shown}:\n\n{keys}\n")
  configs.validate(config)
  workdir = RUNS / file.stem if args.workdir is None else Path(args.workdir)
  _check_folder(workdir)
  processes = (args.coordinator, args.processes, args.process)
  return argparse.Namespace(config=config, workdir=workdir, overrides=overrides, processes=processes)


def _split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Takes `--config.a.b=value` and `--config.a.b value` out of `argv`: "a.b=value" of each, and the rest."""
  overrides: list[str] = []
  rest: list[str] = []
  words = iter(argv)
  for word in words:
    if not word.startswith("--config."):
      rest.append(word)
      continue
    override = word.removeprefix("--config.")
    if "=" not in override:
      value = next(words, "--")
      if value.startswith("--"):
        raise UserError(f"{word} has no value; write {word}=VALUE")
      override += f"={value}"
    overrides.append(override)
  return overrides, rest


def _check_folder(folder: Path) -> None:
  """Refuses a workdir that cannot be a folder."""
  for place in (folder, *folder.parents):
    if place.exists() and not place.is_dir():
      raise UserError(
        f"--workdir {str(folder)!r} cannot be made: {configs.show(str(place))} is a file; name another folder"
      )
