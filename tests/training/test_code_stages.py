"""Priors over codes as second stages: what they take from the first, scores, samples and refusals, in whole runs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scripts import script

from vae_jax import evaluation
from vae_jax.configuration import apply_overrides, base_config, from_json, validate
from vae_jax.data import text
from vae_jax.errors import UserError
from vae_jax.inference import export, load
from vae_jax.models.contract import Mode
from vae_jax.training.loop import train

evaluate = script("evaluate")

SHAPE = (8, 8, 1)
COMMON = (
  "data.name=npz",
  "training.steps=2",
  "training.batch_size=8",
  "training.log_every=1",
  "training.eval_every=2",
  "training.checkpoint_every=2",
  "training.steps_per_call=1",
  "evaluation.batch_size=8",
  "evaluation.pictures=4",
)
FIRST = ("model.channels=4,6", "model.blocks=0", "model.codes=6", "model.code_dim=3", "model.kmeans_steps=0")
PRIOR = ("model.width=8", "model.layers=1", "model.heads=2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
  for split, n in ("train", 12), ("validation", 5), ("test", 5):
    images = random.integers(0, 256, size=(n, *SHAPE), dtype=np.uint8)
    np.savez(folder / f"{split}.npz", image=images, label=np.arange(n, dtype=np.int32) % 3)
  return folder


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("first") / "run"
  train(apply_overrides(base_config("vq_vae"), [*COMMON, f"data.dir={data}", *FIRST]), workdir)
  return workdir


def second_config(data, first, *words, name="code_transformer"):
  own = (f"training.first_stage={first}", *PRIOR)
  return apply_overrides(base_config(name), [*COMMON, f"data.dir={data}", *own, *words])


@pytest.fixture(scope="module")
def run(data, first, tmp_path_factory):
  """A transformer on labels."""
  workdir = tmp_path_factory.mktemp("second") / "run"
  train(second_config(data, first, "model.condition=label", "model.classes=3"), workdir)
  return workdir


def test_the_config_takes_codes_and_layout_from_the_first_stage(run, data, first):
  config = from_json((run / "config.json").read_text())
  assert (config.model.codes, config.model.layout) == (6, (2, 2, 1))
  assert load(run).module.maps == ((2, 2, 1),) == load(first).module.layout
  train(
    second_config(data, first, "model.condition=label", "model.classes=3"), run
  )  # continued: nothing differs


@pytest.mark.parametrize(
  ("word", "said"),
  [
    ("model.codes=7", r"^model\.codes=7, and training\.first_stage=.* has 6; leave out model\.codes, "),
    ("model.layout=4,1,1", r"^model\.layout=4,1,1, and training\.first_stage=.* has 2,2,1; leave out "),
  ],
)
def test_those_of_another_first_stage_are_refused(data, first, tmp_path, word, said):
  with pytest.raises(UserError, match=said):
    train(second_config(data, first, word), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_scores_bound_the_images(run, first, data, tmp_path):
  """The bound is the codes' NLL and the first stage's distortion, of the same images."""
  model, stage = load(run), load(first)
  scores = evaluation.score_split(model, "test", samples=0, batch_size=8)
  images = np.load(data / "test.npz")["image"]
  batch = {"image": jnp.asarray(images, jnp.float32) / 255, "label": jnp.arange(5) % 3}
  mode, keys = Mode(jnp.int32(0), jax.random.key(0)), jax.random.split(jax.random.key(0), 5)
  below = stage.module.apply(stage.variables, batch, keys, mode)
  codes = model.module.apply(model.variables, {**batch, "codes": below.latents["codes"]}, keys, mode)
  nll, distortion = (float(x.mean()) for x in (codes.terms["code_nll"], below.terms["distortion"]))
  np.testing.assert_allclose(scores["code_nll"], nll, rtol=1e-5)
  np.testing.assert_allclose(scores["bits_per_code"], nll / 4 / np.log(2), rtol=1e-5)
  np.testing.assert_allclose(scores["first_stage_distortion"], distortion, rtol=1e-5)
  np.testing.assert_allclose(scores["neg_elbo_given_label"], nll + distortion, rtol=1e-5)
  assert "neg_elbo" not in scores and scores["likelihood"] == stage.likelihood
  assert scores["absent"]["neg_elbo"].endswith("neg_elbo_given_label bounds -log p(image | label)")
  assert "psnr" in scores["absent"]
  lines = evaluation.summary(scores)
  assert f"{scores['bits_per_code']:.4f} bits a code" in lines and "given the label" in lines
  uniform = float(below.terms["distortion"].mean() + below.terms["rate"].mean())
  assert scores["neg_elbo_given_label"] < uniform + 1  # about as good as the uniform prior, even untrained


def test_samples_are_images_of_the_first_stage(run, first):
  model = load(run)
  images = np.asarray(model.sample(0, 3, label=[0, 1, 2]))
  assert images.shape == (3, *SHAPE) and 0 <= images.min() <= images.max() <= 1
  one = model.sample(0, 3, label=[0, 1, 2], top_k=1)
  np.testing.assert_array_equal(one, model.sample(0, 3, 0.0, label=[0, 1, 2]))
  assert model.sample(0, 2, label=1, top_k=2, top_p=0.5, guidance=2.0).shape == (2, *SHAPE)


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"top_k": 7}, r"^top_k=7 must be an integer from 1 to 6$"),
    ({"top_k": 0}, r"^top_k=0 must be an integer from 1 to 6$"),
    ({"top_k": 1.5}, r"^top_k=1\.5 must be an integer from 1 to 6$"),
    ({"top_p": 0.0}, r"^top_p=0\.0 must be a number > 0 and <= 1$"),
    ({"top_p": float("nan")}, r"^top_p=nan must be a number > 0 and <= 1$"),
    ({"guidance": -1.0}, r"^guidance=-1\.0 must be a number >= 0$"),
    ({"candidates": 0}, r"^candidates=0 must be an integer from 1 to 1000$"),
    ({"candidates": 1.5}, r"^candidates=1\.5 must be an integer from 1 to 1000$"),
    ({"guidance": float("inf")}, r"^guidance=inf must be a number >= 0$"),
    ({"label": 3}, r"^label=3 must be one of 0 to 2$"),
  ],
)
def test_options_out_of_range_are_refused(run, options, said):
  with pytest.raises(UserError, match=said):
    load(run).sample(0, 2, **{"label": 0, **options})


def test_the_best_of_candidates(run):
  """It is the most probable one given its label, of draws that do not depend on the number of images."""
  model = load(run)
  seen, log_prob = [], model._log_prob

  def recorded(variables, codes, fields):
    seen.append((np.asarray(codes), np.asarray(log_prob(variables, codes, fields))))
    return seen[-1][1]

  model._log_prob = recorded
  labels = [0, 1, 2, 0, 1]
  images = model.sample(3, 5, label=labels, candidates=4)
  codes, found = (np.stack(x) for x in zip(*seen, strict=True))
  assert codes.shape == (4, 5, 4) and len(np.unique(codes.reshape(20, 4), axis=0)) > 10
  best = found.argmax(axis=0)
  assert len(set(best)) > 1
  np.testing.assert_array_equal(images, model.first.from_stage(jnp.asarray(codes[best, range(5)])))
  np.testing.assert_array_equal(model.sample(3, 2, label=labels[:2], candidates=4), images[:2])
  plain = model.sample(3, 5, label=labels)
  np.testing.assert_array_equal(plain, model.first.from_stage(jnp.asarray(codes[0])))
  np.testing.assert_array_equal(plain, model.sample(3, 5, label=labels, candidates=1))


def test_a_model_without_such_options_refuses_them(first, run):
  with pytest.raises(UserError, match=r"^this run \(vq_vae.*cannot sample"):
    load(first).sample(0, 2, top_k=3)


def test_the_command(run, tmp_path):
  words = ["--workdir", str(run), "--mode", "sample", "--num", "2", "--label", "1", "--output"]
  options = ["--top_k", "3", "--top_p", "0.9", "--guidance", "2", "--candidates", "2"]
  evaluate.main([*words, str(tmp_path / "s.png"), *options])
  evaluate.main([*words, f"{tmp_path}/many/", *options])
  assert len(list((tmp_path / "many").iterdir())) == 2
  with Image.open(tmp_path / "s.png") as picture:
    assert np.asarray(picture).std() > 0
  with pytest.raises(UserError, match=r"^text='a': this run \(code_transformer\) knows no text"):
    evaluate.main([*words, str(tmp_path / "t.png"), "--text", "a"])


@pytest.mark.parametrize("name", ["masked_codes", "code_convolution"])
def test_the_other_families(data, first, tmp_path, name):
  """Without a condition: they are trained, scored, drawn and exported."""
  words = ["model.decode_steps=2"] if name == "masked_codes" else []
  train(second_config(data, first, *words, name=name), tmp_path / "run")
  evaluate.main(["--workdir", str(tmp_path / "run")])
  scores = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
  if name == "masked_codes":
    assert "no bound" in scores["absent"]["neg_elbo"] and scores["masked_nll"] > 0
  else:
    total = scores["code_nll"] + scores["first_stage_distortion"]
    np.testing.assert_allclose(scores["neg_elbo"], total, rtol=1e-6)
    assert set(scores["absent"]) == {"psnr"} and scores["bits_per_dim"] > 0
  model = load(tmp_path / "run")
  with pytest.raises(UserError, match=r"^guidance=2\.0: this run"):
    model.sample(0, 2, guidance=2.0)
  if name == "masked_codes":
    with pytest.raises(UserError, match=r"^candidates=2: this run .*; leave candidates out"):
      model.sample(0, 2, candidates=2)
  export(model, tmp_path / "exported")
  np.testing.assert_array_equal(load(tmp_path / "exported").sample(0, 2), model.sample(0, 2))


def test_an_export_that_speaks_of_other_codes_is_refused(run, tmp_path):
  """A file of a stranger: its config must be of the first stage that lies beside it."""
  model = load(run)
  model.run.config.model.layout = (4, 1, 1)
  export(model, tmp_path / "m")
  with pytest.raises(UserError, match=r"m.*(layout|weights)"):
    load(tmp_path / "m")


def test_codes_of_the_data_itself_need_a_first_stage(data, tmp_path):
  folder = tmp_path / "data"
  folder.mkdir()
  for split in ("train", "validation", "test"):
    images = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    np.savez(folder / f"{split}.npz", image=images, codes=np.zeros((5, 4), np.int32))
  config = second_config(folder, "", "model.codes=6", "model.layout=2,2,1")
  with pytest.raises(UserError, match=r"^data\.name=npz has codes of its own.*set training\.first_stage"):
    train(config, tmp_path / "run")


def test_a_first_stage_without_codes_is_refused(data, tmp_path):
  config = apply_overrides(
    base_config(), [*COMMON, f"data.dir={data}", "model.hidden=4", "model.latent_dim=2"]
  )
  train(config, tmp_path / "first")
  with pytest.raises(UserError, match=r"first: mlp_vae has no codes, and .* learns codes; give a run"):
    train(second_config(data, tmp_path / "first"), tmp_path / "run")


def test_a_text_is_a_condition(data, first, tmp_path):
  folder = tmp_path / "data"
  folder.mkdir()
  for split in ("train", "validation", "test"):
    found = dict(np.load(data / f"{split}.npz"))
    text = np.random.default_rng(0).integers(1, 257, (len(found["image"]), 4)).astype(np.int32)
    np.savez(folder / f"{split}.npz", image=found["image"], text=text)
  train(second_config(folder, first, "model.condition=text"), tmp_path / "run")
  model = load(tmp_path / "run")
  scores = evaluation.score_split(model, "test", samples=0, batch_size=8)
  assert {"text_nll", "neg_elbo_given_text", "bits_per_dim_given_text"} <= set(scores)
  same = [model.sample(0, 2, text=text) for text in ("ab", ["ab", "ab"], [98 - 0, 99, 0, 0])]
  np.testing.assert_array_equal(same[0], same[1])
  np.testing.assert_array_equal(same[0], same[2])
  words = ["--workdir", str(tmp_path / "run"), "--mode", "sample", "--num", "2", "--text", "ab"]
  evaluate.main([*words, "--output", str(tmp_path / "s.png")])
  for text, said in (
    ("abcde", "text='abcde' has 5 bytes"),
    ([257, 0, 0, 0], "text has tokens from 0 to 257"),
    (None, "needs a text"),
  ):
    with pytest.raises(UserError, match=said):
      model.sample(0, 2, text=text)


def test_a_captioner_chooses_among_candidates(data, first, tmp_path):
  """It keeps the candidate of the greatest log p(text | image) + log p(codes | text) / codes."""
  folder = tmp_path / "data"
  folder.mkdir()
  for split in ("train", "validation", "test"):
    images = np.load(data / f"{split}.npz")["image"]
    np.savez(folder / f"{split}.npz", image=images, text=np.full((len(images), 4), 98, np.int32))
  train(second_config(folder, first, "model.condition=text"), tmp_path / "run")
  words = (*COMMON, f"data.dir={folder}", *PRIOR, "model.channels=4", "model.blocks=0")
  train(apply_overrides(base_config("captioner"), words), tmp_path / "captioner")
  model, ranker = load(tmp_path / "run"), load(tmp_path / "captioner")
  seen, log_prob = [], model._log_prob

  def recorded(variables, codes, fields):
    seen.append((np.asarray(codes), np.asarray(log_prob(variables, codes, fields))))
    return seen[-1][1]

  model._log_prob = recorded
  chosen = model.sample(3, 5, text="aab", candidates=4, ranker=ranker)
  codes, own = (np.stack(x) for x in zip(*seen, strict=True))
  images = np.stack([model.first.from_stage(jnp.asarray(one)) for one in codes])
  told = np.stack([ranker.text_log_prob(one, ["aab"] * 5) for one in images])
  best = (told + own / 4).argmax(axis=0)
  assert told.std(axis=0).min() > 0 and not np.array_equal(best, own.argmax(axis=0))
  np.testing.assert_allclose(chosen, images[best, range(5)], atol=1e-6)
  output = tmp_path / "s.png"
  words = [
    "--workdir",
    str(tmp_path / "run"),
    "--mode",
    "sample",
    "--num",
    "2",
    "--text",
    "aab",
    "--candidates",
  ]
  evaluate.main([*words, "2", "--ranker", str(tmp_path / "captioner"), "--output", str(output)])
  assert output.exists()
  evaluate.main(["--workdir", str(tmp_path / "captioner")])
  scores = json.loads((tmp_path / "captioner" / "evaluation" / "metrics.json").read_text())
  assert "nats of a text" in evaluation.summary(scores) and scores["text_nll"] > 0
  for options, said in (
    (
      {"ranker": ranker, "candidates": 1},
      r"^ranker chooses among candidates, and there is 1; give candidates=8 \(--candidates 8\)$",
    ),
    (
      {"ranker": model, "candidates": 2},
      r"^ranker is a run of code_transformer, which cannot tell how likely a text is; give a captioner",
    ),
    ({"ranker": "runs/captioner", "candidates": 2}, "^ranker='runs/captioner': give a loaded captioner"),
    (
      {"ranker": ranker, "candidates": 2, "text": [98] * 4},
      "^ranker reads a text, and none is given in words",
    ),
  ):
    with pytest.raises(UserError, match=said):
      model.sample(0, 2, **{"text": "aab", **options})
  with pytest.raises(UserError, match=r"cannot sample new images; [^;]* can$"):
    ranker.sample(0, 2)
  other = apply_overrides(base_config("captioner"), [*words_of_other_size(tmp_path)])
  train(other, tmp_path / "other")
  with pytest.raises(UserError, match=r"^ranker is of images of 4 x 4 x 1, and this run of 8 x 8 x 1; "):
    model.sample(0, 2, text="aab", candidates=2, ranker=load(tmp_path / "other"))


def words_of_other_size(folder):
  """A config's words for a captioner of 4 x 4 images, whose data it makes."""
  (folder / "small").mkdir()
  for split in ("train", "validation", "test"):
    images = np.zeros((9, 4, 4, 1), np.uint8)
    np.savez(folder / "small" / f"{split}.npz", image=images, text=np.full((9, 4), 98, np.int32))
  return (*COMMON, f"data.dir={folder / 'small'}", *PRIOR, "model.channels=4", "model.blocks=0")


def test_texts_by_pairs_of_bytes(data, first, tmp_path):
  """Pairs are learned when a run starts, kept in its config, and used for texts of its own."""
  folder, words = tmp_path / "data", ["two red", "one red", "two blue", "one blue"]
  folder.mkdir()
  for split in ("train", "validation", "test"):
    images = np.load(data / f"{split}.npz")["image"]
    tokens = np.stack([text.encode(words[i % 4], 9) for i in range(len(images))])
    np.savez(folder / f"{split}.npz", image=images, text=tokens)
  more = ("model.condition=text", "data.byte_pairs=40", "data.text_length=3")
  train(second_config(folder, first, *more), tmp_path / "run")
  config = from_json((tmp_path / "run" / "config.json").read_text())
  pairs = tuple(config.data.pairs)
  assert pairs == text.learn([words[i % 4] for i in range(12)], 40)
  assert config.model.text_tokens == 257 + len(pairs) // 2 and text.size("one blue", pairs) == 2
  train(second_config(folder, first, *more), tmp_path / "run")  # continued: nothing differs
  model = load(tmp_path / "run")
  assert model.module.text_length == 3
  params = model.run.variables["params"]
  assert params["text_embedding"]["embedding"].shape[0] == config.model.text_tokens
  drawn = model.sample(0, 2, text=["two blue", "one red"])
  tokens = np.stack([text.encode(one, 3, pairs) for one in ("two blue", "one red")])
  np.testing.assert_array_equal(drawn, model.sample(0, 2, text=tokens))
  with pytest.raises(UserError, match=r"^text='grey' has 4 tokens, and this run .* takes 3; shorten it$"):
    model.sample(0, 2, text="grey")
  scores = evaluation.score_split(model, "test", samples=0, batch_size=8)
  assert np.isfinite(scores["text_nll"])
  export(model, tmp_path / "exported")
  np.testing.assert_array_equal(
    load(tmp_path / "exported").sample(0, 2, text="one red"), model.sample(0, 2, text="one red")
  )
  with pytest.raises(
    UserError, match=r"the text 't.* has \d tokens, and data\.text_length=1; set data\.text_length=\d$"
  ):
    train(second_config(folder, first, *more[:2], "data.text_length=1"), tmp_path / "short")
  with pytest.raises(UserError, match=r"^data\.byte_pairs=40: the records of data\.name=npz have no texts; "):
    train(second_config(data, first, "model.condition=label", "data.byte_pairs=40"), tmp_path / "none")


@pytest.mark.parametrize(
  ("word", "said"),
  [
    ("data.pairs=98,99", r"^data\.pairs has 1 pairs, and data\.byte_pairs=0; leave out data\.pairs"),
    (
      "data.pairs=98,257",
      r"^data\.pairs=98,257 must be two integers for each pair: tokens from 1 to 256, or ",
    ),
    ("data.pairs=98", r"^data\.pairs=98 must be two integers for each pair"),
    (
      "data.byte_pairs=3",
      r"^data\.byte_pairs=3 needs texts, and data\.name=digits has none.*; set data\.captions to files",
    ),
  ],
)
def test_pairs_that_cannot_be(word, said):
  with pytest.raises(UserError, match=said):
    validate(apply_overrides(base_config("vq_vae"), [word]))
