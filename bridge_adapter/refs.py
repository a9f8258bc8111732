"""The refs of one session: live Python objects by id, with identity kept, bounded in number, age and, where asked for, bytes."""

from __future__ import annotations

import heapq
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from bridge_adapter.codec import Ref, StreamRef
from bridge_adapter.codec.resolver import stream_type
from bridge_adapter.errors import InvalidRequest, MemoryLimit, SessionLost, UnknownRef
from bridge_adapter.sizes import size_of

_BIGGEST = 5  # refs that an error names
_REMEDY = "release refs that are not needed, end the session, or raise max_bytes"

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

    __slots__ = ("failure", "last_batch", "obj", "ref", "serial", "size", "unread", "used")

    def __init__(self, obj: Any, ref: Ref | StreamRef, serial: int) -> None:
        self.obj = obj
        self.ref = ref
        self.serial = serial
        self.used = 0.0
        self.size = 0  # bytes, in sessions whose refs are bounded by them
        self.unread: deque[Any] | None = None
        self.last_batch: list[Any] | None = None
        self.failure: BaseException | None = None


class RefStore:
    """Refs of one session. Not locked: a session runs one call at a time, and dict operations are atomic for those that are concurrent."""

    __slots__ = ("_bytes", "_changed", "_entries", "_identities", "_max", "_max_bytes", "_session", "_ttl", "explain")

    def __init__(self, session: str, max_refs: int, ttl_s: float) -> None:
        self._session = session
        self._entries: dict[str, Entry] = {}
        self._identities: dict[int, str] = {}
        self._max = max_refs
        self._ttl = ttl_s
        self._max_bytes: int | None = None
        self._bytes = 0
        self._changed: dict[str, None] = {}  # refs used since they were measured, where bytes are bounded
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

    def limit_bytes(self, max_bytes: Any) -> None:
        """Sets how many bytes the objects of the session may have, as far as their sizes are known (sizes.py). Raises InvalidRequest."""
        if type(max_bytes) is not int or max_bytes < 1:
            raise InvalidRequest(
                f"max_bytes is {str(max_bytes)[:40]}; it must be an integer of at least 1, the bytes that the session's refs may hold"
            )
        if self._max_bytes is None:
            self._measure()
        self._max_bytes = max_bytes

    def check_bytes(self) -> None:
        """Measures what was used since the last time. Raises MemoryLimit when the objects have grown over what the session may hold."""
        if self._max_bytes is None:
            return
        for ref_id in list(self._changed):
            self._changed.pop(ref_id, None)
            entry = self._entries.get(ref_id)
            if entry is not None:
                self._resize(entry)
        if self._over(0):
            raise MemoryLimit(f"{self._excess(0)}; the call was not begun: {_REMEDY}", **self._account())

    def bytes_held(self) -> tuple[int, int]:
        """The bytes of the objects, as far as their sizes are known, and how many of them lie on accelerators."""
        sizes = [size_of(obj) for obj in self.objects()]
        return sum(size for size, _ in sizes), sum(size for size, on_device in sizes if on_device)

    def _resize(self, entry: Entry) -> None:
        size, _ = size_of(entry.obj)
        self._bytes += size - entry.size
        entry.size = size

    def _measure(self) -> None:
        """Sizes and their sum anew: threads of a concurrent session may have lost an addition."""
        self._bytes = 0
        for entry in list(self._entries.values()):
            entry.size, _ = size_of(entry.obj)
            self._bytes += entry.size

    def _over(self, more: int) -> bool:
        assert self._max_bytes is not None
        if self._bytes + more <= self._max_bytes:
            return False
        self._measure()
        return self._bytes + more > self._max_bytes

    def _excess(self, more: int) -> str:
        what = f"another {more} bytes" if more else "more"
        holds = f"the session {self._session} holds {self._bytes} bytes in {len(self._entries)} refs"
        return f"{holds} and may not hold {what}: its max_bytes is {self._max_bytes}"

    def _account(self) -> dict[str, Any]:
        biggest = heapq.nlargest(_BIGGEST, list(self._entries.values()), key=lambda entry: entry.size)
        named = [{"ref_id": entry.ref.id, "type": entry.ref.type_name, "bytes": entry.size} for entry in biggest]
        return {"session_id": self._session, "bytes": self._bytes, "max_bytes": self._max_bytes, "biggest": named}

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
        size = 0
        if self._max_bytes is not None:
            size, _ = size_of(obj)
            if self._over(size):
                account = {**self._account(), "type": type(obj).__name__, "object_bytes": size}
                raise MemoryLimit(
                    f"{self._excess(size)}; the call has run, and its result was let go: {_REMEDY}", **account
                ).after_effects()
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
        if size:
            entry.size = size
            self._bytes += size
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
        if self._max_bytes is not None:
            self._changed[ref_id] = None
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
        self._changed.clear()
        self._bytes = 0

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
        self._bytes -= entry.size
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
