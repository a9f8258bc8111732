"""Shared memory: arrays and tables that lie in a file both sides map, instead of travelling over the socket (docs/wire.md section 1.3).

`Segments` is the directory of a worker: it maps what the client has put there, read-only, and writes what the worker answers. Segments
are written once and only ever unlinked, so a view stays what it was for as long as anybody holds it; what is gone can merely not be
opened again.
`Outlet` is one connection's share of it: what it may write, and what its client has not taken over yet.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import mmap
import os
import re
import stat
import sys
import weakref
from collections.abc import Callable
from typing import Any

from .errors import DecodeError

Location = tuple[str, int, int]  # name, offset, length

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Segments:
    """The segments in one directory. Any thread may use it. Raises OSError when the directory is not private to this user."""

    def __init__(self, directory: str) -> None:
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        found = os.fstat(self._directory)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            os.close(self._directory)
            raise PermissionError(f"{directory} must belong to this user and have mode 0700, not {found.st_mode & 0o777:04o}")
        self._mapped: dict[str, tuple[weakref.ref[mmap.mmap], int]] = {}  # name -> mapping and inode
        self._serials = itertools.count(1)

    def open(self, name: Any, offset: Any, length: Any) -> memoryview:
        """A read-only view of a part of a segment; the pages are the segment's own. Raises DecodeError."""
        if type(name) is not str or not _NAME.fullmatch(name):
            raise DecodeError(f"a segment is named by a plain file name, not {ascii(name)[:80]}; the message is forged")
        if type(offset) is not int or type(length) is not int or offset < 0 or length < 0:
            raise DecodeError(
                f"the part of a segment is an offset and a length >= 0, not {ascii(offset)[:40]} and {ascii(length)[:40]}; "
                "the message is forged"
            )
        mapping = self._known(name) or self._map(name)
        size = len(mapping) if mapping is not None else 0
        if length > size - offset:
            raise DecodeError(
                f"bytes {offset} to {offset + length} of the segment {name} were named, but it has {size}; the message is forged"
            )
        return memoryview(mapping)[offset : offset + length] if mapping is not None else memoryview(b"")

    def _known(self, name: str) -> mmap.mmap | None:
        mapping, inode = self._mapped.get(name, (None, 0))
        return mapping() if mapping is not None and self._inode(name) == inode else None

    def _inode(self, name: str) -> int | None:
        try:
            return os.stat(name, dir_fd=self._directory, follow_symlinks=False).st_ino
        except OSError:
            return None

    def _map(self, name: str) -> mmap.mmap | None:
        """The whole segment; None for an empty one, which cannot be mapped."""
        try:
            file = os.open(name, _READ, dir_fd=self._directory)
        except OSError as error:
            raise DecodeError(_refusal(name, error)) from None
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise DecodeError(f"the segment {name} is no plain file of this user; the directory of shared memory was tampered with")
            if not found.st_size:
                return None
            mapping = mmap.mmap(file, found.st_size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DecodeError(f"the segment {name} cannot be mapped: {error}") from None
        finally:
            os.close(file)
        self._mapped[name] = weakref.ref(mapping, self._forgetting(name)), found.st_ino
        return mapping

    def _forgetting(self, name: str) -> Callable[[weakref.ref[mmap.mmap]], None]:
        def forget(gone: weakref.ref[mmap.mmap]) -> None:
            if self._mapped.get(name, (None, 0))[0] is gone:
                del self._mapped[name]

        return forget

    def find(self, buffer: Any) -> Location | None:
        """Where memory lies, when it is part of a mapped segment that is still there."""
        # Only numpy makes views of mapped memory that do not say so.
        if not self._mapped or ("numpy" not in sys.modules and not isinstance(getattr(buffer, "obj", None), mmap.mmap)):
            return None
        address = _address(buffer)
        for name, (known, inode) in list(self._mapped.items()):
            mapping = known()
            if mapping is None:
                continue
            offset = address - _address(mapping)
            if offset >= 0 and offset + len(buffer) <= len(mapping):
                return (name, offset, len(buffer)) if self._inode(name) == inode else None
        return None

    def write(self, buffer: Any) -> str | None:
        """The name of a new segment with these bytes. None when there is no space for it."""
        name = f"w{os.getpid()}-{next(self._serials)}"
        try:
            file = os.open(name, _MAKE, 0o600, dir_fd=self._directory)
        except OSError:
            return None
        try:
            rest = memoryview(buffer).cast("B")
            while len(rest):
                rest = rest[os.write(file, rest) :]
        except BaseException as error:  # user code may be interrupted here, too
            self.remove(name)
            if isinstance(error, OSError):
                return None
            raise
        finally:
            os.close(file)
        return name

    def renew(self, name: Any, new_name: Any) -> bool:
        """Gives a segment that nobody holds another name, and says whether its memory may be written anew: no process maps it any more.

        The kernel knows, and grants a write lease on such a file only. Nobody can open it meanwhile: nobody was told its new name.
        """
        if not all(type(each) is str and _NAME.fullmatch(each) for each in (name, new_name)) or not hasattr(fcntl, "F_SETLEASE"):
            return False
        try:
            os.rename(name, new_name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            file = os.open(new_name, _READ, dir_fd=self._directory)
            try:
                fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
                fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            finally:
                os.close(file)
        except OSError:
            return False
        return True

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._directory)


class Outlet:
    """What one connection reads and answers by segments. `opened`: the message at hand held some.

    Nothing is written until `allow` says how much.
    """

    def __init__(self, segments: Segments) -> None:
        self.segments = segments
        self.opened = False
        self._allowed: tuple[int, int] | None = None
        self._written: list[str] = []

    def open(self, name: Any, offset: Any, length: Any) -> memoryview:
        self.opened = True
        return self.segments.open(name, offset, length)

    def allow(self, allowed: tuple[int, int] | None) -> None:
        """How many bytes may be written, and how many a value must have at least. None: everything stays on the socket."""
        self._allowed = allowed

    def export(self, buffer: Any) -> Location | None:
        """Where the bytes are, in the segment that they are a view of or in a new one. None: they stay inline."""
        if self._allowed is None or not len(buffer):
            return None
        found = self.segments.find(buffer)
        if found is not None:
            return found
        room, threshold = self._allowed
        size = len(buffer)
        if not threshold <= size <= room:
            return None
        name = self.segments.write(buffer)
        if name is None:
            return None
        self._allowed = (room - size, threshold)
        self._written.append(name)
        return name, 0, size

    def settle(self) -> None:
        """Removes what the client has not taken over, when it has asked on or is gone: it takes over by giving a segment another name."""
        written, self._written = self._written, []
        for name in written:
            self.segments.remove(name)


def _address(buffer: Any) -> int:
    import numpy as np

    address: int = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return address


def _refusal(name: str, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"the segment {name} is no longer there: it was unshared, or its session has ended; share the value again"
    if error.errno in (errno.ELOOP, errno.ENXIO):
        return f"the segment {name} is no plain file; the directory of shared memory was tampered with"
    return f"the segment {name} cannot be opened: {error.strerror}"
