"""Specs as plain data: dictionaries, lists, numbers and arrays become a `FlowSpec`. For callers in other languages and for files.

An operator is {"kind": ..., **parameters}, wherever one may stand; all other names are those of `FlowSpec`, `Slot`, `Term` and `Coupling`.
Functions are not data: what needs one (invariants, operators given as functions) is for Python only. Errors name the place, as in
`terms[1].op.sigma`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import FlowInputError
from .operators.base import Op
from .readers import Reader, array, flag, listed, mapping, named, number, record, shape, small, text, wrong
from .spec import Coupling, FlowSpec, Slot, Term

# Entries of a list of names: more are a mistake, and cost time before lint would say so.
MOST = 1000
# All slots together: 2 GiB in float64. A shape is a few bytes that ask for any amount of memory.
NUMBERS = "BRIDGE_ADAPTER_FLOW_NUMBERS"
MOST_NUMBERS = 2**28


def spec_from(data: Any) -> FlowSpec:
    """The spec that plain data describe. What the names mean, `compile_flow` judges; here only their form is, and how much memory its slots
    ask for (the environment variable BRIDGE_ADAPTER_FLOW_NUMBERS says how many numbers they may have together). Raises FlowInputError."""
    if isinstance(data, FlowSpec):
        return data
    if isinstance(data, dict):
        small(data, "spec")
    spec = record(FlowSpec, _SPEC, data, "spec", prefix="")
    for name, slot in spec.slots.items():
        if slot.shape is None and slot.value is None:
            raise FlowInputError(f"slots.{name:.80} has neither a shape nor a value; give one of them")
    _fits({f"slots.{name}": spec.shape_of(name) for name in spec.slots})
    return spec


def _fits(shapes: Mapping[str, tuple[int, ...]]) -> None:
    sizes = {where: math.prod(max(side, 0) for side in sides) for where, sides in shapes.items()}
    most = int(os.environ.get(NUMBERS) or MOST_NUMBERS)
    if sum(sizes.values()) > most:
        largest = max(sizes, key=lambda where: sizes[where])
        raise FlowInputError(
            f"{largest:.80} has the shape {shapes[largest]!s:.80}, and all slots together more than {most} numbers; "
            f"give a smaller one, or allow more with the environment variable {NUMBERS}"
        )


def _variable(value: Any, path: str) -> str | tuple[str, ...]:
    return text(value, path) if isinstance(value, str) else tuple(listed(text, most=MOST)(value, path))


def _target(value: Any, path: str) -> Any:
    return str(value) if isinstance(value, str) else array(value, path)


def op_from(value: Any, path: str) -> Op:
    """The operator that {"kind": ..., **parameters} describes."""
    said = mapping(value, path)
    if "kind" not in said:
        raise FlowInputError(f'{path}: it has no "kind"; an operator is {{"kind": name, parameter: value, ...}}')
    kind = text(said.pop("kind"), f"{path}.kind")
    made = Op(kind)
    # Not as keyword arguments: a parameter may have any name, that of Python's own arguments too.
    made.params.update({name: _parameter(item, f"{path}.{name}") for name, item in said.items()})
    return made


def _op_or_name(value: Any, path: str) -> Op | str:
    return str(value) if isinstance(value, str) else op_from(value, path)


def _part(value: Any, path: str) -> Op | float:
    return op_from(value, path) if isinstance(value, Mapping) else number(value, path)


def _parameter(value: Any, path: str) -> Any:
    """A parameter of an operator or an atom: numbers, texts, arrays; operators again, also in lists."""
    if isinstance(value, Mapping):
        return op_from(value, path) if "kind" in value else named(_parameter)(value, path)
    if isinstance(value, (list, tuple)):
        return [_parameter(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, np.generic)):
        return value
    if isinstance(value, str):
        return _word(value, path)
    if isinstance(value, np.ndarray):
        return array(value, path)
    if callable(value):
        raise FlowInputError(f"{path} is a function; a described spec is data only. Write what needs a function in Python")
    raise wrong(path, value, "a number, a text, an array, an operator, or a list of these")


def _word(value: str, path: str) -> str:
    """A text that is none of a number, which NumPy would take for the number."""
    try:
        float(value)
    except ValueError:
        return str(value)
    raise wrong(path, value, "a number, not a text of one")


def _manifold(value: Any, path: str) -> str | tuple[str, dict[str, Any]]:
    """A name; or a name and parameters, as a pair or as {"kind": name, ...}."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return text(value[0], f"{path}[0]"), named(_parameter)(value[1], f"{path}[1]")
    described = op_from(value, path)
    return described.kind, described.params


def _pair(value: Any, path: str) -> tuple[str, str, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise wrong(path, value, "[position slot, momentum slot, mass]")
    return text(value[0], f"{path}[0]"), text(value[1], f"{path}[1]"), number(value[2], f"{path}[2]")


def _slot(value: Any, path: str) -> Slot:
    return record(Slot, _SLOT, value, path)


def _term(value: Any, path: str) -> Term:
    return record(Term, _TERM, value, path)


def _coupling(value: Any, path: str) -> Coupling:
    return record(Coupling, _COUPLING, value, path)


def _invariants(value: Any, path: str) -> tuple[()]:
    if isinstance(value, (list, tuple)) and not value:
        return ()
    raise FlowInputError(f"{path}: an invariant is a function of the state, and a described spec is data only; check it in Python")


_SLOT: dict[str, Reader] = {"shape": shape, "value": array, "role": text, "manifold": _manifold, "units": text}
_TERM: dict[str, Reader] = {
    "type": text,
    "variable": _variable,
    "op": _op_or_name,
    "target": _target,
    "weight": number,
    "params": named(_parameter),
    "name": text,
    "group": text,
    "units": text,
}
_COUPLING: dict[str, Reader] = {"parts": named(_part), "target": array, "name": text}
_SPEC: dict[str, Reader] = {
    "slots": named(_slot),
    "terms": listed(_term),
    "name": text,
    "dtype": text,
    "operators": named(op_from),
    "invariants": _invariants,
    "symmetries": listed(text, most=MOST),
    "pairs": listed(_pair, most=MOST),
    "couplings": listed(_coupling),
    "normalise": flag,
    "allow_nonconvex": flag,
    "spec_version": text,
}
