"""One connection of the gateway to an executor: frames in and out, one request at a time, and what the executor asks meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from typing import TYPE_CHECKING, Any, cast

import msgpack

from bridge_adapter import lane
from bridge_adapter.codec import LimitExceeded

if TYPE_CHECKING:
    from bridge_adapter.gateway.lane_client import Lane, Stream

_LARGE = 64 * 1024
_LENGTH = struct.Struct(">I")
_HELLO_ID = 0

log = logging.getLogger("bridge_adapter.gateway")


class LaneError(Exception):
    """An error answer; `fields` is the error map of docs/wire.md section 2.5."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(f"{fields.get('category')}: {fields.get('message')}")
        self.fields = fields


class LaneLost(ConnectionError):
    """The connection ended while a request waited for its answer: what became of the request is unknown.

    `explained`: one of the two sides has ended it on purpose, for the reason that the text gives; another one would end in the same way.
    """

    def __init__(self, reason: str, explained: bool = False) -> None:
        super().__init__(reason)
        self.explained = explained


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

    def in_flight(self) -> list[int]:
        """The ids of the requests that wait for an answer."""
        return [id for id in self._answers if id != _HELLO_ID]

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
                answer.set_exception(LaneLost(reason, explained=bool(self._goodbye)))
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
