"""The chat in a terminal of its own: words appear, Ctrl-C ends the answer and not the program, /reset forgets, /quit ends."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMPT = "\n> "
TAKE_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A program at a pseudo terminal, of which it is the session's leader, as in a terminal window."""

    def __init__(self, *command: str) -> None:
        environment = {**os.environ, "SNAKEBRIDGE_PYTHON": sys.executable, "LC_ALL": "C.UTF-8", "TERM": "xterm"}
        self._fd, end = pty.openpty()
        # Not pty.fork: this process has threads.
        self._process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *command],
            cwd=ROOT,
            env=environment,
            stdin=end,
            stdout=end,
            stderr=end,
            start_new_session=True,
        )
        os.close(end)
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def until(self, pattern: str) -> str:
        """What appears up to the first match of a pattern, colours left out."""
        while (match := re.search(pattern, self._seen)) is None:
            ready, _, _ = select.select([self._fd], [], [], 100)
            try:
                data = os.read(self._fd, 4096) if ready else b""
            except OSError:  # how Linux tells that the program has closed its terminal
                data = b""
            assert data, f"{pattern!r} did not come after: {self._seen}"
            self._seen += re.sub(r"\x1b\[[0-9;]*m", "", data.decode("utf-8", "replace")).replace("\r\n", "\n")
        shown, self._seen = self._seen[: match.end()], self._seen[match.end() :]
        return shown

    def status(self) -> int:
        """Waits for the end."""
        return self._process.wait()

    def close(self) -> None:
        """Ends the program if it has not ended."""
        os.close(self._fd)
        self._process.kill()
        self._process.wait()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    chat = Terminal("mix", "run", "examples/generate/chat.exs", "--temperature", "0", "--max-tokens", "2000")
    yield chat
    chat.close()


def test_a_conversation_in_a_terminal(terminal: Terminal) -> None:
    terminal.until(PROMPT)
    terminal.type("What is 12 times 12?\n")
    assert re.search(r"12 times 12 is[^[]*\n\[\d+ tokens", terminal.until(PROMPT))
    terminal.type("Count from one to two thousand.\n")
    terminal.until(r"\n\S+ \S+")
    terminal.type("\x03")
    assert "[interrupted]" in terminal.until(PROMPT)
    terminal.type("/reset\n")
    assert "Forgotten." in terminal.until(PROMPT)
    terminal.type("\x03")  # nothing to end, unless the signal takes longer than the next words
    terminal.type("What is 12 times 12?\n")
    terminal.until(PROMPT)
    terminal.type("What is 12 times 12?\n")
    assert "12 times 12 is" in terminal.until(PROMPT)
    terminal.type("/quit\n")
    assert terminal.status() == 0
