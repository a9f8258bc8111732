"""Whether two objects have the same state, across processes: a hash of all that can be known of one.

Follows values, containers, arrays and the state that an object would be pickled with, without pickling it, or what its method
`__snakebridge_state__` returns (for objects that keep clocks, paths or the like). What cannot be known (threads,
open files, generators, C state that its class keeps to itself) is passed over, and the digest says that it is not complete.
"""

from __future__ import annotations

import copyreg
import hashlib
import math
import struct
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

MOST_NODES = 100_000
MOST_BYTES = 64 * 1024 * 1024
MOST_DEPTH = 200
_PLAIN = "biufc"  # kinds of numbers whose memory can be read as it is
_FLOAT = struct.Struct("<d")


class Digest(NamedTuple):
    """`text` is empty when the object is too large to be looked at; `complete`: nothing of it was passed over."""

    text: str
    complete: bool


def digest(value: Any) -> Digest:
    """The digest of a value. Runs `__reduce_ex__` of its parts; exceptions of theirs are what cannot be known."""
    walk = _Walk()
    try:
        return Digest(walk.hash(value, 0).hex(), walk.complete)
    except Exception:  # too large, or an object that says nonsense of itself: the call whose answer it is does not fail for that
        return Digest("", False)


class _TooLarge(Exception):
    """There is more to look at than the time of a call allows."""


class _Walk:
    def __init__(self) -> None:
        self.complete = True
        self._nodes = self._bytes = 0
        self._path: dict[int, int] = {}
        self._done: dict[int, bytes] = {}
        self._alive: list[Any] = []  # parts made on the way, whose ids must not be given out again

    def hash(self, value: Any, depth: int) -> bytes:
        self._nodes += 1
        if self._nodes > MOST_NODES or depth > MOST_DEPTH:
            raise _TooLarge
        leaf = _LEAVES.get(type(value))
        if leaf is not None:
            if type(value) in (str, bytes, bytearray) and len(value) > MOST_BYTES:
                raise _TooLarge
            return self._sum(type(value).__name__.encode(), leaf(value))
        known = self._done.get(id(value))
        if known is not None:
            return known
        level = self._path.get(id(value))
        if level is not None:
            return self._sum(b"circle", b"%d" % (depth - level))
        self._path[id(value)] = depth
        try:
            found = self._hash(value, depth + 1)
        finally:
            del self._path[id(value)]
        self._done[id(value)] = found
        self._alive.append(value)
        return found

    def _hash(self, value: Any, depth: int) -> bytes:
        kind = type(value)
        if kind in (list, tuple):
            return self._sum(kind.__name__.encode(), *(self.hash(part, depth) for part in value))
        if kind in (set, frozenset):
            return self._sum(kind.__name__.encode(), *sorted(self.hash(part, depth) for part in value))
        if kind is dict:
            return self._sum(b"dict", *sorted(self.hash(key, depth) + self.hash(part, depth) for key, part in value.items()))
        if isinstance(value, _NAMED):
            return self._named(value)
        if getattr(value, "nbytes", None) is not None and _size(value) > MOST_BYTES:
            raise _TooLarge
        array = _array(value)
        if array is not None:
            return self._array(array, depth)
        table = _table(value)
        if table is not None:
            return self._sum(b"table", table)
        return self._object(value, depth)

    def _object(self, value: Any, depth: int) -> bytes:
        name = _name(type(value))
        own = getattr(type(value), "__snakebridge_state__", None)
        if own is not None:
            return self._sum(b"own", name, self.hash(own(value), depth))
        try:
            registered = copyreg.dispatch_table.get(type(value))
            reduced = registered(value) if registered is not None else value.__reduce_ex__(4)
        except Exception:
            return self._parts(value, name, depth)
        if isinstance(reduced, str):
            return self._sum(b"name", name, reduced.encode("utf-8", "surrogatepass"))
        make, arguments, *rest = reduced
        state = rest[0] if rest else None
        items = [list(each) if each is not None else [] for each in rest[1:3]]
        return self._sum(b"object", name, *(self.hash(part, depth) for part in (make, arguments, state, items)))

    def _parts(self, value: Any, name: bytes, depth: int) -> bytes:
        """What can be seen of an object that does not tell its state."""
        self.complete = False
        attributes = getattr(value, "__dict__", None)
        return self._sum(b"parts", name, self.hash(attributes, depth) if type(attributes) is dict else b"")

    def _named(self, value: Any) -> bytes:
        """Code is known by its name, where that leads to it."""
        name = _name(value)
        module, _, path = getattr(value, "__module__", None) or "", "", getattr(value, "__qualname__", "")
        found: Any = sys.modules.get(module)
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is not value and not isinstance(value, types.ModuleType):
            self.complete = False
        return self._sum(b"named", name)

    def _array(self, array: Any, depth: int) -> bytes:
        kind = array.dtype
        if kind.names:  # there may be bytes between the fields that mean nothing
            return self._sum(b"fields", *(self._sum(name.encode(), self._array(array[name], depth)) for name in kind.names))
        about = f"{kind.str} {array.shape}".encode()
        if kind.hasobject:
            return self._sum(b"objects", about, *(self.hash(part, depth) for part in array.ravel().tolist()))
        data = memoryview(array).cast("B") if array.flags.c_contiguous and array.size and kind.kind in _PLAIN else array.tobytes()
        return self._sum(b"array", about, data)

    def _sum(self, *parts: bytes | memoryview) -> bytes:
        self._bytes += sum(map(len, parts))
        if self._bytes > MOST_BYTES:
            raise _TooLarge
        total = hashlib.blake2b(digest_size=16)
        for part in parts:
            total.update(b"%d " % len(part))
            total.update(part)
        return total.digest()


_LEAVES: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"",
    bool: lambda value: b"1" if value else b"0",
    int: lambda value: b"%x" % value if value >= 0 else b"-%x" % -value,
    float: lambda value: b"nan" if math.isnan(value) else _FLOAT.pack(value),
    complex: lambda value: _FLOAT.pack(value.real) + _FLOAT.pack(value.imag),
    str: lambda value: value.encode("utf-8", "surrogatepass"),
    bytes: lambda value: value,
    bytearray: bytes,
}
_NAMED = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)


def _name(value: Any) -> bytes:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}".encode()


def _size(value: Any) -> int:
    """The bytes of an array, before any of them is copied; 0 for what merely has an attribute of that name."""
    size = value.nbytes
    return size if type(size) is int else 0


def _array(value: Any) -> Any:
    """The numpy array that holds the numbers of an array of any library."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(value, (numpy.ndarray, numpy.generic)):
        return numpy.asarray(value)
    jax, torch = sys.modules.get("jax"), sys.modules.get("torch")
    try:
        if jax is not None and isinstance(value, jax.Array):
            return numpy.asarray(value)
        if torch is not None and isinstance(value, torch.Tensor):
            return value.detach().cpu().numpy()
    except Exception:  # keys of random generators, deleted arrays, types that numpy lacks
        return None
    return None


def _table(value: Any) -> bytes | None:
    """An Arrow table or array as it travels."""
    arrow = sys.modules.get("pyarrow")
    if arrow is None or not isinstance(value, (arrow.Table, arrow.RecordBatch, arrow.Array, arrow.ChunkedArray)):
        return None
    table = value if isinstance(value, (arrow.Table, arrow.RecordBatch)) else arrow.table({"": value})
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    return bytes(sink.getvalue())
