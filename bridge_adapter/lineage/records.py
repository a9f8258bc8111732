"""What is known of a session that can be rebuilt: what was called in it, in order, and what of it cannot come back, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bridge_adapter.request import Request

CALL: Final = 0  # a request, made again as it came
STEP: Final = 1  # items taken from a held stream
RELEASE: Final = 2  # a ref that was let go

MOST_RECORDS: Final = 1000
MOST_BYTES: Final = 64 * 1024 * 1024
MOST_LOST: Final = 10_000  # refs of which it is known why they will not come back
MOST_BYTES_OF_ALL: Final = 1024 * 1024 * 1024  # of all sessions in a journal
MOST_REBUILDS: Final = 3  # that did not come to their end: code that kills its process would kill every one that follows


@dataclass(slots=True)
class Record:
    """One thing that was done in the session.

    `refs`: the refs in the answer, in order, known ones included; `given`: those among the arguments; `digests`: what the objects were like
    afterwards ("" names the answer); `raised`: the type of the exception that it ended with; `count`: items of a STEP, `last` of them by
    the last call; `key`: the idempotency key and digest under which it was asked; `reads`: it has changed nothing; `size`: of the body.
    """

    seq: int
    kind: int
    label: str
    refs: list[str] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    raised: str = ""
    count: int = 0
    key: str = ""
    reads: bool = False
    last: int = 0
    body: bytes = b""
    size: int = 0

    @property
    def touches(self) -> set[str]:
        """The refs of all objects that it has made or may have changed."""
        return {*self.refs, *self.given}


@dataclass(slots=True)
class Checkpoint:
    """The state of one object as it was after `count` items of the record `seq`: what came before need not be done again."""

    ref: str
    seq: int
    count: int
    value: bytes


@dataclass(slots=True)
class History:
    """All that is recorded of a session. `broken`: why it is not recorded any more; `rebuilds`: how many in a row have not ended."""

    records: list[Record] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    broken: str = ""
    rebuilds: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """How a session is recovered.

    `replayable`: every call may be made again; `warn`: an object that comes out different is given out, with a warning.
    """

    replayable: bool = False
    warn: bool = False

    @classmethod
    def of(cls, options: dict[str, Any]) -> Options:
        """The options of `session_options`. Raises ValueError."""
        how = options.get("on_difference", "fail")
        if how not in ("fail", "warn"):
            raise ValueError(f"on_difference is {str(how)[:40]!r}; it must be 'fail' or 'warn'")
        return cls(bool(options.get("replayable")), how == "warn")


def key_of(request: Request) -> str:
    """The idempotency key of a request as records have it."""
    return f"{request.key.digest} {request.key.text}" if request.key is not None else ""
