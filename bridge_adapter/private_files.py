"""Files and directories that only their user may see: tokens, private keys, the directory of a unix socket.

What others can read is no secret, and what others can replace is not ours; both are refused, with the command that puts it right.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path


class NotPrivate(ValueError):
    """Others may read or replace it; the message says which rule is broken, and how to mend it."""


@dataclass(frozen=True, slots=True)
class Version:
    """Which state of a file was seen: it differs when the file was written or replaced."""

    modified: int
    size: int
    inode: int

    @classmethod
    def of(cls, path: str) -> Version | None:
        """None when there is no such file."""
        try:
            seen = os.stat(path)
        except OSError:
            return None
        return cls(seen.st_mtime_ns, seen.st_size, seen.st_ino)


def read_secret(path: str) -> bytes:
    """What is in a file that holds a secret. Raises NotPrivate when others may read it, OSError when it cannot be read.

    The rule is the one of PostgreSQL for its keys: mode 0600 or less, or 0640 or less when root owns the file and hands it to a group.
    """
    with open(path, "rb") as file:
        seen = os.fstat(file.fileno())
        if seen.st_uid not in (0, os.geteuid()):
            raise NotPrivate(f"{path} belongs to user {seen.st_uid}; a secret must belong to this user ({os.geteuid()}) or root: chown it")
        allowed = 0o640 if seen.st_uid == 0 else 0o600
        mode = stat.S_IMODE(seen.st_mode)
        if mode & 0o777 & ~allowed:
            raise NotPrivate(f"{path} has mode {mode:04o}, so others may read it; a secret needs {allowed:04o} or less: chmod 600 {path}")
        return file.read()


def private_directory(path: Path) -> None:
    """Makes a directory with mode 0700, or checks one that exists. Raises NotPrivate, or OSError when it cannot be made."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    seen = path.lstat()
    if stat.S_ISLNK(seen.st_mode):
        raise NotPrivate(f"{path} is a symbolic link; the directory of a socket must be a directory itself: name {path.resolve()}")
    if not stat.S_ISDIR(seen.st_mode):
        raise NotPrivate(f"{path} is no directory; name a socket in a directory of this user with mode 0700")
    if seen.st_uid != os.geteuid():
        raise NotPrivate(
            f"the directory {path} belongs to user {seen.st_uid}, not to this one ({os.geteuid()}), who could replace the socket; "
            "name a socket in a directory of your own"
        )
    mode = stat.S_IMODE(seen.st_mode)
    if mode & 0o077:
        raise NotPrivate(f"the directory {path} has mode {mode:04o}; that of a socket must have 0700: chmod 700 {path}")
