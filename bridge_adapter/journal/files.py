"""The SQLite file behind the journal: made, checked, brought to today's version; set aside when it is damaged."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from pathlib import Path

from bridge_adapter.journal.schema import APPLICATION, MIGRATIONS

log = logging.getLogger("bridge_adapter.journal")

_BUSY_SECONDS = 5.0


class _Unreadable(Exception):
    """The check of the file found this."""


def opened(path: Path, lock_file: Path) -> tuple[sqlite3.Connection, int]:
    """A connection to the journal, made or mended if need be, and the inode of its file. Raises OSError and sqlite3.Error."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One process at a time looks whether the file is in order, and sets it aside if not.
    with open(os.open(lock_file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        calls = _in_order(path)
        return calls, path.stat().st_ino


def connect(path: Path) -> sqlite3.Connection:
    """A connection for one user at a time; every statement is a transaction of its own."""
    calls = _connected(path)
    try:
        _prepare(calls)
    except BaseException:
        calls.close()
        raise
    return calls


def log_of(path: Path) -> Path:
    """The write-ahead log of a journal."""
    return Path(f"{path}-wal")


def _in_order(path: Path) -> sqlite3.Connection:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size == 0 and not log_of(path).exists():
            path.unlink()  # somebody was killed between making it and writing into it
    _make(path)
    try:
        return _checked(path)
    except sqlite3.OperationalError:
        raise
    except (sqlite3.DatabaseError, _Unreadable) as error:
        aside = _set_aside(path)
        log.warning("the journal %s is damaged (%s) and was set aside as %s; a new one begins", path, error, aside)
        _make(path)
        return _checked(path)


def _make(path: Path) -> None:
    """Makes the file, with the mode that its log will have, too. One that is there is not opened: closing it ends SQLite's locks."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _checked(path: Path) -> sqlite3.Connection:
    calls = _connected(path)
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


def _set_aside(path: Path) -> Path:
    """Renames the file and its log, so that somebody can look at them. Never deletes them."""
    for number in range(1, 1000):
        aside = Path(f"{path}.damaged-{number}")
        if not aside.exists():
            break
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    return aside


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _prepare(calls: sqlite3.Connection) -> None:
    calls.execute("PRAGMA page_size = 1024")  # of a new file: small rows, so half the time of the default
    calls.execute("PRAGMA journal_mode = WAL").fetchall()
    # Survives the death of processes; `power` syncs what must survive more. Checkpoints are the keeper's.
    calls.execute("PRAGMA synchronous = NORMAL")
    calls.execute("PRAGMA wal_autocheckpoint = 0")
