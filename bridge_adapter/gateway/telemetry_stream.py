"""StreamTelemetry: events on their way to Elixir, as each stream's controls want them. A reader who is slow loses the oldest of what waits
for him, and holds up nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from bridge_adapter.gateway.sampling import Sampler
from bridge_adapter.gateway.telemetry import Buffer, Event, Telemetry
from bridge_adapter.proto import snakepit_bridge_pb2 as pb

FIRST_CONTROL_SECONDS = 0.2
LAST_SECONDS = 0.05  # what is sent so shortly before the deadline may not arrive: it waits for the next stream
MAX_RULES = 64
_GOLDEN = 0.6180339887498949  # multiples of it fill the unit interval evenly

log = logging.getLogger("bridge_adapter.gateway")


class Selection:
    """Which events a stream wants: the filter, then the sampling rate. All events of a call share their fate."""

    def __init__(self) -> None:
        self._allow: tuple[str, ...] = ()
        self._deny: tuple[str, ...] = ()
        self._rates: list[tuple[tuple[str, ...], float]] = []  # later ones win; no patterns: every event
        self._known: dict[str, float] = {}  # name -> rate; 0 for what the filter refuses
        self._alone = 0

    def filter(self, allow: Sequence[str], deny: Sequence[str]) -> None:
        """`deny` wins; an empty `allow` allows everything. Patterns are those of fnmatch, on dotted names."""
        self._allow, self._deny = tuple(allow), tuple(deny)
        self._known.clear()

    def sample(self, rate: float, patterns: Sequence[str]) -> None:
        """From now on that part of the events whose names match: 0 none, 1 all. Without patterns: all, whatever was said before."""
        chosen = tuple(patterns)
        self._rates = [rule for rule in self._rates if rule[0] != chosen][1 - MAX_RULES :] if chosen else []
        self._rates.append((chosen, min(1.0, max(0.0, rate))))
        self._known.clear()

    def wants(self, event: Event) -> bool:
        rate = self._known.get(event.name)
        if rate is None:
            rate = self._known[event.name] = self._rate(event.name)
        if 0.0 < rate < 1.0:
            number = event.span
            if not number:
                number = self._alone = self._alone + 1
            return number * _GOLDEN % 1.0 < rate
        return rate == 1.0

    def _rate(self, name: str) -> float:
        if _matches(name, self._deny) or (self._allow and not _matches(name, self._allow)):
            return 0.0
        return next((rate for patterns, rate in reversed(self._rates) if not patterns or _matches(name, patterns)), 1.0)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class Attachment:
    """What one stream is going to send. A consumer of `Telemetry`."""

    def __init__(self) -> None:
        self.buffer = Buffer()
        self.selection = Selection()
        self.enabled = True
        self._wake: asyncio.Future[None] | None = None

    def take(self, event: Event) -> None:
        if self.enabled:
            self.buffer.put(event)
            self._nudge()

    def control(self, control: pb.TelemetryControl) -> None:
        """Filter and rates hold for what has not been sent yet. Switched off, a stream misses what happens; what waits, waits."""
        kind = control.WhichOneof("control")
        if kind == "toggle":
            self.enabled = control.toggle.enabled
            self._nudge()
        elif kind == "sampling":
            self.selection.sample(control.sampling.sampling_rate, control.sampling.event_patterns)
        elif kind == "filter":
            self.selection.filter(control.filter.allow, control.filter.deny)

    def _nudge(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def send(self, write: Callable[[pb.TelemetryEvent], Awaitable[None]]) -> None:
        """Sends what is wanted as it comes, for ever. What cannot be written stays in the buffer."""
        while True:
            while not (self.enabled and self.buffer.events):
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
            buffer = self.buffer
            event = buffer.events.popleft()
            if not self.selection.wants(event):
                continue
            dropped, buffer.dropped = buffer.dropped, 0
            try:
                await write(encode(event, dropped))
            except BaseException:
                buffer.put_back(event, dropped)
                raise


def encode(event: Event, dropped: int = 0) -> pb.TelemetryEvent:
    """The event as Snakepit reads it. `dropped`: how many events before it this reader has missed."""
    message = pb.TelemetryEvent(
        event_parts=event.name.split("."), metadata=event.metadata, timestamp_ns=event.time_ns, correlation_id=event.correlation
    )
    if dropped:
        message.metadata["events_dropped"] = str(dropped)
    for key, value in event.measurements.items():
        if isinstance(value, float):
            message.measurements[key].float_value = value
        else:
            message.measurements[key].int_value = value
    return message


async def serve(
    telemetry: Telemetry, sampler: Sampler, requests: AsyncIterator[pb.TelemetryControl], context: Any, stopping: asyncio.Event
) -> None:
    """One StreamTelemetry, until its client leaves or the gateway stops."""
    attachment = Attachment()
    telemetry.attach(attachment)
    try:
        with sampler.sampling():
            await context.send_initial_metadata(())
            await _attend(attachment, requests, context, stopping)
    finally:
        telemetry.detach(attachment)
    await stopping.wait()  # or until gRPC ends it, at its deadline


async def _attend(attachment: Attachment, requests: AsyncIterator[pb.TelemetryControl], context: Any, stopping: asyncio.Event) -> None:
    """Sends and obeys, until shortly before the deadline."""
    begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    stopped = asyncio.ensure_future(stopping.wait())
    sender = asyncio.ensure_future(_send(attachment, begun, context))
    controls = asyncio.ensure_future(_obey(requests, attachment, begun))
    left: float | None = context.time_remaining()
    try:
        useful = None if left is None else max(0.0, left - LAST_SECONDS)
        await asyncio.wait({stopped, sender}, timeout=useful, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopped, sender, controls):
            task.cancel()
            task.add_done_callback(_ended)


async def _send(attachment: Attachment, begun: asyncio.Future[None], context: Any) -> None:
    # The first control may be a filter, which should hold for what has waited here too.
    await asyncio.wait({begun}, timeout=FIRST_CONTROL_SECONDS)
    await attachment.send(context.write)


async def _obey(requests: AsyncIterator[pb.TelemetryControl], attachment: Attachment, begun: asyncio.Future[None]) -> None:
    try:
        async for control in requests:
            attachment.control(control)
            if not begun.done():
                begun.set_result(None)
    finally:
        if not begun.done():
            begun.set_result(None)


def _ended(task: asyncio.Future[Any]) -> None:
    """The RPC that a task belongs to ends in many ways, which gRPC tells the client."""
    if not task.cancelled() and task.exception() is not None:
        log.info("a telemetry stream ended: %r", task.exception())
