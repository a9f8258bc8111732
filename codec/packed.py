"""`packed`: values as MessagePack with extension types, the native wire (docs/wire.md section 1).

msgpack's C code makes the one pass over the value; it comes back here only for what MessagePack has no form for. A Python class is added to
the encoder by one row in `ENCODERS`, a wire form to the decoder by one row in `LEAVES` or `COMPOSITES`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Any, TypeVar

import msgpack

from . import shape
from .errors import CodecError, DecodeError, EncodeError, LimitExceeded
from .limits import DEFAULT, Limits
from .types import DTYPES, Atom, Binary, CallbackRef, PlainResolver, Ref, Resolver, StreamRef, element_count, loaded

INT, ATOM, BINARY, TEXT, COMPLEX, DATE, TIME, NAIVE, DATETIME, MARK = 1, 2, 3, 4, 5, 6, 7, 8, 9, 16
TUPLE, SET, FROZENSET, REF, STREAM_REF, CALLBACK, NDARRAY = 1, 2, 3, 5, 6, 7, 8

_Ext = msgpack.ExtType
_MARKS_OUT = {kind: _Ext(MARK, bytes((kind,))) for kind in (TUPLE, SET, FROZENSET, REF, STREAM_REF, CALLBACK, NDARRAY)}

_COMPLEX = struct.Struct(">dd")
_DATE = struct.Struct(">iBB")
_TIME = struct.Struct(">BBBIB")
_NAIVE = struct.Struct(">iBBBBBIB")
_DATETIME = struct.Struct(">iBBBBBIBiiB")


# --- encoding ---------------------------------------------------------------------------------------------------------------------------


class Packer:
    """Encodes values; keep one per thread and reuse it. `resolver` names the objects that do not travel by value."""

    def __init__(self, resolver: Resolver | None = None, limits: Limits = DEFAULT) -> None:
        self.resolver: Resolver = resolver if resolver is not None else PlainResolver()
        self.limits = limits
        self._packer = msgpack.Packer(default=self._default, strict_types=True, buf_size=4096)

    def pack(self, value: Any) -> bytes:
        """The packed bytes of a value. Raises EncodeError or LimitExceeded; never changes the value."""
        try:
            data: bytes = self._packer.pack(value)
        except (UnicodeEncodeError, BufferError):  # lone surrogates, or a memoryview with gaps
            shape.check(value, self.limits, EncodeError)
            data = self._packer.pack(_escape_text(value))
        except ValueError as error:
            if "recursion limit" in str(error):
                shape.explain_depth(value, self.limits)
            raise EncodeError(f"MessagePack cannot hold this value: {error}; split it into smaller parts") from None
        size = len(data)
        if size > self.limits.depth:  # a message of fewer bytes cannot hold more levels
            shape.check(value, self.limits, EncodeError)
            if size > self.limits.frame:
                raise LimitExceeded(
                    f"the encoded value has {size} bytes, more than max_frame = {self.limits.frame}; send it in parts or raise max_frame"
                )
        return data

    def _default(self, value: Any) -> Any:
        encode = ENCODERS.get(type(value))
        if encode is None:
            encode = _encoder_for(type(value))
        return encode(self, value)


_Encoder = Callable[[Packer, Any], Any]


def _opaque(packer: Packer, value: Any) -> Any:
    return _record(packer, packer.resolver.opaque(value))


def _record(_: Packer, ref: Ref | StreamRef | CallbackRef) -> Any:
    match ref:
        case StreamRef():
            return [
                _MARKS_OUT[STREAM_REF],
                ref.id,
                ref.session,
                ref.module,
                ref.library,
                ref.type_name,
                ref.stream_type,
            ]
        case CallbackRef():
            return [_MARKS_OUT[CALLBACK], ref.id, ref.arity, ref.owner]
    return [_MARKS_OUT[REF], ref.id, ref.session, ref.module, ref.library, ref.type_name]


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
    return _Ext(INT, value.to_bytes(size, "big", signed=True))


def _complex(_: Packer, value: complex) -> Any:
    return _Ext(COMPLEX, _COMPLEX.pack(value.real, value.imag))


def _time(packer: Packer, value: time) -> Any:
    if value.tzinfo is not None or value.fold:
        return _opaque(packer, value)
    us = value.microsecond
    return _Ext(TIME, _TIME.pack(value.hour, value.minute, value.second, us, 6 if us else 0))


def _datetime(packer: Packer, value: datetime) -> Any:
    us = value.microsecond
    fields = (value.year, value.month, value.day, value.hour, value.minute, value.second, us, 6 if us else 0)
    if value.tzinfo is None:
        return _opaque(packer, value) if value.fold else _Ext(NAIVE, _NAIVE.pack(*fields))
    offset = value.utcoffset()
    if offset is None or offset.microseconds:
        return _opaque(packer, value)
    zone = getattr(value.tzinfo, "key", None) or ""
    dst = (value.dst() or timedelta(0)) if zone else timedelta(0)
    name = zone.encode()
    abbreviation = (value.tzname() or "").encode() if zone else b""
    head = _DATETIME.pack(*fields, _seconds(offset), _seconds(dst), len(name))
    return _Ext(DATETIME, head + name + abbreviation)


def _seconds(delta: timedelta) -> int:
    return delta.days * 86400 + delta.seconds


def _ndarray(packer: Packer, value: Any) -> Any:
    name = value.dtype.name
    if name not in DTYPES:
        return _opaque(packer, value)
    import numpy as np

    array = np.asarray(value, dtype=value.dtype.newbyteorder("<"), order="C")
    return [_MARKS_OUT[NDARRAY], name, list(array.shape), array.reshape(-1).view(np.uint8).data]


def _numpy_scalar(packer: Packer, value: Any) -> Any:
    plain = value.item()
    if type(plain) is int:
        return _int(packer, plain)
    if type(plain) is complex:
        return _complex(packer, plain)
    return plain if type(plain) in (bool, float) else _opaque(packer, value)


def _jax_array(packer: Packer, value: Any) -> Any:
    if getattr(value.dtype, "name", "") not in DTYPES:
        return _opaque(packer, value)
    import numpy as np

    return _ndarray(packer, np.asarray(value))


ENCODERS: dict[type, _Encoder] = {
    int: _int,
    str: lambda _, v: str.__str__(v),
    float: lambda _, v: float.__float__(v),
    bytes: lambda _, v: bytes.__getitem__(v, slice(None)),
    bytearray: lambda _, v: bytes(v),
    memoryview: lambda _, v: v.tobytes(),
    list: lambda _, v: list.__getitem__(v, slice(None)),
    dict: lambda _, v: dict(dict.items(v)),
    tuple: lambda _, v: [_MARKS_OUT[TUPLE], *tuple.__iter__(v)],
    set: lambda _, v: [_MARKS_OUT[SET], *set.__iter__(v)],
    frozenset: lambda _, v: [_MARKS_OUT[FROZENSET], *frozenset.__iter__(v)],
    complex: _complex,
    Atom: lambda _, v: _Ext(ATOM, v.encode("utf-8", "surrogatepass")),
    Binary: lambda _, v: _Ext(BINARY, bytes.__getitem__(v, slice(None))),
    date: lambda _, v: _Ext(DATE, _DATE.pack(v.year, v.month, v.day)),
    time: _time,
    datetime: _datetime,
    Ref: _record,
    StreamRef: _record,
    CallbackRef: _record,
}

# Subclasses of these travel as their base value (docs/types.md, "canonical"); a subclass of anything else may hold more than we know of.
_CANONICAL_BASES = (str, int, float, bytes, bytearray, list, dict, tuple, set, frozenset, complex)


def _encoder_for(cls: type) -> _Encoder:
    """The encoder of a class seen for the first time; remembered, unless the class may be thrown away again."""
    encode = _choose_encoder(cls)
    if len(ENCODERS) < 4096:
        ENCODERS[cls] = encode
    return encode


def _choose_encoder(cls: type) -> _Encoder:
    if (numpy := loaded("numpy", "ndarray", "number", "bool_")) is not None:
        ndarray, *scalars = numpy
        if cls is ndarray:
            return _ndarray
        if issubclass(cls, tuple(scalars)):
            return _numpy_scalar
    if (jax := loaded("jax", "Array")) is not None and issubclass(cls, jax):
        return _jax_array
    for base in cls.__mro__:
        if base in _CANONICAL_BASES:
            return ENCODERS[base]
    return _opaque


def _escape_text(value: Any) -> Any:
    """A copy in which strings with lone surrogates are TEXT leaves and memoryviews bytes. Only made when a plain pass met such."""
    match value:
        case memoryview():
            return value.tobytes()
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                return _Ext(ATOM if type(value) is Atom else TEXT, value.encode("utf-8", "surrogatepass"))
            return value
        case list():
            return [_escape_text(item) for item in value]
        case tuple():
            return [_MARKS_OUT[TUPLE], *(_escape_text(item) for item in value)]
        case set():
            return [_MARKS_OUT[SET], *(_escape_text(item) for item in value)]
        case frozenset():
            return [_MARKS_OUT[FROZENSET], *(_escape_text(item) for item in value)]
        case dict():
            return {_escape_key(key): _escape_text(item) for key, item in dict.items(value)}
    return value


def _escape_key(key: Any) -> Any:
    escaped = _escape_text(key)
    return _Escaped(escaped) if isinstance(escaped, list) else escaped


class _Escaped:
    """An escaped tuple or frozenset as a map key: hashable, and packed as its parts."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts


ENCODERS[_Escaped] = lambda _, v: v.parts


# --- decoding ---------------------------------------------------------------------------------------------------------------------------


class _Mark:
    __slots__ = ("kind",)

    def __init__(self, kind: int) -> None:
        self.kind = kind


_MARKS_IN = {bytes((kind,)): _Mark(kind) for kind in _MARKS_OUT}


class Unpacker:
    """Decodes values; keep one per thread and reuse it. `resolver` turns refs and callbacks into live objects."""

    def __init__(self, resolver: Resolver | None = None, limits: Limits = DEFAULT) -> None:
        self.resolver: Resolver = resolver if resolver is not None else PlainResolver()
        self.limits = limits
        self._containers = 0
        self._open_marks = 0

    def unpack(self, data: bytes | bytearray | memoryview) -> Any:
        """The value of packed bytes. Raises DecodeError or LimitExceeded, or what the resolver raises for a ref."""
        size = len(data)
        limits = self.limits
        if size > limits.frame:
            raise LimitExceeded(f"a message of {size} bytes is larger than max_frame = {limits.frame}; send it in parts or raise max_frame")
        self._containers = self._open_marks = 0
        counted = size > limits.depth  # fewer bytes cannot nest too deep
        bound = min(size, limits.elements)
        try:
            value = msgpack.unpackb(
                data,
                list_hook=self._list,
                object_hook=self._count_map if counted else None,
                ext_hook=self._ext,
                strict_map_key=False,
                max_array_len=bound,
                max_map_len=bound,
            )
        except CodecError:
            raise
        except UnicodeDecodeError as error:
            raise DecodeError(
                f"a string on the wire is not valid UTF-8 ({error.reason} at its byte {error.start}); send it as bytes"
            ) from None
        except RecursionError:
            raise LimitExceeded(f"the message nests deeper than max_depth = {limits.depth}; flatten it") from None
        except TypeError as error:
            if "unhashable" not in str(error):
                raise
            raise DecodeError(
                f"a map key or set element cannot be hashed in Python ({error}); use strings, numbers or tuples as keys"
            ) from None
        except ValueError as error:
            raise _malformed(error, size, limits) from None
        if self._open_marks:
            raise DecodeError("a composite mark stands where a value should be; the sender's encoder is broken")
        if counted and (self._containers > limits.depth or size > limits.elements):
            shape.check(value, limits, DecodeError)
        return value

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


def _read_date(_: Unpacker, data: bytes) -> date:
    year, month, day = _DATE.unpack(data)
    return _in_range(date, year, year, month, day)


def _read_time(_: Unpacker, data: bytes) -> time:
    hour, minute, second, us, _precision = _TIME.unpack(data)
    return _in_range(time, 1, hour, minute, second, us)


def _read_naive(_: Unpacker, data: bytes) -> datetime:
    fields = _NAIVE.unpack(data)
    return _in_range(datetime, fields[0], *fields[:7])


def _read_datetime(_: Unpacker, data: bytes) -> datetime:
    *fields, _precision, offset, _dst, zone_size = _DATETIME.unpack_from(data)
    rest = data[_DATETIME.size :]
    zone = rest[:zone_size].decode()
    moment = _in_range(datetime, fields[0], *fields)
    if zone:
        local = _in_zone(moment, zone, timedelta(seconds=offset))
        if local is not None:
            return local
    if abs(offset) >= 86400:
        raise DecodeError(f"an offset of {offset} seconds from UTC; it must be less than a day")
    abbreviation = rest[zone_size:].decode()
    fixed: tzinfo = UTC
    if offset or zone:
        fixed = timezone(timedelta(seconds=offset), abbreviation) if abbreviation else timezone(timedelta(seconds=offset))
    return moment.replace(tzinfo=fixed)


def _in_zone(moment: datetime, zone: str, offset: timedelta) -> datetime | None:
    """The moment in a named zone, or None where this machine does not know the zone or gives it another offset."""
    from zoneinfo import ZoneInfo

    try:
        local = moment.replace(tzinfo=ZoneInfo(zone))
    except (KeyError, ValueError, OSError):
        return None
    for fold in (0, 1):
        candidate = local.replace(fold=fold)
        if candidate.utcoffset() == offset:
            return candidate
    return None


_T = TypeVar("_T")


def _in_range(make: Callable[..., _T], year: int, *fields: int) -> _T:
    if not 1 <= year <= 9999:
        raise DecodeError(f"the year {year} is outside Python's range 1 to 9999; send it as text or as a tuple")
    try:
        return make(*fields)
    except ValueError as error:
        raise DecodeError(f"not a date or time: {error} (fields {fields})") from None


LEAVES: dict[int, Callable[[Unpacker, bytes], Any]] = {
    INT: _read_int,
    ATOM: lambda _, data: Atom(data.decode("utf-8", "surrogatepass")),
    BINARY: lambda _, data: Binary(data),
    TEXT: lambda _, data: data.decode("utf-8", "surrogatepass"),
    COMPLEX: lambda _, data: complex(*_COMPLEX.unpack(data)),
    DATE: _read_date,
    TIME: _read_time,
    NAIVE: _read_naive,
    DATETIME: _read_datetime,
}


def _read_set(kind: type[set[Any]] | type[frozenset[Any]], items: list[Any]) -> Any:
    try:
        value = kind(items[1:])
    except TypeError as error:
        raise DecodeError(f"a set element cannot be hashed in Python ({error}); use strings, numbers or tuples, or send a list") from None
    if len(value) != len(items) - 1:
        raise DecodeError(f"elements of a set are equal in Python ({len(items) - 1} came, {len(value)} are distinct); send a list instead")
    return value


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


def _read_ndarray(_: Unpacker, items: list[Any]) -> Any:
    if len(items) != 4 or not isinstance(items[2], list) or not isinstance(items[3], bytes) or items[1] not in DTYPES:
        raise DecodeError(
            f"an array must hold a dtype of {', '.join(DTYPES)}, a shape and its bytes; this one holds {str(items[1:3])[:80]}"
        )
    _mark, name, dims, data = items
    if not all(type(dim) is int and dim >= 0 for dim in dims):
        raise DecodeError(f"the shape {dims} of an array must hold integers >= 0")
    if element_count(dims) * DTYPES[name] != len(data):
        raise DecodeError(
            f"an array of shape {tuple(dims)} and dtype {name} has {element_count(dims) * DTYPES[name]} bytes, but {len(data)} came"
        )
    import numpy as np

    if name == "bfloat16":
        import ml_dtypes  # noqa: F401  (registers the dtype name)
    dtype = np.dtype(name).newbyteorder("<")
    if not data:
        return np.zeros(dims, dtype)
    # A copy, because numpy views of bytes are read-only and users expect to write to an array they were given.
    return np.frombuffer(data, dtype).reshape(dims).copy()


COMPOSITES: dict[int, Callable[[Unpacker, list[Any]], Any]] = {
    TUPLE: lambda _, items: tuple(items[1:]),
    SET: lambda _, items: _read_set(set, items),
    FROZENSET: lambda _, items: _read_set(frozenset, items),
    REF: _read_ref,
    STREAM_REF: _read_stream_ref,
    CALLBACK: _read_callback,
    NDARRAY: _read_ndarray,
}
