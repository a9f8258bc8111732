"""User code for the concurrency test: what one session did, in the order in which it happened."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

_by_session: dict[str, list[int]] = {}
_inside: dict[str, int] = {}
_together = threading.Condition()
_running = 0
_most = 0


class Log:
    """An object of one session."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def add(self, number: int) -> list[int]:
        """What was there, and this. Not atomic: two calls at once would lose one."""
        before = list(self.numbers)
        time.sleep(0.0005)
        self.numbers = [*before, number]
        return self.numbers


def add(session: str, number: int) -> list[int]:
    """The same in a dictionary of the module, which all sessions share."""
    if _inside.get(session):
        raise RuntimeError(f"two calls of {session} at once")
    _inside[session] = 1
    before = list(_by_session.get(session, []))
    time.sleep(0.0005)
    _by_session[session] = [*before, number]
    _inside[session] = 0
    return _by_session[session]


def numbered(session: str, count: int) -> Iterator[str]:
    for number in range(count):
        yield f"{session}-{number}"


def meet(parties: int) -> int:
    """Returns when that many calls are in here at the same time; how many there were."""
    global _running, _most
    with _together:
        _running += 1
        _most = max(_most, _running)
        _together.notify_all()
        _together.wait_for(lambda: _most >= parties, 20)
        _running -= 1
        return _most
