"""Functions whose runs can be counted from outside: each writes a line into a file."""

import os
import time
from pathlib import Path


class Thing:
    def name(self) -> str:
        return "thing"


def _count(path: str) -> int:
    with open(path, "a") as file:
        file.write("x\n")
    return len(Path(path).read_text().splitlines())


def run(path: str, result: object = None) -> object:
    return _count(path) if result is None else (_count(path), result)


def slow(path: str, seconds: float) -> int:
    number = _count(path)
    time.sleep(seconds)
    return number


def until(path: str, there: str) -> int:
    number = _count(path)
    while not os.path.exists(there):
        time.sleep(0.005)
    return number


def fail_until(path: str, there: str) -> None:
    raise ValueError(f"run {until(path, there)} failed")


def make(path: str) -> Thing:
    _count(path)
    return Thing()


def large(path: str, size: int) -> bytes:
    _count(path)
    return b"x" * size


def die_first(path: str) -> int:
    number = _count(path)
    if number == 1:
        os.kill(os.getpid(), 9)
    return number


def fork_and_die_first(path: str) -> str:
    """At the first time the child comes back from the call, and the worker does not."""
    if _count(path) > 1:
        return "the worker"
    child = os.fork()
    if child == 0:
        return "the child"
    os.waitpid(child, 0)
    os.kill(os.getpid(), 9)
    raise AssertionError("killed")


def again_from_callback(path: str, ask) -> object:  # type: ignore[no-untyped-def]
    _count(path)
    return ask(path)
