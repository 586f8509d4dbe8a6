"""Windows put together against the whole image, for networks that a window's edge would show in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiles import tiled

from vae_jax.errors import UserError
from vae_jax.photos.tiling import assembled, tiled_bands


def conv(x, kernel, stride=1, up=1):
  """Zero-padded 'SAME' convolution of [h, w, c]; `up` > 1: of the image with up - 1 zeros after each pixel."""
  if up > 1:
    stuffed = np.zeros((x.shape[0] * up, x.shape[1] * up, x.shape[2]), x.dtype)
    stuffed[::up, ::up] = x
    x = stuffed
  k = kernel.shape[0]
  # As XLA pads: in all what the last window needs, the smaller half first.
  pads = [max(0, (-(-n // stride) - 1) * stride + k - n) for n in x.shape[:2]]
  x = np.pad(x, [(n // 2, n - n // 2) for n in pads] + [(0, 0)])
  windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(0, 1))[::stride, ::stride]
  return np.tensordot(windows, kernel, ([3, 4, 2], [0, 1, 2])).astype(np.float32)


def kernels(*shapes):
  rng = np.random.default_rng(0)
  # Sums of order 1, no symmetry: a shifted or mirrored window is seen.
  return [(rng.normal(size=s) / np.sqrt(np.prod(s[:3]))).astype(np.float32) for s in shapes]


def plain(depth, c):
  """`depth` convolutions of 3 x 3 with a bias, so that zero padding acts at the border: reach `depth`."""
  weights = kernels(*[(3, 3, c, c)] * depth)

  def function(x):
    for w in weights:
      x = np.tanh(conv(x, w) + 0.3)
    return x

  return function


def halving(times, c):
  """Strided convolutions down, convolutions up: shifts by 2**times shift its output."""
  down = kernels(*[(3, 3, c, c)] * times)
  up = kernels(*[(4, 4, c, c)] * times)

  def function(x):
    for w in down:
      x = np.tanh(conv(x, w, stride=2) + 0.3)
    for w in up:
      x = np.tanh(conv(x, w, up=2) - 0.2)
    return x

  return function


def enlarging(factor, c, c_out):
  first, last = kernels((3, 3, c, 4), (3, 3, 4, c_out))

  def function(x):
    x = np.tanh(conv(x, first) + 0.3)
    x = x.repeat(factor, axis=0).repeat(factor, axis=1)
    return conv(x, last) + 0.1

  return function


def whole(function, image, multiple, factor):
  h, w = image.shape[:2]
  padded = np.pad(image, ((0, -h % multiple), (0, -w % multiple), (0, 0)), "symmetric")
  return function(padded)[: factor * h, : factor * w]


SIZES = [(37, 41), (1, 50), (50, 1), (1, 1), (5, 3), (24, 24), (16, 61), (40, 16)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
  "function, factor, multiple, tile, halo",
  [
    (plain(3, 3), 1, 1, 8, 3),
    (plain(3, 3), 1, 1, 1, 3),
    (plain(2, 3), 1, 3, 7, 2),
    (halving(1, 3), 1, 2, 8, 4),
    (halving(2, 3), 1, 4, 6, 10),
    (enlarging(2, 3, 3), 2, 1, 9, 2),
    (enlarging(3, 3, 1), 3, 2, 9, 3),
    (enlarging(4, 3, 3), 4, 1, 100, 2),
    (lambda x: 2 * x, 1, 1, 5, 0),
  ],
  ids=["plain", "tile1", "multiple3", "stride2", "stride4", "x2", "x3-grey", "x4-whole", "halo0"],
)
def test_equals_the_whole(function, factor, multiple, tile, halo, size):
  image = np.random.default_rng(1).random((*size, 3), np.float32)
  seen = []

  def window_function(window, origin):
    assert isinstance(window, np.ndarray) and window.dtype == np.float32 and window.flags.c_contiguous
    assert origin[0] % multiple == origin[1] % multiple == 0
    np.testing.assert_array_equal(
      window[: max(0, size[0] - origin[0]), : max(0, size[1] - origin[1])],
      image[origin[0] : origin[0] + window.shape[0], origin[1] : origin[1] + window.shape[1]],
    )
    seen.append(window.shape)
    return function(window)

  got = tiled(window_function, image, factor=factor, tile=tile, halo=halo, multiple=multiple)
  assert got.dtype == np.float32 and got.shape[:2] == (factor * size[0], factor * size[1])
  np.testing.assert_allclose(got, whole(function, image, multiple, factor), atol=3e-6)
  assert len(set(seen)) == 1
  side = -(-tile // multiple) * multiple + 2 * (-(-halo // multiple) * multiple)
  assert all(a <= side and a % multiple == 0 for a in seen[0][:2])
  if max(size) > side:
    assert len(seen) > 1


@pytest.mark.parametrize("seed", range(40))
def test_random_sizes(seed):
  rng = np.random.default_rng(seed)
  multiple = int(rng.choice([1, 2, 4]))
  function = {1: plain(2, 1), 2: halving(1, 1), 4: halving(2, 1)}[multiple]
  image = rng.random((*rng.integers(1, 40, 2), 1), np.float32)
  tile, halo = int(rng.integers(1, 20)), {1: 2, 2: 4, 4: 10}[multiple] + int(rng.integers(0, 3))
  got = tiled(lambda x, _: function(x), image, tile=tile, halo=halo, multiple=multiple)
  np.testing.assert_allclose(got, whole(function, image, multiple, 1), atol=3e-6)


def test_too_small_a_halo_is_seen():
  """The comparison above can fail: one pixel less than the reach, and the seams differ."""
  image = np.random.default_rng(1).random((37, 41, 3), np.float32)
  function = plain(3, 3)
  got = tiled(lambda x, _: function(x), image, tile=8, halo=2)
  assert np.abs(got - whole(function, image, 1, 1)).max() > 1e-3


def test_compiles_once():
  traces = []

  @jax.jit
  def function(x):
    traces.append(x.shape)
    return jnp.sin(x)

  tiled(lambda x, _: function(x), np.zeros((50, 30, 1), np.float32), tile=8, halo=1)
  assert traces == [(10, 10, 1)]


def test_windows_hold_no_more_than_they_must():
  """Each pixel is written once, and windows overlap by the two halos only (but for the last of an axis)."""
  starts = []
  image = np.zeros((100, 10, 1))
  got = tiled(lambda x, origin: (starts.append(origin), x)[1], image, tile=20, halo=5)
  assert got.shape == (100, 10, 1)
  assert starts == [(0, 0), (20, 0), (40, 0), (60, 0), (70, 0)]


def test_memory_is_that_of_a_window():
  """No copy of the image, padded or not, beside the result."""
  import tracemalloc

  image = np.zeros((513, 511, 3), np.float32)
  tracemalloc.start()
  tiled(lambda x, _: x[..., :1], image, tile=32, halo=4, multiple=4)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 513 * 511 * 4 + 20 * 40 * 40 * 12


def test_bands_are_the_rows_of_windows():
  """One at a time: the next is computed when it is asked for."""
  image, calls = np.random.default_rng(1).random((37, 41, 3), np.float32), []
  function = enlarging(2, 3, 3)
  bands = tiled_bands(
    lambda x, origin: (calls.append(origin), function(x))[1], image, factor=2, tile=9, halo=2
  )
  first = next(bands)
  assert first.shape == (2 * (9 + 2), 82, 3) and {top for top, _ in calls} == {0}
  got = [first, *bands]
  assert len(got) == len({top for top, _ in calls}) > 2
  whole = tiled(lambda x, _: function(x), image, factor=2, tile=9, halo=2)
  np.testing.assert_array_equal(np.concatenate(got), whole)
  np.testing.assert_array_equal(assembled(iter(got), 74), whole)
  assert assembled([whole], 74) is whole


def test_progress_counts_windows():
  calls = []
  tiled(
    lambda x, _: x,
    np.zeros((20, 10, 1)),
    tile=5,
    halo=1,
    progress=lambda done, total: calls.append((done, total)),
  )
  assert calls == [(i, len(calls)) for i in range(1, len(calls) + 1)] and len(calls) == 4 * 2


def test_integer_images_and_jax_arrays():
  image = np.arange(60, dtype=np.uint8).reshape(6, 10, 1)
  np.testing.assert_array_equal(tiled(lambda x, _: jnp.asarray(x), jnp.asarray(image), tile=3, halo=1), image)


@pytest.mark.parametrize("name, value", [
  ("tile", 0), ("tile", -4), ("tile", 2.5), ("halo", -1), ("multiple", 0), ("factor", 0), ("factor", True),
  ("tile", "8"), ("halo", float("nan")),
])  # fmt: skip
def test_bad_numbers(name, value):
  with pytest.raises(UserError, match=f"{name}="):
    tiled(lambda x, _: x, np.zeros((8, 8, 1)), **{"tile": 4, "halo": 1, name: value})


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8, 1), (0, 8, 1), (8, 0, 1), (8, 8, 0)])
def test_bad_images(shape):
  with pytest.raises(UserError, match="image of shape"):
    tiled(lambda x, _: x, np.zeros(shape), tile=4, halo=1)


@pytest.mark.parametrize(
  "function", [lambda x, _: x[1:], lambda x, _: x[..., 0], lambda x, _: x.repeat(2, axis=0)]
)
def test_a_function_of_another_size(function):
  with pytest.raises(ValueError, match="a window of 6 x 6 became"):
    tiled(function, np.zeros((8, 8, 1)), tile=4, halo=1)
