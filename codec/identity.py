"""Identity inside one message: shared and cyclic structure as a graph of nodes (docs/wire.md section 1.2).

`shared` finds what occurs more than once, `rewrite.py` writes it, `build` puts it together again: lists, dicts and sets are filled in
place, so that every mention of a node is the one object; tuples and frozensets are made once their parts are.
"""

from __future__ import annotations

from typing import Any

from . import collisions
from .errors import DecodeError

_MUTABLE = (list, dict, set)
_FIXED = (tuple, frozenset)


class NodeRef:
    """Stands where a node of the graph belongs."""

    __slots__ = ("index", "resolved")

    def __init__(self, index: int) -> None:
        self.index = index
        self.resolved = False

    @classmethod
    def read(cls, parts: list[Any]) -> NodeRef:
        if len(parts) != 1 or type(parts[0]) is not int or parts[0] < 0:
            raise DecodeError(f"a node must hold its index, not {ascii(parts)[:60]}; the sender's encoder is broken")
        return cls(parts[0])


class Nodes:
    """The nodes of a graph on their way in."""

    __slots__ = ("items", "resolved")

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.resolved = False


def shared(value: Any) -> list[Any]:
    """The containers that occur more than once in a value, itself included, in the order in which they are met. Empty tuples do not
    count: there is only one."""
    met: dict[int, Any] = {}
    again: dict[int, Any] = {}
    stack = [value]
    while stack:
        part = stack.pop()
        kind = type(part)
        if kind not in (list, dict, set, tuple, frozenset) or (not part and kind in _FIXED):
            continue
        if id(part) in met:
            again.setdefault(id(part), part)
            continue
        met[id(part)] = part
        stack.extend(reversed([*part, *part.values()] if kind is dict else list(part)))
    return list(again.values())


def build(parts: list[Any]) -> Any:
    """The value of a graph that came in. Raises DecodeError."""
    if len(parts) != 2 or not isinstance(parts[1], Nodes):
        raise DecodeError("a graph must hold its root and its nodes; the sender's encoder is broken")
    nodes = parts[1]
    nodes.resolved = True
    return _Graph(nodes.items).value(parts[0])


class _Graph:
    def __init__(self, nodes: list[Any]) -> None:
        self._nodes = nodes
        self._fixed: dict[int, Any] = {}  # finished tuples and frozensets among the nodes
        self._making: set[int] = set()
        self._filled: set[int] = set()
        self._to_fill: list[Any] = []

    def value(self, root: Any) -> Any:
        made = self._made(root)
        while self._to_fill:
            self._fill(self._to_fill.pop())
        return made

    def _made(self, part: Any) -> Any:
        """The finished object for a part; containers that can be changed are filled later."""
        if type(part) is NodeRef:
            return self._node(part)
        if type(part) in _FIXED:
            return type(part)([self._made(item) for item in part]) if self._holds_nodes(part) else part
        if type(part) in _MUTABLE and id(part) not in self._filled:
            self._filled.add(id(part))
            self._to_fill.append(part)
        return part

    def _node(self, ref: NodeRef) -> Any:
        ref.resolved = True
        index = ref.index
        if index >= len(self._nodes):
            raise DecodeError(f"node {index} of a graph of {len(self._nodes)} nodes; the sender's encoder is broken")
        node = self._nodes[index]
        if type(node) not in _FIXED:
            return self._made(node)
        if index not in self._fixed:
            if index in self._making:
                raise DecodeError("a tuple in a graph contains itself; only lists, dicts and sets can")
            self._making.add(index)
            self._fixed[index] = type(node)([self._made(item) for item in node])
        return self._fixed[index]

    def _holds_nodes(self, part: Any) -> bool:
        # Lists inside must be filled, too, so any container counts.
        return any(type(item) is NodeRef or type(item) in _MUTABLE or type(item) in _FIXED for item in part)

    def _fill(self, container: Any) -> None:
        if isinstance(container, list):
            container[:] = [self._made(item) for item in container]
            return
        try:
            if isinstance(container, dict):
                items = [(self._made(key), self._made(item)) for key, item in container.items()]
                container.clear()
                collisions.check([key for key, _ in items], "keys of a map")
                container.update(items)
                count = len(items)
            else:
                members = [self._made(item) for item in container]
                container.clear()
                collisions.check(members, "elements of a set")
                container.update(members)
                count = len(members)
        except (TypeError, ArithmeticError) as error:
            raise DecodeError(f"a map key or set element cannot be hashed in Python ({error}); use strings, numbers or tuples") from None
        if len(container) != count:
            raise DecodeError("keys or set elements of a graph are equal in Python; send a list instead")
