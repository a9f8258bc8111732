"""Objects for sessions that are rebuilt."""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Iterator
from typing import Any


class Basket:
    def __init__(self, *items: Any) -> None:
        self.items = list(items)

    def add(self, item: Any) -> int:
        self.items.append(item)
        return len(self.items)

    def add_badly(self, item: Any) -> None:
        self.items.append(item)
        raise ValueError("it is full")

    def add_slowly(self, item: Any) -> None:
        self.items.append(item)
        time.sleep(30)

    def total(self) -> int:
        return sum(self.items)

    def child(self) -> Basket:
        if not hasattr(self, "_child"):
            self._child = Basket()
        return self._child

    def numbers(self) -> Iterator[Any]:
        yield from self.items

    def crash(self) -> None:
        os._exit(1)

    def add_and_die(self, marker: str, item: Any) -> int:
        """Dies at the first try, before it has done anything."""
        if not os.path.exists(marker):
            open(marker, "w").close()
            os._exit(1)
        return self.add(item)


class Dice:
    def __init__(self, seed: int | None = None) -> None:
        self.value = random.Random(seed).random()


class Pair:
    def __init__(self, left: Any, right: Any) -> None:
        self.left, self.right = left, right

    def total(self) -> int:
        return int(self.left.total() + self.right.total())

    def add(self, item: Any) -> None:
        self.left.add(item)


class Slow:
    """Takes a time that a file names."""

    def __init__(self, path: str) -> None:
        with open(path) as file:
            time.sleep(float(file.read()))


def needs(path: str) -> Basket:
    with open(path) as file:
        return Basket(int(file.read()))


def deadly(path: str) -> Basket:
    """Ends its process if that file is there."""
    if os.path.exists(path):
        os._exit(1)
    return Basket()


def counted(count: int, marks: str) -> Iterator[int]:
    """Numbers, each of which leaves a mark."""
    for number in range(count):
        with open(marks, "a") as file:
            file.write(f"{number}\n")
        yield number


class Resuming:
    """A stream that knows how to go on at a position."""

    def __init__(self, count: int) -> None:
        self.count, self.at, self.resumed = count, 0, -1

    def __iter__(self) -> Resuming:
        return self

    def __next__(self) -> int:
        if self.at >= self.count:
            raise StopIteration
        self.at += 1
        return self.at - 1

    def __snakebridge_resume__(self, position: int) -> None:
        self.at = self.resumed = position

    def how(self) -> int:
        return self.resumed


class Long:
    """Work in steps, each of which leaves a mark, with a checkpoint every third of them."""

    __snakebridge_checkpoint_every__ = 3

    def __init__(self, marks: str) -> None:
        self.marks, self.sum, self.step = marks, 0, 0

    def __iter__(self) -> Long:
        return self

    def __next__(self) -> dict[str, int]:
        self.step += 1
        self.sum += self.step
        with open(self.marks, "a") as file:
            file.write(f"{self.step}\n")
        return {"step": self.step, "sum": self.sum}

    def __snakebridge_checkpoint__(self) -> dict[str, int]:
        return {"step": self.step, "sum": self.sum}

    def __snakebridge_restore__(self, value: dict[str, int]) -> None:
        self.step, self.sum = value["step"], value["sum"]


class NoMoreFiles:
    """From when it is made on, this process writes no files, if the marker is there."""

    def __init__(self, marker: str) -> None:
        if os.path.exists(marker):
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))


def files_again() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


class Waits:
    """It is made when the file is there."""

    def __init__(self, there: str) -> None:
        while not os.path.exists(there):
            time.sleep(0.005)
