"""The order of data as a function of the position; batches that restart, divide and cover; fitting to size."""

import numpy as np
import pytest
from PIL import Image

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data import pipeline
from vae_jax.errors import UserError


def settings(*overrides):
  return apply_overrides(base_config(), [f"data.{o}" for o in overrides]).data


class Memory:
  """A source of given records, which counts what is read."""

  def __init__(self, records, uniform_shape=None):
    self.records, self.uniform_shape, self.name, self.reads = records, uniform_shape, "memory", []

  def __len__(self):
    return len(self.records)

  def __getitem__(self, index):
    return next(self.read([index]))

  def read(self, indices):
    for index in indices:
      self.reads.append(index)
      yield self.records[index]

  def load_all(self):
    return {name: np.stack([np.asarray(r[name]) for r in self.records]) for name in self.records[0]}


def coordinates(height, width, f=1):
  """An image whose pixel (y, x) is (y, x, 0), kept at every f-th of both: what is cut can be told from it."""
  image = np.stack(np.broadcast_arrays(*np.ogrid[:height, :width], np.zeros((1, 1), np.int64)), axis=-1)
  return image[::f, ::f].astype(np.uint8)


def digits(n, size=(4, 4)):
  """Records whose image is their index everywhere."""
  return Memory([{"image": np.full((*size, 1), i, np.uint8), "label": i % 3} for i in range(n)], (*size, 1))


def same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name])


# --- order ---


@pytest.mark.parametrize("n", [1, 2, 10, 101])
def test_each_epoch_is_a_permutation(n):
  got = pipeline.order(3, n, np.arange(4 * n)).reshape(4, n)
  np.testing.assert_array_equal(np.sort(got, axis=1), np.tile(np.arange(n), (4, 1)))
  assert got.dtype == np.int32


def test_epochs_and_seeds_differ():
  orders = [
    tuple(pipeline.order(seed, 50, 50 * epoch + np.arange(50))) for seed in (0, 1) for epoch in (0, 1, 2)
  ]
  assert len(set(orders)) == len(orders)


def test_order_is_a_function_of_the_position():
  whole = pipeline.order(7, 10, np.arange(40))
  scattered = np.array([[39, 0, 10], [11, 9, 25]])
  np.testing.assert_array_equal(pipeline.order(7, 10, scattered), whole[scattered])
  pipeline._permutation.cache_clear()
  np.testing.assert_array_equal(pipeline.order(7, 10, np.arange(5, 25)), whole[5:25])
  far = 10 * 2**33  # beyond 32 bits
  assert sorted(pipeline.order(7, 10, far + np.arange(10))) == list(range(10))


def test_positions_continue_where_the_last_step_ended():
  whole = pipeline.positions(0, 6, 4)
  np.testing.assert_array_equal(whole.ravel(), np.arange(24))
  np.testing.assert_array_equal(pipeline.positions(2, 3, 4), whole[2:5])


# --- training batches ---


def photos(n=7):
  """Images of several sizes, so that crops are random."""
  return Memory([{"image": coordinates(6 + i % 3, 9) + np.uint8(16 * i), "label": i} for i in range(n)])


def train(source, *, batch_size=4, start=0, steps=6, seed=0, shard=(0, 1), overrides=("size=4,5",)):
  data = settings("workers=2", *overrides)
  stream = pipeline.batches(
    data, source, batch_size=batch_size, training=True, seed=seed, start=start, steps=steps, shard=shard
  )
  return list(stream)


def test_training_batches_follow_the_order():
  got = train(photos())
  assert len(got) == 6
  for batch, places in zip(got, pipeline.positions(0, 6, 4), strict=True):
    np.testing.assert_array_equal(batch["index"], pipeline.order(0, 7, places))
    np.testing.assert_array_equal(batch["label"], batch["index"])
    assert batch["image"].shape == (4, 4, 5, 3) and batch["image"].dtype == np.uint8
    np.testing.assert_array_equal(
      batch["image"][..., 2], 16 * batch["index"][:, None, None] + np.zeros((1, 4, 5))
    )


@pytest.mark.parametrize("size", [1, pipeline.TOGETHER, 2 * pipeline.TOGETHER + 3])
def test_batches_are_whole_whatever_is_read_together(size):
  got = train(photos(), batch_size=size, steps=5)
  np.testing.assert_array_equal(
    [batch["index"] for batch in got], pipeline.order(0, 7, pipeline.positions(0, 5, size))
  )
  assert all(batch["image"].shape == (size, 4, 5, 3) for batch in got)


def test_what_is_kept_is_not_read_again_with_the_rest():
  source = digits(6)
  kept = pipeline.InMemory(source, 2**20)
  for indices in ([1, 4], [4, 0, 1, 5, 0]):
    assert [int(record["image"][0, 0, 0]) for record in kept.read(indices)] == indices
  assert [source.reads.count(i) for i in (1, 4, 5)] == [1, 1, 1]


@pytest.mark.parametrize("step", [1, 4])
def test_a_restart_repeats_the_batches_from_there_crops_included(step):
  whole, rest = train(photos()), train(photos(), start=step, steps=6 - step)
  assert len(rest) == 6 - step
  for a, b in zip(whole[step:], rest, strict=True):
    same(a, b)


def test_crops_change_with_the_epoch_and_the_seed():
  source = Memory([{"image": coordinates(20, 20), "label": 0}])
  corners = [tuple(b["image"][0, 0, 0]) for b in train(source, batch_size=1, steps=8)]
  others = [tuple(b["image"][0, 0, 0]) for b in train(source, batch_size=1, steps=8, seed=1)]
  assert len(set(corners)) > 4 and corners != others


def test_processes_share_out_the_global_batch():
  whole = train(photos(), steps=4)
  halves = [train(photos(), steps=4, shard=(i, 2)) for i in range(2)]
  for batch, first, second in zip(whole, *halves, strict=True):
    assert len(first["index"]) == 2
    same(batch, {name: np.concatenate([first[name], second[name]]) for name in batch})


def test_decoded_records_are_kept_within_the_budget():
  source = photos()
  train(source, steps=20)
  assert len(source.reads) < 7 + 8  # a record may be decoded by two threads at once
  train(source := photos(), steps=5, overrides=("size=4,5", "resident_mb=0"))
  assert len(source.reads) >= 20


def test_the_budget_is_not_exceeded():
  source = digits(4)  # 16 bytes an image
  kept = pipeline.InMemory(source, 40)
  assert len(kept) == 4 and kept.uniform_shape == (4, 4, 1)
  for _ in range(3):
    assert [int(kept[i]["image"][0, 0, 0]) for i in range(4)] == [0, 1, 2, 3]
  assert [source.reads.count(i) for i in range(4)] == [1, 1, 3, 3]


# --- evaluation batches ---


def evaluate(source, batch_size, shard=(0, 1)):
  return list(pipeline.batches(settings(), source, batch_size=batch_size, training=False, shard=shard))


@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 16])
def test_evaluation_covers_each_example_once_in_order(batch_size):
  got = evaluate(digits(10), batch_size)
  assert len(got) == -(-10 // batch_size)
  assert {batch["image"].shape for batch in got} == {(batch_size, 4, 4, 1)}
  mask, index = (np.concatenate([batch[name] for batch in got]) for name in ("mask", "index"))
  image, label = (np.concatenate([batch[name] for batch in got]) for name in ("image", "label"))
  assert mask.dtype == bool
  np.testing.assert_array_equal(index[mask], np.arange(10))
  np.testing.assert_array_equal(image[mask][:, 0, 0, 0], np.arange(10))
  np.testing.assert_array_equal(label[mask], np.arange(10) % 3)
  assert (index[~mask] == 9).all()


@pytest.mark.parametrize("n", [3, 9, 12])
def test_evaluation_is_shared_out_with_equal_numbers_of_batches(n):
  whole, halves = evaluate(digits(n), 4), [evaluate(digits(n), 4, (i, 2)) for i in range(2)]
  for batch, first, second in zip(whole, *halves, strict=True):
    same(batch, {name: np.concatenate([first[name], second[name]]) for name in batch})


def test_a_batch_must_divide_over_the_processes():
  for training in (True, False):
    with pytest.raises(UserError, match=r"batch_size = 5.*2 processes"):
      pipeline.batches(settings(), digits(4), batch_size=5, training=training, shard=(0, 2))


def test_images_of_two_kinds_in_a_batch_are_refused():
  grey, colour = np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4, 3), np.uint8)
  source = Memory([{"image": grey}, {"image": colour}])
  with pytest.raises(UserError, match=r"images of \(4, 4, 1\) and \(4, 4, 3\).*data.channels"):
    list(pipeline.batches(settings("size=4,4"), source, batch_size=2, training=False))


# --- fitting to size ---


def generator(seed=0):
  return np.random.default_rng(seed)


def test_an_image_of_the_right_size_is_left_alone():
  record = {"image": coordinates(4, 5), "label": 3}
  assert pipeline.fit(record, (4, 5), "crop", generator()) is record


@pytest.mark.parametrize(
  ("size", "corner"), [((4, 4), (1, 3)), ((6, 9), (0, 0)), ((5, 2), (0, 4)), ((1, 1), (2, 4))]
)
def test_evaluation_crops_the_centre(size, corner):
  got = pipeline.fit({"image": coordinates(6, 10), "label": 3}, size, "crop", None)
  assert got["image"].shape == (*size, 3) and got["label"] == 3
  assert tuple(got["image"][0, 0, :2]) == corner
  np.testing.assert_array_equal(got["image"] - got["image"][0, 0], coordinates(*size))


def test_training_crops_reach_every_window():
  draw = generator()
  corners = {
    tuple(pipeline.fit({"image": coordinates(6, 5)}, (4, 4), "crop", draw)["image"][0, 0, :2])
    for _ in range(200)
  }
  assert corners == {(y, x) for y in range(3) for x in range(2)}


@pytest.mark.parametrize("f", [1, 2, 3])
@pytest.mark.parametrize("random", [False, True])
def test_pairs_are_cut_at_the_same_place(f, random):
  record = {"image": coordinates(24, 36), "degraded": coordinates(24, 36, f)}
  corners, draw = set(), generator()
  for _ in range(300 if random else 1):
    got = pipeline.fit(record, (12, 18), "crop", draw if random else None)
    assert got["image"].shape == (12, 18, 3)
    np.testing.assert_array_equal(got["degraded"], got["image"][::f, ::f])
    corners.add(tuple(int(v) for v in got["image"][0, 0, :2]))
  assert len(corners) == ((12 // f + 1) * (18 // f + 1) if random else 1) or f == 1
  assert all(y % f == 0 and x % f == 0 for y, x in corners)


@pytest.mark.parametrize("mode", ["crop", "resize"])
@pytest.mark.parametrize(
  ("stored", "size"), [((3, 5), (4, 4)), ((5, 3), (7, 9)), ((1, 1), (4, 6)), ((3, 9), (4, 4))]
)
def test_a_small_image_is_enlarged_to_cover_the_window(stored, size, mode):
  constant = np.full((*stored, 3), (10, 128, 250), np.uint8)
  for draw in (None, generator()):
    got = pipeline.fit({"image": constant}, size, mode, draw)["image"]
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.full((*size, 3), (10, 128, 250)))


def test_resize_scales_the_shorter_side_and_crops_the_other():
  image = np.random.default_rng(0).integers(0, 256, size=(8, 15, 3), dtype=np.uint8)
  got = pipeline.fit({"image": image}, (4, 4), "resize", None)["image"]
  whole = np.asarray(Image.fromarray(image).resize((8, 4), Image.Resampling.BICUBIC))
  np.testing.assert_array_equal(got, whole[:, 2:6])
  cut = pipeline.fit({"image": image}, (4, 4), "crop", None)["image"]
  np.testing.assert_array_equal(cut, image[2:6, 5:9])


def test_pairs_that_cannot_be_cut_are_refused():
  pair = {"image": coordinates(8, 8), "degraded": coordinates(8, 8, 2)}
  with pytest.raises(UserError, match=r"\(8, 8\) pixels.*data.size = \(4, 10\).*data.fit=crop"):
    pipeline.fit(pair, (4, 10), "crop", None)
  with pytest.raises(UserError, match=r"data\.fit=crop"):
    pipeline.fit(pair, (4, 4), "resize", None)
  with pytest.raises(UserError, match=r"data.size = \(5, 4\): must be a multiple of the pairs' scale 2"):
    pipeline.fit(pair, (5, 4), "crop", None)


# --- shapes and residence ---


def test_the_shape_that_the_model_sees():
  source, mixed = digits(3, (4, 6)), Memory([{"image": coordinates(5, 5)}])
  assert pipeline.image_shape(settings(), source) == (4, 6, 1)
  assert pipeline.image_shape(settings("size=2,3", "channels=3"), source) == (2, 3, 3)
  assert pipeline.image_shape(settings("size=2,3"), mixed) == (2, 3, 3)


def test_shapes_that_cannot_be_known_are_refused():
  mixed = Memory([{"image": coordinates(5, 5)}])
  with pytest.raises(UserError, match=r"memory: its images differ in size.*data.size=64,64"):
    pipeline.image_shape(settings(), mixed)
  with pytest.raises(UserError, match=r"data.size = \(4, 4, 4\): must be \(height, width\)"):
    pipeline.image_shape(settings("size=4,4,4"), digits(2))


def test_a_split_is_resident_if_it_is_small_and_needs_no_fitting():
  source = digits(5)
  arrays = pipeline.resident(settings(), source)
  assert arrays["image"].shape == (5, 4, 4, 1)
  np.testing.assert_array_equal(arrays["label"], np.arange(5) % 3)
  assert pipeline.resident(settings("size=4,4"), source) is not None
  assert pipeline.resident(settings("size=2,4"), source) is None
  assert pipeline.resident(settings("channels=3"), source) is None
  assert pipeline.resident(settings("size=4,4"), Memory(source.records)) is None


def test_a_split_is_resident_up_to_the_limit():
  half = 2**19  # two images of half a megabyte each
  fits, over = (
    Memory([{"image": np.zeros((1, width, 1), np.uint8)}] * 2, (1, width, 1)) for width in (half, half + 1)
  )
  assert pipeline.resident(settings("resident_mb=1"), fits) is not None
  assert pipeline.resident(settings("resident_mb=1"), over) is None
  assert pipeline.resident(settings("resident_mb=0"), fits) is None


def test_the_first_records_are_a_source():
  source = digits(5)
  first = pipeline.First(source, 3)
  assert len(first) == 3 and len(pipeline.First(source, 9)) == 5
  assert first.uniform_shape == (4, 4, 1) and first[2]["label"] == 2
  np.testing.assert_array_equal(first.load_all()["image"][:, 0, 0, 0], [0, 1, 2])
