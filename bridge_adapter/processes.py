"""Which process is meant by a pid. Pids are used again: the time of its start belongs to it, its namespace, and the boot of the machine.

Standard library only: it is in use before grpc is imported.
"""

from __future__ import annotations

import functools
import os

GONE = -1


def started(pid: int) -> int:
    """When a process started, in clock ticks since the system did; 0 where it lives and that cannot be told (there is no /proc, or this
    process may open no more files); GONE."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return GONE if fields[0] in b"ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return GONE
    except OSError:
        return 0
    return 0


def namespace() -> int:
    """The pid namespace of this process; 0 where the system has none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


@functools.cache  # a process that may open no more files must know it, too
def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read(8)
    except OSError:
        return "-"


def token(pid: int | None = None) -> str:
    """A text that names one process for as long as this machine runs: this one, or that of a pid."""
    pid = os.getpid() if pid is None else pid
    return f"{_boot()}.{namespace():x}.{pid}.{started(pid)}"


def visible(process: str) -> bool:
    """Whether the process of a token is one of this pid namespace."""
    return process.split(".")[1:2] == [f"{namespace():x}"]


def lives(process: str) -> bool:
    """Whether the process of a token may still run. One of another pid namespace cannot be seen from here, so it may."""
    try:
        boot, space, pid, start = process.split(".")
        if boot != _boot():
            return False
        if int(space, 16) != namespace():
            return True
        found = started(int(pid))
        return found != GONE and (found == int(start) or 0 in (found, int(start)))
    except ValueError:
        return False
