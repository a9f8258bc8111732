"""What a run is asked for, as plain data: its options, and the certificates, dials and schedules of certified runs. For callers in other
languages. Errors name the place, as in `options.certified.gap_dial.sigma`.

The classes are read by the types of their fields, so that a field that one of them gets is known here, too.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal

from .certificates import CertificationProfile, convex
from .controller import ControllerConfig, FlowPolicy, GapDial, MultiscaleSchedule, SparsityPolicy
from .described import op_from, spec_from
from .errors import FlowInputError
from .operators.base import Op, Operator
from .readers import Reader, fields_of, flag, listed, mapping, named, number, number_in, one_of, record, small, text, whole, whole_in, wrong

# Of steps; a block's telemetry is kept in memory until it is over.
MOST_STEPS = 10**15
MOST_BLOCK = 2**20


def options_from(data: Any, known: Iterable[str]) -> dict[str, Any]:
    """The options of a run that are said, of those that are `known` here; "certified" as the keyword arguments of `run_certified`, or None
    where it says false. Raises FlowInputError."""
    if data is None:
        return {}
    return fields_of({name: _OPTIONS[name] for name in known}, data, "options")


def file_from(data: Any) -> dict[str, Any]:
    """A spec and what is asked of its run, by the names that a Python file of the command line has: {"spec": ..., "iterations": ...,
    "profile": ...}; or the spec by itself. Raises FlowInputError."""
    if isinstance(data, Mapping) and "slots" in data:
        data = {"spec": data}
    options = {name: _OPTIONS[name] for name in ("iterations", "tol", "solver", "alpha", "block")}
    found = fields_of({"spec": lambda value, _: spec_from(value), **options, **_CERTIFIED}, data, "the file", prefix="")
    if "spec" not in found:
        raise FlowInputError(
            'spec: it is missing; a file is {"spec": {"slots": ..., "terms": ...}, "iterations": ...}, or a spec by itself'
        )
    return found


def certified_from(data: Any, path: str = "certified") -> dict[str, Any] | None:
    """The keyword arguments of `run_certified`: None for false, none for true, else those that the fields of a dictionary describe:
    "profile" ("strict", "convex", or its fields), "policy" (a family, or its fields), "multiscale", "gap_dial", "sparsity", "config"."""
    if isinstance(data, bool):
        return {} if data else None
    if not isinstance(data, Mapping) and data != []:
        raise wrong(path, data, f"true, false or a dictionary of {', '.join(_CERTIFIED)}")
    small(data, path)
    said = {_ALIASES.get(name, name) if isinstance(name, str) else name: value for name, value in dict(data).items()}
    if len(said) < len(data):
        raise FlowInputError(f"{path} says a thing under two names, of {', '.join(map(str, data))}; say it once")
    return {_ARGUMENTS.get(name, name): value for name, value in fields_of(_CERTIFIED, said, path).items()}


def certified_field(name: str, value: Any) -> Any:
    """One of the fields of a certified run, by its name in a file: "profile", "policy", "multiscale", ... Raises FlowInputError."""
    return _CERTIFIED[name](value, name)


def profile_from(value: Any, path: str = "profile") -> CertificationProfile:
    """A profile: its name, or its fields; those that are not said are as the name has them."""
    fields = {"name": value} if isinstance(value, str) else mapping(value, path)
    if fields.get("name") == "convex":
        said = fields_of(_readers(CertificationProfile), fields, path)
        said.pop("name")
        return convex(**said) if "checks" not in said else CertificationProfile(name="convex", **said)
    return record(CertificationProfile, _readers(CertificationProfile), fields, path)


def _policy(value: Any, path: str) -> FlowPolicy:
    fields = {"family": value, "preconditioner": "jacobi" if value == "preconditioned" else None} if isinstance(value, str) else value
    return record(FlowPolicy, _readers(FlowPolicy), fields, path)


def _of(kind: type) -> Reader:
    return lambda value, path: record(kind, _readers(kind), value, path)


# --- by the types of fields ---


@cache
def _readers(kind: type) -> Mapping[str, Reader]:
    """A reader for each field of a class."""
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind) if (kind, field.name) not in _NOT_SAID]
    return {name: _LIMITED.get((kind, name)) or _reader(hints[name]) for name in names}


def _reader(hint: Any) -> Reader:
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _of(hint)
    if origin is Literal:
        return one_of(*inside)
    if origin in (typing.Union, types.UnionType):
        return _union([part for part in inside if part is not types.NoneType])
    if origin is tuple:
        return _tuple(inside)
    if origin is not None and issubclass(origin, Mapping):
        return named(_reader(inside[1]), most=100)
    raise TypeError(f"no reader for {hint!r}")


def _union(parts: list[Any]) -> Reader:
    """Of several types: what of them data can be. Functions and operators that are built already are for Python."""
    code = [part for part in parts if part is Operator or typing.get_origin(part) is collections.abc.Callable]
    readers = {part: _reader(part) for part in parts if part not in code}

    def read(value: Any, path: str) -> Any:
        if callable(value):
            raise FlowInputError(f"{path} is a function; what a client describes is data only. Give a name, or run it from Python")
        if len(readers) == 1:
            return next(iter(readers.values()))(value, path)
        return readers[str if isinstance(value, str) else Op](value, path)

    return read


def _tuple(inside: tuple[Any, ...]) -> Reader:
    of = listed(_reader(inside[0]), most=100)
    length = None if inside[-1] is Ellipsis else len(inside)

    def read(value: Any, path: str) -> tuple[Any, ...]:
        found = tuple(of(value, path))
        if length is not None and len(found) != length:
            raise wrong(path, value, f"a list of {length}")
        return found

    return read


def _real(value: Any, path: str) -> float:
    found = number(value, path)
    if math.isnan(found):
        raise wrong(path, value, "a number, not NaN")
    return found


_PLAIN: dict[Any, Reader] = {float: _real, int: whole, bool: flag, str: text, Op: op_from}
# What follows from something else that is said.
_NOT_SAID = {(ControllerConfig, "tuning")}
# One program makes all of them at once.
_LIMITED: dict[tuple[type, str], Reader] = {(GapDial, "validation_iterations"): whole_in(1, 10_000)}
_CERTIFIED: dict[str, Reader] = {
    "profile": profile_from,
    "policy": _policy,
    "multiscale": _of(MultiscaleSchedule),
    "gap_dial": _of(GapDial),
    "sparsity": _of(SparsityPolicy),
    "config": _of(ControllerConfig),
}
# The names of `run_certified`, which are taken here, too.
_ARGUMENTS = {"profile": "cert_profile", "policy": "flow"}
_ALIASES = {argument: name for name, argument in _ARGUMENTS.items()}
_OPTIONS: dict[str, Reader] = {
    "solver": text,
    "tol": number_in(0.0),
    "alpha": number_in(0.0, above=True),
    "sigma": number_in(0.0, above=True),
    "damping": number_in(0.0),
    "temperature": number_in(0.0),
    "seed": whole_in(0, 2**32 - 1),
    "validation": text,
    "iterations": whole_in(1, MOST_STEPS),
    "block": whole_in(1, MOST_BLOCK),
    "save_every": number_in(0.0),
    "redact": flag,
    "certified": certified_from,
    "profile": profile_from,
}
