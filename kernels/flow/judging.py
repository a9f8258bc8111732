"""What a certified run is judged by where it stands: the gate, the descent of its last block, its gap, its drifts and
residuals."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace

from .certificates import (
    CertificationProfile,
    Descent,
    Finding,
    Verdict,
    block_findings,
    certify_again,
    check_block,
    drifts,
)
from .certificates import physics_residuals as residuals_of
from .certificates.records import Phase
from .compiler import CompiledFlow
from .errors import FlowDiverged
from .running import Execution
from .solvers.base import Metrics
from .watching import Seen, gap_at

NOTHING = Seen([], [], None)
IDLE = Descent(True, "no step was made")


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
        at_rest=math.isinf(float(before.residual)),
    )
    return found if "lyapunov" in profile.checks else replace(found, passed=True)


def findings(profile: CertificationProfile, seen: Seen) -> tuple[Finding, ...]:
    """What the checks that look at a state have against it."""
    return block_findings(profile, **seen._asdict())


def infinite(error: FlowDiverged) -> Finding:
    """What is against a run whose numbers did not stay finite."""
    return Finding("finite", str(error), "none", "Take a smaller alpha, or look at the data")


def lost(verdict: Verdict, phase: Phase, descent: Descent, found: tuple[Finding, ...]) -> Verdict:
    """The verdict on a run that has lost its certificate on the way, with what is against it."""
    if verdict.findings:
        return replace(verdict, phase=phase)
    if not descent.passed:
        advice = "Take a smaller alpha, or a solver whose energy never rises (mfista)"
        found = (Finding("lyapunov", f"no step made the energy fall ({descent.rule})", "none", advice, descent.excess, 0.0), *found)
    return replace(verdict, phase=phase, findings=found)


def seen(execution: Execution, compiled: CompiledFlow, profile: CertificationProfile, references: Mapping[str, float]) -> Seen:
    """For the run card."""
    x = execution.run.state.x
    found = gap_at(execution.problem, execution.run) if "duality_gap" in profile.checks else None
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
