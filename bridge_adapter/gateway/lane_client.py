"""The gateway's side of the lane: asyncio connections to one executor, one request at a time on each, and one control connection.

A connection goes back to the pool when its answer arrives, not when its caller stops waiting: until then its thread in the executor is
busy. What callers abandon is cancelled over the control connection until it is answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from bridge_adapter.gateway.lane_connection import Connection, LaneError, LaneLost, NotSent
from bridge_adapter.gateway.refusals import in_vain, late, overloaded
from bridge_adapter.pace import Pace

__all__ = ["Ask", "Connection", "Lane", "LaneError", "LaneLost", "NotSent", "Stream"]

CREDIT = 256
IDLE_SECONDS = 30.0
_FIRST_REPEAT = 0.25
_LAST_REPEAT = 4.0
_CLOCK = 0.01
_A_CONNECTION = "a connection to the Python worker"

# What the executor asks of its client: the name of a request and its params. Raises LaneError.
Ask = Callable[[str, dict[str, Any]], Awaitable[Any]]


class Stream:
    """The items of one stream, in batches as they arrive. The executor sends no more than it was given credit for."""

    def __init__(self, pool: Lane, connection: Connection, params: dict[str, Any]) -> None:
        self._pool = pool
        self._connection = connection
        self._items: list[bytes] = []
        self._wake: asyncio.Future[None] | None = None
        self._taken = 0
        self._id, self._answer = connection.request("stream", {**params, "credit": CREDIT}, self)
        self._answer.add_done_callback(self._nudge)

    def arrived(self, items: list[bytes]) -> None:
        self._items += items
        self._nudge()

    def _nudge(self, _: object = None) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def next(self) -> list[bytes] | None:
        """The items that have arrived, at least one; None at the end. Raises LaneError or LaneLost."""
        while not self._items:
            if self._answer.done():
                self._answer.result()
                return None
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        items, self._items = self._items, []
        return items

    def consumed(self, count: int) -> None:
        """Gives credit for items that the client has taken."""
        self._taken += count
        if self._taken >= CREDIT // 2 and not self._answer.done() and self._connection.usable:
            self._connection.notify("credit", [self._id, self._taken])
            self._taken = 0

    def close(self) -> None:
        """Ends the stream; one that still runs is halted, so that its generator is closed."""
        if self._answer.done():
            _seen(self._answer)
            return
        self._answer.cancel()
        self._pool.interrupt(self._connection, self._id, "halted")


class Lane:
    """The connections to one executor: grown on demand, at most `limit`, shrunk when idle."""

    def __init__(self, path: str, token: str, limit: int, ask: Ask, *, kill_after: float = 0.0, max_queue: int = 1024) -> None:
        self.ask = ask
        self._max_queue = max_queue
        self._kill_after = kill_after
        self._path = path
        self._token = token
        self._limit = limit
        self._free: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening = 0
        self._waiting: deque[asyncio.Future[Connection]] = deque()
        self._pace = Pace()  # of those who wait
        self._since = 0.0  # when one of them had a connection last, or the first one came
        self._spare = 0
        self.control: Connection | None = None
        self.down: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.served = 0  # calls that it was given
        self._pong: asyncio.Future[Any] | None = None
        self.stuck: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # why the executor should be ended

    async def open(self) -> None:
        """Connects the control connection. Raises OSError or LaneError."""
        self.control = await self._connect("control")
        self._later(IDLE_SECONDS, self._shrink)

    async def call(self, params: dict[str, Any]) -> Any:
        """The result of a call. Raises LaneError, LaneLost or NotSent; cancelling the caller cancels the call in the executor."""
        connection = await self._checkout(params)
        try:
            id, answer = connection.request("call", params)
        except LaneError:
            self.answered(connection)
            raise
        try:
            result = await answer
        except asyncio.CancelledError:
            self.interrupt(connection, id, "cancelled")
            raise
        finally:
            outcome = connection.outcomes.pop(id, None)
        if outcome is not None:
            params["outcome"] = outcome
        return result

    async def stream(self, params: dict[str, Any]) -> Stream:
        """Opens a stream. Raises LaneError, LaneLost or NotSent."""
        connection = await self._checkout(params)
        try:
            return Stream(self, connection, params)
        except LaneError:
            self.answered(connection)
            raise

    def interrupt(self, connection: Connection, id: int, reason: str) -> None:
        """Cancels a request that nobody waits for any more, again and again until it is answered."""
        connection.abandoned = True
        self._interrupt(connection, id, reason, asyncio.get_running_loop().time(), _FIRST_REPEAT)

    def _interrupt(self, connection: Connection, id: int, reason: str, since: float, delay: float) -> None:
        # More than once: the first word may come before the request does, and user code may swallow an interruption.
        if self.control is None or not self.control.usable or not connection.waits_for(id):
            return
        unheard = asyncio.get_running_loop().time() - since
        if 0 < self._kill_after <= unheard and not self._may_be_held_up(connection):
            if not self.stuck.done():
                self.stuck.set_result(f"a call that was {reason} could not be interrupted within {unheard:.1f} s")
            return
        self.control.notify("cancel", [connection.conn, id, reason])
        until = self._kill_after - unheard
        # Not less than a loop's clock can tell apart: rounds that take no time would only make the later ones rare.
        wait = min(delay, max(until, _CLOCK)) if until > 0 else delay
        self._later(wait, self._interrupt, connection, id, reason, since, min(delay * 2, _LAST_REPEAT))

    def _may_be_held_up(self, connection: Connection) -> bool:
        """True while an older call is running whose caller still waits: it may be the one that keeps Python from answering."""
        return any(other.busy and not other.abandoned and other.began < connection.began for other in self._all - {self.control})

    def answered(self, connection: Connection) -> None:
        """The connection is free: it goes to the one who waits longest, or back to the pool."""
        if connection is self.control or not connection.usable:
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                now = asyncio.get_running_loop().time()
                self._pace.took(now - self._since)
                self._since = now
                waiter.set_result(connection)
                return
        self._free.append(connection)

    def lost(self, connection: Connection) -> None:
        """The connection is gone. Without its control connection an executor is of no use."""
        self._all.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
            self._spare = min(self._spare, len(self._free))
        if connection is self.control and not self.down.done():
            self.down.set_result(None)
        self._invite()

    def cancel_all(self, reason: str) -> None:
        """Interrupts every request in flight; who made it still waits for the answer."""
        for connection in self._all - {self.control}:
            for id in connection.in_flight():
                self._interrupt(connection, id, reason, asyncio.get_running_loop().time(), _FIRST_REPEAT)

    def ping(self) -> asyncio.Future[Any]:
        """Makes the executor answer on the control connection, or lose it. Raises NotSent."""
        return self._control("ping", {})

    def collections(self) -> asyncio.Future[Any]:
        """What the executor's garbage collector has done, under "gc". Raises NotSent."""
        return self._control("stats", {"gc": True})

    def stats(self) -> asyncio.Future[Any]:
        """What the executor is doing: its refs, sessions, memory. Raises NotSent."""
        return self._control("stats", {})

    def _control(self, name: str, params: dict[str, Any]) -> asyncio.Future[Any]:
        if self.control is None or not self.control.usable:
            raise NotSent("the connection to the executor is closed")
        answer = self.control.request(name, params)[1]
        answer.add_done_callback(_seen)
        return answer

    def close(self) -> None:
        """Closes every connection; requests in flight get LaneLost."""
        for connection in list(self._all):
            connection.close()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(NotSent("the executor is gone"))
        self._waiting.clear()

    async def _checkout(self, params: dict[str, Any]) -> Connection:
        """A connection for a call with these params. Raises LaneError where there is none for it in its time."""
        if any(connection.abandoned and connection.busy for connection in self._all):
            await self._until_it_answers()
        self.served += 1
        if self._free:
            connection = self._free.pop()
            self._spare = min(self._spare, len(self._free))
            return connection
        if len(self._all) + self._opening <= self._limit:  # the control connection is in _all, and does not count
            try:
                return await self._connect("call")
            except BaseException:
                self._invite()
                raise
        return await self._next_free(params)

    async def _next_free(self, params: dict[str, Any]) -> Connection:
        """The next connection whose request is answered; what is left for the call is in its params then."""
        ahead, pace, timeout, began = len(self._waiting), self._pace, params.get("timeout_ms"), asyncio.get_running_loop().time()
        if ahead >= self._max_queue:
            raise overloaded(_A_CONNECTION, self._max_queue, pace.pause_ms(ahead))
        if timeout is not None and (wait := pace.in_vain(ahead, timeout / 1000)) is not None:
            raise in_vain(_A_CONNECTION, ahead, wait, timeout / 1000, pace.pause_ms(ahead))
        if not ahead:
            self._since = began
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            connection = await waiter
        except asyncio.CancelledError:
            if waiter.cancelled() and waiter in self._waiting:
                self._waiting.remove(waiter)  # those that stand there are counted
            elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.answered(waiter.result())
            raise
        if timeout is not None:
            params["timeout_ms"] = timeout - int((asyncio.get_running_loop().time() - began) * 1000)
            if params["timeout_ms"] <= 0:
                self.answered(connection)
                raise late()
        return connection

    async def _until_it_answers(self) -> None:
        """Waits until the executor answers: an abandoned call may hold it up until it is ended for that, and would take along what was
        sent meanwhile. Raises NotSent when the executor is gone."""
        if self._pong is None or self._pong.done():
            self._pong = self.ping()
        pong = self._pong
        await asyncio.wait({pong})
        if pong.cancelled() or pong.exception() is not None:
            raise NotSent("the executor is gone")

    def _invite(self) -> None:
        """There is room for a connection again: the one who waits longest may open it."""
        while self._waiting and not self.down.done():
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(NotSent("a connection to the executor was lost"))
                return

    async def _connect(self, role: str) -> Connection:
        self._opening += 1
        connection = Connection(self)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: connection, self._path)
            self._all.add(connection)
            # No time limit of its own: user code may hold the GIL, and the caller knows how long it wants to wait.
            await connection.greet(self._token, role)
        except OSError as error:
            connection.close()
            raise NotSent(f"cannot connect to the executor: {error}") from error
        except BaseException:
            connection.close()
            raise
        finally:
            self._opening -= 1
        return connection

    def _shrink(self) -> None:
        """Closes the connections that nobody needed since the last look."""
        for _ in range(min(self._spare, len(self._free) - 1)):
            self._free.pop(0).close()
        self._spare = len(self._free)
        self._later(IDLE_SECONDS, self._shrink)

    def _later(self, seconds: float, action: Any, *arguments: Any) -> None:
        if not self.down.done():
            asyncio.get_running_loop().call_later(seconds, action, *arguments)


def _seen(answer: asyncio.Future[Any]) -> None:
    """Whatever became of it: asyncio must not complain that nobody looked."""
    if not answer.cancelled():
        answer.exception()
