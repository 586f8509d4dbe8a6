"""The captioner: a distribution over texts, given an image; what it sees and what not; that it learns one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import filled, mode

from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.models.contract import init_variables
from vae_jax.types import image_spec

T, SHAPE = 2, (8, 8, 3)
WORDS = ("model.channels=4", "model.blocks=0", "model.width=8", "model.layers=1", "model.heads=2")


def spec_of(length=T):
  return image_spec(SHAPE, text=jax.ShapeDtypeStruct((length,), jnp.int32))


def model_of(*words, length=T):
  return build(apply_overrides(base_config("captioner"), [*WORDS, *words]).model, spec_of(length))


@functools.cache
def made(length=T):
  """(model, variables of some size)."""
  model = model_of(length=length)
  return model, {"params": filled(model, spec_of(length))}


def images(n, seed=0):
  return jnp.asarray(np.random.default_rng(seed).random((n, *SHAPE), dtype=np.float32))


def log_prob(model, variables, image, text):
  return np.asarray(model.apply(variables, image, jnp.asarray(text, jnp.int32), method="text_log_prob"))


def test_the_probabilities_of_all_texts_add_up_to_1():
  """A text ends at its first padding: no byte, one and its end, or two, which leave no place for an end."""
  model, variables = made()
  one, other = np.meshgrid(np.arange(1, 257), np.arange(257), indexing="ij")
  texts = np.concatenate([[[0, 0]], np.stack([one.ravel(), other.ravel()], axis=1)])
  image = jnp.broadcast_to(images(1), (len(texts), *SHAPE))
  found = log_prob(model, variables, image, texts)
  assert found.std() > 0.1
  np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(), 1, rtol=1e-4)


def test_what_a_token_depends_on():
  """The image and the tokens before it, and none after it; what follows the end does not count."""
  model, variables = made(length=4)
  image, text = images(2), jnp.asarray([[5, 6, 7, 8], [5, 6, 0, 0]], jnp.int32)
  logits = np.asarray(model.apply(variables, image, text, method="logits"))
  assert logits.shape == (2, 4, 257) and logits.dtype == np.float32
  for place in range(4):
    other = np.asarray(model.apply(variables, image, text.at[:, place].set(200), method="logits"))
    np.testing.assert_allclose(other[:, : place + 1], logits[:, : place + 1], rtol=1e-5, atol=1e-5)
    if place < 3:
      assert np.abs(other[:, place + 1] - logits[:, place + 1]).max() > 1e-3
  shown = np.asarray(model.apply(variables, images(2, seed=1), text, method="logits"))
  assert np.abs(shown - logits).max(axis=(0, 2)).min() > 1e-3
  after = text.at[1, 3].set(9)
  kept = log_prob(model, variables, image, text), log_prob(model, variables, image, after)
  np.testing.assert_allclose(kept[0], kept[1], rtol=1e-6)


def test_noise_is_of_training_and_of_each_example():
  model, variables = made()
  batch = {"image": jnp.broadcast_to(images(1), (3, *SHAPE)), "text": jnp.full((3, T), 4, jnp.int32)}
  keys = jax.random.split(jax.random.key(0), 3)

  def terms(training, keys=keys):
    return np.asarray(model.apply(variables, batch, keys, mode(training=training)).terms["text_nll"])

  np.testing.assert_array_equal(terms(False), -log_prob(model, variables, batch["image"], batch["text"]))
  noisy = terms(True)
  assert len(set(noisy)) == 3 and not np.isin(noisy, terms(False)).any()
  np.testing.assert_allclose(terms(True, keys[::-1]), noisy[::-1], rtol=1e-5)
  drawn = np.stack([jax.random.normal(key, SHAPE) for key in keys])
  by_hand = batch["image"] + 0.05 * drawn  # the default deviation
  np.testing.assert_allclose(noisy, -log_prob(model, variables, by_hand, batch["text"]), rtol=1e-5)
  clean = model_of("model.noise=0").apply(variables, batch, keys, mode(training=True)).terms["text_nll"]
  np.testing.assert_array_equal(clean, terms(False))


def test_positions_count():
  """Without them, attention knows no order."""
  model, variables = made()
  batch = {"image": images(3), "text": jnp.asarray([[1, 2], [3, 0], [0, 0]], jnp.int32)}
  keys = jax.random.split(jax.random.key(0), 3)
  slopes = jax.jit(
    jax.grad(lambda variables: model.apply(variables, batch, keys, mode()).terms["text_nll"].sum())
  )(variables)
  assert np.abs(slopes["params"]["positions"]).max(axis=1).min() > 1e-6


def test_tokens_that_there_are_not():
  model, variables = made()
  batch = {"image": images(2), "text": jnp.asarray([[1, 2], [1, 257]], jnp.int32)}
  keys = jax.random.split(jax.random.key(0), 2)
  with pytest.raises(UserError, match=r"^text from 1 to 257: this model has 0 to 256"):
    model.apply(variables, batch, keys, mode())
  traced = jax.jit(lambda batch: model.apply(variables, batch, keys, mode()).terms["text_nll"])(batch)
  assert np.isfinite(traced[0]) and np.isnan(traced[1])
  with pytest.raises(UserError, match=r"^text of shape \[2, 3\]: this model takes \[n, 2\]"):
    model.apply(variables, {**batch, "text": jnp.ones((2, 3), jnp.int32)}, keys, mode())


def test_configs_and_records_that_do_not_fit():
  with pytest.raises(UserError, match=r"^model\.heads=3 must divide model\.width=8"):
    validate(apply_overrides(base_config("captioner"), [*WORDS, "model.heads=3"]))
  spec = image_spec(SHAPE, text=jax.ShapeDtypeStruct((2, 3), jnp.int32))
  with pytest.raises(
    UserError, match=r"^model\.name=captioner takes texts \[t\], and the records have \[2, 3\]"
  ):
    build(base_config("captioner").model, spec)


def test_it_learns_which_text_an_image_has():
  """Bright images are called 7, dark ones 9 or 11 by turns: 0 and log 2 nats are the least."""
  model = model_of("model.noise=0.01")
  variables = init_variables(model, spec_of(), jax.random.key(0))
  bright = images(8) * 0.2 + jnp.where(jnp.arange(8) < 4, 0.8, 0.0)[:, None, None, None]
  text = jnp.asarray([[7, 0]] * 4 + [[9, 0], [11, 0]] * 2, jnp.int32)
  tx, keys = optax.adam(1e-2), jax.random.split(jax.random.key(1), 8)

  @jax.jit
  def step(variables, state, i):
    def loss(variables):
      each = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
      return (
        model.apply(variables, {"image": bright, "text": text}, each, mode(training=True))
        .terms["text_nll"]
        .mean()
      )

    updates, state = tx.update(jax.grad(loss)(variables), state)
    return optax.apply_updates(variables, updates), state

  state = tx.init(variables)
  for i in range(60):
    variables, state = step(variables, state, i)
  other = images(4, seed=2) * 0.2 + jnp.asarray([0.8, 0.8, 0, 0])[:, None, None, None]
  found = log_prob(model, variables, other, [[7, 0], [9, 0], [9, 0], [7, 0]])
  assert found[0] > -0.1 and abs(found[2] + np.log(2)) < 0.3
  assert found[1] < -3 and found[3] < -3
