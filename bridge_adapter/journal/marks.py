"""A sign of life that is seen from every pid namespace: a lock on one byte of a file, which the system takes away with its process.

Two containers that share a journal cannot see each other's processes, but they see each other's locks.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
from pathlib import Path

from bridge_adapter import processes

_FLOCK = "hh4xqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid (0: the lock is that of the open file)
_LAST_BYTE = 2**62
_SEPARATOR = "@"
_held: dict[str, tuple[int, int]] = {}  # path of the file -> descriptor, byte: one for each process and file


def owner(path: Path) -> str:
    """The token of this process with the byte that it has locked in the file; the bare token where nothing can be locked."""
    token = processes.token()
    try:
        key = os.fspath(path)
        if key not in _held:
            fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            byte = 1 + secrets.randbelow(_LAST_BYTE)
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
            except BaseException:
                os.close(fd)
                raise
            _held[key] = fd, byte
        return f"{token}{_SEPARATOR}{_held[key][1]:x}"
    except (OSError, AttributeError):  # a file system or a system without such locks
        return token


def same(owner: str, other: str) -> bool:
    """Whether two owners are one process."""
    return owner.partition(_SEPARATOR)[0] == other.partition(_SEPARATOR)[0]


def lives(owner: str, path: Path) -> bool:
    """Whether the process may still run. What its own pid namespace does not show, its lock does."""
    token, _, byte = owner.partition(_SEPARATOR)
    if not processes.lives(token):
        return False
    return processes.visible(token) or not byte or _locked(path, byte)


def _locked(path: Path, byte: str) -> bool:
    try:
        with open(path, "rb+") as file:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, int(byte, 16), 1, 0)
            kind: int = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))[0]
            return kind != fcntl.F_UNLCK
    except (OSError, AttributeError, ValueError, struct.error):
        return True  # it cannot be known


def _let_go() -> None:
    # A forked child must not show the life of its parent.
    for fd, _ in _held.values():
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
