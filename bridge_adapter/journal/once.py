"""Runs a call once under its key: whoever comes with the same key meanwhile waits, whoever comes later gets the recorded answer.

What is not an answer is not kept: a call that failed, or whose process died, runs again when its key comes again. Neither is an answer that
holds refs to objects which are gone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bridge_adapter import lifeline
from bridge_adapter.calls import Call
from bridge_adapter.errors import CallCancelled, IdempotencyConflict, InvalidRequest, RecordedFailure, Unavailable
from bridge_adapter.journal.records import FAILED, FINISHED, STARTED, JournalError, Key, Outcome, Row

if TYPE_CHECKING:
    from bridge_adapter.journal.store import Journal

log = logging.getLogger("bridge_adapter.journal")

_FIRST_LOOK, _LAST_LOOK = 0.001, 0.05  # seconds between two looks at a call that another process runs
_WARN_SECONDS = 60.0


class Once:
    """The calls that run under a key in this process, and the journal that it shares with others."""

    def __init__(self, open_journal: Callable[[], Journal]) -> None:
        self._open = open_journal
        self._journal: Journal | None = None
        self._running: dict[str, Call] = {}
        self._gate = threading.Lock()
        self._opening = threading.Lock()
        self._warned = -_WARN_SECONDS
        self._process = os.getpid()

    def run(
        self,
        key: Key,
        form: str,
        call: Call,
        code: Callable[[], tuple[bytes, str]],
        *,
        holds: Callable[[str], bool],
        describe: Callable[[BaseException], bytes | None],
    ) -> tuple[bytes, Outcome]:
        """The answer of `code`, which also tells the refs in it, or the recorded one.

        `holds` says whether the refs of a recorded answer still name objects, `describe` what waiting callers get to know of an error
        (None: it is not theirs). Raises what `code` raises, IdempotencyConflict, and Unavailable where a key cannot be honoured.
        """
        if not key.digest:
            return self._run_alone(key, form, code, holds)
        try:
            row, attempt = self._begin(key, form, call, holds)
        except JournalError as error:
            raise Unavailable(f"the call has a key, but {error}", idempotency_key=key.text) from error
        if row is not None:
            if row.state == FAILED:
                raise RecordedFailure(row.answer or b"")
            return row.answer or b"", Outcome(row.attempts, replayed=True)
        try:
            answer, refs = code()
        except BaseException as error:
            told = _told(describe, error)
            self._record(lambda journal: journal.fail(key.text, told))
            raise
        else:
            self._record(lambda journal: journal.finish(key.text, answer, refs, attempt))
            return answer, Outcome(attempt)
        finally:
            self._running.pop(key.text, None)

    def _run_alone(self, key: Key, form: str, code: Callable[[], tuple[bytes, str]], holds: Callable[[str], bool]) -> tuple[bytes, Outcome]:
        """The same for a key that nobody else has. It is recorded when it has ended, and costs its caller no time: a call that dies before
        would be run again, which is no harm, and nobody has seen its answer. Without a journal that works, every such call is."""
        if key.attempt > 1:
            row = self._found(key.text)
            if row is not None and row.form == form and row.answer is not None and holds(row.refs):
                return row.answer, Outcome(row.attempts, replayed=True)
        answer, refs = code()
        self._record(lambda journal: journal.keep(key.text, form, key.attempt, answer, refs))
        return answer, Outcome(key.attempt)

    def _found(self, key: str) -> Row | None:
        try:
            return self.journal().look(key)
        except JournalError as error:
            self._warn(str(error))
            return None

    def _begin(self, key: Key, form: str, call: Call, holds: Callable[[str], bool]) -> tuple[Row | None, int]:
        waited, pause = 0, _FIRST_LOOK

        def takes_over(row: Row) -> bool:
            if row.digest != key.digest or row.form != form:
                return False
            if row.state == FINISHED:
                return row.answer is None or not holds(row.refs)
            if row.state == FAILED:
                return row.attempts != waited or row.answer is None
            journal = self.journal()
            return key.text not in self._running if journal.ours(row) else not journal.lives(row)

        while True:
            with self._gate:  # nobody may look between the row and `_running`
                row, attempt = self.journal().begin(key.text, key.digest, form, takes_over)
                if row is None:
                    self._running[key.text] = call
                    return None, attempt
                holder = self._running.get(key.text)
            name = repr(key.text)
            if row.digest != key.digest or row.form != form:
                when = "which runs now" if row.state == STARTED else "made earlier"
                raise IdempotencyConflict(
                    f"the idempotency key {name} belongs to another request, {when}; a key names one call with one set of arguments: "
                    "use another key",
                    idempotency_key=key.text,
                )
            if row.state != STARTED:
                return row, 0
            if holder is not None and call.within(holder):
                raise InvalidRequest(f"the idempotency key {name} is that of the call in whose callback this one is made; use another key")
            waited = row.attempts
            try:
                call.sleep(pause)
            except CallCancelled:
                raise call.interruption() from None
            pause = min(2 * pause, _LAST_LOOK)

    def journal(self) -> Journal:
        """The journal, opened now if it was not. Raises JournalError."""
        if os.getpid() != self._process:
            lifeline.end_child()  # what it would record is not the call's answer, and SQLite's connections do not survive a fork
        with self._opening:
            if self._journal is None:
                self._journal = self._open()
            return self._journal

    def _record(self, action: Callable[[Journal], None]) -> None:
        try:
            action(self.journal())
        except Exception as error:
            # Whatever it is, the answer is good; only, with the same key it would be made again.
            self._warn(str(error) if isinstance(error, JournalError) else f"an answer could not be recorded: {error!r}")

    def _warn(self, text: str) -> None:
        now = time.monotonic()
        if now - self._warned >= _WARN_SECONDS:
            self._warned = now
            log.warning("%s; calls go on without it", text)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()


def _told(describe: Callable[[BaseException], bytes | None], error: BaseException) -> bytes | None:
    try:
        return describe(error)
    except Exception:  # an error that cannot be told is one's own
        return None
