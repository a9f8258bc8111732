"""How an executor died, as far as that can be known: its status, what the kernel counted, its last words, and what the gateway saw of it.

The same in words and as one of the causes by which a retry policy decides (`retry.CAUSES`).
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge_adapter.cgroups import VERSION_1, VERSION_2, memory_groups
from bridge_adapter.gateway.lane_client import LaneError, LaneLost

if TYPE_CHECKING:
    from bridge_adapter.gateway.parameters import Asked
    from bridge_adapter.gateway.retry import Retry

_WORDS = 1000  # characters of the last output that errors carry
# What CUDA, cuDNN and XLA say when the device, not the program, has ended.
_GPU_FAULT = re.compile(
    r"CUDA_ERROR_(?!OUT_OF_MEMORY)[A-Z_]+|CUDNN_STATUS_[A-Z_]+|CUDA error: |NVRM: Xid|device-side assert"
    r"|Check failed: .*\b(?:cuda|gpu|stream_executor|StreamExecutor)|illegal memory access was encountered"
)
# Signals that programs hardly ever send themselves.
SENT_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Ended:
    """How an executor ended: its status as Popen has it, its cause, the same in words, and the end of what it printed. `suspect`: what ran
    in it, when that was one function alone."""

    status: int
    cause: str
    how: str
    words: str
    suspect: tuple[str, bytes, bytes] | None = None

    @property
    def by_others(self) -> bool:
        """True for a signal that somebody else has sent, as far as can be known: no sign that executors cannot live."""
        return self.cause == "signal" and -self.status in SENT_BY_OTHERS


class OomCounter:
    """The kernel's count of processes that it has killed for memory, in our control group; what is new since this object was made."""

    def __init__(self, files: Iterable[Path] | None = None) -> None:
        self._files = list(_counters() if files is None else files)
        self._before = self._count()

    def rose(self) -> bool:
        """True when it has killed somebody meanwhile."""
        count = self._count()
        return count is not None and self._before is not None and count > self._before

    def _count(self) -> int | None:
        for file in self._files:
            try:
                for line in file.read_text().splitlines():
                    name, _, number = line.partition(" ")
                    if name == "oom_kill":
                        return int(number)
            except (OSError, ValueError):
                continue
        return None


def _counters() -> Iterable[Path]:
    """Where the count of our control group may stand: version 2, version 1, and both as a container sees its own."""
    for group in memory_groups():
        yield group.path / ("memory.events" if group.version == 2 else "memory.oom_control")
    yield VERSION_2 / "memory.events"
    yield VERSION_1 / "memory.oom_control"


def cause(status: int, words: str, *, seen: str = "", out_of_memory: bool = False) -> str:
    """The cause of a death. `seen`: what the gateway saw before it ended the executor itself, `connection_lost` or `missed_heartbeat`."""
    if seen:
        return seen
    if status == -signal.SIGKILL:
        return "oom" if out_of_memory else "signal"
    if status and _GPU_FAULT.search(words):
        return "gpu_fault"
    return "exit" if status >= 0 else "signal"


def worker_crash(ended: Ended, pid: int, call: Asked, retry: Retry) -> LaneError:
    """The error of a call whose executor died under it. What it had done by then nobody knows."""
    details: dict[str, Any] = {
        "exit_status": ended.status if ended.status >= 0 else None,
        "signal": -ended.status if ended.status < 0 else None,
        "last_output": ended.words[-_WORDS:],
    }
    why = _not_again(ended.cause, call, retry)
    message = f"the Python worker died while it ran this call: {ended.how}. {why}; objects that lived in the worker are lost"
    return _crash(message, ended.cause, pid, call, details)


def lost_connection(error: LaneLost, pid: int, call: Asked, retry: Retry) -> LaneError:
    """The error of a call whose connection broke while its executor lives on, which has ended the call when it saw that."""
    why = _not_again("connection_lost", call, retry)
    message = f"the connection to the Python worker (pid {pid}) broke while it ran this call: {error}; the worker itself lives. {why}"
    return _crash(message, "connection_lost", pid, call, {})


def _not_again(cause: str, call: Asked, retry: Retry) -> str:
    """Why a call is not run again, or not any more."""
    if retry.max_restarts and cause not in retry.retry_on:
        return f"It was not run again, because the policy does not retry after {cause} (retry_on)"
    if retry.max_restarts:
        return f"It was run {call.attempts} times (max_restarts = {retry.max_restarts})"
    if call.idempotent:
        return "It was not run again, because items of the stream had come already or max_restarts is 0"
    return "It was not run again, because it is not marked idempotent: true"


def _crash(message: str, cause: str, pid: int, call: Asked, known: dict[str, Any]) -> LaneError:
    details = {"pid": pid, "cause": cause, **known, "attempts": call.attempts, "outcome": "unknown"}
    return LaneError({"category": "worker_crash", "type": "WorkerCrash", "message": message, "details": details})
