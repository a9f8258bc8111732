"""Writes values as `tagged` JSON text (docs/types.md): the encoding half of `tagged.py`.

A class is added by one row in `LEAVES` (a function that returns its text) or in `BRANCHES` (a generator that writes a container and hands
out the members that are containers again). Nothing recurses, so the nesting of a value and the stack of the caller never meet. Schema 2 is
the same rows with those of tagged_schema2.py on top.
"""

from __future__ import annotations

import binascii
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time
from json.encoder import encode_basestring as quote
from typing import Any

from . import arrays, digits, named, shape
from .errors import EncodeError, LimitExceeded
from .limits import Limits
from .modules import loaded
from .resolver import CallbackRef, Ref, Resolver, StreamRef
from .wrappers import Atom, Binary, PreciseDatetime, PreciseTime


class Writer:
    """One value being written. Containers are generators that write themselves and hand out what is a container again."""

    __slots__ = ("_elements", "_forms", "_parts", "leaves", "limits", "resolver", "schema", "write")

    def __init__(self, resolver: Resolver, limits: Limits, forms: Forms) -> None:
        self.resolver = resolver
        self.limits = limits
        self.leaves = forms.leaves
        self.schema = forms.schema
        self._forms = forms
        self._elements = 0
        self._parts: list[str] = []
        self.write = self._parts.append

    def text(self, value: Any, cut_cycles: bool = False) -> str:
        """The text of a value. With `cut_cycles`, a container inside itself is a ref."""
        leaf = self.leaves.get(type(value))
        if leaf is not None:
            return leaf(self, value)
        open_containers: list[Iterator[Any]] = []
        opened: list[Any] = []  # the values of the open containers, kept only where cycles are cut
        deepest = self.limits.depth
        child = value
        while True:
            leaf, branch = self._forms.of(type(child))
            if branch is None:
                self.write(leaf(self, child))
            elif cut_cycles and any(child is container for container in opened):
                self.write(opaque(self, child))
            else:
                open_containers.append(branch(self, child))
                if cut_cycles:
                    opened.append(child)
                if len(open_containers) > deepest:
                    shape.explain_depth(value, self.limits)
            while open_containers:
                try:
                    child = next(open_containers[-1])
                    break
                except StopIteration:
                    del open_containers[-1], opened[-1:]
            else:
                return "".join(self._parts)

    def elements(self, items: Iterable[Any]) -> Iterator[Any]:
        """Writes items with commas between them."""
        write, leaves = self.write, self.leaves
        comma = False
        for item in items:
            if comma:
                write(",")
            comma = True
            leaf = leaves.get(type(item))
            if leaf is None:
                yield item
            else:
                write(leaf(self, item))

    def count(self, elements: int) -> None:
        self._elements += elements
        if self._elements > self.limits.elements:
            raise LimitExceeded(
                f"the value has more than max_elements = {self.limits.elements} elements; send it in parts, or keep it in Python"
            )


Leaf = Callable[[Writer, Any], str]
Branch = Callable[[Writer, Any], Iterator[Any]]

_SPECIAL = {
    name: f'{{"__type__":"special_float","__schema__":1,"value":"{value}"}}'
    for name, value in (("nan", "nan"), ("inf", "infinity"), ("-inf", "neg_infinity"))
}


def opaque(writer: Writer, value: Any) -> str:
    return _record(writer, writer.resolver.opaque(value))


def _record(_: Writer, ref: Ref | StreamRef | CallbackRef) -> str:
    if isinstance(ref, CallbackRef):
        return f'{{"__type__":"callback","__schema__":1,"ref_id":{quote(ref.id)},"pid":{quote(ref.owner)},"arity":{ref.arity}}}'
    tag, stream = ("stream_ref", f'"stream_type":{quote(ref.stream_type)},') if isinstance(ref, StreamRef) else ("ref", "")
    name = quote(ref.type_name)
    return (
        f'{{"__type__":"{tag}","__schema__":1,"id":{quote(ref.id)},"session_id":{quote(ref.session)},"python_module":{quote(ref.module)},'
        f'"library":{quote(ref.library)},{stream}"type_name":{name},"__type_name__":{name}}}'
    )


def _int(writer: Writer, value: int) -> str:
    bits = int.bit_length(value)
    if bits <= digits.DIRECT_BITS and bits <= writer.limits.int_bits:
        return int.__repr__(value)
    limit = writer.limits.int_bits
    if bits > limit:
        raise LimitExceeded(f"an integer of {bits} bits is larger than max_int_bits = {limit}; send it as bytes or as text")
    return digits.to_text(int.__int__(value))


def _float(_: Writer, value: float) -> str:
    text = float.__repr__(value)
    return _SPECIAL.get(text, text)


def is_text(value: str) -> bool:
    """Whether a str can be sent as text: not when it has lone surrogates."""
    if str.isascii(value):
        return True
    try:
        str.encode(value)
    except UnicodeEncodeError:
        return False
    return True


def _str(writer: Writer, value: str) -> str:
    return quote(value) if is_text(value) else opaque(writer, value)


def _atom(writer: Writer, value: Atom) -> str:
    return f'{{"__type__":"atom","__schema__":1,"value":{quote(value)}}}' if is_text(value) else opaque(writer, value)


def bytes_text(value: bytes | bytearray | memoryview) -> bytes:
    """The text of bytes in schema 1, ready to be sent."""
    data = value.tobytes() if isinstance(value, memoryview) else value
    return b'{"__type__":"bytes","__schema__":1,"data":"%b"}' % binascii.b2a_base64(data, newline=False)


def _bytes(_: Writer, value: bytes | bytearray | memoryview) -> str:
    return bytes_text(value).decode()


def _complex(writer: Writer, value: complex) -> str:
    if not (math.isfinite(value.real) and math.isfinite(value.imag)):
        return opaque(writer, value)
    return f'{{"__type__":"complex","__schema__":1,"real":{value.real!r},"imag":{value.imag!r}}}'


def _date(_: Writer, value: date) -> str:
    return f'{{"__type__":"date","__schema__":1,"value":"{value.isoformat()}"}}'


def _time(writer: Writer, value: time) -> str:
    if value.tzinfo is not None or value.fold:
        return opaque(writer, value)
    return f'{{"__type__":"time","__schema__":1,"value":"{value.isoformat()}"}}'


def _datetime(writer: Writer, value: datetime) -> str:
    if value.tzinfo is None:
        exact = not value.fold
    else:
        offset = value.utcoffset()
        exact = offset is not None and not offset.seconds % 60 and not offset.microseconds  # Elixir reads hours and minutes
    return f'{{"__type__":"datetime","__schema__":1,"value":"{value.isoformat()}"}}' if exact else opaque(writer, value)


def _numpy_scalar(writer: Writer, value: Any) -> str:
    plain = arrays.scalar(value)
    leaf = opaque if plain is value else writer.leaves.get(type(plain), opaque)
    return opaque(writer, value) if leaf is opaque else leaf(writer, plain)


def _list(writer: Writer, value: list[Any]) -> Iterator[Any]:
    items = list.__getitem__(value, slice(None))  # a copy: the resolver may run other code in between
    writer.count(len(items))
    text = _uniform(writer, items)
    if text is not None:
        writer.write(f"[{text}]")
        return
    writer.write("[")
    yield from writer.elements(items)
    writer.write("]")


def _uniform(writer: Writer, items: list[Any]) -> str | None:
    """The text of many items of one class at C speed. None when they are not that simple."""
    if len(items) < 8:
        return None
    kinds = set(map(type, items))
    if kinds == {float}:
        text = ",".join(map(float.__repr__, items))
        return None if "n" in text else text  # nan and inf
    if kinds == {int}:
        bits = max(max(items).bit_length(), min(items).bit_length())
        return ",".join(map(int.__repr__, items)) if bits <= min(digits.DIRECT_BITS, writer.limits.int_bits) else None
    if kinds == {str} and all(map(str.isascii, items)):
        return ",".join(map(quote, items))
    return None


def _tagged_elements(tag: str, members: Callable[[Any], Iterator[Any]]) -> Branch:
    head = f'{{"__type__":"{tag}","__schema__":1,"elements":['

    def write_elements(writer: Writer, value: Any) -> Iterator[Any]:
        items = list(members(value))
        writer.count(len(items))
        writer.write(head)
        yield from writer.elements(items)
        writer.write("]}")

    return write_elements


def _dict(writer: Writer, value: dict[Any, Any]) -> Iterator[Any]:
    items = list(dict.items(value))
    writer.count(len(items))
    if _is_object(writer, value, items):
        yield from _object(writer, items)
        return
    writer.write('{"__type__":"dict","__schema__":1,"pairs":[')
    comma = "["
    for pair in items:
        writer.write(comma)
        comma = ",["
        yield from writer.elements(pair)
        writer.write("]")
    writer.write("]}")


def _object(writer: Writer, items: list[tuple[str, Any]]) -> Iterator[Any]:
    write, leaves = writer.write, writer.leaves
    opening = "{"
    for key, item in items:
        leaf = leaves.get(type(item))
        if leaf is None:
            write(f"{opening}{quote(key)}:")
            yield item
        else:
            write(f"{opening}{quote(key)}:{leaf(writer, item)}")
        opening = ","
    write("}" if items else "{}")


def _is_object(writer: Writer, value: dict[Any, Any], items: list[tuple[Any, Any]]) -> bool:
    """Whether a dict can be a plain JSON object: text keys, and none by which a decoder would take it for something else."""
    if dict.__contains__(value, "__type__") or dict.__contains__(value, "__snakebridge_ref__"):
        return False
    if dict.__contains__(value, "id") and (dict.__contains__(value, "session_id") or dict.__contains__(value, "ref_id")):
        return False
    subclasses = False
    for key, _ in items:
        if type(key) is not str:
            # Schema 2 has forms for some subclasses of str: enum members, URIs.
            if not isinstance(key, str) or type(key) is Atom or writer.schema > 1:
                return False
            subclasses = True
        if not is_text(key):
            return False
    if subclasses:
        _check_distinct([str.__str__(key) for key, _ in items])
    return True


def _check_distinct(keys: list[str]) -> None:
    if len(set(keys)) != len(keys):
        double, _ = Counter(keys).most_common(1)[0]
        raise EncodeError(f"two keys of a dict are the same text {ascii(double)[:80]} outside Python; send a list of pairs instead")


LEAVES: dict[type, Leaf] = {
    type(None): lambda _, value: "null",
    bool: lambda _, value: "true" if value else "false",
    int: _int,
    float: _float,
    str: _str,
    Atom: _atom,
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    Binary: _bytes,
    complex: _complex,
    datetime: _datetime,
    PreciseDatetime: _datetime,
    date: _date,
    time: _time,
    PreciseTime: _time,
    Ref: _record,
    StreamRef: _record,
    CallbackRef: _record,
}
BRANCHES: dict[type, Branch] = {
    list: _list,
    dict: _dict,
    tuple: _tagged_elements("tuple", tuple.__iter__),
    set: _tagged_elements("set", set.__iter__),
    frozenset: _tagged_elements("frozenset", frozenset.__iter__),
}

# Subclasses of these travel as their base value (docs/types.md, "canonical"); a subclass of anything else may hold more than we know of.
_CANONICAL_LEAVES = (str, int, float, bytes, bytearray, complex)
_KNOWN_CLASSES = 4096


Choose = Callable[[type], tuple[Leaf, Branch | None] | None]


class Forms:
    """How the classes of one schema are written. Remembers classes, unless they may be thrown away again."""

    def __init__(self, leaves: dict[type, Leaf], branches: dict[type, Branch], choose: Choose | None, schema: int) -> None:
        self.schema = schema
        self.leaves = dict(leaves)
        self._branches = dict(branches)
        self._own = frozenset((*leaves, *branches))
        self._choose = choose
        named.on_register(self._forget)

    def of(self, cls: type) -> tuple[Leaf, Branch | None]:
        """As a branch, or else as the leaf."""
        branch = self._branches.get(cls)
        if branch is not None:
            return opaque, branch
        leaf = self.leaves.get(cls)
        if leaf is not None:
            return leaf, None
        leaf, branch = self._new(cls)
        if len(self.leaves) + len(self._branches) < _KNOWN_CLASSES:
            if branch is None:
                self.leaves[cls] = leaf
            else:
                self._branches[cls] = branch
        return leaf, branch

    def _new(self, cls: type) -> tuple[Leaf, Branch | None]:
        special = self._choose(cls) if self._choose is not None else None
        if special is not None:
            return special
        if (generic := loaded("numpy", "generic")) is not None and issubclass(cls, generic) and not issubclass(cls, (str, bytes)):
            return _numpy_scalar, None
        for base in cls.__mro__:
            if base in _CANONICAL_LEAVES:
                return self.leaves[base], None
            if base in (list, dict, tuple, set, frozenset):
                return opaque, self._branches[base]
        return opaque, None

    def _forget(self, cls: type) -> None:
        if cls not in self._own:
            self.leaves.pop(cls, None)
            self._branches.pop(cls, None)


SCHEMA_1 = Forms(LEAVES, BRANCHES, None, 1)
