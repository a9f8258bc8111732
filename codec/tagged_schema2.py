"""`tagged` schema 2: the tags that it adds to schema 1, for peers that asked for them (docs/types.md, "Negotiation").

Named types carry their tag and payload as in `packed`; leaves that schema 1 cannot say exactly carry the bytes of their `packed` form;
arrays, and maps and sets that Python cannot hold as such, have tags of their own.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from json.encoder import encode_basestring as quote
from typing import Any

from . import arrays, moments, named
from .errors import EncodeError
from .marks import ATOM, BINARY, OPAQUE, TEXT
from .modules import loaded
from .named import BY_REFERENCE, Named
from .packer import ENCODERS, Packer, special_row
from .tagged_writer import BRANCHES, LEAVES, SCHEMA_1, Branch, Forms, Leaf, Writer, is_text, opaque
from .wrappers import Atom, Binary, Extension, Members, OpaqueTerm, Pairs, PreciseDatetime, PreciseTime


def _base64(data: Any) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def leaf_text(code: int, data: bytes) -> str:
    """A packed leaf as a tag."""
    return f'{{"__type__":"leaf","__schema__":2,"code":{code},"data":"{_base64(data)}"}}'


def _str(writer: Writer, value: str) -> str:
    return quote(value) if is_text(value) else leaf_text(TEXT, str.encode(value, "utf-8", "surrogatepass"))


def _atom(writer: Writer, value: Atom) -> str:
    if is_text(value):
        return f'{{"__type__":"atom","__schema__":2,"value":{quote(value)}}}'
    return leaf_text(ATOM, str.encode(value, "utf-8", "surrogatepass"))


def _complex(writer: Writer, value: complex) -> str:
    if math.isfinite(value.real) and math.isfinite(value.imag):
        return LEAVES[complex](writer, value)
    return leaf_text(*ENCODERS[complex](_PLAIN_PACKER, value))


_PLAIN_PACKER = Packer()


def _bytes(_: Writer, value: Any) -> str:
    data = value.tobytes() if isinstance(value, memoryview) else value
    return f'{{"__type__":"bytes","__schema__":2,"data":"{_base64(data)}"}}'


def _array(writer: Writer, value: Any) -> str:
    parts = arrays.parts(value)
    if parts is None:
        return opaque(writer, value)
    dtype, shape, data, *order = parts
    form = quote(dtype) if isinstance(dtype, str) else Writer(writer.resolver, writer.limits, SCHEMA_1).text(dtype)
    return (
        f'{{"__type__":"ndarray","__schema__":2,"dtype":{form},"shape":{shape},"order":"{order[0] if order else "C"}",'
        f'"data":"{_base64(data)}"}}'
    )


def _elements(tag: str, members: Callable[[Any], list[Any]]) -> Branch:
    def write(writer: Writer, value: Any) -> Iterator[Any]:
        items = members(value)
        writer.count(len(items))
        writer.write(f'{{"__type__":"{tag}","__schema__":2,"elements":[')
        yield from writer.elements(items)
        writer.write("]}")

    return write


def _named(row: Named) -> Branch:
    def write(writer: Writer, value: Any) -> Iterator[Any]:
        try:
            payload = row.to_wire(value)
        except Exception as error:
            raise EncodeError(f"to_wire of the type {row.tag!r} raised {type(error).__name__}: {str(error)[:200]}") from error
        if payload is BY_REFERENCE:
            writer.write(opaque(writer, value))
        else:
            yield from _tagged(writer, row.tag, payload)

    return write


def _tagged(writer: Writer, tag: str, payload: Any) -> Iterator[Any]:
    writer.write(f'{{"__type__":{quote(tag)},"__schema__":2,"value":')
    yield from writer.elements([payload])
    writer.write("}")


def _moment(writer: Writer, value: Any) -> Iterator[Any]:
    """Dates and times: schema 1 where that is exact."""
    form = moments.leaf_of(value)
    if isinstance(form, Named):
        yield from _named(form)(writer, value)
    elif form is None:
        writer.write(opaque(writer, value))
    else:
        writer.write(leaf_text(*form) if _needs_leaf(value) else LEAVES[type(value)](writer, value))


def _needs_leaf(value: Any) -> bool:
    zone = getattr(value, "tzinfo", None)
    if zone is not None and (isinstance(getattr(zone, "key", None) or getattr(zone, "zone", None), str) or value.utcoffset().seconds % 60):
        return True
    return isinstance(value, (PreciseTime, PreciseDatetime))


_MOMENTS = (datetime, date, time, PreciseDatetime, PreciseTime)


def _choose(cls: type) -> tuple[Leaf, Branch | None] | None:
    row = named.of_class(cls) or special_row(cls)
    if row is not None:
        return opaque, _named(row)
    if (numpy := loaded("numpy", "ndarray", "void")) is not None:
        if cls is numpy[0]:
            return _array, None
        if issubclass(cls, numpy[1]):
            return _void, None
    if (jax := loaded("jax", "Array")) is not None and issubclass(cls, jax):
        return _jax_array, None
    return None


def _void(writer: Writer, value: Any) -> str:
    import numpy as np

    return _array(writer, np.asarray(value))


def _jax_array(writer: Writer, value: Any) -> str:
    import numpy as np

    try:
        return _array(writer, np.asarray(value))
    except (TypeError, ValueError, RuntimeError):
        return opaque(writer, value)


SCHEMA_2 = Forms(
    {
        **{cls: leaf for cls, leaf in LEAVES.items() if cls not in _MOMENTS},
        str: _str,
        Atom: _atom,
        complex: _complex,
        bytes: _bytes,
        bytearray: _bytes,
        memoryview: _bytes,
        Binary: lambda _, value: leaf_text(BINARY, value),
        OpaqueTerm: lambda _, value: leaf_text(OPAQUE, value.data),
    },
    {
        **BRANCHES,
        **dict.fromkeys(_MOMENTS, _moment),
        frozenset: _elements("frozenset", list),
        Members: _elements("members", list),
        Pairs: _elements("pairs", lambda value: [part for pair in value for part in pair]),
        Extension: lambda writer, value: _tagged(writer, value.tag, value.value),
    },
    _choose,
    2,
)
