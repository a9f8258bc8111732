"""What a user says: slots, and the terms of an energy over them. Plain descriptions; nothing here touches JAX.

spec = FlowSpec(
    slots={"x": Slot(shape=(512, 512)), "y": Slot(value=photograph, role="data")},
    terms=[
        Term("quadratic", "x", op=Op("gaussian_blur", sigma=2.0), target="y"),
        Term("wavelet_l1", "x", weight=0.01, params={"wavelet": "db4", "levels": 3}),
    ],
)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from .errors import FlowInputError
from .operators.base import Op, Shape, plain

SPEC_VERSION = "1.0"
REMEDY = "remedy_ridge_"  # how the names of the terms begin that remediation adds
Role = Literal["variable", "data", "parameter", "momentum"]
Group = Literal["data", "physics", "regularizer"]
GROUPS: tuple[str, ...] = get_args(Group)


@dataclass(frozen=True)
class Slot:
    """A named array. Give `value`, or `shape` for one that starts at 0.

    role: only "variable" and "momentum" slots are ever moved; "data" is what was measured, "parameter" what is held fixed.
    manifold: "euclidean", or where the variable lives; with parameters as ("sphere", {"radius": 2.0}). units: of its values.
    """

    shape: Shape | None = None
    value: ArrayLike | None = None
    role: Role = "variable"
    manifold: str | tuple[str, Mapping[str, Any]] = "euclidean"
    units: str | None = None


@dataclass(frozen=True)
class Term:
    """weight * (an atom of A x): one summand of the energy.

    type: of the atom (`atoms.names()`). variable: the slot, or several for atoms that couple slots. op: A, a description or the name of
    one in the spec's `operators`; the identity if none. target: a slot or an array. params: of the atom. group and units are for
    reports and lint.
    """

    type: str
    variable: str | tuple[str, ...]
    op: Op | str | None = None
    target: str | ArrayLike | None = None
    weight: float = 1.0
    params: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    group: Group | None = None
    units: str | None = None

    @property
    def slots(self) -> tuple[str, ...]:
        """The variables."""
        return (self.variable,) if isinstance(self.variable, str) else tuple(self.variable)


@dataclass(frozen=True)
class Invariant:
    """A number that the flow should keep ("conserved") or hold at 0 ("constraint"): a function of the state, and how far it may be off."""

    name: str
    check: Callable[[Mapping[str, Any]], Any]
    kind: Literal["conserved", "constraint"] = "conserved"
    absolute: float = 1e-9
    relative: float = 1e-9


@dataclass(frozen=True)
class Coupling:
    """A linear constraint between slots: sum A_s x_s = target. parts: for each slot A_s, an Op, or a number for that multiple of x_s."""

    parts: Mapping[str, Op | float]
    target: ArrayLike = 0.0
    name: str | None = None


@dataclass(frozen=True)
class FlowSpec:
    """An energy over slots. couplings: linear constraints between them. pairs: (position slot, momentum slot, mass) of Hamiltonian motion.
    symmetries: declared only."""

    slots: Mapping[str, Slot]
    terms: Sequence[Term]
    name: str = "flow"
    dtype: Literal["float32", "float64"] = "float64"
    operators: Mapping[str, Op] = field(default_factory=dict)
    invariants: Sequence[Invariant] = ()
    symmetries: Sequence[str] = ()
    pairs: Sequence[tuple[str, str, float]] = ()
    couplings: Sequence[Coupling] = ()
    normalise: bool = False
    allow_nonconvex: bool = False
    spec_version: str = SPEC_VERSION

    def term_names(self) -> list[str]:
        """A name for each term: its own, or "{variable}_{type}_{index}"."""
        return [term.name or f"{'_'.join(term.slots)}_{term.type}_{index}" for index, term in enumerate(self.terms)]

    def shape_of(self, slot: str) -> Shape:
        """The shape of a slot."""
        described = self.slots[slot]
        return tuple(int(side) for side in described.shape) if described.shape is not None else np.asarray(described.value).shape

    def plain(self) -> dict[str, Any]:
        """The spec as plain data, arrays by their digests: for manifests and reports."""
        return {
            "name": self.name,
            "spec_version": self.spec_version,
            "dtype": self.dtype,
            "slots": {
                name: {
                    "shape": list(self.shape_of(name)),
                    "role": slot.role,
                    "manifold": plain(slot.manifold),
                    "units": slot.units,
                    "value": None if slot.value is None else plain(np.asarray(slot.value)),
                }
                for name, slot in self.slots.items()
            },
            "terms": [
                {
                    "name": name,
                    "type": term.type,
                    "variable": list(term.slots),
                    "op": plain(term.op),
                    "target": term.target if isinstance(term.target, str) or term.target is None else plain(np.asarray(term.target)),
                    "weight": float(term.weight),
                    "params": plain(dict(term.params)),
                    "group": term.group,
                    "units": term.units,
                }
                for name, term in zip(self.term_names(), self.terms, strict=True)
            ],
            "operators": {name: plain(op) for name, op in self.operators.items()},
            "invariants": [[item.name, item.kind, item.absolute, item.relative, plain(item.check)] for item in self.invariants],
            "symmetries": list(self.symmetries),
            "pairs": [list(pair) for pair in self.pairs],
            "couplings": [[item.name, plain(dict(item.parts)), plain(np.asarray(item.target))] for item in self.couplings],
            "normalise": self.normalise,
            "allow_nonconvex": self.allow_nonconvex,
        }

    def digest(self) -> str:
        """SHA-256 of `plain`: equal for equal specs, in any process."""
        text = json.dumps(self.plain(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def a_spec(given: Any) -> FlowSpec:
    """What was given, if it is a spec. Raises FlowInputError for anything else, such as the dictionary that describes one."""
    if isinstance(given, FlowSpec):
        return given
    cure = "of plain data `spec_from` makes one: spec_from({...})" if isinstance(given, Mapping) else "write FlowSpec(slots=..., terms=...)"
    raise FlowInputError(f"the spec is {given!r:.60} of type {type(given).__name__}; it must be a FlowSpec: {cure}")
