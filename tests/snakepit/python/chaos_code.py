"""User code for the chaos test: every run of a call leaves a line in the call's own file before it does anything else."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


def begin(file: str) -> None:
    """One line, `<pid> <pid of the parent>`, written at once or not at all."""
    place = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(place, f"{os.getpid()} {os.getppid()}\n".encode())
    os.close(place)


def answer(file: str) -> str:
    return hashlib.sha256(file.encode()).hexdigest()


def work(file: str, milliseconds: int) -> str:
    begin(file)
    time.sleep(milliseconds / 1000)
    return answer(file)


def hold_the_gil(file: str, milliseconds: int) -> str:
    begin(file)
    ctypes.PyDLL(None).usleep(1000 * milliseconds)
    return answer(file)


def with_a_child(file: str, milliseconds: int) -> str:
    """Leaves a process and a thread behind, as libraries do."""
    begin(file)
    subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    time.sleep(milliseconds / 1000)
    return answer(file)


def through_elixir(file: str, milliseconds: int, function: Callable[[Any], Any]) -> str:
    begin(file)
    time.sleep(milliseconds / 2000)
    text = function(answer(file))
    time.sleep(milliseconds / 2000)
    return str(text)


def items(file: str, milliseconds: int, count: int) -> Iterator[str]:
    begin(file)
    for number in range(count):
        yield f"{answer(file)}-{number}"
        time.sleep(milliseconds / 1000 / count)
