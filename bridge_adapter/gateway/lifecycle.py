"""The states of a gateway: starting, running, draining, stopped. While it drains, new calls are refused with a hint when to come again, and
those that it has are counted until they are done.

A call that Python itself waits for, because an Elixir function that it called makes it, belongs to a call that is running, and is let in.
"""

from __future__ import annotations

import asyncio
import enum
import time
from types import TracebackType
from typing import Any

from bridge_adapter import errors
from bridge_adapter.gateway.lane_client import LaneError
from bridge_adapter.gateway.refusals import refusal


class State(enum.Enum):
    """Where in its life a gateway is."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


class Draining(LaneError):
    """The refusal of a call because the gateway ends. `retry_after_ms`: when there will be another one in its place, as far as it knows."""

    def __init__(self, retry_after_ms: int) -> None:
        message = "this worker is draining before its end and takes no new calls; this one was not begun. Make it again, on another worker"
        super().__init__(refusal(errors.Unavailable(message, retry_after_ms)).fields)
        self.retry_after_ms = retry_after_ms


class Lifecycle:
    """The state and the calls of one gateway. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self.state = State.STARTING
        self.in_flight = 0
        self.ended = 0  # calls that have come to their end since draining began
        self.refused = 0
        self._ends_at = 0.0
        self._idle: asyncio.Future[None] | None = None

    def call(self, *, nested: bool = False) -> _Counted:
        """Context of a call: use it around the whole of it. Entering it raises Draining. `nested`: a running call waits for it."""
        return _Counted(self, nested)

    def drain(self, seconds: float) -> None:
        """From now on new calls are refused. `seconds`: for how long the others may go on."""
        self.state = State.DRAINING
        self.ended = 0
        self._ends_at = time.monotonic() + seconds

    @property
    def draining(self) -> bool:
        return self.state in (State.DRAINING, State.STOPPED)

    async def idle(self, seconds: float, forced: asyncio.Event) -> bool:
        """Waits until no call is running, at most so many seconds, and no longer when it is forced. True when none is."""
        if not self.in_flight:
            return True
        self._idle = asyncio.get_running_loop().create_future()
        force = asyncio.ensure_future(forced.wait())
        either: set[asyncio.Future[Any]] = {self._idle, force}
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        force.cancel()
        self._idle = None
        return not self.in_flight

    def _enter(self, nested: bool) -> None:
        if self.draining and (not nested or self.state is State.STOPPED):
            self.refused += 1
            raise Draining(max(0, int((self._ends_at - time.monotonic()) * 1000)) + 1)
        self.in_flight += 1

    def _leave(self) -> None:
        self.in_flight -= 1
        self.ended += 1
        if not self.in_flight and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)


class _Counted:
    __slots__ = ("_lifecycle", "_nested")

    def __init__(self, lifecycle: Lifecycle, nested: bool) -> None:
        self._lifecycle = lifecycle
        self._nested = nested

    def __enter__(self) -> None:
        self._lifecycle._enter(self._nested)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lifecycle._leave()
