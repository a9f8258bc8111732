"""Elixir functions, asked over one connection: the requests that go out, and the answers that come back.

On a call connection the thread that asks serves the connection until its answer is there, so that calls and callbacks nest; on the control
connection it sleeps, and the connection's own thread hands it the answer.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from _thread import allocate_lock
from typing import TYPE_CHECKING, Any

from bridge_adapter import errors, lane
from bridge_adapter.calls import Call
from bridge_adapter.codec.packed import Packer
from bridge_adapter.context import Context
from bridge_adapter.dispatch import Dispatcher
from bridge_adapter.request import PACKED, Form, Request

if TYPE_CHECKING:
    from bridge_adapter.connection import Connection


class Questions:
    """What Python has asked of Elixir over a connection and waits for."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._ids = itertools.count(1)
        self._answers: dict[int, _Answer] = {}
        self._pid = os.getpid()

    def ask(self, connection: Connection, params: dict[str, Any], call: Call | None, session: str, timeout: float | None) -> Any:
        """Calls an Elixir function over the connection whose questions these are, and waits for its answer."""
        if os.getpid() != self._pid:
            raise errors.CallbackGone("Elixir functions cannot be called in a process that Python code has forked; call them in the worker")
        until = None if timeout is None else time.monotonic() + timeout
        if call is None:
            return self._ask(connection, params, None, session, until)
        with call.waits_for_elixir():
            if call.connection is not connection:
                return self._ask(connection, params, call, session, until)
            with call.shielded():
                if call.spool is not None:
                    call.spool.flush(wait=True)  # what was said before is heard before
                return self._ask(connection, params, call, session, until)

    def _ask(self, connection: Connection, params: dict[str, Any], call: Call | None, session: str, until: float | None) -> Any:
        id = next(self._ids)
        answer = _Answer()
        self._answers[id] = answer
        context = self._context(connection, call, session)
        try:
            connection.socket.send(self._pack_for(connection, call, context, id, {**params, "session": session}))
            if connection.role == "control":
                answer.wait(call, until)
            else:
                assert call is not None
                while not answer.ready:
                    if call.reason is not None:
                        raise errors.CallCancelled
                    connection.serve_one(call, until)
                    if until is not None and not answer.ready and time.monotonic() >= until:
                        raise errors.NoAnswer
        finally:
            self._answers.pop(id, None)
        value = answer.value()
        return self._dispatcher.callback_result(value, context) if connection.texts else value

    def answered(self, id: int, value: Any, error: BaseException | None) -> None:
        """The answer has come. One that nobody waits for any more is let go."""
        answer = self._answers.pop(id, None)
        if answer is not None:
            answer.set(value, error)

    def close(self) -> None:
        """The client is gone: nobody will answer."""
        for answer in list(self._answers.values()):
            answer.set(None, errors.Disconnected("the client closed its control connection before it answered"))

    def _context(self, connection: Connection, call: Call | None, session_id: str) -> Context:
        dispatcher = self._dispatcher
        session = dispatcher.sessions.open(session_id or "default")
        return Context(dispatcher, session, Request(call or Call((connection.id, 0)), "snakebridge.callback", {}))

    def _pack_for(self, connection: Connection, call: Call | None, context: Context, id: int, params: dict[str, Any]) -> bytes:
        """A callback request whose opaque values become refs of the call's session. From a foreign thread it needs a packer of its own."""
        dispatcher = self._dispatcher
        params["call"] = list(call.key) if call is not None else None
        if call is not None and call.caller:
            params["caller"] = call.caller
        if call is not None and call.trace:
            params["trace"] = call.trace
        if connection.texts:
            params["timeout_ms"] = None if call is None or call.deadline is None else max(0, int((call.deadline - time.monotonic()) * 1000))
            args, kwargs = params["args"], params.pop("kwargs")
            params["args"] = dispatcher.encode_value([*args, kwargs] if kwargs else args, Form("tagged"), connection.packer, context)
        packer = connection.packer if connection.role != "control" else Packer(None, dispatcher.limits)
        return dispatcher.encode_value(lane.request(id, "callback", params), PACKED, packer, context)


class _Answer:
    """The answer of Elixir to one callback, across threads."""

    __slots__ = ("_error", "_gate", "_value", "ready")

    def __init__(self) -> None:
        self._gate = allocate_lock()
        self._gate.acquire()
        self._value: Any = None
        self._error: BaseException | None = None
        self.ready = False

    def set(self, value: Any, error: BaseException | None) -> None:
        if not self.ready:
            self._value, self._error, self.ready = value, error, True
            self._gate.release()

    def wait(self, call: Call | None, until: float | None) -> None:
        """Blocks until the answer is there, or the call that carried the function is cancelled. Raises NoAnswer when it is late."""
        if call is None:
            self._acquire(until)
            return
        with call.while_waiting(lambda: self.set(None, call.interruption())):
            self._acquire(until)

    def _acquire(self, until: float | None) -> None:
        if until is None:
            self._gate.acquire()
        elif not self._gate.acquire(timeout=max(0.0, min(until - time.monotonic(), threading.TIMEOUT_MAX))):
            raise errors.NoAnswer

    def value(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value
