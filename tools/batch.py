"""`snakebridge.batch`: many calls of one function as one. Their arguments are joined along axis 0, the function is called once, and what
it answers is split again. Only calls that fit together are joined, and one that fails does not take the others along: the batch is halved
until it stands alone.

A function that is batched must treat rows independently, and may be called again with a part of what it was called with before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bridge_adapter.codec import named

from .call import arguments, callee
from .registry import Payload, ToolContext, invalid

POWERS_OF_TWO = "powers_of_two"
Cut = Callable[[int, int], Any]


def batch(payload: Payload, context: ToolContext) -> list[list[Any]]:
    """`[True, value]` or `[False, error]` for each of the calls.

    The payload is that of `snakebridge.call`, with `args` and `kwargs` for every call, and: `calls`, a list of lists of further arguments;
    `join`, the positions in those that are joined (what stands elsewhere must be equal within a batch); `pad_to`, sizes to which a batch is
    filled up with copies of its last row, as a list or as "powers_of_two", for functions that are compiled for each size.
    """
    fixed, kwargs = arguments(payload)
    join, pad = _positions(payload.get("join")), _padding(payload.get("pad_to"))
    calls = _lists(payload.get("calls"))
    before = named.registrations(), len(sys.modules)
    function = callee(payload, context)
    if (named.registrations(), len(sys.modules)) != before:
        # What the import registered may be in arguments that were read before it.
        fixed, calls, kwargs = named.known(fixed), named.known(calls), named.known(kwargs)

    def run(args: Iterable[Any]) -> Any:
        return context.settle(function(*fixed, *args, **kwargs))

    outcomes: list[list[Any]] = [[]] * len(calls)

    def settle(call: _Call, outcome: list[Any]) -> None:
        outcomes[call.index] = outcome

    groups: dict[Any, list[list[_Call]]] = {}
    for index, args in enumerate(calls):
        try:
            call = _Call.of(index, args, join)
        except Exception as error:
            outcomes[index] = [False, context.describe(error)]
        else:
            _place(call, groups.setdefault(call.key, []))
    for alike in groups.values():
        for group in alike:
            _Batch(run, pad, settle, context.describe).attempt(group)
    return outcomes


@dataclass(slots=True)
class _Call:
    """The arguments of one caller: those that are joined, by position, and all others. `key`: calls that differ in it are never joined."""

    index: int
    args: list[Any]
    joined: tuple[int, ...]
    rows: int
    key: tuple[Any, ...]

    @classmethod
    def of(cls, index: int, args: list[Any], join: tuple[int, ...]) -> _Call:
        if join[-1] >= len(args):
            raise invalid(f"a call has {len(args)} arguments, but argument {join[-1]} is to be joined; count from 0 in join")
        kinds = [_kind(args[position], position) for position in join]
        lengths = {len(args[position]) for position in join}
        if len(lengths) != 1:
            raise invalid(f"the joined arguments of a call have {sorted(lengths)} rows; they must have the same number")
        return cls(index, args, join, lengths.pop(), (len(args), *kinds))

    def same_rest(self, other: _Call) -> bool:
        return all(_same(mine, theirs) for i, (mine, theirs) in enumerate(zip(self.args, other.args, strict=True)) if i not in self.joined)


@dataclass(slots=True)
class _Batch:
    """Calls that fit together."""

    run: Callable[[Iterable[Any]], Any]
    pad: Callable[[int], int]
    settle: Callable[[_Call, list[Any]], None]
    describe: Callable[[BaseException], dict[str, Any]]

    def attempt(self, calls: list[_Call]) -> None:
        """Calls the function for all of them, or, when it fails, for either half."""
        rows = sum(call.rows for call in calls)
        size = self.pad(rows)
        try:
            value = self.run(calls[0].args if len(calls) == 1 and size == rows else _joined(calls, size - rows))
            cut = _cut(value, size)
        except _AmbiguousError:
            if len(calls) > 1:
                self._halves(calls)
            else:
                self._alone(calls[0])
        except _UnsplittableError as error:
            # However few are joined, it would answer the same.
            self._refuse(calls, invalid(str(error)))
        except Exception as error:
            if len(calls) > 1:
                self._halves(calls)
            else:
                self._refuse(calls, error)
        else:
            start = 0
            for call in calls:
                self.settle(call, [True, cut(start, start + call.rows)])
                start += call.rows

    def _halves(self, calls: list[_Call]) -> None:
        middle = len(calls) // 2
        self.attempt(calls[:middle])
        self.attempt(calls[middle:])

    def _alone(self, call: _Call) -> None:
        """A call that needs no splitting: either reading of its answer is the answer."""
        try:
            self.settle(call, [True, self.run(call.args)])
        except Exception as error:
            self._refuse([call], error)

    def _refuse(self, calls: list[_Call], error: BaseException) -> None:
        described = self.describe(error)
        for call in calls:
            self.settle(call, [False, described])


# --- what fits together ---


def _place(call: _Call, groups: list[list[_Call]]) -> None:
    for group in groups:
        if group[0].same_rest(call):
            group.append(call)
            return
    groups.append([call])


def _kind(value: Any, position: int) -> tuple[Any, ...]:
    """Arrays are joined with arrays of the same element type and trailing shape, lists with lists of the same kind of rows."""
    if type(value) is list:
        return ("list", _row_kind(value[0]) if value else None)
    module = _array_module(value)
    if module is None or not value.ndim:
        shape = f" of shape {value.shape}" if module is not None else ""
        raise invalid(
            f"argument {position} is a {type(value).__name__}{shape}; a joined argument must be a list, or an array of at least one "
            "dimension: one row for each element of its first axis"
        )
    return (module, value.dtype, value.shape[1:])


def _row_kind(row: Any) -> Any:
    """Of nested lists the shape, as far as the first elements tell."""
    if type(row) is list:
        return (len(row), _row_kind(row[0]) if row else None)
    return (row.dtype, row.shape) if _array_module(row) is not None else type(row)


def _array_module(value: Any) -> str | None:
    """Which library's plain array this is; neither is imported for the question."""
    numpy, jax = sys.modules.get("numpy"), sys.modules.get("jax")
    if numpy is not None and type(value) is numpy.ndarray:
        return "numpy"
    return "jax" if jax is not None and isinstance(value, jax.Array) else None


def _same(one: Any, other: Any) -> bool:
    """Whether the function could tell them apart. Equality does not say: 1 == 1.0 == True, 0.0 == -0.0, and [1] == [True]."""
    kind = type(one)
    if one is other or kind is not type(other):
        return one is other
    try:
        if kind in (str, bytes, int, bool):
            return bool(one == other)
        if kind in (list, tuple):
            return len(one) == len(other) and all(map(_same, one, other))
        if kind is dict:
            return len(one) == len(other) and all(map(_same, one.items(), other.items()))
        if _array_module(one) is not None:
            return one.dtype == other.dtype and one.shape == other.shape and _same(*_contents(one, other))
        return bool(one == other) and repr(one) == repr(other)
    except Exception:  # a comparison of the user's, or one without a truth value
        return False


def _contents(one: Any, other: Any) -> tuple[Any, Any]:
    if one.dtype.hasobject:
        return one.tolist(), other.tolist()
    import numpy

    return numpy.asarray(one).tobytes(), numpy.asarray(other).tobytes()


# --- joining ---


def _joined(calls: Sequence[_Call], padding: int) -> list[Any]:
    args = list(calls[0].args)
    for position in calls[0].joined:
        args[position] = _join([call.args[position] for call in calls], padding)
    return args


def _join(parts: list[Any], padding: int) -> Any:
    if type(parts[0]) is list:
        rows = [row for part in parts for row in part]
        return rows + rows[-1:] * padding
    import numpy

    # On the host: XLA would compile a program for each combination of lengths.
    arrays = [numpy.asarray(part) for part in parts]
    if padding:
        last = next(array for array in reversed(arrays) if len(array))
        arrays.append(numpy.broadcast_to(last[-1:], (padding, *last.shape[1:])))
    whole = numpy.concatenate(arrays)
    return whole if _array_module(parts[0]) == "numpy" else sys.modules["jax"].numpy.asarray(whole)


def _padding(sizes: Any) -> Callable[[int], int]:
    """From a number of rows to the size at which the function is called."""
    if sizes is None:
        return lambda rows: rows
    if sizes == POWERS_OF_TWO:
        return lambda rows: 1 << (rows - 1).bit_length() if rows else 0
    if not isinstance(sizes, (list, tuple)) or not sizes or not all(type(size) is int and size > 0 for size in sizes):
        raise invalid(f'pad_to must be null, "{POWERS_OF_TWO}" or a list of sizes > 0, not {str(sizes)[:80]}')
    ordered = sorted(sizes)
    return lambda rows: next((size for size in ordered if size >= rows), rows) if rows else 0


def _positions(join: Any) -> tuple[int, ...]:
    if join is None:
        return (0,)
    if not isinstance(join, (list, tuple)) or not join or not all(type(position) is int and position >= 0 for position in join):
        raise invalid(f"join must be a list of positions >= 0, not {str(join)[:80]}")
    return tuple(sorted(set(join)))


def _lists(calls: Any) -> list[list[Any]]:
    if not isinstance(calls, list) or not all(isinstance(args, list) for args in calls):
        raise invalid(f"calls must be a list of argument lists, not {str(calls)[:80]}")
    return calls


# --- splitting ---


class _UnsplittableError(Exception):
    """An answer in which there is no telling whose is what."""


class _AmbiguousError(Exception):
    """A list that may be one of rows or one of columns; for another number of rows it would tell."""


def _cut(value: Any, rows: int) -> Cut:
    """From first and last row to the part of an answer. Raises _UnsplittableError or _AmbiguousError."""
    if isinstance(value, tuple):
        members = [_cut(member, rows) for member in value]
        make = getattr(type(value), "_make", tuple)  # namedtuples keep their type
        return lambda start, stop: make(member(start, stop) for member in members)
    if isinstance(value, dict):
        parts = {key: _cut(member, rows) for key, member in value.items()}
        return lambda start, stop: {key: part(start, stop) for key, part in parts.items()}
    if isinstance(value, list):
        return _cut_list(value, rows)
    if _length(value) != rows:
        raise _UnsplittableError(_rule(value, rows))
    if _array_module(value) == "jax":
        import numpy

        value = numpy.asarray(value)  # on the device each slice would be a program of its own
    by_position = getattr(value, "iloc", value)
    return lambda start, stop: by_position[start:stop]


def _cut_list(value: list[Any], rows: int) -> Cut:
    several = bool(value) and all(_length(member) == rows for member in value)
    if len(value) == rows:
        if several:
            raise _AmbiguousError
        return lambda start, stop: value[start:stop]
    if not several:
        raise _UnsplittableError(_rule(value, rows))
    members = [_cut(member, rows) for member in value]
    return lambda start, stop: [member(start, stop) for member in members]


def _length(value: Any) -> int | None:
    """How long axis 0 is, of what has one."""
    if isinstance(value, list):
        return len(value)
    shape = getattr(value, "shape", None)
    return shape[0] if isinstance(shape, tuple) and shape and hasattr(type(value), "__getitem__") else None


def _rule(value: Any, rows: int) -> str:
    length = _length(value)
    found = f"a {type(value).__name__}" if length is None else f"a {type(value).__name__} of {length} rows"
    return (
        f"the function was called with {rows} rows and answered {found}; a batched function must answer an array or a list with one row "
        "for each, or a tuple, dict or list of such: call this one without batching"
    )
