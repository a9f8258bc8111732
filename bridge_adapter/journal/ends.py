"""Ends of calls that are on their way into the journal: one file for each process, which outlives it.

An answer must be safe before it is given, and a transaction takes longer than many a call. So it is first written here, with a single
write, and into the journal once it has been sent. What a process that has died leaves behind is brought in by whoever finds it.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_HEAD = struct.Struct("<IIIIdI")  # checksum of the rest; lengths of key, refs and answer; when it ended; attempt
_INFIX = ".ends-"
_LONGEST_FILE = 1024 * 1024
LONGEST_ANSWER = 64 * 1024  # a larger one is not worth being written twice


class End(NamedTuple):
    """A call that was answered. `ended`: seconds since 1970."""

    key: str
    attempt: int
    ended: float
    refs: str
    answer: bytes


class Ends:
    """The file of this process. Thread-safe; raises OSError where it cannot be written."""

    def __init__(self, journal: Path, owner: str) -> None:
        self.path = Path(f"{journal}{_INFIX}{owner}")
        self._file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size
        self._open = 0  # ends that the journal does not have yet
        self._lock = threading.Lock()

    def write(self, end: End) -> None:
        """Makes an end safe from the death of this process."""
        record = _packed(end)
        with self._lock:
            written = os.write(self._file, record)
            if written < len(record):  # a full disk
                os.ftruncate(self._file, self._size)
                raise OSError(28, f"No space left on device: only {written} of {len(record)} bytes could be written")
            self._size += written
            self._open += 1

    def done(self) -> None:
        """An end that was written here is in the journal now."""
        with self._lock:
            self._open -= 1
            if self._open == 0 and self._size > _LONGEST_FILE:
                os.ftruncate(self._file, 0)
                self._size = 0

    def close(self) -> None:
        """Closes the file; removes it if the journal has all that is in it."""
        with self._lock:
            if self._open == 0:
                self.path.unlink(missing_ok=True)
            os.close(self._file)


def left(journal: Path) -> dict[str, Path]:
    """The files that lie beside a journal, by the owners of the processes that have written them."""
    prefix = journal.name + _INFIX
    with os.scandir(journal.parent) as entries:
        return {entry.name.removeprefix(prefix): Path(entry.path) for entry in entries if entry.name.startswith(prefix)}


def read(path: Path) -> Iterator[End]:
    """What a file holds, up to where its process died while it wrote."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    at = 0
    while at + _HEAD.size <= len(data):
        checksum, key, refs, answer, ended, attempt = _HEAD.unpack_from(data, at)
        body = at + _HEAD.size
        end = body + key + refs + answer
        if end > len(data) or zlib.crc32(data[at + 4 : end]) != checksum:
            return
        texts = data[body : body + key].decode(), data[body + key : body + key + refs].decode()
        yield End(texts[0], attempt, ended, texts[1], data[body + key + refs : end])
        at = end


def _packed(end: End) -> bytes:
    key, refs = end.key.encode(), end.refs.encode()
    record = bytearray(_HEAD.pack(0, len(key), len(refs), len(end.answer), end.ended, end.attempt) + key + refs + end.answer)
    record[:4] = zlib.crc32(memoryview(record)[4:]).to_bytes(4, "little")
    return bytes(record)
