"""Where a call comes from, for the code that runs it: its ids, its deadline, and its caller's trace (W3C Trace Context).

With OpenTelemetry installed, spans that user code starts are children of the caller's span without a line of its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from bridge_adapter import calls

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOTHING = nullcontext()


@dataclass(frozen=True, slots=True)
class CallInfo:
    """The call on whose behalf code runs. `remaining`: seconds until its deadline, None without one; empty texts: not told."""

    tool: str
    session_id: str
    correlation_id: str
    traceparent: str
    tracestate: str
    baggage: str
    remaining: float | None
    cancelled: bool


def current_call() -> CallInfo | None:
    """The call on whose behalf this code runs, in its thread and its coroutines; None outside of calls."""
    call = calls.current()
    if call is None:
        return None
    trace = call.trace
    return CallInfo(
        tool=call.label,
        session_id=call.session_id,
        correlation_id=str(trace.get("correlation_id", "")),
        traceparent=str(trace.get("traceparent", "")),
        tracestate=str(trace.get("tracestate", "")),
        baggage=str(trace.get("baggage", "")),
        remaining=None if call.deadline is None else max(0.0, call.deadline - time.monotonic()),
        cancelled=call.reason is not None,
    )


def attached(trace: Mapping[str, str]) -> AbstractContextManager[None]:
    """Context in which OpenTelemetry, where it is installed, knows the caller's span."""
    if "traceparent" not in trace or not _has_opentelemetry():
        return _NOTHING
    return _attached(trace)


@contextmanager
def _attached(trace: Mapping[str, str]) -> Iterator[None]:
    from opentelemetry.context import attach, detach
    from opentelemetry.propagate import extract

    token = attach(extract(dict(trace)))
    try:
        yield
    finally:
        detach(token)


@cache
def _has_opentelemetry() -> bool:
    try:
        return find_spec("opentelemetry.propagate") is not None
    except (ImportError, ValueError):
        return False
