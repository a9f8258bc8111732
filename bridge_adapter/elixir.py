"""For user code that wants to talk to Elixir by itself: at any time, from any thread or coroutine, also between calls.

from bridge_adapter import elixir

elixir.send(pid, {"progress": 0.5})          # a plain message to a process
elixir.call(callback, 1, 2, timeout=5.0)     # calls an Elixir function that was passed here, and waits for its result
elixir.connected()
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from bridge_adapter import calls, errors, lane
from bridge_adapter.callbacks import Callback
from bridge_adapter.codec import LimitExceeded, OpaqueTerm
from bridge_adapter.codec.packed import Packer
from bridge_adapter.letters import Backlog, Letters, NotConnected

if TYPE_CHECKING:
    from bridge_adapter.dispatch import Dispatcher

__all__ = ["Backlog", "NotConnected", "call", "connected", "send"]

_dispatcher: Dispatcher | None = None
_pid = 0


def bind(dispatcher: Dispatcher) -> None:
    """Makes this process a worker's: called once, by the executor."""
    global _dispatcher, _pid
    _dispatcher, _pid = dispatcher, os.getpid()


def send(to: Any, message: Any) -> None:
    """Sends a message to a process of Elixir: `handle_info/2` of a GenServer gets it, or `receive`.

    `to` is a pid (or an alias) that Elixir passed, the name of a registered process as atom or text ("my_server", "MyApp.Server"), or a
    tuple such as `{name, node}` or `{:via, Registry, ...}` that Elixir passed. `message` is any value that can be an argument of a call.

    Never waits for the process. As in Elixir, a message to a process that has ended is lost without a word; so is one to a name that nobody
    has, which Elixir's log tells. What one thread sends arrives in that order; what a call sends has arrived when the call returns.

    Raises TypeError when `to` is none of these, NotConnected when no Elixir client takes messages, Backlog when it does not take them as
    fast as they come, and what encoding raises. Behind Snakepit there is no way to send: pass a function, and call it.
    """
    _check_target(to)
    dispatcher, letters = _letters()
    running = calls.running()
    body = _encoded(dispatcher, to, message)
    if running is None:
        letters.post(body)
        return
    connection = running.connection
    with running.shielded():
        if getattr(connection, "letters", None) is None or connection.streams(running):
            letters.post(body)
        else:
            # On the call's own way, the message is there before the answer is.
            if running.spool is not None:
                running.spool.flush(wait=True)
            try:
                connection.socket.send(body)
            except OSError as error:
                raise NotConnected(f"the Elixir client has gone: {error}") from None


def call(function: Any, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
    """Calls an Elixir function and returns its result: from any thread, as long as Python holds it, also after the call that brought it.

    The process that passed the function must live, or it is gone. In a coroutine this holds up the event loop; `await function.aio(...)`
    does not. Raises NoAnswer, a TimeoutError, after `timeout` seconds, CallbackError when the function raised, CallbackGone when it is no
    more or nobody is connected, and TypeError when it takes another number of arguments.
    """
    if not isinstance(function, Callback):
        raise TypeError(f"elixir.call needs a function that Elixir passed, not {type(function).__name__}; call others by themselves")
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout is a number of seconds >= 0 or None, not {timeout!r}")
    return function.ask(args, kwargs, timeout)


def connected() -> bool:
    """True when an Elixir client is there that takes messages."""
    try:
        _letters()
    except errors.Unavailable:
        return False
    return True


def _letters() -> tuple[Dispatcher, Letters]:
    if _dispatcher is None:
        raise NotConnected("this process is no Python worker of SnakeBridge's own pool; messages can only be sent from one")
    if _pid != os.getpid():
        raise NotConnected("messages cannot be sent from a process that Python code has forked; send them from the worker")
    controls = _dispatcher.callbacks.controls
    for control in reversed(controls):
        if control.letters is not None:
            return _dispatcher, control.letters
    if controls:
        raise NotConnected(
            "messages cannot be sent through Snakepit, which only lets Python call functions; "
            "pass a function that sends and call it: fn message -> send(pid, message) end"
        )
    raise NotConnected("no Elixir client is connected to this worker; try again when elixir.connected() is true")


def _check_target(to: Any) -> None:
    if isinstance(to, OpaqueTerm):
        if to.kind in ("pid", "reference"):
            return
        got = f"an opaque {to.kind}"
    elif (isinstance(to, str) and to) or (isinstance(to, tuple) and len(to) in {2, 3} and isinstance(to[0], str)):
        return
    else:
        got = f"{type(to).__name__} {str(to)[:40]!r}"
    raise TypeError(f"elixir.send needs a pid that Elixir passed, or the name of a registered process, not {got}; pass self() from Elixir")


def _encoded(dispatcher: Dispatcher, to: Any, message: Any) -> bytes:
    from bridge_adapter.context import Context
    from bridge_adapter.request import PACKED, Request

    call = calls.current()
    body = lane.notification("message", [to, message])
    if call is None or call.session is None or call.session.closed:
        data = Packer(_NoSession(), dispatcher.limits).pack(body)
    else:
        context = Context(dispatcher, call.session, Request(call, "bridge_adapter.elixir.send", {}))
        data = dispatcher.encode_value(body, PACKED, Packer(None, dispatcher.limits), context)
    if len(data) > dispatcher.limits.frame:
        raise LimitExceeded(
            f"the message has {len(data)} bytes, more than max_frame = {dispatcher.limits.frame}; send it in parts or raise max_frame"
        )
    return data


class _NoSession:
    """What becomes of objects in a message that no call sends: there is no session in which Elixir could use them."""

    def resolve(self, ref: Any) -> Any:
        return ref

    def callback(self, ref: Any) -> Any:
        return ref

    def opaque(self, value: Any) -> Any:
        if isinstance(value, Callback):
            return value.ref
        raise errors.Unavailable(
            f"a {type(value).__name__} cannot be sent between calls, because no session would hold it for Elixir; "
            "send data, or send it in a call"
        )
