"""Numbers that a flow should keep, and residuals of what it should explain: evaluated on the host at the end of a block.

The reference of a conserved number is frozen when a run starts and travels with its checkpoints: measured against the present state, no
drift would ever be seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from ..compiler import CompiledFlow
from ..functions.squares import HalfSquare
from ..precision import precision
from ..problem import AnySmooth, Problem, SpectralSquare, State, taken
from ..spec import FlowSpec


@dataclass(frozen=True)
class Drift:
    """Of one invariant: how far it is off, how far it may be, and what went wrong if its checker did."""

    name: str
    value: float
    allowed: float
    error: str = ""

    @property
    def passed(self) -> bool:
        return self.value <= self.allowed


def whole_state(spec: FlowSpec, x: State) -> dict[str, Any]:
    """Every slot of a spec: those that move as they are in x, the others as they were given."""
    return {name: x[name] if name in x else np.asarray(slot.value) for name, slot in spec.slots.items()}


def freeze(spec: FlowSpec, x: State) -> dict[str, float]:
    """The conserved numbers at the start of a run, by name; one that cannot be computed is NaN, and its drift infinite."""
    state = whole_state(spec, x)
    return {item.name: _measured(item.check, state)[0] for item in spec.invariants if item.kind == "conserved"}


def drifts(spec: FlowSpec, x: State, references: Mapping[str, float]) -> list[Drift]:
    """|I(x) - I_ref| of each conserved number and |c(x)| of each constraint. A checker that fails has drifted infinitely."""
    state = whole_state(spec, x)
    found = []
    for item in spec.invariants:
        value, error = _measured(item.check, state)
        reference = float(references.get(item.name, np.nan)) if item.kind == "conserved" else 0.0
        off = abs(value - reference)
        allowed = item.absolute + item.relative * (abs(reference) if np.isfinite(reference) else 0.0)
        found.append(Drift(item.name, off if np.isfinite(off) else float("inf"), allowed, error))
    return found


def largest_drift(found: list[Drift]) -> float | None:
    """The column invariant_drift_max; None where no invariant is declared."""
    return max((one.value for one in found), default=None)


def _measured(check: Any, state: Mapping[str, Any]) -> tuple[float, str]:
    try:
        return float(np.asarray(check(state)).reshape(())), ""
    except Exception as error:  # a checker of a user may raise anything; its invariant then counts as lost
        return float("nan"), f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Residual:
    """Of one term: ||A x - b||, relative to ||b|| where that is not 0, and the largest element."""

    name: str
    norm: float
    relative: float
    largest: float


def physics_residuals(compiled: CompiledFlow, x: State) -> list[Residual]:
    """Of the terms in the group "physics"; where there are none, of those in the group "data", or else of the first square with a
    target."""
    groups = {name: term.group for name, term in zip(compiled.spec.term_names(), compiled.spec.terms, strict=True)}
    with precision(compiled.spec.dtype):
        found = _residuals(compiled.problem, x)
    for group in ("physics", "data"):
        named = [residual for name, (residual, _) in found.items() if groups.get(name) == group]
        if named:
            return named
    return [residual for residual, size in found.values() if size > 0][:1]


def _residuals(problem: Problem, x: State) -> dict[str, tuple[Residual, float]]:
    """Of each squared term, with the size of its target."""
    found = {}
    for term in problem.smooth:
        squared = misfit_of(term, x)
        if squared is None:
            continue
        misfit, target = squared
        size, norm = float(np.linalg.norm(target)), float(np.linalg.norm(misfit))
        largest = float(np.abs(misfit).max(initial=0.0))
        found[term.name] = (Residual(term.name, norm, norm / size if size > 0 else norm, largest), size)
    return found


def misfit_of(term: AnySmooth, x: State) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """A x - b and b of a squared term, arrays of the codomain of A on the host, in the `precision` of the flow; None of another term."""
    if not isinstance(term, SpectralSquare) and not isinstance(term.phi, HalfSquare):
        return None
    misfit, target = (np.asarray(part, np.float64) for part in _apart(term, taken(term.slots, x)))
    return misfit, np.broadcast_to(target, misfit.shape)


@jax.jit
def _apart(term: Any, x: Any) -> tuple[jax.Array, jax.Array]:
    """In one program: operation by operation, each would compile one of its own."""
    target = term.op.signal(term.data) if isinstance(term, SpectralSquare) else term.phi.target
    return term.op.matvec(x) - target, target


def phi_residual(compiled: CompiledFlow, x: State) -> float | None:
    """The column phi_residual: the largest relative residual; None where nothing declares one."""
    return max((residual.relative for residual in physics_residuals(compiled, x)), default=None)
