"""Which steps leave a row: all of them at first, then every tenth, up to a cap; and the very last one in any case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .errors import RecordInvalid


@dataclass(frozen=True)
class Sampling:
    """Every step up to number `first`, then every `every`-th, at most `cap` rows of a run. Raises RecordInvalid."""

    first: int = 1000
    every: int = 10
    cap: int = 1_000_000

    def __post_init__(self) -> None:
        for name, least in (("first", 0), ("every", 1), ("cap", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise RecordInvalid(f"{name} of the sampling is {value!r:.80}; it must be a whole number of at least {least}")

    def plain(self) -> dict[str, int]:
        return asdict(self)

    def chosen(self, iterations: np.ndarray[Any, Any], written: int, *, ends: bool = False) -> np.ndarray[Any, Any]:
        """Which of these steps leave a row, where `written` rows have been left before. ends: the last one does, if there is room."""
        keep: np.ndarray[Any, Any] = (iterations <= self.first) | (iterations % self.every == 0)
        keep[-1:] |= ends
        room = self.cap - written
        return keep if keep.sum() <= room else keep & (np.cumsum(keep) <= room)


def picked(block: Mapping[str, Any], which: Any, count: int) -> dict[str, Any]:
    """Some rows of a block; `which` is a mask or a list of places. Single values stand for any number of rows."""
    places = np.arange(count)[which]
    return {name: _picked(value, places, count) for name, value in block.items()}


def _picked(value: Any, places: np.ndarray[Any, Any], count: int) -> Any:
    if value is None or isinstance(value, str) or np.ndim(value) == 0:
        return value
    if isinstance(value, (list, tuple)):
        return [value[place] for place in places] if len(value) == count else value
    array = np.asanyarray(value)  # masks stay
    return array[places] if array.shape[0] == count else value
