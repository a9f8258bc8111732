"""The encoding half of `packed`: values as MessagePack with extension types (docs/wire.md section 1).

msgpack's C code makes the one pass over the value; it comes back here only for what MessagePack has no form for. A class is added by one
row in `ENCODERS`; one that travels as a tag and other values is a row of `named.py` instead. Large buffers are left out by msgpack and put
in afterwards, so that they are copied once.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from datetime import date, datetime, time
from enum import Enum
from typing import Any

import msgpack

from . import arrays, identity, moments, named, rewrite, shape, standard, tables
from .errors import CodecError, EncodeError, LimitExceeded
from .limits import DEFAULT, Limits
from .marks import (
    ATOM,
    BINARY,
    CALLBACK,
    COMPLEX,
    FROZENSET,
    INT,
    MARKS,
    MEMBERS,
    NDARRAY,
    NODE,
    OPAQUE,
    PAIRS,
    REF,
    SEGMENT,
    SET,
    STREAM_REF,
    TUPLE,
    TYPED,
    Ext,
)  # fmt: skip
from .modules import loaded
from .named import BY_REFERENCE, Named
from .resolver import CallbackRef, PlainResolver, Ref, Resolver, StreamRef
from .segments import Outlet
from .wrappers import Atom, Binary, Extension, Members, OpaqueTerm, Pairs, PreciseDatetime, PreciseTime

_COMPLEX = struct.Struct(">dd")
_KEPT_BUFFER = 1 << 20
LARGE = 1 << 16
_GAP = 0x7F  # an extension that never reaches the wire


def _bin_header(size: int) -> bytes:
    return b"\xc6" + size.to_bytes(4, "big")


class Packer:
    """Encodes values; keep one per thread and reuse it. `resolver` names the objects that do not travel by value.

    canonical: equal values give equal bytes (the entries of dicts and sets are sorted by their bytes). preserve_identity: a list, dict,
    set or tuple that occurs more than once, or contains itself, is one object on the other side, too. segments: shared memory for large
    arrays and tables.
    """

    def __init__(
        self,
        resolver: Resolver | None = None,
        limits: Limits = DEFAULT,
        *,
        canonical: bool = False,
        preserve_identity: bool = False,
        segments: Outlet | None = None,
    ) -> None:
        self.resolver: Resolver = resolver if resolver is not None else PlainResolver()
        self.limits = limits
        self.canonical = canonical
        self.preserve_identity = preserve_identity
        self.segments = segments
        self._packer = self._new_packer()
        self._buffers: list[Any] = []
        self._gap = os.urandom(12)  # so that no value can look like a gap

    def _new_packer(self) -> Any:
        return msgpack.Packer(default=self._default, strict_types=True, buf_size=4096)

    def pack(self, value: Any) -> bytes:
        """The packed bytes of a value. Raises EncodeError or LimitExceeded; never changes the value."""
        if self.segments is not None and type(value) in (bytes, memoryview) and (place := self._shared(value)) is not None:
            return place
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
            self._check_size(data, value)
        finally:
            if self._buffers:
                self._buffers = []
        return data

    def _shared(self, value: bytes | memoryview) -> bytes | None:
        """The packed segment of a value that is nothing but bytes; None when they stay inside the message."""
        buffer = memoryview(value)
        place = self.segments.export(buffer.cast("B")) if buffer.nbytes and buffer.c_contiguous and self.segments is not None else None
        return None if place is None else self._packer.pack([MARKS[SEGMENT], *place])

    def _check_size(self, data: bytes, value: Any) -> None:
        limits = self.limits
        size = len(data)
        if size > _KEPT_BUFFER:
            self._packer = self._new_packer()  # its buffer never shrinks
        # A message of fewer bytes cannot hold more levels or elements. msgpack nests some 1000 levels; whether that is too deep is for the
        # reader to say, unless a lower limit than usual was asked for: looking would cost as much as writing.
        if size > limits.elements or (limits.depth < DEFAULT.depth and size > limits.depth):
            shape.check(value, limits, EncodeError)
        if size > limits.frame:
            raise self._too_large(size)

    def buffer(self, data: Any) -> Any:
        """Where an encoder puts the memory of an array or a table: into shared memory, or where it is copied once only."""
        if self.segments is not None and (place := self.segments.export(data)) is not None:
            return [MARKS[SEGMENT], *place]
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
    Pairs: lambda _, v: [MARKS[PAIRS], *(part for pair in pairs_of(v) for part in pair)],
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


def pairs_of(value: Pairs) -> list[tuple[Any, Any]]:
    """The pairs. Raises EncodeError when something else is among them."""
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
    if standard.is_namedtuple(cls) or standard.is_structseq(cls):
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
