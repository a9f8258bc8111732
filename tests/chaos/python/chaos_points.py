"""Crash points: what a worker does at a step of the protocol when somebody has asked for it, by a file of that step's name in CHAOS_POINTS.

The first worker that comes there takes the file and does what it says: dies, breaks its connection, or holds on. `sitecustomize` puts the
points around functions of the executor, so that there is nothing of them in the executor itself.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

DIRECTORY = os.environ.get("CHAOS_POINTS", "")
_sleep = time.sleep
_time = time.time
_offset = 0.0
_HELLO_FRAME = 64 * 1024  # the limit of a connection that has not been greeted


def taken(point: str) -> list[str] | None:
    """The words of the order for this point, if there is one and nobody else has taken it."""
    path = f"{DIRECTORY}/{point}"
    try:
        with open(path) as file:
            words = file.read().split()
        os.unlink(path)
    except OSError:
        return None
    return words or None


def reached(point: str) -> None:
    """Dies, holds on or sets the clock, if that is ordered for this point."""
    words = taken(point)
    if words is not None:
        obey(words)


def obey(words: list[str]) -> None:
    global _offset
    match words:
        case ["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["hold", seconds]:
            _sleep(float(seconds))
        case ["clock", seconds]:
            _offset = float(seconds)


def clock() -> float:
    """The time of day as this worker believes it to be."""
    return _time() + _offset


def around_sending(send: Any) -> Any:
    """`LaneSocket.send` that may go wrong with the answer to a call."""

    def sending(self: Any, *parts: bytes) -> None:
        words = None
        if parts[0][:2] in (b"\x94\x01", b"\x95\x01"):
            words = taken("hello" if self.max_frame == _HELLO_FRAME else "answer")
        match words:
            case ["kill", "half"] | ["cut", "half"]:
                whole = sum(map(len, parts)).to_bytes(4, "big") + b"".join(parts)
                self.sock.sendall(whole[: len(whole) // 2])
                _end(self, words[0])
            case ["kill", "after"]:
                send(self, *parts)
                _end(self, "kill")
            case ["kill" | "cut" as how]:
                _end(self, how)
            case None:
                send(self, *parts)
            case _:
                obey(words)
                send(self, *parts)

    return sending


def _end(lane: Any, how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    lane.wake()
    raise BrokenPipeError("the connection was cut")


def around_receiving(receive: Any) -> Any:
    """`LaneSocket.receive` that may go wrong with a request for a call."""

    def receiving(self: Any) -> Any:
        body = receive(self)
        if body is None or b"\xa4call" not in bytes(body[:16]):
            return body
        match taken("request"):
            case ["lose"]:
                self.wake()
                return None
            case ["cut"]:
                self.wake()
            case ["kill"]:
                _end(self, "kill")
            case None:
                pass
            case words:
                obey(words)
        return body

    return receiving


def around(function: Any, before: str, after: str) -> Any:
    """A function with a point before it and one after it."""

    def surrounded(*args: Any, **kwargs: Any) -> Any:
        reached(before)
        result = function(*args, **kwargs)
        reached(after)
        return result

    return surrounded
