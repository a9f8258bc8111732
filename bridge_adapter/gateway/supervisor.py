"""Keeps an executor running: connects to it, sees it die, starts the next one, and decides what becomes of the calls it took along.

A call that was in flight is answered with `worker_crash`, or repeated once on the next executor when its caller said that it is
idempotent. A call that comes while there is no executor waits for one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bridge_adapter.gateway.executor_process import ExecutorProcess, how_it_ended
from bridge_adapter.gateway.lane_client import Lane, LaneError, LaneLost, NotSent, Stream

START_SECONDS = 25.0  # Snakepit gives a worker 30
FIRST_DELAY = 0.05
LAST_DELAY = 5.0
HEALTHY_SECONDS = 10.0
EXIT_SECONDS = 0.5
PATIENCE = 3  # failed starts in a row after which waiting calls are told

T = TypeVar("T")
log = logging.getLogger("bridge_adapter.gateway")


class StartFailed(Exception):
    """An executor did not come up; the message says why."""


class Running:
    """An executor that takes calls. `ended` resolves with how it ended."""

    def __init__(self, process: ExecutorProcess, lane: Lane) -> None:
        self.process = process
        self.lane = lane
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()


class Supervisor:
    """The executor of this gateway, whichever process it is at the moment."""

    def __init__(self, first: ExecutorProcess, max_connections: int) -> None:
        self._process = first
        self._max_connections = max_connections
        self._stopping = False
        self._running: Running | None = None
        self._next: asyncio.Future[Running] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Waits until the first executor takes calls. Raises StartFailed."""
        self._up(await self._connect(self._process))

    async def run(self) -> None:
        """Watches and restarts, for as long as the gateway lives."""
        delay, failures = FIRST_DELAY, 0
        while True:
            if self._running is not None:
                began = time.monotonic()
                await self._watch(self._running)
                failures = 0
                if time.monotonic() - began >= HEALTHY_SECONDS:
                    delay = FIRST_DELAY
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_DELAY)
            if self._stopping:
                return
            try:
                self._process = ExecutorProcess()
                self._up(await self._connect(self._process))
            except (StartFailed, OSError) as error:
                failures += 1
                log.error("the executor cannot be started (%d times in a row): %s", failures, error)
                if failures >= PATIENCE:
                    self._give_up(f"the Python worker cannot be started: {error}")

    async def call(self, params: dict[str, Any], remaining: Callable[[], float | None], idempotent: bool) -> Any:
        """The result of a lane call. Raises LaneError, also for a crash."""
        return await self._on_executor(params, remaining, idempotent, lambda running: running.lane.call(params))

    async def stream(self, params: dict[str, Any], remaining: Callable[[], float | None]) -> tuple[Stream, Running]:
        """An open stream and the executor that it comes from. Raises LaneError."""

        async def opened(running: Running) -> tuple[Stream, Running]:
            return await running.lane.stream(params), running

        return await self._on_executor(params, remaining, False, opened)

    async def _on_executor(
        self,
        params: dict[str, Any],
        remaining: Callable[[], float | None],
        retry: bool,
        action: Callable[[Running], Awaitable[T]],
    ) -> T:
        while True:
            running = self._running
            if running is None:
                running = await asyncio.shield(self._next)
            # After the wait: what is left for the call itself.
            seconds = remaining()
            params["timeout_ms"] = None if seconds is None else max(0, int(seconds * 1000))
            try:
                return await action(running)
            except NotSent as error:
                await self._after_refusal(running, error)
            except LaneLost as error:
                if not retry:
                    raise await self.crash(running, error) from error
                retry = False
                await self._after_refusal(running, error)

    async def crash(self, running: Running, error: LaneLost) -> LaneError:
        """The error of a call whose connection was lost: worker_crash, when the executor died with it."""
        how = await self._ended(running)
        if how is None:
            # An executor whose sockets user code has closed finds out when it has to answer.
            running.lane.ping()
            how = await self._ended(running)
        if how is None:
            return LaneError(
                {"category": "protocol_error", "type": "ProtocolError", "message": f"the executor gave up on the call: {error}"}
            )
        return LaneError(
            {
                "category": "worker_crash",
                "type": "WorkerCrash",
                "message": f"the Python worker died while it ran this call: {how}. The call is not repeated, because it is not marked "
                "idempotent: true or was repeated once already; objects that lived in the worker are lost",
                "details": {"pid": running.process.pid},
            }
        )

    async def _after_refusal(self, running: Running, error: OSError) -> None:
        """Waits until an executor that takes no connections is gone. Raises LaneError when it lives on, ends one that does not listen."""
        if await self._ended(running) is not None or error.__cause__ is None:
            return
        if isinstance(error.__cause__, ConnectionRefusedError) and running is self._running:
            log.error("the executor (pid %d) does not listen any more; ending it", running.process.pid)
            running.process.kill()
            await asyncio.shield(running.ended)
            return
        raise LaneError({"category": "unavailable", "type": "Unavailable", "message": str(error)}) from error

    async def _ended(self, running: Running) -> str | None:
        try:
            async with asyncio.timeout(2 * EXIT_SECONDS):
                return await asyncio.shield(running.ended)
        except TimeoutError:
            return None

    async def _connect(self, process: ExecutorProcess) -> Running:
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.wrap_future(process.ready)
                lane = Lane(process.path, process.token, self._max_connections)
                await lane.open()
        except (OSError, TimeoutError, LaneError) as error:
            process.kill()
            words = process.last_words()
            reason = str(error) or f"it was not ready within {START_SECONDS:g} s"
            raise StartFailed(f"the executor (pid {process.pid}) failed: {reason}{'; it said: ' + words if words else ''}") from error
        return Running(process, lane)

    def _up(self, running: Running) -> None:
        self._running = running
        if self._next.done():
            self._next = asyncio.get_running_loop().create_future()
        self._next.set_result(running)

    async def _watch(self, running: Running) -> None:
        """Returns when the executor is gone and its calls know."""
        exited = asyncio.wrap_future(running.process.exited)
        watched: set[asyncio.Future[Any]] = {exited, running.lane.down}
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        self._running = None
        self._next = asyncio.get_running_loop().create_future()
        note = ""
        if not exited.done():
            # The control connection is gone. Usually the rest of the process is about to follow.
            await asyncio.wait({exited}, timeout=EXIT_SECONDS)
            if not exited.done():
                note = " after it had closed its control connection"
                running.process.kill()
        status = await exited
        words = running.process.last_words()
        how = f"{how_it_ended(status)}{note} (pid {running.process.pid}){'; its last output: ' + words[-1000:] if words else ''}"
        if not self._stopping:
            log.error("the executor is gone: %s", how)
        running.ended.set_result(how)
        running.lane.close()

    def _give_up(self, reason: str) -> None:
        """Tells the calls that wait. Later ones wait for the next attempt."""
        waiting, self._next = self._next, asyncio.get_running_loop().create_future()
        waiting.set_exception(LaneError({"category": "worker_start", "type": "WorkerStartError", "message": reason}))
        waiting.exception()

    async def stop(self, seconds: float) -> None:
        """Ends the executor: asked first, then killed."""
        self._stopping = True
        exited = asyncio.wrap_future(self._process.exited)
        self._process.terminate()
        await asyncio.wait({exited}, timeout=seconds)
        self.kill()

    def kill(self) -> None:
        """Ends the executor at once, from any thread."""
        self._stopping = True
        self._process.kill()
