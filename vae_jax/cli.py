"""The command line of train.py and evaluate.py: flags -> a checked config or request; errors -> one line.

Light at import: JAX is not needed to print help or to refuse a flag.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from vae_jax import config as configs
from vae_jax.errors import UserError, nearest

MODES = ("score", "sample", "reconstruct", "interpolate")
METHODS = ("spherical", "linear")
DEFAULT_CONFIG = Path("configs/mnist_vae.py")
RUNS = Path("runs")


def parse_train(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """`config` (locked, validated), `workdir` (Path), `overrides` (list of "a.b=value") of a training command.

  `--help` prints the flags and every key of the config, and ends with status 0. Raises UserError.
  """
  parser = _Parser("train.py", "Train a VAE in a workdir, or continue the run that is there.")
  add = parser.add_argument
  add("--config", metavar="FILE", help=f"Python file with get_config() (default {DEFAULT_CONFIG})")
  add("--workdir", metavar="DIR", help="folder of the run (default runs/<name of the config file>)")
  parser.epilog = "Any key of the config: --config.KEY=VALUE or --config.KEY VALUE."
  overrides, rest = _split_overrides(sys.argv[1:] if argv is None else argv)
  args = parser.parse(rest, [f"--config.{key}" for key in configs.KEYS])
  path = _default_config() if args.config is None else Path(args.config)
  config = configs.apply_overrides(configs.load_config_file(path), overrides)
  if args.help:
    keys = configs.describe(config, configs.base_config())
    _print_and_exit(f"{parser.format_help()}\nThe keys and their values in {path}:\n\n{keys}\n")
  configs.validate(config)
  workdir = RUNS / path.stem if args.workdir is None else Path(args.workdir)
  _check_folder(workdir)
  return argparse.Namespace(config=config, workdir=workdir, overrides=overrides)


def parse_evaluate(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """A request to a trained run: the flags, checked, and `config`, that of the run.

  workdir: Path. output: Path or None. input: list of Path or None. checkpoint: "newest", "best" or an int.
  num, samples, batch_size, split come from the run's config where they are not given. Raises UserError.
  """
  parser = _Parser("evaluate.py", "Score a trained run, or draw samples, reconstructions, interpolations.")
  add = parser.add_argument
  add("--workdir", metavar="DIR", help="folder of the run (required)")
  add("--mode", default="score", choices=MODES, help="what to do (default score)")
  add("--num", type=_number(int, 1), help="samples, reconstructions (default evaluation.pictures), pairs (8)")
  add("--output", metavar="FILE", help="a picture's .png (default DIR/evaluation/MODE.png)")
  add("--temperature", type=_number(float, 0), default=1.0, help="sample: scales the prior's deviation (1)")
  add("--samples", type=_number(int, 0), help="score: K of the IWAE bound; 0: none (evaluation.samples)")
  add("--seed", type=_number(int, 0), default=0, help="seed of all that is drawn (default 0)")
  add("--split", help="images to score or show, as in 'train[:100]' (default data.test)")
  add("--batch_size", type=_number(int, 1), help="images per batch (default evaluation.batch_size)")
  add("--checkpoint", type=_checkpoint, default="newest", help="newest, best or a step (default newest)")
  add("--method", default="spherical", choices=METHODS, help="interpolate: path between latents (spherical)")
  add("--input", nargs="+", metavar="PATH", help="reconstruct, interpolate: your image files or folders")
  args = parser.parse(sys.argv[1:] if argv is None else argv)
  if args.help:
    _print_and_exit(parser.format_help())
  if args.workdir is None:
    raise UserError(f"--workdir is required: the folder of a trained run{_runs()}")
  args.workdir = Path(args.workdir)
  path = args.workdir / "config.json"
  if not path.is_file():
    raise UserError(f"--workdir {args.workdir} is no run, it has no config.json{_runs()}")
  args.config = configs.from_json(path.read_text(errors="replace"), str(path))
  if args.split == "":
    raise UserError("--split '' must be the name of a split, such as test")
  if args.input and args.mode not in ("reconstruct", "interpolate"):
    raise UserError(f"--input has no use in --mode {args.mode}; use --mode reconstruct or interpolate")
  for item in args.input or ():
    if not Path(item).exists():
      raise UserError(f"--input {item} does not exist; give image files or folders")
  if args.output is not None:
    if args.mode == "score":
      raise UserError(f"--output has no use in --mode score, which writes into {args.workdir / 'evaluation'}")
    if Path(args.output).suffix.lower() != ".png" or Path(args.output).is_dir():
      raise UserError(f"--output {args.output!r} must be the name of a .png file")
  args.output = None if args.output is None else Path(args.output)
  args.input = None if args.input is None else [Path(item) for item in args.input]
  defaults = args.config.evaluation
  args.num = args.num or (8 if args.mode == "interpolate" else defaults.pictures)
  args.samples = defaults.samples if args.samples is None else args.samples
  args.batch_size = args.batch_size or defaults.batch_size
  args.split = args.split or args.config.data.test
  del args.help
  return args


def run(main: Callable[[], Any]) -> None:
  """Calls `main`. A UserError becomes one line on standard error and status 2, an interrupt one line and 130.

  Any other exception is a bug, and keeps its traceback.
  """
  try:
    main()
  except UserError as error:
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)


class _Parser(argparse.ArgumentParser):
  """argparse with one line per error, a suggestion for an unknown flag, and help that the caller prints."""

  def __init__(self, prog: str, description: str) -> None:
    super().__init__(prog=prog, description=description, add_help=False, allow_abbrev=False)
    self.add_argument("-h", "--help", action="store_true", help="print this and end")

  def error(self, message: str) -> NoReturn:
    raise UserError(f"{message}; python {self.prog} --help lists the flags")

  def parse(self, argv: Sequence[str], keys: Sequence[str] = ()) -> argparse.Namespace:
    """The flags of `argv`. `keys`: further flags that an unknown one may have meant."""
    args, unknown = self.parse_known_args(argv)
    if not unknown:
      return args
    flag = unknown[0].split("=")[0]
    if not flag.startswith("-"):
      self.error(f"unexpected argument {unknown[0]!r}")
    known = [option for option in self._option_string_actions if option.startswith("--")]
    hint = nearest(flag, known, what="flags")
    if "did you mean" not in hint and any(flag.lstrip("-") in key for key in keys):
      hint = nearest(flag, keys, what="flags")
    raise UserError(f"unknown flag {flag!r}{hint}")


def _print_and_exit(text: str) -> NoReturn:
  try:
    print(text, end="", flush=True)
  except BrokenPipeError:  # `--help | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  sys.exit(0)


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


def _default_config() -> Path:
  """configs/mnist_vae.py of the current folder, or of the checkout when the command is given elsewhere."""
  return DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else Path(__file__).parents[1] / DEFAULT_CONFIG


def _check_folder(folder: Path) -> None:
  for path in (folder, *folder.parents):
    if path.exists() and not path.is_dir():
      raise UserError(f"--workdir {str(folder)!r} cannot be made: {path} is a file; name another folder")


def _runs() -> str:
  """A list, to append to an error, of the runs under runs/."""
  found = sorted(str(path.parent) for path in RUNS.glob("*/config.json"))
  return f"; runs here: {', '.join(found)}" if found else "; train.py makes one, there is none under runs/"


def _number(kind: type, least: int) -> Callable[[str], Any]:
  """An argparse type: a number of type `kind`, at least `least` and below 2**31."""

  def parse(text: str) -> Any:
    try:
      value = kind(text)
    except ValueError:
      value = math.nan
    if not least <= value < 2**31:
      what = "an integer" if kind is int else "a number"
      raise argparse.ArgumentTypeError(f"{text!r} must be {what} >= {least}")
    return value

  return parse


def _checkpoint(text: str) -> str | int:
  if text in ("newest", "best"):
    return text
  if not text.isdecimal():
    raise argparse.ArgumentTypeError(f"{text!r} must be newest, best or a step")
  return int(text)
