"""JSON text of any nesting, parsed without recursion.

The standard parser spends a level of Python's recursion limit on every level of the text, and the caller may have used most of it. Here
only brackets are handled; scalars go to the scanner of the given decoder, so both ways accept the same texts and call the same hooks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate
from json import JSONDecodeError, JSONDecoder
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")

_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKET = bytes(set(range(256)) - set(b"[{]}"))


def survey(text: bytes) -> tuple[int, int]:
    """How deep a JSON text nests and how many commas and opening brackets it has, without parsing it."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(text.split(b'"')[::2])
    steps = outside.translate(_STEPS, _NO_BRACKET)
    nesting = max(accumulate(memoryview(steps).cast("b")), default=0)
    return nesting, outside.count(b",") + steps.count(b"\x01")


class _Open:
    """A container that is being read."""

    __slots__ = ("closing", "items", "key", "pairs")

    def __init__(self, bracket: str) -> None:
        self.closing = "}" if bracket == "{" else "]"
        self.items: list[Any] = []
        self.pairs: list[tuple[str, Any]] | None = [] if bracket == "{" else None
        self.key = ""

    def add(self, value: Any) -> None:
        if self.pairs is None:
            self.items.append(value)
        else:
            self.pairs.append((self.key, value))


class _Cursor:
    """A position in a text."""

    __slots__ = ("_scan", "index", "text")

    def __init__(self, text: str, decoder: JSONDecoder) -> None:
        self.text = text
        self.index = 0
        self._scan: Callable[[str, int], tuple[Any, int]] = decoder.scan_once  # type: ignore[attr-defined]

    def peek(self) -> str:
        """The next character that is not space; empty at the end."""
        self.index = _SPACE.match(self.text, self.index).end()  # type: ignore[union-attr]
        return self.text[self.index : self.index + 1]

    def scalar(self) -> Any:
        try:
            value, self.index = self._scan(self.text, self.index)
        except StopIteration:
            raise self.expected("value") from None
        return value

    def key(self) -> str:
        if self.peek() != '"':
            raise self.expected("property name enclosed in double quotes")
        key: str = self.scalar()
        if self.peek() != ":":
            raise self.expected("':' delimiter")
        self.index += 1
        return key

    def expected(self, what: str) -> JSONDecodeError:
        return JSONDecodeError(f"Expecting {what}", self.text, self.index)


def loads(text: str, decoder: JSONDecoder) -> Any:
    """What `decoder.decode(text)` returns. The decoder needs an object_pairs_hook. Raises JSONDecodeError."""
    make_object = decoder.object_pairs_hook
    at = _Cursor(text, decoder)
    stack: list[_Open] = []
    while True:
        value: Any
        char = at.peek()
        if char in ("[", "{"):
            opened = _Open(char)
            at.index += 1
            if at.peek() != opened.closing:
                stack.append(opened)
                if opened.pairs is not None:
                    opened.key = at.key()
                continue
            at.index += 1
            value = opened.items if opened.pairs is None else make_object([])
        else:
            value = at.scalar()
        while stack:
            container = stack[-1]
            container.add(value)
            char = at.peek()
            if char == ",":
                at.index += 1
                if container.pairs is not None:
                    container.key = at.key()
                break
            if char != container.closing:
                raise at.expected("',' delimiter")
            at.index += 1
            stack.pop()
            value = container.items if container.pairs is None else make_object(container.pairs)
        else:
            if at.peek():
                raise JSONDecodeError("Extra data", text, at.index)
            return value
