"""Every error the worker itself can answer, and the shape in which any exception travels (docs/wire.md section 2.5).

An error is raised where its cause is known and rendered once, by `to_wire`, at the edge.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any, Self

from bridge_adapter import redaction

MESSAGE_LIMIT = 64 * 1024
TRACEBACK_LIMIT = 256 * 1024
_CHAIN_LIMIT = 8
_OUR_FILES = ("/bridge_adapter/", "/json/decoder.py", "<frozen importlib")  # the codec reads with the standard decoder


class BridgeError(Exception):
    """An error of the bridge, not of user code. `category` is its name on the wire; `details` are plain data for programs."""

    category = "invalid_request"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


class InvalidRequest(BridgeError, ValueError):
    """The payload of a tool is not what the tool needs."""

    wire_type = "ValueError"


class UnknownTool(BridgeError, AttributeError):
    """No tool of that name."""

    category = "unknown_tool"
    wire_type = "AttributeError"


class UnknownRef(BridgeError, KeyError):
    """A ref that this worker does not hold: released, evicted, or of another worker. `cure`: what can be done, where that is known."""

    category = "unknown_ref"
    wire_type = "KeyError"

    def __init__(self, message: str, cure: str = "", **details: Any) -> None:
        super().__init__(message, **details)
        self.cure = cure


class SessionLost(UnknownRef):
    """A ref whose object was in a process that has died, and which could not be made again."""

    category = "session_lost"


class InvalidRef(BridgeError, ValueError):
    """Something that should be a ref is not one."""

    category = "invalid_ref"
    wire_type = "ValueError"


class SessionMismatch(BridgeError, ValueError):
    """A ref of one session was used in a call of another."""

    category = "session_mismatch"
    wire_type = "ValueError"


class SessionDeadlock(BridgeError, RuntimeError):
    """Sessions wait for each other in a circle."""

    category = "session_deadlock"


class ProtocolMismatch(BridgeError):
    """Caller and worker have no protocol version in common. Rendered under the name that SnakeBridge knows."""

    category = "protocol_mismatch"
    wire_type = "SnakeBridgeProtocolError"


class ProtocolError(BridgeError):
    """A lane message that breaks the protocol."""

    category = "protocol_error"


class Unauthorized(BridgeError):
    """The token of `hello` is wrong."""

    category = "unauthorized"


class UnsupportedVersion(BridgeError):
    """No version of the lane in common."""

    category = "unsupported_version"


class Refused(BridgeError):
    """Work that was not begun. `retry_after_ms`: when to try again, where that is known."""

    def __init__(self, message: str, retry_after_ms: int | None = None, **details: Any) -> None:
        if retry_after_ms is not None:
            details["retry_after_ms"] = retry_after_ms
        super().__init__(message, outcome="not_started", **details)

    def after_effects(self) -> Self:
        """The same, of a call that was refused only when it had run: it must not be made again blindly."""
        self.details["outcome"] = "unknown"
        return self


class Unavailable(Refused):
    """The worker takes no new work (it is draining), or has no room for it."""

    category = "unavailable"


class Overloaded(Refused):
    """There is more work than the queue for it holds, or than can be done before its deadline."""

    category = "overloaded"


class CircuitOpen(Refused):
    """Calls of this kind have failed too often of late."""

    category = "circuit_open"


class MemoryLimit(Refused, MemoryError):
    """The session or the worker holds as much memory as it may."""

    category = "memory_limit"
    wire_type = "MemoryError"


class PermissionDenied(Refused, PermissionError):
    """The policy does not allow what the call asks for."""

    category = "permission_denied"
    wire_type = "PermissionError"


class Disconnected(BridgeError, ConnectionError):
    """The client is gone while its call waited for it."""

    category = "unavailable"


class CallbackError(BridgeError, RuntimeError):
    """The Elixir function that Python called raised."""

    category = "callback_error"
    wire_type = "RuntimeError"


class CallbackGone(CallbackError):
    """The Elixir function that Python called is not registered any more."""

    category = "callback_gone"


class NoAnswer(BridgeError, TimeoutError):
    """An Elixir function did not answer in the time that Python code gave it."""

    category = "timeout"
    wire_type = "TimeoutError"

    def __init__(self, message: str = "the Elixir function has not answered in time; it may still do its work", **details: Any) -> None:
        super().__init__(message, **details)


class CallTimeout(BridgeError, TimeoutError):
    """The call was interrupted at its deadline."""

    category = "timeout"
    wire_type = "TimeoutError"


class CallWasCancelled(BridgeError):
    """The call was interrupted at its caller's wish."""

    category = "cancelled"
    wire_type = "CallCancelled"


class IdempotencyConflict(BridgeError, ValueError):
    """The key of a call belongs to a call with other arguments."""

    category = "idempotency_conflict"
    wire_type = "ValueError"


class RecordedFailure(BridgeError):
    """The error of the call with the same key that this one has waited for: `wire` is its error map, packed."""

    def __init__(self, wire: bytes) -> None:
        super().__init__("the call with the same key failed")
        self.wire = wire


class HelperNotFound(BridgeError):
    """No helper of that name in the registry."""

    wire_type = "SnakeBridgeHelperNotFoundError"


class HelperLoadError(BridgeError):
    """A helper file cannot be loaded."""

    wire_type = "SnakeBridgeHelperLoadError"


class Untellable(BridgeError):
    """Stands for an exception of user code of which not even the class can be looked at."""

    category = "python_error"


class CallCancelled(BaseException):
    """Raised inside user code to interrupt it. A BaseException, so that `except Exception` does not swallow it."""


def type_name(cls: type) -> str:
    """The name of an exception class as Python prints it: qualified, without the module for builtins."""
    wire_type: str | None = getattr(cls, "wire_type", None)
    if wire_type is not None:
        return wire_type
    if cls.__module__ in ("builtins", "__main__"):
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def to_wire(error: BaseException, context: Mapping[str, Any] | None = None, *, for_snakebridge: bool = False) -> dict[str, Any]:
    """The error map of an exception: plain data, whatever the exception's own methods do.

    `for_snakebridge`: errors of shapes, dtypes and memory also carry their facts where the real SnakeBridge looks, in message and context.
    """
    lines = _format(error)
    fields = {
        **_summary(error, 0),
        "traceback": _clip("".join(lines), TRACEBACK_LIMIT),
        "stacktrace": [_clip(line, MESSAGE_LIMIT) for line in lines[-256:]],
        "context": dict(context or {}),
    }
    found = fields["details"].get("ml")
    if for_snakebridge and found is not None:
        from bridge_adapter import ml_errors

        fields["message"] = ml_errors.explained(fields["message"], found)
        fields["context"]["ml"] = found
    return redaction.redacted(fields)  # type: ignore[no-any-return]


def _summary(error: BaseException, depth: int) -> dict[str, Any]:
    category = getattr(error, "category", None)
    message = _message(error)
    summary: dict[str, Any] = {
        "category": category if isinstance(category, str) and _is_ours(error) else "python_error",
        "type": _text(type_name(type(error))),
        "message": message,
        "notes": [_clip(_text(note), MESSAGE_LIMIT) for note in _notes(error)],
        "cause": None,
        "details": _details(error, message),
    }
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and cause is not error and depth < _CHAIN_LIMIT:
        summary["cause"] = _summary(cause, depth + 1)
    if isinstance(error, BaseExceptionGroup) and depth < _CHAIN_LIMIT:
        summary["exceptions"] = [_summary(member, depth + 1) for member in error.exceptions[:32]]
    return summary


def _is_ours(error: BaseException) -> bool:
    from bridge_adapter.codec.errors import CodecError

    return isinstance(error, (BridgeError, CodecError))


def _message(error: BaseException) -> str:
    if isinstance(error, UnknownRef):
        text = repr(error.args[0])  # str(KeyError) quotes, and SnakeBridge's translator knows the quoted text
        return f"{text} ({error.cure})" if error.cure else text
    return _clip(_text(error), MESSAGE_LIMIT)


def _text(value: object) -> str:
    try:
        text = str(value)
    except BaseException as error:
        text = f"<the message of this {type(value).__name__} cannot be shown: its __str__ raised {type(error).__name__}>"
    # Lone surrogates would make the error itself impossible to send as JSON.
    return text.encode("utf-8", "backslashreplace").decode()


def _notes(error: BaseException) -> list[object]:
    notes = getattr(error, "__notes__", None)
    return list(notes)[:64] if isinstance(notes, list) else []


def _details(error: BaseException, message: str) -> dict[str, Any]:
    if isinstance(error, BridgeError):
        details = getattr(error, "details", None)
        return dict(details) if isinstance(details, dict) else {}
    try:
        from bridge_adapter import ml_errors  # most workers never see an error of a user's

        found = ml_errors.facts(error, message)
    except (MemoryError, ImportError, OSError):  # there is no memory left to look, either, or no file can be opened
        return {}
    return {} if found is None else {"ml": found}


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit} more characters)"


def _format(error: BaseException) -> list[str]:
    """The traceback from the first frame of user code on: our own frames tell a user nothing."""
    frame = error.__traceback__
    while frame is not None and any(part in frame.tb_frame.f_code.co_filename for part in _OUR_FILES):
        frame = frame.tb_next
    try:
        lines = traceback.format_exception(type(error), error, frame, limit=200)
    except BaseException:
        lines = [f"{type_name(type(error))}: {_text(error)}\n"]
    if _is_ours(error):
        # Outside, our classes have the names that SnakeBridge knows, and so they are printed.
        own = f"{type(error).__module__}.{type(error).__qualname__}"
        lines = [f"{type_name(type(error))}{line.removeprefix(own)}" if line.startswith(own) else line for line in lines]
    return [line.encode("utf-8", "backslashreplace").decode() for line in lines]
