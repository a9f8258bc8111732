"""The refs of one session: live Python objects by id, with identity kept, bounded in number and age."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from bridge_adapter.codec import Ref, StreamRef
from bridge_adapter.codec.resolver import stream_type
from bridge_adapter.errors import UnknownRef


class Entry:
    """One object. `unread`, `last_batch` and `failure` are only used by streams (tools/stream.py)."""

    __slots__ = ("failure", "last_batch", "obj", "ref", "serial", "unread", "used")

    def __init__(self, obj: Any, ref: Ref | StreamRef, serial: int) -> None:
        self.obj = obj
        self.ref = ref
        self.serial = serial
        self.used = 0.0
        self.unread: deque[Any] | None = None
        self.last_batch: list[Any] | None = None
        self.failure: BaseException | None = None


class RefStore:
    """Refs of one session. Not locked: a session runs one call at a time, and dict operations are atomic for those that are concurrent."""

    __slots__ = ("_entries", "_identities", "_max", "_session", "_ttl")

    def __init__(self, session: str, max_refs: int, ttl_s: float) -> None:
        self._session = session
        self._entries: dict[str, Entry] = {}
        self._identities: dict[int, str] = {}
        self._max = max_refs
        self._ttl = ttl_s

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, obj: Any, module: str, library: str, serial: int) -> Ref | StreamRef:
        """The ref of an object: the same one as long as the session holds it.

        `serial` marks the answer that is being made: it never evicts its own refs.
        """
        known = self._identities.get(id(obj))
        if known is not None:
            entry = self._entries[known]
            entry.serial = serial
            return entry.ref
        self._prune(serial)
        kind = stream_type(obj)
        name = type(obj).__name__
        new_id = os.urandom(16).hex()
        ref: Ref | StreamRef
        if kind is None:
            ref = Ref(new_id, self._session, module, library, name)
        else:
            ref = StreamRef(new_id, self._session, module, library, name, kind)
        entry = Entry(obj, ref, serial)
        if self._ttl:
            entry.used = time.monotonic()
        self._entries[new_id] = entry
        self._identities[id(obj)] = new_id
        return ref

    def get(self, ref_id: str) -> Entry:
        """The entry of an id. Raises UnknownRef."""
        if self._ttl:
            self._expire()
        entry = self._entries.get(ref_id)
        if entry is None:
            raise UnknownRef(f"Unknown SnakeBridge reference: {ref_id}", ref_id=ref_id, session_id=self._session)
        if self._ttl:
            entry.used = time.monotonic()
        return entry

    def entry_of(self, obj: Any) -> Entry | None:
        """The entry that holds this very object."""
        known = self._identities.get(id(obj))
        return None if known is None else self._entries.get(known)

    def release(self, ref_id: str) -> bool:
        """Forgets a ref. False when there was none."""
        entry = self._entries.pop(ref_id, None)
        if entry is None:
            return False
        self._identities.pop(id(entry.obj), None)
        return True

    def release_made_by(self, serial: int, before: int) -> None:
        """Forgets the refs that an answer made which could not be sent: all but the first `before` refs."""
        for ref_id in list(self._entries)[before:]:
            if self._entries[ref_id].serial == serial:
                self.release(ref_id)

    def objects(self) -> Iterable[Any]:
        return [entry.obj for entry in self._entries.values()]

    def _prune(self, serial: int) -> None:
        if self._ttl:
            self._expire()
        if len(self._entries) < self._max:
            return
        for ref_id, entry in list(self._entries.items()):
            if len(self._entries) < self._max:
                return
            if entry.serial != serial:
                self.release(ref_id)

    def _expire(self) -> None:
        limit = time.monotonic() - self._ttl
        for ref_id, entry in list(self._entries.items()):
            if entry.used < limit:
                self.release(ref_id)
