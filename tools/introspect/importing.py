"""Imports of libraries, with every failure as one kind of error whose text says where it comes from and what to do.

An import may do anything: ask for input, end the process, never end. What takes longer than SNAKEBRIDGE_IMPORT_TIMEOUT seconds (120) is
interrupted; what cannot be interrupted, since it hangs in C, ends the process with a trace of where it is.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import signal
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Iterator

_DEFAULT_LIMIT = 120.0
# How long the interruption may take to be heard.
_GRACE = 10.0


class ImportFailed(Exception):
    """A module cannot be imported; the message says why."""


class _TooLong(BaseException):
    """Raised in the midst of an import; libraries that catch every Exception do not catch this."""


def imported(name: str) -> types.ModuleType:
    """The module of that name. Raises ImportFailed whatever its import raised, and when it does not end."""
    known = sys.modules.get(name)
    if isinstance(known, types.ModuleType):
        return known
    limit = _limit()
    try:
        with warnings.catch_warnings(), _interrupted_after(limit):
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name or name.startswith(f"{error.name}."):
            raise ImportFailed(f"{name} cannot be imported: there is no module {error.name}; {_install()}, or correct the name") from None
        raise ImportFailed(f"{name} cannot be imported: it needs {error.name}, which is not installed; {_install()}") from None
    except _TooLong as error:
        message = f"{name} cannot be imported: its import did not end within {limit:g} s{_place(error)}"
        raise ImportFailed(f"{message}; mend what it waits for, or set SNAKEBRIDGE_IMPORT_TIMEOUT to more seconds") from None
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        text = f"{type(error).__name__}: {_message(error)}{_place(error)}"
        raise ImportFailed(f'{name} cannot be imported: {text}; python -c "import {name}" shows the whole') from None
    return module


def said(error: BaseException) -> str:
    """The text of an exception, on one line; some fail even at that."""
    try:
        return " ".join(str(error).split())[:300]
    except Exception:
        return "(its text cannot be read)"


def _install() -> str:
    return f"install it into this Python ({sys.executable})"


def _message(error: BaseException) -> str:
    # The text of a syntax error ends with its place, of which the folder is missing.
    return str(error.msg) if isinstance(error, SyntaxError) else said(error)


def _place(error: BaseException) -> str:
    """Where it was raised, outside of the import system."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f" ({error.filename}:{error.lineno})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen ") and frame.filename not in (__file__, importlib.__file__)
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _limit() -> float:
    try:
        limit = float(os.environ.get("SNAKEBRIDGE_IMPORT_TIMEOUT", ""))
    except ValueError:
        return _DEFAULT_LIMIT
    return limit if 0 < limit < 1e6 else _DEFAULT_LIMIT


@contextlib.contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """Raises _TooLong in the block after so many seconds. Only the main thread can be interrupted; in others nothing happens."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    running = True

    def interrupt(_signal: int, _frame: types.FrameType | None) -> None:
        if running:
            raise _TooLong

    before = signal.signal(signal.SIGALRM, interrupt)
    # Again and again: an exception that meets a callback of C is lost.
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    with contextlib.suppress(AttributeError, ValueError, OSError):  # stderr may be no file
        faulthandler.dump_traceback_later(seconds + _GRACE, exit=True)
    try:
        yield
    finally:
        running = False
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)
