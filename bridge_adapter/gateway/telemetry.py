"""What happens in the gateway, as events: a span per tool call, executors that die, what samples measure. Consumers attach and get every
event from then on; what happens while nobody is attached waits in a bounded buffer for the first who does.

Nothing here knows how events travel (`telemetry_stream` does), and nearly nothing is computed for an event that nobody reads.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol

from bridge_adapter.gateway.bridge import STREAM_TOOL
from bridge_adapter.gateway.lane_client import LaneError
from bridge_adapter.gateway.parameters import Asked

BUFFER = 1024  # events
LONGEST_NAME = 256  # bytes of a parameter that goes into the metadata
LONGEST_MESSAGE = 500
CALL_TOOLS = ("snakebridge.call", STREAM_TOOL)

# The names that Snakepit accepts and the measurements that each comes with; it drops whatever else it gets.
CATALOGUE: Mapping[str, tuple[str, ...]] = {
    "python.call.start": ("system_time",),
    "python.call.stop": ("duration",),
    "python.call.exception": ("duration",),
    "tool.execution.start": ("system_time",),
    "tool.execution.stop": ("duration",),
    "tool.execution.exception": ("duration",),
    "tool.result_size": ("bytes",),
    "python.error.occurred": ("count",),
    "python.memory.sampled": ("rss_bytes", "vms_bytes"),
    "python.cpu.sampled": ("cpu_percent",),
    "python.gc.completed": ("collected", "count", "duration", "generation"),
}
_PYTHON_CALL = ("python.call.start", "python.call.stop", "python.call.exception")
_TOOL_EXECUTION = ("tool.execution.start", "tool.execution.stop", "tool.execution.exception")
_NO_METADATA: Mapping[str, str] = {}


class Event:
    """One event. Durations are nanoseconds, `time_ns` and `system_time` nanoseconds since 1970."""

    __slots__ = ("_extra", "_span", "measurements", "name", "time_ns")

    def __init__(
        self,
        name: str,
        measurements: Mapping[str, int | float],
        time_ns: int,
        span: Span | None = None,
        extra: Mapping[str, str] = _NO_METADATA,
    ) -> None:
        self.name = name
        self.measurements = measurements
        self.time_ns = time_ns
        self._span = span
        self._extra = extra

    @property
    def metadata(self) -> dict[str, str]:
        return {**(_NO_METADATA if self._span is None else self._span.metadata), **self._extra}

    @property
    def correlation(self) -> str:
        """The correlation id of the call that it belongs to."""
        return "" if self._span is None else self._span.correlation

    @property
    def span(self) -> int:
        """The number of the call that it belongs to, the same for all of its events; 0: none."""
        return 0 if self._span is None else self._span.number


class Buffer:
    """The latest events. When it is full the oldest gives way: who looks wants to know what led to now, not how all began."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.dropped = 0  # before the first of `events`

    def put(self, event: Event) -> None:
        if len(self.events) >= BUFFER:
            self.events.popleft()
            self.dropped += 1
        self.events.append(event)

    def put_back(self, event: Event, dropped: int) -> None:
        """Undoes taking the first."""
        self.events.appendleft(event)
        self.dropped += dropped


class Consumer(Protocol):
    """Who attaches. `take` must not block; `buffer` holds what has not been consumed."""

    buffer: Buffer

    def take(self, event: Event) -> None: ...


class Telemetry:
    """The events of one gateway, for any number of consumers. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._backlog = Buffer()
        self._consumers: list[Consumer] = []
        self._numbers = itertools.count(1)
        self._open: set[Span] = set()

    def attach(self, consumer: Consumer) -> None:
        """Gives the consumer every event from now on; the first also what has happened while there was none."""
        if not self._consumers:
            consumer.buffer, self._backlog = self._backlog, Buffer()
        self._consumers.append(consumer)

    def detach(self, consumer: Consumer) -> None:
        """What the last consumer leaves behind waits for the next."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)
            if not self._consumers:
                self._backlog = consumer.buffer

    def emit(self, event: Event) -> None:
        if self._consumers:
            for consumer in self._consumers:
                consumer.take(event)
        else:
            self._backlog.put(event)

    def call(self, call: Asked) -> Span:
        """A span for a tool call: use it as a context manager around the work."""
        return Span(call, next(self._numbers), self.emit, self._open)

    def died(self, pid: int, status: int, how: str) -> None:
        """An executor is gone that nobody has told to stop. `status` as Popen has it."""
        end = {"signal": str(-status)} if status < 0 else {"exit_status": str(status)}
        extra = {
            "error_type": "WorkerCrash",
            "error_message": _bounded(how),
            "executor_pid": str(pid),
            "calls_in_flight": str(len(self._open)),
            **end,
        }
        # The pool sends one call at a time: then it is known which one died with it.
        span = next(iter(self._open)) if len(self._open) == 1 else None
        self.emit(Event("python.error.occurred", {"count": 1}, time.time_ns(), span, extra))

    def opened(self, what: str, seconds: float) -> None:
        """Calls of `what` are refused for so many seconds, because it has failed too often."""
        message = _bounded(f"{what} has failed too often: calls of it are refused for {seconds:g} s")
        extra = {"error_type": "CircuitOpen", "error_message": message, "error_category": "circuit_open"}
        self.emit(Event("python.error.occurred", {"count": 1}, time.time_ns(), extra=extra))


class Span:
    """A tool call: `start` when it is entered, `stop` or `exception` when it is left."""

    __slots__ = ("_emit", "_metadata", "_names", "_open", "_raw", "_session", "_started", "_tool", "correlation", "number", "result_bytes")

    def __init__(self, call: Asked, number: int, emit: Callable[[Event], None], open_spans: set[Span]) -> None:
        self.number = number
        self.correlation = call.correlation
        self.result_bytes: int | None = None  # set before the end, where a result has one size
        self._emit = emit
        self._open = open_spans
        self._tool = call.tool[:LONGEST_NAME]
        self._names = _PYTHON_CALL if call.tool in CALL_TOOLS else _TOOL_EXECUTION
        self._session = call.worker_session[:LONGEST_NAME]
        # The JSON texts as they are, read when somebody wants to know. No others: an event must not keep large parameters in memory.
        text = call.texts.get
        self._raw = (
            text("python_module") or text("module") or text("module_path"),
            text("function") or text("attr") or text("method"),
            text("library"),
            text("call_type"),
            text("session_id"),
        )
        for raw in self._raw:
            if raw is not None and len(raw) > LONGEST_NAME:
                self._raw = tuple(raw if raw is None or len(raw) <= LONGEST_NAME else None for raw in self._raw)  # type: ignore[assignment]
                break
        self._metadata: dict[str, str] | None = None

    @property
    def metadata(self) -> dict[str, str]:
        if self._metadata is None:
            self._metadata = self._read()
        return self._metadata

    def _read(self) -> dict[str, str]:
        module, function, library, call_type, session = map(_string, self._raw)
        known = {
            "module": module,
            "python_module": module,
            "library": library or module.partition(".")[0],
            "function": function,
            "call_type": call_type or ("function" if module else ""),
            "session_id": session or self._session,
            "tool": self._tool,
        }
        return {key: value for key, value in known.items() if value}

    def __enter__(self) -> Span:
        self._open.add(self)
        now = time.time_ns()
        self._emit(Event(self._names[0], {"system_time": now}, now, self))
        self._started = time.perf_counter_ns()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        duration = time.perf_counter_ns() - self._started
        self._open.discard(self)
        now = time.time_ns()
        if error is None:
            if self.result_bytes is not None:
                self._emit(Event("tool.result_size", {"bytes": self.result_bytes}, now, self))
            self._emit(Event(self._names[1], {"duration": duration}, now, self))
        else:
            self._emit(Event(self._names[2], {"duration": duration}, now, self, _what_failed(error)))


def _what_failed(error: BaseException) -> dict[str, str]:
    if isinstance(error, LaneError):
        category = str(error.fields.get("category") or "python_error")
        name, message = str(error.fields.get("type") or category), str(error.fields.get("message") or category)
        return {"error_type": name.rpartition(".")[2], "error_message": _bounded(message), "error_category": category}
    if isinstance(error, asyncio.CancelledError):
        return {"error_type": "Cancelled", "error_message": "its caller left, or its deadline passed", "error_category": "cancelled"}
    return {"error_type": type(error).__name__, "error_message": _bounded(str(error))}


def _string(raw: bytes | None) -> str:
    """The string of a JSON text; empty for whatever else it is."""
    if not raw:
        return ""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return ""
    # Lone surrogates are JSON, but no protobuf string.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _bounded(message: str) -> str:
    message = message.encode("utf-8", "replace").decode()
    return message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 4] + " ..."
