"""User types that travel by value: a dataclass and an exception."""

from __future__ import annotations

import dataclasses

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
