"""Elixir functions as Python callables. One object per function, so that Elixir hears when Python has dropped it."""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from bridge_adapter import calls
from bridge_adapter.codec import CallbackRef
from bridge_adapter.errors import CallbackError, CallbackGone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bridge_adapter.calls import Call, CallTable
    from bridge_adapter.lane import LaneSocket
    from bridge_adapter.letters import Letters
    from bridge_adapter.loop import EventLoop


class CallbackChannel(Protocol):
    """A connection on which Python can ask Elixir."""

    speaks: bool
    letters: Letters | None
    socket: LaneSocket

    def ask(self, params: dict[str, Any], call: Call | None, session: str, timeout: float | None = None) -> Any:
        """Sends a `callback` request and waits for its answer, at most `timeout` seconds (then it raises NoAnswer)."""


class Callback:
    """An Elixir function. Callable from any thread; from the thread of a call it nests on that call's connection.

    In a coroutine `function(...)` holds up the event loop until Elixir has answered, `await function.aio(...)` does not.
    """

    __name__ = "elixir_function"

    def __init__(self, hub: CallbackHub, ref: CallbackRef) -> None:
        self.ref = ref
        self._hub = hub
        self.carrier: Call | None = None
        self.session = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.ask(args, kwargs)

    def ask(self, args: Sequence[Any], kwargs: dict[str, Any], timeout: float | None = None) -> Any:
        """The same with a limit in seconds: raises NoAnswer, a TimeoutError, when Elixir takes longer."""
        given = len(args) + (1 if kwargs else 0)
        if given != self.ref.arity:
            extra = ", the keyword arguments counting as one" if kwargs else ""
            raise TypeError(f"Callback expected arity {self.ref.arity}, got {given}{extra}")
        return self._hub.call(self, list(args), kwargs, timeout)

    async def aio(self, *args: Any, **kwargs: Any) -> Any:
        """The same for coroutines: the event loop goes on with other work meanwhile."""
        import asyncio

        return await asyncio.to_thread(self, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<Elixir function {self.ref.id}/{self.ref.arity} of {self.ref.owner or 'unknown'}>"


class CallbackHub:
    """All callables that Elixir functions have become, and the way to call them."""

    def __init__(self, loop: EventLoop, open_calls: CallTable) -> None:
        self._loop = loop
        self._open_calls = open_calls
        self._known: weakref.WeakValueDictionary[str, Callback] = weakref.WeakValueDictionary()
        self.controls: list[CallbackChannel] = []
        self.released: deque[str] = deque()

    def callable(self, ref: CallbackRef) -> Callback:
        """The callable of a function: the same object while anybody holds it."""
        callback = self._known.get(ref.id)
        if callback is None:
            callback = self._known[ref.id] = Callback(self, ref)
            weakref.finalize(callback, self.released.append, ref.id)
        return callback

    def carried(self, callback: Callback, call: Call, session: str) -> None:
        """Notes which call brought a function: from other threads it runs on that call's behalf."""
        callback.carrier = call
        callback.session = session

    def call(self, callback: Callback, args: list[Any], kwargs: dict[str, Any], timeout: float | None = None) -> Any:
        params: dict[str, Any] = {"callback": callback.ref.id, "args": args, "kwargs": kwargs}
        running = calls.running()
        if running is not None and running.connection is not None:
            session = running.session.id if running.session is not None else callback.session
            return running.connection.ask(params, running, session, timeout)
        if not self.controls:
            raise CallbackGone(
                f"the Elixir function {callback.ref.id} cannot be called from this thread: its client has no control connection open"
            )
        # A call that has ended, perhaps by its deadline, has no say in what happens now.
        carrier = callback.carrier if callback.carrier is not None and self._open_calls.holds(callback.carrier) else None
        if not self._loop.on_loop():
            return self.controls[-1].ask(params, carrier, callback.session, timeout)
        self._loop.blocked += 1
        try:
            return self.controls[-1].ask(params, carrier, callback.session, timeout)
        finally:
            self._loop.blocked -= 1

    def take_released(self) -> list[str]:
        """Ids of functions that Python has dropped since the last time."""
        dropped = []
        with contextlib.suppress(IndexError):  # connections take side by side, each what it gets
            while True:
                dropped.append(self.released.popleft())
        return dropped


def unreadable(error: Exception) -> CallbackError:
    """The exception for an answer of Elixir that cannot be decoded."""
    return CallbackError(f"what the Elixir function returned cannot be read here: {error}")


def error_from(error: Any) -> CallbackError:
    """The exception for an error answer of Elixir."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    kind = CallbackGone if fields.get("category") == "callback_gone" else CallbackError
    return kind(str(fields.get("message", "the Elixir function failed")), type=fields.get("type"))
