"""User code that talks: prints, logs, warns, and sends messages by itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import logging
import logging.handlers
import queue
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bridge_adapter import elixir

logger = logging.getLogger("talker")
pool = ThreadPoolExecutor(1)
gate = threading.Event()
told = threading.Event()
later: dict[str, Any] = {}


def say(text: str, end: str = "\n") -> str:
    print(text, end=end)
    return text


def say_both(text: str) -> None:
    print(text)
    print(text, file=sys.stderr)


def say_bytes(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def say_bytes_one_by_one(data: bytes) -> None:
    for byte in data:
        sys.stdout.buffer.write(bytes([byte]))


def close_and_say(text: str) -> None:
    """Closes what it was given, as scripts do, and a wrapper that closes what it wraps."""
    io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8").write(text)
    sys.stdout.close()
    sys.stdout.buffer.write(text.encode())
    print(text)


def say_redirected(text: str) -> list[str]:
    """Redirects, and waits in there until the gate opens."""
    with contextlib.redirect_stdout(io.StringIO()) as outer:
        print(text, "outer")
        told.set()
        gate.wait(20)
        with contextlib.redirect_stdout(io.StringIO()) as inner, contextlib.redirect_stderr(sys.stdout):
            print(text, "inner", file=sys.stderr)
            sys.stdout.buffer.write(b"bytes\n")
            say_in_thread("thread")
        with contextlib.redirect_stdout(sys.stdout):
            print(text, "same", flush=True)
        assert sys.stdout.getvalue() == outer.getvalue()  # type: ignore[attr-defined]
    with contextlib.redirect_stdout(None):
        print(text, "nowhere")
    with contextlib.redirect_stderr(sys.stdout), contextlib.redirect_stdout(sys.stderr):
        print(text, "crossed")
        print(text, "crossed", file=sys.stderr)
    return [outer.getvalue(), inner.getvalue()]


def fail_in_thread() -> None:
    thread = threading.Thread(target=int, args=("x",))
    thread.start()
    thread.join()


def say_around(function: Any, text: str) -> Any:
    print("before", text)
    result = function(text)
    print("after", text)
    return result


def say_many(name: str, count: int) -> int:
    for number in range(count):
        print(f"{name} {number}")
    return count


def say_many_and_tell(name: str, count: int) -> int:
    told.clear()
    say_many(name, count)
    told.set()
    return count


def wait_until_told() -> bool:
    return told.wait(20)


def say_in_thread(text: str) -> None:
    thread = threading.Thread(target=print, args=(text,))
    thread.start()
    thread.join()


def say_in_pool(text: str) -> None:
    pool.submit(print, text).result()


async def say_in_coroutine(text: str, turns: int) -> None:
    for turn in range(turns):
        print(text, turn)
        await asyncio.sleep(0)
    await asyncio.to_thread(print, text, "to_thread")


def say_when_open(text: str) -> None:
    """From a thread that goes on when the call has ended."""

    def wait() -> None:
        gate.wait(20)
        print(text)

    gate.clear()
    threading.Thread(target=wait, name="talker").start()


def join_threads() -> None:
    """Waits for the threads that the gate has let go."""
    for thread in threading.enumerate():
        if thread.name == "talker":
            thread.join(20)


def open_gate() -> None:
    gate.set()


def last_words(text: str) -> None:
    import os

    print(text, end="", flush=True)
    print(text, "err", file=sys.stderr)
    logger.error(text)
    os._exit(3)


def items_and_last_words(count: int) -> Any:
    try:
        yield from range(count)
    finally:
        print("closed")


def items(count: int) -> Any:
    for number in range(count):
        print("making", number)
        yield number


class _Litter:
    """Prints when it is collected, and leaves another one to be collected."""

    left = 0

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        print("litter")
        if _Litter.left > 0:
            _Litter.left -= 1
            _Litter()


def litter(count: int) -> None:
    """From now on, the collector runs all the time, and each time something prints."""
    _Litter.left = count
    _Litter()
    gc.set_threshold(1)


def littered() -> int:
    """Ends that; how much had not been collected."""
    left, _Litter.left = _Litter.left, 0
    gc.set_threshold(700)
    return left


def record(level: int, text: str, *args: Any) -> None:
    logger.log(level, text, *args)


def record_failure() -> None:
    try:
        int("x")
    except ValueError:
        logger.exception("no number")


def quiet_record() -> None:
    logger.info("nobody asked for this")


def record_with_handlers(path: str) -> None:
    """A set-up as scripts have it: a handler to stderr and one to a file."""
    own = logging.getLogger("talker.handled")
    handlers = [logging.StreamHandler(), logging.FileHandler(path)]
    for handler in handlers:
        own.addHandler(handler)
    own.error("handled")
    for handler in handlers:
        own.removeHandler(handler)
        handler.close()


def record_through_queue(text: str) -> None:
    """A set-up whose handlers run on a thread of their own."""
    records: queue.SimpleQueue[Any] = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(records, logging.StreamHandler())
    own = logging.getLogger("talker.queued")
    own.addHandler(logging.handlers.QueueHandler(records))
    listener.start()
    own.error(text)
    listener.stop()
    own.handlers.clear()


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def odd_records() -> None:
    own = logging.getLogger("talker")
    own.error(Unspeakable())
    own.error("%s", Unspeakable())
    own.log(10**30, "a level beyond measure")
    own.handle(logging.LogRecord("odd", 40, "odd.py", 10**30, "a line beyond measure", (), None))
    own.handle(logging.makeLogRecord({"msg": "no name", "levelno": 40, "name": None, "lineno": None}))


class Counted(str):
    """Text that is not joined like other text."""

    def __add__(self, other: Any) -> Any:
        return Counted("?")

    __radd__ = __add__

    def __len__(self) -> int:
        return 1 << 40


def say_counted(text: str) -> None:
    sys.stdout.write("-")
    sys.stdout.write(Counted(text))


def record_and_warn_when_open(text: str) -> None:
    """From a thread that goes on when the call has ended."""

    def wait() -> None:
        gate.wait(20)
        logger.error(text)
        warnings.warn(text, UserWarning, stacklevel=1)

    gate.clear()
    threading.Thread(target=wait, name="talker").start()


def warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=2)


def caught_warning(text: str) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn(text, UserWarning, stacklevel=2)
    return [str(warning.message) for warning in caught]


def speak_then_sleep(text: str, seconds: float) -> None:
    print(text)
    time.sleep(seconds)


class Loud:
    """Prints where nobody expects it."""

    def __reduce__(self) -> Any:
        print("reduced")
        return (Loud, ())

    def __del__(self) -> None:
        print("gone")


def drop_loud() -> None:
    Loud()


def fork_and_print() -> int:
    import os

    pid = os.fork()
    if pid == 0:
        print("from the child", flush=True)
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- messages ---


def send(to: Any, message: Any) -> None:
    elixir.send(to, message)


def send_numbers(to: Any, count: int) -> None:
    for number in range(count):
        elixir.send(to, number)


def send_by_turns(targets: list[Any], count: int) -> None:
    for number in range(count):
        elixir.send(targets[0] if number % 1000 else targets[-1], number)


def send_around(to: Any, read: Any) -> list[Any]:
    seen = []
    for number in range(1, 4):
        elixir.send(to, number)
        if number != 3:
            seen.append(read())
        if number == 1:
            seen.append(read())
    return seen


def send_in_thread(to: Any, message: Any) -> None:
    thread = threading.Thread(target=elixir.send, args=(to, message))
    thread.start()
    thread.join()


async def send_in_coroutine(to: Any, message: Any) -> None:
    await asyncio.sleep(0)
    elixir.send(to, message)


def send_object(to: Any) -> None:
    elixir.send(to, Loud.__mro__)


def yield_and_send(to: Any, count: int) -> Any:
    for number in range(count):
        elixir.send(to, number)
        yield number


def _background(work: Any) -> None:
    """Runs work on a thread that belongs to no call, once the gate opens."""
    import contextvars

    def wait() -> None:
        gate.wait(20)
        try:
            later["result"] = work()
        except BaseException as error:
            later["result"] = f"{type(error).__name__}: {error}"
        later["done"].set()

    later["done"] = threading.Event()
    gate.clear()
    contextvars.Context().run(threading.Thread(target=wait).start)


def send_between_calls(to: Any, message: Any) -> None:
    _background(lambda: elixir.send(to, message))


def send_object_between_calls(to: Any) -> None:
    _background(lambda: elixir.send(to, object()))


def flood_between_calls(to: Any, count: int) -> None:
    _background(lambda: [elixir.send(to, "x" * 1000) for _ in range(count)])


def call_between_calls(function: Any, *args: Any) -> None:
    _background(lambda: elixir.call(function, *args))


def call(function: Any, *args: Any, timeout: float | None = None) -> Any:
    return elixir.call(function, *args, timeout=timeout)


def call_in_thread(function: Any, *args: Any, timeout: float | None = None) -> Any:
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(elixir.call(function, *args, timeout=timeout))
        except Exception as error:
            outcome.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return outcome[0]


def result_of_background() -> Any:
    gate.set()
    assert later["done"].wait(20)
    return later["result"]


def connected() -> bool:
    return elixir.connected()


def ask_afterwards(function: Any, value: Any) -> None:
    """Calls a function of Elixir from a thread, when the call in which it was given has ended."""
    gate.clear()
    threading.Thread(target=lambda: (gate.wait(20), function(value)), name="talker").start()
