"""train.py, evaluate.py and benchmarks as modules: they lie beside the package, not in it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def script(name: str) -> ModuleType:
  """The module of `name`.py of the checkout, which may import those beside it."""
  path = Path(__file__).parents[1] / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  sys.path.append(str(path.parent))
  try:
    spec.loader.exec_module(module)
  finally:
    sys.path.pop()
  return module
