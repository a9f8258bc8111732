"""Keeps an executor running: connects to it, sees it die, starts the next one, and decides what becomes of the calls it took along.

A call that was in flight is answered with `worker_crash`, or run again on the next executor when its caller said that it is idempotent.
A call that comes while there is no executor waits for one.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from bridge_adapter.gateway.executor_process import EndedEarly, ExecutorProcess, how_it_ended
from bridge_adapter.gateway.lane_client import Ask, Lane, LaneError, LaneLost, NotSent, Stream
from bridge_adapter.gateway.retry import NEVER, Retry
from bridge_adapter.gateway.turns import Turns

if TYPE_CHECKING:
    from bridge_adapter.gateway.parameters import Asked

START_SECONDS = 25.0  # Snakepit gives a worker 30
FIRST_DELAY = 0.05
LAST_DELAY = 5.0
HEALTHY_SECONDS = 10.0
EXIT_SECONDS = 0.5
KILL_AFTER = 5.0
# Failed starts in a row after which waiting calls are told: those that end by themselves, and those that somebody kills.
PATIENCE = 3
PATIENCE_WITH_KILLED = 6

T = TypeVar("T")
log = logging.getLogger("bridge_adapter.gateway")


class StartFailed(Exception):
    """An executor did not come up; the message says why. `killed`: by somebody else."""

    def __init__(self, message: str, killed: bool = False) -> None:
        super().__init__(message)
        self.killed = killed


@dataclass(frozen=True, slots=True)
class Ended:
    """How an executor ended: its status as Popen has it, the same in words, and the end of what it printed."""

    status: int
    how: str
    words: str


class Running:
    """An executor that takes calls. `ended` resolves with how it ended."""

    def __init__(self, process: ExecutorProcess, lane: Lane) -> None:
        self.process = process
        self.lane = lane
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()


class Supervisor:
    """The executor of this gateway, whichever process it is at the moment.

    `start_next` makes another one; `ask` answers the executor's own requests (Elixir functions that Python calls); a call that nobody
    waits for any more and that goes on for `kill_after` seconds costs the executor its life (0 = never); `died` hears of every executor
    that ends by itself: its pid, its status, and how it ended.
    """

    def __init__(
        self,
        first: ExecutorProcess,
        max_connections: int,
        ask: Ask,
        *,
        start_next: Callable[[], ExecutorProcess] = ExecutorProcess,
        kill_after: float = KILL_AFTER,
        died: Callable[[int, int, str], None] | None = None,
    ) -> None:
        self._process = first
        self._max_connections = max_connections
        self._elixir = ask
        self.turns = Turns()
        self._start_next = start_next
        self._kill_after = kill_after
        self._died = died
        self._stopping = False
        self._running: Running | None = None
        self._next: asyncio.Future[Running] = asyncio.get_running_loop().create_future()

    @property
    def running(self) -> Running | None:
        """The executor that takes calls at the moment."""
        return self._running

    async def start(self) -> None:
        """Waits until the first executor takes calls. Raises StartFailed."""
        self._up(await self._connect(self._process))

    async def run(self) -> None:
        """Watches and restarts, for as long as the gateway lives."""
        delay, failures, killed = 0.0, 0, 0
        while True:
            running = self._running
            if running is not None:
                began = time.monotonic()
                await self._watch(running)
                failures = killed = 0
                # What a call has done to an executor is no reason to let the next call wait.
                if running.lane.served or time.monotonic() - began >= HEALTHY_SECONDS:
                    delay = 0.0
            await asyncio.sleep(delay)
            delay = min(max(delay * 2, FIRST_DELAY), LAST_DELAY)
            if self._stopping:
                return
            try:
                self._process = self._start_next()
                self._up(await self._connect(self._process))
            except (StartFailed, OSError) as error:
                failures += 1
                killed += isinstance(error, StartFailed) and error.killed
                log.error("the executor cannot be started (%d times in a row): %s", failures, error)
                if failures - killed >= PATIENCE or failures >= PATIENCE_WITH_KILLED:
                    self._give_up(f"the Python worker cannot be started: {error}")

    async def call(self, params: dict[str, Any], remaining: Callable[[], float | None], retry: Retry, call: Asked) -> Any:
        """The result of a lane call. Raises LaneError, also for a crash."""
        result = (await self._on_executor(params, remaining, retry, call, lambda running: running.lane.call(params)))[0]
        if "outcome" in params:
            call.runs, call.replayed = params.pop("outcome")
        return result

    async def stream(self, params: dict[str, Any], remaining: Callable[[], float | None], call: Asked) -> tuple[Stream, Running]:
        """An open stream and the executor that it comes from. Raises LaneError."""
        return await self._on_executor(params, remaining, NEVER, call, lambda running: running.lane.stream(params))

    async def _on_executor(
        self,
        params: dict[str, Any],
        remaining: Callable[[], float | None],
        retry: Retry,
        call: Asked,
        action: Callable[[Running], Awaitable[T]],
    ) -> tuple[T, Running]:
        while True:
            running = self._running
            if running is None:
                running = await asyncio.shield(self._next)
            # After the wait: what is left for the call itself.
            seconds = remaining()
            params["timeout_ms"] = None if seconds is None else max(0, int(seconds * 1000))
            try:
                call.attempts += 1
                return await action(running), running
            except NotSent as error:
                call.attempts -= 1
                await self._after_refusal(running, error)
            except LaneLost as error:
                await self.after_crash(running, error, remaining, retry, call)

    async def after_crash(
        self, running: Running, error: LaneLost, remaining: Callable[[], float | None], retry: Retry, call: Asked
    ) -> None:
        """Waits for as long as the call has to wait before it is run again. Raises its LaneError when it is not."""
        crash = await self._crash(running, error, retry, call)
        if call.attempts > retry.max_restarts:
            raise crash from error
        pause, left = retry.pause(call.attempts), remaining()
        if left is not None and left <= pause:
            raise crash from error
        log.warning("%s runs again (attempt %d): %s", call.tool, call.attempts + 1, crash, extra={"corr": call.correlation})
        await asyncio.sleep(pause)

    async def _crash(self, running: Running, error: LaneLost, retry: Retry, call: Asked) -> LaneError:
        """The error of a call whose connection was lost: worker_crash, when the executor died with it."""
        ended = await self._ended(running)
        if ended is None:
            # An executor whose sockets user code has closed finds out when it has to answer.
            running.lane.ping()
            ended = await self._ended(running)
        if ended is None:
            return LaneError(
                {"category": "protocol_error", "type": "ProtocolError", "message": f"the executor gave up on the call: {error}"}
            )
        if retry.max_restarts:
            why = f"It was run {call.attempts} times (max_restarts = {retry.max_restarts})"
        elif call.idempotent:
            why = "It was not run again, because items of the stream had come already or max_restarts is 0"
        else:
            why = "It was not run again, because it is not marked idempotent: true"
        return LaneError(
            {
                "category": "worker_crash",
                "type": "WorkerCrash",
                "message": f"the Python worker died while it ran this call: {ended.how}. {why}; objects that lived in the worker are lost",
                "details": {
                    "pid": running.process.pid,
                    "exit_status": ended.status if ended.status >= 0 else None,
                    "signal": -ended.status if ended.status < 0 else None,
                    "last_output": ended.words[-1000:],
                    "attempts": call.attempts,
                },
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

    async def _ended(self, running: Running) -> Ended | None:
        try:
            async with asyncio.timeout(2 * EXIT_SECONDS):
                return await asyncio.shield(running.ended)
        except TimeoutError:
            return None

    async def _ask(self, name: str, params: dict[str, Any]) -> Any:
        with self.turns.asking(str(params.get("session"))):
            return await self._elixir(name, params)

    async def _connect(self, process: ExecutorProcess) -> Running:
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.wrap_future(process.ready)
                lane = Lane(process.path, process.token, self._max_connections, self._ask, self._kill_after)
                await lane.open()
        except (OSError, TimeoutError, LaneError) as error:
            process.kill()
            words = process.last_words()
            reason = str(error) or f"it was not ready within {START_SECONDS:g} s"
            killed = isinstance(error, EndedEarly) and error.status == -signal.SIGKILL
            message = f"the executor (pid {process.pid}) failed: {reason}{'; it said: ' + words if words else ''}"
            raise StartFailed(message, killed) from error
        return Running(process, lane)

    def _up(self, running: Running) -> None:
        self._running = running
        if self._next.done():
            self._next = asyncio.get_running_loop().create_future()
        self._next.set_result(running)

    async def _watch(self, running: Running) -> None:
        """Returns when the executor is gone and its calls know."""
        exited = asyncio.wrap_future(running.process.exited)
        stuck = running.lane.stuck
        watched: set[asyncio.Future[Any]] = {exited, running.lane.down, stuck}
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        self._running = None
        self._next = asyncio.get_running_loop().create_future()
        note = ""
        if stuck.done():
            note = f", because {stuck.result()}"
            running.process.kill()
        elif not exited.done():
            # The control connection is gone. Usually the rest of the process is about to follow.
            await asyncio.wait({exited}, timeout=EXIT_SECONDS)
            if not exited.done():
                note = " by the gateway, after it had closed its control connection"
                running.process.kill()
        status = await exited
        words = running.process.last_words()
        how = f"{how_it_ended(status, hint=not note)}{note} (pid {running.process.pid})"
        if words:
            how += f"; its last output: {words[-1000:]}"
        if not self._stopping:
            log.error("the executor is gone: %s", how)
            if self._died is not None:
                self._died(running.process.pid, status, how)
        running.ended.set_result(Ended(status, how, words))
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
