"""Equality as the codec promises it: equal and of the same type, all the way down; -0.0 and NaN included."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable
from datetime import datetime, time
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np

from bridge_adapter.codec import Extension, Members, Pairs
from bridge_adapter.codec.modules import loaded


def same(left: Any, right: Any, *, ordered: bool = True) -> bool:
    """Whether two values are the same value of the same type. Not ordered: the entries of dicts may come in another order."""

    def alike(one: Any, other: Any) -> bool:
        return same(one, other, ordered=ordered)

    if left is right:
        return True
    if type(left) is not type(right):
        return False
    match left:
        case float():
            return struct.pack(">d", left) == struct.pack(">d", right) or (math.isnan(left) and math.isnan(right))
        case complex():
            return same(left.real, right.real) and same(left.imag, right.imag)
        case datetime():  # with an offset the moment is fixed, and `fold` says nothing more
            return (
                left.replace(tzinfo=None, fold=0) == right.replace(tzinfo=None, fold=0)
                and (left.tzinfo is not None or left.fold == right.fold)
                and left.utcoffset() == right.utcoffset()
                and precision(left) == precision(right)
                and type(left.tzinfo) is type(right.tzinfo)
                and str(left.tzinfo) == str(right.tzinfo)
            )
        case Members():
            return _as_sets(left, right, alike)
        case Pairs() if not ordered:
            return _as_sets(left, right, alike)
        case list() | tuple():
            return len(left) == len(right) and all(map(alike, left, right))
        case dict():
            items = list(left.items()), list(right.items())
            return alike(*items) if ordered else _as_sets(*items, alike)
        case set() | frozenset():
            return _as_sets(left, right, alike)
        case np.ndarray():
            return (
                left.dtype == right.dtype
                and left.shape == right.shape
                and left.flags.fnc == right.flags.fnc
                and _same_elements(left, right)
            )
        case np.datetime64() | np.timedelta64():
            return left.dtype == right.dtype and left.tobytes() == right.tobytes()
        case Decimal():
            return left.as_tuple() == right.as_tuple()
        case time():
            return (
                left.replace(fold=0) == right.replace(fold=0)
                and left.fold == right.fold
                and precision(left) == precision(right)
                and str(left.tzinfo) == str(right.tzinfo)
            )
        case slice():
            return alike([left.start, left.stop, left.step], [right.start, right.stop, right.step])
        case SimpleNamespace():
            return alike(vars(left), vars(right))
        case Extension():
            return left.tag == right.tag and alike(left.value, right.value)
        case re.Pattern():
            return left.pattern == right.pattern and left.flags == right.flags
    if any(isinstance(left, cls) for cls in _frame_classes()):
        return bool(left.equals(right))
    return bool(left == right)


def _frame_classes() -> tuple[type, ...]:
    return (*(loaded("pandas", "DataFrame") or ()), *(loaded("polars", "DataFrame") or ()))


def _same_elements(left: Any, right: Any) -> bool:
    # What lies between the fields of structured elements is nobody's.
    if left.dtype.names is not None:
        return all(_same_elements(left[name], right[name]) for name in left.dtype.names)
    return left.tobytes() == right.tobytes()


def _as_sets(left: Iterable[Any], right: Iterable[Any], alike: Any) -> bool:
    """Whether every member of one has a twin in the other."""
    rest = list(right)
    if len(rest) != len(list(left)):
        return False
    for item in left:
        twin = next((index for index, other in enumerate(rest) if alike(item, other)), None)
        if twin is None:
            return False
        rest.pop(twin)
    return True


def precision(moment: time | datetime) -> int | None:
    """The digits that a Precise moment remembers, None for others."""
    return getattr(moment, "precision", None)
