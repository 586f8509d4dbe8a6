"""Captioned scenes: a caption says what is in its picture, and the picture shows what its caption says."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.data import scenes, text
from vae_jax.data.scenes import Group, Scene
from vae_jax.data.sources import list_splits, open_source
from vae_jax.errors import UserError

DRAWN = 0.011546754286331562  # NumPy's Philox(key=[0, 0])
BOTH = Scene((Group(2, "small", "red", "circle"), Group(1, "large", "blue", "square")), "above")
GROUPS = [
  Group(*parts) for parts in itertools.product((1, 2, 3), scenes.SIZES, scenes.COLOURS, scenes.SHAPES)
]


def examples(n, split="train"):
  return [scenes.example(split, i) for i in range(n)]


def objects(picture):
  """For each thing on the background: its colour, shape, middle (x, y) and width, in parts of the picture."""
  side = len(picture)
  differs = np.abs(picture.astype(int) - scenes.BACKGROUND).max(axis=-1)
  parts, n = ndimage.label(differs > 45, structure=np.ones((3, 3)))
  found = []
  for i, (rows, columns) in enumerate(ndimage.find_objects(parts)):
    inside = parts == i + 1
    strongest = picture[inside][np.argmax(differs[inside])].astype(int)
    name = min(scenes.COLOURS, key=lambda c: np.abs(strongest - scenes.RGB[scenes.COLOURS.index(c)]).sum())
    middle = ((columns.start + columns.stop) / 2 / side, (rows.start + rows.stop) / 2 / side)
    cover = np.where(ndimage.binary_dilation(inside, np.ones((3, 3))), differs, 0) / differs[inside].max()
    found.append((name, shape_of(cover), middle, cover.max(axis=0).sum() / side))
  assert len(found) == n
  return found


def shape_of(cover):
  """The shape of what covers pixels [h, w] by these shares, by its moments and by how much of its box it fills.

  A circle has the least moment of inertia of all figures of an area: 2 pi moment / area^2 is 1, and more for others. A
  triangle alone has most of its mass at one end.
  """
  area, (y, x) = cover.sum(), np.indices(cover.shape)
  down, right = y - (cover * y).sum() / area, x - (cover * x).sum() / area
  variance = (cover * down**2).sum() / area
  skew = (cover * down**3).sum() / area / variance**1.5
  inertia = 2 * np.pi * (variance + (cover * right**2).sum() / area - 1 / 6) / area  # 1 / 6: of a pixel
  if area > 0.9 * cover.max(axis=0).sum() * cover.max(axis=1).sum():
    return "square"
  return "triangle" if skew < -0.42 else "circle" if inertia < 1.2 else "star"


def test_captions_are_sentences():
  assert scenes.caption(BOTH) == "two small red circles above a large blue square"
  assert scenes.caption(BOTH, turned=True) == "a large blue square below two small red circles"
  assert scenes.parse("a large blue square below two small red circles") == BOTH
  assert scenes.factors(BOTH).tolist() == [2, 1, 1, 1, 2, 1, 2, 3, 2]
  assert scenes.factors(Scene(BOTH.groups[1:])).tolist() == [1, 2, 3, 2, 0, 0, 0, 0, 0]


def test_every_caption_is_parsed_and_tells_scenes_apart():
  seen = {}
  pairs = [(a, b) for a, b in itertools.product(GROUPS, GROUPS[::5]) if a[1:] != b[1:]]
  every = [Scene((a,)) for a in GROUPS] + [Scene(pair, r) for pair in pairs for r in scenes.RELATIONS]
  for scene in every:
    for turned in (False, True):
      words = scenes.caption(scene, turned)
      assert scenes.parse(words) == scene
      assert seen.setdefault(words, scene) == scene
      assert len(words) <= scenes.LONGEST
  assert len({scenes.factors(scene).tobytes() for scene in every}) == len(every)


@pytest.mark.parametrize(
  "words",
  [
    "",
    "two red circles",
    "two small red circle",
    "a small red circles",
    "four small red circles",
    "a small red circle above",
    "a small red circle above a small red",
    "a small red circle beside a large red circle",
    "a small red circle above a large red circle above a large red circle",
    " a small red circle",
    "A small red circle",
    "a small red circle\n",
    "a small\u00a0red circle",
  ],
)
def test_what_is_no_caption_is_refused(words):
  with pytest.raises(
    UserError, match="is no caption of a scene; write it as 'two small red circles above"
  ) as error:
    scenes.parse(words)
  assert "\n" not in str(error.value)


def test_groups_that_would_be_one_are_refused():
  with pytest.raises(
    UserError, match="its groups look alike and would be one; change a size, colour or shape"
  ):
    scenes.parse("a small red circle above two small red circles")


@pytest.mark.parametrize(
  ("scene", "words"),
  [
    (Scene((BOTH.groups[0]._replace(number=0),)), "give a number from 1 to 3 and words of small, large, red"),
    (Scene((BOTH.groups[0]._replace(number=4),)), "number=4.*give a number"),
    (Scene((BOTH.groups[0]._replace(colour="pink"),)), "colour='pink'.*and words of"),
    (Scene(()), "a scene of 0 groups with the relation ''"),
    (
      Scene(BOTH.groups),
      "a scene of 2 groups with the relation '': give one group without, or two with left of",
    ),
    (Scene(BOTH.groups, "below"), "with the relation 'below'"),
    (Scene(BOTH.groups[:1], "above"), "a scene of 1 groups with the relation 'above'"),
    (Scene(BOTH.groups * 2, "above"), "a scene of 4 groups"),
  ],
)
def test_what_is_no_scene_has_no_caption_and_no_picture(scene, words):
  for function in (scenes.caption, lambda scene: scenes.render(scene, 32, 0)):
    with pytest.raises(UserError, match=words):
      function(scene)


@pytest.mark.parametrize("side", [32, 64])
def test_pictures_show_what_captions_say(side):
  """All factors, as SciPy and moments find them without knowing how pictures are drawn."""
  for found in [*examples(1000), *examples(500, "test")]:
    scene = scenes.parse(found.caption)
    assert scene == found.scene
    groups, there = scene.groups, objects(scenes.render(scene, side, found.seed))
    assert len(there) == sum(group.number for group in groups)
    if len(groups) == 1:
      sides = [there]
    else:  # the halves of the picture
      axis = scenes.RELATIONS.index(scene.relation)
      sides = [[one for one in there if (one[2][axis] > 0.5) == second] for second in (False, True)]
      middles = [np.array([one[2] for one in half]) for half in sides]
      middles = [(m.max(axis=0) + m.min(axis=0)) / 2 for m in middles]
      apart = np.abs(middles[1] - middles[0])
      assert apart[axis] > 1.5 * apart[1 - axis]
    for group, half in zip(groups, sides, strict=True):
      assert [one[:2] for one in half] == [(group.colour, group.shape)] * group.number
      for *_, width in half:
        assert (width > 0.2) == (group.size == "large"), (group, width)


def test_shapes_stay_inside_and_apart():
  for i, scene in enumerate([*(Scene((group,)) for group in GROUPS), BOTH] * 10):
    placed = scenes.layout(scene, i)
    for one in placed:
      assert min(one.x, one.y, 1 - one.x, 1 - one.y) >= one.radius + scenes.BORDER - 1e-9
    for a, b in itertools.combinations(placed, 2):
      assert max(abs(a.x - b.x), abs(a.y - b.y)) >= a.radius + b.radius + scenes.SPACE - 1e-9


@pytest.mark.parametrize("name", scenes.SHAPES)
def test_outlines_lie_in_their_square_and_differ(name):
  at = (np.arange(-100, 100) + 0.5) / 100 * 1.2
  inside = {shape: scenes._OUTLINES[shape](at[None], at[:, None], 1.0) < 0 for shape in scenes.SHAPES}
  mine = inside[name]
  assert np.abs(at[mine.any(axis=0)]).max() <= 1.0 and np.abs(at[mine.any(axis=1)]).max() <= 1.0
  np.testing.assert_array_equal(mine, mine[:, ::-1])
  for other in set(scenes.SHAPES) - {name}:
    assert (mine ^ inside[other]).sum() > 0.15 * mine.sum()


def test_edges_have_the_share_that_is_covered():
  """A circle of 64 pixels against its area, and each pixel against points inside of it."""
  scene = Scene((Group(1, "large", "white", "circle"),))
  picture = scenes.render(scene, 64, 3).astype(float)
  cover = ((picture - scenes.BACKGROUND) / (np.array(scenes.RGB[-1]) - scenes.BACKGROUND)).mean(axis=-1)
  radius = scenes.RADII[1] * 64
  assert abs(cover.sum() - np.pi * radius**2) < 1.0
  (shape,) = scenes.layout(scene, 3)
  x, y = (np.round(at * 64 * scenes.STEPS) / scenes.STEPS for at in (shape.x, shape.y))
  fine = (np.arange(64 * 16) + 0.5) / 16
  points = (np.hypot(fine[None] - x, fine[:, None] - y) < radius).reshape(64, 16, 64, 16).mean(axis=(1, 3))
  np.testing.assert_allclose(cover, points, atol=0.12)


def test_a_picture_is_a_function_of_its_scene_and_seed():
  one = scenes.render(BOTH, 32, 5)
  assert one.shape == (32, 32, 3) and one.dtype == np.uint8
  np.testing.assert_array_equal(one, scenes.render(BOTH, 32, 5))
  assert (one != scenes.render(BOTH, 32, 6)).any()
  largest = scenes.render(BOTH, 32, 2**64 - 1)
  assert (one != largest).any() and (largest != scenes.render(BOTH, 32, 2**64 - 2)).any()
  # The draws of one example, which no version of NumPy may change.
  assert scenes.example("train", 0).caption == "three small yellow squares"
  assert scenes.Draws(0, 0).uniform(0, 1) == DRAWN


def test_splits_hold_out_pairs_of_colour_and_shape():
  held = set(scenes.HELD_OUT)
  assert {colour for colour, _ in held} < set(scenes.COLOURS) and len({shape for _, shape in held}) == len(
    held
  )
  for split in scenes.SPLITS:
    for found in examples(400, split):
      pairs = {(group.colour, group.shape) for group in found.scene.groups}
      assert bool(pairs & held) == (split == "test") == scenes.held_out(found.scene)
  trained = {(g.colour, g.shape) for found in examples(400) for g in found.scene.groups}
  assert len(trained) == len(scenes.COLOURS) * len(scenes.SHAPES) - len(held)
  seeds = [found.seed for split in scenes.SPLITS for found in examples(50, split)]
  assert len(set(seeds)) == len(seeds)


def test_scenes_are_balanced():
  drawn = [found.scene for found in examples(4000)]
  two = np.mean([len(scene.groups) == 2 for scene in drawn])
  groups = [group for scene in drawn for group in scene.groups]
  for share, expected in (
    (np.mean([group.number == 3 for group in groups]), 1 / 3),
    (np.mean([group.size == "large" for group in groups]), 1 / 2),
    (np.mean([group.colour == "white" for group in groups]), 4 / 20),
    (np.mean([scene.relation == "above" for scene in drawn if scene.relation]), 1 / 2),
    # Single groups have fewer pairs that could be held out.
    (two, 0.75 * (20 / 24) ** 2 / (0.75 * (20 / 24) ** 2 + 0.25 * 20 / 24)),
  ):
    assert abs(share - expected) < 0.04, (share, expected)
  words = [found.caption for found in examples(2000)]
  assert (
    0.3
    < np.mean([" right of " in w or " below " in w for w in words])
    / np.mean([s.relation > "" for s in drawn])
    < 0.7
  )


def config(*overrides):
  made = apply_overrides(base_config("vq_vae"), ["data.name=scenes", *overrides])
  validate(made)
  return made.data


def test_scenes_are_a_data_set():
  assert list_splits(config()) == scenes.SPLITS
  source = open_source(config(), "test[10:14]")
  assert len(source) == 4 and source.uniform_shape == (32, 32, 3) and not source.names
  found = scenes.example("test", 11)
  for record in (source[1], {name: x[1] for name, x in source.load_all().items()}):
    np.testing.assert_array_equal(record["image"], scenes.render(found.scene, 32, found.seed))
    np.testing.assert_array_equal(record["factors"], scenes.factors(found.scene))
    assert text.decode(record["text"]) == found.caption and record["text"].shape == (72,)
  larger = open_source(config("data.size=64,64", "data.text_length=80"), "train")
  assert larger[0]["image"].shape == (64, 64, 3) and larger[0]["text"].shape == (80,)


@pytest.mark.parametrize(
  ("overrides", "words"),
  [
    (["data.size=64,32"], r"data\.size=64,32: pictures of data\.name=scenes are square"),
    (["data.size=16,16"], r"data\.size=16,16: .* have at least 32 x 32"),
    (
      ["data.text_length=60"],
      r"data\.name=scenes has a text of 6\d bytes, and data\.text_length=60; set data",
    ),
    (["data.flip=true"], r"data\.flip=true moves the images of data\.name=scenes, .* set data\.flip=false"),
    (["data.rotate=true", "data.size=32,32"], r"data\.rotate=true moves the images"),
    (["data.captions=words"], r"data\.captions=words needs labels, and data\.name=scenes has none"),
  ],
)
def test_what_scenes_cannot_be(overrides, words):
  with pytest.raises(UserError, match=words):
    open_source(config(*overrides), "train")
