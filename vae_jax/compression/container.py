"""The file of compressed images: a header, a stack of bits, a checksum. Data alone; nothing in it is run.

8 bytes  magic           2  format version       4  length of the header, all numbers little-endian
header   JSON: `Header`
8 bytes  of each lane, the head; 4 bytes of each lane, its number of words; 4 bytes of each word, lane by lane
16 bytes of the SHA-256 of all before
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass, fields

import numpy as np

from vae_jax.compression.ans import Stack
from vae_jax.compression.symbols import MOST_LATENT_BITS
from vae_jax.errors import UserError, printable

MAGIC, VERSION, CHECKSUM = b"VAEJAXBB", 1, 16
_START = struct.Struct("<8sHI")
MOST_HEADER = 4096
MOST_LANES = 128
MOST_VALUES = 2**34  # pixels and channels of all images: 16 GiB of bytes
REMEDY = "compress the images again"


@dataclass(frozen=True)
class Header:
  """What a file says of its images.

  shape: (h, w, c). count: of images. lanes: stacks. latent_bits: 2^bits buckets of a latent. likelihood: its name.
  weights: digest of the model's. images: `digest` of the images. platform: what computed the networks' floats.
  """

  shape: tuple[int, int, int]
  count: int
  lanes: int
  latent_bits: int
  likelihood: str
  weights: str
  images: str
  platform: str


def digest(levels: np.ndarray) -> str:
  """Returns 16 hexadecimal digits that stand for images, uint8."""
  return hashlib.sha256(np.ascontiguousarray(levels).tobytes()).hexdigest()[:16]


def pack(header: Header, stack: Stack) -> bytes:
  """The content of a file."""
  text = json.dumps(asdict(header), separators=(",", ":")).encode()
  head, lengths, words = stack.parts()
  body = head.astype("<u8").tobytes() + lengths.astype("<u4").tobytes() + words.astype("<u4").tobytes()
  content = _START.pack(MAGIC, VERSION, len(text)) + text + body
  return content + hashlib.sha256(content).digest()[:CHECKSUM]


def unpack(content: bytes, name: str) -> tuple[Header, Stack]:
  """What `pack` was given. name: of the file, for messages. Raises UserError: another file, a newer one, damaged."""
  name = printable(name)
  if not content.startswith(MAGIC):
    raise UserError(f"{name}: is no file of compressed images; give one that --mode compress wrote")
  damaged = UserError(f"{name}: is damaged or cut off; fetch it again, or {REMEDY}")
  if len(content) < _START.size + CHECKSUM:
    raise damaged
  _, version, length = _START.unpack_from(content)
  body, checksum = content[:-CHECKSUM], content[-CHECKSUM:]
  if hashlib.sha256(body).digest()[:CHECKSUM] != checksum:
    raise damaged
  if version != VERSION:
    raise UserError(f"{name}: has format {version}, this vae_jax reads {VERSION}; update vae_jax")
  try:
    header = _header(body[_START.size : _START.size + length])
    return header, _stack(body[_START.size + length :], header.lanes)
  except (ValueError, TypeError, KeyError, RecursionError) as error:
    raise UserError(f"{name}: its checksum is right, and its content is not ({error}); {REMEDY}") from error


def _header(text: bytes) -> Header:
  """Raises ValueError, TypeError or KeyError: what no file says."""
  if len(text) > MOST_HEADER:
    raise ValueError(f"a header of {len(text)} bytes")
  given = json.loads(text)
  values = {field.name: given[field.name] for field in fields(Header)}
  h = Header(**(values | {"shape": tuple(values["shape"])}))
  whole = (*h.shape, h.count, h.lanes, h.latent_bits)
  if len(h.shape) != 3 or not all(type(n) is int and n > 0 for n in whole):
    raise ValueError("its numbers are not positive")
  if h.lanes > min(h.count, MOST_LANES) or h.latent_bits > MOST_LATENT_BITS:
    raise ValueError(f"{h.lanes} lanes, {h.count} images, {h.latent_bits} bits of a latent")
  if h.shape[0] * h.shape[1] * h.shape[2] * h.count > MOST_VALUES:
    raise ValueError(f"{h.count} images of {h.shape}")
  if not all(isinstance(word, str) for word in (h.likelihood, h.weights, h.images, h.platform)):
    raise ValueError("its words are none")
  return h


def _stack(body: bytes, lanes: int) -> Stack:
  """Raises ValueError where the lanes do not fill the bytes, or are far from equal, which would take much memory."""
  if len(body) < 12 * lanes:
    raise ValueError(f"{len(body)} bytes of {lanes} lanes")
  head = np.frombuffer(body, "<u8", lanes)
  lengths = np.frombuffer(body, "<u4", lanes, 8 * lanes)
  total = int(lengths.sum(dtype=np.int64))
  if 4 * total != len(body) - 12 * lanes or (head < 2**32).any():
    raise ValueError("its lanes do not fill it")
  if lanes * int(lengths.max()) > 4 * total + 2**16:
    raise ValueError("its lanes are of very different lengths")
  return Stack(head, lengths, np.frombuffer(body, "<u4", offset=12 * lanes))
