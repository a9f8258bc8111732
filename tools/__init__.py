"""What a request may ask for. `TOOLS` are answered with one value, `STREAM_TOOLS` with a stream of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from . import flow
from .batch import batch
from .call import call
from .helpers import index
from .registry import Payload, Tool, ToolContext
from .release import release_ref, release_session
from .reload import Watch, reload
from .stream import stream

TOOLS: dict[str, Tool] = {
    "snakebridge.call": call,
    "snakebridge.batch": batch,
    "snakebridge.release_ref": release_ref,
    "snakebridge.release_session": release_session,
    "snakebridge.helpers": index,
    "snakebridge.reload": reload,
    "flow.compile": flow.compile,
    "flow.certify": flow.certify,
    "flow.run": flow.run,
    "flow.resume": flow.resume,
    "flow.cancel": flow.cancel,
    "flow.list": flow.list_runs,
}

STREAM_TOOLS: dict[str, Callable[[Payload, ToolContext], Iterator[Any]]] = {
    "snakebridge.stream": stream,
    "snakebridge.call": stream,
    "flow.run": flow.run_stream,
    "flow.resume": flow.resume_stream,
}

__all__ = ["STREAM_TOOLS", "TOOLS", "Watch"]
