"""What a run sees of itself where a block ends: its invariants, its residuals, its duality gap and its sparsity, for the rows that end a
block and for the checks that judge it.

All of it is evaluated on the host. What no check asks for takes a fiftieth of the time of the run at most, and is looked at where the run
ends in any case; nothing is compiled for it but where the spec or the caller asks for what needs a program.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .certificates import CertificationProfile, Drift, Gap, Residual, drifts, duality_gap, largest_drift
from .certificates import physics_residuals as residuals_of
from .compiler import CompiledFlow
from .controller.policies import SPARSE_ATOMS
from .functions.groups import GroupNorm
from .functions.separable import Bounded, Separable
from .functions.trees import TreeNorm
from .kept import Asked
from .operators.base import Operator, applied
from .problem import CompositeTerm, Problem, ProxTerm, taken
from .recorder import NoRecorder, Recorder
from .running import Execution
from .solvers.base import Run

# At most this part of the time goes into what is only recorded.
SHARE = 1 / 50
# A coefficient counts as 0 up to here: what the rounding of a transform leaves of one that is.
SPARSITY_TAU = {"float64": 1e-8, "float32": 1e-5}
DECLARED = ("physics", "data")


class Seen(NamedTuple):
    """What was looked at in a state; empty or None what was not."""

    drifts: list[Drift]
    residuals: list[Residual]
    gap: Gap | None


class Watch:
    """Looks at a run where its blocks end. seen: what it saw last. recorder: whom it tells of checkers that fail.

    profile: that a run is judged by, block by block; None where nothing is. gap: whether the duality gap is looked at. in_bases: whether
    sparsity is, too, where it takes a transform.
    """

    def __init__(
        self, recorder: Recorder, profile: CertificationProfile | None = None, *, gap: bool = False, in_bases: bool = False
    ) -> None:
        self.recorder = recorder
        self.references: Mapping[str, float] = {}
        self.seen = Seen([], [], None)
        self._checks, self._judges = () if profile is None else profile.checks, profile is not None
        self._gap, self._in_bases = gap, in_bases
        self._failing: set[str] = set()
        self._due, self._looked = 0.0, False

    def began(self, compiled: CompiledFlow, references: Mapping[str, float]) -> None:
        """A run begins, with these references of its invariants."""
        self.references = references
        self._told(drifts(compiled.spec, compiled.start, references), 0)

    def at(self, execution: Execution, run: Run, iteration: int, over: bool) -> dict[str, Any]:
        """Looks where a block has led, and gives what the row that ends it says; `Execution.closing`. over: whether the run ends there."""
        compiled, x = execution.compiled, run.state.x
        kept = not isinstance(self.recorder, NoRecorder) and (over or time.perf_counter() >= self._due)
        gap = gap_at(execution.problem, run) if self._gap else None
        off = drifts(compiled.spec, x, self.references) if self._judges else []
        began = time.perf_counter()
        if kept and not self._judges:
            off = drifts(compiled.spec, x, self.references)
        self._told(off, iteration)
        declared = kept and any(term.group in DECLARED for term in compiled.spec.terms)
        residuals = residuals_of(compiled, x) if declared or "physics_residual" in self._checks else []
        self.seen = Seen(off, residuals, gap)
        found = {
            "invariant_drift_max": largest_drift(off),
            "phi_residual": max((residual.relative for residual in residuals), default=None) if declared else None,
            "gap": gap.gap if gap is not None and math.isfinite(gap.gap) else None,
            "sparsity_wx": self._sparsity(compiled, run) if kept else None,
        }
        if kept:
            ended = time.perf_counter()
            # The first look may have compiled what it needs, which no later one does.
            self._due = ended + (ended - began) * (1 / SHARE - 1) if self._looked else 0.0
            self._looked = True
        return {name: value for name, value in found.items() if value is not None}

    def _sparsity(self, compiled: CompiledFlow, run: Run) -> float | None:
        """The column sparsity_wx: of the coefficients of the sparse terms, the part that is 0."""
        tau, zeros, count = SPARSITY_TAU[compiled.spec.dtype], 0, 0
        for slots, op in sparse_bases(compiled):
            if op.structure != "identity" and not self._in_bases:
                return None
            point = taken(slots, run.state.x)
            coefficients = np.asarray(point) if op.structure == "identity" else applied(op, point)
            zeros += int(np.count_nonzero((coefficients <= tau) & (coefficients >= -tau)))
            count += coefficients.size
        return zeros / count if count else None

    def _told(self, found: Iterable[Drift], iteration: int) -> None:
        """Tells of a checker that fails, and not again until it has worked."""
        for drift in found:
            if not drift.error:
                self._failing.discard(drift.name)
            elif drift.name not in self._failing:
                self._failing.add(drift.name)
                self.recorder.event("INVARIANT_VALIDATION_ERROR", {"name": drift.name, "reason": drift.error[:2000]}, iteration=iteration)


def gap_at(problem: Problem, run: Run) -> Gap:
    """The duality gap, with the dual variables of a primal-dual solver."""
    duals = {term.name: u for term, u in zip(problem.composite, getattr(run.state, "u", ()), strict=False)}
    return duality_gap(problem, run.state.x, duals)


def sparse_bases(compiled: CompiledFlow) -> list[tuple[tuple[str, ...], Operator]]:
    """Of each term that seeks zeros its slots, and the operator whose image they are in."""
    problem, spec = compiled.problem, compiled.spec
    atoms = dict(zip(spec.term_names(), (term.type for term in spec.terms), strict=True))
    found: list[tuple[tuple[str, ...], Operator]] = []
    for terms in (problem.prox, problem.second):
        found += [((slot,), term.op) for slot, term in terms.items() if _sparse(term)]
    return found + [(term.slots, term.op) for term in problem.composite if atoms.get(term.name) in SPARSE_ATOMS]


def _sparse(term: ProxTerm | CompositeTerm) -> bool:
    phi = term.phi.phi if isinstance(term.phi, Bounded) else term.phi
    if isinstance(phi, Separable):
        return bool(np.max(np.asarray(phi.threshold)) > 0)
    return isinstance(phi, (GroupNorm, TreeNorm))


def watch_of(asked: Asked, recorder: Recorder) -> Watch:
    """The watch of a certified run: it looks at the duality gap where a check or the rule of a schedule goes by it, and at sparsity in any
    basis where something of that run is about scales or their weights."""
    by_rule = asked.multiscale is not None and asked.multiscale.variable == "gap"
    gap = by_rule or "duality_gap" in asked.cert_profile.checks
    return Watch(recorder, asked.cert_profile, gap=gap, in_bases=bool(asked.sparsity or asked.gap_dial or asked.multiscale))
