"""`evaluate.py --mode inpaint`: what it writes, of files and of a split, and requests that contradict themselves."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from trained import spec_of, trained

from vae_jax import priors
from vae_jax.cli.evaluate import main, parse_evaluate
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.evaluation import suffix
from vae_jax.inference import export, load
from vae_jax.storage import fitted

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 1), np.uint8)


@pytest.fixture
def place(tmp_path, monkeypatch):
  """Exported models, with and without labels; a split, a file and masks."""
  monkeypatch.chdir(tmp_path)
  np.savez(tmp_path / "test.npz", image=IMAGES, label=np.arange(9, dtype=np.int32) % 3)
  Image.fromarray(IMAGES[0][..., 0]).resize((8, 8)).save(tmp_path / "mine.png")
  mask = np.zeros((8, 8), np.uint8)
  mask[:, :4] = 255
  Image.fromarray(mask).save(tmp_path / "mask.png")
  words = ["data.name=npz", "data.dir=.", "model.hidden=4", "model.latent_dim=2"]
  spec = spec_of((4, 4, 1))
  export(trained(apply_overrides(base_config(), [*words, "data.binarize=dynamic"]), spec), "model")
  labelled = apply_overrides(base_config("cvae"), [*words, "model.classes=3"])
  export(trained(labelled, spec | {"label": jax.ShapeDtypeStruct((), np.int32)}), "labelled")
  return tmp_path


def run(*words, model="model"):
  main(["--workdir", model, "--mode", "inpaint", "--samples", "2", "--steps", "20", *words])


def test_a_split_is_completed_and_scored(place, capsys):
  run("--box", "0,2,4,2", "--num", "3", "--output", "found.json")
  found = json.loads((place / "found.json").read_text())
  assert (found["split"], found["box"], found["mask"]) == ("test", "0,2,4,2", None)
  assert (found["images"], found["samples"], found["hidden_pixels"], found["pixels"]) == (3, 2, 8, 16)
  assert [one["image"] for one in found["each"]] == [0, 3, 6] and len(found["each"][0]["psnr"]) == 2
  with Image.open(place / "found.png") as picture:
    assert picture.size[0] > 56 * 3
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith("3 images, 8 of 16 pixels hidden") and lines[-1] == "wrote found.png, found.json"


def test_a_file_and_a_mask_of_another_size(place, capsys):
  run("--input", "mine.png", "--mask", "mask.png", "--output", "mine_completed.png")
  found = json.loads((place / "mine_completed.json").read_text())
  assert found["input"] == ["mine.png"] and found["hidden_pixels"] == 8
  assert found["notes"][0] == "the mask, 8 x 8, is scaled to 4 x 4 and cut as images are, by nearest pixels"
  assert "note: the mask, 8 x 8" in capsys.readouterr().out


def test_labels_of_a_split_and_a_fitted_prior(place):
  run("--box", "0,0,4,4", "--num", "2", "--label", "1", model="labelled")
  (written,) = (place / "labelled/evaluation").glob("inpaint_box-0-0-4-4_label-1_num-2_*.json")
  assert [one["image"] % 3 for one in json.loads(written.read_text())["each"]] == [1, 1]
  model = load("model")
  fit = priors.fit("gaussian", np.random.default_rng(0).normal(size=(30, 2)))
  meta = {"prior": "gaussian", "weights": model.run.digest, "step": model.step}
  fitted.save("model", "gaussian", priors.to_arrays(fit.prior), meta)
  run("--box", "0,0,2,4", "--num", "1", "--prior", "gaussian", "--output", "by_prior.png")
  assert json.loads((place / "by_prior.json").read_text())["prior"] == "gaussian, fitted"


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (
      [],
      r"--mode inpaint needs --mask or --box: what is hidden is a picture, white there \(--mask\), or a box",
    ),
    (["--box", "0,0,1,1", "--mask", "mask.png"], "--mask and --box exclude one another"),
    (["--box", "0,0,1"], r"'0,0,1' must be x,y,w,h in pixels, such as 0,14,28,14"),
    (["--box", "0,0,5,1"], r"--box 0,0,5,1 must be x,y,w,h within images of 4 x 4"),
    (["--mask", "no.png"], r"--mask no\.png is no file; give a picture, white where pixels are hidden"),
    (["--box", "0,0,1,1", "--steps", "3"], "'3' must be an integer >= 20"),
    (["--box", "0,0,1,1", "--samples", "0"], "samples = 0, steps = 20: samples must be at least 1"),
    (["--box", "0,0,1,1", "--temperature", "2"], "--temperature has no effect in --mode inpaint"),
    (["--box", "0,0,1,1", "--output", "found.gif"], r"must be the name of a \.png or \.json file"),
    (["--box", "0,0,1,1", "--label", "1"], r"this run \(mlp_vae\) knows no labels"),
  ],
)
def test_requests_that_contradict_themselves(place, words, message):
  with pytest.raises(UserError, match=message):
    run(*words)


def test_a_mask_has_no_effect_on_what_has_its_own(place):
  with pytest.raises(UserError, match="--box has no effect in --mode sample, only in inpaint"):
    main(["--workdir", "model", "--mode", "sample", "--box", "0,0,1,1"])


def test_names_of_results_say_what_was_hidden(place):
  def named(*words):
    return suffix(parse_evaluate(["--workdir", "model", "--mode", "inpaint", *words]).asked)

  assert named("--box", "0, 2,4,2") == "_box-0-2-4-2"
  assert named("--mask", "mask.png", "--steps", "300").startswith("_mask-mask.png-")
