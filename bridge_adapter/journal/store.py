"""The journal's file: one row per key, in SQLite with a write-ahead log, so that it survives kill -9 and several processes share it.

Two short transactions per call: `begin` and `finish` (or `fail`); one, `keep`, where nobody can come with the same key meanwhile.
Everything else - expiry, bounds, checkpoints - is done by a thread with a connection of its own, in steps so small that no call waits long
for one.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from bridge_adapter import processes
from bridge_adapter.journal.records import FAILED, FINISHED, STARTED, JournalError, Row
from bridge_adapter.journal.schema import APPLICATION, LINEAGES, MIGRATIONS

log = logging.getLogger("bridge_adapter.journal")

Durability = Literal["process", "power"]
_BUSY_SECONDS = 5.0
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
_OLDEST = "SELECT rowid, state, expires, owner FROM calls WHERE rowid > ? ORDER BY rowid LIMIT ?"
_ROW = "state, digest, form, attempts, owner, answer, refs"


class Journal:
    """An open journal. Thread-safe. Raises JournalError from every method when the file cannot be used.

    `owner`: for whom it begins calls, this process unless somebody else is named.
    """

    def __init__(
        self, path: str | os.PathLike[str], durability: Durability = "process", bounds: Bounds | None = None, owner: str | None = None
    ) -> None:
        self.path = Path(path)
        self.bounds = bounds or Bounds()
        self._power = durability == "power"
        self._lock = threading.Lock()
        self._owner = owner or processes.token()
        self._closed = threading.Event()
        self._work = threading.Event()  # there is something for the keeper to do
        self._count = 0
        self._writing_back = threading.Lock()
        self._inode = 0
        self._owed: set[str] = set()  # keys whose calls have ended, which could not be written
        self._calls = self._open()
        try:
            threading.Thread(target=self._tidy_up, name="journal", daemon=True).start()
        except RuntimeError as error:
            self._calls.close()
            raise self._unusable(error) from error

    def begin(self, key: str, digest: str, form: str, takes_over: Callable[[Row], bool]) -> tuple[Row | None, int]:
        """Starts a call, or says what stands in its way: (None, number of the attempt) or (row, 0).

        `takes_over` says of a row that is there already whether the call runs all the same; it is asked within a transaction.
        """
        now = time.time()

        def write(calls: sqlite3.Connection) -> tuple[Row | None, int]:
            new = (key, digest, form, STARTED, 1, self._owner, now, now + self.bounds.seconds)
            cursor = calls.execute(
                f"INSERT INTO calls {_NEW} ON CONFLICT (key) DO NOTHING",
                new,
            )
            if cursor.rowcount == 1:
                self._owed.discard(key)
                return None, 1
            with _transaction(calls):
                row = _row(calls, key)
                if row is not None and not takes_over(row):
                    return row, 0
                attempt = 1 if row is None else row.attempts + 1
                calls.execute(
                    f"INSERT OR REPLACE INTO calls {_NEW}",
                    (key, digest, form, STARTED, attempt, *new[5:]),
                )
                self._owed.discard(key)
                return None, attempt

        return self._do(write)

    def finish(self, key: str, answer: bytes, refs: str = "") -> None:
        """Keeps the answer of a call that this process began; one that is too large is not kept, but that it came is."""
        kept = answer if len(answer) <= self.bounds.answer else None
        self._end(key, FINISHED, kept, refs, durable=self._power)

    def fail(self, key: str, error: bytes | None) -> None:
        """Keeps that a call which this process began has failed, and its error, for those who waited for it."""
        self._end(key, FAILED, error if error is None or len(error) <= self.bounds.answer else None, "", durable=False)

    def keep(self, key: str, form: str, attempts: int, answer: bytes, refs: str = "") -> None:
        """Keeps the answer of a call that was not begun here: of one whose key nobody else has."""
        if len(answer) > self.bounds.answer:
            return
        now = time.time()
        row = (key, "", form, FINISHED, attempts, self._owner, now, now + self.bounds.seconds, now, refs, answer)
        self._do(lambda calls: self._durably(calls, f"INSERT OR REPLACE INTO calls {_WHOLE}", row, self._power))

    def _end(self, key: str, state: int, answer: bytes | None, refs: str, *, durable: bool) -> None:
        values = (state, answer, refs, time.time(), key, self._owner, STARTED)
        try:
            self._do(lambda calls: self._durably(calls, f"UPDATE calls SET {_END}", values, durable))
        except BaseException:
            # Others would wait for it for as long as this process lives.
            self._owed.add(key)
            self._work.set()
            raise

    def _settle(self) -> None:
        """Writes of calls that have ended at least that they have."""
        for key in list(self._owed):
            self._do(partial(self._write_end, key))

    def _write_end(self, key: str, calls: sqlite3.Connection) -> None:
        if key in self._owed:  # it may have been begun again
            calls.execute(f"UPDATE calls SET {_END}", (FAILED, None, "", time.time(), key, self._owner, STARTED))
            self._owed.discard(key)

    def _durably(self, calls: sqlite3.Connection, statement: str, values: tuple[Any, ...], durable: bool) -> int:
        if durable:
            calls.execute("PRAGMA synchronous = FULL")
        try:
            return calls.execute(statement, values).rowcount
        finally:
            if durable:
                calls.execute("PRAGMA synchronous = NORMAL")

    def look(self, key: str) -> Row | None:
        """What is known of a key."""
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
        return self._do(lambda calls: self._durably(calls, statement, values, self._power))

    def close(self) -> None:
        """Closes the file. Rows of calls that still run stay as they are: their process is about to be gone."""
        self._closed.set()
        self._work.set()
        with self._lock:
            self._calls.close()

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
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # One process at a time looks whether the file is in order, and sets it aside if not.
            with open(os.open(f"{self.path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                calls = self._opened()
                self._inode = self.path.stat().st_ino
                return calls
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def _opened(self) -> sqlite3.Connection:
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size == 0 and not self._wal().exists():
                self.path.unlink()  # somebody was killed between making it and writing into it
        self._make()
        try:
            return self._checked()
        except sqlite3.OperationalError:
            raise
        except (sqlite3.DatabaseError, _Unreadable) as error:
            aside = self._set_aside()
            log.warning("the journal %s is damaged (%s) and was set aside as %s; a new one begins", self.path, error, aside)
            self._make()
            return self._checked()

    def _make(self) -> None:
        """Makes the file, with the mode that its log will have, too. One that is there is not opened: closing it ends SQLite's locks."""
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))

    def _checked(self) -> sqlite3.Connection:
        calls = _connected(self.path)
        try:
            [[version]], [[application]] = calls.execute("PRAGMA user_version"), calls.execute("PRAGMA application_id")
            [[tables]] = calls.execute("SELECT count(*) FROM sqlite_master")
            if version > len(MIGRATIONS):
                raise sqlite3.OperationalError(
                    f"it is of version {version}, made by a newer bridge-adapter; this one knows versions up to {len(MIGRATIONS)}"
                )
            if (version or tables) and application != APPLICATION:
                raise sqlite3.OperationalError("it is a SQLite file, but not a journal; nothing was changed in it")
            _prepare(calls)
            [[found]] = calls.execute("PRAGMA quick_check(1)")
            if found != "ok":
                raise _Unreadable(found)
            for number, script in enumerate(MIGRATIONS[version:], version + 1):
                marks = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {number}"
                calls.executescript(f"BEGIN IMMEDIATE; {script}; {marks}; COMMIT")
        except BaseException:
            calls.close()
            raise
        return calls

    def _wal(self) -> Path:
        return Path(f"{self.path}-wal")

    def _set_aside(self) -> Path:
        """Renames the file and its log, so that somebody can look at them. Never deletes them."""
        for number in range(1, 1000):
            aside = Path(f"{self.path}.damaged-{number}")
            if not aside.exists():
                break
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{self.path}{suffix}", f"{aside}{suffix}")
        return aside

    # --- bounds ---

    def _tidy_up(self) -> None:
        tidied = time.monotonic()
        while True:
            self._work.wait(_TIDY_SECONDS)
            self._work.clear()
            if self._closed.is_set():
                return
            try:
                self._settle()
                if time.monotonic() - tidied >= _TIDY_SECONDS:
                    tidied = time.monotonic()
                    self.tidy()
                else:
                    with contextlib.closing(connect(self.path)) as calls:
                        self._write_back(calls)
            except (sqlite3.Error, OSError, JournalError) as error:
                log.warning("the journal %s could not be tidied: %s", self.path, error)

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
        with contextlib.closing(connect(self.path)) as calls:
            now = time.time()

            def expired(state: int, expires: float, owner: str) -> bool:
                return expires < now and not (state == STARTED and processes.lives(owner))

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
                if self._wal().stat().st_size > _LONGEST_LOG:
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


class _Unreadable(Exception):
    """The check of the file found this."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection for one user at a time; every statement is a transaction of its own."""
    calls = _connected(path)
    try:
        _prepare(calls)
    except BaseException:
        calls.close()
        raise
    return calls


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _prepare(calls: sqlite3.Connection) -> None:
    calls.execute("PRAGMA page_size = 1024")  # of a new file: small rows, so half the time of the default
    calls.execute("PRAGMA journal_mode = WAL").fetchall()
    # Survives the death of processes; `power` syncs what must survive more. Checkpoints are the keeper's.
    calls.execute("PRAGMA synchronous = NORMAL")
    calls.execute("PRAGMA wal_autocheckpoint = 0")


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


def _row(calls: sqlite3.Connection, key: str) -> Row | None:
    # What has expired is as good as forgotten, whenever that is done.
    known = f"SELECT {_ROW} FROM calls WHERE key = ? AND (state = ? OR expires > ?)"
    found: Any = calls.execute(known, (key, STARTED, time.time())).fetchone()
    return None if found is None else Row(*found)
