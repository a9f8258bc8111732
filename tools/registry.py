"""What a tool is: a function of a payload and a context. The context is all it may know of the worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from bridge_adapter.codec import Ref, StreamRef


class RefEntry(Protocol):
    """A live object of a session, with what reading it as a stream needs."""

    obj: Any
    unread: Any
    last_batch: list[Any] | None
    failure: BaseException | None


class Policy(Protocol):
    """What a caller may reach by the names he gives. Every method raises where he may not."""

    helper_directories: Sequence[str] | None

    def function(self, module: str, path: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """What a path in a module leads to, which is going to be called with these arguments."""

    def method(self, target: Any, path: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """What a path from a live object leads to."""

    def assignment(self, target: Any, path: str) -> None:
        """Whether the attribute may be set."""

    def helper(self, name: Any, found: Any) -> None:
        """Whether the helper may be called."""

    def named(self, name: str) -> None:
        """Whether something that has only a name may be used: a tool of ours."""

    def module(self, name: str) -> None:
        """Whether the module may be loaded again."""

    def forget(self) -> None:
        """Modules were loaded again."""


class ToolContext(Protocol):
    """One request, as its tool sees it. policy: None where everything is allowed."""

    session_id: str

    @property
    def policy(self) -> Policy | None:
        """What callers may reach."""

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
