"""The refs of one session: live Python objects by id, with identity kept, bounded in number and age."""

from __future__ import annotations

import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from bridge_adapter.codec import Ref, StreamRef
from bridge_adapter.codec.resolver import stream_type
from bridge_adapter.errors import InvalidRequest, SessionLost, UnknownRef

# Ids are 32 hex digits: 8 that name this process, 20 of chance, 4 that show that the id is one of ours and not just text.
_PROCESS = os.urandom(4)
_CHECK = slice(14, 16)


def _new_id() -> str:
    body = _PROCESS + os.urandom(10)
    return (body + _check(body)).hex()


def _check(body: bytes) -> bytes:
    return (zlib.crc32(body) & 0xFFFF).to_bytes(2, "big")


def unknown(ref_id: str, session_id: str) -> UnknownRef:
    """The error for an id that a session does not hold. An id that another worker process has made gets the cure with it."""
    details: dict[str, Any] = {"ref_id": ref_id, "session_id": session_id}
    try:
        data = bytes.fromhex(ref_id)
    except ValueError:
        data = b""
    cure = ""
    if len(data) == 16 and data[_CHECK] == _check(data[:14]) and data[:4] != _PROCESS:
        details["hint"] = cure = (
            "it was made by another worker process: by another worker of the pool (keep the calls of a session on one worker: "
            "affinity: :strict_queue), or by this one before it was restarted (make the object again)"
        )
    return UnknownRef(f"Unknown SnakeBridge reference: {ref_id}", cure, **details)


_identity = id


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

    __slots__ = ("_entries", "_identities", "_max", "_session", "_ttl", "explain")

    def __init__(self, session: str, max_refs: int, ttl_s: float) -> None:
        self._session = session
        self._entries: dict[str, Entry] = {}
        self._identities: dict[int, str] = {}
        self._max = max_refs
        self._ttl = ttl_s
        self.explain: Callable[[str], str] | None = None  # of a session that was rebuilt: why a ref did not come back

    def __len__(self) -> int:
        return len(self._entries)

    def limit(self, max_refs: Any, ttl_s: Any) -> None:
        """Sets how many refs the session may hold, and for how many seconds one may lie unused (0 = for ever). Raises InvalidRequest."""
        if max_refs is not None:
            if type(max_refs) is not int or max_refs < 1:
                raise InvalidRequest(f"max_refs is {str(max_refs)[:40]}; it must be an integer of at least 1")
            self._max = max_refs
        if ttl_s is not None:
            if type(ttl_s) not in (int, float) or not 0 <= ttl_s < 1e9:
                raise InvalidRequest(f"ref_ttl is {str(ttl_s)[:40]}; it must be a number of seconds, 0 = as long as the session")
            if ttl_s and not self._ttl:
                now = time.monotonic()
                for entry in self._entries.values():
                    entry.used = now
            self._ttl = float(ttl_s)

    def add(self, obj: Any, module: str, library: str, serial: int, id: str | None = None) -> Ref | StreamRef:
        """The ref of an object: the same one as long as the session holds it.

        `serial` marks the answer that is being made: it never evicts its own refs. `id`: what its id is to be, of an object made again.
        """
        known = self._identities.get(_identity(obj))
        if known is not None:
            entry = self._entries[known]
            entry.serial = serial
            return entry.ref
        self._prune(serial)
        kind = stream_type(obj)
        name = type(obj).__name__
        new_id = id or _new_id()
        ref: Ref | StreamRef
        if kind is None:
            ref = Ref(new_id, self._session, module, library, name)
        else:
            ref = StreamRef(new_id, self._session, module, library, name, kind)
        entry = Entry(obj, ref, serial)
        if self._ttl:
            entry.used = time.monotonic()
        self._entries[new_id] = entry
        self._identities[_identity(obj)] = new_id
        return ref

    def get(self, ref_id: str) -> Entry:
        """The entry of an id. Raises UnknownRef."""
        if self._ttl:
            self._expire()
        entry = self._entries.get(ref_id)
        if entry is None:
            raise self._missing(ref_id)
        if self._ttl:
            entry.used = time.monotonic()
        return entry

    def _missing(self, ref_id: str) -> UnknownRef:
        missing = unknown(ref_id, self._session)
        reason = self.explain(ref_id) if self.explain is not None else ""
        if self.explain is None or not (reason or missing.cure):
            return missing
        cure = f"it is gone with the Python process that held it, and was not rebuilt: {reason or 'how it was made is not recorded'}"
        return SessionLost(missing.args[0], f"{cure}; make it again", **{**missing.details, "hint": cure})

    def find(self, ref_id: str) -> Any:
        """The object of an id, or None: a look that does not count as a use."""
        entry = self._entries.get(ref_id)
        return None if entry is None else entry.obj

    def find_entry(self, ref_id: str) -> Entry | None:
        """The same for its entry."""
        return self._entries.get(ref_id)

    def clear(self) -> None:
        """Forgets all refs."""
        self._entries.clear()
        self._identities.clear()

    def __contains__(self, ref_id: str) -> bool:
        if self._ttl:
            self._expire()
        return ref_id in self._entries

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
        return [entry.obj for entry in list(self._entries.values())]

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
