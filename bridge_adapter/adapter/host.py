"""The executor behind the adapter: one per process, run from an event loop in a thread of its own, whatever loops and threads call.

It ends with the process of the server, however that ends; a process that is forked off has its own. `elixir.py` is its way to Elixir.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from bridge_adapter.adapter.elixir import Elixir
from bridge_adapter.gateway import options, parent
from bridge_adapter.gateway.bridge import Bridge
from bridge_adapter.gateway.executor_process import ExecutorProcess
from bridge_adapter.gateway.parameters import Asked
from bridge_adapter.gateway.recycling import recycle
from bridge_adapter.gateway.running import StartFailed
from bridge_adapter.gateway.supervisor import Supervisor
from bridge_adapter.launcher import WORKER_SCRIPTS

STOP_SECONDS = 1.0
_ADDRESS = "--elixir-address"

T = TypeVar("T")
log = logging.getLogger("bridge_adapter.adapter")


def no_deadline() -> None:
    """The server cancels a call whose time is up; it does not tell before."""
    return


class Host:
    """An executor that is kept running, and what it asks of Elixir. Its methods are for other threads than its own.

    The kernel ends an executor with the thread that has started it: this one lives as long as the process.
    """

    def __init__(self) -> None:
        self.elixir = Elixir()
        self._loop = _new_loop()
        self._bridge: Bridge | None = None
        self._supervisor: Supervisor | None = None
        self._arguments: list[str] = []
        self._life: asyncio.Task[None] | None = None
        threading.Thread(target=self._loop.run_forever, name="bridge_adapter", daemon=True).start()

    async def execute(self, call: Asked) -> bytes:
        """The JSON text of a call's result. Raises LaneError; cancelling it cancels the call in the executor."""
        return await self.on_loop(self._execute(call))

    def stream(self, call: Asked) -> Batches:
        """A stream, which begins when its first batch is asked for."""
        return Batches(self, call)

    async def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work comes to on the host's event loop. Cancelling the one cancels the other."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def post(self, work: Coroutine[Any, Any, None]) -> None:
        """Has work done on the host's event loop that nobody waits for."""
        asyncio.run_coroutine_threadsafe(work, self._loop)

    def start(self) -> None:
        """Starts the executor before anybody has called it. Returns at once; the first call tries again where it cannot be started."""
        self.post(self._start())

    def kill(self) -> None:
        """Ends the executor at once, from any thread."""
        if self._supervisor is not None:
            self._supervisor.kill()

    def stop(self) -> None:
        """Ends the executor because the process ends: asked first, then killed. Calls are neither run nor answered any more."""
        stopped = threading.Event()
        self._loop.call_soon_threadsafe(self._stop, stopped)
        stopped.wait(2 * STOP_SECONDS)
        self.kill()

    # --- on the thread ---

    def bridge(self) -> Bridge:
        """The way to the executor, which is started when there is none. Raises OSError, and RuntimeError for settings that are wrong."""
        if self._bridge is None:
            settings = _settings()
            self._arguments = settings.executor_arguments
            self.elixir.configure(settings.elixir_address, settings.callback_timeout_ms / 1000)
            self._supervisor = Supervisor(
                self._executor(), settings.max_connections, self.elixir.ask, care=settings.care, start_next=self._executor
            )
            self._life = asyncio.get_running_loop().create_task(_live(self._supervisor))
            self._bridge = Bridge(self._supervisor)
        return self._bridge

    async def _execute(self, call: Asked) -> bytes:
        return await self.bridge().execute(call, no_deadline)

    async def _start(self) -> None:
        try:
            self.bridge()
        except (OSError, RuntimeError) as error:
            log.error("the executor cannot be started now (the first call tries again): %s", error)

    def _executor(self) -> ExecutorProcess:
        return ExecutorProcess(self._arguments)

    def _stop(self, stopped: threading.Event) -> None:
        if self._supervisor is not None:
            processes = self._supervisor.processes
            for process in processes:
                process.terminate()
            until = time.monotonic() + STOP_SECONDS
            for process in processes:
                with contextlib.suppress(TimeoutError):
                    process.exited.result(max(0.0, until - time.monotonic()))
            self._supervisor.kill()
        stopped.set()
        # Held up for good: no task is taken apart, and threads that still wait have nothing to complain of while the interpreter ends.
        threading.Event().wait()


class Batches:
    """A stream of the executor, read from another event loop. A batch comes when it is asked for, never before."""

    def __init__(self, host: Host, call: Asked) -> None:
        self._host = host
        self._call = call
        self._items: Any = None
        self._reading = asyncio.Lock()
        self._closed = False

    def __del__(self) -> None:
        # A generator that reads it is not closed when its event loop is closed before it is dropped.
        if not sys.is_finalizing():
            self.close()

    async def next(self) -> list[Any] | None:
        """The JSON texts of the next items; None at the end. Raises LaneError; cancelling it ends the stream."""
        return await self._host.on_loop(self._next())

    def close(self) -> None:
        """Ends the stream, and the generator in the executor with it."""
        if not self._closed:
            self._closed = True
            self._host.post(self._close())

    async def _next(self) -> list[Any] | None:
        async with self._reading:
            if self._items is None:
                self._items = self._host.bridge().stream(self._call, no_deadline)
            return await anext(self._items, None)

    async def _close(self) -> None:
        async with self._reading:  # a reader that was cancelled has left by then
            if self._items is not None:
                await self._items.aclose()


async def _live(supervisor: Supervisor) -> None:
    """The life of an executor and of those after it."""
    try:
        await supervisor.start()
    except StartFailed as error:
        log.error("%s", error)
    await asyncio.gather(supervisor.run(), recycle(supervisor))


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's event loop, where it can be loaded."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _settings() -> options.Options:
    """The gateway's settings as far as they concern the executor. The command line is the server's: only its address is read."""
    flags = ["--health-check"]  # nothing is required then
    for place, argument in enumerate(sys.argv):
        if argument == _ADDRESS and place + 1 < len(sys.argv):
            flags += [argument, sys.argv[place + 1]]
        elif argument.startswith(f"{_ADDRESS}="):
            flags.append(argument)
    try:
        settings = options.parse(flags, os.environ)
    except SystemExit:
        raise RuntimeError("a BRIDGE_ADAPTER_... setting cannot be used; the standard error of the server says which") from None
    if settings.policy.access is not None:
        raise RuntimeError(
            "roles are in force (BRIDGE_ADAPTER_POLICY), but Snakepit's own server does not tell who calls; start the gateway instead"
        )
    return settings


# --- the host of this process ---

_host: Host | None = None
_making = threading.Lock()
_of_parents: list[Host] = []  # kept: they share their sockets with the parent, and taking them apart would disturb it


def start_early() -> None:
    """Starts the executor if this process is a worker of Snakepit's, and sees to it that the process ends when the BEAM that started it is
    gone: the server itself notices that late, and before its first session not at all."""
    if os.path.basename(sys.argv[0]) not in WORKER_SCRIPTS or "--health-check" in sys.argv:
        return
    if os.environ.get("SNAKEPIT_READY_FILE"):
        parent.at_death(_at_end(Host.kill))
        parent.watch()
    _the_host().start()


def current(context: Any) -> Host:
    """The host of this process. `context`: of the call; its stub is used where the address of Elixir is not known."""
    host = _host or _the_host()
    stub = getattr(context, "stub", None)
    if stub is not None:
        host.elixir.stub = stub
    return host


def _the_host() -> Host:
    global _host
    with _making:
        if _host is None:
            _host = Host()
        return _host


def _at_end(action: Callable[[Host], None]) -> Callable[[], None]:
    def act() -> None:
        if _host is not None:
            action(_host)

    return act


def _forked() -> None:
    """In a new process: the thread has stayed behind, and the executor is the parent's."""
    global _host, _making
    if _host is not None:
        _of_parents.append(_host)
    _host, _making = None, threading.Lock()


atexit.register(_at_end(Host.stop))
os.register_at_fork(after_in_child=_forked)
