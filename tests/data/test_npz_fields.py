"""Fields beside the images in an npz file: what each must be, and what is no field."""

import numpy as np
import pytest

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data.pipeline import batches
from vae_jax.data.sources import open_source
from vae_jax.errors import UserError
from vae_jax.types import FIELD_TYPES

N = 6
random = np.random.default_rng(0)
FIELDS = {
  "image": random.integers(0, 256, (N, 4, 5, 3), dtype=np.uint8),
  "degraded": random.integers(0, 256, (N, 2, 3, 3), dtype=np.uint8),
  "label": np.arange(N, dtype=np.int64),
  "factors": random.normal(size=(N, 2)),
  "text": random.integers(0, 99, (N, 7), dtype=np.uint16),
  "codes": random.integers(0, 512, (N, 3), dtype=np.int16),
}


def saved(tmp_path, **arrays):
  np.savez(tmp_path / "x.npz", **arrays)
  return apply_overrides(base_config(), ["data.name=npz", f"data.dir={tmp_path / 'x.npz'}"]).data


def test_every_field_of_a_record_is_read_in_its_type(tmp_path):
  assert set(FIELDS) == set(FIELD_TYPES)
  source = open_source(saved(tmp_path, **FIELDS), "train")
  loaded = source.load_all()
  assert {name: x.dtype for name, x in loaded.items()} == {
    name: np.dtype(t) for name, t in FIELD_TYPES.items()
  }
  for name, values in FIELDS.items():
    np.testing.assert_array_equal(loaded[name], values.astype(FIELD_TYPES[name]))
    np.testing.assert_array_equal(source[2][name], values[2].astype(FIELD_TYPES[name]))


@pytest.mark.parametrize("name", sorted(set(FIELDS) - {"image"}))
def test_each_field_alone_beside_the_images_reaches_the_batch(tmp_path, name):
  data = saved(tmp_path, image=FIELDS["image"], **{name: FIELDS[name]})
  batch = next(batches(data, open_source(data, "train"), batch_size=N, training=False))
  assert set(batch) == {"image", "index", "mask", name}
  np.testing.assert_array_equal(batch[name], FIELDS[name].astype(FIELD_TYPES[name]))


def test_integers_are_numbers_too(tmp_path):
  factors = open_source(saved(tmp_path, image=FIELDS["image"], factors=np.ones((N, 2), int)), "train")
  assert factors[0]["factors"].dtype == np.float32


@pytest.mark.parametrize(
  ("name", "values", "message"),
  [
    ("label", np.zeros((N, 1), int), r"'label' is int64 \[6, 1\]; it must be integers \[6\]$"),
    ("label", np.zeros(N), r"'label' is float64 \[6\]; it must be integers \[6\]$"),
    ("label", np.zeros(N, bool), r"'label' is bool \[6\]; it must be integers \[6\]$"),
    ("label", np.array(["a"] * N), r"'label' is <U1 \[6\]; it must be integers \[6\]$"),
    ("label", np.zeros(N - 1, int), r"'label' is int64 \[5\]; it must be integers \[6\]$"),
    ("label", np.full(N, 2**31), r"'label' is from 2147483648 to 2147483648; it must hold 32-bit integers$"),
    ("factors", np.zeros(N), r"'factors' is float64 \[6\]; it must be numbers \[6, length\]$"),
    (
      "factors",
      np.full((N, 1), np.nan),
      r"'factors' has values that are no finite float32; leave those records",
    ),
    ("factors", np.full((N, 1), 1e300), r"'factors' has values that are no finite float32"),
    ("factors", np.zeros((N, 1), complex), r"'factors' is complex128 \[6, 1\]; it must be numbers"),
    ("text", np.zeros((N, 2)), r"'text' is float64 \[6, 2\]; it must be integers \[6, length\]$"),
    ("text", np.zeros((N + 1, 2), int), r"'text' is int64 \[7, 2\]; it must be integers \[6, length\]$"),
    ("text", np.array(["a cat"] * N), r"'text' is <U5 \[6\]; it must be integers \[6, length\]$"),
    ("codes", np.zeros((N, 2, 2), int), r"'codes' is int64 \[6, 2, 2\]; it must be integers \[6, length\]$"),
    ("codes", np.full((N, 2), -(2**31) - 1), r"'codes' is from -2147483649 .* must hold 32-bit integers$"),
    (
      "degraded",
      FIELDS["degraded"][:3],
      r"'degraded' is uint8 \[3, 2, 3, 3\]; it must be integers \[6, h, w, c\]$",
    ),
    (
      "degraded",
      FIELDS["degraded"] / 255,
      r"'degraded' is float64 \[6, 2, 3, 3\]; it must be uint8 \[n, h, w.*np.uint8\(np.round\(255 \* x\)\)",
    ),
  ],
)
def test_a_field_of_another_type_or_shape_is_refused(tmp_path, name, values, message):
  data = saved(tmp_path, image=FIELDS["image"], **{name: values})
  with pytest.raises(UserError, match=message) as error:
    open_source(data, "train")
  assert str(error.value).startswith(str(tmp_path / "x.npz")) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["labels", "index", "mask", "place", "latents", "x" * 500])
def test_an_array_that_is_no_field_is_refused_by_name(tmp_path, name):
  """Also those that a batch has and a data set does not bring."""
  data = saved(tmp_path, image=FIELDS["image"], label=FIELDS["label"], **{name: np.zeros(N, np.int32)})
  words = rf"has an array '{name[:80]}', which is no field of a record \(image, degraded, label, .*\); leave it out$"
  with pytest.raises(UserError, match=words) as error:
    open_source(data, "train")
  assert len(str(error.value)) < 400
