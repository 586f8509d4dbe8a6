"""A pickle of nested dicts of arrays, without running anything that the file says.

Pickles are programs: `pickle.load` runs what they ask for. Here their opcodes are read one by one, and nothing can be
called but the few functions that the caller names (`NUMPY` here, `torch_files.TORCH`).
"""

from __future__ import annotations

import io
import pickletools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from vae_jax.storage.limits import MAX_AXES, MAX_DEPTH, MAX_ITEMS, MAX_NAME, Refused, array_of, quote


class Call(NamedTuple):
  """A function of ours that pickles call under the name of another."""

  function: Callable[..., Any]


class Shell:
  """An array or a dtype that a pickle makes first and fills afterwards (BUILD)."""

  def __init__(self, fill: Callable[..., Any], *arguments: Any):
    self.fill, self.arguments, self.value = fill, arguments, None

  def build(self, state: Any) -> None:
    self.value = self.fill(*self.arguments, *state)


def _fill_dtype(code: Any, _version: int, order: Any, *rest: Any) -> np.dtype:
  if not (re.fullmatch("[fiu][1248]|b1", code) and order in ("<", ">", "|", "=")):
    raise Refused(f"holds arrays of type {quote(code)}; only numbers are read")
  return np.dtype(order + code)


def _fill_array(_version: int, shape: Any, dtype: Any, fortran: Any, data: Any) -> np.ndarray:
  if not (type(dtype) is Shell and isinstance(dtype.value, np.dtype) and type(data) is bytes):
    raise Refused("holds arrays of other things than numbers; only numbers are read")
  return array_of(data, shape, dtype.value, bool(fortran))


def assign(target: Any, pairs: Iterable[Any]) -> None:
  """Puts pairs into `target`. Refused unless it is a dict and the keys are short texts."""
  for key, value in pairs:
    if not (type(target) is dict and type(key) is str and len(key) <= MAX_NAME):
      raise Refused(
        f"holds other than dicts with names up to {MAX_NAME} characters; save nested dicts of arrays"
      )
    target[key] = value


NUMPY = {
  "numpy.core.multiarray _reconstruct": Call(lambda *_: Shell(_fill_array)),
  "numpy._core.multiarray _reconstruct": Call(lambda *_: Shell(_fill_array)),
  "numpy ndarray": None,
  "numpy dtype": Call(lambda code, *_: Shell(_fill_dtype, code)),
}
_NUMBERS = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"))
_TEXTS = frozenset(
  ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8")
) | {"SHORT_BINSTRING"}  # of Python 2
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
  """What a pickle works on while it is read: a stack, marks on it, and a memo. Each method obeys a kind of opcode.

  A method returns False for the opcodes of another kind.
  """

  def __init__(self, known: Mapping[str, Any], storage: Callable[[Any], Any] | None):
    self.known, self.storage = known, storage
    self.stack: list[Any] = []
    self.marks: list[int] = []
    self.memo: dict[int, Any] = {}

  def since_mark(self) -> list[Any]:
    """Takes the items above the last mark from the stack."""
    start = self.marks.pop()
    items = self.stack[start:]
    del self.stack[start:]
    return items

  def push(self, name: str, argument: Any) -> bool:
    """Puts a literal, an empty dict or list, a tuple or a mark on the stack, or moves what is there to the memo."""
    stack = self.stack
    if name in _NUMBERS or name in _TEXTS:
      stack.append(argument)
    elif name in _CONSTANTS:
      stack.append(_CONSTANTS[name])
    elif name in _TUPLES:
      start = len(stack) - _TUPLES[name]
      if start < 0:
        raise ValueError("a tuple of more than there is")
      stack[start:] = [tuple(stack[start:])]
    elif name == "TUPLE":
      stack.append(tuple(self.since_mark()))
    elif name == "EMPTY_DICT":
      stack.append({})
    elif name == "EMPTY_LIST":
      stack.append([])
    elif name == "MARK":
      self.marks.append(len(stack))
    elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
      self.memo[len(self.memo) if argument is None else argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
      stack.append(self.memo[argument])
    else:
      return False
    return True

  def fill(self, name: str) -> bool:
    """Fills the dict or the list on top of the stack."""
    stack = self.stack
    if name == "SETITEM":
      value, key = stack.pop(), stack.pop()
      assign(stack[-1], [(key, value)])
    elif name == "SETITEMS":
      items = self.since_mark()
      assign(stack[-1], zip(items[::2], items[1::2], strict=True))
    elif name in ("APPEND", "APPENDS"):
      items = self.since_mark() if name == "APPENDS" else [stack.pop()]
      if type(stack[-1]) is not list:
        raise ValueError("items for what is no list")
      stack[-1] += items
    else:
      return False
    return True

  def call(self, name: str, argument: Any) -> bool:
    """Looks up one of the names `known`, calls its function, or fills in the array or dtype that it made."""
    stack = self.stack
    if name in ("GLOBAL", "STACK_GLOBAL"):
      self._look_up(name, argument)
    elif name == "REDUCE":
      arguments, function = stack.pop(), stack.pop()
      if not (isinstance(function, Call) and type(arguments) is tuple):
        raise Refused("holds a pickle that calls what is no function; do not trust it")
      if len(arguments) > MAX_AXES:
        raise ValueError(f"a call with {len(arguments)} arguments")
      stack.append(function.function(*arguments))
    elif name == "BUILD":
      state = stack.pop()
      if type(stack[-1]) is Shell:
        if type(state) is not tuple or len(state) > MAX_AXES:
          raise ValueError("an array is not described as numpy does")
        stack[-1].build(state)
      elif not isinstance(stack[-1], (dict, np.ndarray)):  # metadata, of a parameter too, are not needed
        raise Refused("holds a pickle that fills in what is no array; do not trust it")
    elif name == "BINPERSID" and self.storage is not None:
      stack.append(self.storage(stack.pop()))
    else:
      return False
    return True

  def _look_up(self, name: str, argument: Any) -> None:
    if name == "STACK_GLOBAL":
      attribute, module = self.stack.pop(), self.stack.pop()
      if type(module) is not str or type(attribute) is not str:  # nested tuples can be endless as text
        raise ValueError("a name that is no text")
      argument = f"{module} {attribute}"
    if argument not in self.known:
      asked = quote(argument.replace(" ", "."))
      raise Refused(f"asks for {asked}, which is more than arrays need: it is not loaded; do not trust it")
    self.stack.append(self.known[argument])


def unpickle(
  data: bytes | io.BytesIO, known: Mapping[str, Any], storage: Callable[[Any], Any] | None = None
) -> Any:
  """Returns what a pickle builds of dicts with short names as keys, lists, tuples, literals and the names `known`.

  It obeys the opcodes that plain data need and refuses all others. data: a file is read up to the pickle's end.
  storage: for persistent ids.
  """
  machine = _Machine(known, storage)
  for count, (opcode, given, _) in enumerate(pickletools.genops(data)):
    name, argument = opcode.name, cast(Any, given)
    if count > MAX_ITEMS:
      raise Refused(f"holds a pickle of more than {MAX_ITEMS} steps; save nested dicts of arrays alone")
    if name == "STOP":
      return machine.stack.pop()
    known_opcode = machine.push(name, argument) or machine.fill(name) or machine.call(name, argument)
    if not known_opcode and name not in ("PROTO", "FRAME"):
      raise Refused(
        f"holds a pickle with opcode {name}, which dicts of arrays do not need; save such dicts alone"
      )
  raise EOFError("the pickle has no end")


def flatten(tree: Any) -> dict[str, np.ndarray]:
  """Joins the names of nested dicts: {"a/b": array}. A pickle can hold one dict in many places, or in itself."""
  if type(tree) is not dict:
    raise Refused("does not hold a dict of arrays; save a state dict, or nested dicts of arrays")
  arrays: dict[str, np.ndarray] = {}
  pending: list[tuple[tuple[str, ...], Any]] = [((), tree)]
  for steps in range(MAX_ITEMS):
    if not pending:
      return arrays
    path, node = pending.pop()
    if type(node) is dict and len(path) < MAX_DEPTH and len(pending) + len(node) + steps < MAX_ITEMS:
      pending += [((*path, key), value) for key, value in reversed(node.items())]
      continue
    node = node.value if type(node) is Shell else node
    if not isinstance(node, np.ndarray):
      what = "dicts nested without end" if type(node) is dict else type(node).__name__
      raise Refused(f"holds {quote('/'.join(path))}, of type {what}; save nested dicts of arrays alone")
    arrays["/".join(path)] = node
  raise Refused(f"holds more than {MAX_ITEMS} entries")
