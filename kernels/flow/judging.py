"""What a certified run is judged by where it stands: the gate, the descent of its last block, its gap, its drifts and
residuals."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from .certificates import (
    CertificationProfile,
    Descent,
    Drift,
    Finding,
    Gap,
    Residual,
    Verdict,
    block_findings,
    certify_again,
    check_block,
    drifts,
    duality_gap,
)
from .certificates import physics_residuals as residuals_of
from .compiler import CompiledFlow
from .running import Execution
from .solvers.base import Metrics


class Seen(NamedTuple):
    """What a run card tells of the state that a run ends in."""

    drifts: list[Drift]
    residuals: list[Residual]
    gap: Gap | None


NOTHING = Seen([], [], None)


def descent(execution: Execution, compiled: CompiledFlow, profile: CertificationProfile, before: Metrics) -> Descent:
    """Of the last block. before: the metrics where it began."""
    latest = execution.latest
    assert latest is not None
    alpha, inertia = float(execution.controls.alpha), float(before.inertia)
    found = check_block(
        latest.metrics,
        compiled.solver.name,
        before=float(before.energy),
        alpha=alpha,
        beta=compiled.report.beta,
        size=sum(int(value.size) for value in compiled.start.values()),
        dtype=compiled.spec.dtype,
        tolerance=profile.tolerance("lyapunov"),
        promise=compiled.solver.descent,
        convex=not execution.problem.nonconvex(),
        inertia=0.0 if math.isnan(inertia) else inertia * float(before.alpha) / alpha,
    )
    return found if "lyapunov" in profile.checks else replace(found, passed=True)


def gap(execution: Execution) -> Gap:
    """The duality gap, with the dual variables of a primal-dual solver."""
    state, problem = execution.run.state, execution.problem
    duals = {term.name: u for term, u in zip(problem.composite, getattr(state, "u", ()), strict=False)}
    return duality_gap(problem, state.x, duals)


def findings(
    execution: Execution, compiled: CompiledFlow, profile: CertificationProfile, references: Mapping[str, float], gap: Gap | None
) -> tuple[Finding, ...]:
    """What the checks that look at a state find there. references: of the invariants."""
    if not {"invariant", "physics_residual", "duality_gap"} & set(profile.checks):
        return ()
    x = execution.run.state.x
    residuals = residuals_of(compiled, x) if "physics_residual" in profile.checks else ()
    return block_findings(profile, drifts=drifts(compiled.spec, x, references), residuals=residuals, gap=gap)


def seen(execution: Execution, compiled: CompiledFlow, profile: CertificationProfile, references: Mapping[str, float]) -> Seen:
    """For the run card."""
    x = execution.run.state.x
    found = gap(execution) if "duality_gap" in profile.checks else None
    return Seen(drifts(compiled.spec, x, references), residuals_of(compiled, x), found)


class Gate:
    """Asks the gate again along a run whose certificates are those of a point.

    After every block of a fixed size, since what such a run decides must not hang on the clock. Otherwise so often that it takes a
    twentieth of the time. In any case after the last block.
    """

    def __init__(self, always: bool) -> None:
        self._always = always
        self._next = 0.0

    def again(self, execution: Execution, profile: CertificationProfile, verdict: Verdict) -> Verdict:
        """The verdict where the run has come to, or the one before where it still holds or it is not yet time."""
        began = time.perf_counter()
        over = bool(execution.stopped) or execution.done >= execution.iterations
        if verdict.scope == "everywhere" or not (self._always or over or began >= self._next):
            return verdict
        found = certify_again(execution.compiled, profile, verdict, execution.run.state.x)
        ended = time.perf_counter()
        self._next = ended + 19 * (ended - began)
        return found
