"""Threads that a call starts: no interruption tears their start apart, and they work on the call's behalf: what they print is the call's,
and `tracing.current_call` knows it there.

Threads of a pool work for whoever gives them work: `ThreadPoolExecutor` is followed task by task, threads of `multiprocessing.pool`
belong to no call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, thread
from functools import partial
from typing import Any

from bridge_adapter import calls
from bridge_adapter.calls import Call
from bridge_adapter.errors import Unavailable

# The code of threads that serve many calls, by module: our own, and workers of pools.
_SHARED = ("bridge_adapter.", "concurrent.futures.thread", "multiprocessing.pool")


def install_start() -> None:
    """Makes the start of a thread something that an interruption waits for.

    Until it runs, Python knows the new thread under the number of the one that starts it, and may interrupt it instead. It ends then before
    it has begun, and whoever starts it waits for ever, with locks that every pool of threads needs.
    """
    start = threading.Thread.start

    def start_whole(self: threading.Thread) -> None:
        call = calls.running()
        if call is None:
            start(self)
        else:
            with call.shielded():
                start(self)

    threading.Thread.start = start_whole  # type: ignore[method-assign]


def begin(thread: threading.Thread) -> None:
    """Starts a thread of ours. Raises Unavailable where the system has no more."""
    try:
        thread.start()
    except RuntimeError as error:
        raise Unavailable(
            f"the system gives this worker no more threads ({error}), and {threading.active_count()} run: "
            "make the call later, use fewer connections and pinned sessions, or raise the limit of processes (ulimit -u, pids.max)",
            1000,
        ) from None


def follow_calls() -> None:
    """From now on, threads and tasks of executors know the call that they were started in."""
    start = threading.Thread.start
    submit = thread.ThreadPoolExecutor.submit

    def start_for_call(self: threading.Thread) -> None:
        call = calls.current()
        if call is not None and not _shared(self) and "run" not in self.__dict__:
            self.run = partial(_run, self, call)  # type: ignore[method-assign]
        start(self)

    def submit_for_call(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        call = calls.current()
        return submit(self, fn, *args, **kwargs) if call is None else submit(self, _work, call, fn, *args, **kwargs)

    threading.Thread.start = start_for_call  # type: ignore[method-assign]
    thread.ThreadPoolExecutor.submit = submit_for_call  # type: ignore[method-assign]


def _run(self: threading.Thread, call: Call) -> None:
    self.__dict__.pop("run", None)  # it holds the thread itself
    calls.serve(call)
    self.run()


def _work(call: Call, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    with calls.on_behalf(call):
        return fn(*args, **kwargs)


def _shared(thread: threading.Thread) -> bool:
    module = getattr(getattr(thread, "_target", None), "__module__", None)
    return isinstance(module, str) and module.startswith(_SHARED)
