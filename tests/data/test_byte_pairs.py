"""Byte pairs of a training split."""

import numpy as np
import pytest

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data import byte_pairs, text
from vae_jax.errors import UserError


def data_of(folder, **texts):
  """A config's data: a split for each list of texts, and room for three tokens."""
  for split, words in texts.items():
    tokens = np.stack([text.encode(word, 4) for word in words])
    np.savez(folder / f"{split}.npz", image=np.zeros((len(words), 4, 4, 1), np.uint8), text=tokens)
  keys = ["data.name=npz", f"data.dir={folder}", "data.byte_pairs=2", "data.text_length=3"]
  return apply_overrides(base_config("code_transformer"), keys).data


def test_pairs_are_those_of_the_training_texts_alone(tmp_path):
  assert byte_pairs.learned(data_of(tmp_path, train=["ab", "ab"], validation=["cd", "cd"])) == (98, 99)
  assert byte_pairs.learned(data_of(tmp_path, train=["abc"], validation=["cd", "cd"])) == ()


@pytest.mark.parametrize("long", ["train", "validation"])
def test_texts_that_are_too_long_with_the_pairs_are_named(tmp_path, long):
  texts = {"train": ["ab", "ab"], "validation": ["ab"]}
  data = data_of(tmp_path, **{**texts, long: [*texts[long], "cdef"]})
  with pytest.raises(
    UserError, match=rf"^data\.name=npz, {long}: the text 'cdef' has 4 tokens, and data\.text_len"
  ):
    byte_pairs.learned(data)
