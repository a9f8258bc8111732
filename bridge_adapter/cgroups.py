"""Where the control groups of this process are that count its memory, version 1 and version 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class MemoryGroup(NamedTuple):
    """`path`: of the group, below `root`, where groups of its version are mounted."""

    version: int
    root: Path
    path: Path


VERSION_2 = Path("/sys/fs/cgroup")
VERSION_1 = VERSION_2 / "memory"


def memory_groups() -> Iterator[MemoryGroup]:
    """The groups that this process is in; none where the system has no such thing."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield MemoryGroup(2, VERSION_2, VERSION_2 / path.lstrip("/"))
        elif "memory" in controllers.split(","):
            yield MemoryGroup(1, VERSION_1, VERSION_1 / path.lstrip("/"))
