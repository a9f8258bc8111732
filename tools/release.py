"""`snakebridge.release_ref` and `snakebridge.release_session`."""

from __future__ import annotations

from .call import plain_ref
from .registry import Payload, ToolContext, ToolError, invalid


def release_ref(payload: Payload, context: ToolContext) -> bool:
    """True when the ref was live, False when there was nothing to release."""
    target = payload.get("ref", payload.get("instance"))
    if target is None:
        raise ToolError("invalid_ref", "SnakeBridge reference missing id")
    if isinstance(target, dict) and "__type__" in target:
        target = plain_ref(target, context.session_id)
    return context.release_ref(target)


def release_session(payload: Payload, context: ToolContext) -> int:
    """The number of refs that the session held."""
    session_id = payload.get("session_id") or context.session_id
    if not isinstance(session_id, str):
        raise invalid(f"session_id must be a string, not {type(session_id).__name__}")
    return context.release_session(session_id)
