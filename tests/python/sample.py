"""User code for the tests: one function per thing that a caller may meet."""

from __future__ import annotations

import asyncio
import importlib
import select
import sys
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

CONSTANT = {"answer": 42}
log: list[Any] = []


class Acc:
    """A small class with state."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, n: int) -> int:
        self.value += n
        return self.value

    def me(self) -> Acc:
        return self

    def items(self, n: int) -> Iterator[int]:
        for i in range(n):
            yield self.value + i

    @classmethod
    def of(cls, value: int) -> Acc:
        return cls(value)

    @property
    def double(self) -> int:
        return 2 * self.value


def hoard(size: int) -> Acc:
    """An object that takes much memory."""
    acc = Acc()
    acc.data = b"x" * size  # type: ignore[attr-defined]
    return acc


class Custom(Exception):
    """An exception of our own."""


def identity(x: Any) -> Any:
    return x


def kinds(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"args": [type(a).__name__ for a in args], "kwargs": {k: type(v).__name__ for k, v in kwargs.items()}}


def raise_it(name: str) -> None:
    import builtins

    raise getattr(builtins, name)("asked for")


def raise_custom() -> None:
    error = Custom("custom")
    error.add_note("a note")
    try:
        int("x")
    except ValueError as cause:
        raise error from cause


def recurse(n: int = 0) -> int:
    return recurse(n + 1)


def cyclic() -> list[Any]:
    loop: list[Any] = [1]
    loop.append(loop)
    return loop


def deep(n: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(n - 1):
        value = [value]
    return value


def print_a_lot() -> int:
    for _ in range(1000):
        print("noise " * 50)
    return 7


def gen(n: int) -> Iterator[int]:
    try:
        yield from range(n)
    finally:
        log.append(("closed", n))


def gen_forever(name: str) -> Iterator[int]:
    i = 0
    try:
        while True:
            yield i
            i += 1
    finally:
        log.append(("closed", name))


def gen_slow(n: int, seconds: float) -> Iterator[int]:
    for i in range(n):
        time.sleep(seconds)
        yield i


def gen_error(n: int) -> Iterator[int]:
    yield from range(n)
    raise ValueError("boom mid-stream")


def gen_returning(n: int, value: Any) -> Generator[int, None, Any]:
    yield from range(n)
    return value


def gen_returning_deep(n: int, depth: int) -> Generator[int, None, Any]:
    return (yield from gen_returning(n, deep(depth)))


def gen_callback(f: Any, n: int) -> Iterator[Any]:
    for i in range(n):
        yield f(i)


def gen_opaque(name: str, data: bytes) -> Iterator[Any]:
    """Yields terms that may not be known where they are read."""
    try:
        while True:
            yield opaque(data)
    finally:
        log.append(("closed", name))


def gen_attempts(f: Any, *xs: Any) -> Iterator[Any]:
    for x in xs:
        yield attempt(f, x)


def gen_offer(f: Any, data: bytes, x: Any) -> Iterator[Any]:
    yield from offer(f, data, x)


async def coroutine(x: int) -> int:
    await asyncio.sleep(0.001)
    return x + 1


async def agen(n: int) -> AsyncIterator[int]:
    try:
        for i in range(n):
            await asyncio.sleep(0)
            yield i
    finally:
        log.append(("aclosed", n))


async def sleep_async(seconds: float) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        log.append("async cancelled")
        raise
    return "slept"


async def agen_ticking() -> AsyncIterator[int]:
    number = 0
    try:
        while True:
            await asyncio.sleep(0)
            yield number
            number += 1
    finally:
        await asyncio.sleep(0)
        log.append("closed")


async def fail_when_cancelled() -> None:
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        raise ValueError("too late") from None


def start_threads() -> None:
    while True:
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()


async def ask_many_and_sleep(f: Any, count: int, seconds: float) -> str:
    async def ask(number: int) -> None:
        await f.aio(number)
        log.append(number)

    await asyncio.gather(*(ask(number) for number in range(count)))
    return await sleep_async(seconds)


async def async_callback(f: Any, x: Any) -> Any:
    return f(x)


def spin(seconds: float) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return "spun"


def swallow(seconds: float) -> str:
    """Goes on whatever interrupts it; between its looks at the clock it takes no CPU."""
    until = time.monotonic() + seconds
    while True:
        try:
            while time.monotonic() < until:
                select.select([], [], [], 0.001)
            return "swallowed all"
        except BaseException:
            log.append("swallowed")


def notify_and_swallow(f: Any, seconds: float) -> str:
    """As swallow, and says first that it has begun; what interrupts it meanwhile is ignored as well."""
    try:
        f()
    except BaseException:
        log.append("swallowed")
    return swallow(seconds)


def cleanup_sleep(seconds: float) -> None:
    try:
        time.sleep(seconds)
    finally:
        log.append("cleaned")


def record(x: Any, seconds: float = 0.0) -> int:
    log.append(("start", x))
    time.sleep(seconds)
    log.append(("end", x))
    return threading.get_ident()


def take_log() -> list[Any]:
    taken = list(log)
    log.clear()
    return taken


def import_and_wait(name: str) -> None:
    importlib.import_module(name)
    time.sleep(30)
    log.append("went on")


def forget_module(name: str) -> None:
    sys.modules.pop(name, None)


def thread_id() -> int:
    return threading.get_ident()


def apply(f: Any, *args: Any, **kwargs: Any) -> Any:
    return f(*args, **kwargs)


def array_and_cycle() -> list[Any]:
    import numpy as np

    cycle: list[Any] = [np.zeros(1000)]
    cycle.append(cycle)
    return cycle


def apply_in_thread(f: Any, x: Any) -> Any:
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.append(f(x)))
    thread.start()
    thread.join()
    return outcome[0]


def opaque(data: bytes) -> Any:
    """An Elixir term as Python holds it: signed bytes, which only who signed them can read."""
    from bridge_adapter.codec import OpaqueTerm

    return OpaqueTerm(data)


def offer(f: Any, data: bytes, x: Any) -> list[Any]:
    """What a function answers to a term of which it may not know the signature, and to a value."""
    return [attempt(f, opaque(data)), attempt(f, x)]


def apply_opaque(f: Any, data: bytes) -> Any:
    return f(opaque(data))


def in_thread(name: str, *args: Any) -> Any:
    """What a function of this module returns when a thread of user code's own runs it."""
    return apply_in_thread(lambda _: globals()[name](*args), None)


def attempts(f: Any, *xs: Any) -> list[Any]:
    return [attempt(f, x) for x in xs]


def attempt(f: Any, *args: Any) -> Any:
    try:
        return f(*args)
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}"


kept: list[Any] = []


def keep(f: Any) -> None:
    kept.append(f)


def call_kept(x: Any) -> Any:
    return kept[-1](x)


def kept_value() -> Any:
    return kept[-1]


def sum_kept() -> int:
    return int(kept[-1].sum())


def mapped_inodes(_: Any) -> list[int]:
    """The inodes of the files that this process maps."""
    with open("/proc/self/maps") as maps:
        return sorted({int(line.split()[4]) for line in maps})


def set_item(target: Any, index: Any, value: Any) -> None:
    target[index] = value


def parts(array: Any, first: int, last: int) -> list[Any]:
    """A part of an array, and that part as a list of lists."""
    return [array[first:last], [array[first:last].tolist()]]


def die_after_segment(directory: str) -> None:
    """As a worker dies that has written its answer and not sent it."""
    import os
    from pathlib import Path

    Path(directory, f"w{os.getpid()}-999").write_bytes(b"never sent")
    os.kill(os.getpid(), 9)


def drop_kept() -> None:
    kept.clear()


def hold_gil(seconds: int) -> None:
    import ctypes

    ctypes.PyDLL(None).sleep(seconds)


def start_child() -> int:
    import subprocess

    return subprocess.Popen(["sleep", "600"]).pid


def fork_and_wait() -> int:
    import os

    pid = os.fork()
    if pid == 0:
        os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def notify_and_sleep(f: Any, seconds: float) -> None:
    try:
        f()
        time.sleep(seconds)
    finally:
        log.append("cleaned")


def shared_list() -> list[Any]:
    """One list twice, and in itself."""
    inner: list[Any] = [1]
    inner.append(inner)
    return [inner, inner]


def is_same(pair: list[Any]) -> bool:
    return pair[0] is pair[1]


def append_line(path: str) -> None:
    with open(path, "a") as file:
        file.write("done\n")


def filled(size: int) -> bytearray:
    """So many bytes of memory that is really there."""
    return bytearray(b"x") * size


def gen_large(count: int, size: int) -> Iterator[bytes]:
    """Items of so many bytes; `log` has the number of those that were made."""
    for number in range(count):
        log.append(number)
        yield bytes(size)


class _Nameless(type):
    """A class that says nothing of itself."""

    @property
    def __module__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("nobody knows")


def raise_nonsense(how: str) -> None:
    """Raises exceptions whose classes say nonsense of themselves."""
    if how == "a number for a module":
        raise type("E", (Exception,), {"__module__": 5, "__qualname__": "q\ud800"})("it happened")
    raise _Nameless("E", (Exception,), {})("it happened")


def break_the_streams() -> None:
    """Puts something where the standard streams were that nobody can write to."""
    sys.stdout, sys.stderr = object(), None  # type: ignore[assignment]
