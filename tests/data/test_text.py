"""Text as bytes: what comes back is what went in, whatever the characters."""

import numpy as np
import pytest

from vae_jax.data import text
from vae_jax.errors import UserError

HOSTILE = (
  "",
  " two  small\tred circles \n",
  "\x00\x01\x1b[31m\x7f",
  "e\u0301 \u00e9 \u202eright to left\u202c",
  "👩‍👩‍👧‍👦🏳️‍🌈",
  "\ufeff\uffff\U0010ffff",
  "漢字 עברית हिन्दी",
)


@pytest.mark.parametrize("words", HOSTILE)
def test_texts_come_back(words):
  size = len(words.encode())
  assert text.size(words) == size
  for length in (size, size + 3):
    tokens = text.encode(words, length)
    assert tokens.dtype == np.int32 and tokens.shape == (length,)
    assert text.decode(tokens) == words
  with pytest.raises(
    UserError, match=f"has {size} bytes, and there is room for {size - 1}; shorten it"
  ) as error:
    text.encode(words, size - 1)
  assert str(error.value).isprintable() and len(str(error.value)) < 600


def test_tokens_are_bytes_plus_1():
  assert text.encode("aé", 5).tolist() == [98, 0xC3 + 1, 0xA9 + 1, 0, 0]
  assert (
    text.decode(np.array([98, 256, 99, 0, 98])) == "a\ufffdb"
  )  # 255 is no byte of UTF-8; padding ends a text
  assert text.decode(np.array([], int)) == ""
  every = np.arange(1, text.VOCABULARY)
  assert len(text.decode(every[:128])) == 128 and "\ufffd" in text.decode(every)


def test_random_tokens_have_some_text():
  random = np.random.default_rng(0)
  for _ in range(200):
    tokens = random.integers(0, text.VOCABULARY, random.integers(0, 40))
    until = np.append(tokens, 0).argmin()  # the first padding
    assert text.decode(tokens) == bytes((tokens[:until] - 1).tolist()).decode("utf-8", "replace")


@pytest.mark.parametrize(
  ("tokens", "words"),
  [
    ([257], "tokens are from 257 to 257; they must be 0 to 256"),
    ([-1, 3], "tokens are from -1 to 3"),
    ([1.0], r"tokens are float64 \[1\]; give integers \[t\]"),
    ([[1]], r"tokens are int64 \[1, 1\]"),
  ],
)
def test_what_is_no_token(tokens, words):
  with pytest.raises(UserError, match=words):
    text.decode(np.array(tokens))


def test_half_a_surrogate_pair_is_no_text():
  with pytest.raises(UserError, match=r"text 'a\\ud800' has a character that is no Unicode"):
    text.encode("a\ud800", 9)
