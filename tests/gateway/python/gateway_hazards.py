"""User code for the gateway's tests: what programs do to the process they run in."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from typing import Any


def fork_and_return() -> int:
    """Both processes come back from this call."""
    return os.fork() or 0


def fork_a_child_that_stays() -> int:
    child = os.fork()
    if child == 0:
        time.sleep(600)
    return child


def fork_and_call(function: Any) -> str:
    """What a forked child gets when it calls an Elixir function."""
    end, begin = os.pipe()
    if os.fork() == 0:
        try:
            function(1)
        except BaseException as error:
            os.write(begin, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(begin)
    with os.fdopen(end) as answer:
        text = answer.read()
    os.wait()
    return text


def start_threads_that_stay(n: int) -> int:
    for _ in range(n):
        threading.Thread(target=time.sleep, args=(600,), daemon=False).start()
    return threading.active_count()


def ignore_signals() -> str:
    """As C libraries do it, which need no main thread for that."""
    libc = ctypes.CDLL(None)
    for number in (signal.SIGTERM, signal.SIGINT):
        libc.signal(int(number), ctypes.c_void_p(1))
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return "in the main thread"
    return "ignored"


def close_standard_streams() -> None:
    for fd in (0, 1, 2):
        os.close(fd)


def say(text: str) -> None:
    for stream in (1, 2):
        with contextlib.suppress(OSError):
            os.write(stream, text.encode())


def say_in_pieces() -> None:
    print("one line")
    print("half a ", end="")
    print("line")
    print("an error", file=sys.stderr)
    sys.stdout.write("no end")
    sys.stdout.flush()


def print_while_a_file_is_open(path: str) -> str:
    with open(path, "w") as file:
        print("printed")
        file.write("data")
    with open(path) as file:
        return file.read()


def flood(megabytes: int) -> int:
    for _ in range(megabytes):
        sys.stdout.write("x" * 1023 + "\n")
        sys.stdout.write(("y" * 1023 + "\n") * 1023)
    return megabytes


def protobuf_version() -> str:
    import google.protobuf

    return str(google.protobuf.__version__)


def seconds_left() -> float | None:
    from bridge_adapter.tracing import current_call

    call = current_call()
    return None if call is None else call.remaining


def what_is_running() -> dict[str, Any]:
    from bridge_adapter.tracing import current_call

    call = current_call()
    assert call is not None
    return {"corr": call.correlation_id, "session": call.session_id, "trace": call.traceparent, "tool": call.tool}


async def what_is_running_async() -> dict[str, Any]:
    return what_is_running()


def current_span() -> list[str]:
    from opentelemetry import trace

    span = trace.get_current_span().get_span_context()
    return [format(span.trace_id, "032x"), format(span.span_id, "016x")]


def alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    time.sleep(60)
