"""What is installed: the wheel carries the configs and the pretrained models, and they are found wherever it lies."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae_jax import resources

ROOT = Path(__file__).parents[1]
hatchling = pytest.importorskip("hatchling")
SITE = os.pathsep.join(
  str(Path(module.__file__).parents[1]) for module in (np, hatchling)
)  # the dependencies
DATA = [
  path for name in ("configs", "pretrained") for path in ROOT.glob(f"{name}/**/*") if path.suffix != ".pyc"
]


def call(*words, cwd, **environment):
  """The output of a process that does not see this checkout, once its status is checked."""
  kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_REQUIRE"))}
  done = subprocess.run(
    [str(word) for word in words],
    cwd=cwd,
    env=kept | environment,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
  """A folder with the wheel, built without isolation."""
  folder = tmp_path_factory.mktemp("dist")
  call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT, PYTHONPATH=SITE)
  return folder


def test_the_wheel_carries_the_package_its_data_and_nothing_else(dist):
  (wheel,) = dist.iterdir()
  with zipfile.ZipFile(wheel) as opened:
    names = {name for name in opened.namelist() if ".dist-info/" not in name}
    meta = {name.partition(".dist-info/")[2]: name for name in opened.namelist() if ".dist-info/" in name}
    scripts = opened.read(meta["entry_points.txt"]).decode()
    described = opened.read(meta["METADATA"]).decode()
  package = {str(path.relative_to(ROOT)) for path in ROOT.glob("vae_jax/**/*.py")} | {"vae_jax/py.typed"}
  assert names == package | {f"vae_jax/{path.relative_to(ROOT)}" for path in DATA if path.is_file()}
  assert "vae-jax = vae_jax.__main__:main" in scripts and "licenses/LICENSE" in meta
  assert "License-Expression: Apache-2.0" in described and "Requires-Dist: jax<0.13,>=0.10" in described


def test_an_unpacked_wheel_finds_its_configs_and_models(dist, tmp_path):
  """As after `pip install --target`."""
  (wheel,) = dist.iterdir()
  with zipfile.ZipFile(wheel) as opened:
    opened.extractall(tmp_path / "lib")
  there = {"cwd": tmp_path, "PYTHONPATH": f"{tmp_path}/lib{os.pathsep}{SITE}"}
  out = call(sys.executable, "-m", "vae_jax", "configs", **there)
  assert "mnist_conv " in out and len(out.splitlines()) == len(list(ROOT.glob("configs/*.py")))
  code = (
    "import vae_jax; from vae_jax.storage import exported as e; print(vae_jax.__file__, *e.names(), e.FOLDER)"
  )
  out = call(sys.executable, "-c", code, **there)
  models = [path.name for path in sorted((ROOT / "pretrained").iterdir())]
  assert out.split() == [f"{tmp_path}/lib/vae_jax/__init__.py", *models, f"{tmp_path}/lib/vae_jax/pretrained"]


def test_a_checkout_has_them_beside_the_package():
  assert resources.folder("configs") == ROOT / "configs"
  assert resources.folder("pretrained") == ROOT / "pretrained"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["plain", "--target", "--prefix", "--user", "sdist", "--editable"])
def test_pip_installs_what_restores_a_photograph(dist, tmp_path, how):
  """Six ways to install, each into a folder of its own, without downloads: a command and `load` work."""
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)).save(tmp_path / "a.png")
  call(sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv", cwd=tmp_path)
  python, lib = tmp_path / "venv/bin/python", f"lib/python3.{sys.version_info.minor}/site-packages"
  there = {"cwd": tmp_path, "PYTHONUSERBASE": f"{tmp_path}/user"}
  (what,) = dist.iterdir()
  if how == "sdist":
    call(
      sys.executable,
      "-m",
      "hatchling",
      "build",
      "-t",
      "sdist",
      "-d",
      tmp_path / "sdist",
      cwd=ROOT,
      PYTHONPATH=SITE,
    )
    (what,) = (tmp_path / "sdist").iterdir()
  options, paths, script = {
    "--target": (["--target", "at"], [f"{tmp_path}/at"], "at/bin/vae-jax"),
    "--prefix": (["--prefix", "at"], [f"{tmp_path}/at/{lib}"], "at/bin/vae-jax"),
    "--user": (["--user"], [], "user/bin/vae-jax"),
  }.get(how, ([], [], "venv/bin/vae-jax"))
  words = ["--editable", ROOT] if how == "--editable" else [what]
  pip = [
    python,
    "-m",
    "pip",
    "install",
    "--no-deps",
    "--no-build-isolation",
    "--ignore-installed",
    "--no-index",
  ]
  call(*pip, *options, *words, **there, PYTHONPATH=SITE)
  there["PYTHONPATH"] = os.pathsep.join([*paths, SITE])
  restore = [
    tmp_path / script,
    "restore",
    "--pretrained",
    "superres_x2",
    "--input",
    "a.png",
    "--output",
    "out/",
  ]
  assert "wrote out/" in call(*restore, **there)
  code = "import vae_jax; print(vae_jax.load('superres_x2'), vae_jax.__file__)"
  out = call(python, "-c", code, **there)
  assert "restoration_vae" in out
  assert out.split()[-1].startswith(str(ROOT if how == "--editable" else tmp_path))
