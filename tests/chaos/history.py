"""The history of a chaos run: what was asked and answered, what user code really did, and when the journal could not keep its promises.

Drivers write `history-*.jsonl`, the user code `effects-*.jsonl`, whoever injects faults `windows.jsonl`. Times are microseconds of the
system's clock, the same for every process of the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["plain", "idempotent", "keyed", "ask", "make", "append", "stream", "share"]
Verdict = Literal["ok", "fail", "info"]

# What these errors refuse has not begun, also where they do not say so.
REFUSED = frozenset(
    {
        "unavailable",
        "worker_start",
        "overloaded",
        "circuit_open",
        "memory_limit",
        "permission_denied",
        "idempotency_conflict",
        "invalid_request",
        "unknown_tool",
        "session_lost",
        "unknown_ref",
        "session_deadlock",
    }
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One call by one process. `target`: what its effect is recorded under: its own id, its key, or the object that it is made on.

    `done` is None when nobody lived to see an answer. `value` is the answer; of a stream, the items that came, whatever its end.
    `wanted`: how many of them its reader takes, `halted`: fewer than there are. `calm`: it was made when all faults were over.
    """

    op: str
    process: str
    kind: Kind
    target: str
    invoked: int
    done: int | None = None
    answered: bool = False
    value: Any = None
    category: str | None = None
    outcome: str | None = None
    error_type: str | None = None
    message: str = ""
    retry_after_ms: int | None = None
    attempts: int | None = None
    replayed: bool = False
    wanted: int | None = None
    halted: bool = False
    calm: bool = False

    @property
    def verdict(self) -> Verdict:
        """ok: it happened. fail: it did not. info: either."""
        if self.answered:
            return "ok"
        if self.outcome is not None:
            return "fail" if self.outcome == "not_started" else "info"
        return "fail" if self.category in REFUSED else "info"


@dataclass(frozen=True, slots=True)
class Effect:
    """One step of user code. `phase`: begin, end, aborted (it was interrupted)."""

    at: int
    effect: str
    run: str
    worker: str
    phase: str


@dataclass(frozen=True, slots=True)
class Window:
    """When the journal had a licence. `forgotten`: it was damaged, so what it held before is not known any more. `unrecorded`: it could
    not be written, so what was answered then may run again."""

    kind: Literal["forgotten", "unrecorded"]
    begins: int
    ends: int


@dataclass(frozen=True, slots=True)
class History:
    """Everything that is known of a run."""

    operations: tuple[Operation, ...]
    effects: tuple[Effect, ...]
    windows: tuple[Window, ...] = ()


def read(directory: Path) -> History:
    """The history that lies in a directory."""
    operations: dict[str, Operation] = {}
    ends: list[dict[str, Any]] = []
    for line in _lines(directory, "history-*.jsonl"):
        if line.pop("type") == "invoke":
            operations[line["op"]] = Operation(
                line["op"],
                line["process"],
                line["kind"],
                line["target"],
                line["at"],
                wanted=line.get("wanted"),
                halted=line.get("halted", False),
                calm=line.get("calm", False),
            )
        else:
            ends.append(line)
    for line in ends:
        begun = operations[line["op"]]
        operations[begun.op] = Operation(
            begun.op,
            begun.process,
            begun.kind,
            begun.target,
            begun.invoked,
            done=line["at"],
            answered="category" not in line,
            value=line.get("value"),
            category=line.get("category"),
            outcome=line.get("outcome"),
            error_type=line.get("error_type"),
            message=line.get("message", ""),
            retry_after_ms=line.get("retry_after_ms"),
            attempts=line.get("attempts"),
            replayed=line.get("replayed", False),
            wanted=begun.wanted,
            halted=begun.halted,
            calm=begun.calm,
        )
    effects = [Effect(**line) for line in _lines(directory, "effects-*.jsonl")]
    windows = [Window(**line) for line in _lines(directory, "windows.jsonl")]
    return History(
        tuple(sorted(operations.values(), key=lambda operation: operation.invoked)),
        tuple(sorted(effects, key=lambda effect: effect.at)),
        tuple(windows),
    )


def _lines(directory: Path, pattern: str) -> Iterator[dict[str, Any]]:
    for path in sorted(directory.glob(pattern)):
        for line in path.read_bytes().splitlines():
            yield json.loads(line)
