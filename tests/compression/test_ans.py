"""The stack of bits: what is pushed is popped, at the cost of its entropy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_jax.compression import Stack
from vae_jax.errors import UserError


def table(random, size, precision):
  """Random frequencies of `size` symbols, some of them rare, and the numbers below each."""
  masses = random.dirichlet(np.full(size, 0.3))
  frequency = 1 + np.floor(masses * (2**precision - size)).astype(np.int64)
  frequency[0] += 2**precision - frequency.sum()
  return frequency, np.concatenate([[0], np.cumsum(frequency)])


def pop(stack, below, frequency, lanes, precision):
  value = np.searchsorted(below, stack.peek(lanes, precision), side="right") - 1
  stack.pop(below[value], frequency[value], precision)
  return value


def same(a, b):
  return all(np.array_equal(x, y) for x, y in zip(a.parts(), b.parts(), strict=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 32), st.integers(0, 40))
def test_what_is_pushed_is_popped_in_order_and_leaves_what_was_there(seed, lanes, precision, count):
  random = np.random.default_rng(seed)
  frequency, below = table(random, min(2**precision, int(random.integers(1, 9))), precision)
  values = random.integers(0, len(frequency), (count, lanes))
  fewer = int(random.integers(1, lanes + 1))  # the last row of images may lack lanes
  stack = Stack.initial(lanes)
  stack.push(below[values], frequency[values], precision)
  stack.push(below[values[:, :fewer]], frequency[values[:, :fewer]], precision)
  stack = Stack(*stack.parts())
  for wanted in (values[:, :fewer], values):
    for row in wanted:
      np.testing.assert_array_equal(pop(stack, below, frequency, len(row), precision), row)
  assert same(stack, Stack.initial(lanes))


def test_a_symbol_costs_its_information():
  random = np.random.default_rng(0)
  frequency, below = table(random, 30, 16)
  p = frequency / 2**16
  values = random.choice(30, size=(5000, 4), p=p)
  stack = Stack.initial(4)
  stack.push(below[values], frequency[values], 16)
  information = -np.log2(p[values]).sum()
  assert abs(stack.bits - 4 * 64 - information) < 4 * 32  # what is in a head counts 32 to 64 bits
  assert abs(information / values.size + (p * np.log2(p)).sum()) < 0.05  # the entropy


def test_a_certain_symbol_is_free():
  stack = Stack.initial(2)
  stack.push(np.zeros((1000, 2)), np.full((1000, 2), 2**32), 32)
  assert same(stack, Stack.initial(2))


def test_popping_before_pushing_takes_random_bits_once_and_gives_them_back():
  """The initial bits of bits-back coding: a draw under a distribution, which is put back by the decoder."""
  frequency, below = table(np.random.default_rng(1), 16, 16)
  stack = Stack.initial(3)
  drawn = [pop(stack, below, frequency, 3, 16) for _ in range(4000)]
  counts = np.bincount(np.ravel(drawn), minlength=16) / 12000
  np.testing.assert_allclose(counts, frequency / 2**16, atol=0.02)  # 4 standard deviations of 0.0046
  taken = stack.taken.sum() * 32
  information = -np.log2(frequency[np.ravel(drawn)] / 2**16).sum()
  assert abs(taken - information) < 3 * 64
  for value in drawn[::-1]:
    stack.push(below[value][None], frequency[value][None], 16)
  head, lengths, _ = stack.parts()
  np.testing.assert_array_equal(head, Stack.initial(3).head)
  np.testing.assert_array_equal(lengths, stack.taken)


def test_an_empty_stack_from_a_file_is_refused():
  stack = Stack(*Stack.initial(1).parts())
  with pytest.raises(UserError, match="empty before all was decoded"):
    for _ in range(10):
      stack.pop(np.zeros(1, np.int64), np.ones(1, np.int64), 24)


@pytest.mark.parametrize(
  ("start", "frequency", "precision"), [(0, 0, 8), (-1, 2, 8), (250, 7, 8), (0, 1, 33), (0, 1, 0)]
)
def test_symbols_that_could_not_be_popped_are_refused(start, frequency, precision):
  stack = Stack.initial(1)
  with pytest.raises(ValueError, match="at least one of the numbers"):
    stack.push(np.array([[start]]), np.array([[frequency]]), precision)
  assert same(stack, Stack.initial(1))
