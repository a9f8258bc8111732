"""What a tool is: a function of a payload and a context. The context is all it may know of the worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from bridge_adapter.codec import Ref, StreamRef


class RefEntry(Protocol):
    """A live object of a session, with what reading it as a stream needs."""

    obj: Any
    unread: Any
    last_batch: list[Any] | None
    failure: BaseException | None


class ToolContext(Protocol):
    """One request, as its tool sees it."""

    session_id: str

    def resolve(self, ref: Ref | StreamRef) -> Any:
        """The object of a ref of this session."""

    def entry_of(self, obj: Any) -> RefEntry | None:
        """The session's entry of a live object."""

    def release_ref(self, target: Any) -> bool:
        """Forgets a ref, given its live object, its record or its id."""

    def release_session(self, session_id: str) -> int:
        """Ends a session."""

    def settle(self, value: Any) -> Any:
        """Waits for an awaitable; returns anything else as it is."""

    def describe(self, error: BaseException) -> dict[str, Any]:
        """An error as it travels, for answers that hold several outcomes."""

    def alone(self, seconds: float) -> AbstractContextManager[int]:
        """Context in which no other call runs user code; its value says how many still do, after that many seconds."""

    def live_objects(self) -> Iterable[tuple[str, Iterable[Any]]]:
        """The ids of all sessions, and the objects that each holds."""

    def iterate(self, value: Any) -> Iterator[Any]:
        """Iterates over a sync or async iterable; closing the iterator closes the source."""


Payload = Mapping[str, Any]
Tool = Callable[[Payload, ToolContext], Any]


class StreamEnd:
    """What stream_next answers at the end; travels as {"__type__": "stop_iteration"}."""


STREAM_END = StreamEnd()


class ToolError(Exception):
    """A payload that a tool cannot use. `kind` is what the worker makes of it: invalid_request, unknown_tool, invalid_ref, ..."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def invalid(message: str) -> ToolError:
    return ToolError("invalid_request", message)
