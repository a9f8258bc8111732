"""A copy of a value that msgpack writes as it is: the slow way, for what one plain pass cannot do.

Lone surrogates become leaves, dicts and sets are sorted when the packer is canonical, and what occurs more than once becomes a node of a
graph when it preserves identity. Recursive; `Packer` explains a value that is too deep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import identity
from .marks import ATOM, FROZENSET, GRAPH, MARKS, MEMBERS, NODES, PAIRS, SET, TEXT, TUPLE, Ext
from .wrappers import Atom, Members, Pairs

if TYPE_CHECKING:
    from .packer import Packer

_PLAIN = frozenset((type(None), bool, int, float, bytes, Ext, identity.NodeRef))


def plain(value: Any, packer: Packer) -> Any:
    """The copy. Raises EncodeError, or RecursionError when the value is too deep."""
    rewriter = _Rewriter(packer)
    if not packer.preserve_identity:
        return rewriter.copy(value)
    shared = identity.shared(value)
    if not shared:
        return rewriter.copy(value)
    rewriter.nodes = {id(part): index for index, part in enumerate(shared)}
    return [MARKS[GRAPH], rewriter.copy(value), [MARKS[NODES], *(rewriter.content(part) for part in shared)]]


class Parts:
    """A composite as a map key: hashable, and packed as its parts."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts


class _Rewriter:
    def __init__(self, packer: Packer) -> None:
        self._packer = packer
        self.nodes: dict[int, int] = {}

    def copy(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is str or kind is Atom:
            return _text(value)
        if id(value) in self.nodes:
            return identity.NodeRef(self.nodes[id(value)])
        return self.content(value)

    def content(self, value: Any) -> Any:
        """The copy of a value that may itself be a node."""
        copy = self.copy
        match value:
            case list() if type(value) is list:
                return [copy(item) for item in value]
            case dict() if type(value) is dict:
                return self._dict(value)
            case tuple() if type(value) is tuple:
                return [MARKS[TUPLE], *map(copy, value)]
            case set() if type(value) is set:
                return [MARKS[SET], *self._members(value)]
            case frozenset() if type(value) is frozenset:
                return [MARKS[FROZENSET], *self._members(value)]
            case Members():
                return [MARKS[MEMBERS], *self._members(value)]
            case Pairs():
                return [MARKS[PAIRS], *self._pairs(value)]
            case memoryview():
                return value.tobytes()
        form = self._form(value)
        return form if form is value else self._inside(form)

    def _form(self, value: Any) -> Any:
        """What the encoder of its class makes of a value."""
        from .packer import ENCODERS, encoder_for

        encode = ENCODERS.get(type(value)) or encoder_for(type(value))
        return encode(self._packer, value)

    def _inside(self, form: Any) -> Any:
        # A composite that an encoder has made is nobody's shared list, and a large buffer in it must not be copied.
        if type(form) is list:
            return [item if type(item) is memoryview else self.copy(item) for item in form]
        return self.copy(form)

    def _dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        copied = [(_key(self.copy(key)), self.copy(item)) for key, item in dict.items(value)]
        if self._packer.canonical:
            copied.sort(key=lambda pair: self._bytes(pair[0]))
        return dict(copied)

    def _pairs(self, value: Pairs) -> list[Any]:
        from .packer import pairs_of

        copied = [(self.copy(key), self.copy(item)) for key, item in pairs_of(value)]
        if self._packer.canonical:
            copied.sort(key=lambda pair: self._bytes(pair[0]))
        return [part for pair in copied for part in pair]

    def _members(self, value: set[Any] | frozenset[Any] | Members) -> list[Any]:
        copied = [self.copy(item) for item in value]
        if self._packer.canonical:
            copied.sort(key=self._bytes)
        return copied

    def _bytes(self, part: Any) -> bytes:
        return self._packer.pack_part(part)


def _key(key: Any) -> Any:
    return Parts(key) if isinstance(key, list) else key


def _text(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        return Ext(ATOM if type(value) is Atom else TEXT, value.encode("utf-8", "surrogatepass"))
    return Ext(ATOM, value.encode()) if type(value) is Atom else value
