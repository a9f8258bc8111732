"""Streams: `snakebridge.stream` (call, then iterate the result) and `stream_next` (steps of an iterator that is held by ref)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from bridge_adapter.codec import Ref, StreamRef
from bridge_adapter.codec.resolver import stream_type

from .registry import STREAM_END, Payload, RefEntry, ToolContext, ToolError, invalid

MAX_BATCH = 4096
# A batch that takes longer than this is answered with what there is, so that slow iterators are not delayed.
BATCH_SECONDS = 0.005

_WHOLE = (str, bytes, bytearray, dict, set, frozenset)


def stream(payload: Payload, context: ToolContext) -> Iterator[Any]:
    """Calls what the payload describes and iterates its result. A value that is no stream is one item.

    Today's `dynamic_stream` takes lists as one item too; the forms without call_type (generated wrappers, the seed) iterate them.
    """
    from .call import call

    value = call(payload, context)
    if stream_type(value) is not None:
        return context.iterate(value)
    if isinstance(value, _WHOLE) or not hasattr(type(value), "__iter__") or hasattr(type(value), "__enter__"):
        return iter((value,))
    if isinstance(value, (list, tuple)) and payload.get("call_type") == "dynamic_stream":
        return iter((value,))
    return context.iterate(value)


def step(payload: Payload, context: ToolContext) -> Any:
    """The next item of a held iterator; with `batch`: {"items", "done"}; with `unread`: gives the last n items of the last batch back."""
    entry = _entry(payload, context)
    if "unread" in payload:
        return _unread(entry, payload["unread"])
    if "batch" in payload:
        return _batch(entry, payload["batch"], context)
    return _next(entry, context)


def _entry(payload: Payload, context: ToolContext) -> RefEntry:
    from .call import plain_ref

    target = payload.get("stream_ref", payload.get("instance", payload.get("ref")))
    if isinstance(target, dict) and target.get("id"):
        target = context.resolve(plain_ref(target, context.session_id))
    elif isinstance(target, str) and context.entry_of(target) is None:
        target = context.resolve(Ref(target, context.session_id))
    entry = context.entry_of(target)
    if entry is None or isinstance(target, (Ref, StreamRef)):
        raise ToolError("invalid_ref", "Invalid SnakeBridge reference payload")
    if stream_type(entry.obj) is None:
        raise TypeError(f"'{type(entry.obj).__name__}' object is not an iterator; call builtins.iter on it and step through the result")
    return entry


def _next(entry: RefEntry, context: ToolContext) -> Any:
    if entry.unread:
        return entry.unread.popleft()
    if entry.failure is not None:
        failure, entry.failure = entry.failure, None
        raise failure
    return _advance(entry.obj, context)


def _advance(source: Any, context: ToolContext) -> Any:
    if hasattr(type(source), "__anext__"):
        try:
            return context.settle(_anext(source))
        except StopAsyncIteration:
            return STREAM_END
    try:
        return context.settle(next(source))
    except StopIteration:
        return STREAM_END


async def _anext(source: Any) -> Any:
    return await source.__anext__()


def _batch(entry: RefEntry, size: Any, context: ToolContext) -> dict[str, Any]:
    if type(size) is not int or not 1 <= size <= MAX_BATCH:
        raise invalid(f"batch must be an integer from 1 to {MAX_BATCH}, not {str(size)[:40]}")
    items: list[Any] = []
    done = False
    until = time.monotonic() + BATCH_SECONDS
    while len(items) < size:
        try:
            item = _next(entry, context)
        except Exception as error:
            if not items:
                raise
            entry.failure = error  # the items before it come first
            break
        if item is STREAM_END:
            done = True
            break
        items.append(item)
        if time.monotonic() > until:
            break
    entry.last_batch = items
    return {"items": items, "done": done}


def _unread(entry: RefEntry, count: Any) -> bool:
    last = entry.last_batch or []
    if type(count) is not int or not 0 <= count <= len(last):
        raise invalid(f"unread must be an integer from 0 to {len(last)} (the size of the last batch), not {str(count)[:40]}")
    if count:
        if entry.unread is None:
            entry.unread = deque()
        entry.unread.extendleft(reversed(last[-count:]))
    entry.last_batch = None
    return True
