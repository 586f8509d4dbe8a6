"""What a family cannot do: each mode of evaluate.py and each method ends in one line that names what can."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from trained import spec_of, trained

from vae_jax import cli, commands
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.inference import export, load
from vae_jax.models import FAMILIES, able, family
from vae_jax.models.contract import ABILITIES

ROOT = Path(__file__).parents[1]
SMALL = {
  "mlp_vae": ["model.hidden=4", "model.latent_dim=2"],
  "conv_vae": ["model.channels=4", "model.latent_dim=2", "model.dense=4"],
  "restoration_vae": ["model.channels=4", "model.latent_dim=2", "data.degrade.name=gaussian_noise"],
  "transformation_net": ["model.channels=4", "data.degrade.name=gaussian_noise"],
  "rae": ["model.channels=4", "model.latent_dim=2", "model.dense=4"],
}
INPUT = ("restore", "benchmark")  # modes that want photographs
SPEC = spec_of((8, 8, 1))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """A folder with a small model of each family, and photographs."""
  folder = tmp_path_factory.mktemp("models")
  for name, overrides in SMALL.items():
    export(trained(apply_overrides(base_config(name), overrides), SPEC), folder / name)
  plain = apply_overrides(base_config("restoration_vae"), [*SMALL["restoration_vae"], "model.latent_dim=0"])
  export(trained(plain, SPEC), folder / "plain")
  (folder / "photos").mkdir()
  Image.fromarray(np.full((8, 8), 99, np.uint8)).save(folder / "photos" / "a.png")
  return folder


def main(argv):
  spec = importlib.util.spec_from_file_location("evaluate", ROOT / "evaluate.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  module.main([str(word) for word in argv])


def refused(capsys, *argv):
  with pytest.raises(SystemExit) as end:
    cli.run(lambda: main(argv))
  out, err = capsys.readouterr()
  assert end.value.code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
  return err


def test_every_family_and_need_is_here():
  assert set(SMALL) <= set(FAMILIES)
  assert {commands.command(mode).NEEDS for mode in commands.MODES} <= {None, *ABILITIES}
  for name in FAMILIES:
    assert set(ABILITIES) >= family(name).FAMILY.CAN
  for ability in ABILITIES:
    assert able(ability) == [name for name in FAMILIES if ability in family(name).FAMILY.CAN]


CANNOT = [
  (mode, name)
  for mode in commands.MODES
  for name in SMALL
  if (needs := commands.command(mode).NEEDS) and needs not in family(name).FAMILY.CAN
]


@pytest.mark.parametrize(("mode", "name"), CANNOT)
def test_a_mode_that_the_family_cannot_do_is_one_line_that_names_what_can(models, capsys, mode, name):
  words = ["--workdir", models / name, "--mode", mode]
  if mode == "fit_prior":  # it writes beside the run
    words += ["--prior", "gaussian"]
  else:
    words += ["--box", "0,0,2,2"] if mode == "inpaint" else []
    words += ["--output", models / f"x{(*commands.command(mode).OUTPUT, '')[0]}"]
  line = refused(capsys, *words, *(["--input", models / "photos"] if mode in INPUT else []))
  needs = commands.command(mode).NEEDS
  assert f"this run ({name} of 8 x 8 x 1) cannot {ABILITIES[needs]}; {', '.join(able(needs))} can" in line
  assert (needs == "sample" and name == "rae") == ("or fit a prior to its latents (--mode fit_prior)" in line)
  assert not list(models.glob("x*"))
  assert not {"evaluation", "priors"} & {path.name for path in (models / name).iterdir()}


def test_what_families_cannot_do_is_what_was_meant():
  assert CANNOT == [
    ("sample", "restoration_vae"),
    ("sample", "transformation_net"),
    ("sample", "rae"),
    ("fit_prior", "restoration_vae"),
    ("fit_prior", "transformation_net"),
    ("complete", "mlp_vae"),
    ("complete", "conv_vae"),
    ("complete", "restoration_vae"),
    ("complete", "transformation_net"),
    ("complete", "rae"),
    ("inpaint", "restoration_vae"),
    ("inpaint", "transformation_net"),
    ("interpolate", "restoration_vae"),
    ("interpolate", "transformation_net"),
    ("walk", "restoration_vae"),
    ("walk", "transformation_net"),
    ("walk", "rae"),
    ("traverse", "restoration_vae"),
    ("traverse", "transformation_net"),
    ("attribute", "restoration_vae"),
    ("attribute", "transformation_net"),
    ("disentangle", "restoration_vae"),
    ("disentangle", "transformation_net"),
    ("neighbours", "restoration_vae"),
    ("neighbours", "transformation_net"),
    ("neighbours", "rae"),
    ("restore", "mlp_vae"),
    ("restore", "conv_vae"),
    ("restore", "rae"),
    ("benchmark", "mlp_vae"),
    ("benchmark", "conv_vae"),
    ("benchmark", "rae"),
  ]


@pytest.mark.parametrize("mode", INPUT)
@pytest.mark.parametrize("name", ["transformation_net", "plain"])
def test_draws_of_a_model_without_latents(models, capsys, mode, name):
  """A family may never have any, and a config may have left them out."""
  words = ["--workdir", models / name, "--mode", mode, "--input", models / "photos", "--samples", 2]
  line = refused(capsys, *words)
  assert "cannot draw restorations; restoration_vae" in line and " can" in line
  assert ("with model.latent_dim > 0 can" in line) == (name == "plain")
  assert not (models / name / "evaluation").exists()


@pytest.mark.parametrize("mode", ["sample", "reconstruct", "interpolate"])
def test_a_label_for_a_family_without_labels(models, capsys, mode):
  words = ["--workdir", models / "mlp_vae", "--mode", mode, "--label", 3]
  words += [] if mode == "sample" else ["--input", models / "photos"]
  line = refused(capsys, *words)
  assert "label" in line and "this run (mlp_vae) knows no label" in line and "leave it out" in line


METHODS = {
  "encode": lambda m, x: m.encode(x),
  "decode": lambda m, x: m.decode(np.zeros((1, 2))),
  "sample": lambda m, x: m.sample(jax.random.key(0), 1),
  "draw": lambda m, x: m.restore(x, jax.random.key(0)),
  "tokens": lambda m, x: (m.tokens(x), m.from_tokens(np.zeros((1, 2), int))),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("ability", METHODS)
def test_a_method_that_the_family_cannot_do_says_so_before_it_runs(models, name, ability):
  model = load(models / name)
  assert model.can(ability) == (ability in family(name).FAMILY.CAN)
  with pytest.raises(UserError, match="is no ability of a model; did you mean '"):
    model.can(ability + "s")
  if model.can(ability):
    model.require(ability)
    return
  others = ", ".join(able(ability)) or "no other family"
  with pytest.raises(UserError) as error:
    METHODS[ability](model, np.zeros((1, 8, 8, 1), np.uint8))
  assert f"cannot {ABILITIES[ability]}; {others} can" in str(error.value)
