"""Gives `tagged` JSON its meaning (docs/types.md): the decoding half of `tagged.py`.

A `Reader` turns the objects of a JSON text into values, from the inside out: as the hook of the standard parser, or over a parsed
structure. A tag is added by one row in `TAGS`.
"""

from __future__ import annotations

import binascii
import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from typing import Any

from . import collisions, digits, named
from .errors import DecodeError, InvalidRef, LimitExceeded, Unhashable
from .limits import Limits
from .resolver import CallbackRef, Ref, Resolver, StreamRef
from .wrappers import Atom


def finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise DecodeError(f"the number {text[:40]} is larger than any float64; send it as an integer or as text")
    return value


def refuse_constant(name: str) -> Any:
    raise DecodeError(f"{name} is not JSON; send the tag special_float with value nan, infinity or neg_infinity")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The dict of a JSON object, whose keys must differ."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        double, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise DecodeError(f'the key {ascii(double)[:80]} comes twice in one map; the keys :a and "a" of Elixir are one key in JSON')
    return fields


def too_deep(limits: Limits) -> LimitExceeded:
    return LimitExceeded(f"the message nests deeper than max_depth = {limits.depth}; flatten it")


class _Open:
    """A list or dict that `Plain.fold` is in: what is left of it, what is done, and the levels below it so far."""

    __slots__ = ("deepest", "done", "node", "rest")

    def __init__(self, node: Any) -> None:
        self.node = node
        self.rest: Iterator[Any] = iter(node.values() if isinstance(node, dict) else node)
        self.done: list[Any] = []
        self.deepest = 0


class Plain:
    """Reads JSON and leaves tags as they are."""

    __slots__ = ("limits",)

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def object(self, pairs: list[tuple[str, Any]]) -> Any:
        return dict(pairs)

    def fold(self, structure: Any) -> Any:
        return structure

    def integer(self, text: str) -> int:
        limit = self.limits.int_bits
        if len(text) > limit * 0.30103 + 3:
            raise LimitExceeded(f"an integer of {len(text)} digits is larger than max_int_bits = {limit}; send it as bytes or as text")
        value = digits.from_text(text)
        if value.bit_length() > limit:
            raise LimitExceeded(
                f"an integer of {value.bit_length()} bits is larger than max_int_bits = {limit}; send it as bytes or as text"
            )
        return value


class Reader(Plain):
    """One message being read: what its tags mean."""

    __slots__ = ("_callbacks", "atom", "resolver")

    def __init__(self, resolver: Resolver, limits: Limits, atom_class: bool) -> None:
        super().__init__(limits)
        self.resolver = resolver
        self.atom: Callable[[str], str] = Atom if atom_class else str
        self._callbacks: dict[CallbackRef, Any] = {}

    def object(self, pairs: list[tuple[str, Any]]) -> Any:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            unique(pairs)
        tag = fields.get("__type__")
        if tag is None:
            return _read_ref(self, fields) if "__snakebridge_ref__" in fields and "__type__" not in fields else fields
        read = TAGS.get(tag) if isinstance(tag, str) else None
        if read is not None:
            return read(self, fields)
        # Schema 1 leaves tags that it does not know as they are; in schema 2 every other tag is that of a named type.
        return named.read(tag, fields.get("value")) if isinstance(tag, str) and fields.get("__schema__") == 2 else fields

    def fold(self, structure: Any) -> Any:
        """The value of a JSON structure, from the inside out and without recursion."""
        if not isinstance(structure, (list, dict)):
            return structure
        depth = self.limits.depth
        open_nodes = [_Open(structure)]
        while True:
            node = open_nodes[-1]
            for child in node.rest:
                if isinstance(child, (list, dict)):
                    open_nodes.append(_Open(child))
                    if len(open_nodes) > 3 * depth + 1:
                        raise too_deep(self.limits)
                    break
                node.done.append(child)
            else:
                open_nodes.pop()
                levels = node.deepest + _levels(node.node)
                value = self.object(list(zip(node.node, node.done, strict=True))) if isinstance(node.node, dict) else node.done
                if not open_nodes:
                    if levels > depth:
                        raise too_deep(self.limits)
                    return value
                outer = open_nodes[-1]
                outer.done.append(value)
                outer.deepest = max(outer.deepest, levels)

    def callback(self, ref: CallbackRef) -> Any:
        if ref not in self._callbacks:  # a message that is read a second time (see _read) makes no second callable
            self._callbacks[ref] = self.resolver.callback(ref)
        return self._callbacks[ref]


def _levels(node: Any) -> int:
    """The levels that a JSON container adds to its value: the brackets of a tag are not levels."""
    if isinstance(node, dict):
        tag = node.get("__type__")
        if isinstance(tag, str) and tag in TAGS:
            return -1 if tag == "dict" else 0
    return 1


_Fields = dict[str, Any]


def _field(fields: _Fields, key: str, alias: str | None, kind: type, what: str) -> Any:
    value = fields.get(key)
    if value is None and alias is not None:
        value = fields.get(alias)
    if not isinstance(value, kind):
        raise DecodeError(f"a {fields['__type__']} tag must hold {what} under {key!r}, not {_short(value)}")
    return value


def _short(value: Any) -> str:
    return f"{type(value).__name__} {ascii(value)[:60]}" if isinstance(value, (str, int, float)) else type(value).__name__


def _read_set(kind: type[set[Any]] | type[frozenset[Any]]) -> Callable[[Reader, _Fields], Any]:
    def read(_: Reader, fields: _Fields) -> Any:
        items = _field(fields, "elements", "value", list, "a list of elements")
        _check_hashes(items, "elements of a set")
        seen: dict[Any, Any] = {}
        for item in items:
            _add(seen, item, item, "set element", "send a list instead")
        return kind(items)

    return read


def _check_hashes(keys: list[Any], what: str) -> None:
    if len(keys) > collisions.LIMIT:
        with contextlib.suppress(TypeError):  # what cannot be hashed is refused by name
            collisions.check(keys, what)


def _add(seen: dict[Any, Any], key: Any, item: Any, what: str, remedy: str) -> None:
    try:
        known = key in seen
    except (TypeError, ArithmeticError) as error:
        raise Unhashable(f"a {what} of type {type(key).__name__} cannot be hashed in Python ({error}); {remedy}") from None
    if known:
        other = next(candidate for candidate in seen if candidate == key)
        raise DecodeError(f"two {what}s are equal in Python: {ascii(other)[:60]} and {ascii(key)[:60]}; {remedy}")
    seen[key] = item


def _read_dict(_: Reader, fields: _Fields) -> Any:
    value: dict[Any, Any] = {}
    pairs = _field(fields, "pairs", None, list, "a list of pairs")
    _check_hashes([pair[0] for pair in pairs if isinstance(pair, list) and pair], "keys of a map")
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            size = f"a list of {len(pair)}" if isinstance(pair, list) else _short(pair)
            raise DecodeError(f"a dict tag must hold pairs of a key and a value, not {size}")
        _add(value, pair[0], pair[1], "map key", "use strings, numbers or tuples that differ as keys, or send a list of pairs")
    return value


def _read_leaf(reader: Reader, fields: _Fields) -> Any:
    from .unpacker import Unpacker

    code = fields.get("code")
    if type(code) is not int:
        raise DecodeError(f"a leaf tag must hold an integer under 'code', not {_short(code)}")
    return Unpacker(limits=reader.limits).read_leaf(code, _read_bytes(reader, fields))


def _read_array(reader: Reader, fields: _Fields) -> Any:
    from . import arrays

    return arrays.build([fields.get("dtype"), fields.get("shape"), _read_bytes(reader, fields), fields.get("order") or "C"])


def _read_pairs(_: Reader, fields: _Fields) -> Any:
    from .unpacker import pairs

    return pairs(_field(fields, "elements", None, list, "a list of keys and values"))


def _read_members(_: Reader, fields: _Fields) -> Any:
    from .unpacker import members

    return members(_field(fields, "elements", None, list, "a list of elements"))


def _read_bytes(_: Reader, fields: _Fields) -> bytes:
    text = _field(fields, "data", "value", str, "base64 text")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        tag = fields["__type__"]
        raise DecodeError(f"a {tag} tag holds malformed base64 ({error}): {ascii(text)[:60]}; send standard base64 with padding") from None


def _read_iso(parse: Callable[[str], Any]) -> Callable[[Reader, _Fields], Any]:
    def read(_: Reader, fields: _Fields) -> Any:
        if isinstance(fields.get("value"), list):  # schema 2: with a zone of its own
            return named.read(fields["__type__"], fields["value"])
        text = _field(fields, "value", None, str, "ISO 8601 text")
        try:
            return parse(text)
        except ValueError as error:
            raise DecodeError(f"{error}; a {fields['__type__']} tag must hold ISO 8601 text of the years 1 to 9999") from None

    return read


def _read_complex(_: Reader, fields: _Fields) -> complex:
    parts = fields.get("real"), fields.get("imag")
    if not all(type(part) in (int, float) for part in parts):
        raise DecodeError(f"a complex tag must hold numbers under 'real' and 'imag', not {_short(parts[0])} and {_short(parts[1])}")
    try:
        return complex(float(parts[0]), float(parts[1]))  # type: ignore[arg-type]
    except OverflowError:
        raise DecodeError("a part of a complex tag is larger than any float64") from None


_SPECIAL_VALUES = {"nan": math.nan, "infinity": math.inf, "neg_infinity": -math.inf}


def _read_special_float(_: Reader, fields: _Fields) -> float:
    name = _field(fields, "value", None, str, "nan, infinity or neg_infinity")
    if name not in _SPECIAL_VALUES:
        raise DecodeError(f"a special_float tag must hold nan, infinity or neg_infinity, not {ascii(name)[:60]}")
    return _SPECIAL_VALUES[name]


def _read_callback(reader: Reader, fields: _Fields) -> Any:
    callback_id = _field(fields, "ref_id", "callback_id", str, "the id of a callback")
    arity = fields.get("arity", 0)
    owner = fields.get("pid") or ""
    if type(arity) is not int or arity < 0 or not isinstance(owner, str):
        raise DecodeError(
            f"a callback tag must hold an integer >= 0 under 'arity' and text under 'pid', not {_short(arity)} and {_short(owner)}"
        )
    return reader.callback(CallbackRef(callback_id, arity, owner))


def _read_ref(reader: Reader, fields: _Fields) -> Any:
    ref_id = fields.get("id") or fields.get("ref_id")
    if not ref_id and isinstance(fields.get("__snakebridge_ref__"), str):
        ref_id = fields["__snakebridge_ref__"]
    if not ref_id:
        raise InvalidRef("SnakeBridge reference missing id")
    rest: list[Any] = [fields.get(key) or "" for key in ("session_id", "python_module", "library", "type_name")]
    stream_type = fields.get("stream_type") or "iterator"
    if not all(isinstance(field, str) for field in (ref_id, stream_type, *rest)):
        raise InvalidRef("Invalid SnakeBridge reference payload")
    session, module, library, type_name = rest
    if fields.get("__type__") == "stream_ref":
        return reader.resolver.resolve(StreamRef(ref_id, session, module, library, type_name, stream_type))
    return reader.resolver.resolve(Ref(ref_id, session, module, library, type_name))


TAGS: dict[str, Callable[[Reader, _Fields], Any]] = {
    "atom": lambda reader, fields: reader.atom(_field(fields, "value", None, str, "the name of an atom")),
    "tuple": lambda _, fields: tuple(_field(fields, "elements", "value", list, "a list of elements")),
    "set": _read_set(set),
    "frozenset": _read_set(frozenset),
    "bytes": _read_bytes,
    "binary": _read_bytes,
    "complex": _read_complex,
    "datetime": _read_iso(datetime.fromisoformat),
    "date": _read_iso(date.fromisoformat),
    "time": _read_iso(time.fromisoformat),
    "special_float": _read_special_float,
    "infinity": lambda _, fields: math.inf,
    "neg_infinity": lambda _, fields: -math.inf,
    "nan": lambda _, fields: math.nan,
    "dict": _read_dict,
    "leaf": _read_leaf,
    "ndarray": _read_array,
    "pairs": _read_pairs,
    "members": _read_members,
    "callback": _read_callback,
    "ref": _read_ref,
    "stream_ref": _read_ref,
}
