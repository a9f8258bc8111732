"""One executor that takes calls: brought up, watched until it is gone, and what its death was.

Which of several executors gets a call, and what becomes of calls whose executor has died, is not decided here.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import TYPE_CHECKING, Any

from bridge_adapter.gateway.circuits import function_of
from bridge_adapter.gateway.crashes import SENT_BY_OTHERS, Ended, OomCounter, cause
from bridge_adapter.gateway.executor_process import EndedEarly, ExecutorProcess, how_it_ended
from bridge_adapter.gateway.lane_client import Ask, Lane, LaneError, NotSent

if TYPE_CHECKING:
    from bridge_adapter.gateway.care import Care
    from bridge_adapter.gateway.parameters import Asked

START_SECONDS = 25.0  # Snakepit gives a worker 30
HEALTHY_SECONDS = 10.0
EXIT_SECONDS = 0.5
_WORDS = 1000

log = logging.getLogger("bridge_adapter.gateway")


class StartFailed(Exception):
    """An executor did not come up; the message says why. `killed`: by somebody else."""

    def __init__(self, message: str, killed: bool = False) -> None:
        super().__init__(message)
        self.killed = killed


class Running:
    """An executor. `calls` are those that it was given and that have not come to their end; `ended` resolves with how it ended."""

    def __init__(self, process: ExecutorProcess, lane: Lane, out_of_memory: OomCounter) -> None:
        self.process = process
        self.lane = lane
        self.calls: dict[int, Asked] = {}
        self.began = time.monotonic()
        self.leaving = False  # it gets no new calls, and ends when it has none
        self.stopping = False  # it was told to end
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._out_of_memory = out_of_memory
        self._idle: asyncio.Future[None] | None = None

    @classmethod
    async def brought_up(cls, process: ExecutorProcess, max_connections: int, ask: Ask, care: Care) -> Running:
        """The executor of a process that was just started, when it takes calls. Raises StartFailed; the process is gone then."""
        counter = OomCounter()
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.wrap_future(process.ready)
                kill_after = care.kill_after_ms / 1000
                lane = Lane(process.path, process.token, max_connections, ask, kill_after=kill_after, max_queue=care.max_queue)
                await lane.open()
        except (OSError, TimeoutError, LaneError) as error:
            process.kill()
            words = process.last_words()
            reason = str(error) or f"it was not ready within {START_SECONDS:g} s"
            killed = isinstance(error, EndedEarly) and -error.status in SENT_BY_OTHERS and not counter.rose()
            message = f"the executor (pid {process.pid}) failed: {reason}{'; it said: ' + words if words else ''}"
            raise StartFailed(message, killed) from error
        except BaseException:
            process.kill()
            raise
        return cls(process, lane, counter)

    @property
    def has_proven_itself(self) -> bool:
        """True when it was given a call, or has lived for a while."""
        return bool(self.lane.served) or time.monotonic() - self.began >= HEALTHY_SECONDS

    def finished(self, call: Asked) -> None:
        """The call has come to its end."""
        self.calls.pop(id(call), None)
        if self._idle is not None and not self.calls:
            self._idle.set_result(None)
            self._idle = None

    async def idle(self) -> None:
        """Waits until none of its calls is running."""
        if self.calls:
            if self._idle is None:
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._idle)

    async def watch(self, heartbeat: float) -> Ended:
        """Returns when it is gone. `heartbeat`: seconds that it may leave a ping unanswered, before it is ended; 0 = for ever."""
        exited = asyncio.wrap_future(self.process.exited)
        stuck, down = self.lane.stuck, self.lane.down
        beats = asyncio.ensure_future(self._beats(heartbeat))
        try:
            signs: set[asyncio.Future[Any]] = {exited, down, stuck, beats}
            await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
        finally:
            beats.cancel()
        note = seen = ""
        if stuck.done():
            note = f", because {stuck.result()}"
            self.process.kill()
        elif self.stopping:
            note = ", because the gateway has ended it"
        elif exited.done():
            pass
        elif beats.done() and not beats.cancelled() and not down.done():
            note, seen = f" by the gateway, because it left a ping unanswered for {heartbeat:g} s", "missed_heartbeat"
            self.process.kill()
        else:
            # The control connection is gone. Usually the rest of the process is about to follow.
            await asyncio.wait({exited}, timeout=EXIT_SECONDS)
            if not exited.done():
                note, seen = " by the gateway, after it had closed its control connection", "connection_lost"
                self.process.kill()
        status = await exited
        words = self.process.last_words()
        out_of_memory = not note and status == -signal.SIGKILL and self._out_of_memory.rose()
        how = f"{how_it_ended(status, hint=not note and not out_of_memory)}{note} (pid {self.process.pid})"
        if out_of_memory:
            how += "; the kernel has killed a process of this control group for memory meanwhile: it was out of memory"
        if words:
            how += f"; its last output: {words[-_WORDS:]}"
        functions = {function_of(call) for call in self.calls.values()}
        # What the gateway ends for reasons of its own is nobody's fault.
        suspect = functions.pop() if len(functions) == 1 and not stuck.done() and not self.stopping else None
        return Ended(status, cause(status, words, seen=seen, out_of_memory=out_of_memory), how, words, suspect)

    async def _beats(self, seconds: float) -> None:
        """Returns when a ping has gone unanswered for so many seconds."""
        if not seconds:
            await asyncio.Event().wait()
        while True:
            await asyncio.sleep(min(seconds, 30.0) / 4)
            try:
                pong: asyncio.Future[Any] = self.lane.ping()
            except NotSent:
                await asyncio.Event().wait()  # its end is seen in another way
                return
            done, _ = await asyncio.wait({pong}, timeout=seconds)
            if not done:
                return

    def gone(self, ended: Ended) -> None:
        """Tells its calls."""
        self.ended.set_result(ended)
        self.lane.close()

    async def end_of(self, seconds: float) -> Ended | None:
        """How it ended, when it does within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(self.ended)
        except TimeoutError:
            return None
