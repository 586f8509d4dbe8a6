"""The arrays of an HDF5 file by the format's specification (version 3.0), in Python: a file of any origin does no harm.

HDF5's own library is not used. It is written in C and trusts its files: one changed byte can make it loop for ever, and
it has had many faults by which a file writes beyond its memory. Weights need little of the format: groups of either
form, contiguous arrays of numbers, short texts as attributes. The rest is refused. Nothing is followed out of the file,
and every step is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_STEPS = 250_000  # reads, of up to 1,024 bytes; an array of Keras takes some 40
MAX_NAME = 1024  # bytes
NOWHERE = 2**64 - 1  # the address of what is not there

DATASPACE, LINK_INFO, DATATYPE, EXTERNAL, LINK, LAYOUT, FILTERS, ATTRIBUTE, CONTINUED, TABLE = (
  0x01, 0x02, 0x03, 0x07, 0x06, 0x08, 0x0B, 0x0C, 0x10, 0x11,
)  # fmt: skip
FLOATS = {  # bytes: where the exponent begins, its bits, those of the mantissa, the exponent's bias; of IEEE 754
  2: (10, 5, 10, 15),
  4: (23, 8, 23, 127),
  8: (52, 11, 52, 1023),
}


class Refused(Exception):
  """Why a file is not read, in words that follow its path."""


class Link(NamedTuple):
  """A name in a group: the address of what it names, or None where it leads elsewhere (a soft or external link)."""

  name: str
  address: int | None


class Part:
  """A group or an array: the messages of its header, by kind, in order."""

  def __init__(self, address: int, messages: list[tuple[int, int, bytes]]):
    self.address = address
    self._messages = messages

  def all(self, kind: int) -> list[bytes]:
    return [body for k, _, body in self._messages if k == kind]

  def one(self, kind: int) -> bytes | None:
    """The message of a kind; ValueError where it is kept elsewhere, as that of a type with a name."""
    for k, flags, body in self._messages:
      if k == kind:
        if flags & 2:
          raise ValueError("a shared message")
        return body
    return None

  @property
  def is_group(self) -> bool:
    return any(kind in (LINK_INFO, TABLE) for kind, _, _ in self._messages)


class File:
  """Reads parts of a file. Everything raises Refused, or ValueError where the file is damaged."""

  def __init__(self, data: bytes):
    self._data = data
    self._steps = 0
    self._collections: dict[int, dict[int, bytes]] = {}
    version = self._number(8, 1)
    if version in (0, 1):
      sizes, base = self._take(13, 2), 24 + 4 * version
      self.root = self._number(base + 40, 8)
    elif version in (2, 3):
      sizes, base = self._take(9, 2), 12
      self.root = self._number(36, 8)
    else:
      raise Refused(f"is in version {version} of HDF5, which is not read; save it again with h5py")
    if sizes != b"\x08\x08" or self._number(base, 8):
      raise Refused("has addresses in a form that h5py does not write; save it again with h5py")

  def _count(self, steps: int) -> None:
    self._steps += steps
    if self._steps > MAX_STEPS:
      raise Refused("holds more parts than weights have, or nests them without end; save weights alone")

  def _take(self, at: int, size: int) -> bytes:
    self._count(1 + size // 1024)
    if at < 0 or size < 0 or at + size > len(self._data):
      raise ValueError("a part lies beyond the end")
    return self._data[at : at + size]

  def _number(self, at: int, size: int) -> int:
    return int.from_bytes(self._take(at, size), "little")

  def _signed(self, at: int, signature: bytes) -> None:
    if self._take(at, len(signature)) != signature:
      raise ValueError(f"no {signature.decode()} at {at}")

  # --- headers: a list of messages ---

  def part(self, address: int) -> Part:
    messages: list[tuple[int, int, bytes]] = []
    new = self._take(address, 4) == b"OHDR"
    flags = self._number(address + 5, 1) if new else 0
    if new:
      at = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
      size = self._number(at, 1 << (flags & 3))
      blocks = [(at + (1 << (flags & 3)), size)]
    else:
      if self._number(address, 1) != 1:
        raise ValueError(f"no header at {address}")
      blocks = [(address + 16, self._number(address + 8, 4))]
    head = (6 if flags & 4 else 4) if new else 8
    for at, size in blocks:  # which grow meanwhile
      block, at = self._take(at, size), 0
      while at + head <= len(block):
        self._count(1)
        kind, start = _int(block, at, 1 if new else 2), at + head
        length, flag = _int(block, at + (1 if new else 2), 2), block[at + (3 if new else 4)]
        body = block[start : start + length]
        if len(body) < length:
          raise ValueError("a message without an end")
        messages.append((kind, flag, body))
        at = start + length
        if kind == CONTINUED:
          where, length = _int(body, 0, 8), _int(body, 8, 8)
          if new:
            self._signed(where, b"OCHK")
          blocks.append((where + 4, length - 8) if new else (where, length))
    return Part(address, messages)

  # --- groups ---

  def links(self, group: Part) -> Iterator[Link]:
    if (table := group.one(TABLE)) is not None:
      yield from self._table(table)
      return
    for body in group.all(LINK):
      yield _link(body)
    info = group.one(LINK_INFO) or b""
    at = 2 + (8 if info[1] & 1 else 0)
    heap, index = _int(info, at, 8), _int(info, at + 8, 8)
    if heap != NOWHERE:
      for place in self._records(index):
        yield _link(self._from_heap(heap, place))

  def _table(self, message: bytes) -> Iterator[Link]:
    """The older form: a B-tree of nodes of symbols, whose names are in a heap."""
    root, heap = _int(message, 0, 8), _int(message, 8, 8)
    self._signed(heap, b"HEAP")
    names = self._take(self._number(heap + 24, 8), self._number(heap + 8, 8))
    pending = [root]
    while pending:
      node = pending.pop()
      if self._take(node, 4) == b"TREE":
        if self._number(node + 4, 1):
          raise ValueError("no tree of a group")
        children = [self._number(node + 32 + 16 * k, 8) for k in range(self._number(node + 6, 2))]
        pending += reversed(children)
        continue
      self._signed(node, b"SNOD")
      for k in range(self._number(node + 6, 2)):
        entry = self._take(node + 8 + 40 * k, 40)
        start, address = _int(entry, 0, 8), _int(entry, 8, 8)
        name = names[start : start + MAX_NAME]
        yield Link(
          name[: name.index(b"\0")].decode(), None if entry[16] == 2 or address == NOWHERE else address
        )

  def _records(self, index: int) -> Iterator[bytes]:
    """The newer form: a B-tree (version 2) of places in a fractal heap. -> places."""
    self._signed(index, b"BTHD")
    kind, size, record, depth = (self._number(index + k, n) for k, n in ((5, 1), (6, 4), (10, 2), (12, 2)))
    if kind != 5 or record < 5 or size < 10 + record or depth > 8:
      raise ValueError("no index of a group")
    most = [(size - 10) // record]  # records of a node, and of all beneath it, by depth
    beneath = [most[0]]
    for d in range(1, depth + 1):
      pointer = 8 + _width(most[-1]) + (_width(beneath[-1]) if d > 1 else 0)
      most.append((size - 10 - pointer) // (record + pointer))
      beneath.append((most[d] + 1) * beneath[-1] + most[d])
    pending = [(self._number(index + 16, 8), self._number(index + 24, 2), depth)]
    while pending:
      node, count, d = pending.pop()
      if count == 0:
        continue
      self._signed(node, b"BTIN" if d else b"BTLF")
      for k in range(count):
        yield self._take(node + 6 + k * record + 4, record - 4)
      at = node + 6 + count * record
      for _ in range(count + 1 if d else 0):
        width = _width(most[d - 1])
        pending.append((self._number(at, 8), self._number(at + 8, width), d - 1))
        at += 8 + width + (_width(beneath[d - 1]) if d > 1 else 0)

  def _from_heap(self, heap: int, place: bytes) -> bytes:
    """An object of a fractal heap: within one of its blocks, which double in size from row to row of a table."""
    head = self._take(heap, 142)
    width, start, largest, bits = (
      _int(head, 110, 2),
      _int(head, 112, 8),
      _int(head, 120, 8),
      _int(head, 128, 2),
    )
    block, rows = _int(head, 132, 8), _int(head, 140, 2)
    if head[:4] != b"FRHP" or place[0] or _int(head, 7, 2):
      raise ValueError("an object of a heap in a form that groups do not use")
    wide = (bits + 7) // 8
    offset, size = _int(place, 1, wide), _int(place, 1 + wide, len(place))
    while rows:
      self._signed(block, b"FHIB")
      at, before = block + 13 + wide, 0
      for row in range(rows):
        length = start << max(row - 1, 0)
        if offset < before + width * length:
          break
        before += width * length
      else:
        raise ValueError("an object beyond its heap")
      column = (offset - before) // length
      block = self._number(at + 8 * (row * width + column), 8)
      offset -= before + column * length
      rows = 0 if length <= largest else (length // (start * width)).bit_length()
    return self._take(block + offset, size)

  # --- arrays ---

  def array(self, part: Part) -> np.ndarray:
    """A view of the file's bytes. Refused says what it is, where it is no contiguous array of numbers."""
    kind, space, layout = part.one(DATATYPE), part.one(DATASPACE), part.one(LAYOUT)
    if not kind or not space or not layout:
      raise Refused("which is no array of numbers; save weights alone: model.save_weights(f)")
    dtype, shape = _dtype(kind), _shape(space)
    if dtype is None or shape is None:
      raise Refused("which is no array of numbers; save weights alone: model.save_weights(f)")
    form = layout[1] if layout[0] in (3, 4, 5) else None
    if part.all(EXTERNAL) or form == 3:
      raise Refused("stored in another file, which is not followed; save it again in one file")
    if part.all(FILTERS) or form not in (0, 1):
      raise Refused("compressed or in chunks, which is not read; h5repack -f NONE -l CONTI undoes it")
    size = math.prod(shape) * dtype.itemsize
    if form == 0:
      content: bytes | memoryview = layout[4 : 4 + _int(layout, 2, 2)]
    else:
      at = _int(layout, 2, 8)
      content = b"" if size == 0 else self._view(at, size)
    if len(content) < size:
      raise ValueError(f"{len(content)} bytes are no array of {size}")
    return np.frombuffer(content[:size], dtype).reshape(shape)

  def _view(self, at: int, size: int) -> memoryview:
    if at + size > len(self._data):
      raise Refused("which declares more bytes than the file has; it is damaged or was tampered with")
    return memoryview(self._data)[at : at + size]

  # --- attributes ---

  def text(self, part: Part, name: str) -> str | None:
    """A text that is an attribute of a part; None where it has none of this name."""
    for body in part.all(ATTRIBUTE):
      version = body[0]
      sizes = [_int(body, k, 2) for k in (2, 4, 6)]
      at, parts = 9 if version == 3 else 8, []
      for size in sizes:
        parts.append(body[at : at + size])
        at += (size + 7) // 8 * 8 if version == 1 else size
      if parts[0].rstrip(b"\0") != name.encode():
        continue
      kind, value = parts[1][0] & 15, body[at:]
      if kind == 9 and len(value) >= 16:
        value = self._collection(_int(value, 4, 8))[_int(value, 12, 4)]
      elif kind != 3:
        return None
      return value.rstrip(b"\0").decode()
    return None

  def _collection(self, at: int) -> dict[int, bytes]:
    """Objects of the global heap, where texts of variable length are, by number."""
    if at not in self._collections:
      self._signed(at, b"GCOL")
      part = self._take(at, self._number(at + 8, 8))
      found, k = {}, 16
      while k + 16 <= len(part) and (number := _int(part, k, 2)):
        self._count(1)
        size = _int(part, k + 8, 8)
        found[number] = part[k + 16 : k + 16 + size]
        k += 16 + (size + 7) // 8 * 8
      self._collections[at] = found
    return self._collections[at]


def _int(part: bytes, at: int, size: int) -> int:
  return int.from_bytes(part[at : at + size], "little")


def _width(number: int) -> int:
  """Bytes that a number takes."""
  return (number.bit_length() + 7) // 8


def _link(body: bytes) -> Link:
  flags, at = body[1], 2
  kind = body[at] if flags & 8 else 0
  at += (1 if flags & 8 else 0) + (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
  wide = 1 << (flags & 3)
  end = at + wide + _int(body, at, wide)
  name = body[at + wide : end].decode()
  if kind == 0 and len(body) < end + 8:
    raise ValueError("a link without an end")
  return Link(name, None if kind else _int(body, end, 8))


def _shape(space: bytes) -> tuple[int, ...] | None:
  """None for a space without elements, not even one."""
  version, rank = space[0], space[1]
  if version == 2 and space[3] == 2:
    return None
  start = 4 if version == 2 else 8
  if version not in (1, 2) or rank > 16 or len(space) < start + 8 * rank:
    raise ValueError("no shape of an array")
  return tuple(_int(space, start + 8 * k, 8) for k in range(rank))


def _dtype(kind: bytes) -> np.dtype | None:
  """The dtype of integers and of IEEE 754 floating-point numbers; None for anything else."""
  bits, size, offset, precision = kind[1], _int(kind, 4, 4), _int(kind, 8, 2), _int(kind, 10, 2)
  if size not in (1, 2, 4, 8) or offset or precision != 8 * size:
    return None
  order = ">" if bits & 1 else "<"
  if kind[0] & 15 == 0:
    return np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}")
  before, exponent, lowest, mantissa = kind[12:16]
  found = before, exponent, mantissa, _int(kind, 16, 4)
  if kind[0] & 15 != 1 or bits & 0x40 or lowest or found != FLOATS.get(size):
    return None
  return np.dtype(f"{order}f{size}")
