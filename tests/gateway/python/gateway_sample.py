"""User code for the gateway's tests: what hangs, dies, streams and counts."""

from __future__ import annotations

import builtins
import ctypes
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

made = 0
lock = threading.Lock()
barrier: threading.Barrier | None = None


def tell(place: str, text: object) -> None:
    """Writes to a named pipe; returns when somebody has read it."""
    with open(place, "w") as pipe:
        pipe.write(str(text))


def wait_forever(place: str) -> None:
    """Tells its pid, then sleeps."""
    tell(place, os.getpid())
    time.sleep(600)


def swallow_forever(place: str) -> None:
    """Cannot be interrupted, from the moment on that it tells its pid."""
    told = False
    while True:
        try:
            if not told:
                told = True
                tell(place, os.getpid())
            threading.Event().wait()
        except BaseException:
            continue


def sleep_in_c(place: str, seconds: int) -> None:
    """Cannot be interrupted, lets others run."""
    tell(place, os.getpid())
    ctypes.CDLL(None).sleep(seconds)


class Mine(Exception):
    """An exception of user code."""


def raise_with_cause() -> None:
    error = Mine("mine")
    error.add_note("a note")
    raise error from KeyError("k")


def raise_group() -> None:
    raise ExceptionGroup("both", [ValueError("one"), TypeError("two")])


def raise_it(name: str) -> None:
    raise getattr(builtins, name)("asked for")


def meet(n: int) -> int:
    """Returns when n calls are in here at the same time."""
    global barrier
    with lock:
        barrier = barrier or threading.Barrier(n)
    return barrier.wait(20)


def hold_the_gil(place: str, seconds: int) -> str:
    """Keeps the interpreter to itself, as a C extension may."""
    libc = ctypes.PyDLL(None)
    try:
        tell(place, os.getpid())
    finally:  # whatever interrupts it here
        libc.sleep(seconds)
    return "done"


def hold_after_interruption(place: str) -> None:
    """Tells when it is interrupted."""
    try:
        wait_forever(place)
    finally:
        tell(place, "interrupted")


def die(how: str) -> None:
    print(f"about to die by {how}", flush=True)
    if how == "exit":
        os._exit(3)
    signal.raise_signal(getattr(signal, how))


def die_once(marker: str) -> int:
    """Kills its process the first time, answers the second."""
    if Path(marker).exists():
        return os.getpid()
    Path(marker).touch()
    os._exit(9)


def count_and_die(path: str) -> None:
    with open(path, "a") as file:
        file.write("x")
    os._exit(9)


def close_every_socket() -> None:
    os.closerange(3, 1024)


def break_python_and_die(place: str) -> None:
    """No other interpreter that looks there starts any more."""
    with open(place, "w") as file:
        file.write("import os\nos._exit(7)\n")
    os._exit(3)


def break_the_connection_of_this_call(place: str) -> int:
    """Adds an x to a file; the first time, breaks the connections of all calls. Its pid."""
    with open(place, "a") as file:
        file.write("x")
    if os.path.getsize(place) == 1:
        connected = [end for end in map(_connection, sorted(map(int, os.listdir("/proc/self/fd")))) if end is not None]
        for end in connected[1:]:  # the first one is the control connection
            end.shutdown(socket.SHUT_RDWR)
    return os.getpid()


def _connection(number: int) -> socket.socket | None:
    """A copy of one of the executor's own connections."""
    try:
        end = socket.socket(fileno=os.dup(number))
    except OSError:
        return None
    try:
        end.getpeername()
        ours = end.family == socket.AF_UNIX and str(end.getsockname()).endswith("x.sock")
    except OSError:
        ours = False
    return end if ours else None


def break_the_connection_of_this_stream(place: str) -> Iterator[int]:
    break_the_connection_of_this_call(place)
    yield from range(3)


def start_child() -> int:
    """A process of the user's that outlives the call."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid


def search_path() -> list[str]:
    return sys.path


def top_level(name: str) -> bool:
    """Whether `import name` finds something."""
    import importlib.util

    return importlib.util.find_spec(name) is not None


def many(n: int) -> Iterator[int]:
    yield from range(n)


def mixed() -> Iterator[Any]:
    yield from (1, None, "text", "123", {"data": 5}, [1, 2], b"\xff")


def fail_after(n: int) -> Iterator[int]:
    yield from range(n)
    raise ValueError("boom mid-stream")


def fail_at_length() -> Iterator[int]:
    yield 1
    raise ValueError("long: " + 'é\n"x' * 20_000)


def counted(n: int) -> Iterator[str]:
    """Items of 10 kB; counts how far it was driven."""
    global made
    for number in range(n):
        made = number + 1
        yield "x" * 10_000


def how_many() -> int:
    return made


def endless(place: str) -> Iterator[int]:
    try:
        number = 0
        while True:
            yield number
            number += 1
    finally:
        tell(place, "closed")


def stream_and_die() -> Iterator[int]:
    yield 1
    os._exit(4)


def many_objects(n: int) -> list[object]:
    return [object() for _ in range(n)]


thing = object()


def twice() -> list[object]:
    return [thing, thing]


class Collection:
    """Counts, shows itself, can be told apart from its items."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"Collection({self.n})"

    def __str__(self) -> str:
        return "three things"


def a_collection(n: int) -> Collection:
    return Collection(n)


def len_of(module: str, attribute: str) -> int:
    return len(getattr(sys.modules[module], attribute))


def make_garbage(n: int) -> int:
    """Objects in cycles, and a collection that finds them all: none comes by itself before, so soon after another one."""
    gc.collect()
    for _ in range(n):
        one: list[Any] = []
        one.append([one])
        del one  # the last one, too
    return gc.collect()


notes: dict[str, list[int]] = {}


def note_down(name: str, n: int) -> int:
    notes.setdefault(name, []).append(n)
    return n


def noted(name: str) -> list[int]:
    return notes[name]


def count_once(path: str) -> int:
    """How often it has run."""
    with open(path, "a") as file:
        file.write("x")
    return len(Path(path).read_text())
