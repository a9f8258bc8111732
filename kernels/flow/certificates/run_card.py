"""The run card: what a run was asked to show, what it showed, and what of it passed, as plain data for `run_card.json`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from .descent import Descent
from .duality import Gap
from .invariants import Drift, Residual
from .profiles import CertificationProfile
from .records import Finding, Verdict


def block_findings(
    profile: CertificationProfile, *, drifts: Iterable[Drift] = (), residuals: Iterable[Residual] = (), gap: Gap | None = None
) -> tuple[Finding, ...]:
    """What the checks of a profile other than descent have against a state at the end of a block. A check that the profile names and that
    has nothing to look at fails, except that of invariants: a spec without invariants keeps them all."""
    findings, off = [], list(drifts)
    if "invariant" in profile.asked(bool(off)):
        for drift in off:
            if not drift.passed:
                reason = f"the invariant {drift.name} is off by {drift.value:.3g}, more than {drift.allowed:.3g}"
                advice = "Look for the term or the step that does not keep it"
                if drift.error:  # its type alone: the text may quote data, and findings stand in redacted capsules, too
                    reason = f"the invariant {drift.name} could not be computed: its checker raised {drift.error.partition(':')[0]}"
                    advice = "Call its checker with the state that the result has"
                findings.append(Finding("invariant", reason, "none", advice, drift.value, drift.allowed))
    if "physics_residual" in profile.checks:
        limit = profile.tolerance("physics_residual")
        measured = list(residuals)
        if not measured:
            findings.append(Finding("physics_residual", "no term declares a residual", "none", 'Give a term the group "physics"'))
        for residual in measured:
            if not residual.relative <= limit:
                reason = f"the residual of {residual.name} is {residual.relative:.3g} of its data, above {limit:.3g}"
                findings.append(Finding("physics_residual", reason, "none", "Raise the weight of the term", residual.relative, limit))
    if "duality_gap" in profile.checks and (gap is None or not math.isfinite(gap.gap)):
        why = "none was computed" if gap is None else gap.reason
        advice = "Take the check out, or give every slot a term with a conjugate"
        findings.append(Finding("duality_gap", f"there is no duality gap: {why}", "none", advice))
    return tuple(findings)


def run_card(
    profile: CertificationProfile,
    verdict: Verdict,
    *,
    descents: Iterable[Descent] = (),
    drifts: Iterable[Drift] = (),
    residuals: Iterable[Residual] = (),
    gap: Gap | None = None,
) -> dict[str, Any]:
    """The card: the profile, the verdict, for each check whether it passed, and which rungs of evidence were reached (0 invariants, 1
    descent, 2 duality gap, 3 spectrum)."""
    blocks, kept, measured = list(descents), list(drifts), list(residuals)
    against = (*block_findings(profile, drifts=kept, residuals=measured, gap=gap), *_wide(profile, gap))
    failed = {finding.check for finding in (*verdict.findings, *against)}
    spectral = {"eta_dd", "gamma", "finite"}
    named = [check for check in profile.asked(bool(kept)) if check != "lyapunov"]
    checks = {check: not (failed & spectral if check == "spectral_gap" else check in failed) for check in named}
    if "lyapunov" in profile.checks:
        checks["lyapunov"] = all(block.passed for block in blocks)
    ladder = {
        "0 invariants": all(drift.passed for drift in kept) if kept else None,
        "1 descent": all(block.passed for block in blocks) if blocks else None,
        "2 duality gap": None if gap is None else math.isfinite(gap.gap),
        "3 spectrum": not failed & spectral if "gamma" in verdict.certificates else None,
    }
    return {
        "profile": profile.record(),
        "verdict": verdict.record(),
        "passed": verdict.feasible and all(checks.values()),
        "checks": checks,
        "evidence": ladder,
        "descent": next((block.record() for block in blocks if not block.passed), blocks[-1].record() if blocks else None),
        "invariants": [{"name": drift.name, "drift": _number(drift.value), "allowed": drift.allowed} for drift in kept],
        "residuals": [{"name": one.name, "norm": one.norm, "relative": one.relative, "largest": one.largest} for one in measured],
        "duality_gap": None if gap is None else {"gap": _number(gap.gap), "relative": _number(gap.relative), "reason": gap.reason},
        "findings": [finding.record() for finding in (*verdict.findings, *against)],
    }


def _wide(profile: CertificationProfile, gap: Gap | None) -> tuple[Finding, ...]:
    """At the end the gap must not only be there but be small."""
    limit = profile.tolerance("duality_gap")
    if "duality_gap" not in profile.checks or gap is None or not math.isfinite(gap.gap) or gap.relative <= limit:
        return ()
    reason = f"the duality gap is {gap.relative:.3g} of the energy, above {limit:.3g}"
    return (Finding("duality_gap", reason, "none", "Make more steps", gap.relative, limit),)


def _number(value: float) -> float | None:
    """JSON has no infinities."""
    return value if math.isfinite(value) else None
