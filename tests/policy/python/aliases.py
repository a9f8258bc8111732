"""User code through which callers try to reach what they may not name."""

import functools
import math  # noqa: F401 - reached through this module
import os
import sys
from builtins import eval as harmless  # noqa: F401 - an alias
from os import system as shell  # noqa: F401 - an alias
from pickle import loads as read  # noqa: F401 - an alias

bound = functools.partial(eval, "1 + 1")
nested = functools.partial(functools.partial(eval), "1 + 1")
handed = functools.partial(map, eval)
remembered = functools.lru_cache(eval)
TABLE = {"run": eval}
calls: list[str] = []
_hidden = 1


@functools.wraps(eval)
def wrapped(text: str) -> object:
    calls.append(text)
    return eval(text)


class Tool:
    static = staticmethod(eval)
    name = "tool"
    _private = 1

    def run(self, value: int) -> int:
        return value + 1

    def numbers(self):  # type: ignore[no-untyped-def]
        yield 1


def evaluator() -> object:
    return eval


def module() -> object:
    return os


def is_loaded(name: str) -> bool:
    return name in sys.modules


def fine(value: int) -> int:
    return value * 2


def broken(password: str) -> None:
    raise ValueError(f"cannot log in with password={password!r}")
