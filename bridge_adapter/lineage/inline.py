"""A lane message with what it had in shared memory written into it: a segment may be gone when the message is needed again."""

from __future__ import annotations

from typing import Any

import msgpack

from bridge_adapter.codec.marks import MARKS, SEGMENT
from bridge_adapter.codec.segments import Segments


def inline(body: bytes, segments: Segments) -> bytes:
    """The same message without segments; their bytes arrive as bytes."""

    def read(items: list[Any]) -> Any:
        return bytes(segments.open(*items[1:4])) if items and items[0] == MARKS[SEGMENT] else items

    value = msgpack.unpackb(body, list_hook=read, strict_map_key=False, unicode_errors="surrogatepass")
    packed: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed
