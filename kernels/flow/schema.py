"""Whether a spec is made of what a spec is made of: records of the right classes, numbers where numbers belong.

Asked before all other rules, which may then rely on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .operators.base import Op, Operator
from .spec import Coupling, FlowSpec, Invariant, Slot, Term

Told = tuple[str, str, str]  # where, what is wrong, the cure
_LISTS = ("terms", "invariants", "couplings", "pairs", "symmetries")


def malformed(spec: FlowSpec) -> Iterator[Told]:
    """All that has the wrong type."""
    if not isinstance(spec.name, str):
        yield "the spec", f"its name is {_shown(spec.name)}", "give a string"
    for flag in ("normalise", "allow_nonconvex"):
        if not isinstance(getattr(spec, flag), (bool, np.bool_)):
            yield "the spec", f"its {flag} is {_shown(getattr(spec, flag))}", "give True or False"
    tables = [field for field in ("slots", "operators") if not isinstance(getattr(spec, field), Mapping)]
    rows = [field for field in _LISTS if not isinstance(getattr(spec, field), (list, tuple))]
    for field in [*tables, *rows]:
        wanted = "give a dictionary by name" if field in tables else "give a list of them"
        yield field, f"they are {_shown(getattr(spec, field))}", wanted
    if tables or rows:
        return
    lists = (("terms", Term, "a Term"), ("invariants", Invariant, "an Invariant"), ("couplings", Coupling, "a Coupling"))
    for field, kind, said in lists:
        for number, item in enumerate(getattr(spec, field)):
            if not isinstance(item, kind):
                yield f"{field}[{number}]", f"it is {_shown(item)}", f"give {said}"
            elif isinstance(item, Term):
                yield from _term(f"the term {item.name or item.type}, terms[{number}]", item)
            elif isinstance(item, Invariant):
                yield from _invariant(f"invariants[{number}]", item)
            elif isinstance(item, Coupling):
                yield from _coupling(f"couplings[{number}]", item)
    for symmetry in spec.symmetries:
        if not isinstance(symmetry, str):
            yield "symmetries", f"one of them is {_shown(symmetry)}", "give strings"
    for name, slot in spec.slots.items():
        yield from _slot(f"the slot {name}", name, slot)
    for name, op in spec.operators.items():
        if not isinstance(op, (Op, Operator)):
            yield f"the operator {name}", f"it is {_shown(op)}", "give an Op"
    for pair in spec.pairs:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 3 and _is_number(pair[2])):
            yield f"the pair {_shown(pair)}", "it is not (position slot, momentum slot, mass)", "give these three"


def _term(where: str, term: Term) -> Iterator[Told]:
    if not isinstance(term.type, str):
        yield where, f"its type is {_shown(term.type)}", "give the name of an atom"
    for field in ("name", "group", "units"):
        yield from _text_or_none(where, term, field)
    if not term.slots or not all(isinstance(slot, str) for slot in term.slots):
        yield where, f"its variable is {_shown(term.variable)}", "give the name of a slot, or a tuple of names"
    if not _is_number(term.weight):
        yield where, f"its weight is {_shown(term.weight)}", "give a number"
    if not isinstance(term.params, Mapping):
        yield where, f"its params are {_shown(term.params)}", "give a dictionary"
    if not (term.op is None or isinstance(term.op, (str, Op, Operator))):
        yield where, f"its op is {_shown(term.op)}", "give an Op, or the name of one in operators"
    if not isinstance(term.target, str) and not _is_array(term.target):
        yield where, "its target is no array: its rows differ in length", "give an array of numbers, or the name of a slot"


def _invariant(where: str, item: Invariant) -> Iterator[Told]:
    for field in ("name", "kind"):
        if not isinstance(getattr(item, field), str):
            yield where, f"its {field} is {_shown(getattr(item, field))}", "give a string: Invariant(name, function, kind)"
    for field in ("absolute", "relative"):
        if not _is_number(getattr(item, field)):
            yield where, f"its {field} is {_shown(getattr(item, field))}", "give a number"


def _coupling(where: str, coupling: Coupling) -> Iterator[Told]:
    yield from _text_or_none(where, coupling, "name")
    if coupling.target is None or not _is_array(coupling.target):
        yield where, f"its target is no array but {_shown(coupling.target)}", "give an array of numbers, or a number"
    if not isinstance(coupling.parts, Mapping) or not coupling.parts:
        yield where, f"its parts are {_shown(coupling.parts)}", 'give a dictionary by slot, as {"x": Op(...), "z": -1.0}'
        return
    for slot, part in coupling.parts.items():
        if not (isinstance(part, (Op, Operator)) or _is_number(part)):
            yield where, f"its part of {_shown(slot)} is {_shown(part)}", "give an Op, or a number for that multiple of the slot"


def _slot(where: str, name: Any, slot: Any) -> Iterator[Told]:
    if not isinstance(name, str) or not 1 <= len(name) <= 50:
        yield where if len(where) < 70 else "a slot", f"its name is {_shown(name)}", "give a string of 1 to 50 characters"
    if not isinstance(slot, Slot):
        yield where, f"it is {_shown(slot)}", "give a Slot, as Slot(value=...)"
        return
    if not isinstance(slot.role, str):
        yield where, f"its role is {_shown(slot.role)}", "give a string"
    yield from _text_or_none(where, slot, "units")
    sides = slot.shape
    whole = isinstance(sides, (tuple, list)) and all(isinstance(side, (int, np.integer)) and not isinstance(side, bool) for side in sides)
    if sides is not None and not whole:
        yield where, f"its shape is {_shown(sides)}", "give a tuple of whole numbers"
    lives = (slot.manifold, {}) if isinstance(slot.manifold, str) else slot.manifold
    if not (isinstance(lives, (tuple, list)) and len(lives) == 2 and isinstance(lives[0], str) and isinstance(lives[1], Mapping)):
        yield where, f"its manifold is {_shown(slot.manifold)}", 'give a name, or one with parameters, as ("sphere", {"radius": 2.0})'
    if not _is_array(slot.value):
        yield where, "its value is no array: its rows differ in length", "give an array of numbers"


def holes(value: Any, infinite: bool = False) -> int:
    """How many NaN there are in the arrays of a description, or also infinite numbers, in whatever it is nested."""
    if isinstance(value, Op):
        return holes(value.params, infinite=True)
    if isinstance(value, Mapping):
        return sum(holes(part, infinite) for part in value.values())
    if isinstance(value, (list, tuple)) and not all(_is_number(part) for part in value):
        return sum(holes(part, infinite) for part in value)
    if not isinstance(value, (float, list, tuple, np.ndarray, np.floating)) and not hasattr(value, "__array__"):
        return 0
    array = np.asarray(value)
    if array.dtype.kind not in "fc":
        return 0
    return int(array.size - (np.isfinite(array) if infinite else ~np.isnan(array)).sum())


def masked(value: Any) -> int:
    """How many numbers in the arrays of a description are masked, in whatever they are nested."""
    if isinstance(value, np.ma.MaskedArray):
        return int(np.ma.getmaskarray(value).sum())
    if isinstance(value, Op):
        return masked(value.params)
    if isinstance(value, Mapping):
        return sum(masked(part) for part in value.values())
    if isinstance(value, (list, tuple)) and not all(isinstance(part, (int, float)) for part in value):
        return sum(masked(part) for part in value)
    return 0


def _text_or_none(where: str, item: Term | Coupling | Slot, field: str) -> Iterator[Told]:
    value = getattr(item, field)
    if not (value is None or isinstance(value, str)):
        yield where, f"its {field} is {_shown(value)}", "give a string, or none"


def _is_number(value: Any) -> bool:
    return not isinstance(value, (str, bytes, bool)) and np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iuf"


def _is_array(value: Any) -> bool:
    try:
        np.shape(value)
    except ValueError:
        return False
    return True


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
