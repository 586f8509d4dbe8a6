"""Suggestions: only what is near."""

import pytest

from vae_jax.errors import nearest


@pytest.mark.parametrize(
  ("word", "known", "answer"),
  [
    ("imk", ["imq", "rbf"], "; did you mean 'imq'?"),
    ("vgg", ["vgg16", "alexnet"], "; did you mean 'vgg16'?"),
    ("resume", ["processes", "workdir"], "; known flags: processes, workdir"),
    ("train", ["sample", "restore"], "; known flags: restore, sample"),
    ("", ["b", "a"], "; known flags: a, b"),
  ],
)
def test_nearest(word, known, answer):
  assert nearest(word, known, what="flags") == answer
