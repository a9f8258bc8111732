"""One request: what it asks for, in which form its answer travels, and what can be said of it before it is decoded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bridge_adapter import errors
from bridge_adapter.callbacks import Callback
from bridge_adapter.calls import Call
from bridge_adapter.codec import Ref, StreamRef

if TYPE_CHECKING:
    from bridge_adapter.journal.records import Key, Outcome
    from bridge_adapter.user_adapter.adapter import Asked

PROTOCOL_VERSION = 1
MIN_PROTOCOL_VERSION = 1
# Callers that speak this version, too, understand schema 2 of `tagged`. (Ours stays 1: what it says to those who demand 2 is known.)
SCHEMA_2_VERSION = 2
VERSIONS = ("protocol_version", "min_supported_version")
_VERSIONLESS_TOOLS = ("snakebridge.helpers",)
_CONTEXT_KEYS = ("library", "python_module", "module", "module_path", "function", "call_type")


@dataclass(frozen=True, slots=True)
class Form:
    """How answers travel. schema: of "tagged", 1 or 2; identity: shared parts stay shared; by_reference: results stay in Python;
    shared: how many bytes may go through shared memory, and how many a value must have to do so."""

    encoding: str = "packed"
    schema: int = 1
    identity: bool = False
    by_reference: bool = False
    shared: tuple[int, int] | None = None


PACKED = Form()


@dataclass(slots=True)
class Request:
    """One call or stream. With encoding "tagged", payload maps names to JSON texts; `binary` are raw bytes that join it."""

    call: Call
    tool: str
    payload: dict[str, Any]
    form: Form = PACKED
    binary: dict[str, bytes] | None = None
    options: Any = None
    asked: Asked | None = None  # of a call of the user's adapter: its payload is plain JSON
    foreign: set[str] = field(default_factory=set)  # sessions of the refs that the payload named
    unresolved: list[UnresolvedRef] = field(default_factory=list)
    returned: list[Callback] | None = None  # functions in the answer of a call: they are not told as dropped before it
    key: Key | None = None  # of an idempotent call: it runs once under it
    refs: list[str] | None = None  # of a call with a key: the refs in its answer
    outcome: Outcome | None = None  # the same: how its answer came about
    admitted: bool = False  # it has had its session's turn: what it still has to do there is not refused
    given: list[str] = field(default_factory=list)  # the refs that the payload named
    functions: bool = False  # there are Elixir functions in the payload
    # Of a call in a session that is recovered (docs/recovery.md):
    raw: bytes | memoryview | None = None  # the message in which it came
    read_again: Callable[[Request], None] | None = None  # reads its payload once more, when the session has its objects back
    answer: bytes | None = None  # its own answer, if it had run before its process died


@dataclass(slots=True, eq=False)
class UnresolvedRef:
    """Stands in the payload for a ref that names nothing. Every tool but release_ref refuses it."""

    ref: Ref | StreamRef
    error: Exception


def session_of(request: Request) -> str:
    """The session a request runs in: the payload's, or "default"."""
    if request.asked is not None:
        return request.asked.lane_session
    session_id = request.payload.get("session_id")
    if request.form.encoding == "tagged" and isinstance(session_id, bytes):
        session_id = json_value(session_id)
    if session_id is None or session_id == "":
        return "default"
    if not isinstance(session_id, str):
        raise errors.InvalidRequest(f"session_id must be a string, not {type(session_id).__name__}: {str(session_id)[:80]}")
    return session_id


def json_value(text: bytes) -> Any:
    """A JSON text that is read before the payload as a whole; None when it is none (decoding the payload will say so)."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def check_version(payload: dict[str, Any], tool: str, allow_legacy: bool) -> None:
    """The version rule of SnakeBridge: the ranges of caller and worker must meet."""
    if tool in _VERSIONLESS_TOOLS:
        return
    version, minimum = payload.get("protocol_version"), payload.get("min_supported_version")
    if version is None and minimum is None and allow_legacy:
        return
    version, minimum = version or 0, minimum or 0
    if type(version) is not int or type(minimum) is not int:
        raise TypeError(f"protocol_version and min_supported_version must be integers, not {version!r} and {minimum!r}")
    if version < MIN_PROTOCOL_VERSION or minimum > PROTOCOL_VERSION:
        raise errors.ProtocolMismatch(
            f"SnakeBridge protocol version mismatch (caller_protocol_version={version}, caller_min_supported_version={minimum}, "
            f"adapter_protocol_version={PROTOCOL_VERSION}, adapter_min_supported_version={MIN_PROTOCOL_VERSION}). "
            "Update the older side, or set SNAKEBRIDGE_ALLOW_LEGACY_PROTOCOL=1 for callers that send no version."
        )


def describe(request: Request) -> dict[str, Any]:
    """What an error says of the request it ended."""
    context: dict[str, Any] = {"tool_name": request.tool}
    for key in ("session_id", *_CONTEXT_KEYS):
        value = request.payload.get(key)
        if isinstance(value, bytes):
            value = json_value(value)
        if isinstance(value, str) and value:
            context[key] = value[:256]
    return context
