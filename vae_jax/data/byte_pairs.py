"""Byte pairs that become tokens: learned from the texts of a training split, when a run starts."""

from __future__ import annotations

from ml_collections import ConfigDict

from vae_jax.data import text
from vae_jax.data.sources import CHUNK, Source, open_source
from vae_jax.errors import UserError
from vae_jax.progress import followed


def learned(data: ConfigDict) -> text.Pairs:
  """The pairs of `data.byte_pairs` in the texts of data.train.

  Raises UserError: records without a text; a text of data.train or data.validation that has more tokens, with these
  pairs, than data.text_length.
  """
  pairs: text.Pairs | None = None
  for split in (data.train, data.validation):
    found = texts(open_source(data, split))
    if not found:
      raise UserError(
        f"data.byte_pairs={data.byte_pairs}: the records of data.name={data.name} have no texts; set data.byte_pairs=0"
      )
    pairs = text.learn(found, data.byte_pairs) if pairs is None else pairs
    longest = max(found, key=lambda one: text.size(one, pairs))
    if (size := text.size(longest, pairs)) > data.text_length:
      raise UserError(
        f"data.name={data.name}, {split}: the text {text.shown(longest)} has {size} {text.unit(pairs)}, and "
        f"data.text_length={data.text_length}; set data.text_length={size}"
      )
  return pairs or ()


def texts(source: Source) -> list[str]:
  """The texts of a split, as it stores them; of labels' words, each word once. None where the records have no text."""
  if source.words is not None:
    return [text.decode(tokens) for tokens in source.words]
  found: list[str] = []
  starts = range(source.start, source.stop, CHUNK)
  for start in followed(starts, len(starts), f"reading texts of {source.name} {source.split}"):
    rows = source.full.read(range(start, min(start + CHUNK, source.stop)))
    found += [text.decode(row["text"]) for row in rows if "text" in row]
  return found
