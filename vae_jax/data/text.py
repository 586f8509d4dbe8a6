"""Text as tokens: the bytes of its UTF-8, each one more than its value, so that 0 can be padding.

Pairs of tokens that are frequent can be tokens of their own (byte-pair encoding, Sennrich et al. 2016,
arXiv:1508.07909, over bytes): `learn` finds them in texts, the most frequent first. They are kept as one flat tuple of
integers, two for each pair; the first pair is the token `VOCABULARY`, the next one `VOCABULARY + 1`, and so on. A pair
never reaches beyond a word with the space before it.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from vae_jax.errors import UserError, printable
from vae_jax.keys import TEXT_BYTES

VOCABULARY = TEXT_BYTES
SHOWN = 60  # characters of a text in messages
Pairs = tuple[int, ...]
_WORDS = re.compile(rb" ?[^\s]+|\s")


def vocabulary(pairs: Pairs = ()) -> int:
  """The number of tokens: padding, bytes, and pairs."""
  return VOCABULARY + len(pairs) // 2


def unit(pairs: Pairs) -> str:
  """What the size of a text counts, in a word for messages."""
  return "tokens" if pairs else "bytes"


def encode(text: str, length: int, pairs: Pairs = ()) -> Int[np.ndarray, " t"]:
  """The tokens of a text, int32 [length]: bytes of UTF-8 plus 1, pairs of them where they are given; then zeros.

  Raises UserError: the text has more than `length` tokens, or holds what is no Unicode (half of a surrogate pair).
  """
  found = _tokens(_bytes(text), pairs)
  if len(found) > length:
    raise UserError(
      f"text {shown(text)} has {len(found)} {unit(pairs)}, and there is room for {length}; shorten it"
    )
  return padded(np.asarray(found, np.int32), length)


def _tokens(content: bytes, pairs: Pairs) -> list[int]:
  if not pairs:
    return [byte + 1 for byte in content]
  return [token for word in _WORDS.findall(content) for token in _word_tokens(word, pairs)]


@functools.lru_cache(2**16)
def _word_tokens(word: bytes, pairs: Pairs) -> tuple[int, ...]:
  """A word's tokens: of the pairs that it has, the one that was learned first is put together, again and again."""
  ranks, tokens = _ranks(pairs), [byte + 1 for byte in word]
  while len(tokens) > 1:
    first = min(itertools.pairwise(tokens), key=lambda pair: ranks.get(pair, len(pairs)))
    if first not in ranks:
      break
    tokens = _joined(tokens, first, VOCABULARY + ranks[first])
  return tuple(tokens)


@functools.lru_cache(8)
def _ranks(pairs: Pairs) -> dict[tuple[int, int], int]:
  return {pair: rank for rank, pair in enumerate(zip(pairs[::2], pairs[1::2], strict=True))}


def _joined(tokens: Iterable[int], pair: tuple[int, int], new: int) -> list[int]:
  """The tokens with each occurrence of the pair, from the left, as one token."""
  found: list[int] = []
  for token in tokens:
    if found and (found[-1], token) == pair:
      found[-1] = new
    else:
      found.append(token)
  return found


def learn(texts: Iterable[str], count: int) -> Pairs:
  """The pairs of tokens that are most frequent in texts, at most `count`: each is found with those before it joined.

  The least of equally frequent ones comes first. It ends where no pair occurs twice.
  """
  words = Counter(word for text in texts for word in _WORDS.findall(_bytes(text)))
  rows = [([byte + 1 for byte in word], n) for word, n in words.items()]
  totals: Counter[tuple[int, int]] = Counter()
  holders: dict[tuple[int, int], set[int]] = {}  # rows that have, or had, the pair

  def count_row(i: int, sign: int) -> None:
    tokens, n = rows[i]
    for pair in itertools.pairwise(tokens):
      totals[pair] += sign * n
      holders.setdefault(pair, set()).add(i)

  for i in range(len(rows)):
    count_row(i, 1)
  pairs: list[int] = []
  for new in range(VOCABULARY, VOCABULARY + count):
    best = max(totals, key=lambda pair: (totals[pair], -pair[0], -pair[1]), default=(0, 0))
    if totals[best] < 2:
      break
    pairs += best
    for i in holders[best]:
      count_row(i, -1)
      rows[i] = (_joined(rows[i][0], best, new), rows[i][1])
      count_row(i, 1)
  return tuple(pairs)


def packed(tokens: Int[np.ndarray, " u"], length: int, pairs: Pairs) -> Int[np.ndarray, " t"]:
  """Tokens that are bytes, with or without padding, as `encode` gives the same text with pairs. Raises as `encode`."""
  used = np.asarray(tokens)[: int(np.append(tokens, 0).argmin())]
  if not pairs and len(used) <= length:
    return padded(used, length)
  return encode(decode(used), length, pairs)


def padded(tokens: Int[np.ndarray, " u"], length: int) -> Int[np.ndarray, " t"]:
  """Tokens, int32 [length], with zeros at the end."""
  filled = np.zeros(length, np.int32)
  filled[: len(tokens)] = tokens
  return filled


def regular(text: str) -> str:
  """A text with one space between words, and none about it."""
  return " ".join(text.split())


def size(text: str, pairs: Pairs = ()) -> int:
  """The number of a text's tokens. Raises UserError as `encode`."""
  return len(_tokens(_bytes(text), pairs))


def decode(tokens: Int[np.ndarray, " t"], pairs: Pairs = ()) -> str:
  """The text of tokens [t], each below `vocabulary(pairs)`, up to the first padding. Bytes that are no UTF-8 become
  U+FFFD.

  Raises UserError: a token is out of range.
  """
  values = np.asarray(tokens)
  if values.ndim != 1 or values.dtype.kind not in "iu":
    raise UserError(f"tokens are {values.dtype} {list(values.shape)}; give integers [t]")
  most = vocabulary(pairs) - 1
  if values.size and not 0 <= values.min() <= values.max() <= most:
    raise UserError(f"tokens are from {values.min()} to {values.max()}; they must be 0 to {most}")
  ends = np.flatnonzero(values == 0)
  used = (values[: ends[0]] if len(ends) else values).tolist()
  return b"".join(_spelled(token, pairs) for token in used).decode("utf-8", "replace")


@functools.lru_cache(2**16)
def _spelled(token: int, pairs: Pairs) -> bytes:
  """The bytes of a token."""
  if token < VOCABULARY:
    return bytes([token - 1])
  at = 2 * (token - VOCABULARY)
  return _spelled(pairs[at], pairs) + _spelled(pairs[at + 1], pairs)


def shown(text: str) -> str:
  """A text in quotes on one line, cut short, for messages."""
  return f"'{printable(text[:SHOWN])}{'...' if len(text) > SHOWN else ''}'"


def _bytes(text: str) -> bytes:
  try:
    return text.encode("utf-8")
  except UnicodeEncodeError as error:
    raise UserError(f"text {shown(text)} has a character that is no Unicode; leave it out") from error
