"""What user code prints, with the id of the call that prints it: `[corr=sp-1a2b] text`, line by line.

Only for executors behind the gateway (`--label-output`), where the output of many calls comes out of one pipe. Output of C code and of
programs that user code starts goes its own way and has no label.
"""

from __future__ import annotations

import fcntl
import io
import sys
import threading
from typing import Any, TextIO

from bridge_adapter import calls

_DESCRIPTORS = 64  # above what programs count on
_LONGEST = 8192  # characters of a line that has no end yet


class Labelled(io.TextIOBase):
    """A text stream that writes whole lines, each with the label of the call that has written it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._begun: dict[str, str] = {}  # label -> the beginning of a line

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        call = calls.current()
        label = str(call.trace.get("correlation_id", "")) if call is not None else ""
        with self._lock:
            if not label:
                self._stream.write(text)
                return len(text)
            *lines, rest = (self._begun.pop(label, "") + text).split("\n")
            if len(rest) > _LONGEST:
                lines, rest = [*lines, rest], ""
            if rest:
                self._begun[label] = rest
            if lines:
                self._stream.write("".join(f"[corr={label}] {line}\n" for line in lines))
                self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Lines that have no end yet are written as they are, and ended."""
        with self._lock:
            begun, self._begun = self._begun, {}
            for label, text in begun.items():
                self._stream.write(f"[corr={label}] {text}\n")
            self._stream.flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # buffer, reconfigure, name, ...


def install() -> None:
    """Labels this process's output from now on. User code that closes a standard stream closes a copy: what others print still arrives, and
    not in the file that gets the free number."""
    sys.stdout = Labelled(_copy(sys.stdout))
    sys.stderr = Labelled(_copy(sys.stderr))


def _copy(stream: TextIO) -> TextIO:
    descriptor = fcntl.fcntl(stream.fileno(), fcntl.F_DUPFD_CLOEXEC, _DESCRIPTORS)
    copy = open(descriptor, "w", encoding=stream.encoding, errors=stream.errors, buffering=1)  # noqa: SIM115 - for the whole life
    copy.reconfigure(write_through=True)
    return copy
