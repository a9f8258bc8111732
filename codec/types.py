"""Wrapper types for values that Python has no class for, and the records by which live objects travel.

The codec moves these; it does not know what a session is or how a callback reaches Elixir. Whoever uses the codec passes a `Resolver`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Atom(str):
    """An Elixir atom. It is a `str`, so that `dtype=Atom("float32")` simply works; its type keeps the way back to Elixir exact."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Atom({str.__repr__(self)})"


class Binary(bytes):
    """An Elixir binary that is not valid UTF-8. Usable as `bytes`; goes back to Elixir as a plain binary."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Binary({bytes.__repr__(self)})"


@dataclass(frozen=True, slots=True)
class Ref:
    """How an object that stays in Python is named outside: `id` is unique within `session`."""

    id: str
    session: str
    module: str = ""
    library: str = ""
    type_name: str = ""


@dataclass(frozen=True, slots=True)
class StreamRef:
    """A `Ref` to an iterator. stream_type: generator, iterator or async_generator."""

    id: str
    session: str
    module: str = ""
    library: str = ""
    type_name: str = ""
    stream_type: str = "iterator"


@dataclass(frozen=True, slots=True)
class CallbackRef:
    """An Elixir function as it travels. `owner` is the text of the pid that registered it."""

    id: str
    arity: int
    owner: str = ""


class Resolver(Protocol):
    """The live objects of one call: what `Ref`s mean, and what becomes of objects that cannot travel by value."""

    def resolve(self, ref: Ref | StreamRef) -> Any:
        """The object that a ref names. Raises the error the caller shall see when there is none."""

    def callback(self, ref: CallbackRef) -> Any:
        """A callable for an Elixir function."""

    def opaque(self, value: Any) -> Ref | StreamRef:
        """A ref for an object that does not travel by value. Same object, same ref."""


class PlainResolver:
    """Leaves refs and callbacks as their records, and refuses opaque objects: for use outside a call (tests, tools)."""

    def resolve(self, ref: Ref | StreamRef) -> Any:
        return ref

    def callback(self, ref: CallbackRef) -> Any:
        return ref

    def opaque(self, value: Any) -> Ref | StreamRef:
        from .errors import EncodeError

        raise EncodeError(
            f"a {type(value).__module__}.{type(value).__qualname__} does not travel by value, and there is no session to keep it in; "
            "call through a session, or convert it to plain data first"
        )


def stream_type(value: Any) -> str | None:
    """`generator`, `iterator` or `async_generator` when the value is consumed step by step, else None. Context managers are not streams."""
    cls = type(value)
    if hasattr(cls, "__anext__") and hasattr(cls, "__aiter__"):
        return "async_generator"
    if hasattr(cls, "__next__") and hasattr(cls, "__iter__") and not hasattr(cls, "__enter__"):
        return "generator" if hasattr(cls, "send") and hasattr(cls, "throw") else "iterator"
    return None


def loaded(module: str, *names: str) -> tuple[Any, ...] | None:
    """Attributes of a module that somebody has imported; None when nobody has, or another thread is still at it."""
    found = tuple(getattr(sys.modules.get(module), name, None) for name in names)
    return None if None in found else found


# Array element types that travel by value: name -> bytes per element. bfloat16 is a numpy dtype only where ml_dtypes is loaded.
DTYPES: dict[str, int] = {
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip


def element_count(shape: Sequence[int]) -> int:
    """Number of elements of an array of this shape."""
    count = 1
    for dim in shape:
        count *= dim
    return count
