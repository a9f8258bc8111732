"""Where lineages are kept: tables of their own in the journal's file, written before the answer that they tell of leaves.

Rows of a session stay while its process lives, and for as long as the journal keeps anything afterwards.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from bridge_adapter import processes
from bridge_adapter.journal.records import JournalError
from bridge_adapter.lineage.records import Checkpoint, History, Record

if TYPE_CHECKING:
    from bridge_adapter.journal.store import Journal

_COLUMNS = "seq, kind, label, refs, given, digests, raised, count, last, key, reads, size, body"


class Store:
    """The lineages in one journal. Thread-safe. Raises JournalError when the file cannot be used."""

    def __init__(self, journal: Callable[[], Journal]) -> None:
        self._journal = journal
        self._own = processes.token()

    def open(self, session: str) -> History:
        """What is known of a session, which from now on lives in this process."""

        def read(calls: sqlite3.Connection) -> History:
            calls.execute(
                "INSERT INTO lineages (session, owner, touched) VALUES (?, ?, ?) "
                "ON CONFLICT (session) DO UPDATE SET owner = excluded.owner, touched = excluded.touched",
                (session, self._own, time.time()),
            )
            [[broken, rebuilds]] = calls.execute("SELECT broken, rebuilds FROM lineages WHERE session = ?", (session,)).fetchall()
            rows = calls.execute(f"SELECT {_COLUMNS} FROM lineage_records WHERE session = ? ORDER BY seq", (session,)).fetchall()
            lost = calls.execute("SELECT ref, reason FROM lineage_lost WHERE session = ?", (session,)).fetchall()
            kept = calls.execute("SELECT ref, seq, count, value FROM lineage_checkpoints WHERE session = ?", (session,)).fetchall()
            return History([_record(row) for row in rows], dict(lost), {row[0]: Checkpoint(*row) for row in kept}, broken, rebuilds)

        return self._journal().write(read)

    def add(self, session: str, record: Record) -> None:
        """Keeps one record more."""
        values = (
            *(record.seq, record.kind, record.label, json.dumps(record.refs), json.dumps(record.given), json.dumps(record.digests)),
            *(record.raised, record.count, record.last, record.key, record.reads, record.size, record.body),
        )
        marks = ", ".join("?" * (len(values) + 1))
        self._write(f"INSERT INTO lineage_records (session, {_COLUMNS}) SELECT {marks}", (session, *values), session)

    def count(self, session: str, record: Record) -> None:
        """Keeps how many items a STEP has taken by now."""
        values = (record.count, record.last, record.key, session, record.seq)
        self._write("UPDATE lineage_records SET count = ?, last = ?, key = ? WHERE session = ? AND seq = ?", values, session)

    def checkpoint(self, session: str, kept: Checkpoint) -> None:
        """Keeps the state of an object in the place of its last one."""
        values = (session, kept.ref, kept.seq, kept.count, kept.value)
        self._write("INSERT OR REPLACE INTO lineage_checkpoints (session, ref, seq, count, value) SELECT ?, ?, ?, ?, ?", values, session)

    def lose(self, session: str, lost: dict[str, str]) -> None:
        """Keeps why some refs will not come back."""
        rows = [(session, ref, reason) for ref, reason in lost.items()]
        statement = "INSERT OR IGNORE INTO lineage_lost (session, ref, reason) VALUES (?, ?, ?)"
        self._write_all(session, statement, rows)

    def size(self) -> int:
        """The bytes of all records of all sessions."""

        def read(calls: sqlite3.Connection) -> int:
            [[size]] = calls.execute("SELECT coalesce(sum(size), 0) FROM lineage_records")
            return int(size)

        return self._journal().write(read)

    def unlose(self, session: str, ref: str) -> None:
        """Forgets a ref that nobody can ask for any more."""
        self._write_all(session, "DELETE FROM lineage_lost WHERE session = ? AND ref = ?", [(session, ref)])

    def drop(self, session: str, numbers: Iterable[int]) -> None:
        """Forgets records that nothing depends on."""
        rows = [(session, number) for number in numbers]
        self._write_all(session, "DELETE FROM lineage_records WHERE session = ? AND seq = ?", rows)

    def rebuilding(self, session: str, attempts: int) -> None:
        """Keeps how many rebuilds have begun and not ended."""
        self._journal().execute("UPDATE lineages SET rebuilds = ? WHERE session = ?", (attempts, session))

    def give_up(self, session: str, reason: str) -> None:
        """From now on the session cannot be rebuilt: its records go, the reason stays."""

        def write(calls: sqlite3.Connection) -> None:
            # In a journal that was replaced nothing is known of the session.
            values = (session, self._own, time.time())
            calls.execute("INSERT OR IGNORE INTO lineages (session, owner, touched) VALUES (?, ?, ?)", values)
            self._check(calls, session)
            for table in ("lineage_records", "lineage_checkpoints"):
                calls.execute(f"DELETE FROM {table} WHERE session = ?", (session,))
            calls.execute("UPDATE lineages SET broken = ? WHERE session = ?", (reason, session))

        self._journal().write(write)

    def forget(self, session: str) -> None:
        """The session has ended."""

        def write(calls: sqlite3.Connection) -> None:
            for table in ("lineage_records", "lineage_checkpoints", "lineage_lost", "lineages"):
                calls.execute(f"DELETE FROM {table} WHERE session = ?", (session,))

        self._journal().write(write)

    def _write(self, statement: str, values: tuple[Any, ...], session: str) -> None:
        """Writes while the session lives here: another process that has rebuilt it meanwhile goes on with the history as it found it."""
        held = "EXISTS (SELECT 1 FROM lineages WHERE session = ? AND owner = ?)"
        word = "AND" if " WHERE " in statement else "WHERE"
        if self._journal().execute(f"{statement} {word} {held}", (*values, session, self._own)) != 1:
            raise _not_ours(session)

    def _write_all(self, session: str, statement: str, rows: list[tuple[Any, ...]]) -> None:
        """The same for several rows."""

        def write(calls: sqlite3.Connection) -> None:
            self._check(calls, session)
            calls.executemany(statement, rows)

        self._journal().write(write)

    def _check(self, calls: sqlite3.Connection, session: str) -> None:
        if not calls.execute("SELECT 1 FROM lineages WHERE session = ? AND owner = ?", (session, self._own)).fetchall():
            raise _not_ours(session)


def _not_ours(session: str) -> JournalError:
    return JournalError(f"the session {session} is not this process's any more: another one has rebuilt it, or its journal was replaced")


def _record(row: tuple[Any, ...]) -> Record:
    seq, kind, label, refs, given, digests, raised, count, last, key, reads, size, body = row
    lists = (json.loads(refs), json.loads(given), json.loads(digests))
    return Record(seq, kind, label, *lists, raised, count, key, bool(reads), last, bytes(body), size)
