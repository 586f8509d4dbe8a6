"""The console command: `vae-jax COMMAND ...`, also as `python -m vae_jax COMMAND ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import vae_jax
from vae_jax import configuration as configs
from vae_jax.cli import evaluate, train
from vae_jax.cli.flags import Parser, print_and_exit
from vae_jax.commands import MODES, command
from vae_jax.errors import UserError, nearest
from vae_jax.storage import exported

OWN = {
  "train": "train a VAE, or continue a run",
  "configs": "list the configs that train takes by name",
  "evaluate": "what the following commands do, by --mode (default score)",
}
COMMANDS = (*OWN, *MODES)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command that `argv`, or the command line, begins with. Raises UserError."""
  argv = sys.argv[1:] if argv is None else argv
  if not argv or argv[0] in ("-h", "--help", "help"):
    print_and_exit(_help())
  if argv[0] == "--version":
    print_and_exit(f"vae_jax {vae_jax.__version__}\n")
  name, rest = argv[0], argv[1:]
  if name.startswith("-"):
    raise UserError(f"vae-jax needs a command before {configs.show(name)}, such as {EXAMPLES[0]!r}")
  if name not in COMMANDS:
    hint = nearest(name, COMMANDS, what="commands")
    raise UserError(f"vae-jax has no command {configs.show(name)}{hint}")
  prog = f"vae-jax {name}"
  if name == "train":
    train.main(rest, prog)
  elif name == "configs":
    if Parser(prog, "List the configs that --config takes by name.").parse(rest).help:
      print_and_exit(
        "usage: vae-jax configs\n\nLists the configs that 'vae-jax train --config NAME' takes.\n"
      )
    print(_configs())
  else:
    evaluate.main(rest, None if name == "evaluate" else name, prog)


def _help() -> str:
  width = max(map(len, COMMANDS))
  lines = [
    "usage: vae-jax COMMAND [flags]",
    "",
    "Variational autoencoders for images in JAX.",
    "",
    "commands:",
  ]
  lines += [f"  {name:{width}}  {meaning}" for name, meaning in OWN.items()]
  lines += [f"  {mode:{width}}  {command(mode).HELP}" for mode in MODES]
  lines += [
    "",
    "vae-jax COMMAND --help lists the flags of a command; vae-jax --version prints the version.",
    "",
  ]
  lines += ["pretrained models:", *(f"  {name}" for name in exported.names()), "", "examples:"]
  lines += [f"  {example}" for example in EXAMPLES]
  return "\n".join(lines) + "\n"


EXAMPLES = (
  "vae-jax restore --pretrained superres_x2 --input photo.jpg --output restored/",
  "vae-jax train                                  # digits, into runs/mnist_vae",
  "vae-jax evaluate --workdir runs/mnist_vae      # scores of the test split, and pictures",
  "vae-jax sample --workdir runs/mnist_vae --output samples.png",
  "vae-jax train --config photos_vq_vae --config.data.dir=photos --workdir runs/photos",
)


def _configs() -> str:
  found = configs.config_files()
  width = max(map(len, found))
  return "\n".join(f"{name:{width}}  {configs.summary_of(path)}" for name, path in found.items())
