"""The helper file of the recorded examples: one helper, one helper with everything that the index tells."""

from __future__ import annotations

from typing import Any


def add(a: float, b: float = 1.0) -> float:
    """Adds two numbers."""
    return a + b


def everything(first: Any, /, second: int, *rest: Any, key: str | None = None, **others: Any) -> list[Any]:
    return [first, second, list(rest), key, others]


__snakebridge_helpers__ = {"study.add": add, "study.everything": everything}
