"""User types that travel by value: a dataclass and an exception."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from typing import Any

from bridge_adapter import codec


@dataclasses.dataclass
class Point:
    x: float
    y: float

    def moved(self, by: float) -> Point:
        return Point(self.x + by, self.y + by)


class OutOfField(Exception):
    """Raised, and returned, by value."""


codec.register(Point, "test.point")
codec.register(OutOfField, "test.out_of_field")


def moved(point: Point, by: float) -> Point:
    assert type(point) is Point
    return point.moved(by)


def judged(point: Point) -> OutOfField:
    return OutOfField("too far", point)


def farthest(places: list[Any]) -> Point:
    (one,), others = places
    (two,) = others["a"]
    assert type(one) is type(two) is Point
    return max(one, two, key=lambda point: point.x)


class Side(enum.Enum):
    LEFT = 1
    RIGHT = 2


def other(side: Side) -> Side:
    return Side.LEFT if side is Side.RIGHT else Side.RIGHT


def each(point: Point) -> Iterator[float]:
    yield point.x
    yield point.y
