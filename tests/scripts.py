"""train.py and evaluate.py as modules: they lie beside the package, not in it."""

import importlib.util
from pathlib import Path
from types import ModuleType


def script(name: str) -> ModuleType:
  """The module of `name`.py of the checkout."""
  spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / f"{name}.py")
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
