"""Errors on their way to Elixir: the lane's error map as the JSON payload that Snakepit and SnakeBridge read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bridge_adapter import redaction

# gRPC sends a status text as an HTTP/2 header; clients refuse headers of more than 8 KiB in all.
STATUS_BYTES = 6000
_CONTEXT = ("session_id", "library", "python_module", "function", "call_type", "payload_version")


def payload(fields: Mapping[str, Any], tool: str, parameters: Mapping[str, bytes], worker_session: str = "") -> dict[str, Any]:
    """The payload of an error map. `parameters` are the JSON texts of the call, for errors that were not made by the executor.

    `session_id` in the context is the worker's session, as Snakepit's own worker says it; the caller's stands beside it.
    """
    category = fields.get("category") or "python_error"
    qualified = fields.get("type") or category
    stacktrace = fields.get("stacktrace") or []
    where = dict(fields.get("context") or context(tool, parameters))
    if worker_session:
        if "session_id" in where:
            where["caller_session_id"] = where["session_id"]
        where["session_id"] = worker_session
    told = {
        "type": qualified.rpartition(".")[2],
        "message": _message(fields, category),
        "stacktrace": stacktrace,
        "traceback": fields.get("traceback") or "".join(stacktrace),
        "context": where,
        "qualified_type": qualified,
        "category": category,
        "cause": fields.get("cause"),
        "notes": fields.get("notes") or [],
        "details": fields.get("details") or {},
        **({"exceptions": fields["exceptions"]} if fields.get("exceptions") else {}),  # members of an exception group
    }
    return told if "traceback" in fields else redaction.redacted(told)  # what the executor tells is without secrets already


def context(tool: str, parameters: Mapping[str, bytes]) -> dict[str, Any]:
    """What can be said of a call from its parameters alone."""
    found: dict[str, Any] = {"tool_name": tool}
    for name in _CONTEXT:
        try:
            value = json.loads(parameters[name])
        except (KeyError, ValueError, RecursionError):
            continue
        if isinstance(value, str) and value:
            found[name] = value[:256]
    return found


def text(payload: Mapping[str, Any]) -> str:
    """The payload as JSON text."""
    return json.dumps(payload, default=repr)


def status_text(payload: Mapping[str, Any]) -> str:
    """The payload as JSON text that fits a gRPC status: the long texts are cut in the middle, the lists are dropped."""
    whole = text(payload)
    if len(whole) <= STATUS_BYTES:
        return whole
    brief = {**payload, "stacktrace": [], "notes": [], "cause": None, "details": {}, "exceptions": []}
    room = STATUS_BYTES
    while room > 64:
        room //= 2
        cut = {**brief, "message": _middle(str(brief["message"]), room), "traceback": _middle(str(brief["traceback"]), room)}
        whole = text(cut)
        if len(whole) <= STATUS_BYTES:
            return whole
    return text({"type": str(payload["type"])[:200], "message": _middle(str(payload["message"]), 200), "category": payload["category"]})


def _message(fields: Mapping[str, Any], category: str) -> str:
    message = str(category if fields.get("message") is None else fields["message"])
    if category not in ("decode_error", "limit_exceeded"):  # the texts of errors about refs are known to the letter on the other side
        return message
    where = [note for note in fields.get("notes") or [] if isinstance(note, str) and note.startswith("in the parameter ")]
    return f"{message} ({where[0]})" if where else message


def _middle(value: str, length: int) -> str:
    if len(value) <= length:
        return value
    return f"{value[: length // 2]} ... {value[-length // 2 :]}"
