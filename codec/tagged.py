"""`tagged`: values as JSON with `__type__` tags, what SnakeBridge speaks (docs/types.md).

Schema 1 is what today's peers understand, schema 2 adds tags for all that `packed` carries. Both are read; the caller says which to write.

Text is written straight from the value (`tagged_writer.py`), and tags become values while the standard parser reads (`tagged_reader.py`).
Texts that nest deep, and callers with a deep stack, are served without recursion (`deep_json.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from json import JSONDecodeError, JSONDecoder
from typing import Any

from . import deep_json
from .errors import Cycle, DecodeError, LimitExceeded, TooDeep
from .limits import DEFAULT, Limits
from .resolver import PlainResolver, Resolver
from .tagged_reader import TAGS, Plain, Reader, finite, refuse_constant, too_deep, unique
from .tagged_writer import SCHEMA_1, Forms, Writer, bytes_text

__all__ = ["TAGS", "decode", "dumps", "encode", "loads"]


def dumps(value: Any, resolver: Resolver | None = None, limits: Limits = DEFAULT, *, schema: int = 1, graceful: bool = False) -> bytes:
    """The tagged JSON text of a value. Raises EncodeError or LimitExceeded; never changes the value.

    `graceful`, for peers that cannot ask for a ref: a container inside itself is a ref, and so is, as a whole, a value that nests too deep.
    """
    resolver = resolver or PlainResolver()
    forms = _forms(schema)
    try:
        try:
            # Bytes are often large; by way of a str they would be copied three times more.
            alone = schema == 1 and type(value) is bytes
            text = bytes_text(value) if alone else Writer(resolver, limits, forms).text(value).encode()
        except Cycle:
            if not graceful:
                raise
            text = Writer(resolver, limits, forms).text(value, cut_cycles=True).encode()
    except TooDeep:
        if not graceful:
            raise
        text = Writer(resolver, limits, forms).text(resolver.opaque(value)).encode()
    except RecursionError:
        raise LimitExceeded("the call stack is exhausted where a value has to be encoded; make the Python code recurse less") from None
    if len(text) > limits.frame:
        raise LimitExceeded(
            f"the encoded value has {len(text)} bytes, more than max_frame = {limits.frame}; send it in parts or raise max_frame"
        )
    return text


def _forms(schema: int) -> Forms:
    if schema == 1:
        return SCHEMA_1
    if schema != 2:
        raise ValueError(f"there is no tagged schema {schema!r}; there are 1 and 2")
    from .tagged_schema2 import SCHEMA_2  # few peers ask for it

    return SCHEMA_2


def encode(value: Any, resolver: Resolver | None = None, limits: Limits = DEFAULT, *, schema: int = 1) -> Any:
    """The tagged form of a value as JSON structure: None, bool, int, float, str, lists and dicts with text keys."""
    text = dumps(value, resolver, limits, schema=schema)
    nesting, _ = deep_json.survey(text)
    return _read(text, nesting, 0, Plain(limits))


# Texts that nest deeper than this are read without recursion: it is what Python's stack always has room for.
_SHALLOW = 100


def loads(
    text: bytes | bytearray | memoryview | str,
    resolver: Resolver | None = None,
    limits: Limits = DEFAULT,
    *,
    atom_class: bool = False,
) -> Any:
    """The value of a tagged JSON text. `atom_class`: atoms become `Atom`s instead of plain strings.

    Raises DecodeError or LimitExceeded, or what the resolver raises for a ref.
    """
    data = _as_bytes(text)
    size = len(data)
    if size > limits.frame:
        raise LimitExceeded(f"a message of {size} bytes is larger than max_frame = {limits.frame}; send it in parts or raise max_frame")
    many = size > limits.elements  # of a large text the counts alone would take as long as the survey
    nesting, elements = 0 if many else data.count(b"[") + data.count(b"{"), 0
    if many or nesting > _SHALLOW or nesting > limits.depth:
        nesting, elements = deep_json.survey(data)
    return _read(data, nesting, elements, Reader(resolver or PlainResolver(), limits, atom_class))


def decode(structure: Any, resolver: Resolver | None = None, limits: Limits = DEFAULT, *, atom_class: bool = False) -> Any:
    """The value of a tagged JSON structure, as `loads` gives it for its text."""
    return Reader(resolver or PlainResolver(), limits, atom_class).fold(structure)


def _as_bytes(text: bytes | bytearray | memoryview | str) -> bytes:
    if not isinstance(text, str):
        return bytes(text)
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise DecodeError("a JSON text must not hold lone surrogates; write them as \\u escapes") from None


def _read(data: bytes, nesting: int, elements: int, reader: Plain) -> Any:
    limits = reader.limits
    if elements > limits.elements:
        raise LimitExceeded(f"the message has more than max_elements = {limits.elements} elements; send it in parts or raise max_elements")
    if nesting > 3 * limits.depth + 1:  # a container of a value is three levels of JSON at most, a leaf one
        raise too_deep(limits)
    try:
        text = data.decode()
        if nesting <= _SHALLOW and nesting <= limits.depth:
            try:
                flat = b"{" not in data and limits.int_bits >= DEFAULT.int_bits
                return (_FLAT if flat else _decoder(reader, reader.object)).decode(text)
            except RecursionError:  # the caller has used up the stack
                pass
            except ValueError as error:
                if not str(error).startswith("Exceeds the limit"):  # Python's limit on the digits of an integer; ours is max_int_bits
                    raise
        return reader.fold(deep_json.loads(text, _decoder(reader, unique, reader.integer)))
    except JSONDecodeError as error:
        raise DecodeError(f"malformed JSON at character {error.pos} of {len(data)}: {error.msg}; it is truncated or corrupt") from None
    except UnicodeDecodeError as error:
        raise DecodeError(f"the JSON text is not valid UTF-8 ({error.reason} at byte {error.start}); send bytes in a bytes tag") from None
    except RecursionError:
        raise LimitExceeded("the call stack is exhausted where a message has to be decoded; make the Python code recurse less") from None


def _decoder(reader: Plain, make_object: Callable[[list[tuple[str, Any]]], Any], integer: Callable[[str], int] = int) -> JSONDecoder:
    if reader.limits.int_bits < DEFAULT.int_bits:
        integer = reader.integer
    return JSONDecoder(object_pairs_hook=make_object, parse_int=integer, parse_float=finite, parse_constant=refuse_constant)


# For texts without objects, as most parameters of a call are: there are no tags in them, and a decoder costs more than such a text.
_FLAT = JSONDecoder(parse_float=finite, parse_constant=refuse_constant)
