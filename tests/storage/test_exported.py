"""Models in folders: what is written is what is read; damage, absence and newer versions in one line."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import vae_jax
from vae_jax.configuration import base_config
from vae_jax.errors import UserError
from vae_jax.inference import export
from vae_jax.storage import exported as pretrained

ROOT = Path(__file__).parents[2]
META = {
  "config": base_config().to_dict(),
  "image_shape": [4, 4, 1],
  "input_shape": [2, 2, 1],
  "step": 12,
}


def variables(seed=0):
  random = np.random.default_rng(seed)
  return {
    "params": {
      "trunk": {
        "stem": {"kernel": random.normal(size=(3, 3, 1, 4)).astype(np.float32), "bias": np.zeros(4, "f4")}
      },
      "log_scale": np.float32(-3.25),
      "empty": {"w": np.zeros((0, 3), np.float32)},
    },
    "codebook": {
      "counts": random.integers(-(2**31), 2**31, size=5, dtype=np.int32),
      "mean": np.ones(2, "f4"),
    },
  }


@pytest.fixture
def folder(tmp_path):
  pretrained.save(tmp_path / "m", variables(), META)
  return tmp_path / "m"


def refused(function, folder, match):
  with pytest.raises(UserError, match=match) as error:
    function(folder)
  assert "\n" not in str(error.value)


def assert_same(read, written):
  assert jax.tree.structure(read) == jax.tree.structure(written)
  for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(written), strict=True):
    assert a.shape == b.shape and a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_what_is_saved_is_read(folder):
  read, meta, below = pretrained.read(folder)
  assert_same(read, variables())
  assert below is None
  assert {name: meta[name] for name in META} == json.loads(json.dumps(META))
  assert meta["format_version"] == 2 and pretrained.describe(folder) == meta
  assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
  assert pretrained.is_model(folder) and not pretrained.is_model(folder.parent)
  digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
  assert meta["sha256"] == digest


# --- fewer bits ---


def layer(kernel, **others):
  return {"params": {"layer": {"kernel": np.asarray(kernel, np.float32), **others}}}


def test_16_bits_take_half_the_space(tmp_path):
  """float16 has 11 bits; scales and biases keep their 24."""
  kernel, bias = np.random.default_rng(0).normal(size=(50, 60)).astype(np.float32), np.float32([1 / 3])
  pretrained.save(tmp_path, layer(kernel, bias=bias), META, bits=16)
  found, meta, _ = pretrained.read(tmp_path)
  assert meta["format_version"] == 3 and (tmp_path / pretrained.WEIGHTS).stat().st_size < 2.2 * kernel.size
  found = found["params"]["layer"]
  assert found["kernel"].dtype == np.float32 and np.array_equal(found["bias"], bias)
  np.testing.assert_array_equal(found["kernel"], kernel.astype(np.float16).astype(np.float32))


def test_8_bits_take_a_quarter_of_the_space(tmp_path):
  """Each channel has 255 levels of its own, of which its largest value is the 127th; zeros stay zeros."""
  from safetensors.numpy import load_file

  kernel = np.random.default_rng(0).normal(size=(3, 3, 40, 50)).astype(np.float32)
  kernel *= np.float32(10) ** np.linspace(-6, 6, 50, dtype=np.float32)
  kernel[..., 7], kernel[..., 8] = 0, 2.6e-43  # 186 times the least float32, and so too many scales
  pretrained.save(tmp_path, layer(kernel), META, bits=8)
  found, meta, _ = pretrained.read(tmp_path)
  assert meta["format_version"] == 3 and (tmp_path / pretrained.WEIGHTS).stat().st_size < 1.05 * kernel.size
  found = found["params"]["layer"]["kernel"]
  assert found.dtype == np.float32 and found.shape == kernel.shape and not found[..., 7].any()
  scale = np.abs(kernel.astype(np.float64)).max(axis=(0, 1, 2)) / 127
  ordinary = np.arange(50) != 8
  assert (np.abs(found - kernel.astype(np.float64)) <= scale * (0.5 + 1e-4))[..., ordinary].all()
  assert 0 <= found[..., 8].min() <= found[..., 8].max() < 2.6e-43
  flat = load_file(tmp_path / pretrained.WEIGHTS)  # as another program sees it
  whole, scales = (flat[f"params/layer/kernel{end}"] for end in ("", ":scale"))
  assert (whole.dtype, scales.dtype, whole.min(), whole.max()) == (np.int8, np.float32, -127, 127)
  np.testing.assert_allclose(scales[ordinary], scale[ordinary], rtol=1e-6)
  np.testing.assert_array_equal(found, whole.astype(np.float32) * scales)


def test_8_bits_are_for_large_kernels_alone(tmp_path):
  """Small ones, biases, integers, the prior of a cvae and codebooks, kept or learned, are as with 32 bits."""
  random = np.random.default_rng(0)
  values = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
  tree = layer(values(3, 85), bias=values(300)) | {
    "codebook": {"codes": values(64, 8), "sums": values(64, 8)}
  }
  tree["params"] |= {"codes": values(64, 8), "prior_mean": values(10, 64)}
  tree["codebook"]["counts"] = np.arange(400, dtype=np.int32).reshape(20, 20)
  pretrained.save(tmp_path, tree, META, bits=8)
  assert_same(pretrained.read(tmp_path)[0], tree)
  pretrained.save(tmp_path, layer(kernel := values(4, 64)), META, bits=8)
  found = pretrained.read(tmp_path)[0]["params"]["layer"]["kernel"]
  assert 0 < np.abs(found - kernel).max() < 0.02


@pytest.mark.parametrize("bits", [16, 8])
def test_few_bits_leave_the_first_stage_as_it_is(tmp_path, bits):
  """Its digest is part of the config."""
  kernel = np.random.default_rng(0).normal(size=(20, 20))
  pretrained.save(tmp_path, layer(kernel), META, (layer(kernel / 3), META), bits=bits)
  read, _, below = pretrained.read(tmp_path)
  assert_same(below[0], layer(kernel / 3))
  assert not np.array_equal(read["params"]["layer"]["kernel"], np.float32(kernel))


@pytest.mark.parametrize(
  ("bits", "value", "said"),
  [(16, 70000, "70000"), (16, np.nan, "nan"), (8, np.nan, "nan"), (8, np.inf, "inf")],
)
def test_values_that_few_bits_cannot_hold_are_refused(tmp_path, bits, value, said):
  tree = layer(np.ones((20, 20)))
  tree["params"]["layer"]["kernel"][3, 4] = value
  with pytest.raises(
    UserError,
    match=f"^'params/layer/kernel' holds {said}, which {bits} bits cannot hold; export with --bits 32$",
  ):
    pretrained.save(tmp_path / "m", tree, META, bits=bits)
  assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("bits", [4, "8", True, 8.0, None])
def test_other_bits_are_refused(tmp_path, bits):
  model = vae_jax.load(ROOT / "tests" / "golden" / "export_v1")
  refused(lambda folder: export(model, folder, bits), tmp_path / "m", "^bits = .*: must be 32, 16 or 8$")
  assert not (tmp_path / "m").exists()


EIGHT, ONES = np.ones((4, 64), np.int8), np.ones(64, np.float32)


def scaled(scale, kernel=EIGHT):
  """A file's arrays: a kernel of 8 bits, and its scale."""
  return {"params/layer/kernel": np.array(kernel), "params/layer/kernel:scale": np.array(scale)}


def ones_and(value):
  return np.where(np.arange(64) == 5, np.float32(value), ONES)


FAULTS = {
  "a scale alone": ({"a:scale": ONES}, "'a:scale' is the scale of no array of type I8"),
  "a scale of 32 bits": (
    scaled(ONES, np.ones((4, 64), np.float32)),
    "kernel:scale' is the scale of no array of",
  ),
  "a scale of 16 bits": (
    scaled(ONES, np.ones((4, 64), np.float16)),
    "kernel:scale' is the scale of no array of",
  ),
  "a scale of a scale": (scaled(ONES) | {"params/layer/kernel:scale:scale": ONES}, "the scale of no array"),
  "a scale of a folder": (
    scaled(ONES) | {"params/layer:scale": ONES},
    "'params/layer:scale' is the scale of no",
  ),
  "8 bits alone": ({"params/a": EIGHT}, "'params/a' is of type I8 and has no scale"),
  "too few": (scaled(ONES[:63]), r"the scale float32\[63\] of .* does not fit I8\[4, 64\]"),
  "one for all": (scaled(np.float32(1)), r"the scale float32\[\] of .* does not fit I8\[4, 64\]"),
  "one for each value": (scaled(np.ones((4, 64), np.float32)), "does not fit"),
  "of inputs": (scaled(np.ones((4, 1), np.float32)), "does not fit"),
  "of one axis": (scaled(ONES, np.ones(64, np.int8)), r"does not fit I8\[64\]"),
  "of no axis": (scaled(np.float32(1), np.ones((), np.int8)), r"does not fit I8\[\]"),
  "in 16 bits": (scaled(ONES.astype(np.float16)), r"the scale float16\[64\] of"),
  "in 8 bits": (scaled(ONES.astype(np.int8)), r"the scale int8\[64\] of"),
  "nan": (scaled(ones_and(np.nan)), "is negative, not finite or too large"),
  "inf": (scaled(ones_and(np.inf)), "is negative, not finite or too large"),
  "negative": (scaled(ones_and(-1)), "is negative, not finite or too large"),
  "overflow": (scaled(ONES * np.float32(3e38)), "is negative, not finite or too large"),
  "in an array": (scaled(ONES) | {"params/layer": ONES}, "lies in an array|is there twice"),
  "of a first stage": (
    {"first_stage/a": EIGHT},
    "'first_stage/a' is of type I8 and has no",
  ),
  "doubles": ({"params/a": np.ones((4, 64))}, "types F32, F16, I32 or I8, not F64 of 'params/a'"),
}


def write(folder, arrays):
  """What a stranger writes, with a digest that is right."""
  from safetensors.numpy import save

  content = save(arrays)
  (folder / "model.safetensors").write_bytes(content)
  meta = json.loads((folder / "config.json").read_text())
  meta |= {"sha256": hashlib.sha256(content).hexdigest(), "format_version": 3}
  (folder / "config.json").write_text(json.dumps(meta))


@pytest.mark.parametrize("case", FAULTS)
def test_8_bits_and_scales_that_do_not_fit_are_refused(folder, case):
  arrays, said = FAULTS[case]
  write(folder, scaled(0 * ONES))  # it is not the way that it is written
  assert not pretrained.read(folder)[0]["params"]["layer"]["kernel"].any()
  write(folder, arrays)
  refused(pretrained.read, folder, rf"model\.safetensors: cannot be read \(.*({said})")


def test_8_bits_do_not_become_more_memory_than_32_would_take(folder, monkeypatch):
  write(folder, scaled(ONES, np.ones((400, 64), np.int8)))
  monkeypatch.setattr(pretrained, "MAX_BYTES", 100_000)
  assert (folder / "model.safetensors").stat().st_size < 30_000
  refused(pretrained.read, folder, "102656 bytes as float32, more than 100000")


def test_others_can_read_the_weights(folder):
  from safetensors.numpy import load_file

  flat = load_file(folder / "model.safetensors")
  names = {"params/trunk/stem/kernel", "params/trunk/stem/bias", "params/log_scale", "params/empty/w"}
  assert set(flat) == names | {"codebook/counts", "codebook/mean"}
  np.testing.assert_array_equal(
    flat["params/trunk/stem/kernel"], variables()["params"]["trunk"]["stem"]["kernel"]
  )


def test_saving_again_replaces_the_model_and_keeps_the_card(folder):
  (folder / "README.md").write_text("card")
  pretrained.save(folder, variables(1), META | {"step": 13})
  read, meta, _ = pretrained.read(folder)
  assert meta["step"] == 13 and (folder / "README.md").read_text() == "card"
  assert_same(read, variables(1))


def test_weights_of_other_types_are_saved_as_float32_and_int32(tmp_path):
  tree = {"params": {"a": np.arange(3), "b": jax.numpy.ones((2, 3), jax.numpy.bfloat16).T, "c": np.eye(2)}}
  pretrained.save(tmp_path, tree, META)
  read = pretrained.read(tmp_path)[0]["params"]
  assert (read["a"].dtype, read["b"].dtype, read["c"].dtype) == (np.int32, np.float32, np.float32)
  np.testing.assert_array_equal(read["a"], [0, 1, 2])
  assert read["b"].shape == (3, 2)


def test_integers_that_int32_does_not_hold_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"'rest/n' holds 2147483648, more than 32 bits"):
    pretrained.save(tmp_path / "m", {"rest": {"n": np.array([2**31])}}, META)
  assert not (tmp_path / "m").exists()


# --- a first stage beside it ---


def test_a_first_stage_is_kept_beside_the_model(tmp_path):
  stage = META | {"step": 3}
  pretrained.save(tmp_path, variables(), META, (variables(1), stage))
  read, meta, below = pretrained.read(tmp_path)
  assert_same(read, variables())
  assert_same(below[0], variables(1))
  assert below[1] == json.loads(json.dumps(stage)) == meta["first_stage"] and meta["step"] == 12
  pretrained.save(tmp_path, variables(), META)
  assert pretrained.read(tmp_path)[2] is None


@pytest.mark.parametrize("kept", ["weights", "description"])
def test_half_a_first_stage_is_refused(tmp_path, kept):
  pretrained.save(tmp_path, variables(), META, (variables(1), META))
  both = {path: path.read_bytes() for path in tmp_path.iterdir()}
  pretrained.save(tmp_path, variables(), META)
  alone = json.loads((tmp_path / "config.json").read_text())
  if kept == "weights":  # of both, and the description of one
    content = both[tmp_path / "model.safetensors"]
    (tmp_path / "model.safetensors").write_bytes(content)
    alone["sha256"] = hashlib.sha256(content).hexdigest()
  else:
    alone["first_stage"] = META
  (tmp_path / "config.json").write_text(json.dumps(alone))
  refused(pretrained.read, tmp_path, r"model\.safetensors: cannot be read \(.*first stage")


# --- format 1: parameters alone ---

OLD = [
  path.parent
  for path in sorted([ROOT / "tests/golden/export_v1/config.json", *ROOT.glob("pretrained/*/config.json")])
  if json.loads(path.read_text())["format_version"] == 1
]


@pytest.mark.parametrize("folder", OLD, ids=lambda folder: folder.name)
def test_models_of_format_1_are_read(folder):
  from safetensors.numpy import load_file

  read, meta, below = pretrained.read(folder)
  assert meta["format_version"] == 1 and below is None and list(read) == ["params"]
  flat = load_file(folder / "model.safetensors")
  found = flatten_dict(read["params"], sep="/")
  assert set(found) == set(flat) and all(np.array_equal(found[name], flat[name]) for name in flat)
  assert vae_jax.load(folder).step == meta["step"]


def test_a_model_of_format_1_is_written_again_in_format_2(tmp_path):
  old = vae_jax.load(ROOT / "tests" / "golden" / "export_v1")
  export(old, tmp_path)
  new = vae_jax.load(tmp_path)
  assert pretrained.describe(tmp_path)["format_version"] == 2
  assert (new.config, new.spec, new.step) == (old.config, old.spec, old.step)
  assert_same(jax.device_get(new.variables), jax.device_get(old.variables))


def test_arrays_that_do_not_lie_in_order_keep_their_values(tmp_path):
  kernel = np.arange(12, dtype=np.float32).reshape(3, 4)
  pretrained.save(tmp_path, {"params": {"a": kernel.T, "b": kernel[:, ::2]}}, META)
  read = pretrained.read(tmp_path)[0]["params"]
  np.testing.assert_array_equal(read["a"], kernel.T)
  np.testing.assert_array_equal(read["b"], kernel[:, ::2])


def test_names_are_those_of_folders_with_weights(tmp_path, monkeypatch):
  monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "models")
  assert pretrained.names() == []
  for name in ("b", "a"):
    pretrained.save(tmp_path / "models" / name, variables(), META)
  (tmp_path / "models" / "empty").mkdir()
  (tmp_path / "models" / "file").write_text("")
  assert pretrained.names() == ["a", "b"]


def test_other_weights_are_refused(folder):
  pretrained.save(folder.parent / "other", variables(1), META)
  (folder / "model.safetensors").write_bytes((folder.parent / "other" / "model.safetensors").read_bytes())
  refused(pretrained.read, folder, r"model\.safetensors: does not match its checksum; fetch it again")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_refused(folder, keep):
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:keep])
  refused(pretrained.read, folder, "does not match its checksum")


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"\xff" * 64])
def test_a_file_that_holds_no_weights_is_refused(folder, content):
  (folder / "model.safetensors").write_bytes(content)
  meta = json.loads((folder / "config.json").read_text())
  meta["sha256"] = hashlib.sha256(content).hexdigest()
  (folder / "config.json").write_text(json.dumps(meta))
  refused(pretrained.read, folder, r"model\.safetensors: cannot be read")


def test_missing_files_are_named(folder):
  (folder / "model.safetensors").unlink()
  refused(pretrained.read, folder, r"model\.safetensors: cannot be read \(No such file or directory\)")
  (folder / "config.json").unlink()
  for function in (pretrained.read, pretrained.describe):
    refused(function, folder, r"config\.json: cannot be read \(No such file")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"format_version": 1}', "\xff"])
def test_a_description_that_is_none_is_refused(folder, text):
  (folder / "config.json").write_text(text, encoding="latin-1")
  for function in (pretrained.read, pretrained.describe):
    refused(function, folder, r"config\.json: does not describe a model; fetch it again")


@pytest.mark.parametrize("version", [4, 0, "1", None, True])
def test_a_newer_version_is_refused(folder, version):
  meta = json.loads((folder / "config.json").read_text()) | {"format_version": version}
  (folder / "config.json").write_text(json.dumps(meta))
  refused(pretrained.read, folder, "has format .*, this vae_jax reads 1 to 3; update vae_jax")


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot be written"):
    pretrained.save(tmp_path / "file", variables(), META)
  assert (tmp_path / "file").read_text() == ""


def test_numbers_that_json_lacks_write_nothing(tmp_path):
  with pytest.raises(ValueError, match="JSON"):
    pretrained.save(tmp_path / "m", variables(), META | {"step": float("nan")})
  assert not (tmp_path / "m").exists()
