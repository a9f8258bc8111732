"""logs.ndjson: every event and log record, one line each, written at once. A process that is killed the next moment has still told it.

The Parquet parts of events are made from the same records a little later; what a killed process had told but not yet put into a part is
found here again.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "logs.ndjson"
_EVENT: dict[str, type | tuple[type, ...]] = {
    "run_id": str,
    "seq": int,
    "t_wall_ms": (int, float),
    "iter": int,
    "event": str,
    "payload": dict,
}


class Journal:
    """The one writer of the file."""

    def __init__(self, capsule: Path) -> None:
        self._handle = os.open(capsule / FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._handle).st_size
        # A process that died, or a disk that filled up, may have left half a line: the next record must not be glued to it.
        self._torn = size > 0 and os.pread(self._handle, 1, size - 1) != b"\n"

    def append(self, record: dict[str, Any]) -> None:
        """One line."""
        line = (b"\n" if self._torn else b"") + json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        written = os.write(self._handle, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        """Makes it durable."""
        os.fsync(self._handle)

    def close(self) -> None:
        os.close(self._handle)


def records(capsule: Path) -> Iterator[dict[str, Any]]:
    """All records of a capsule, at any time, also while it is being written. Half a line is none."""
    path = capsule / FILE
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record


def events(capsule: Path) -> Iterator[dict[str, Any]]:
    """Those of the records that are events. A line that was damaged into something else is none, like half a line."""
    return (record for record in records(capsule) if record.get("level") == "event" and _whole(record))


def _whole(record: dict[str, Any]) -> bool:
    return all(isinstance(record.get(name), kind) for name, kind in _EVENT.items())
