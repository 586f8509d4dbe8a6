"""The package is laid out as docs/architecture.md says: imports go one way, files and functions are short."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("vae_jax/**/*.py"))
# Floors, lowest first: a module imports from its own floor and from lower ones. A longer name counts first.
FLOORS = [
  ("errors", "types", "checks", "keys", "resources", "generator", "compiling", "progress", "storage.files"),
  ("distributions", "metrics", "losses", "compression"),
  ("priors",),
  ("models.__init__",),
  ("configuration", "data", "storage", "pictures"),
  ("models",),
  ("perceptual",),
  ("objectives",),
  ("runs",),
  ("training", "photos"),
  ("inference",),
  ("evaluation",),
  ("image_sets",),
  ("commands",),
  ("api", "cli"),
  ("__main__",),
]
LONGEST_FILE, LONGEST_FUNCTION = 450, 70


def name_of(path):
  return ".".join(path.relative_to(ROOT / "vae_jax").with_suffix("").parts)


def floor(name):
  """The floor of a module, by the longest name of `FLOORS` that it begins with."""
  found = [
    (len(word), i) for i, words in enumerate(FLOORS) for word in words if f"{name}.".startswith(f"{word}.")
  ]
  return max(found)[1]


def imported(path):
  """The modules of the package that a file imports when it is imported, those for type checkers apart."""
  for node in ast.walk(ast.parse(path.read_text())):
    if (
      isinstance(node, ast.ImportFrom)
      and node.module
      and node.module.startswith("vae_jax")
      and not node.col_offset
    ):
      base = node.module.removeprefix("vae_jax").removeprefix(".")
      for alias in node.names:
        inner = ".".join(part for part in (base, alias.name) if part)
        place = ROOT / "vae_jax" / Path(*inner.split("."))
        name = inner if place.is_dir() or place.with_suffix(".py").is_file() else base
        yield f"{name}.__init__" if (ROOT / "vae_jax" / Path(*name.split("."))).is_dir() else name


@pytest.mark.parametrize("path", [p for p in FILES if name_of(p) != "__init__"], ids=name_of)
def test_imports_go_one_way(path):
  above = {other for other in imported(path) if floor(other) > floor(name_of(path))}
  assert not above, f"{name_of(path)} imports {above}, which lie above it"


def test_every_module_has_a_floor():
  assert len([floor(name_of(p)) for p in FILES if name_of(p) != "__init__"]) > 90


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
  text = path.read_text()
  assert len(text.splitlines()) <= LONGEST_FILE
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef):
      assert node.end_lineno - node.lineno + 1 <= LONGEST_FUNCTION, f"{path.name}: {node.name}"


def has(module, name):
  """Whether a module has a name, or a package a module of that name."""
  inside = hasattr(module, "__path__") and importlib.util.find_spec(f"{module.__name__}.{name}")
  return hasattr(module, name) or bool(inside)


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/*.py")), ids=lambda path: path.stem)
def test_what_benchmarks_import_is_there(path):
  # Some need PyTorch and run by hand alone, so nothing else sees that a name has gone.
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vae_jax":
      module = importlib.import_module(node.module)
      missing = [name.name for name in node.names if not has(module, name.name)]
      assert not missing, f"{path.name}: {node.module} has no {missing}"
