"""How much memory this process holds and may hold: new calls are refused before the kernel would kill it.

What counts is memory that cannot be taken back (anonymous pages): not the pages of mapped files, nor segments of shared memory, which
both sides map. The soft limit refuses calls; the hard one makes the allocation itself fail, as a MemoryError in Python.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from typing import Any

from bridge_adapter.cgroups import MemoryGroup, memory_groups
from bridge_adapter.config import SIZE
from bridge_adapter.errors import MemoryLimit

LOOK_SECONDS = 0.1  # how old a figure may be
_PAGE = os.sysconf("SC_PAGE_SIZE")
_UNITS = {None: 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_COLLECT_SECONDS = 1.0  # the shortest time between two attempts to make room, each of which holds up all threads
_COLLECT_SHARE = 20  # and it is this many times what the last one took
_LARGEST = 5  # sessions that an error names
_RETRY_MS = 1000


class Memory:
    """The soft limit of one process. `by_size`: its sessions that hold most."""

    def __init__(self, limit: str, by_size: Callable[[int], list[dict[str, Any]]]) -> None:
        self.limit = size(limit)
        self._by_size = by_size
        self._looked = 0.0
        self._used = 0
        self._collect_at = 0.0

    def admit(self, now: float) -> None:
        """Raises MemoryLimit when a call that comes at that time finds the process above its limit."""
        if self.limit is None:
            return
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            self._used = used()
        if self._used > self.limit:
            self._make_room()
            if self._used > self.limit:
                raise self._refusal(self.limit)

    def _make_room(self) -> None:
        """Collects garbage and gives free memory back to the system, unless that has just been tried."""
        begun = time.monotonic()
        if begun < self._collect_at:
            return
        gc.collect()
        _trim()
        self._used = used()
        ended = time.monotonic()
        self._collect_at = ended + max(_COLLECT_SECONDS, _COLLECT_SHARE * (ended - begun))

    def _refusal(self, limit: int) -> MemoryLimit:
        return MemoryLimit(
            f"this worker holds {self._used >> 20} MiB of memory, also after collecting garbage, and takes new calls below "
            f"{limit >> 20} MiB only (memory_limit); the call was not begun: "
            "release refs and sessions, recycle the worker, or raise the limit",
            _RETRY_MS,
            used=self._used,
            limit=limit,
            largest_sessions=self._by_size(_LARGEST),
        )

    def summary(self) -> dict[str, Any]:
        """What `stats` tells of it."""
        return {"used": used(), "limit": self.limit}


def used() -> int:
    """The bytes of memory of this process that cannot be taken back from it."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as statm:
            fields = statm.read(256).split()
        return (int(fields[1]) - int(fields[2])) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0  # not Linux, or no descriptor left: no figure, no limit


def size(text: str) -> int | None:
    """The bytes that a setting of config.Size names; None for "off"."""
    found = SIZE.fullmatch(text)
    assert found is not None  # config.Config.validate has seen it
    if found["part"]:
        return capacity() * int(found["part"]) // 100
    return int(found["count"]) * _UNITS[found["unit"]] if found["count"] else None


def capacity() -> int:
    """The bytes of memory that this process may use: those of the machine, or of the narrowest control group around it."""
    limits = [os.sysconf("SC_PHYS_PAGES") * _PAGE]
    for group in memory_groups():
        limits += _bounds(group, "memory.max" if group.version == 2 else "memory.limit_in_bytes")
    return min(limits)


def _bounds(group: MemoryGroup, name: str) -> list[int]:
    """The limits of a control group and those around it. In a container its own is often mounted as the root."""
    found = []
    for directory in (group.path, *group.path.parents):
        if not directory.is_relative_to(group.root):
            break
        try:
            text = (directory / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) > 0:
            found.append(int(text))
    return found


def bound_hard(limit: str) -> None:
    """Sets the hard limit of this process. Memory that is only reserved, as CUDA does, does not count, nor do mapped files.

    Raises OSError or ValueError when the system does not let us.
    """
    count = size(limit)
    if count is None:
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (count if most == resource.RLIM_INFINITY else min(count, most), most))


def explain(error: BaseException, limit: str) -> None:
    """Says in a note which limit an allocation has hit, where it can have been ours."""
    if limit not in ("off", "0") and isinstance(error, MemoryError) and not isinstance(error, MemoryLimit):
        error.add_note(
            f"this worker may allocate at most {limit} (memory_hard_limit), threads included, and holds {used() >> 20} MiB: "
            "work on smaller pieces, release refs, or raise the limit"
        )


def _trim() -> None:
    """Has the C library give back what is free inside its heap. Others than glibc do that by themselves, or not at all."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
