"""Ends the gateway with the BEAM that started it: its stdin reaches EOF, or its parent's pid changes."""

from __future__ import annotations

import contextlib
import os
import select
import stat
import threading
from collections.abc import Callable

from bridge_adapter.gateway import places

_LOOK_MS = 250

_last_wish: Callable[[], None] | None = None


def watch() -> None:
    """Starts watching. Call it before anything slow: the parent may die while we start. stdin is watched when it is a pipe."""
    parent = os.getppid()
    line: int | None = None
    try:
        if stat.S_ISFIFO(os.fstat(0).st_mode):
            line = os.dup(0)
    except OSError:
        line = None  # stdin is closed: the parent's pid has to do
    threading.Thread(target=_watch, args=(parent, line), name="parent", daemon=True).start()


def at_death(action: Callable[[], None]) -> None:
    """Sets what is done, from another thread, before the process ends with its parent."""
    global _last_wish
    _last_wish = action


def _watch(parent: int, line: int | None) -> None:
    poll = select.poll()
    if line is not None:
        poll.register(line, select.POLLIN)
    while os.getppid() == parent:
        for _, events in poll.poll(_LOOK_MS):
            # POLLHUP alone is EOF; bytes that somebody writes are read and dropped.
            if line is not None and (not events & select.POLLIN or not os.read(line, 4096)):
                _leave()
    _leave()


def _leave() -> None:
    try:
        if _last_wish is not None:
            _last_wish()
        places.remove_all()
        # Nobody is left to read it, and the next BEAM might take it for that of a worker of its own.
        with contextlib.suppress(KeyError, OSError):
            os.unlink(os.environ["SNAKEPIT_READY_FILE"])
    finally:
        os._exit(0)
