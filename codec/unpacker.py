"""The decoding half of `packed`: MessagePack with extension types to values (docs/wire.md section 1).

A wire form is added by one row in `LEAVES` (an extension with a binary payload) or in `COMPOSITES` (an array that begins with a mark).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from msgpack import unpackb

from . import arrays, collisions, identity, moments, named, shape
from .errors import CodecError, DecodeError, LimitExceeded
from .limits import DEFAULT, Limits
from .marks import (
    ATOM,
    BINARY,
    CALLBACK,
    COMPLEX,
    FROZENSET,
    GRAPH,
    INT,
    MARK,
    MEMBERS,
    NDARRAY,
    NODE,
    NODES,
    OPAQUE,
    PAIRS,
    REF,
    SEGMENT,
    SET,
    STREAM_REF,
    TEXT,
    TUPLE,
    TYPED,
)  # fmt: skip
from .resolver import CallbackRef, PlainResolver, Ref, Resolver, StreamRef
from .segments import Outlet, Segments
from .wrappers import Atom, Binary, Members, OpaqueTerm, Pairs

_COMPLEX = struct.Struct(">dd")


class _Mark:
    __slots__ = ("kind",)

    def __init__(self, kind: int) -> None:
        self.kind = kind


class _TooManyUnsalted(Exception):
    """There are more values in a message whose hashes are not salted than may share one."""


class Unpacker:
    """Decodes values; keep one per thread and reuse it. `resolver` turns refs and callbacks into live objects."""

    def __init__(self, resolver: Resolver | None = None, limits: Limits = DEFAULT, segments: Segments | Outlet | None = None) -> None:
        self.resolver: Resolver = resolver if resolver is not None else PlainResolver()
        self.limits = limits
        self.segments = segments
        self._small = min(limits.depth, limits.elements, limits.frame)  # too few bytes to nest too deep or to hold too much
        self._containers = 0
        self._open_marks = 0
        self._unsalted, self._enough = 0, -1
        self._data: bytes | bytearray | memoryview = b""
        self._callbacks: dict[CallbackRef, Any] = {}
        self._on_list = self._list
        self._on_ext = self._ext
        self.nodes: list[identity.NodeRef | identity.Nodes] = []

    def unpack(self, data: bytes | bytearray | memoryview) -> Any:
        """The value of packed bytes. Raises DecodeError or LimitExceeded, or what the resolver raises for a ref."""
        size = len(data)
        self._open_marks = 0
        try:
            if size <= self._small:
                value = unpackb(data, list_hook=self._on_list, ext_hook=self._on_ext, strict_map_key=False, timestamp=3)
            else:
                value = self._unpack_large(data, size)
        except Exception as error:
            if self.nodes:
                self.nodes = []
            if isinstance(error, (ValueError, TypeError, ArithmeticError, RecursionError)):
                raise self._explained(error, size) from None
            raise
        if self._open_marks or self.nodes:
            self._check_marks()
        return value

    def _unpack_large(self, data: bytes | bytearray | memoryview, size: int) -> Any:
        limits = self.limits
        if size > limits.frame:
            raise LimitExceeded(f"a message of {size} bytes is larger than max_frame = {limits.frame}; send it in parts or raise max_frame")
        self._containers = 0
        bound = min(size, limits.elements)
        # Only large integers, complex numbers and composites come in numbers that share a hash. Where there are enough of them for a dict
        # to become slow, the message is read once more, with a look at the keys of its dicts.
        self._unsalted, self._enough, self._data = 0, collisions.LIMIT, data
        try:
            value = self._parsed(data, bound, object_hook=self._count_map)
        except _TooManyUnsalted:
            self._unsalted, self._enough = 0, -1
            self._containers, self._open_marks, self.nodes = 0, 0, []
            value = self._parsed(data, bound, object_pairs_hook=self._map)
        finally:
            self._enough, self._data = -1, b""
            self._callbacks.clear()
        if size > limits.elements:
            shape.check(value, limits, DecodeError)
        elif self._containers > limits.depth:
            shape.check_depth(value, self._containers, limits)
        return value

    def _parsed(self, data: bytes | bytearray | memoryview, bound: int, **on_map: Any) -> Any:
        return unpackb(
            data,
            list_hook=self._on_list,
            ext_hook=self._on_ext,
            strict_map_key=False,
            timestamp=3,  # MessagePack's own moments, which nobody here sends, are datetimes
            max_array_len=bound,
            max_map_len=bound,
            **on_map,
        )

    def count_unsalted(self) -> None:
        """Notes a value whose hash its sender can choose."""
        self._unsalted += 1
        if self._unsalted == self._enough:
            self._look_closer()

    def _look_closer(self) -> None:
        """Has the message read again when it may hold a dict of so many keys; otherwise they need not be counted any more."""
        if collisions.may_hold_large_map(self._data):
            raise _TooManyUnsalted
        self._enough = -1

    def callback(self, ref: CallbackRef) -> Any:
        """The callable of a function; one, even when a message is read twice."""
        if self._enough < 0 and not self._callbacks:
            return self.resolver.callback(ref)
        if ref not in self._callbacks:
            self._callbacks[ref] = self.resolver.callback(ref)
        return self._callbacks[ref]

    def _explained(self, error: ValueError | TypeError | ArithmeticError | RecursionError, size: int) -> CodecError:
        """What a failure of msgpack, or of a dict that it made, means to the sender."""
        if isinstance(error, UnicodeDecodeError):
            return DecodeError(f"a string on the wire is not valid UTF-8 ({error.reason} at its byte {error.start}); send it as bytes")
        if isinstance(error, RecursionError):
            return LimitExceeded(f"the message nests deeper than max_depth = {self.limits.depth}; flatten it")
        if isinstance(error, ValueError):
            return _malformed(error, size, self.limits)
        if isinstance(error, OverflowError):
            return DecodeError(f"a number or moment on the wire is out of Python's range ({error}); send it as text")
        # A key that refuses to be hashed, or to be compared with another one.
        return DecodeError(f"a map key or set element cannot be hashed in Python ({error}); use strings, numbers or tuples as keys")

    def _check_marks(self) -> None:
        nodes, self.nodes = self.nodes, []
        if self._open_marks:
            raise DecodeError("a composite mark stands where a value should be; the sender's encoder is broken")
        if not all(node.resolved for node in nodes):
            raise DecodeError("a node stands outside the graph that it belongs to; the sender's encoder is broken")

    def _list(self, items: list[Any]) -> Any:
        self._containers += 1
        if items and type(items[0]) is _Mark:
            self._open_marks -= 1
            self._unsalted += 1
            if self._unsalted == self._enough:
                self._look_closer()
            return COMPOSITES[items[0].kind](self, items)
        return items

    def _count_map(self, items: dict[Any, Any]) -> dict[Any, Any]:
        self._containers += 1
        return items

    def _map(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        self._containers += 1
        if len(pairs) > collisions.LIMIT:
            collisions.check([key for key, _ in pairs], "keys of a map")
        return dict(pairs)

    def _ext(self, code: int, data: bytes) -> Any:
        if code == MARK:
            mark = _MARKS_IN.get(data)
            if mark is None:
                raise DecodeError(
                    f"unknown composite kind {data[:8].hex() or 'of no bytes'}; the peer speaks a newer version of the protocol"
                )
            self._open_marks += 1
            return mark
        return self.read_leaf(code, data)

    def read_leaf(self, code: int, data: bytes) -> Any:
        """The value of a leaf. Raises DecodeError."""
        decode = LEAVES.get(code)
        if decode is None:
            raise DecodeError(f"unknown extension type {code}; the peer speaks a newer version of the protocol")
        try:
            return decode(self, data)
        except (struct.error, IndexError, OverflowError, UnicodeDecodeError) as error:
            raise DecodeError(f"malformed extension type {code} ({len(data)} bytes): {error}; the sender's encoder is broken") from None


def _malformed(error: ValueError, size: int, limits: Limits) -> CodecError:
    text = str(error)
    if type(error).__name__ == "StackError":
        return LimitExceeded(f"the message nests deeper than max_depth = {limits.depth}; flatten it")
    if "max_array_len" in text or "max_map_len" in text:
        if size < limits.elements:
            return DecodeError(
                f"a container claims more elements than the {size} bytes of its message can hold; the message is truncated or forged"
            )
        return LimitExceeded(f"a container has more elements than max_elements = {limits.elements}; send it in parts or raise max_elements")
    if type(error).__name__ == "ExtraData":
        return DecodeError("bytes are left over after the value; the sender's encoder is broken")
    return DecodeError(f"malformed MessagePack in a message of {size} bytes: {text or type(error).__name__}; it is truncated or corrupt")


def _read_int(unpacker: Unpacker, data: bytes) -> int:
    if len(data) * 8 > unpacker.limits.int_bits + 8:
        raise LimitExceeded(
            f"an integer of {len(data) * 8} bits is larger than max_int_bits = {unpacker.limits.int_bits}; send it as bytes"
        )
    if not data:
        raise DecodeError("an integer of no bytes; the sender's encoder is broken")
    unpacker.count_unsalted()
    return int.from_bytes(data, "big", signed=True)


def _read_complex(unpacker: Unpacker, data: bytes) -> complex:
    unpacker.count_unsalted()
    return complex(*_COMPLEX.unpack(data))


LEAVES: dict[int, Callable[[Unpacker, bytes], Any]] = {
    INT: _read_int,
    ATOM: lambda _, data: Atom(data.decode("utf-8", "surrogatepass")),
    BINARY: lambda _, data: Binary(data),
    TEXT: lambda _, data: data.decode("utf-8", "surrogatepass"),
    COMPLEX: _read_complex,
    OPAQUE: lambda _, data: _read_opaque(data),
    **{code: lambda _, data, read=read: read(data) for code, read in moments.LEAVES.items()},  # type: ignore[misc]
}


def _read_opaque(data: bytes) -> OpaqueTerm:
    try:
        return OpaqueTerm(data)
    except ValueError as error:
        raise DecodeError(str(error)) from None


def _read_set(kind: type[set[Any]] | type[frozenset[Any]], items: list[Any]) -> Any:
    try:
        if len(items) > collisions.LIMIT:
            collisions.check(items[1:], "elements of a set")
        value = kind(items[1:])
    except (TypeError, ArithmeticError) as error:
        raise DecodeError(f"a set element cannot be hashed in Python ({error}); use strings, numbers or tuples, or send a list") from None
    if len(value) != len(items) - 1:
        raise DecodeError(f"elements of a set are equal in Python ({len(items) - 1} came, {len(value)} are distinct); send a list instead")
    return value


def pairs(items: list[Any]) -> dict[Any, Any] | Pairs:
    """A dict of keys and values in turn; Pairs where Python cannot hash the keys or keep them apart. A sender need not know which it is."""
    if len(items) % 2:
        raise DecodeError("a map of pairs ends in a key without a value; the sender's encoder is broken")
    keys, values = items[::2], items[1::2]
    try:
        value = dict(zip(keys, values, strict=True))
    except TypeError:
        value = {}
    return value if len(value) == len(keys) else Pairs(zip(keys, values, strict=True))


def members(items: list[Any]) -> set[Any] | Members:
    """A set; Members where Python cannot hash the elements or keep them apart."""
    try:
        value = set(items)
    except TypeError:
        value = set()
    return value if len(value) == len(items) else Members(items)


def _read_typed(items: list[Any]) -> Any:
    if len(items) != 3:
        raise DecodeError(f"a named type must hold a tag and a payload; {len(items) - 1} parts came; the sender's encoder is broken")
    return named.read(items[1], items[2])


def _read_ref(unpacker: Unpacker, items: list[Any]) -> Any:
    return unpacker.resolver.resolve(Ref(*_strings("ref", items, 5)))


def _read_stream_ref(unpacker: Unpacker, items: list[Any]) -> Any:
    return unpacker.resolver.resolve(StreamRef(*_strings("stream_ref", items, 6)))


def _strings(name: str, items: list[Any], count: int) -> list[str]:
    fields = items[1:]
    if len(fields) != count or not all(isinstance(field, str) for field in fields) or not fields[0]:
        raise DecodeError(f"a {name} must hold {count} strings, the first its id; this one holds {str(fields)[:80]}")
    return fields


def _read_callback(unpacker: Unpacker, items: list[Any]) -> Any:
    fields = items[1:]
    if len(fields) != 3 or [type(field) for field in fields] != [str, int, str]:
        raise DecodeError(f"a callback must hold an id, an arity and an owner; this one holds {str(fields)[:80]}")
    return unpacker.callback(CallbackRef(*fields))


def _read_node(unpacker: Unpacker, items: list[Any]) -> Any:
    node = identity.NodeRef.read(items[1:])
    unpacker.nodes.append(node)
    return node


def _read_segment(unpacker: Unpacker, items: list[Any]) -> memoryview:
    if unpacker.segments is None:
        raise DecodeError("a shared segment came in where no memory is shared; send the value itself (SnakeBridge.unshare/1)")
    if len(items) != 4:
        raise DecodeError(f"a shared segment must hold a name, an offset and a length, not {ascii(items[1:])[:60]}")
    return unpacker.segments.open(items[1], items[2], items[3])


def _read_nodes(unpacker: Unpacker, items: list[Any]) -> Any:
    nodes = identity.Nodes(items[1:])
    unpacker.nodes.append(nodes)
    return nodes


COMPOSITES: dict[int, Callable[[Unpacker, list[Any]], Any]] = {
    TUPLE: lambda _, items: tuple(items[1:]),
    SET: lambda _, items: _read_set(set, items),
    FROZENSET: lambda _, items: _read_set(frozenset, items),
    PAIRS: lambda _, items: pairs(items[1:]),
    REF: _read_ref,
    STREAM_REF: _read_stream_ref,
    CALLBACK: _read_callback,
    NDARRAY: lambda _, items: arrays.build(items[1:]),
    TYPED: lambda _, items: _read_typed(items),
    SEGMENT: _read_segment,
    MEMBERS: lambda _, items: members(items[1:]),
    GRAPH: lambda _, items: identity.build(items[1:]),
    NODE: _read_node,
    NODES: _read_nodes,
}

_MARKS_IN = {bytes((kind,)): _Mark(kind) for kind in COMPOSITES}
