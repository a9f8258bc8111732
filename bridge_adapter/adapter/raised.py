"""Errors of the executor as exceptions for Snakepit's server, which names them after their class and formats their traceback.

Every one is an `Exception`, also where the user's code raised a StopIteration or a SystemExit: those would hang or end the server.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from bridge_adapter.gateway import failures
from bridge_adapter.gateway.lane_client import LaneError
from bridge_adapter.gateway.parameters import Asked

# A stream's error travels as one HTTP/2 header, of which clients take 8 KiB in all; the server puts the traceback in it twice.
STREAM_MESSAGE_BYTES = 1500
STREAM_TRACEBACK_BYTES = 900


class Raised(Exception):
    """An error from the executor; `payload` is all that is known of it (docs/gateway.md)."""

    payload: dict[str, Any]

    def __str__(self) -> str:
        return str(self.args[0])


class ExecutorTraceback(Exception):
    """The traceback of the user's code, where Python prints the cause of an error."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def raised(error: LaneError, call: Asked, *, brief: bool = False) -> Raised:
    """The exception for an error. `brief`: short enough to end a stream with."""
    payload = failures.payload(error.fields, call.tool, call.texts)
    message, traceback = payload["message"], payload["traceback"]
    if brief:
        message, traceback = _cut(message, STREAM_MESSAGE_BYTES), _cut(traceback, STREAM_TRACEBACK_BYTES)
    exception = _class(payload["qualified_type"])(message)
    exception.payload = payload
    if traceback:
        exception.__cause__ = ExecutorTraceback(traceback)
    exception.__suppress_context__ = True
    if not brief:
        for note in payload["notes"]:
            exception.add_note(str(note))
    return exception


@lru_cache(maxsize=512)
def _class(qualified: str) -> type[Raised]:
    """A class that looks like the user's: the same name, of the same module."""
    module, _, name = qualified.replace("\0", "").encode("utf-8", "replace").decode().rpartition(".")
    return type(name, (Raised,), {"__module__": module or "builtins"})


def _cut(text: str, limit: int) -> str:
    """At most `limit` bytes when written as JSON; what is too long loses its middle."""
    length = len(text)
    while len(json.dumps(text)) > limit:
        length = length * 2 // 3
        text = f"{text[: length // 2]} ... {text[-(length // 2) :]}"
    return text
