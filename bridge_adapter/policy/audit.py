"""The record of decisions: one JSON object per line, in a file that is only appended to and only its user may read. A file that is full or
of another day is left as it is, and the next one gets a name of its own; nothing is deleted here.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from bridge_adapter import errors
from bridge_adapter.policy.access import Identity

LONGEST = 4096  # characters of the details of one line
LONGEST_NAME = 256  # of what the caller calls his request
RETRY_MS = 1000


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """`refuse`: what cannot be recorded is not done; `warn`: it is, and a warning says so. `allowed`: allowed work is recorded, too."""

    path: str
    rotate_bytes: int = 64 << 20
    rotate_daily: bool = True
    fsync: bool = False
    on_failure: Literal["refuse", "warn"] = "refuse"
    allowed: bool = True


class Audit:
    """The open file of an audit. Safe for threads; several processes may write to the same path, each line is one write."""

    def __init__(self, settings: AuditSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._fd = -1
        self._warned = False

    def record(
        self,
        kind: str,
        identity: Identity,
        resource: str,
        action: str,
        result: Literal["success", "failure", "denied"],
        *,
        details: dict[str, Any] | None = None,
        request_id: str = "",
    ) -> None:
        """Appends one decision. Raises Unavailable where that cannot be done and the settings say `refuse`; of a refusal, never."""
        fields: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "type": kind,
            "actor": identity.actor,
            "how": identity.how,
            "resource": resource,
            "action": action[:LONGEST_NAME],
            "result": result,
            "details": details or {},
            "tenant": identity.tenant,
            "request_id": request_id[:LONGEST_NAME],
        }
        line = json.dumps(fields, default=str, ensure_ascii=True)
        if len(line) > 2 * LONGEST:
            fields["details"] = {"clipped": json.dumps(fields["details"], default=str)[:LONGEST]}
            fields["resource"] = resource[:LONGEST]
            line = json.dumps(fields)
        try:
            with self._lock:
                self._append(line.encode() + b"\n")
        except OSError as error:
            self._failed(error, result)

    def flush(self) -> None:
        """Has what was written on the disk: at the end of the process."""
        with self._lock:
            if self._fd >= 0:
                os.fsync(self._fd)

    def _append(self, line: bytes) -> None:
        if self._fd < 0:
            self._fd = os.open(self.settings.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._rotate(len(line))
        written = os.write(self._fd, line)
        if written != len(line):  # the disk is full: half a line must not run into the next one
            if written:
                os.write(self._fd, b"\n")
            raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes could be written")
        if self.settings.fsync:
            os.fsync(self._fd)

    def _rotate(self, more: int) -> None:
        path, status = self.settings.path, os.fstat(self._fd)
        day = time.strftime("%Y-%m-%d", time.gmtime(status.st_mtime))
        full = status.st_size > 0 and status.st_size + more > self.settings.rotate_bytes
        old = self.settings.rotate_daily and status.st_size > 0 and day != time.strftime("%Y-%m-%d", time.gmtime())
        moved = not _is(path, status)  # by another process that shares it, or by whoever keeps logs here
        if not (full or old or moved):
            return
        if not moved:
            number = 1
            while not _renamed(path, f"{path}.{day}.{number}"):
                number += 1
        os.close(self._fd)
        self._fd = -1
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _failed(self, error: OSError, result: str) -> None:
        told = f"the audit file {self.settings.path} cannot be written: {error.strerror or error}"
        if not self._warned:
            self._warned = True
            print(f"bridge_adapter: {told}", file=sys.stderr, flush=True)
        if self.settings.on_failure == "refuse" and result == "success":
            raise errors.Unavailable(f"{told}; nothing is done that is not recorded (audit.on_failure)", retry_after_ms=RETRY_MS) from error


def _is(path: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), status)
    except FileNotFoundError:
        return False


def _renamed(path: str, target: str) -> bool:
    """A link is never made over a file that is there, as a rename would be."""
    try:
        os.link(path, target)
    except FileExistsError:
        return False
    os.unlink(path)
    return True
