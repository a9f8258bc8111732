"""The event loop of the worker: coroutines and async generators of user code run here, all on one loop, so that what one call
made (a client, a lock) is usable in the next."""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import threading
from _thread import allocate_lock
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from bridge_adapter import calls
from bridge_adapter.errors import CallCancelled

if TYPE_CHECKING:
    import asyncio


class EventLoop:
    """Starts its thread, and imports asyncio, when the first coroutine comes."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.blocked = 0  # callbacks that hold up the loop right now

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Waits for a coroutine; a cancelled call cancels it."""
        call = calls.running()
        if call is None or self._is_held_up():
            return self._finish(coroutine)
        with call.shielded():  # torn apart in here, the coroutine would go on without its call
            waiter = _Waiter(coroutine, self._started())
            with call.while_waiting(waiter.cancel):
                waiter.wait()
            if call.reason is not None:
                raise CallCancelled
            return waiter.result()

    def _finish(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Waits for a coroutine that nothing cancels."""
        if self._is_held_up():
            return _run_elsewhere(coroutine)
        waiter = _Waiter(coroutine, self._started())
        waiter.wait()
        return waiter.result()

    def _is_held_up(self) -> bool:
        """True when the loop waits in a callback that called back into Python: only another loop can serve what comes now."""
        return self.blocked > 0 or self.on_loop()

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
                call = calls.running()
                with call.shielded() if call is not None else contextlib.nullcontext():
                    self._finish(_await(close()))  # also when the call is cancelled: that is why it closes

    def _started(self) -> asyncio.AbstractEventLoop:
        import asyncio

        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_serve, args=(loop,), name="event loop", daemon=True)
                thread.start()  # if the system allows one; if not, the next coroutine tries again
                self._loop, self._thread = loop, thread
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()


class _Waiter:
    """A thread that waits for a coroutine on the loop. Cancelling waits for the coroutine's own cleanup."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        self._coroutine = coroutine
        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        self._done = allocate_lock()
        self._done.acquire()
        loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # has been looked at: who waits may be interrupted before it does, and asyncio would tell anybody
        self._done.release()

    def cancel(self) -> None:
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def wait(self) -> None:
        self._done.acquire()

    def result(self) -> Any:
        assert self._task is not None
        return self._task.result()


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

    thread = threading.Thread(target=contextvars.copy_context().run, args=(serve,), name="nested event loop", daemon=True)
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
