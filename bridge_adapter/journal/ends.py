"""Ends of calls that are on their way into the journal: files of each process, which outlive it.

An answer must be safe before it is given, and a transaction takes longer than many a call. So it is first written here, with a single
write, and into the journal once it has been sent. What a process that has died leaves behind is brought in by whoever finds it. Under a
load without a pause there is no moment in which the journal has everything: so a file that has become long is followed by another one, and
goes when the journal has all that is in it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_HEAD = struct.Struct("<IIIIdI")  # checksum of the rest; lengths of key, refs and answer; when it ended; attempt
_INFIX = ".ends-"
_NUMBER = "~"
_LONGEST_FILE = 1024 * 1024
LONGEST_ANSWER = 64 * 1024  # a larger one is not worth being written twice


class End(NamedTuple):
    """A call that was answered. `ended`: seconds since 1970."""

    key: str
    attempt: int
    ended: float
    refs: str
    answer: bytes


class Book:
    """One file of ends. `open`: those in it that the journal does not have yet."""

    __slots__ = ("file", "open", "path", "size")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self.file).st_size
        self.open = 0

    def add(self, record: bytes) -> None:
        written = os.write(self.file, record)
        if written < len(record):  # a full disk
            os.ftruncate(self.file, self.size)
            raise OSError(errno.ENOSPC, f"No space left on device: only {written} of {len(record)} bytes could be written")
        self.size += written
        self.open += 1

    def close(self) -> None:
        if not self.open:
            self.path.unlink(missing_ok=True)
        os.close(self.file)


class Ends:
    """The files of this process. Thread-safe; raises OSError where they cannot be written."""

    def __init__(self, journal: Path, owner: str) -> None:
        self.path = Path(f"{journal}{_INFIX}{owner}")
        self._book = Book(self.path)
        self._full: set[Book] = set()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def write(self, end: End) -> Book:
        """Makes an end safe from the death of this process. Returns in which file, for `done`."""
        record = _packed(end)
        with self._lock:
            book = self._book
            book.add(record)
            if book.size > _LONGEST_FILE:
                with contextlib.suppress(OSError):  # no descriptor is left, say: then it becomes longer
                    self._book = Book(Path(f"{self.path}{_NUMBER}{next(self._numbers)}"))
                    self._full.add(book)
            return book

    def done(self, book: Book) -> None:
        """An end that was written there is in the journal now."""
        with self._lock:
            book.open -= 1
            if not book.open and book in self._full:
                self._full.remove(book)
                book.close()

    def close(self) -> None:
        """Closes the files; removes those of which the journal has all that is in them."""
        with self._lock:
            for book in (self._book, *self._full):
                book.close()


def left(journal: Path) -> dict[Path, str]:
    """The files that lie beside a journal, and the owners of the processes that have written them."""
    prefix = journal.name + _INFIX
    with os.scandir(journal.parent) as entries:
        found = [entry for entry in entries if entry.name.startswith(prefix)]
    return {Path(entry.path): entry.name.removeprefix(prefix).partition(_NUMBER)[0] for entry in found}


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
