"""A person's photographs through pretrained models: which, what is said of them, and that each model is loaded once."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from skimage import data

import vae_jax
from vae_jax.errors import UserError
from vae_jax.evaluation import photographs, restore_each_by_its_model, restore_photographs
from vae_jax.storage import exported


class Stand:
  """In place of a trained model: inverts colours, enlarges by its factor. The noise of an image is its mean."""

  def __init__(self, name, noise="none"):
    self.factor = 2 if "x2" in name else 4 if "x4" in name else 1
    self.input_shape = (8, 8, 1 if "grey" in name else 3)
    self.config = SimpleNamespace(data=SimpleNamespace(white=0), model=SimpleNamespace(noise=noise))
    self.told, self.sigmas, self.estimates = noise != "none", [], 0

  def require(self, ability):
    pass

  def can(self, ability):
    return True

  def require_told(self, what):
    if not self.told:
      raise UserError(f"{what}: is not told")

  def noise_sigma(self, image, tile=0):
    self.estimates += 1
    return float(image.mean())

  def restore_bands(
    self, image, key=None, tile=0, ensemble=False, progress=None, sigma=None, temperature=0.5
  ):
    self.sigmas.append(sigma)
    yield 1 - image.repeat(self.factor, 0).repeat(self.factor, 1)

  deviation_bands = restore_bands


@pytest.fixture
def loaded(monkeypatch):
  """The names of models in the order in which they are loaded; those of today are there."""
  names = []

  def load(place):
    names.append(place.name)
    return Stand(place.name)

  monkeypatch.setattr(photographs, "load", load)
  models = ["denoise_color", "denoise_grey", "superres_x2", "superres_x4"]
  monkeypatch.setattr(exported, "names", lambda: models)
  return names


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """a.png and z.png: noise of 25 levels, c.png: clean, g.png: noisy and grey, j.jpg: JPEG of quality 40."""
  folder = tmp_path_factory.mktemp("photographs")
  clean = data.astronaut()[:160, 128:320]
  noise = np.random.default_rng(0).normal(scale=25, size=clean.shape)
  noisy = np.uint8(np.clip(np.rint(clean + noise), 0, 255))
  for name, pixels in ("a", noisy), ("c", clean), ("g", noisy[..., 1]), ("z", noisy):
    Image.fromarray(pixels).save(folder / f"{name}.png")
  Image.fromarray(clean).save(folder / "j.jpg", quality=40)
  return folder


def said(capsys):
  lines = capsys.readouterr().err.splitlines()
  return {line.split(":")[0]: line for line in lines if not line.startswith("restoring")}


def pixels(path):
  with Image.open(path) as image:
    return np.asarray(image).astype(int)


def test_each_by_its_model(folder, loaded, tmp_path, capsys):
  report = restore_each_by_its_model([folder], tmp_path)
  assert not report.failed and len(report.written) == 5
  assert loaded == ["denoise_color", "denoise_grey"]
  lines = said(capsys)
  assert lines["a.png"].startswith("a.png: noise about 2") and lines["a.png"].endswith(": denoise_color")
  assert lines["g.png"].endswith(": denoise_grey")
  assert lines["c.png"] == "c.png: neither noise nor JPEG blocks to remove: copied as it is"
  assert lines["j.jpg"] == (
    "j.jpg: JPEG quality 40 (4:2:0); dejpeg would fit and is not installed: copied as it is"
  )
  for name in ("c.png", "j.jpg"):
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
  for name in ("a.png", "g.png"):
    np.testing.assert_array_equal(pixels(tmp_path / name), 255 - pixels(folder / name))


def test_enlarged(folder, loaded, tmp_path, capsys):
  """All by one model, as the better one for JPEG is not there, which is said."""
  report = restore_each_by_its_model([folder / "c.png", folder / "j.jpg"], tmp_path, scale=2)
  assert not report.failed and loaded == ["superres_x2"]
  assert pixels(tmp_path / "c.png").shape == (320, 384, 3)
  lines = said(capsys)
  assert lines["c.png"] == "c.png: clean: superres_x2"
  assert "superres_x2 was made for clean photographs; superres_x2_real would fit" in lines["j.jpg"]


def test_a_named_model_gets_a_warning(folder, loaded, tmp_path, capsys):
  inputs = [folder / "c.png", folder / "j.jpg"]
  restore_photographs(Stand("superres_x2"), inputs, tmp_path / "x", name="superres_x2")
  lines = said(capsys)
  assert set(lines) == {"j.jpg"} and "warning: superres_x2 was made for clean photographs" in lines["j.jpg"]
  restore_photographs(Stand("superres_x2"), inputs, tmp_path / "y")  # a run of one's own
  assert not said(capsys)


# Models that are told the noise


@pytest.fixture
def grey_levels(tmp_path):
  """A photograph whose channels are 51, 102 and 153."""
  Image.fromarray(np.full((40, 40, 3), (51, 102, 153), np.uint8)).save(tmp_path / "p.png")
  return tmp_path / "p.png"


@pytest.mark.parametrize(
  ("name", "noise", "sigma", "line", "told"),
  [
    ("color", "uniform", None, "noise of sigma 102 (estimated; --sigma sets it)", [0.4]),
    ("color", "local", None, "noise of sigma 102 on average (estimated; --sigma sets it)", [None]),
    (
      "grey",
      "uniform",
      None,
      "noise of sigma 51, 102, 153 (estimated for each channel; --sigma sets it)",
      [0.2, 0.4, 0.6],
    ),
    ("color", "local", 0.1, "noise of sigma 25.5 (--sigma)", [0.1]),
    ("grey", "uniform", 0.1, "noise of sigma 25.5 (--sigma)", [0.1, 0.1, 0.1]),
  ],
)
def test_the_noise_is_estimated_once_and_said(grey_levels, tmp_path, capsys, name, noise, sigma, line, told):
  """And told in the estimate, in each draw and in the deviation."""
  model = Stand(name, noise)
  report = restore_photographs(model, [grey_levels], tmp_path / "out", samples=2, sigma=sigma)
  assert len(report.written) == 5
  assert said(capsys)["p.png"] == f"p.png: {line}"
  np.testing.assert_allclose(np.array(model.sigmas, float), np.array(told * 4, float), rtol=1e-6)
  assert model.estimates == (0 if sigma else len(told))


def test_the_noise_is_said_beside_what_is_seen(folder, loaded, tmp_path, monkeypatch, capsys):
  restore_photographs(Stand("denoise_color", "uniform"), [folder / "a.png"], tmp_path, name="denoise_color")
  line = said(capsys)["a.png"]
  assert line.startswith("a.png: noise about 2") and line.endswith(" (estimated; --sigma sets it)")
  monkeypatch.setattr(photographs, "load", lambda place: Stand(place.name, "uniform"))
  restore_each_by_its_model([folder / "a.png"], tmp_path)
  line = said(capsys)["a.png"]  # --sigma is not for auto
  assert ": denoise_color; noise of sigma " in line and line.endswith(" (estimated)")


def test_a_sigma_for_a_model_that_is_not_told(grey_levels, tmp_path):
  with pytest.raises(UserError, match=r"--sigma 25\.5: is not told"):
    restore_photographs(Stand("color"), [grey_levels], tmp_path / "out", sigma=0.1)
  assert not (tmp_path / "out").exists()


def test_models_of_other_channels_are_refused_before_work(grey_levels, tmp_path):
  model = Stand("color")
  model.input_shape = (8, 8, 2)
  with pytest.raises(UserError, match="a model of 2 channels cannot restore photographs"):
    restore_photographs(model, [grey_levels], tmp_path / "out")


# In Python


def test_the_choice_in_python(folder, loaded):
  """From a file, or from its pixels."""
  choice = vae_jax.choose_model(folder / "j.jpg", scale=2)
  assert choice.model == "superres_x2" and choice.condition.jpeg_quality == 40
  assert vae_jax.choose_model(str(folder / "c.png")).model is None
  for image in pixels(folder / "g.png").astype(np.uint8), pixels(folder / "g.png")[..., None] / 255:
    assert vae_jax.choose_model(image).model == "denoise_grey"
  assert vae_jax.choose_model(np.uint8(pixels(folder / "j.jpg"))).condition.jpeg_quality == 40
  assert loaded == []


@pytest.mark.parametrize(
  ("given", "scale", "message"),
  [
    (np.zeros((8, 8, 3)), 3, "scale=3 must be one of 1, 2, 4"),
    (np.zeros((8, 8, 3)), True, "scale=True must be"),
    (np.zeros((8, 8, 4)), 1, r"a photograph of shape \(8, 8, 4\): give"),
    (np.zeros((1, 8, 8, 3)), 1, "of shape"),
    (np.zeros((0, 8, 3)), 1, "of shape"),
    (np.zeros((8, 8, 3), int), 1, "of type int64: give uint8"),
    (np.full((8, 8, 3), np.nan), 1, "of type float64: give uint8"),
    (np.full((8, 8, 3), 200.0), 1, "of type float64: give uint8"),
    ("no.jpg", 1, "no.jpg: cannot be read"),
  ],
)
def test_bad_requests_in_python(given, scale, message):
  with pytest.raises(UserError, match=message):
    vae_jax.choose_model(given, scale)


def test_auto_is_no_model():
  with pytest.raises(UserError, match=r"vae_jax\.choose_model\('photo\.jpg'\)\.model is the name"):
    vae_jax.load("auto")
