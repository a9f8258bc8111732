"""The largest step for which each solver is proven, given the Lipschitz constant beta of grad f, and whether what it rests on is known."""

from __future__ import annotations

import numpy as np

from ..bounds import Bound
from ..compiler import CompiledFlow
from .profiles import CertificationProfile
from .records import Finding, highest

# c of alpha = c / beta: what the proof of each class allows. Those at 2 are open intervals, so a little less is taken.
_OPEN = 2.0 * (1 - 1e-3)
FACTORS = {
    "ista": _OPEN,
    "fista": 1.0,
    "mfista": 1.0,
    "davis_yin": _OPEN,
}


def family(solver: str) -> str:
    """The solver without its variant: "mfista_bt" is an mfista that backtracks."""
    return solver.removesuffix("_bt")


def step_limit(solver: str, beta: Bound) -> float:
    """The largest alpha, infinite where f is absent or the solver has a condition of its own (primal-dual steps, ADMM), which the compiler
    meets when it chooses sigma."""
    factor = FACTORS.get(family(solver))
    if factor is None or beta.value <= 0:
        return float("inf")
    return factor / beta.value


def step_findings(compiled: CompiledFlow, limit: float, profile: CertificationProfile, eta: Bound | None = None) -> list[Finding]:
    """Whether alpha is within what the solver needs, and whether that limit is known; a solver that backtracks, or searches along a line,
    needs no beta. eta: eta_dd of P^-1/2 L P^-1/2, if steps are preconditioned by P: none of its eigenvalues is above 1 + eta
    (Gershgorin)."""
    report, alpha = compiled.report, float(compiled.controls.alpha)
    if report.solver_class == "own":
        reason = f"the step alpha {alpha:.4g} is that of {compiled.solver.name}, of which no condition is known"
        advice = "Leave the solver to the compiler, or set allow_estimates=True, to rest on the descent of every block alone"
        return [] if profile.allow_estimates else [Finding("alpha", reason, "none", advice, alpha)]
    if compiled.solver.name.endswith("_bt") or not np.isfinite(limit):
        return []
    if not np.isfinite(report.beta.value) and report.solver_class != "Bregman":
        reason = f"the step alpha {alpha:.4g} rests on beta, and grad f has no Lipschitz constant"
        return [Finding("alpha", reason, "none", "Use a solver that backtracks (_bt), or declare beta of a function of your own", alpha)]
    if alpha > limit * (1 + 1e-6):
        proven = f"{limit:.4g}, the most for which {compiled.solver.name} is proven with beta {report.beta.value:.4g}"
        reason = f"the step alpha {alpha:.4g} is above {proven}"
        return [Finding("alpha", reason, "set_alpha", f"Set alpha to {limit:.4g} or less", alpha, limit)]
    norm = "lambda_max(P^-1/2 L P^-1/2)" if report.solver_class == "P" else "||K||^2"
    guessed = [name for name, bound in (("beta", report.beta), (norm, report.operator_norm)) if bound is not None and not bound.sound_above]
    if guessed == [norm] and eta is not None and eta.sound_above and alpha * (1 + highest(eta)) < 2:
        return []
    if guessed and not profile.allow_estimates:
        reason = f"the step alpha {alpha:.4g} rests on {' and '.join(guessed)}, which is only estimated"
        advice = "Declare a bound of the norm of the operator, use a solver that backtracks (_bt), or set allow_estimates=True"
        return [Finding("alpha", reason, "none", advice, alpha, limit)]
    return []
