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


# --- pairs ---

SENNRICH = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3


def pieces(words, pairs):
  size = text.size(words, pairs)
  tokens = text.encode(words, size, pairs)
  assert (tokens > 0).all() and tokens.max() < text.vocabulary(pairs)
  return [text.decode(tokens[i : i + 1], pairs) for i in range(size)]


def test_pairs_of_the_papers_example():
  """Sennrich et al. 2016, algorithm 1 and figure 1, without their end of a word; ties by the tokens."""
  pairs = text.learn(SENNRICH, 10)
  learned = [text.decode(np.array([text.VOCABULARY + i]), pairs) for i in range(len(pairs) // 2)]
  assert learned == ["es", "est", "lo", "low", "ew", "new", "newest", "dest", "idest", "widest"]
  assert pieces("lowest", pairs) == ["low", "est"] and pieces("lower", pairs) == ["low", "e", "r"]
  assert pairs[:8] == text.learn(SENNRICH, 4)
  assert text.learn(["ab", "cd"], 5) == () == text.learn([], 5)  # nothing occurs twice


@pytest.mark.parametrize("words", [*HOSTILE, "low lower newest", " newest  widest\nlow"])
def test_texts_of_pairs_come_back(words):
  pairs = text.learn([*SENNRICH, "two low", *HOSTILE, *HOSTILE], 40)
  size = text.size(words, pairs)
  assert size <= text.size(words)
  tokens = text.encode(words, size + 2, pairs)
  assert text.decode(tokens, pairs) == words and not tokens[size:].any()
  np.testing.assert_array_equal(tokens, text.packed(text.encode(words, 99), size + 2, pairs))
  np.testing.assert_array_equal(text.encode(words, 99), text.packed(text.encode(words, 70), 99, ()))
  if size:
    with pytest.raises(UserError, match=f"has {size} tokens, and there is room for {size - 1}; shorten it"):
      text.encode(words, size - 1, pairs)


def test_pairs_are_joined_in_the_order_in_which_they_were_learned():
  """Against the definition: each pair in turn, wherever it is in a word."""
  random = np.random.default_rng(0)
  texts = [
    " ".join("".join(random.choice(list("abc"), random.integers(1, 8))) for _ in range(5)) for _ in range(60)
  ]
  pairs = text.learn(texts, 30)
  assert len(pairs) == 60
  for words in texts:
    found = []
    for word in [word if i == 0 else f" {word}" for i, word in enumerate(words.split(" "))]:
      row = [byte + 1 for byte in word.encode()]
      for new, pair in enumerate(zip(pairs[::2], pairs[1::2], strict=True), text.VOCABULARY):
        i = 0
        while i < len(row) - 1:
          if (row[i], row[i + 1]) == pair:
            row[i : i + 2] = [new]
          i += 1
      found += row
    assert text.encode(words, len(found), pairs).tolist() == found


def test_a_token_of_no_pair_is_refused():
  pairs = text.learn(SENNRICH, 2)
  with pytest.raises(UserError, match="tokens are from 259 to 259; they must be 0 to 258"):
    text.decode(np.array([259]), pairs)
