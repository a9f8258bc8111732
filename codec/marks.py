"""The numbers of the `packed` wire: extension codes of leaves, kinds of composites (docs/wire.md section 1)."""

from __future__ import annotations

from typing import Any

import msgpack

INT, ATOM, BINARY, TEXT, COMPLEX, DATE, TIME, NAIVE, DATETIME, OPAQUE, MARK = 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 16
TUPLE, SET, FROZENSET, PAIRS, REF, STREAM_REF, CALLBACK, NDARRAY, TYPED, MEMBERS, SEGMENT, GRAPH, NODE, NODES = range(1, 15)

Ext = msgpack.ExtType
MARKS: dict[int, Any] = {kind: Ext(MARK, bytes((kind,))) for kind in range(TUPLE, NODES + 1)}


def typed(tag: str, payload: Any) -> list[Any]:
    """The composite of a named type."""
    return [MARKS[TYPED], tag, payload]
