"""Equality as the codec promises it: equal and of the same type, all the way down; -0.0 and NaN included."""

from __future__ import annotations

import math
import struct
from datetime import datetime, time
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np

from bridge_adapter.codec import Extension


def same(left: Any, right: Any) -> bool:
    """Whether two values are the same value of the same type."""
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
        case list() | tuple():
            return len(left) == len(right) and all(map(same, left, right))
        case dict():
            return same(list(left.items()), list(right.items()))
        case set() | frozenset():
            rest = list(right)
            for item in left:
                twin = next((index for index, other in enumerate(rest) if same(item, other)), None)
                if twin is None:
                    return False
                rest.pop(twin)
            return not rest
        case np.ndarray():
            return (
                left.dtype == right.dtype
                and left.shape == right.shape
                and left.tobytes() == right.tobytes()
                and left.flags.fnc == right.flags.fnc
            )
        case np.datetime64() | np.timedelta64():
            return left.dtype == right.dtype and left.tobytes() == right.tobytes()
        case Decimal():
            return left.as_tuple() == right.as_tuple()
        case time():
            return left.replace(fold=0) == right.replace(fold=0) and left.fold == right.fold and precision(left) == precision(right)
        case slice():
            return same([left.start, left.stop, left.step], [right.start, right.stop, right.step])
        case SimpleNamespace():
            return same(vars(left), vars(right))
        case Extension():
            return left.tag == right.tag and same(left.value, right.value)
    return bool(left == right)


def precision(moment: time | datetime) -> int | None:
    """The digits that a Precise moment remembers, None for others."""
    return getattr(moment, "precision", None)
