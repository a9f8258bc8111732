"""`packed`: values as MessagePack with extension types, the native wire (docs/wire.md section 1).

msgpack's C code makes the one pass over the value; it comes back here only for what MessagePack has no form for. A Python class is added to
the encoder by one row in `ENCODERS`, a wire form to the decoder by one row in `LEAVES` or `COMPOSITES`; a class that travels as a tag and
other values is a row of `named.py` instead.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from datetime import date, datetime, time
from enum import Enum
from typing import Any

import msgpack
from msgpack import unpackb

from . import arrays, identity, moments, named, rewrite, shape, standard, tables
from .errors import CodecError, DecodeError, EncodeError, LimitExceeded
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
    MARKS,
    MEMBERS,
    NDARRAY,
    NODE,
    NODES,
    OPAQUE,
    PAIRS,
    REF,
    SET,
    STREAM_REF,
    TEXT,
    TUPLE,
    TYPED,
    Ext,
)  # fmt: skip
from .modules import loaded
from .named import BY_REFERENCE, Named
from .resolver import CallbackRef, PlainResolver, Ref, Resolver, StreamRef
from .wrappers import Atom, Binary, Extension, Members, OpaqueTerm, Pairs, PreciseDatetime, PreciseTime

_COMPLEX = struct.Struct(">dd")
_KEPT_BUFFER = 1 << 20
LARGE = 1 << 16
_GAP = 0x7F  # an extension that never reaches the wire


def _bin_header(size: int) -> bytes:
    return b"\xc6" + size.to_bytes(4, "big")


# --- encoding ---------------------------------------------------------------------------------------------------------------------------


class Packer:
    """Encodes values; keep one per thread and reuse it. `resolver` names the objects that do not travel by value.

    canonical: equal values give equal bytes (the entries of dicts and sets are sorted by their bytes). preserve_identity: a list, dict,
    set or tuple that occurs more than once, or contains itself, is one object on the other side, too.
    """

    def __init__(
        self,
        resolver: Resolver | None = None,
        limits: Limits = DEFAULT,
        *,
        canonical: bool = False,
        preserve_identity: bool = False,
    ) -> None:
        self.resolver: Resolver = resolver if resolver is not None else PlainResolver()
        self.limits = limits
        self.canonical = canonical
        self.preserve_identity = preserve_identity
        self._packer = self._new_packer()
        self._buffers: list[Any] = []
        self._gap = os.urandom(12)  # so that no value can look like a gap

    def _new_packer(self) -> Any:
        return msgpack.Packer(default=self._default, strict_types=True, buf_size=4096)

    def pack(self, value: Any) -> bytes:
        """The packed bytes of a value. Raises EncodeError or LimitExceeded; never changes the value."""
        if type(value) is bytes and LARGE <= len(value) < self.limits.frame:
            return self._joined([_bin_header(len(value)), value])
        limits = self.limits
        try:
            if self.canonical or self.preserve_identity:
                data = self._pack_rewritten(value)
            else:
                try:
                    data = self._packer.pack(value)
                except (UnicodeEncodeError, BufferError):  # lone surrogates, or a memoryview with gaps
                    shape.check(value, limits, EncodeError)
                    data = self._pack_rewritten(value)
                except ValueError as error:
                    raise self._refused(error, value) from None
            if self._buffers:
                data = self._joined(self._with_buffers(data))
        finally:
            if self._buffers:
                self._buffers = []
        size = len(data)
        if size > _KEPT_BUFFER:
            self._packer = self._new_packer()  # its buffer never shrinks
        # A message of fewer bytes cannot hold more levels or elements. msgpack nests some 1000 levels; whether that is too deep is for the
        # reader to say, unless a lower limit than usual was asked for: looking would cost as much as writing.
        if size > limits.elements or (limits.depth < DEFAULT.depth and size > limits.depth):
            shape.check(value, limits, EncodeError)
        if size > limits.frame:
            raise self._too_large(size)
        return data

    def buffer(self, data: Any) -> Any:
        """Where an encoder puts the memory of an array or a table: a large one is left out by msgpack, which would copy it twice."""
        if len(data) < LARGE:
            return data
        if len(data) > self.limits.frame:
            raise self._too_large(len(data))
        self._buffers.append(data)
        return Ext(_GAP, self._gap + len(self._buffers).to_bytes(4, "big"))

    def _with_buffers(self, data: bytes) -> list[Any]:
        """The packed bytes with the buffers in the gaps that were left for them."""
        parts: list[Any] = []
        at = 0
        head = bytes((0xD8, _GAP)) + self._gap
        while (gap := data.find(head, at)) >= 0:
            buffer = self._buffers[int.from_bytes(data[gap + 14 : gap + 18], "big") - 1]
            parts += (data[at:gap], _bin_header(len(buffer)), buffer)
            at = gap + 18
        return [*parts, data[at:]]

    def _joined(self, parts: list[Any]) -> bytes:
        size = sum(map(len, parts))
        if size > self.limits.frame:
            raise self._too_large(size)
        return b"".join(parts)

    def _too_large(self, size: int) -> LimitExceeded:
        limit = self.limits.frame
        return LimitExceeded(f"the encoded value has {size} bytes, more than max_frame = {limit}; send it in parts or raise max_frame")

    def _pack_rewritten(self, value: Any) -> bytes:
        try:
            return self._packer.pack(rewrite.plain(value, self))  # type: ignore[no-any-return]
        except RecursionError:
            shape.explain_depth(value, self.limits)
            raise LimitExceeded("the call stack is exhausted where a value has to be encoded; make the Python code recurse less") from None
        except ValueError as error:
            raise self._refused(error, value) from None

    def pack_part(self, part: Any) -> bytes:
        """The bytes of a part that `rewrite` has made."""
        return self._packer.pack(part)  # type: ignore[no-any-return]

    def _refused(self, error: ValueError, value: Any) -> CodecError:
        if "recursion limit" in str(error):
            shape.explain_depth(value, self.limits)
        return EncodeError(f"MessagePack cannot hold this value: {error}; split it into smaller parts")

    def _default(self, value: Any) -> Any:
        encode = ENCODERS.get(type(value))
        if encode is None:
            encode = encoder_for(type(value))
        return encode(self, value)


Encoder = Callable[[Packer, Any], Any]


def _opaque(packer: Packer, value: Any) -> Any:
    return _record(packer, packer.resolver.opaque(value))


def _record(_: Packer, ref: Ref | StreamRef | CallbackRef) -> Any:
    match ref:
        case StreamRef():
            return [MARKS[STREAM_REF], ref.id, ref.session, ref.module, ref.library, ref.type_name, ref.stream_type]
        case CallbackRef():
            return [MARKS[CALLBACK], ref.id, ref.arity, ref.owner]
    return [MARKS[REF], ref.id, ref.session, ref.module, ref.library, ref.type_name]


def _int(packer: Packer, value: int) -> Any:
    value = int.__int__(value)
    bits = value.bit_length()
    if bits < 64:
        return value
    if bits == 64 and value > 0:
        return value
    if bits > packer.limits.int_bits:
        raise LimitExceeded(
            f"an integer of {bits} bits is larger than max_int_bits = {packer.limits.int_bits}; send it as bytes or as text"
        )
    size = (value if value > 0 else ~value).bit_length() // 8 + 1
    return Ext(INT, value.to_bytes(size, "big", signed=True))


def _moment(packer: Packer, value: Any) -> Any:
    form = moments.leaf_of(value)
    if form is None:
        return _opaque(packer, value)
    return MARKED[form.tag](packer, value) if isinstance(form, Named) else Ext(*form)


def _named(row: Named) -> Encoder:
    tag, to_wire = row.tag, row.to_wire

    def encode(packer: Packer, value: Any) -> Any:
        payload = to_wire(value)
        return _opaque(packer, value) if payload is BY_REFERENCE else [MARKS[TYPED], tag, payload]

    def encode_users(packer: Packer, value: Any) -> Any:
        try:
            payload = to_wire(value)
        except Exception as error:
            raise EncodeError(f"to_wire of the registered type {tag!r} raised {type(error).__name__}: {str(error)[:200]}") from error
        return [MARKS[TYPED], tag, payload]

    def encode_table(packer: Packer, value: Any) -> Any:
        payload = to_wire(value)
        if payload is BY_REFERENCE:
            return _opaque(packer, value)
        kind, stream = payload
        return [MARKS[TYPED], tag, [kind, packer.buffer(stream)]]

    return encode_users if row.by_user else encode_table if tag == tables.TAG else encode


MARKED: dict[str, Encoder] = {row.tag: _named(row) for row in (standard.FOLD, standard.ZONED_TIME, standard.ZONED_DATETIME)}


def _ndarray(packer: Packer, value: Any) -> Any:
    parts = arrays.parts(value)
    if parts is None:
        return _opaque(packer, value)
    name, dims, data, *order = parts
    return [MARKS[NDARRAY], name, dims, packer.buffer(data), *order]


def _numpy_scalar(packer: Packer, value: Any) -> Any:
    plain = arrays.scalar(value)
    if plain is BY_REFERENCE:
        return _opaque(packer, value)
    # What msgpack is handed back it must know itself.
    return plain if type(plain) in (bool, float) else ENCODERS.get(type(plain), _ndarray)(packer, plain)


def _jax_array(packer: Packer, value: Any) -> Any:
    import numpy as np

    try:
        return _ndarray(packer, np.asarray(value))
    except (TypeError, ValueError, RuntimeError):  # keys of random generators, deleted or traced arrays
        return _opaque(packer, value)


ENCODERS: dict[type, Encoder] = {
    int: _int,
    str: lambda _, v: str.__str__(v),
    float: lambda _, v: float.__float__(v),
    bytes: lambda _, v: bytes.__getitem__(v, slice(None)),
    bytearray: lambda _, v: bytes(v),
    memoryview: lambda _, v: v.tobytes(),
    list: lambda _, v: list.__getitem__(v, slice(None)),
    dict: lambda _, v: dict(dict.items(v)),
    tuple: lambda _, v: [MARKS[TUPLE], *tuple.__iter__(v)],
    set: lambda _, v: [MARKS[SET], *set.__iter__(v)],
    frozenset: lambda _, v: [MARKS[FROZENSET], *frozenset.__iter__(v)],
    complex: lambda _, v: Ext(COMPLEX, _COMPLEX.pack(v.real, v.imag)),
    Atom: lambda _, v: Ext(ATOM, v.encode("utf-8", "surrogatepass")),
    Binary: lambda _, v: Ext(BINARY, bytes.__getitem__(v, slice(None))),
    Pairs: lambda _, v: [MARKS[PAIRS], *(part for pair in _pairs(v) for part in pair)],
    Members: lambda _, v: [MARKS[MEMBERS], *list.__iter__(v)],
    OpaqueTerm: lambda _, v: Ext(OPAQUE, v.data),
    Extension: lambda _, v: [MARKS[TYPED], v.tag, v.value],
    date: _moment,
    time: _moment,
    datetime: _moment,
    PreciseTime: _moment,
    PreciseDatetime: _moment,
    Ref: _record,
    StreamRef: _record,
    CallbackRef: _record,
    identity.NodeRef: lambda _, v: [MARKS[NODE], v.index],
    rewrite.Parts: lambda _, v: v.parts,
}


def _pairs(value: Pairs) -> list[tuple[Any, Any]]:
    for pair in value:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise EncodeError(f"Pairs must hold (key, value) tuples, not {type(pair).__name__} {ascii(pair)[:60]}")
    return value


# Subclasses of these travel as their base value (docs/types.md, "canonical"); a subclass of anything else may hold more than we know of.
CANONICAL_BASES = (str, int, float, bytes, bytearray, list, dict, tuple, set, frozenset, complex)
_OURS = frozenset(ENCODERS)


def encoder_for(cls: type) -> Encoder:
    """The encoder of a class seen for the first time; remembered, unless the class may be thrown away again."""
    encode = _choose_encoder(cls)
    if len(ENCODERS) < 4096:
        ENCODERS[cls] = encode
    return encode


def _choose_encoder(cls: type) -> Encoder:
    row = named.of_class(cls) or special_row(cls)
    if row is not None:
        return _named(row)
    if (numpy := loaded("numpy", "ndarray", "generic")) is not None:
        ndarray, generic = numpy
        if cls is ndarray:
            return _ndarray
        if issubclass(cls, generic) and not issubclass(cls, (str, bytes)):
            return _numpy_scalar
    if (jax := loaded("jax", "Array")) is not None and issubclass(cls, jax):
        return _jax_array
    for base in cls.__mro__:
        if base in CANONICAL_BASES:
            return ENCODERS[base]
    return _opaque


def special_row(cls: type) -> Named | None:
    """The row of a class that is recognised by what it inherits from."""
    if issubclass(cls, Enum):
        return standard.ENUM
    if standard.is_namedtuple(cls):
        return standard.NAMEDTUPLE
    if (arrow := loaded("pyarrow", "Array", "ChunkedArray", "Scalar")) is not None:
        array, chunked, scalar = arrow
        if issubclass(cls, (array, chunked)):
            return tables.ARRAY
        if issubclass(cls, scalar):
            return tables.SCALAR
    return None


def _forget(cls: type) -> None:
    if cls not in _OURS:
        ENCODERS.pop(cls, None)


named.on_register(_forget)


# --- decoding ---------------------------------------------------------------------------------------------------------------------------


class _Mark:
    __slots__ = ("kind",)

    def __init__(self, kind: int) -> None:
        self.kind = kind


class Unpacker:
    """Decodes values; keep one per thread and reuse it. `resolver` turns refs and callbacks into live objects."""

    def __init__(self, resolver: Resolver | None = None, limits: Limits = DEFAULT) -> None:
        self.resolver: Resolver = resolver if resolver is not None else PlainResolver()
        self.limits = limits
        self._small = min(limits.depth, limits.elements, limits.frame)  # too few bytes to nest too deep or to hold too much
        self._containers = 0
        self._open_marks = 0
        self._on_list = self._list
        self._on_ext = self._ext
        self.nodes: list[identity.NodeRef] = []

    def unpack(self, data: bytes | bytearray | memoryview) -> Any:
        """The value of packed bytes. Raises DecodeError or LimitExceeded, or what the resolver raises for a ref."""
        size = len(data)
        self._open_marks = 0
        try:
            if size <= self._small:
                value = unpackb(data, list_hook=self._on_list, ext_hook=self._on_ext, strict_map_key=False)
            else:
                value = self._unpack_large(data, size)
        except Exception as error:
            if self.nodes:
                self.nodes = []
            if isinstance(error, (ValueError, TypeError, RecursionError)):
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
        value = unpackb(
            data,
            list_hook=self._on_list,
            object_hook=self._count_map,
            ext_hook=self._on_ext,
            strict_map_key=False,
            max_array_len=bound,
            max_map_len=bound,
        )
        if size > limits.elements:
            shape.check(value, limits, DecodeError)
        elif self._containers > limits.depth:
            shape.check_depth(value, self._containers, limits)
        return value

    def _explained(self, error: ValueError | TypeError | RecursionError, size: int) -> BaseException:
        """What a failure of msgpack, or of a dict that it made, means to the sender."""
        if isinstance(error, UnicodeDecodeError):
            return DecodeError(f"a string on the wire is not valid UTF-8 ({error.reason} at its byte {error.start}); send it as bytes")
        if isinstance(error, RecursionError):
            return LimitExceeded(f"the message nests deeper than max_depth = {self.limits.depth}; flatten it")
        if isinstance(error, ValueError):
            return _malformed(error, size, self.limits)
        if "unhashable" in str(error):
            return DecodeError(f"a map key or set element cannot be hashed in Python ({error}); use strings, numbers or tuples as keys")
        return error

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
            return COMPOSITES[items[0].kind](self, items)
        return items

    def _count_map(self, items: dict[Any, Any]) -> dict[Any, Any]:
        self._containers += 1
        return items

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
    return int.from_bytes(data, "big", signed=True)


LEAVES: dict[int, Callable[[Unpacker, bytes], Any]] = {
    INT: _read_int,
    ATOM: lambda _, data: Atom(data.decode("utf-8", "surrogatepass")),
    BINARY: lambda _, data: Binary(data),
    TEXT: lambda _, data: data.decode("utf-8", "surrogatepass"),
    COMPLEX: lambda _, data: complex(*_COMPLEX.unpack(data)),
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
        value = kind(items[1:])
    except TypeError as error:
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
    return unpacker.resolver.callback(CallbackRef(*fields))


def _read_node(unpacker: Unpacker, items: list[Any]) -> Any:
    node = identity.NodeRef.read(items[1:])
    unpacker.nodes.append(node)
    return node


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
    MEMBERS: lambda _, items: members(items[1:]),
    GRAPH: lambda _, items: identity.build(items[1:]),
    NODE: _read_node,
    NODES: lambda _, items: identity.Nodes(items[1:]),
}

_MARKS_IN = {bytes((kind,)): _Mark(kind) for kind in COMPOSITES}
