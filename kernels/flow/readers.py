"""Readers of plain data: each takes a value and the place where it stands, and returns it in the form that Python works with.

What cannot be read raises FlowInputError, which names the place, the value and what it must be. What the values mean, others judge.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from .errors import FlowInputError

T = TypeVar("T")
Reader = Callable[[Any, str], Any]
# Deeper data are no description of anything, and would exhaust the stack of whoever follows them.
DEPTH = 32
# More dictionaries than any spec has: each may become an operator, and be compiled.
PARTS = 1000
# Of a side of an array.
_LONGEST = 2**63 - 1


def small(value: Any, path: str, depth: int = DEPTH, parts: int = PARTS) -> int:
    """How many dictionaries there are in plain data. Raises where they are more than `parts`, or nested deeper than `depth`."""
    if depth == 0:
        raise FlowInputError(f"{path[:60]}... is nested deeper than {DEPTH} levels; flatten it")
    named = isinstance(value, dict)
    count = int(named)
    for name, item in value.items() if named else enumerate(value):
        # Not the abstract classes: a list may be of a million numbers.
        if isinstance(item, (dict, list, tuple)):
            place = f"{path}.{name:.80}" if isinstance(name, str) else f"{path}[{name!r:.80}]"
            count += small(item, place, depth - 1, parts - count)
        if count > parts:
            told = f"up to {path:.60} there are more than {PARTS} parts (slots, terms, operators)"
            raise FlowInputError(f"{told}; give fewer, with larger arrays")
    return count


def fields_of(readers: Mapping[str, Reader], data: Any, path: str, *, prefix: str | None = None) -> dict[str, Any]:
    """The fields of a dictionary that are said, each by its reader. prefix: what stands before their names in errors, if not the path."""
    within = f"{path}." if prefix is None else prefix
    given = mapping(data, path)
    for name in given:
        if name not in readers:
            raise FlowInputError(f"{within}{name:.80}: there is no such key; {nearest(name, readers)}")
    # What is null is what is not said: languages differ in how they leave a field out.
    return {name: readers[name](value, f"{within}{name}") for name, value in given.items() if value is not None}


def record(kind: Callable[..., T], readers: Mapping[str, Reader], data: Any, path: str, *, prefix: str | None = None) -> T:
    """A dataclass from a dictionary of its fields."""
    said = fields_of(readers, data, path, prefix=prefix)
    within = f"{path}." if prefix is None else prefix
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and field.name not in said:
            raise FlowInputError(f"{within}{field.name}: it is missing, and {path} needs it")
    try:
        return kind(**said)
    except FlowInputError as error:
        raise FlowInputError(f"{path}: {error}") from None


def nearest(name: str, known: Iterable[str]) -> str:
    """The name that was probably meant, or all that there are."""
    near = difflib.get_close_matches(name[:100], known, n=1)
    return f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"


def wrong(path: str, value: Any, wanted: str) -> FlowInputError:
    """The error of a value that must be something else."""
    return FlowInputError(f"{path} is {_told(value)}; it must be {wanted}")


def _told(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape} and type {value.dtype}"
    if isinstance(value, (Mapping, list, tuple)) and len(value) > 10:  # its text could be of any length
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:  # Python refuses to write longer ones
        return f"a whole number of {value.bit_length()} bits"
    try:
        return f"{value!r:.80} of type {type(value).__name__}"
    except ValueError:  # such a number, within a list
        return f"a {type(value).__name__} with a whole number of thousands of digits"


def mapping(value: Any, path: str) -> dict[str, Any]:
    """A dictionary with texts as keys. An empty list is an empty one: there are languages in which the two look the same."""
    if isinstance(value, (list, tuple)) and not value:
        return {}
    if not isinstance(value, Mapping):
        raise wrong(path, value, "a dictionary")
    for key in value:
        if not isinstance(key, str):
            raise FlowInputError(f"{path}: its key {_told(key)} is no text; keys are strings")
    return dict(value)


def listed(of: Reader, *, most: int | None = None) -> Reader:
    """A list of at most so many."""

    def read(value: Any, path: str) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            raise wrong(path, value, "a list")
        _few(value, path, most)
        return [of(item, f"{path}[{index}]") for index, item in enumerate(value)]

    return read


def named(of: Reader, *, most: int | None = None) -> Reader:
    """A dictionary by names of the user's."""

    def read(value: Any, path: str) -> dict[str, Any]:
        found = mapping(value, path)
        _few(found, path, most)
        return {name: of(item, f"{path}.{name}") for name, item in found.items()}

    return read


def _few(value: Any, path: str, most: int | None) -> None:
    if most is not None and len(value) > most:
        raise FlowInputError(f"{path} has {len(value)} entries; give at most {most}")


def text(value: Any, path: str) -> str:
    """A text."""
    if not isinstance(value, str):
        raise wrong(path, value, "a text")
    return str(value)


def one_of(*allowed: Any) -> Reader:
    """One of a few values."""

    def read(value: Any, path: str) -> Any:
        for one in allowed:
            if isinstance(value, type(one)) and value == one:
                return one
        raise wrong(path, value, f"one of {', '.join(map(str, allowed))}")

    return read


def flag(value: Any, path: str) -> bool:
    """True or false."""
    if not isinstance(value, (bool, np.bool_)):
        raise wrong(path, value, "true or false")
    return bool(value)


def number(value: Any, path: str) -> float:
    """A real number. It may be infinite or NaN."""
    value = _scalar(value)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise wrong(path, value, "a number")
    try:
        return float(value)
    except OverflowError:
        raise wrong(path, value, "a number that fits into float64") from None


def number_in(low: float, high: float = float("inf"), *, above: bool = False) -> Reader:
    """A finite number of at least `low` (above: of more than that) and at most `high`."""
    wanted = f"a number {'above' if above else 'of at least'} {low:g}" + (f" and at most {high:g}" if np.isfinite(high) else "")

    def read(value: Any, path: str) -> float:
        found = number(value, path)
        if not (low <= found <= high and np.isfinite(found)) or (above and found == low):
            raise wrong(path, value, wanted)
        return found

    return read


def whole(value: Any, path: str) -> int:
    """A whole number."""
    value = _scalar(value)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise wrong(path, value, "a whole number")
    return int(value)


def whole_in(low: int, high: int) -> Reader:
    """A whole number from `low` to `high`."""

    def read(value: Any, path: str) -> int:
        found = whole(value, path)
        if not low <= found <= high:
            raise wrong(path, value, f"a whole number from {low} to {high}")
        return found

    return read


def _scalar(value: Any) -> Any:
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def shape(value: Any, path: str) -> tuple[int, ...]:
    """A list of whole numbers."""
    sides = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(sides, (list, tuple)) or not all(
        isinstance(side, (int, np.integer)) and not isinstance(side, bool) for side in sides
    ):
        raise wrong(path, value, "a list of whole numbers")
    if any(abs(int(side)) > _LONGEST for side in sides):
        raise wrong(path, value, "a list of whole numbers below 2^63")
    return tuple(int(side) for side in sides)


def array(value: Any, path: str) -> np.ndarray[Any, Any]:
    """Numbers, or lists of them, as an array. Those of ml_dtypes (bfloat16, int4, ...) become float32, which holds them all."""
    if isinstance(value, (str, bytes)):  # NumPy reads numbers out of some
        raise wrong(path, value, "an array of real numbers")
    if np.ma.is_masked(value):
        raise wrong(path, value, "an array without a mask: values.filled(0), with the operator mask where the values are compared")
    try:
        found = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise FlowInputError(f"{path}: its lists are ragged ({error}); give lists of the same length, or an array") from None
    if found.dtype.type.__module__ == "ml_dtypes":
        found = found.astype(np.float32)
    if found.dtype.kind not in "biuf":
        raise wrong(path, value, "an array of real numbers")
    return found
