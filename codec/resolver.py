"""The records by which live objects travel, and who knows the objects: the codec moves these, it does not know what a session is.

Whoever uses the codec passes a `Resolver`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


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
