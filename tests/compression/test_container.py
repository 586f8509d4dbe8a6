"""The file of compressed images: whole or refused."""

import hashlib
import json

import numpy as np
import pytest

from vae_jax.compression import Header, Stack, pack, sizes, unpack
from vae_jax.compression.container import CHECKSUM
from vae_jax.errors import UserError

HEADER = Header((2, 3, 1), 5, 2, 12, "bernoulli", "0" * 32, "1" * 16, "cpu")


def stack():
  full = Stack.initial(2)
  random = np.random.default_rng(0)
  full.push(random.integers(0, 99, (40, 2)), np.ones((40, 2)), 16)
  full.push(random.integers(0, 99, (10, 1)), np.ones((10, 1)), 16)  # lanes of different lengths
  return full


def resealed(content, header):
  """The file with another header and a checksum that is right."""
  length = int.from_bytes(content[10:14], "little")
  body = content[:10] + len(header).to_bytes(4, "little") + header + content[14 + length : -CHECKSUM]
  return body + hashlib.sha256(body).digest()[:CHECKSUM]


def refused(content, match):
  with pytest.raises(UserError, match=match) as error:
    unpack(content, "a.bb")
  assert "\n" not in str(error.value) and str(error.value).startswith("a.bb: ")


def test_a_file_holds_header_and_stack_and_little_more():
  content = pack(HEADER, stack())
  header, found = unpack(content, "a.bb")
  assert header == HEADER
  for x, y in zip(found.parts(), stack().parts(), strict=True):
    np.testing.assert_array_equal(x, y)
  assert len(content) - stack().bits // 8 < 300


def test_any_flipped_bit_and_any_cut_is_refused():
  content = pack(HEADER, stack())
  for i in range(8, len(content)):
    damaged = bytearray(content)
    damaged[i] ^= 1 << i % 8
    refused(bytes(damaged), "damaged or cut off")
  for end in [*range(8, 40), len(content) // 2, len(content) - 1]:
    refused(content[:end], "damaged or cut off")
  refused(content + b"\0", "damaged or cut off")
  for other in (b"", content[:7], b"\x89PNG" + content):
    refused(other, "is no file of compressed images")


@pytest.mark.parametrize(
  "change",
  [
    {"count": 0},
    {"count": 2.5},
    {"count": True},
    {"count": 2**40},
    {"lanes": 6},
    {"lanes": 1},
    {"lanes": -1},
    {"latent_bits": 17},
    {"shape": [2, 3]},
    {"shape": [2, 3, 0]},
    {"shape": None},
    {"weights": 7},
  ],
)
def test_a_header_that_says_what_cannot_be_is_refused(change):
  content = pack(HEADER, stack())
  length = int.from_bytes(content[10:14], "little")
  header = json.loads(content[14 : 14 + length])
  assert unpack(resealed(content, json.dumps(header).encode()), "a.bb")[0] == HEADER
  refused(
    resealed(content, json.dumps(header | change).encode()), "its checksum is right, and its content is not"
  )


@pytest.mark.parametrize("header", [b"", b"{}", b"[1]", b"\xff", b"[" * 4000, b" " * 5000])
def test_a_header_that_is_none_is_refused(header):
  refused(resealed(pack(HEADER, stack()), header), "its checksum is right, and its content is not")


def test_lanes_that_would_take_much_more_memory_than_the_file_are_refused():
  lengths = np.zeros(100, np.int64)
  lengths[3] = 1000
  uneven = Stack(Stack.initial(100).head, lengths, np.zeros(1000, np.uint32))
  many = Header((2, 3, 1), 100, 100, 12, "bernoulli", "0" * 32, "1" * 16, "cpu")
  refused(pack(many, uneven), "its lanes are of very different lengths")


def test_a_newer_format_says_what_to_do():
  content = bytearray(pack(HEADER, stack()))
  content[8] = 2
  body = bytes(content[:-CHECKSUM])
  refused(
    body + hashlib.sha256(body).digest()[:CHECKSUM], "has format 2, this vae_jax reads 1; update vae_jax"
  )


@pytest.mark.parametrize(("channels", "binary"), [(1, True), (1, False), (3, False), (3, True), (2, False)])
def test_sizes_of_other_formats(channels, binary):
  levels = np.zeros((6, 16, 16, channels), np.uint8)
  found = sizes(levels, binary)
  assert found["raw"] == levels.size // (8 if binary else 1)
  assert {"png", "webp"} <= set(found) or channels == 2
  noise = np.random.default_rng(0).integers(0, 2 if binary else 256, levels.shape, np.uint8)
  for name, size in sizes(noise, binary).items():
    assert name == "raw" or size > found[name]
    assert size >= found["raw"] or (binary and channels == 3)
