"""`logging` and `warnings` of calls, as records for Elixir's Logger: with level, logger and place, not as lines of text.

Python's levels, filters and handlers stay as user code sets them: a record goes out when Python would handle it. What handlers then write
to stdout or stderr for a call is not repeated there; their files and sockets get it as ever.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

from bridge_adapter import output

_LONGEST = 1 << 16  # characters of a message
_MOST = (1 << 31) - 1  # of a level or a line
_SAID = "_snakebridge_said"  # marks records that went out; formatters of JSON leave names with an underscore out
_formatter = logging.Formatter()


def forward() -> None:
    """From now on, records and warnings of calls go to their clients, if those want it."""
    handle = logging.Logger.callHandlers

    def call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
        said = output.heard_by_caller()
        if said is None:
            handle(self, record)
            return
        said.entry(_entry(record))
        if record.levelno >= logging.ERROR:
            said.flush_now()  # these may be last words
        record.__dict__[_SAID] = True
        with output.silent():
            handle(self, record)

    logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]
    handle_here = logging.Handler.handle

    def handle_said(self: logging.Handler, record: logging.LogRecord) -> bool:
        # On the thread of a `QueueListener`, which belongs to another call or to none.
        if _SAID not in record.__dict__:
            return handle_here(self, record)
        with output.silent():
            return handle_here(self, record)

    logging.Handler.handle = handle_said  # type: ignore[method-assign]
    show = warnings.showwarning

    def show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *where: Any, **more: Any) -> None:
        file = where[0] if where else more.get("file")
        said = output.heard_by_caller() if file is None else None
        if said is None:
            show(message, category, filename, lineno, *where, **more)
        else:
            said.entry(["warning", _clip(str(message)), category.__name__, str(filename), _number(lineno)])

    warnings.showwarning = show_warning


def notice(level: int, text: str) -> None:
    """Says something of our own: in the caller's Logger where that is wanted, else on stderr."""
    said = output.heard_by_caller()
    if said is None:
        import sys

        print(f"bridge_adapter: {text}", file=sys.stderr, flush=True)
    else:
        said.entry(["log", level, _clip(text), "bridge_adapter", "", "", "", 0])


def _entry(record: logging.LogRecord) -> list[Any]:
    try:
        message = _message(record)
    except Exception as error:  # logging goes on, too, whatever a program logs
        message = f"a record of {type(record.msg).__name__} cannot be formatted: {type(error).__name__}"
    place = [str(record.name), str(record.module), str(record.funcName), str(record.pathname)]
    return ["log", _number(record.levelno), _clip(message), *place, _number(record.lineno)]


def _message(record: logging.LogRecord) -> str:
    try:
        message = str(record.getMessage())
    except Exception as error:
        message = f"{record.msg!r} with {record.args!r} cannot be formatted: {error}"
    if record.exc_info and record.exc_info[0] is not None:
        message = f"{message}\n{_formatter.formatException(record.exc_info)}"
    if record.stack_info:
        message = f"{message}\n{record.stack_info}"
    return message


def _number(value: Any) -> int:
    # Programs make records of their own, with whatever they like.
    return max(-_MOST, min(value, _MOST)) if isinstance(value, int) else 0


def _clip(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text) - _LONGEST} more characters)"
