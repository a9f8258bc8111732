"""Type hints as Elixir types: true to what travels (docs/types.md), and term() wherever that is not known."""

from __future__ import annotations

import datetime
import enum
import pathlib
import re
import typing
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Optional, TypeVar, Union

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from bridge_adapter.tools.introspect import hints, specs
from bridge_adapter.tools.introspect.hints import Scope

T = TypeVar("T")
FLOAT = "number() | :infinity | :neg_infinity | :nan"


class Point(NamedTuple):
    x: int


class Colour(enum.Enum):
    RED = 1


class Own: ...


class Array(np.ndarray): ...  # type: ignore[type-arg]


CASES: list[tuple[Any, str]] = [
    (int, "integer()"),
    (float, FLOAT),
    (bool, "boolean()"),
    (str, "String.t()"),
    (bytes, "SnakeBridge.Bytes.t() | binary()"),
    (None, "nil"),
    (complex, "SnakeBridge.Complex.t()"),
    (list, "list()"),
    (list[int], "[integer()]"),
    (list[Any], "list()"),
    (tuple[int, str], "{integer(), String.t()}"),
    (tuple[int, ...], "tuple()"),
    (dict[str, int], "%{optional(String.t()) => integer()}"),
    (dict, "map()"),
    (OrderedDict, "map()"),
    (Counter, "map()"),
    (set[str], "MapSet.t(String.t())"),
    (frozenset[str], "SnakeBridge.FrozenSet.t()"),
    (Optional[int], "integer() | nil"),  # noqa: UP045
    (Union[None, str, int], "String.t() | integer() | nil"),  # noqa: UP007
    (Literal["a", 1, None, True], "String.t() | 1 | true | nil"),
    (Iterator[int], "Enumerable.t()"),
    (Generator[int, None, None], "Enumerable.t()"),
    (AsyncIterator[int], "Enumerable.t()"),
    (Awaitable[int], "integer()"),
    (Iterable[int], "term()"),
    (Mapping[str, int], "term()"),
    (Any, "term()"),
    (object, "term()"),
    (T, "term()"),
    (typing.AnyStr, "SnakeBridge.Bytes.t() | binary()"),
    (int | Any, "term()"),
    (Path, "SnakeBridge.Path.t()"),
    (pathlib.PurePosixPath, "SnakeBridge.Path.t()"),
    (datetime.date, "Date.t()"),
    (datetime.datetime, "NaiveDateTime.t() | DateTime.t() | SnakeBridge.Fold.t() | SnakeBridge.ZonedDateTime.t()"),
    (datetime.timedelta, "SnakeBridge.TimeDelta.t()"),
    (re.Pattern[str], "Regex.t() | SnakeBridge.Pattern.t()"),
    (re.Match[str], "SnakeBridge.Ref.t()"),
    (range, "Range.t()"),
    (Colour, "SnakeBridge.Enum.t()"),
    (Point, "SnakeBridge.NamedTuple.t()"),
    (Own, "SnakeBridge.Ref.t()"),
    (ValueError, "SnakeBridge.Ref.t()"),
    (type[int], "SnakeBridge.Ref.t()"),
    (np.ndarray, "SnakeBridge.Tensor.t() | SnakeBridge.Ref.t()"),
    (npt.NDArray[np.float64], "SnakeBridge.Tensor.t() | SnakeBridge.Ref.t()"),
    (Array, "SnakeBridge.Ref.t()"),
    (np.int64, "integer()"),
    (np.float32, f"{FLOAT} | SnakeBridge.Ref.t()"),
    (np.bool_, "boolean()"),
    (np.datetime64, "SnakeBridge.DateTime64.t()"),
    (np.generic, "term()"),
    (pd.DataFrame, "SnakeBridge.Arrow.t() | SnakeBridge.Ref.t()"),
    (pd.Series, "SnakeBridge.Ref.t()"),
    (pd.Timestamp, "SnakeBridge.Ref.t()"),
    (typing.TextIO, "SnakeBridge.Ref.t()"),
    ("list[int] | None", "[integer()] | nil"),
    ("no such type", "term()"),
    ("Nowhere.To.Be.Found", "term()"),
]


@pytest.mark.parametrize(("annotation", "spec"), CASES, ids=lambda case: str(case)[:40])
def test_a_result_is_what_comes(annotation: Any, spec: str) -> None:
    told = specs.result(hints.read(annotation, Scope(None, globals())))
    assert sorted(told.split(" | ")) == sorted(spec.split(" | "))


@pytest.mark.parametrize(
    ("annotation", "spec"),
    [
        (int, "integer() | SnakeBridge.Ref.t()"),
        (str, "String.t() | atom() | SnakeBridge.Ref.t()"),
        (int | None, "integer() | SnakeBridge.Ref.t() | nil"),
        (list[int], "[integer() | SnakeBridge.Ref.t()] | term()"),
        (Sequence[Any], "list() | term()"),
        (Callable[[int], str], "function() | term()"),
        (Mapping[str, int], "map() | term()"),
        (np.ndarray, "SnakeBridge.Tensor.t() | term()"),
        (typing.SupportsIndex, "integer() | term()"),
        (Own, "term()"),
        (Any, "term()"),
    ],
    ids=lambda case: str(case)[:40],
)
def test_an_argument_is_what_may_be_given(annotation: Any, spec: str) -> None:
    assert specs.argument(hints.read(annotation, Scope(None, globals()))) == spec


def test_annotations_that_fail_are_no_error() -> None:
    class Hostile:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("compared")

        __hash__ = None  # type: ignore[assignment]

    assert specs.result(hints.read(Hostile(), Scope())) == "term()"


def test_files_are_objects_and_no_streams() -> None:
    import io

    assert specs.instance(io.BytesIO) == "SnakeBridge.Ref.t()"
    assert not specs.is_stream(hints.read(io.BytesIO, Scope()))
