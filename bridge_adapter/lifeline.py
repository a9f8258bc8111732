"""How a process of ours ends: with its parent, at a signal, or by itself; always within seconds, and with everything user code started."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


def leave(status: int) -> NoReturn:
    """Ends this process and its process group, if it leads one. Never returns."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # user code has put there what it likes
            stream.flush()
    if os.getpgrp() == os.getpid():
        # Children of user code live in our group; ignore the signal ourselves so that the exit status stays ours.
        signal.signal(signal.SIGTERM, signal.SIG_IGN) if threading.current_thread() is threading.main_thread() else None
        _kill_children()
    os._exit(status)


def end_child() -> NoReturn:
    """Ends a child that user code has forked and that has come back from it: connections and journal are its parent's. Never returns."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(0)


def _kill_children() -> None:
    """SIGKILL for every other process of our group."""
    me, group = os.getpid(), os.getpgrp()
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not entry.isdigit() or int(entry) == me:
            continue
        try:
            if os.getpgid(int(entry)) == group:
                os.kill(int(entry), signal.SIGKILL)
        except OSError:
            continue


def own_group() -> None:
    """Makes this process the leader of a process group, so that what user code starts can be ended with it."""
    with contextlib.suppress(OSError):  # a session leader already leads its group
        os.setpgid(0, 0)


def die_with_parent(on_death: Callable[[], None] | None = None) -> None:
    """Ends this process when its parent dies: stdin reaches EOF, the kernel's parent-death signal, and a look at the parent's pid.

    Call it before anything slow is imported: the parent may die while we start. stdin is replaced by /dev/null, so that user
    code cannot read the lifeline away.
    """
    parent = os.getppid()
    end = on_death or (lambda: leave(0))
    line = os.dup(0)
    os.set_inheritable(line, False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    _guard_group()
    threading.Thread(target=_watch_line, args=(line, end), name="lifeline", daemon=True).start()
    threading.Thread(target=_watch_parent, args=(parent, end), name="parent", daemon=True).start()
    _kernel_signal()
    if os.getppid() != parent:
        end()


def _guard_group() -> None:
    """Starts a shell whose only task is to end our group after us: the kernel's signal, or anybody's SIGKILL, ends only ourselves.

    It hears of our end by the end of a pipe that nobody else holds. It is no child of ours, so that user code which waits for its
    children does not wait for it. Call it while there is one thread.
    """
    me = os.getpid()
    if os.getpgrp() != me:
        return
    end, life = os.pipe()
    between = os.fork()
    if between:
        os.close(end)
        os.waitpid(between, 0)
        os.register_at_fork(after_in_child=lambda: _close(life))
        return
    try:
        os.setsid()
        if os.fork() == 0:
            os.dup2(end, 0)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            # Its own kill, not the program: one of them takes a negative pid for all processes there are.
            os.execv("/bin/sh", ["sh", "-c", f"read _; kill -s KILL -- -{me}", "snakebridge-guard"])
    finally:
        os._exit(0)


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _watch_line(line: int, end: Callable[[], None]) -> None:
    while True:
        try:
            if not os.read(line, 4096):
                break
        except OSError:
            break
    end()


def _watch_parent(parent: int, end: Callable[[], None]) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    end()


def _kernel_signal() -> None:
    """Asks Linux to kill us when the parent dies: the only thing that works while C code of the user holds the GIL."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def take_variable(name: str) -> str:
    """Takes a variable out of the environment, and its value out of what the system shows of it (/proc/PID/environ)."""
    import ctypes

    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    place = getenv(os.fsencode(name))
    if place and os.environ.get(name):
        # The text as the process was given it: nothing has been written over it yet.
        ctypes.memset(place, 0, len(os.fsencode(os.environ[name])))
    return os.environ.pop(name, "")
