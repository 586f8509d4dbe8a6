"""Text as tokens: the bytes of its UTF-8, each one more than its value, so that 0 can be padding."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from vae_jax.errors import UserError, printable

VOCABULARY = 257  # padding and 256 bytes
SHOWN = 60  # characters of a text in messages


def encode(text: str, length: int) -> Int[np.ndarray, " t"]:
  """The tokens of a text, int32 [length]: bytes of UTF-8 plus 1, then zeros.

  Raises UserError: the text has more than `length` bytes, or holds what is no Unicode (half of a surrogate pair).
  """
  found = np.frombuffer(_bytes(text), np.uint8)
  if len(found) > length:
    raise UserError(f"text {shown(text)} has {len(found)} bytes, and there is room for {length}; shorten it")
  return padded(found.astype(np.int32) + 1, length)


def padded(tokens: Int[np.ndarray, " u"], length: int) -> Int[np.ndarray, " t"]:
  """Tokens, int32 [length], with zeros at the end."""
  filled = np.zeros(length, np.int32)
  filled[: len(tokens)] = tokens
  return filled


def size(text: str) -> int:
  """The number of a text's tokens. Raises UserError as `encode`."""
  return len(_bytes(text))


def decode(tokens: Int[np.ndarray, " t"]) -> str:
  """The text of tokens [t], 0 to 256, up to the first padding. Bytes that are no UTF-8 become U+FFFD.

  Raises UserError: a token is out of range.
  """
  values = np.asarray(tokens)
  if values.ndim != 1 or values.dtype.kind not in "iu":
    raise UserError(f"tokens are {values.dtype} {list(values.shape)}; give integers [t]")
  if values.size and not 0 <= values.min() <= values.max() < VOCABULARY:
    raise UserError(f"tokens are from {values.min()} to {values.max()}; they must be 0 to {VOCABULARY - 1}")
  ends = np.flatnonzero(values == 0)
  used = values[: ends[0]] if len(ends) else values
  return (used - 1).astype(np.uint8).tobytes().decode("utf-8", "replace")


def shown(text: str) -> str:
  """A text in quotes on one line, cut short, for messages."""
  return f"'{printable(text[:SHOWN])}{'...' if len(text) > SHOWN else ''}'"


def _bytes(text: str) -> bytes:
  try:
    return text.encode("utf-8")
  except UnicodeEncodeError as error:
    raise UserError(f"text {shown(text)} has a character that is no Unicode; leave it out") from error
