"""Plain JSON: what users' adapters get and give. No tags: every value becomes what JSON has for it, and nothing fails that has such a form.

Exact where Snakepit's own server is not: None is null, integers stay integers of any size, bytes travel as bytes.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import math
import os
import uuid
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from typing import Any, NamedTuple

from bridge_adapter.codec import DecodeError, EncodeError
from bridge_adapter.codec.limits import Limits

_BYTES = (bytes, bytearray, memoryview)
_TEXTUAL = (decimal.Decimal, fractions.Fraction, uuid.UUID, os.PathLike)
# Methods by which libraries give plain values: NumPy, JAX, PyTorch and pandas; pydantic; many others.
_WAYS = ("tolist", "model_dump", "to_dict")
_MOMENTS = (datetime.datetime, datetime.date, datetime.time)


class Answer(NamedTuple):
    """A result on its way: JSON text, or bytes that are no JSON."""

    text: bytes | None
    binary: bytes | None = None


class Chunk(NamedTuple):
    """One item of a stream."""

    data: bytes
    final: bool = False
    metadata: dict[str, str] = {}  # noqa: RUF012 - never changed


# --- what comes in ---


def arguments(texts: Mapping[str, bytes], binary: Mapping[str, bytes], types: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of a call: JSON, read as the parameter's type name demands; bytes win over JSON. Raises DecodeError."""
    found = {}
    for name, text in texts.items():
        try:
            found[name] = _typed(types.get(name, ""), json.loads(text, parse_constant=_refuse))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            reason = "it nests too deep" if isinstance(error, RecursionError) else str(error)
            raise DecodeError(f"the parameter {name} cannot be read: {reason}; send JSON text as the value of the Any") from None
    return {**found, **binary}


def type_name(url: str) -> str:
    """The type that the URL of an Any names, as Snakepit reads it."""
    return url.rpartition("/")[2].rpartition(".")[2]


def _typed(kind: str, value: Any) -> Any:
    if kind == "float":
        return float(value)
    if kind == "integer":
        return int(value)
    if kind == "tensor":
        import numpy as np

        return np.array(value["data"]).reshape(value["shape"])
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


# --- what goes out ---


def answer(value: Any, limits: Limits) -> Answer:
    """A result. Raises EncodeError for what JSON cannot hold without loss: two keys of one text, cycles, lone surrogates."""
    if isinstance(value, _BYTES):
        return Answer(None, bytes(value))
    if isinstance(value, float) and not math.isfinite(value):
        # At the top Snakepit's own server gives these texts, nested ones are null.
        return Answer(b'"NaN"' if math.isnan(value) else b'"Infinity"' if value > 0 else b'"-Infinity"')
    hook = getattr(type(value), "to_payload", None)  # of snakepit_bridge.ZeroCopyRef
    if callable(hook):
        value = value.to_payload()
    return Answer(text(value, limits, str))


def chunk(item: Any, limits: Limits) -> Chunk:
    """An item of a stream, or an object that says itself what its `data` and `metadata` are and whether it `is_final`."""
    if not (hasattr(item, "data") and hasattr(item, "is_final")):
        return Chunk(_chunk_data(item, limits))
    metadata = getattr(item, "metadata", None) or {}
    return Chunk(_chunk_data(item.data, limits), bool(item.is_final), {str(key): str(value) for key, value in metadata.items()})


def _chunk_data(value: Any, limits: Limits) -> bytes:
    if value is None:
        return b""
    if isinstance(value, _BYTES):
        return bytes(value)
    if isinstance(value, str) and not isinstance(value, enum.Enum):
        return _utf8(str.__str__(value))
    return text(value, limits, _marker)


def text(value: Any, limits: Limits, other: Callable[[Any], Any]) -> bytes:
    """The JSON text of a value. `other` makes of it what can be sent when JSON has no form for it as a whole."""
    try:
        return _utf8(json.dumps(_Plain(limits, other).of(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    except ValueError as error:
        if isinstance(error, EncodeError):
            raise
        raise EncodeError(f"the result holds an integer that is too long for JSON text: {error}") from None
    except RecursionError:
        raise EncodeError("the result nests too deep for JSON; make it flatter") from None


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise EncodeError(
            f"the result holds a lone surrogate ({text[error.start]!r}), which JSON texts must not; return bytes instead"
        ) from None


def _marker(value: Any) -> dict[str, Any]:
    """What Snakepit's own server says of an object that it cannot send."""
    return {"__ffi_unserializable__": True, "__type__": f"{type(value).__module__}.{type(value).__qualname__}"}


class _Plain:
    """One walk over a value. Knows the containers that it is in, to find cycles."""

    def __init__(self, limits: Limits, other: Callable[[Any], Any]) -> None:
        self._limits = limits
        self._other = other
        self._open: set[int] = set()

    def of(self, value: Any) -> Any:
        """The value as None, bool, int, float, str, list and dict."""
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else None
        if isinstance(value, enum.Enum):
            return self.of(value.value)
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, _BYTES):
            return b64encode(bytes(value)).decode()
        if isinstance(value, _TEXTUAL):
            return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
        if isinstance(value, _MOMENTS):
            return value.isoformat()
        if isinstance(value, datetime.timedelta):
            return value.total_seconds()
        if isinstance(value, complex):
            return {"real": self.of(value.real), "imag": self.of(value.imag)}
        return self._container(value)

    def _container(self, value: Any) -> Any:
        if id(value) in self._open:
            raise EncodeError(f"a {type(value).__name__} of the result holds itself; JSON has no cycles")
        if len(self._open) >= self._limits.depth:
            raise EncodeError(f"the result nests deeper than max_depth = {self._limits.depth}; make it flatter or raise max_depth")
        self._open.add(id(value))
        try:
            return self._members(value)
        finally:
            self._open.discard(id(value))

    def _members(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return self._object(value)
        if isinstance(value, Set):
            members = [self.of(member) for member in value]
            try:
                return sorted(members)
            except TypeError:
                return members
        if isinstance(value, (list, tuple)):
            return [self.of(member) for member in value]
        if not isinstance(value, type):
            if dataclasses.is_dataclass(value):
                return {field.name: self.of(getattr(value, field.name)) for field in dataclasses.fields(value)}
            for way in _WAYS:
                found = _taken(value, way)
                if found is not value:
                    return self.of(found)
            if isinstance(value, Collection):
                return [self.of(member) for member in value]
        return self._other(value) if len(self._open) == 1 else _marker(value)

    def _object(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, member in value.items():
            name = _key(key)
            if name in made:
                raise EncodeError(f"two keys of a dict of the result have the JSON text {name!r}; use one type of keys")
            made[name] = self.of(member)
        return made


def _taken(value: Any, way: str) -> Any:
    """What a method for plain values gives; the value itself where there is no such method, or it is of another kind."""
    method = getattr(value, way, None)
    if not callable(method):
        return value
    try:
        return method()
    except Exception:
        return value


def _key(key: Any) -> str:
    """A key as JSON has it: texts as they are, numbers and the three constants in JSON's words, other values as text."""
    if isinstance(key, enum.Enum):
        return _key(key.value)
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or isinstance(key, (bool, int, float)):
        return json.dumps(key)
    if isinstance(key, _MOMENTS):
        return key.isoformat()
    return str(key)


def is_stream(value: Any) -> bool:
    """True for generators and other iterators, sync or async: things to read item by item."""
    return hasattr(type(value), "__anext__") or isinstance(value, Iterator)
