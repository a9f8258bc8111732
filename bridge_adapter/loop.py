"""The event loop of the worker: coroutines and async generators of user code run here, all on one loop, so that what one call
made (a client, a lock) is usable in the next."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from bridge_adapter import calls
from bridge_adapter.errors import CallCancelled

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future


class EventLoop:
    """Starts its thread, and imports asyncio, when the first coroutine comes."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.blocked = 0  # callbacks that hold up the loop right now

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Waits for a coroutine; a cancelled call cancels it."""
        import asyncio

        loop = self._started()
        if self.blocked or threading.current_thread() is self._thread:
            # The loop waits in a callback that called back into Python: only another loop can serve this.
            return _run_elsewhere(coroutine)
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        call = calls.running()
        if call is None:
            return future.result()
        with call.while_waiting(lambda: _cancel(future)):
            try:
                return future.result()
            except (asyncio.CancelledError, asyncio.InvalidStateError):
                if call.reason is not None:
                    raise CallCancelled from None
                raise

    def on_loop(self) -> bool:
        """True on the loop's own thread."""
        return threading.current_thread() is self._thread

    def iterate(self, source: Any) -> Iterator[Any]:
        """An async iterator as a plain one; closing the one closes the other."""
        iterator = source.__aiter__()
        try:
            while True:
                try:
                    yield self.run(_next(iterator))
                except StopAsyncIteration:
                    return
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                self.run(_await(close()))

    def _started(self) -> asyncio.AbstractEventLoop:
        import asyncio

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="event loop", daemon=True)
                self._thread.start()
            return self._loop


def _cancel(future: Future[Any]) -> None:
    future.cancel()


async def _next(iterator: Any) -> Any:
    return await iterator.__anext__()


async def _await(awaitable: Any) -> Any:
    return await awaitable


def _run_elsewhere(coroutine: Coroutine[Any, Any, Any]) -> Any:
    import asyncio

    outcome: list[Any] = []

    def serve() -> None:
        try:
            outcome.append((asyncio.run(coroutine), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=serve, name="nested event loop", daemon=True)
    thread.start()
    thread.join()
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def settle(value: Any, loop: EventLoop) -> Any:
    """The value itself, or what an awaitable (coroutine, future, task) comes to."""
    kind = type(value)
    if kind.__module__ == "builtins" and not inspect.iscoroutine(value):
        return value
    if inspect.iscoroutine(value):
        return loop.run(value)
    if hasattr(kind, "__await__") and not hasattr(kind, "__next__"):
        return loop.run(_await(value))
    return value
