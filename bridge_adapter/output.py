"""What user code prints. `forward`: to the Elixir process whose call prints it (bridge_adapter.spool). `install`: with the id of the call,
`[corr=sp-1a2b] text`, line by line, for executors behind the gateway, where the output of many calls comes out of one pipe.

What is printed outside of calls is the worker's own output, as is that of C code and of programs that user code starts.
"""

from __future__ import annotations

import fcntl
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from bridge_adapter import calls, spool

if TYPE_CHECKING:
    from bridge_adapter.calls import Call

_DESCRIPTORS = 64  # above what programs count on
_LONGEST = 8192  # characters of a line that has no end yet


class _Stream(io.TextIOBase):
    """A text stream that stands for another one, and writes to it what it does not keep."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

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

    def close(self) -> None:
        """Standard streams are everybody's: code that closes one has finished with it, and others go on."""
        self.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # buffer, reconfigure, name, ...


class Labelled(_Stream):
    """A text stream that writes whole lines, each with the label of the call that has written it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        # Reentrant: what is allocated while it is held may run a finaliser that prints.
        self._lock = threading.RLock()
        self._begun: dict[str, str] = {}  # label -> the beginning of a line

    def write(self, text: str) -> int:
        _check(text)
        call = calls.current()
        label = _label(call) if call is not None else ""
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
            self._end(list(self._begun))

    def finish(self, label: str) -> None:
        """A call of that label has ended, and with it the line that it began."""
        if label in self._begun:
            with self._lock:
                self._end([label])

    def _end(self, labels: list[str]) -> None:
        for label in labels:
            if text := self._begun.pop(label, ""):
                self._stream.write(f"[corr={label}] {text}\n")
        self._stream.flush()


def _label(call: Call) -> str:
    return str(call.trace.get("correlation_id", ""))


class Forwarded(_Stream):
    """A text stream whose text goes to the Elixir process that made the call, as "out" or "err"."""

    def __init__(self, stream: TextIO, kind: str) -> None:
        super().__init__(stream)
        self.kind = kind
        self.buffer = _Bytes(self)

    def write(self, text: str) -> int:
        _check(text)
        if _silent.on:
            return len(text)
        said = heard_by_caller()
        if said is None:
            return self._stream.write(text)
        target = self._target(said)
        if not isinstance(target, Forwarded):
            return target.write(text)  # type: ignore[no-any-return]
        if text:
            # Classes derived from str may join, slice and measure as they like.
            said.text(target.kind, text if type(text) is str else str.__str__(text))
            if target.kind == "err" and "\n" in text:
                said.flush_now()  # as stderr does: these may be last words
        return len(text)

    def flush(self) -> None:
        """Text of calls goes out by itself, and before the call's answer: this is for who wants it at once."""
        said = heard_by_caller()
        if said is None:
            self._stream.flush()
        elif isinstance(target := self._target(said), Forwarded):
            said.flush_now()
        else:
            target.flush()

    def _target(self, said: spool.Spool) -> Any:
        """This stream, or what its call has put in its place (bridge_adapter.redirects)."""
        return (said.redirected.get(self.kind) or [self])[-1] if said.redirected else self

    def __getattr__(self, name: str) -> Any:
        said = heard_by_caller()
        target = self if said is None else self._target(said)
        return super().__getattr__(name) if isinstance(target, Forwarded) else getattr(target, name)  # sys.stdout.getvalue()


class _Bytes(io.RawIOBase):
    """The `buffer` of a forwarded stream, for code that prints bytes."""

    def __init__(self, stream: Forwarded) -> None:
        self._text = stream

    def close(self) -> None:
        """As of the stream: what wraps it for a while closes it with itself, and others go on."""
        self.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._text.isatty()

    def fileno(self) -> int:
        return self._text.fileno()

    def write(self, data: Any) -> int:
        raw = bytes(data)
        if _silent.on:
            return len(raw)
        said = heard_by_caller()
        if said is None:
            return self._text._stream.buffer.write(raw)
        if text := said.characters(self._text.kind, raw):
            self._text.write(text)
        return len(raw)

    def flush(self) -> None:
        if heard_by_caller() is None:
            self._text._stream.flush()


class _Silence(threading.local):
    on = False


_silent = _Silence()
_labelled = False
_pid = 0  # of the process whose output is forwarded


def heard_by_caller() -> spool.Spool | None:
    """Where to say something on behalf of the current call; None when that is the worker's own output."""
    # A forked child has the streams, but neither the threads nor the connections.
    return spool.of_current() if _pid == os.getpid() else None


def finish(call: Call) -> None:
    """The call has ended: what it has said goes out, before its answer where that has the same way."""
    if call.spool is not None:
        call.spool.finish()
    elif _labelled:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, Labelled):
                stream.finish(_label(call))


@contextmanager
def silent() -> Iterator[None]:
    """Context in which what this thread prints for a call is dropped: it was said already, in a better form."""
    before, _silent.on = _silent.on, True
    try:
        yield
    finally:
        _silent.on = before


def forward() -> bool:
    """From now on, what calls say goes to their clients, if those want it. False where output gets labels instead."""
    global _pid
    if _labelled:
        return False
    with _installing:
        if not _pid:
            from bridge_adapter import logs, redirects, threads

            sys.stdout = Forwarded(sys.stdout, "out")
            sys.stderr = Forwarded(sys.stderr, "err")
            logs.forward()
            threads.follow_calls()
            redirects.follow_calls()
            _pid = os.getpid()
    return True


_installing = threading.Lock()


def install() -> None:
    """Labels this process's output from now on. User code that closes a standard stream closes a copy: what others print still arrives, and
    not in the file that gets the free number."""
    global _labelled
    _labelled = True
    sys.stdout = Labelled(_copy(sys.stdout))
    sys.stderr = Labelled(_copy(sys.stderr))


def _check(text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(f"write() argument must be str, not {type(text).__name__}")


def _copy(stream: TextIO) -> TextIO:
    descriptor = fcntl.fcntl(stream.fileno(), fcntl.F_DUPFD_CLOEXEC, _DESCRIPTORS)
    copy = open(descriptor, "w", encoding=stream.encoding, errors=stream.errors, buffering=1)  # noqa: SIM115 - for the whole life
    copy.reconfigure(write_through=True)
    return copy
