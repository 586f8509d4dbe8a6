"""Which pretrained model fits a photograph."""

import re

import pytest

from vae_jax.photos.compression import Compression
from vae_jax.photos.condition import Condition
from vae_jax.photos.edges import Edges
from vae_jax.photos.fitting import MODELS, choose, warning
from vae_jax.storage import exported

GENERATIVE = {"digits", "emoji"}
ALL = [name for name in exported.names() if name not in GENERATIVE]
SOME = [name for name in ALL if name not in ("dejpeg", "denoise_real", "superres_x4_real")]


def seen(quality=None, noise=0.5, halo=0.0):
  known = None if quality is None else Compression(quality, True, "4:2:0")
  return Condition(known, noise, Edges(halo, 1.5, 99))


def test_all_that_are_named_are_there():
  assert sorted(MODELS) == ALL


@pytest.mark.parametrize("name", ALL)
def test_every_model_says_what_it_is_for(name):
  """Once, in `MODELS`; and as its own description says, where that says it."""
  meta = exported.describe(exported.FOLDER / name)
  purpose, degrade = MODELS[name], meta["config"]["data"]["degrade"]
  large, small = meta["image_shape"], meta["input_shape"]
  assert purpose.factor == large[0] // small[0]
  if degrade["name"] == "gaussian_noise":
    most = 255 * max(degrade["sigma"], degrade["sigma_max"])
    assert purpose.channels == (small[2],) and purpose.noise[0] <= most <= 1.5 * purpose.noise[1]
    assert purpose.noise[1] <= 1.5 * most
  elif degrade["name"] == "chain":
    levels = [float(most) for most in re.findall(r"noise [\d.]+\.\.([\d.]+)", degrade["chain"])]
    assert not levels or max(levels) <= purpose.noise[1] <= 1.5 * max(levels)
    quality = [int(low) for low in re.findall(r"jpeg (\d+)\.\.", degrade["chain"])]
    assert not quality or 0.6 * min(quality) <= purpose.quality[0] <= min(quality)


@pytest.mark.parametrize(
  ("condition", "channels", "scale", "some", "every"),
  [
    (seen(), 3, 1, None, None),
    (seen(95), 3, 1, None, None),
    (seen(halo=0.3), 3, 1, None, None),
    (seen(noise=25), 3, 1, "denoise_color", "denoise_color"),
    (seen(noise=25), 1, 1, "denoise_grey", "denoise_grey"),
    (seen(noise=6), 3, 1, "denoise_color", "denoise_color"),
    (seen(noise=6), 1, 1, "denoise_grey", "denoise_grey"),
    (seen(60), 3, 1, None, "dejpeg"),
    (seen(60, noise=6), 1, 1, None, "denoise_real"),
    (seen(), 3, 2, "superres_x2", "superres_x2"),
    (seen(95), 1, 4, "superres_x4", "superres_x4"),
    (seen(60), 3, 2, "superres_x2_real", "superres_x2_real"),
    (seen(60), 3, 4, "superres_x4", "superres_x4_real"),
    (seen(noise=6), 3, 4, "superres_x4", "superres_x4_real"),
    (seen(halo=0.3), 3, 4, "superres_x4", "superres_x4_real"),
    (seen(noise=60), 3, 2, "superres_x2", "superres_x2"),
  ],
)
def test_the_choice(condition, channels, scale, some, every):
  """Only of models that exist; where a better one does not, the reason names it."""
  choices = [choose(condition, channels, scale, there) for there in (SOME, ALL)]
  assert [choice.model for choice in choices] == [some, every]
  assert ("would fit and is not installed" in choices[0].why) == (some != every)
  assert all(choice.condition == condition and choice.why for choice in choices)


def test_no_model_at_all():
  choice = choose(seen(60), 3, 2, [])
  assert (choice.model, choice.why) == (None, "JPEG quality 60 (4:2:0); no model enlarges by 2")
  assert "no model was made for this" in choose(seen(noise=90), 3, 1, ALL).why


@pytest.mark.parametrize(
  ("name", "condition", "there", "line"),
  [
    ("superres_x2", seen(), SOME, ""),
    ("a_model_of_mine", seen(60), SOME, "JPEG quality 60 (4:2:0)"),
    ("denoise_grey", seen(noise=25), SOME, "noise about 25 grey levels"),  # colour, channel by channel
    (
      "superres_x2",
      seen(60),
      ALL,
      "JPEG quality 60 (4:2:0); warning: superres_x2 was made for clean photographs; "
      "--pretrained superres_x2_real fits better",
    ),
    (
      "superres_x4_perceptual",
      seen(noise=6),
      SOME,
      "noise about 6 grey levels; warning: superres_x4_perceptual was made for clean photographs; "
      "no model here fits better; compare the result with the input",
    ),
    (
      "dejpeg",
      seen(),
      ALL,
      "clean; warning: dejpeg was made for JPEG of quality 8 to 90; this photograph is better left as it is",
    ),
  ],
)
def test_what_is_said_before_a_photograph_is_restored(name, condition, there, line):
  assert warning(name, condition, 3, there) == line
