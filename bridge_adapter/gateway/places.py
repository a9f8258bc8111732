"""Private directories for sockets, and those of processes that were killed before they could remove theirs.

Standard library only: it is in use before grpc is imported.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import string
import tempfile
import threading

from bridge_adapter import processes

_PREFIX = "snakebridge-"
_DIGITS = string.digits + string.ascii_lowercase
_PID, _START, _NAMESPACE = 5, 7, 5  # widths in a name: pid, start and pid namespace of the process that a directory belongs to
_NAME = re.compile(rf"{_PREFIX}([0-9a-z]{{{_PID}}})([0-9a-z]{{{_START}}})([0-9a-z]{{{_NAMESPACE}}})[0-9a-z]+")
_SOCKET_PATH_LIMIT = 103  # sockaddr_un holds 104 to 108 bytes, the last one a zero
_LONGEST_NAME = "/x.sock"
_LOCK_SECONDS = 1.0
_MOST = 1000

_made: set[str] = set()
_making = threading.Lock()


def make() -> str:
    """A directory of mode 0700 that belongs to this process, and whose path is short enough for a socket in it."""
    with _making:
        parent = tempfile.gettempdir()
        if len(os.fsencode(parent)) + len(_name(0)) + 1 > _SOCKET_PATH_LIMIT - len(_LONGEST_NAME):
            parent = "/tmp"
        for number in range(len(_made), len(_made) + _MOST):
            directory = os.path.join(parent, _name(number))
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
                _made.add(directory)
                return directory
    raise FileExistsError(errno.EEXIST, f"{_MOST} directories of this process's are there already; remove some", directory)


def _name(number: int) -> str:
    """Short, and it tells whose it is: a process can be killed between making a directory and writing anything into it."""
    pid = os.getpid()
    fields = ((pid, _PID), (processes.started(pid), _START), (processes.namespace(), _NAMESPACE), (number, 2))
    return _PREFIX + "".join(_text(value, width) for value, width in fields)


def _text(value: int, width: int) -> str:
    """A number in base 36: its last `width` digits."""
    digits = ""
    for _ in range(width):
        value, digit = divmod(value, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits


def remove(directory: str) -> None:
    """Removes a directory that `make` has made."""
    shutil.rmtree(directory, ignore_errors=True)
    _made.discard(directory)


def remove_all() -> None:
    """Removes every directory of this process, which is about to end: another thread that would make one more waits for ever."""
    _making.acquire(timeout=_LOCK_SECONDS)
    for directory in list(_made):
        remove(directory)


def sweep() -> int:
    """Removes the directories of this user's processes that are gone; returns how many."""
    removed = 0
    for parent in {tempfile.gettempdir(), "/tmp"}:
        with contextlib.suppress(OSError):
            for entry in os.scandir(parent):
                if _is_left_over(entry):
                    shutil.rmtree(entry.path, ignore_errors=True)
                    removed += 1
    return removed


def _is_left_over(entry: os.DirEntry[str]) -> bool:
    told = _NAME.fullmatch(entry.name)
    if told is None:
        return False
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return False
    pid, started, namespace = told.groups()
    if namespace != _text(processes.namespace(), _NAMESPACE):
        return False  # the processes of a container are not to be seen from here
    found = processes.started(int(pid, len(_DIGITS)))
    return found == processes.GONE or (found != 0 and started != _text(found, _START))


def _forked() -> None:
    """In a new process: the directories are the parent's, and so is who holds the lock."""
    global _making
    _made.clear()
    _making = threading.Lock()


os.register_at_fork(after_in_child=_forked)
