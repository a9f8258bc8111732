"""One executor process: started, listened to, ended. Two threads watch it, so that its death is seen whatever the event loop does.

Standard library only: it is started before grpc is imported, so that both come up at the same time.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError

from bridge_adapter.compat import withdrawn
from bridge_adapter.gateway import places
from bridge_adapter.gateway.output import STDERR

TAIL_BYTES = 4096
_READY = b"snakebridge-ready "


class EndedEarly(ChildProcessError):
    """An executor was gone before it was ready; `status` is how (Popen's)."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{how_it_ended(status)} before it was ready")
        self.status = status


class ExecutorProcess:
    """A running executor. `ready` resolves when it listens, `exited` with its status when it is gone (Popen's: -N = signal N).

    `arguments`: what it is told beyond where to listen.
    Make it on a thread that lives as long as the process: the kernel sends the child's parent-death signal when that thread ends.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.token = secrets.token_hex(16)
        self.directory = places.make()
        self.path = os.path.join(self.directory, "x.sock")
        self.ready: Future[None] = Future()
        self.exited: Future[int] = Future()
        self.tail = b""
        # -P: neither the current directory nor ours may shadow what users import.
        command = [sys.executable, "-P", "-m", "bridge_adapter.executor", "--private-directory", "--label-output"]
        command += ["--listen", f"unix:{self.path}", *arguments]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**withdrawn(os.environ), "SNAKEBRIDGE_TOKEN": self.token},
                process_group=0,
            )
        except BaseException:
            places.remove(self.directory)
            raise
        self.pid = self._process.pid
        self._output = threading.Thread(target=self._forward, name="output", daemon=True)
        self._output.start()
        threading.Thread(target=self._wait, name="executor", daemon=True).start()

    def terminate(self) -> None:
        """Asks it to end."""
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends it and everything that user code started in its process group. Any thread may call it."""
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        places.remove(self.directory)

    def last_words(self) -> str:
        """The end of what it printed."""
        return self.tail.decode("utf-8", "replace").strip()

    def _wait(self) -> None:
        places.sweep()
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        # While it is not reaped its group cannot be anybody else's.
        self.kill()
        status = self._process.wait()
        self._output.join(0.5)
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not self.ready.done():
            with contextlib.suppress(InvalidStateError):
                self.ready.set_exception(EndedEarly(status))
        self.exited.set_result(status)

    def _forward(self) -> None:
        """Passes output on to stderr and keeps its end."""
        stdout = self._process.stdout
        assert stdout is not None
        rest = b""
        with stdout:
            while data := os.read(stdout.fileno(), 64 * 1024):
                if not self.ready.done():
                    rest += data
                    *lines, rest = rest.split(b"\n")
                    data = b"".join(line + b"\n" for line in lines if not self._is_ready(line))
                    if self.ready.done():
                        data += rest
                self._pass_on(data)
            if not self.ready.done():
                self._pass_on(rest)

    def _is_ready(self, line: bytes) -> bool:
        if self.ready.done() or not line.startswith(_READY):
            return False
        with contextlib.suppress(InvalidStateError):  # nobody waits any more
            self.ready.set_result(None)
        return True

    def _pass_on(self, data: bytes) -> None:
        self.tail = (self.tail + data)[-TAIL_BYTES:]
        STDERR.put(data)


def how_it_ended(status: int, *, hint: bool = True) -> str:
    """An exit status in words. `hint`: with what is likely where the status alone says little."""
    if status >= 0:
        guess = " (user code ended it, or somebody told it to stop)" if hint and not status else ""
        return f"it ended with exit status {status}{guess}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    guess = " (the system may have been out of memory, or somebody has killed it)" if hint and -status == signal.SIGKILL else ""
    return f"it was killed by {name}{guess}"
