"""The journal's file: one row per key, in SQLite with a write-ahead log, so that it survives kill -9 and several processes share it.

A call waits for one short transaction, `begin`, and for its answer to be noted (`ends`): the rows of what has ended are written together, a
few milliseconds later, by a thread that also does everything else - expiry, bounds, checkpoints - in steps so small that no call waits
long for one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from bridge_adapter import processes
from bridge_adapter.journal import ends, files, marks
from bridge_adapter.journal.ends import LONGEST_ANSWER, Book, End, Ends
from bridge_adapter.journal.records import FAILED, FINISHED, STARTED, JournalError, Row
from bridge_adapter.journal.schema import LINEAGES

log = logging.getLogger("bridge_adapter.journal")

Durability = Literal["process", "power"]
_STEP_ROWS = 50  # deleted at a time: some 0.2 ms
_TIDY_SECONDS = 10.0
_TOUCH_SECONDS = 600.0
_WRITE_BACK_EVERY = 500  # accesses
_LONGEST_LOG = 16 * 1024 * 1024
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the journal may hold: rows, bytes of the file that are in use, bytes of one answer (a larger one is not kept), and for how many
    seconds."""

    rows: int = 100_000
    bytes: int = 256 * 1024 * 1024
    answer: int = 8 * 1024 * 1024
    seconds: float = 24 * 3600.0


_NEW = "(key, digest, form, state, attempts, owner, began, expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_WHOLE = "(key, digest, form, state, attempts, owner, began, expires, ended, refs, answer) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_END = "state = ?, answer = ?, refs = ?, ended = ? WHERE key = ? AND owner = ? AND state = ?"
_NOTED = f"{_END} AND attempts = ?"
_OLDEST = "SELECT rowid, state, expires, owner FROM calls WHERE rowid > ? ORDER BY rowid LIMIT ?"
_MOST_PENDING = 32 * 1024 * 1024
_MOST_PENDING_ROWS = 512
_BATCH_SECONDS = 0.01
_REST_SECONDS = 1.0  # after a failure to write
# Instead of an attempt: the process of that row is gone; the call has ended between the look at its row and the decision.
_DEAD, _ENDED = -1, -2
_ROW = "state, digest, form, attempts, owner, answer, refs"


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a call as it is to be written; `noted`: where it is safe already."""

    values: tuple[Any, ...]
    statement: str = f"UPDATE calls SET {_END}"
    noted: Book | None = None

    @property
    def size(self) -> int:
        return max((len(value) for value in self.values if isinstance(value, bytes)), default=0)

    def without_answer(self) -> _End:
        return replace(self, values=tuple(None if isinstance(value, bytes) else value for value in self.values))


class Journal:
    """An open journal. Thread-safe. Raises JournalError from every method when the file cannot be used.

    `owner`: for whom it begins calls, this process unless somebody else is named.
    """

    def __init__(
        self, path: str | os.PathLike[str], durability: Durability = "process", bounds: Bounds | None = None, owner: str | None = None
    ) -> None:
        self.path = Path(os.path.realpath(path))  # SQLite puts its log beside the file itself, not beside a link to it
        self.bounds = bounds or Bounds()
        self._power = durability == "power"
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._work = threading.Event()  # there is something for the keeper to do
        self._count = 0
        self._writing_back = threading.Lock()
        self._inode = 0
        self._pending: dict[str, _End] = {}  # ends that are still to be written, by key
        self._ends: Ends | None = None
        self._calls = self._open()
        self._owner = owner or marks.owner(self._lock_file)
        self._bring_in(self._gone)
        try:
            threading.Thread(target=self._keep_up, name="journal", daemon=True).start()
        except RuntimeError as error:
            self._calls.close()
            raise self._unusable(error) from error

    def begin(self, key: str, digest: str, form: str, takes_over: Callable[[Row], bool]) -> tuple[Row | None, int]:
        """Starts a call, or says what stands in its way: (None, number of the attempt) or (row, 0).

        `takes_over` says of a row that is there already whether the call runs all the same; it is asked within a transaction.
        """
        now = time.time()
        looked = ""  # the dead process of which we know that its last ends are in the file

        def write(calls: sqlite3.Connection) -> tuple[Row | None, int]:
            new = (key, digest, form, STARTED, 1, self._owner, now, now + self.bounds.seconds)
            cursor = calls.execute(
                f"INSERT INTO calls {_NEW} ON CONFLICT (key) DO NOTHING",
                new,
            )
            if cursor.rowcount == 1:
                return None, 1
            if key in self._pending:
                self._write_pending(calls)
            with _transaction(calls):
                row = _row(calls, key)
                if row is not None and row.state == STARTED and row.owner != looked and not self.ours(row) and not self.lives(row):
                    return row, _DEAD
                if row is not None and not takes_over(row):
                    return row, 0
                if row is not None and key in self._pending:
                    return row, _ENDED
                attempt = 1 if row is None else row.attempts + 1
                calls.execute(
                    f"INSERT OR REPLACE INTO calls {_NEW}",
                    (key, digest, form, STARTED, attempt, *new[5:]),
                )
                return None, attempt

        while True:
            row, attempt = self._do(write)
            if row is not None and attempt == _DEAD:
                looked = row.owner
                self._bring_in(looked.__eq__)
            elif attempt != _ENDED:
                return row, attempt

    def _gone(self, owner: str) -> bool:
        return not marks.same(owner, self._owner) and not marks.lives(owner, self._lock_file)

    def _bring_in(self, which: Callable[[str], bool]) -> None:
        """Writes into the file what processes have noted that are gone."""
        try:
            for path, owner in ends.left(self.path).items():
                if which(owner):
                    for end in ends.read(path):
                        values = (FINISHED, end.answer, end.refs, end.ended, end.key, owner, STARTED, end.attempt)
                        self._do(partial(_execute, f"UPDATE calls SET {_NOTED}", values))
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def finish(self, key: str, answer: bytes, refs: str = "", attempt: int | None = None) -> None:
        """Keeps the answer of a call that this process began; one that is too large is not kept, but that it came is.

        With `attempt`, the number that `begin` gave, it is noted, in a tenth of the time, and its row follows with those of other calls.
        """
        kept = answer if len(answer) <= self.bounds.answer else None
        end = _End((FINISHED, kept, refs, time.time(), key, self._owner, STARTED))
        noted = None
        if attempt is not None and not self._power and len(answer) <= LONGEST_ANSWER:
            noted = self._note(key, attempt, answer, refs)
        if noted is not None:
            self._later(key, replace(end, noted=noted))
            self._make_room()
        else:
            self._end(key, end, durable=self._power)

    def fail(self, key: str, error: bytes | None) -> None:
        """Keeps that a call which this process began has failed, and its error, for those who waited for it."""
        kept = error if error is None or len(error) <= self.bounds.answer else None
        self._end(key, _End((FAILED, kept, "", time.time(), key, self._owner, STARTED)), durable=False)

    def keep(self, key: str, form: str, attempts: int, answer: bytes, refs: str = "") -> None:
        """Keeps the answer of a call that was not begun here, of one whose key nobody else has: soon, unless this process dies before."""
        if len(answer) > self.bounds.answer:
            return
        self._make_room()
        now = time.time()
        row = (key, "", form, FINISHED, attempts, self._owner, now, now + self.bounds.seconds, now, refs, answer)
        self._later(key, _End(row, f"INSERT OR REPLACE INTO calls {_WHOLE}"))

    def _end(self, key: str, end: _End, *, durable: bool) -> None:
        try:
            self._do(lambda calls: _durably(calls, end.statement, end.values, durable))
        except BaseException:
            # Others would wait for it for as long as this process lives.
            self._later(key, end)
            raise

    def _note(self, key: str, attempt: int, answer: bytes, refs: str) -> Book | None:
        """Makes an answer safe from the death of this process; None where that is not possible."""
        try:
            if self._ends is None:
                with self._lock:
                    self._ends = self._ends or Ends(self.path, self._owner)
            return self._ends.write(End(key, attempt, time.time(), refs, answer))
        except OSError:
            return None

    def _later(self, key: str, end: _End) -> None:
        if end.size > LONGEST_ANSWER and self._pending and sum(end.size for end in list(self._pending.values())) > _MOST_PENDING:
            end = end.without_answer()
        self._pending[key] = end
        if not self._work.is_set():
            self._work.set()

    def _make_room(self) -> None:
        """Where calls end faster than their rows are written, those that end wait for it."""
        if len(self._pending) >= _MOST_PENDING_ROWS:
            self._settle()

    def _settle(self) -> None:
        """Writes the ends that are pending."""
        if self._pending:
            self._do(self._write_pending)

    def _write_pending(self, calls: sqlite3.Connection) -> None:
        pending = list(self._pending.items())
        with _transaction(calls):
            for _, end in pending:
                calls.execute(end.statement, end.values)
        for key, end in pending:
            if self._pending.get(key) is end:
                del self._pending[key]
            if end.noted is not None and self._ends is not None:
                self._ends.done(end.noted)

    def look(self, key: str) -> Row | None:
        """What is known of a key."""
        self._settle()
        return self._do(lambda calls: _row(calls, key))

    def write(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Runs statements of the caller's own as one transaction, which survives what an answer survives."""

        def transaction(calls: sqlite3.Connection) -> T:
            if self._power:
                calls.execute("PRAGMA synchronous = FULL")
            try:
                with _transaction(calls):
                    return action(calls)
            finally:
                if self._power:
                    calls.execute("PRAGMA synchronous = NORMAL")

        return self._do(transaction)

    def execute(self, statement: str, values: tuple[Any, ...]) -> int:
        """Runs one statement of the caller's own, which survives what an answer survives; the number of rows that it changed."""
        return self._do(lambda calls: _durably(calls, statement, values, self._power))

    def close(self) -> None:
        """Closes the file. Rows of calls that still run stay as they are: their process is about to be gone."""
        with contextlib.suppress(JournalError):
            self._settle()
        self._closed.set()
        self._work.set()
        with self._lock:
            self._calls.close()
            if self._ends is not None:
                self._ends.close()

    # --- the file ---

    def _do(self, action: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            self._count += 1
            if self._count % _WRITE_BACK_EVERY == 0:
                self._work.set()
            self._follow()
            try:
                return action(self._calls)
            except sqlite3.OperationalError as error:
                raise self._unusable(error) from error
            except sqlite3.DatabaseError as error:
                if self._closed.is_set():
                    raise self._unusable(error) from error
                # It was damaged while we had it open. What it held is set aside; the calls from now on are kept.
                self._calls.close()
                self._calls = self._open()
                try:
                    return action(self._calls)
                except sqlite3.Error as again:
                    raise self._unusable(again) from again

    def _unusable(self, error: Exception) -> JournalError:
        return JournalError(f"the journal {self.path} cannot be used: {error}; make room there or let it be written, or name another file")

    def _open(self) -> sqlite3.Connection:
        try:
            calls, self._inode = files.opened(self.path, self._lock_file)
            return calls
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    @property
    def _lock_file(self) -> Path:
        return Path(f"{self.path}.lock")

    def ours(self, row: Row) -> bool:
        """Whether this process has run that call last."""
        return marks.same(row.owner, self._owner)

    def lives(self, row: Row) -> bool:
        """Whether the process that has run that call last may still run."""
        return marks.lives(row.owner, self._lock_file)

    # --- bounds ---

    def _keep_up(self) -> None:
        tidied, written_back = time.monotonic(), 0
        while True:
            self._work.wait(_TIDY_SECONDS)
            self._closed.wait(_BATCH_SECONDS)  # what ends meanwhile goes with it
            self._work.clear()
            if self._closed.is_set():
                return
            try:
                self._settle()
                if time.monotonic() - tidied >= _TIDY_SECONDS:
                    tidied = time.monotonic()
                    self.tidy()
                elif self._count - written_back >= _WRITE_BACK_EVERY:
                    written_back = self._count
                    with contextlib.closing(files.connect(self.path)) as calls:
                        self._write_back(calls)
            except (sqlite3.Error, OSError, JournalError) as error:
                log.warning("the journal %s could not be tidied: %s", self.path, error)
                self._closed.wait(_REST_SECONDS)
                self._work.set()

    def _follow(self) -> None:
        """Opens the file that is there now, if that is another one: somebody has found it damaged and set it aside, or has removed it."""
        try:
            there = self.path.stat().st_ino
        except FileNotFoundError:
            there = 0
        except OSError as error:
            raise self._unusable(error) from error
        if there != self._inode and not self._closed.is_set():
            self._calls.close()
            self._calls = self._open()

    def tidy(self) -> None:
        """Forgets what has expired, then the oldest that ended while there is too much; writes the log back."""
        with contextlib.closing(files.connect(self.path)) as calls:
            self._bring_in(self._gone)
            now = time.time()

            def expired(state: int, expires: float, owner: str) -> bool:
                return expires < now and not (state == STARTED and marks.lives(owner, self._lock_file))

            self._forget(calls, expired, lambda: True)
            self._forget(calls, lambda state, *_: state != STARTED, lambda: self._too_much(calls))
            self._forget_lineages(calls, now)
            self._write_back(calls)

    def _forget_lineages(self, calls: sqlite3.Connection, now: float) -> None:
        """Forgets the lineages of sessions whose processes are gone, and which nobody has rebuilt for as long as anything is kept."""
        for session, owner, touched in calls.execute("SELECT session, owner, touched FROM lineages").fetchall():
            if processes.lives(owner):
                if touched < now - _TOUCH_SECONDS:
                    calls.execute("UPDATE lineages SET touched = ? WHERE session = ? AND owner = ?", (now, session, owner))
            elif touched < now - self.bounds.seconds:
                with _transaction(calls):
                    for table in LINEAGES:
                        calls.execute(f"DELETE FROM {table} WHERE session = ?", (session,))

    def _write_back(self, calls: sqlite3.Connection) -> None:
        """Brings what is in the log into the file, so that the log can begin anew."""
        with self._writing_back:  # two at once would refuse each other
            calls.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            with contextlib.suppress(FileNotFoundError):
                if files.log_of(self.path).stat().st_size > _LONGEST_LOG:
                    # Calls come so fast that there is no moment for that: they wait while the last bit of it is done.
                    calls.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    def _too_much(self, calls: sqlite3.Connection) -> bool:
        [[pages]], [[free]], [[size]] = (calls.execute(f"PRAGMA {name}") for name in ("page_count", "freelist_count", "page_size"))
        # Lineages have bounds of their own, and are no reason to forget answers.
        [[lineages]] = calls.execute("SELECT coalesce(sum(size), 0) FROM lineage_records")
        if (pages - free) * size - lineages > self.bounds.bytes:
            return True
        [[rows]] = calls.execute("SELECT count(*) FROM calls")
        return bool(rows > self.bounds.rows)

    def _forget(self, calls: sqlite3.Connection, which: Callable[[int, float, str], bool], needed: Callable[[], bool]) -> None:
        """Deletes rows in small steps, the oldest first, until one is to be kept. Rows that run are passed over. They lie in the order of
        their age."""
        after = 0
        while not self._closed.is_set() and needed():
            oldest = calls.execute(_OLDEST, (after, _STEP_ROWS)).fetchall()
            going = [number for number, *row in oldest if which(*row)]
            for number in going:
                calls.execute("DELETE FROM calls WHERE rowid = ?", (number,))
            passed = [number for number, state, *_ in oldest if state == STARTED and number not in going]
            if not oldest or len(going) + len(passed) < len(oldest):
                return
            after = oldest[-1][0]


@contextlib.contextmanager
def _transaction(calls: sqlite3.Connection) -> Iterator[None]:
    calls.execute("BEGIN IMMEDIATE")
    try:
        yield
        calls.execute("COMMIT")
    except BaseException:
        # A full disk may have undone it already, or left it open.
        if calls.in_transaction:
            calls.execute("ROLLBACK")
        raise


def _durably(calls: sqlite3.Connection, statement: str, values: tuple[Any, ...], durable: bool) -> int:
    if durable:
        calls.execute("PRAGMA synchronous = FULL")
    try:
        return calls.execute(statement, values).rowcount
    finally:
        if durable:
            calls.execute("PRAGMA synchronous = NORMAL")


def _execute(statement: str, values: tuple[Any, ...], calls: sqlite3.Connection) -> None:
    calls.execute(statement, values)


def _row(calls: sqlite3.Connection, key: str) -> Row | None:
    # What has expired is as good as forgotten, whenever that is done.
    known = f"SELECT {_ROW} FROM calls WHERE key = ? AND (state = ? OR expires > ?)"
    found: Any = calls.execute(known, (key, STARTED, time.time())).fetchone()
    return None if found is None else Row(*found)
