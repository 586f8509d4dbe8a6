"""A run on a frozen first stage: which one it was, that it stays as it is, and what the two make together."""

import json
import re
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats
from scripts import script

from vae_jax import evaluation, models, runs
from vae_jax.configuration import apply_overrides, base_config, every_key, from_json, keys_of
from vae_jax.data.prepare import make_prepare
from vae_jax.errors import UserError
from vae_jax.inference import export, load
from vae_jax.keys import Key
from vae_jax.models.contract import Mode
from vae_jax.models.vae import VAE
from vae_jax.storage import exported
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training import assemble, steps
from vae_jax.training.loop import train
from vae_jax.training.writers import TIMES, Writers

evaluate = script("evaluate")

SHAPE, STEPS = (5, 4, 1), 6
COMMON = (
  "data.name=npz",
  f"training.steps={STEPS}",
  "training.batch_size=8",
  "training.log_every=2",
  "training.eval_every=3",
  "training.checkpoint_every=2",
  "training.steps_per_call=1",
  "training.warmup_steps=0",
  "evaluation.batch_size=8",
  "evaluation.pictures=4",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
  for split, n in ("train", 20), ("validation", 5), ("test", 5):
    np.savez(folder / f"{split}.npz", image=random.integers(0, 256, size=(n, *SHAPE), dtype=np.uint8))
  return folder


def first_config(data, *words):
  own = ("model.hidden=8", "model.latent_dim=3", "training.learning_rate=0.01")
  return apply_overrides(base_config(), [*COMMON, f"data.dir={data}", *own, *words])


def second_config(data, first, *words):
  own = ("model.name=latent_vae", "model.hidden=8", f"training.first_stage={first}")
  return apply_overrides(base_config(), [*COMMON, f"data.dir={data}", *own, *words])


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
  """The workdir of a first stage."""
  workdir = tmp_path_factory.mktemp("first") / "run"
  train(first_config(data), workdir)
  return workdir


@pytest.fixture(scope="module")
def other(data, tmp_path_factory):
  """Another first stage, of the same shapes."""
  workdir = tmp_path_factory.mktemp("other") / "run"
  train(first_config(data, "training.seed=1"), workdir)
  return workdir


@pytest.fixture(scope="module")
def run(data, first, tmp_path_factory):
  """(workdir, final state) of a second stage on the first."""
  workdir = tmp_path_factory.mktemp("second") / "run"
  return workdir, train(second_config(data, first), workdir)


def same(a, b):
  return jax.tree.all(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b))


def rows(workdir):
  found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [{k: v for k, v in row.items() if k not in TIMES} for row in found]


def files(folder):
  return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Stop(BaseException):
  """As KeyboardInterrupt, which pytest would take for one of its own."""


def train_until(step, config, workdir, monkeypatch):
  """Trains, and ends where the row of training of this step is written."""
  original = Writers.scalars

  def scalars(self, at, split, *args):
    if (at, split) == (step, "train"):
      raise Stop
    original(self, at, split, *args)

  with monkeypatch.context() as patch:
    patch.setattr(Writers, "scalars", scalars)
    with pytest.raises(Stop):
      train(config, workdir)


# --- a family of one's own ---


def test_a_family_is_known_while_it_is_registered(monkeypatch):
  mine = types.SimpleNamespace(FAMILY=VAE, KEYS={"model.mine": Key(8, "a number of mine")})
  monkeypatch.setitem(sys.modules, "family_of_mine", mine)
  monkeypatch.setitem(models.FAMILIES, "mine", "family_of_mine")
  assert keys_of("mine")["model.mine"].default == 8 and "model.mine" in every_key()
  assert "mine" in keys_of("mlp_vae")["model.name"].rule.words
  monkeypatch.delitem(models.FAMILIES, "mine")
  with pytest.raises(UserError, match="'mine' is not a model"):
    keys_of("mine")
  assert "mine" not in keys_of("mlp_vae")["model.name"].rule.words and "model.mine" not in every_key()


# --- which first stage ---


def test_the_run_keeps_which_first_stage_it_was_trained_on(run, first):
  digest = load(first).run.digest
  assert (
    len(digest) == 64
    and from_json((run[0] / "config.json").read_text()).training.first_stage_digest == digest
  )
  assert load(run[0]).config.training.first_stage_digest == digest


def test_the_digest_tells_weights_apart(first, other):
  one, two = load(first).run, load(other).run
  assert one.digest == load(first).run.digest != two.digest
  spoiled = jax.tree.map(np.array, one.variables)
  spoiled["params"]["decoder"]["Dense_0"]["bias"][0] += 1e-3
  assert one._replace(variables=spoiled).digest != one.digest


@pytest.mark.parametrize("moved", [False, True], ids=["in place", "moved"])
def test_a_stopped_run_continues_bit_for_bit(run, data, first, tmp_path, monkeypatch, moved):
  workdir = tmp_path / "run"
  train_until(6, second_config(data, first), workdir, monkeypatch)
  assert Checkpoints(workdir / "checkpoints").steps() == [2, 4]
  place = shutil.copytree(first, tmp_path / "elsewhere") if moved else first
  assert same(train(second_config(data, place), workdir), run[1])
  assert rows(workdir) == rows(run[0]) and files(workdir / "images") == files(run[0] / "images")
  assert load(workdir).config.training.first_stage == str(place)


def refused(config, workdir):
  """The line by which a start is refused; the workdir stays as it is."""
  before = files(workdir)
  with pytest.raises(UserError) as error:
    train(config, workdir)
  assert files(workdir) == before and "\n" not in str(error.value)
  return str(error.value)


def test_another_first_stage_is_refused_with_what_differs(run, data, first, other):
  ours, theirs = load(first).run.digest[:12], load(other).run.digest[:12]
  said = refused(second_config(data, other), run[0])
  assert said == (
    f"{run[0]} holds a run on the first stage {first} of digest {ours}, and training.first_stage={other} has the "
    f"digest {theirs}; give the one that it was trained on, wherever it lies now, or another --workdir"
  )
  digest = load(first).run.digest
  said = refused(second_config(data, other, f"training.first_stage_digest={digest}"), run[0])
  assert said.startswith(
    f"training.first_stage={other} has weights of digest {theirs}, and this run was trained on {ours};"
  )


def test_a_first_stage_that_was_trained_on_is_another_one(run, data, first, tmp_path):
  further = shutil.copytree(first, tmp_path / "further")
  shutil.rmtree(further / "checkpoints" / str(STEPS))  # as it was at step 4
  assert "has the digest" in refused(second_config(data, further), run[0])


def test_a_run_with_and_without_a_first_stage_are_two(run, data, first):
  config = apply_overrides(
    base_config(), [*COMMON, f"data.dir={data}", "model.name=latent_vae", "model.hidden=8"]
  )
  assert f"holds a run on the first stage {first} of digest" in refused(config, run[0])
  said = refused(first_config(data, f"training.first_stage={first}"), first)
  assert said.startswith(
    f"{first} holds a run without a first stage, and training.first_stage={first} is one; leave it out"
  )


@pytest.mark.parametrize(
  ("first_stage", "message"),
  [
    ("nowhere", r"training\.first_stage=nowhere: no such run; train it first"),
    ("", r"latent_vae needs the field 'latents'.*set training\.first_stage"),
  ],
)
def test_a_second_stage_without_its_first_leaves_no_workdir(
  data, tmp_path, monkeypatch, first_stage, message
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=message) as error:
    train(second_config(data, first_stage), tmp_path / "run")
  assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["total_variation", "adversarial.weight"])
def test_a_term_on_images_is_refused_before_a_workdir_is_made(data, first, tmp_path, key):
  message = rf"^objective\.{key}=1.0 compares images, and model.name=latent_vae gives none back; set it to 0$"
  with pytest.raises(UserError, match=message):
    train(second_config(data, first, f"objective.{key}=1"), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_first_stage_that_needs_labels_is_refused(first, monkeypatch):
  stage = load(first).run
  monkeypatch.setattr(VAE, "conditions", frozenset({"label"}))
  with pytest.raises(UserError, match=r"^training\.first_stage: mlp_vae needs a label of each image.*none$"):
    runs.with_first_stage(lambda *args: {}, stage)


def test_a_family_that_uses_no_first_stage_is_refused(data, first, tmp_path):
  said = rf"^training\.first_stage={first}: model\.name=mlp_vae uses none; leave it out$"
  with pytest.raises(UserError, match=said):
    train(first_config(data, f"training.first_stage={first}"), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_first_stage_of_other_images_is_refused(data, first, tmp_path):
  height, width, c = SHAPE
  takes, given = f"{height} x {width} x {c}", f"{height - 1} x {width - 1} x {c}"
  with pytest.raises(UserError, match=f"takes images of {takes}, not {given}; set data.size") as error:
    train(second_config(data, first, f"data.size={height - 1},{width - 1}"), tmp_path / "run")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", ["data.binarize=threshold", "data.dequantize=true"])
def test_a_first_stage_that_saw_other_images_of_the_same_data_is_refused(data, first, tmp_path, change):
  """Its latents of images that are not binarised, say, are no latents that it was trained to have."""
  key, value = change.split("=")
  there = {"data.binarize": "none", "data.dequantize": "false"}[key]
  said = f"training.first_stage={first} was trained with {key}={there}, and {change} here; set {key}={there}"
  with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
    train(second_config(data, first, change), tmp_path / "run")
  assert not (tmp_path / "run").exists() and value


def test_a_second_stage_is_no_first_stage(run, data, tmp_path):
  """Neither of another run nor, in a file that was changed, of itself, which would have no end."""
  said = (
    rf"^training\.first_stage={run[0]}: {run[0]} is a second stage itself; name a run without a first stage$"
  )
  with pytest.raises(UserError, match=said):
    runs.open_first_stage(second_config(data, run[0]))


@pytest.mark.parametrize("has", ["with", "without"])
def test_an_exported_model_brings_the_first_stage_that_it_speaks_of(run, first, tmp_path, has):
  """A file of a stranger does not choose a run of this machine as its first stage."""
  model = load(run[0])
  told = {"config": model.config.to_dict(), **runs.describe_spec(model.spec), "step": model.step}
  below = load(first).run
  if has == "with":
    told["config"]["training"] |= {"first_stage": "", "first_stage_digest": ""}
    given = (below.variables, {"config": below.config.to_dict(), **runs.describe_spec(below.spec), "step": 1})
  else:
    told["config"]["training"] |= {"first_stage": str(first)}
    given = None
  exported.save(tmp_path / "m", model.run.variables, told, given)
  with pytest.raises(UserError, match=f"comes {has} a first stage, its config says otherwise"):
    load(tmp_path / "m")


# --- it is frozen ---


def test_the_first_stage_is_an_argument_of_the_step_and_no_constant(data, first, tmp_path, monkeypatch):
  calls = []

  def make(step):
    calls.append(original(step))
    return calls[-1]

  original = steps.make_train_call
  monkeypatch.setattr(steps, "make_train_call", make)
  parts = assemble.assemble(second_config(data, first), tmp_path / "run")
  stored, batches = parts.train.arrays, {"index": np.zeros((1, 8), np.int32)}
  size = sum(x.size for x in jax.tree.leaves(parts.frozen["first_stage"]))

  def constants(call, *args):
    return sum(np.size(x) for x in jax.make_jaxpr(call)(*args).consts)

  like = parts.init()
  assert constants(calls[0], like, stored, batches, parts.frozen) < size / 2
  closed = lambda state, stored, batches: calls[0](state, stored, batches, parts.frozen)  # noqa: E731
  assert constants(closed, like, stored, batches) >= size  # what the line above looks for
  assert (
    set(like.params) == {"encoder", "decoder", "log_gamma"} and not like.rest
  )  # nor is it part of the state


def test_the_first_stage_gets_no_gradient_and_does_not_change(data, first, tmp_path):
  parts = assemble.assemble(second_config(data, first), tmp_path / "run")
  state, batch = parts.init(), {"image": parts.train.arrays["image"][:8]}
  stage = runs.open_first_stage(parts.config)
  prepare = runs.with_first_stage(make_prepare(parts.config.data, training=True), stage)
  mode = Mode(jnp.zeros((), jnp.int32), jax.random.key(2), training=True)

  def loss(params, frozen):
    ready = prepare(jax.random.split(jax.random.key(0), 8), batch, frozen)
    output = parts.model.apply({"params": params}, ready, jax.random.split(jax.random.key(1), 8), mode)
    return output.terms["distortion"].mean()

  own, below = jax.grad(loss, argnums=(0, 1))(state.params, parts.frozen)
  assert all(np.asarray(x).any() for x in jax.tree.leaves(own["decoder"]))
  assert not any(np.asarray(x).any() for x in jax.tree.leaves(below["first_stage"]))

  before = files(first), jax.device_get(parts.frozen["first_stage"])
  batches = {"index": np.arange(24, dtype=np.int32).reshape(3, 8) % 20}
  moved, _ = parts.train_call(state, parts.placement.put(parts.train.arrays), batches, parts.frozen)
  assert int(moved.step) == 3 and same(jax.device_get(parts.frozen["first_stage"]), before[1])
  assert files(first) == before[0]


# --- both together ---


def test_the_batch_has_draws_of_the_first_stages_posterior(run, first, data):
  """Standardised by that posterior they are standard normal, and no two latents or examples share their noise."""
  model, stage = load(run[0]), load(first)
  image = np.load(data / "test.npz")["image"][:1]
  prepare, frozen = evaluation.preparation(model)
  keys = jax.random.split(jax.random.key(0), 400)
  drawn = jax.jit(prepare)(keys, {"image": np.repeat(image, 400, axis=0)}, frozen)["latents"]
  posterior = stage.encode(image)
  noise = (np.asarray(drawn) - posterior.mean) / np.exp(0.5 * np.asarray(posterior.logvar))
  assert noise.shape == (400, 3) and stats.kstest(noise.ravel(), "norm").pvalue > 0.01
  assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.2  # 4 standard errors
  assert model.spec["latents"].shape == (3,) and model.image_shape == SHAPE


def test_draws_of_a_split_depend_on_the_seed_and_the_record_alone(run, first, data):
  model = load(run[0])
  one, again, other = (
    np.asarray(evaluation.prepared(model, "test", 5, seed)["latents"]) for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(one, again)
  assert np.abs(one - other).min() > 0
  alone = evaluation.prepared(model, "test", 1)["latents"]
  np.testing.assert_allclose(alone, one[:1], rtol=1e-5, atol=1e-6)  # another size is compiled anew


def test_samples_are_images_of_the_first_stage(run, first):
  model, stage = load(run[0]), load(first)
  images = np.asarray(model.sample(jax.random.key(3), 6))
  assert images.shape == (6, *SHAPE) and 0 <= images.min() <= images.max() <= 1
  noise = model._noise(jax.random.key(3), 6, 1.0)
  latents = model.module.apply(model.variables, noise, {}, method="generate")
  assert latents.shape == (6, 3)
  np.testing.assert_allclose(images, stage.decode(latents), rtol=1e-5, atol=1e-6)
  parts = [model.sample(jax.random.key(3), 2, start=start) for start in (0, 2, 4)]
  np.testing.assert_allclose(images, np.concatenate(parts), rtol=1e-5, atol=1e-6)


def test_a_second_stage_draws_latents_and_no_pixels(run, first):
  model = load(run[0])
  latents = model.latents(jax.random.key(3), 6)
  np.testing.assert_allclose(
    model.sample(jax.random.key(3), 6), load(first).decode(latents), rtol=1e-5, atol=1e-6
  )
  with pytest.raises(UserError, match=r"^this run \(latent_vae\) draws no pixels; "):
    model.sample(jax.random.key(0), 2, pixels=True)


def test_pictures_of_training_are_samples_alone(run):
  assert {p.name for p in (run[0] / "images").iterdir()} == {f"samples_{step:07d}.png" for step in (3, 6)}
  for path in (run[0] / "images").iterdir():
    with Image.open(path) as picture:
      assert np.asarray(picture).std() > 0
  validation = [row for row in rows(run[0]) if row["split"] == "validation"][-1]
  assert {"loss", "rate", "distortion", "active_units", "neg_elbo_latents"} <= set(validation)
  assert not any({"psnr", "neg_elbo"} & set(row) for row in rows(run[0]))  # neither is of latents


def test_what_cannot_be_scored_is_absent_with_its_reason(run, tmp_path, capsys):
  workdir = shutil.copytree(run[0], tmp_path / "run")
  evaluate.main(["--workdir", str(workdir)])
  assert {p.name for p in (workdir / "evaluation").iterdir()} == {"metrics.json", "samples.png"}
  scores = json.loads((workdir / "evaluation" / "metrics.json").read_text())
  assert scores["absent"] == {
    "neg_elbo": "latent_vae bounds the density of latents, not of images",
    "psnr": "latent_vae gives no images back",
  }
  assert not {"psnr", "mse", "ssim", "bits_per_dim", "iwae_nll", "neg_elbo"} & set(scores)
  assert scores["examples"] == 5 and scores["distortion"] > 0 and scores["latent_units"] == 3
  total = scores["rate"] + scores["distortion"]
  np.testing.assert_allclose(scores["neg_elbo_latents"], total, rtol=1e-6)
  assert {"latents_distance", "latents_distance_prior"} <= set(scores) and scores["latents_compared"] == 5
  out = capsys.readouterr().out
  assert f"{total:.3f} nats of 3 latents, not of an image" in out
  assert "no psnr: latent_vae gives no images back" in out
  assert out.endswith(f"wrote {workdir}/evaluation/metrics.json, samples.png\n")


@pytest.mark.parametrize(
  "words", [["--mode", "reconstruct"], ["--mode", "frechet", "--of", "reconstructions"]], ids=" ".join
)
def test_what_it_cannot_do_is_refused_in_one_line(run, tmp_path, words):
  workdir = shutil.copytree(run[0], tmp_path / "run")
  with pytest.raises(UserError, match=r"\(latent_vae\) gives no images back; .*samples?") as error:
    evaluate.main(["--workdir", str(workdir), *words])
  assert "\n" not in str(error.value) and not (workdir / "evaluation").exists()


@pytest.mark.parametrize(
  ("mode", "said"),
  [
    (
      "reconstruct",
      "gives no images back; it samples new ones (--mode sample); its first stage gives images back",
    ),
    ("encode", "cannot encode images into latents; its first stage can"),
  ],
)
def test_what_the_first_stage_can_do_is_said(run, first, mode, said):
  with pytest.raises(UserError, match=re.escape(f"{said} (--workdir {first})")):
    evaluate.main(["--workdir", str(run[0]), "--mode", mode])


def test_a_picture_of_samples(run, tmp_path):
  evaluate.main(
    ["--workdir", str(run[0]), "--mode", "sample", "--num", "3", "--output", str(tmp_path / "s.png")]
  )
  with Image.open(tmp_path / "s.png") as picture:
    assert np.asarray(picture).std() > 0


@pytest.mark.parametrize("by", ["export", "evaluate.py"])
def test_an_exported_model_needs_neither_run(run, data, first, tmp_path, by):
  below = shutil.copytree(first, tmp_path / "first")
  second = tmp_path / "second"
  train(second_config(data, below), second)
  model, folder = load(second), tmp_path / "exported"
  expected, digest = model.sample(jax.random.key(0), 4), model.first.run.digest
  if by == "export":
    export(model, folder)
  else:
    evaluate.main(["--workdir", str(second), "--mode", "export", "--output", str(folder)])
  shutil.rmtree(below), shutil.rmtree(second)
  again = load(folder)
  np.testing.assert_array_equal(again.sample(jax.random.key(0), 4), expected)
  assert again.first.run.digest == digest == again.config.training.first_stage_digest
  assert same(again.variables, model.variables) and again.first.config.model.name == "mlp_vae"
  scores = evaluation.score_split(again, "test", samples=0, batch_size=8)
  assert scores["absent"] == evaluation.score_split(model, "test", samples=0, batch_size=8)["absent"]


def test_a_run_whose_first_stage_is_gone_is_refused_in_one_line(data, first, tmp_path):
  below = shutil.copytree(first, tmp_path / "first")
  train(second_config(data, below), tmp_path / "second")
  shutil.rmtree(below)
  with pytest.raises(UserError, match=rf"^training\.first_stage={below}: .*no such run") as error:
    load(tmp_path / "second")
  assert "\n" not in str(error.value)


def test_a_first_stage_may_be_an_exported_model(run, data, first, tmp_path):
  """The same weights: the same run, which may be continued with either."""
  export(load(first), tmp_path / "first")
  assert same(train(second_config(data, tmp_path / "first"), tmp_path / "run"), run[1])
  assert load(tmp_path / "run").config.training.first_stage_digest == load(first).run.digest


def test_few_bits_leave_the_first_stage_as_it_was_trained_on(run, data, first, tmp_path, monkeypatch):
  """And a first stage of 8 bits is one like any other, with a digest of its own."""
  monkeypatch.setattr(exported, "_LEAST_VALUES", 1)
  model = load(run[0])
  for bits in 16, 8:
    export(model, tmp_path / str(bits), bits)
    again = load(tmp_path / str(bits))
    assert same(again.first.variables, model.first.variables)
    assert not same(again.variables, model.variables)
  export(load(first), tmp_path / "first", 8)
  stage = runs.open_first_stage(config := second_config(data, tmp_path / "first"))
  assert config.training.first_stage_digest == stage.digest != model.first.run.digest


def test_a_relative_first_stage_is_found_beside_the_run(run, data, first, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  shutil.copytree(first, tmp_path / "first")
  train(second_config(data, "first"), tmp_path / "second")
  expected = load("second").sample(jax.random.key(0), 2)
  shutil.move(tmp_path / "first", tmp_path / "second" / "first")
  np.testing.assert_array_equal(load(tmp_path / "second").sample(jax.random.key(0), 2), expected)
