"""The order of calls: those of one session go to the executor one after the other, as they came.

Each call travels on a connection of its own, so only here is it known which came first. And a call that waits here has not begun: when
the executor dies, it goes to the next one as if nothing had been. One that could not begin before its deadline is refused before it waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from bridge_adapter.gateway.refusals import in_vain, overloaded
from bridge_adapter.pace import Pace


class _Queue:
    """Those that wait for one session, and how long each turn takes."""

    __slots__ = ("gates", "pace", "since")

    def __init__(self) -> None:
        self.gates: deque[asyncio.Future[None]] = deque()
        self.pace = Pace()
        self.since = time.monotonic()

    def pass_on(self) -> bool:
        """Gives the turn to the next one. False when there is none."""
        now = time.monotonic()
        self.pace.took(now - self.since)
        self.since = now
        while self.gates:
            gate = self.gates.popleft()
            if not gate.done():
                gate.set_result(None)
                return True
        return False


class Turns:
    """The queues of all sessions. Belongs to the event loop's thread."""

    def __init__(self, max_queue: int = 1024) -> None:
        self._max_queue = max_queue  # calls of one session that may wait
        self._queues: dict[str, _Queue] = {}  # a session is in it while one of its calls has its turn
        self._asking: dict[str, list[object]] = {}  # session -> the executors in which its code waits for Elixir

    def of(self, session: str, left: float | None = None) -> Turn:
        """The turn of one call that has so many seconds left: use it as an async context manager, or leave it earlier by `leave`.

        Entering it raises LaneError (`overloaded`) when too many wait already, or for longer than this one can.
        """
        return Turn(self, session, left)

    def waits_for_elixir(self, session: str) -> bool:
        """True while the session's code waits for Elixir."""
        return session in self._asking

    def asker(self, session: str) -> object | None:
        """The executor in which the session's code waits for Elixir: the one that asked last."""
        asking = self._asking.get(session)
        return asking[-1] if asking else None

    @contextmanager
    def asking(self, session: str, executor: object) -> Iterator[None]:
        """Context in which the session's code waits for Elixir: calls that come now may be what it waits for, and do not queue."""
        asking = self._asking.setdefault(session, [])
        asking.append(executor)
        try:
            yield
        finally:
            asking.remove(executor)
            if not asking:
                del self._asking[session]


class Turn:
    """One call's place in the queue of its session."""

    __slots__ = ("_held", "_left", "_session", "_turns")

    def __init__(self, turns: Turns, session: str, left: float | None) -> None:
        self._turns = turns
        self._session = session
        self._left = left
        self._held = False

    async def __aenter__(self) -> Turn:
        turns, session = self._turns, self._session
        if session in turns._asking:
            return self
        queue = turns._queues.get(session)
        if queue is None:
            turns._queues[session] = _Queue()
        else:
            await self._wait(queue)
        self._held = True
        return self

    async def _wait(self, queue: _Queue) -> None:
        gates, pace, what = queue.gates, queue.pace, f"their turn in the session {self._session[:80]!r}"
        ahead = len(gates)
        if ahead >= self._turns._max_queue:
            raise overloaded(what, self._turns._max_queue, pace.pause_ms(ahead))
        if self._left is not None and (wait := pace.in_vain(ahead, self._left)) is not None:
            raise in_vain(what, ahead, wait, self._left, pace.pause_ms(ahead))
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gates.append(gate)
        try:
            await gate
        except asyncio.CancelledError:
            if gate.cancelled() and gate in gates:
                gates.remove(gate)  # those that stand there are counted
            elif gate.done() and not gate.cancelled():
                self._held = True  # it had its turn in the moment in which nobody wanted it any more
                self.leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Lets the next call go on."""
        if not self._held:
            return
        self._held = False
        if not self._turns._queues[self._session].pass_on():
            del self._turns._queues[self._session]
