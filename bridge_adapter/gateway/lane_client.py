"""The gateway's side of the lane: asyncio connections to one executor, one request at a time on each, and one control connection.

A connection goes back to the pool when its answer arrives, not when its caller stops waiting: until then its thread in the executor is
busy. What callers abandon is cancelled over the control connection until it is answered.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgpack

from bridge_adapter import lane
from bridge_adapter.codec import LimitExceeded

CREDIT = 256
IDLE_SECONDS = 30.0
_FIRST_REPEAT = 0.25
_LAST_REPEAT = 4.0
_CLOCK = 0.01
_LARGE = 64 * 1024
_LENGTH = struct.Struct(">I")
_HELLO_ID = 0

# What the executor asks of its client: the name of a request and its params. Raises LaneError.
Ask = Callable[[str, dict[str, Any]], Awaitable[Any]]


log = logging.getLogger("bridge_adapter.gateway")


class LaneError(Exception):
    """An error answer; `fields` is the error map of docs/wire.md section 2.5."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(f"{fields.get('category')}: {fields.get('message')}")
        self.fields = fields


class LaneLost(ConnectionError):
    """The connection ended while a request waited for its answer: what became of the request is unknown."""


class NotSent(ConnectionError):
    """No connection could be made: the request has not reached the executor."""


class Connection(asyncio.BufferedProtocol):
    """One connection to the executor, from hello to its loss."""

    def __init__(self, pool: Lane) -> None:
        self.conn = 0
        self.max_frame = lane.HELLO_FRAME
        self._pool = pool
        self._frames = lane.Frames(lane.HELLO_FRAME)
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._streams: dict[int, Stream] = {}
        self._asked: dict[int, asyncio.Task[None]] = {}  # requests of the executor that we are answering
        self.outcomes: dict[int, list[Any]] = {}  # of requests with a key: how their answers came about
        self.began = 0.0  # when the request in flight was made
        self.abandoned = False  # nobody waits for its answer
        self._packer = msgpack.Packer(unicode_errors="surrogatepass")
        self._transport: asyncio.Transport | None = None
        self._goodbye = ""

    async def greet(self, token: str, role: str) -> None:
        """Says hello. Raises LaneError when the executor refuses, LaneLost when it goes away."""
        hello = {"versions": [lane.VERSION], "token": token, "role": role, "client": "gateway", "texts": True}
        welcome = await self._ask(_HELLO_ID, "hello", hello)
        self.conn = welcome["conn"]
        self.max_frame = self._frames.max_frame = welcome["max_frame"]

    def request(self, method: str, params: dict[str, Any], stream: Stream | None = None) -> tuple[int, asyncio.Future[Any]]:
        """Sends a request; its future gets the result, a LaneError or LaneLost. Raises LaneError for one larger than the executor takes."""
        id = next(self._ids)
        self.began, self.abandoned = asyncio.get_running_loop().time(), False
        return id, self._ask(id, method, params, stream)

    def _ask(self, id: int, method: str, params: dict[str, Any], stream: Stream | None = None) -> asyncio.Future[Any]:
        self._send([lane.REQUEST, id, method, params])
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[id] = answer
        if stream is not None:
            self._streams[id] = stream
        return answer

    def notify(self, name: str, params: list[Any]) -> None:
        self._send([lane.NOTIFICATION, name, params])

    def waits_for(self, id: int) -> bool:
        """True until the request of that id is answered."""
        return id in self._answers

    @property
    def busy(self) -> bool:
        return bool(self._answers and self.conn)

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _send(self, message: list[Any]) -> None:
        parts = lane.parts(message) if _is_large(message) else [self._packer.pack(message)]
        size = sum(map(len, parts))
        if size > self.max_frame and self.conn:
            raise LaneError(
                {
                    "category": "limit_exceeded",
                    "type": "LimitExceeded",
                    "message": f"the request has {size} bytes, more than max_frame = {self.max_frame}; "
                    "send it in parts or raise BRIDGE_ADAPTER_MAX_FRAME",
                }
            )
        if self._transport is None:
            raise NotSent("the connection to the executor is closed")
        parts[0] = _LENGTH.pack(size) + parts[0]
        for part in parts:
            self._transport.write(part)

    # --- asyncio.BufferedProtocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._frames.space()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            bodies = self._frames.took(nbytes)
        except LimitExceeded as error:
            self._goodbye = str(error)
            self.close()
            return
        for body in bodies:
            self._take(body)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        reason = self._goodbye or (str(error) if error is not None else "the executor closed the connection")
        answers, self._answers = self._answers, {}
        self._streams.clear()
        self._drop_asked()
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(LaneLost(reason))
        self._pool.lost(self)

    def _take(self, body: memoryview) -> None:
        message = msgpack.unpackb(body, strict_map_key=False, unicode_errors="replace")
        kind = message[0]
        if kind == lane.RESPONSE:
            if len(message) > 4:
                self.outcomes[message[1]] = message[4]
            self._answered(message[1], message[2], message[3])
        elif kind == lane.NOTIFICATION:
            if message[1] == "items":
                id, items = message[2]
                stream = self._streams.get(id)
                if stream is not None:
                    stream.arrived(items)
        elif kind == lane.REQUEST:
            id, name, params = message[1], message[2], message[3]
            self._asked[id] = asyncio.ensure_future(self._answer_executor(id, name, params))

    async def _answer_executor(self, id: int, name: str, params: dict[str, Any]) -> None:
        try:
            try:
                self._send([lane.RESPONSE, id, None, await self._pool.ask(name, params)])
            except LaneError as error:
                self._send([lane.RESPONSE, id, error.fields, None])
            except ConnectionError:
                raise
            except Exception as error:  # whatever it is, Python waits for an answer
                log.exception("the request %s of Python could not be answered", name)
                self._send([lane.RESPONSE, id, {"category": "callback_error", "type": "RuntimeError", "message": repr(error)}, None])
        except NotSent:
            return  # the executor is gone, and with it who asked
        finally:
            self._asked.pop(id, None)

    def _drop_asked(self) -> None:
        """Who asked does not wait any more."""
        for task in list(self._asked.values()):
            task.cancel()

    def _answered(self, id: int, error: Any, result: Any) -> None:
        answer = self._answers.pop(id, None)
        self._streams.pop(id, None)
        if self._asked and self is not self._pool.control:
            self._drop_asked()
        if answer is None:
            # The executor gives up on this connection and says why before it closes it.
            self._goodbye = str(error.get("message")) if isinstance(error, dict) else ""
            return
        if not answer.done():
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(LaneError(error))
        if id != _HELLO_ID:
            self._pool.answered(self)


def _is_large(message: list[Any]) -> bool:
    """True for a call with a large parameter, or an answer with a large result."""
    body = message[-1]
    if type(body) is not dict:
        return type(body) is bytes and len(body) >= _LARGE
    return any(len(value) >= _LARGE for name in ("payload", "binary") if name in body for value in body[name].values())


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

    def __init__(self, path: str, token: str, limit: int, ask: Ask, kill_after: float = 0.0) -> None:
        self.ask = ask
        self._kill_after = kill_after
        self._path = path
        self._token = token
        self._limit = limit
        self._free: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening = 0
        self._waiting: deque[asyncio.Future[Connection]] = deque()
        self._spare = 0
        self.control: Connection | None = None
        self.down: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.served = False  # it was given a call
        self._pong: asyncio.Future[Any] | None = None
        self.stuck: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # why the executor should be ended

    async def open(self) -> None:
        """Connects the control connection. Raises OSError or LaneError."""
        self.control = await self._connect("control")
        self._later(IDLE_SECONDS, self._shrink)

    async def call(self, params: dict[str, Any]) -> Any:
        """The result of a call. Raises LaneError, LaneLost or NotSent; cancelling the caller cancels the call in the executor."""
        connection = await self._checkout()
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
        connection = await self._checkout()
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

    def ping(self) -> None:
        """Makes the executor answer on the control connection, or lose it."""
        if self.control is not None and self.control.usable:
            self.control.request("ping", {})[1].add_done_callback(_seen)

    def collections(self) -> asyncio.Future[Any]:
        """What the executor's garbage collector has done, under "gc". Raises NotSent."""
        if self.control is None:
            raise NotSent("the connection to the executor is closed")
        return self.control.request("stats", {"gc": True})[1]

    def close(self) -> None:
        """Closes every connection; requests in flight get LaneLost."""
        for connection in list(self._all):
            connection.close()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(NotSent("the executor is gone"))
        self._waiting.clear()

    async def _checkout(self) -> Connection:
        if any(connection.abandoned and connection.busy for connection in self._all):
            await self._until_it_answers()
        self.served = True
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
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.answered(waiter.result())
            raise

    async def _until_it_answers(self) -> None:
        """Waits until the executor answers: an abandoned call may hold it up until it is ended for that, and would take along what was
        sent meanwhile. Raises NotSent when the executor is gone."""
        if self.control is None or not self.control.usable:
            raise NotSent("the executor is gone")
        if self._pong is None or self._pong.done():
            self._pong = self.control.request("ping", {})[1]
            self._pong.add_done_callback(_seen)
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
