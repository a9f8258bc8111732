"""Specs as plain data: dictionaries, lists, numbers and arrays become a `FlowSpec`. For callers in other languages and for files.

An operator is {"kind": ..., **parameters}, wherever one may stand; all other names are those of `FlowSpec`, `Slot`, `Term` and `Coupling`.
Functions are not data: what needs one (invariants, operators given as functions) is for Python only. Errors name the place, as in
`terms[1].op.sigma`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from .errors import FlowInputError
from .operators.base import Op
from .spec import Coupling, FlowSpec, Slot, Term

T = TypeVar("T")
Reader = Callable[[Any, str], Any]


def spec_from(data: Any) -> FlowSpec:
    """The spec that plain data describe. What the names mean, `compile_flow` judges; here only their form is. Raises FlowInputError."""
    if isinstance(data, FlowSpec):
        return data
    return _record(FlowSpec, _SPEC, data, "spec", prefix="")


def _record(kind: Callable[..., T], readers: Mapping[str, Reader], data: Any, path: str, *, prefix: str | None = None) -> T:
    """A dataclass from a dictionary of its fields."""
    fields = _mapping(data, path)
    within = f"{path}." if prefix is None else prefix
    for name in fields:
        if name not in readers:
            raise FlowInputError(f"{within}{name}: there is no such key; {_nearest(name, readers)}")
    # What is null is what is not said: languages differ in how they leave a field out.
    said = {name: readers[name](value, f"{within}{name}") for name, value in fields.items() if value is not None}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and field.name not in said:
            raise FlowInputError(f"{within}{field.name}: it is missing, and {path} needs it")
    return kind(**said)


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"


def _mapping(data: Any, path: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise _wrong(path, data, "a dictionary")
    for key in data:
        if not isinstance(key, str):
            raise FlowInputError(f"{path}: its key {key!r} is of type {type(key).__name__}; keys are strings")
    return dict(data)


def _wrong(path: str, value: Any, wanted: str) -> FlowInputError:
    return FlowInputError(f"{path} is {_told(value)}; it must be {wanted}")


def _told(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape}"
    return f"{value!r:.80} of type {type(value).__name__}"


def _listed(of: Reader) -> Reader:
    def read(value: Any, path: str) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            raise _wrong(path, value, "a list")
        return [of(item, f"{path}[{index}]") for index, item in enumerate(value)]

    return read


def _named(of: Reader) -> Reader:
    """A dictionary by names of the user's."""

    def read(value: Any, path: str) -> dict[str, Any]:
        return {name: of(item, f"{path}.{name}") for name, item in _mapping(value, path).items()}

    return read


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, value, "a text")
    return str(value)


def _flag(value: Any, path: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise _wrong(path, value, "true or false")
    return bool(value)


def _number(value: Any, path: str) -> float:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise _wrong(path, value, "a number")
    return float(value)


def _shape(value: Any, path: str) -> tuple[int, ...]:
    sides = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(sides, (list, tuple)) or not all(
        isinstance(side, (int, np.integer)) and not isinstance(side, bool) for side in sides
    ):
        raise _wrong(path, value, "a list of whole numbers")
    return tuple(int(side) for side in sides)


def _array(value: Any, path: str) -> np.ndarray[Any, Any]:
    """Numbers, or lists of them, as an array."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise FlowInputError(f"{path}: its lists are ragged ({error}); give lists of the same length, or an array") from None
    if array.dtype.kind not in "biuf":
        raise _wrong(path, value, "an array of real numbers")
    return array


def _variable(value: Any, path: str) -> str | tuple[str, ...]:
    return _text(value, path) if isinstance(value, str) else tuple(_listed(_text)(value, path))


def _target(value: Any, path: str) -> Any:
    return str(value) if isinstance(value, str) else _array(value, path)


def _op(value: Any, path: str) -> Op:
    said = _mapping(value, path)
    if "kind" not in said:
        raise FlowInputError(f'{path}: it has no "kind"; an operator is {{"kind": name, parameter: value, ...}}')
    kind = _text(said.pop("kind"), f"{path}.kind")
    return Op(kind, **{name: _parameter(item, f"{path}.{name}") for name, item in said.items()})


def _op_or_name(value: Any, path: str) -> Op | str:
    return str(value) if isinstance(value, str) else _op(value, path)


def _part(value: Any, path: str) -> Op | float:
    return _op(value, path) if isinstance(value, Mapping) else _number(value, path)


def _parameter(value: Any, path: str) -> Any:
    """A parameter of an operator or an atom: numbers, texts, arrays; operators again, also in lists."""
    if isinstance(value, Mapping):
        return _op(value, path) if "kind" in value else _named(_parameter)(value, path)
    if isinstance(value, (list, tuple)):
        return [_parameter(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, np.generic)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.ndarray):
        return _array(value, path)
    if callable(value):
        raise FlowInputError(f"{path} is a function; a described spec is data only. Write what needs a function in Python")
    raise _wrong(path, value, "a number, a text, an array, an operator, or a list of these")


def _manifold(value: Any, path: str) -> str | tuple[str, dict[str, Any]]:
    """A name; or a name and parameters, as a pair or as {"kind": name, ...}."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return _text(value[0], f"{path}[0]"), _named(_parameter)(value[1], f"{path}[1]")
    described = _op(value, path)
    return described.kind, described.params


def _pair(value: Any, path: str) -> tuple[str, str, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise _wrong(path, value, "[position slot, momentum slot, mass]")
    return _text(value[0], f"{path}[0]"), _text(value[1], f"{path}[1]"), _number(value[2], f"{path}[2]")


def _slot(value: Any, path: str) -> Slot:
    return _record(Slot, _SLOT, value, path)


def _term(value: Any, path: str) -> Term:
    return _record(Term, _TERM, value, path)


def _coupling(value: Any, path: str) -> Coupling:
    return _record(Coupling, _COUPLING, value, path)


def _invariants(value: Any, path: str) -> tuple[()]:
    if isinstance(value, (list, tuple)) and not value:
        return ()
    raise FlowInputError(f"{path}: an invariant is a function of the state, and a described spec is data only; check it in Python")


_SLOT: dict[str, Reader] = {"shape": _shape, "value": _array, "role": _text, "manifold": _manifold, "units": _text}
_TERM: dict[str, Reader] = {
    "type": _text,
    "variable": _variable,
    "op": _op_or_name,
    "target": _target,
    "weight": _number,
    "params": _named(_parameter),
    "name": _text,
    "group": _text,
    "units": _text,
}
_COUPLING: dict[str, Reader] = {"parts": _named(_part), "target": _array, "name": _text}
_SPEC: dict[str, Reader] = {
    "slots": _named(_slot),
    "terms": _listed(_term),
    "name": _text,
    "dtype": _text,
    "operators": _named(_op),
    "invariants": _invariants,
    "symmetries": _listed(_text),
    "pairs": _listed(_pair),
    "couplings": _listed(_coupling),
    "normalise": _flag,
    "allow_nonconvex": _flag,
    "spec_version": _text,
}
