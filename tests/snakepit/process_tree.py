"""The processes below a test, known by a mark in their environment, which every child inherits: those of Python, and theirs."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress
from pathlib import Path

MARK = "SNAKEPIT_STANDIN_MARK"


def marked(mark: str) -> dict[int, str]:
    """Processes that run under a mark: pid -> command line. A zombie does not run."""
    wanted = f"{MARK}={mark}\0".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def left_over(mark: str, within: float) -> dict[int, str]:
    """Those of them that have not ended in time."""
    end = time.monotonic() + within
    while (running := marked(mark)) and time.monotonic() < end:
        gone(next(iter(running)), end - time.monotonic())
    return running


def children(pid: int) -> list[int]:
    """The direct children of a process; none when it is gone."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def gone(pid: int, within: float) -> bool:
    """True when the process ends in time. A zombie has ended."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        return bool(poll.poll(max(0, within) * 1000))
    finally:
        os.close(process)
