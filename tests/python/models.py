"""Small models for the tests of sessions, pools of them and batching."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


class Doubler:
    """A model whose prediction is twice its input. `calls` are the numbers of rows of each call."""

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor
        self.calls: list[int] = []
        self.warm = False

    def warm_up(self) -> None:
        self.warm = True

    def predict(self, rows: Any) -> Any:
        self.calls.append(len(rows))
        return np.asarray(rows) * self.factor

    def nonnegative(self, rows: Any) -> Any:
        """As predict, but refuses a batch in which any row is negative."""
        if np.min(rows) < 0:
            raise ValueError("a row is negative")
        return self.predict(rows)

    def quitting(self, rows: Any) -> Any:
        """As predict, but a negative row wants to end the process the polite way."""
        if np.min(rows) < 0:
            sys.exit(7)
        return self.predict(rows)

    def deadly(self, rows: Any) -> Any:
        """As predict, but a negative row ends the process."""
        if np.min(rows) < 0:
            os._exit(7)
        return self.predict(rows)

    def several(self, rows: Any) -> dict[str, Any]:
        return {"double": self.predict(rows), "parts": (rows, [np.asarray(rows) + 1, np.asarray(rows) - 1])}

    def mean(self, rows: Any) -> float:
        return float(np.mean(rows))

    def texts(self, rows: list[str]) -> list[str]:
        return [row.upper() for row in rows]

    def kinds(self, rows: Any) -> list[str]:
        """Says of each row with what it was joined."""
        return [f"{getattr(rows, 'dtype', type(rows).__name__)}{tuple(np.shape(rows)[1:])}"] * len(rows)

    def told(self, rows: Any, notify: Callable[[], object] | None) -> Any:
        """Tells that it has begun and goes on until it is interrupted; at once where there is nobody to tell."""
        if notify is not None:
            notify()
            until = time.monotonic() + 60
            while time.monotonic() < until:
                time.sleep(0.005)
        return rows

    def hang(self, rows: Any) -> Any:
        time.sleep(60)
        return rows

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    def count_and_die(self, n: int) -> Iterator[int]:
        yield from range(n)
        os._exit(3)

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os._exit(3)

    def die_once(self, marker: str) -> str:
        """Ends the process unless the file is there, which it makes."""
        if os.path.exists(marker):
            return "again"
        Path(marker).touch()
        os._exit(3)

    def wait_for(self, path: str) -> bool:
        """Waits until the file is there."""
        until = time.monotonic() + 20
        while not os.path.exists(path):
            if time.monotonic() > until:
                raise TimeoutError(f"{path} did not come")
            time.sleep(0.005)
        return True

    def note(self, text: str) -> None:
        self.notes = [*getattr(self, "notes", []), text]


def triple(rows: Any) -> Any:
    return np.asarray(rows) * 3


def labelled(rows: Any, label: Any) -> list[str]:
    return [repr(label)] * len(rows)


def scale(factor: float, rows: Any, offsets: Any, *, shift: float = 0.0) -> Any:
    return np.asarray(rows) * factor + np.asarray(offsets) + shift
