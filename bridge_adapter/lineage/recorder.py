"""What one session remembers of itself: which calls are recorded, which objects cannot come back, and why.

A call is recorded when it may be made again and made refs or was given some. One that may not be made again has perhaps changed what it was
given, and all that hangs together with that, unless the state of these objects shows that it has not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bridge_adapter.errors import BridgeError, Unavailable
from bridge_adapter.journal.records import JournalError
from bridge_adapter.lineage.digest import Digest, digest
from bridge_adapter.lineage.records import (
    CALL,
    MOST_BYTES,
    MOST_BYTES_OF_ALL,
    MOST_LOST,
    MOST_RECORDS,
    RELEASE,
    STEP,
    Checkpoint,
    History,
    Options,
    Record,
)

if TYPE_CHECKING:
    from bridge_adapter.lineage.store import Store

log = logging.getLogger("bridge_adapter.lineage")

_CHECKPOINT_SECONDS = 1.0
_LARGE, _LOOK_EVERY = 1 << 20, 50  # how often a look is worth while at what all sessions have recorded
NOT_MARKED = "was not marked idempotent ({})".format(
    "mark it idempotent: true if it may be made again, mutates: false if it only reads, or create the session with replayable: true"
)


class NotRecorded(BridgeError):
    """The call has run, and that could not be recorded: after a crash its effects would be missing."""

    category = "unavailable"


@dataclass(slots=True)
class Done:
    """What came of a call.

    `refs`: those in its answer, in order; `again`: it may be made again; `hindrance`: why it cannot be, all the same; `value`: its
    result, or the type of its exception in `raised`.
    """

    label: str
    again: bool
    reads: bool
    given: list[str]
    refs: list[str] = field(default_factory=list)
    value: Any = None
    raised: str = ""
    hindrance: str = ""
    key: str = ""


class Lineage:
    """The lineage of a session that lives in this process, used under its lock. `object_of` tells the object of a ref, or None."""

    def __init__(self, session: str, store: Store, options: Options, object_of: Callable[[str], Any]) -> None:
        self.session = session
        self.options = options
        self.ready = False
        self.broken = ""
        self.lost: dict[str, str] = {}
        self.records: list[Record] = []
        self._store = store
        self._object_of = object_of
        self._released: set[str] = set()
        self._known: set[str] = {"a function"}
        self._links: set[frozenset[str]] = set()  # objects that calls which are not recorded have brought together
        self._size = 0
        self._states: dict[str, str] = {}
        self._stale: set[str] = set()  # objects with which a recorded call had to do since then, and so may have changed others
        self._unsaved = False
        self._next = 1
        self._checkpoints: dict[str, tuple[float, int]] = {}  # of each object: when, after how many steps and calls of it
        self._worked: dict[str, int] = {}
        self.answered = ("", b"")  # the last call with a key: who makes it again has not got its answer

    # --- the history ---

    def load(self) -> History:
        """What is known of the session from an earlier process. Raises Unavailable."""
        try:
            return self._store.open(self.session)
        except JournalError as error:
            raise Unavailable(f"the session {self.session} is to be recovered, but {error}") from error

    def resume(self, history: History, lost: dict[str, str]) -> None:
        """Goes on from a history that was just run again; `lost`: what did not come back this time."""
        self.records = history.records
        self.broken = history.broken
        self.lost = {**lost, **history.lost}
        self._next = 1 + max((record.seq for record in self.records), default=0)
        self._known.update(self.lost)
        for record in self.records:
            record.body = b""
            self._size += record.size
            self._known.update(record.refs)
            if record.kind == RELEASE:
                self._released.update(record.given)
        self._save(lambda: self._store.lose(self.session, lost))
        self._stale = self._known - self.lost.keys()
        self._drop_dead(set(lost))
        self._save(lambda: self._store.rebuilding(self.session, 0))
        self.ready = True

    def rebuilding(self, attempts: int) -> None:
        """Notes how many rebuilds have begun and not ended. Raises Unavailable."""
        try:
            self._store.rebuilding(self.session, attempts)
        except JournalError as error:
            raise Unavailable(f"the session {self.session} is to be recovered, but {error}") from error

    def settle(self) -> None:
        """Before a call runs: what is to be written of the last one is written, or the call refused. Raises Unavailable."""
        if self._unsaved:
            try:
                self._store.give_up(self.session, self.broken)
                self._unsaved = False
            except JournalError as error:
                raise Unavailable(f"nothing may change in the session {self.session} unrecorded, and {error}") from error

    def forget(self) -> None:
        """The session has ended: nothing of it is needed any more."""
        try:
            self._store.forget(self.session)
        except JournalError as error:
            log.warning("the lineage of the session %s stays for now: %s", self.session, error)

    def why(self, ref: str) -> str:
        """Why a ref of an earlier process did not come back; "" where nothing is known of it."""
        return self.lost.get(ref) or self.broken

    # --- what happens in the session ---

    def look(self, given: list[str]) -> None:
        """Before a call that is not to be recorded: notes the states of all that it may change, where they are not known."""
        if not self.broken:
            together = self.related(given)
            if not together.isdisjoint(self._stale):
                self._states.update({ref: self._state(ref) or "" for ref in together})
                self._stale -= together

    def ran(self, done: Done, body: Callable[[], bytes]) -> None:
        """Keeps what a call was and did. Raises NotRecorded."""
        new = [ref for ref in dict.fromkeys(done.refs) if ref not in self._known]
        given = list(dict.fromkeys(done.given))
        if self.broken or not (new or (given and not done.reads)):
            return
        foreign = dict.fromkeys(
            (ref for ref in given if ref not in self._known), "it was made before its session was one that is recovered"
        )
        self._lose(foreign)
        gone = next((self.lost[ref] for ref in given if ref in self.lost), "")
        hindered = bool(done.hindrance) or not (done.again or done.reads)
        if (hindered or gone) and len({*new, *given}) > 1:
            self._links.add(frozenset({*new, *given}))
        if hindered:
            why = done.hindrance or NOT_MARKED
            self._lose(dict.fromkeys(new, f"it was made by `{done.label}`, which {why}"))
            if not done.reads:
                self._lose(dict.fromkeys(self._changed(given), f"it was, or may have been, changed by `{done.label}`, which {why}"))
        elif gone:
            self._lose(dict.fromkeys({*new, *self.related(given)}, f"`{done.label}` was given an object that cannot be rebuilt: {gone}"))
        else:
            self._record(done, new, given, body)

    def _record(self, done: Done, new: list[str], given: list[str], body: Callable[[], bytes]) -> None:
        digests = {ref: text for ref in (*new, *given) if (text := self._state(ref)) is not None}
        if not done.raised:
            digests[""] = _text(digest(done.value))
        data = body()
        record = Record(
            *(self._next, CALL, done.label, done.refs, given, digests, done.raised),
            key=done.key,
            reads=done.reads,
            body=data,
            size=len(data),
        )
        self._add(record)
        self._stale |= record.touches
        for ref in given:
            self._check_point(ref, record)

    def stepped(self, ref: str, count: int, key: str) -> None:
        """Keeps that items were taken from a held stream, or given back. Raises NotRecorded."""
        if self.broken or not count or ref in self.lost or ref not in self._known:
            return
        if self.records and self.records[-1].kind == STEP and self.records[-1].given == [ref]:
            record = self.records[-1]
            record.count, record.last, record.key = record.count + count, count, key
            self._save(lambda: self._store.count(self.session, record))
        else:
            record = Record(self._next, STEP, "stream_next", given=[ref], count=count, last=count, key=key)
            self._add(record)
        self._check_point(ref, record, count)

    def drop_objects(self, refs: Iterable[str], label: str, why: str) -> None:
        """Keeps that something may change these objects, and all that hangs together with them, from now on."""
        if not self.broken:
            self._lose(dict.fromkeys(self.related(refs), f"it was, or may have been, changed by `{label}`, which {why}"))

    def released(self, ref: str) -> None:
        """Keeps that a ref was let go. Raises NotRecorded."""
        if self.broken or ref not in self._known:
            return
        if ref in self.lost:
            if not any(ref in record.touches for record in self.records):
                del self.lost[ref]
                self._save(lambda: self._store.unlose(self.session, ref))
            return
        self._released.add(ref)
        if not self._drop_dead({ref}) and not self._drop_read(ref):
            self._add(Record(self._next, RELEASE, "release_ref", given=[ref]))

    # --- what hangs together ---

    def related(self, refs: Iterable[str]) -> set[str]:
        """The refs of all objects that may share state with these: those that calls had to do with together, and so on."""
        found, before = set(refs), -1
        while len(found) != before:
            before = len(found)
            for record in self.records:
                if not found.isdisjoint(record.refs) or not found.isdisjoint(record.given):
                    found.update(record.touches)
            for link in self._links:
                if not found.isdisjoint(link):
                    found.update(link)
        return found

    def _changed(self, given: list[str]) -> list[str]:
        """What a call may have changed: all that hangs together with what it was given, and does not show the state that it had."""
        changed = []
        for ref in sorted(self.related(given)):
            if ref not in self.lost and ref not in self._released:
                state = self._state(ref)
                if state is None or state.endswith("?") or state != self._states.get(ref):
                    changed.append(ref)
        return changed

    def _state(self, ref: str) -> str | None:
        found = self._object_of(ref)
        return None if found is None else _text(digest(found))

    def _drop_dead(self, refs: set[str]) -> bool:
        """Forgets the records of objects of which none is left that somebody could ask for."""
        if not refs:
            return False
        together = self.related(refs)
        if any(ref not in self._released and ref not in self.lost for ref in together):
            return False
        self._drop([record for record in self.records if not together.isdisjoint(record.touches)])
        return True

    def _drop_read(self, ref: str) -> bool:
        """The same for what was only read from an object, and went into no other."""
        uses = [record for record in self.records if ref in record.touches]
        if len(uses) != 1 or not uses[0].reads or not self._released.issuperset(uses[0].refs):
            return False
        self._drop(uses)
        return True

    def _drop(self, records: list[Record]) -> None:
        numbers = {record.seq for record in records}
        self.records = [record for record in self.records if record.seq not in numbers]
        self._size -= sum(record.size for record in records)
        self._save(lambda: self._store.drop(self.session, numbers))

    # --- the file ---

    def _lose(self, lost: dict[str, str]) -> None:
        lost = {ref: reason for ref, reason in lost.items() if ref not in self.lost}
        if lost:
            self.lost.update(lost)
            self._known.update(lost)
            if len(self.lost) > MOST_LOST:
                self._give_up(
                    f"it has made more than {MOST_LOST} objects in calls that were not marked: release those that are not needed any more"
                )
                return
            self._save(lambda: self._store.lose(self.session, lost))
            self._drop_dead(set(lost))

    def _add(self, record: Record) -> None:
        if len(self.records) >= MOST_RECORDS or self._size + record.size > MOST_BYTES:
            self._give_up(
                f"more was recorded of its session than is kept ({MOST_RECORDS} calls, {MOST_BYTES >> 20} MB): release refs that are not "
                "needed any more, and mark calls that only read with mutates: false"
            )
            return
        if (record.size > _LARGE or self._next % _LOOK_EVERY == 0) and self._all() > MOST_BYTES_OF_ALL:
            self._give_up(f"the sessions of its journal have recorded more than {MOST_BYTES_OF_ALL >> 20} MB: end some of them")
            return
        self._next += 1
        self._save(lambda: self._store.add(self.session, record))
        record.body = b""
        self.records.append(record)
        self._size += record.size
        self._known.update(record.refs)

    def _all(self) -> int:
        """The bytes of all sessions in the journal."""
        try:
            return self._store.size()
        except JournalError:  # the record itself will not be written, either
            return 0

    def _give_up(self, reason: str) -> None:
        """Ends the recording. What was lost keeps its own reasons as far as they are known."""
        log.warning("the session %s will not be rebuilt after a crash: %s", self.session, reason)
        self.broken = reason
        self._save(lambda: self._store.give_up(self.session, reason))
        self.records = []

    def _save(self, action: Callable[[], None]) -> None:
        try:
            action()
        except JournalError as error:
            self.broken, self._unsaved, self.records = f"what happened in its session could not be recorded: {error}", True, []
            raise NotRecorded(
                f"the call has ended, but could not be recorded, so that its effects would be missing after a crash: {error}",
                outcome="unknown",
            ) from error

    def _check_point(self, ref: str, record: Record, worked: int = 1) -> None:
        """Keeps the state of an object that knows how to give it, so that what led to it need not be done again."""
        found = self._object_of(ref)
        take = getattr(found, "__snakebridge_checkpoint__", None)
        if take is None or self.broken:
            return
        count = self._worked[ref] = self._worked.get(ref, 0) + worked
        when, after = self._checkpoints.get(ref, (0.0, 0))
        every = getattr(found, "__snakebridge_checkpoint_every__", None)
        now = time.monotonic()
        if (count - after < every) if isinstance(every, int) else (now - when < _CHECKPOINT_SECONDS):
            return
        from bridge_adapter.codec.packed import Packer

        try:
            value = Packer().pack(take())
        except Exception as error:
            log.warning("an object of the session %s gave no checkpoint: %s: %s", self.session, type(error).__name__, error)
            return
        self._checkpoints[ref] = (time.monotonic(), count)
        if len(value) <= MOST_BYTES:
            self._save(lambda: self._store.checkpoint(self.session, Checkpoint(ref, record.seq, record.count, value)))


def _text(found: Digest) -> str:
    return found.text if found.complete or not found.text else f"{found.text}?"
