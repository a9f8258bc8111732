"""The module that the recorded examples call, written anew from what they call and what came back.

Every function makes one kind of value, raises one kind of error, or says what it was given.
"""

from __future__ import annotations

import collections
import datetime
import enum
import uuid
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

CONST = 42


class Acc:
    """An accumulator: an object that only a ref can stand for."""

    def __init__(self, v: Any) -> None:
        self.v = v

    def add(self, n: Any) -> Any:
        self.v += n
        return self.v

    def __repr__(self) -> str:
        return f"Acc({self.v})"


class Color(enum.Enum):
    RED = 1


class SColor(str, enum.Enum):  # noqa: UP042 (users have both kinds)
    RED = "red"


class MyErr(Exception):
    """An exception of the user's own."""


Point = collections.namedtuple("Point", ["x", "y"])


# --- what came in ---


def ident(x: Any) -> Any:
    return x


def rep(x: Any) -> str:
    return repr(x)


def kw(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"args": list(args), "kwargs": kwargs, "types": [type(arg).__name__ for arg in args]}


def apply(f: Callable[..., Any], *args: Any) -> Any:
    return f(*args)


# --- streams ---


def gen() -> Iterator[Any]:
    yield 1
    yield "two"
    yield None
    yield {"data": 5}


def gen_err() -> Iterator[int]:
    yield 1
    raise ValueError("boom mid-stream")


def exhaust() -> Iterator[Any]:
    return iter(())


def it() -> Iterator[int]:
    return iter([1, 2])


# --- values ---


def obj() -> object:
    return object()


def none() -> None:
    return None


def big() -> int:
    return 2**70


def maxsafe1() -> int:
    return 2**53 + 1


def nan() -> float:
    return float("nan")


def inf() -> float:
    return float("inf")


def by() -> bytes:
    return b"\x00\xff"


def ba() -> bytearray:
    return bytearray(b"ab")


def st() -> set[int]:
    return {1}


def fs() -> frozenset[int]:
    return frozenset({1})


def cpx_inf() -> complex:
    return complex(float("inf"), 1)


def dt_naive() -> datetime.datetime:
    return datetime.datetime(2024, 1, 2, 3, 4, 5)


def dt_off() -> datetime.datetime:
    offset = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
    return datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=offset)


def da() -> datetime.date:
    return datetime.date(2024, 1, 2)


def ti_tz() -> datetime.time:
    return datetime.time(3, 4, 5, tzinfo=datetime.UTC)


def td() -> datetime.timedelta:
    return datetime.timedelta(seconds=1)


def uid() -> uuid.UUID:
    return uuid.UUID(int=1)


def en() -> Color:
    return Color.RED


def sen() -> SColor:
    return SColor.RED


def nt() -> Any:
    return Point(1, 2)


def np_i() -> Any:
    import numpy

    return numpy.int64(7)


def np_f() -> Any:
    import numpy

    return numpy.float64(1.5)


def np_b() -> Any:
    import numpy

    return numpy.bool_(True)


def np_arr() -> Any:
    import numpy

    return numpy.arange(3)


def boolkeys() -> dict[Any, str]:
    return {True: "t", None: "n"}


def tupkeys() -> dict[Any, str]:
    return {(1, 2): "a"}


def cyc() -> list[Any]:
    loop: list[Any] = [1]
    loop.append(loop)
    return loop


def mix() -> dict[str, Any]:
    return {"ok": 1, "bad": object(), "list": [object(), 2]}


def typekey() -> dict[str, Any]:
    return {"__type__": "tuple", "elements": [1]}


def surr() -> str:
    return "\ud800"


def rng() -> range:
    return range(3)


def coro() -> Coroutine[Any, Any, int]:
    async def answer() -> int:
        return 1

    return answer()


def deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(1200):
        nested = [nested]
    return nested


def strobj() -> str:
    return "abc"


def listobj() -> list[str]:
    return ["a", "b"]


# --- errors ---


def raise_key() -> None:
    raise KeyError("k")


def raise_custom() -> None:
    raise MyErr("custom")


def raise_shape() -> None:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)")


def raise_dtype() -> None:
    raise RuntimeError("expected scalar type Float but found Double")


def raise_stop() -> None:
    raise StopIteration
