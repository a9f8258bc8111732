"""What goes to stderr: the executor's output as it comes, our own log as lines of `key=value`. Whoever does not read it holds up nothing:
what waits is bounded, what is more is dropped, and said.

Standard library only: it is in use before grpc is imported.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import deque

MOST_WAITING = 1 << 20  # bytes
FLUSH_SECONDS = 0.3
_PART = 4096  # what a pipe takes in one piece


class Output:
    """Bytes for a file descriptor, written by a thread of its own."""

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self.reset()

    def reset(self) -> None:
        """Begins anew, in a process that was forked off: the thread has stayed behind, perhaps with the lock."""
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._writing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, data: bytes) -> None:
        """Takes bytes to write, or drops them when too many wait."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
                self._thread.start()
            if self._size + len(data) > MOST_WAITING:
                self._dropped += len(data)
            else:
                self._waiting.append(data)
                self._size += len(data)
            self._changed.notify()

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Waits until all is written, but not longer than that."""
        until = time.monotonic() + seconds
        while (self._waiting or self._writing) and time.monotonic() < until:
            time.sleep(0.005)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.wait_for(lambda: self._waiting or self._dropped)
                self._writing = True
                parts, self._size = list(self._waiting), 0
                self._waiting.clear()
                dropped, self._dropped = self._dropped, 0
            if dropped:
                parts.append(b"\nbridge_adapter.gateway: %d bytes of output were dropped here, because nobody reads them\n" % dropped)
            for part in parts:
                with contextlib.suppress(OSError):  # nobody is there to read it
                    for begin in range(0, len(part), _PART):
                        self._write(part[begin : begin + _PART])

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._fd, data) :]


STDERR = Output()
os.register_at_fork(after_in_child=STDERR.reset)


class LogHandler(logging.Handler):
    """Log records as lines: ts=... level=... logger=... corr=... msg="..."."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            STDERR.put(line(record).encode("utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)


def line(record: logging.LogRecord) -> str:
    """A log record as one line of text."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    fields = [f"ts={moment}.{int(record.msecs):03d}Z", f"level={record.levelname.lower()}", f"logger={record.name}"]
    correlation = getattr(record, "corr", "")
    if correlation:
        fields.append(f"corr={correlation}")
    message = record.getMessage()
    if record.exc_info:
        message += "\n" + logging.Formatter().formatException(record.exc_info)
    fields.append(f"msg={json.dumps(message, ensure_ascii=False)}")
    return " ".join(fields) + "\n"
