"""Asymmetric numeral systems (Duda 2009, arXiv:0902.0271): a stack of symbols, each at the cost of its information.

The range variant (Duda 2013, arXiv:1311.2540), with a head of 64 bits that gives and takes words of 32 bits. A symbol
that owns the numbers start, ..., start + frequency - 1 of 2^precision takes the head x to

    (x // frequency) * 2^precision + start + x % frequency,

which grows by precision - log2(frequency) bits. The last symbol pushed is the first popped. Each lane is a stack of its
own, and all lanes do one step at a time, so that NumPy's cost of a call is shared.
"""

from __future__ import annotations

import numpy as np

from vae_jax.errors import UserError

WORD = 32  # bits of a word; the head stays in [2^32, 2^64)
MOST_PRECISION = 32
_WORD, _LOW = np.uint64(WORD), np.uint64(2**WORD - 1)


class Stack:
  """Lanes of ANS stacks.

  Attributes:
    head: uint64 [lanes].
    taken: how many random words each lane took because it was empty, see `initial`.

  An operation on n symbols concerns the first n lanes; the others rest.
  """

  def __init__(self, head: np.ndarray, lengths: np.ndarray, words: np.ndarray):
    """head: uint64 [lanes]; lengths: words of each lane; words: uint32 [sum of lengths], lane by lane, oldest first."""
    self.head, self._lengths = head.astype(np.uint64), lengths.astype(np.int64)
    self._words = np.zeros((len(head), max(1, int(self._lengths.max(initial=0)))), np.uint32)
    self._words[np.arange(self._words.shape[1]) < self._lengths[:, None]] = words
    self._random: list[np.random.Generator] = []
    self.taken = np.zeros(len(head), np.int64)

  @classmethod
  def initial(cls, lanes: int) -> Stack:
    """Empty stacks that pop random words where they have none of their own: the initial bits of bits-back coding.

    The words are the same each time. They are part of the stack once they were popped, and so of its size.
    """
    random = [np.random.default_rng([lane, 1901_04866]) for lane in range(lanes)]
    head = np.array([one.integers(2**63, 2**64, dtype=np.uint64) for one in random], np.uint64)
    stack = cls(head, np.zeros(lanes, np.int64), np.zeros(0, np.uint32))
    stack._random = random
    return stack

  def push(self, start: np.ndarray, frequency: np.ndarray, precision: int) -> None:
    """Adds k symbols to each of n lanes, the last of them first, so that they are popped in order.

    start, frequency: integers [k, n], 0 <= start, 1 <= frequency, start + frequency <= 2^precision, precision <= 32.
    Raises ValueError for others, which could not be popped again."""
    start, frequency = np.asarray(start).astype(np.int64), np.asarray(frequency).astype(np.int64)
    if not (
      0 < precision <= MOST_PRECISION
      and (frequency > 0).all()
      and (start >= 0).all()
      and (start + frequency <= 1 << precision).all()
    ):
      raise ValueError(f"symbols must own at least one of the numbers 0 .. 2^{precision} - 1, and no others")
    starts, wide = start.astype(np.uint64), frequency.astype(np.uint64)
    # A head of frequency * 2^(64 - precision) or more gives a word away: the symbol would take it to 2^64. That product
    # is 2^64 itself for a symbol that is certain.
    spare, bits = np.uint64(64 - precision), np.uint64(precision)
    head = self.head[: start.shape[1]]
    for j in reversed(range(len(start))):
      full = (head >> spare) >= wide[j]
      if full.any():
        self._put(np.flatnonzero(full), head[full])
        head = np.where(full, head >> _WORD, head)
      quotient = head // wide[j]
      head = (quotient << bits) + (head - quotient * wide[j]) + starts[j]
    self.head[: start.shape[1]] = head

  def peek(self, lanes: int, precision: int) -> np.ndarray:
    """int64 [lanes]: the number of 0 .. 2^precision - 1 that the last symbol of each of the first lanes owns."""
    return (self.head[:lanes] & np.uint64((1 << precision) - 1)).astype(np.int64)

  def pop(self, start: np.ndarray, frequency: np.ndarray, precision: int) -> None:
    """Removes the last symbol of each lane, which owns what `peek` gives. Undoes `push` of the same arguments.

    Raises UserError where a stack is empty that has no random words."""
    rest = self.peek(len(start), precision) - start
    quotient = self.head[: len(start)] >> np.uint64(precision)
    head = np.asarray(frequency).astype(np.uint64) * quotient + rest.astype(np.uint64)
    low = head < np.uint64(2**WORD)
    if low.any():
      head[low] = (head[low] << _WORD) | self._take(np.flatnonzero(low))
    self.head[: len(start)] = head

  def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(head, lengths, words), as the constructor takes them."""
    inside = np.arange(self._words.shape[1]) < self._lengths[:, None]
    return self.head.copy(), self._lengths.copy(), self._words[inside]

  @property
  def bits(self) -> int:
    """The size of heads and words."""
    return int(64 * len(self.head) + WORD * self._lengths.sum())

  def _put(self, lanes: np.ndarray, head: np.ndarray) -> None:
    if self._lengths.max() == self._words.shape[1]:
      self._words = np.concatenate([self._words, np.zeros_like(self._words)], axis=1)
    self._words[lanes, self._lengths[lanes]] = (head & _LOW).astype(np.uint32)
    self._lengths[lanes] += 1

  def _take(self, lanes: np.ndarray) -> np.ndarray:
    """The last word of each lane, as uint64."""
    for lane in lanes[self._lengths[lanes] == 0]:
      if not self._random:
        raise UserError("the stack is empty before all was decoded")
      self._words[lane, 0] = self._random[lane].integers(2**WORD, dtype=np.uint32)
      self._lengths[lane], self.taken[lane] = 1, self.taken[lane] + 1
    self._lengths[lanes] -= 1
    return self._words[lanes, self._lengths[lanes]].astype(np.uint64)
