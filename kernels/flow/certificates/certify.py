"""The gate: examines L of a compiled flow, and decides by a profile whether the flow may run as certified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..bounds import Bound
from ..classes import CLASSES
from ..compiler import CompiledFlow
from ..errors import FlowInputError
from ..operators.base import Op, Operator
from ..precision import precision
from ..problem import Problem, State
from . import dominance, gap
from .charts import LARGEST, too_large
from .curvature import Block, curvature
from .lenses import lens_for
from .profiles import CertificationProfile
from .records import Finding, Remedy, Verdict, highest, lowest
from .steps import step_findings, step_limit
from .structure import Known, known


def certify(
    compiled: CompiledFlow,
    profile: CertificationProfile | None = None,
    lens: str | Op | Operator | None = None,
    *,
    at: State | None = None,
    scale: Mapping[str, Any] | None = None,
    refined: CompiledFlow | None = None,
) -> Verdict:
    """What can be certified of a flow before it moves.

    lens: instead of the profile's. at: the reference point of L, by default where the flow starts. scale: D^-1 for each slot, of a
    preconditioned step; that of the flow, if its steps are. refined: the flow on a finer grid, for discretization_independence.
    """
    profile = profile or CertificationProfile()
    if lens is not None:
        profile = replace(profile, lens=lens)
    point = compiled.start if at is None else at
    limit = min(step_limit(compiled.solver.name, compiled.report.beta), compiled.report.alpha_limit)
    certificates: dict[str, Bound] = {"beta": compiled.report.beta}
    findings: list[Finding] = []
    used, scope = "pixel", "everywhere"
    dominance_of_steps: Bound | None = None
    if profile.name == "convex":
        findings += _convexity_findings(compiled.problem)
    unseen = _unseen(compiled.problem, point) if "spectral_gap" in profile.checks else []
    findings += unseen
    if "spectral_gap" in profile.checks and not unseen:
        preconditioned = compiled.solver.name == "preconditioned"
        if preconditioned and scale is None:
            scale = compiled.controls.scale
        spectrum = examine(compiled.problem, point, profile, scale)
        used, scope = spectrum.lens, spectrum.scope
        certificates |= {"eta_dd": spectrum.eta, "gamma": spectrum.gamma}
        dominance_of_steps = spectrum.eta if preconditioned else None
        against = spectral_findings(spectrum, profile) + _beta_findings(spectrum, compiled.report.beta)
        if compiled.problem.manifolds:
            # A ridge is no curvature on a manifold: on a sphere it is a constant.
            advice = "Start nearer to a minimum, where the curvature along the manifold is positive, or let the run go on in AMBER"
            against = [replace(one, remedy="none", advice=advice) for one in against]
        elif profile.precondition and not preconditioned:
            against.append(_unscaled_steps(compiled))
        elif not preconditioned:
            against = [_preconditionable(compiled, point, profile, finding) for finding in against]
        findings += against
        findings += [] if scope == "everywhere" else _energy_findings(compiled, point)
    findings = step_findings(compiled, limit, profile, dominance_of_steps) + findings
    if "discretization_independence" in profile.checks and profile.refinement_test.enable:
        findings += _refinement_findings(compiled, certificates, refined, profile)
    phase = "GREEN" if not findings else "RED" if any(finding.check == "finite" for finding in findings) else "AMBER"
    limits = {"eta_max": profile.eta_max, "gamma_min": profile.gamma_min, "alpha_max": limit}
    return Verdict(profile.name, phase, certificates, tuple(findings), used, scope, limits)  # type: ignore[arg-type]


def certify_again(compiled: CompiledFlow, profile: CertificationProfile, verdict: Verdict, x: State) -> Verdict:
    """A verdict where a run has come to. One that holds everywhere still does; one that is of a point says nothing of others, so the
    gate is asked again, at x. That nothing hangs on the grid was shown before the run."""
    if verdict.scope == "everywhere":
        return verdict
    checks = tuple(check for check in profile.checks if check != "discretization_independence")
    return certify(compiled, replace(profile, checks=checks), at=x)


@dataclass(frozen=True)
class Spectrum:
    """eta_dd and gamma of L, and in which coordinates. steepest: a number that the largest eigenvalue of L reaches."""

    eta: Bound
    gamma: Bound
    lens: str
    scope: str
    eigenbasis: str | None
    steepest: float = float("-inf")


def examine(problem: Problem, point: State, profile: CertificationProfile, scale: Mapping[str, Any] | None = None) -> Spectrum:
    """The spectral certificates of L at a point."""
    if profile.precondition and scale is None and not problem.manifolds:
        scale = _jacobi(problem, point)
    made = curvature(problem, point, scale)
    seen = [(block, known(block)) for block in made.blocks]
    gammas = [gap.gamma(block, found, profile.gamma_min) for block, found in seen]
    basis = {found.eigen[0].name for _, found in seen if found.eigen is not None}
    diagonal = basis.pop() if len(basis) == 1 and all(found.eigen is not None for _, found in seen) else None
    eta, name = _dominance(seen, profile, diagonal)
    scope = "everywhere" if made.constant else "at the reference point"
    steepest = -np.inf if scale is not None or problem.manifolds else max(_reached(block, found) for block, found in seen)
    return Spectrum(eta, gap.joined(gammas), name, scope, diagonal, steepest)


def _reached(block: Block, seen: Known) -> float:
    """What the largest eigenvalue of the second derivative of f is at least: an eigenvalue, or an entry of the diagonal."""
    modulus = max(block.modulus, 0.0) if np.isfinite(block.modulus) else np.inf
    if seen.eigen is not None:
        return float(seen.eigen[1].entries.max()) - seen.eigen[1].radius - modulus
    entries = seen.dense if seen.dense is not None else seen.sparse[0] if seen.sparse is not None else None
    return -np.inf if entries is None else float(entries.diagonal().max()) - (seen.sparse[1] if seen.sparse else 0.0) - modulus


def _unscaled_steps(compiled: CompiledFlow) -> Finding:
    """A profile that looks at preconditioned steps says nothing about others."""
    unfit = CLASSES["preconditioned"].unfit(compiled.problem)
    reason = f"the spectrum is that of preconditioned steps, and {compiled.solver.name} makes others"
    if unfit:
        return Finding("precondition", f"{reason}: {unfit}", "none", "Set precondition=False")
    return Finding("precondition", reason, "precondition", "Compile with solver='preconditioned', or set precondition=False")


def _preconditionable(compiled: CompiledFlow, point: State, profile: CertificationProfile, finding: Finding) -> Finding:
    """The finding, with the remedy to precondition where that would bring eta_dd within its limit and the prox allows it."""
    if finding.check != "eta_dd" or finding.remedy != "raise_ridge" or CLASSES["preconditioned"].unfit(compiled.problem):
        return finding
    scaled = examine(compiled.problem, point, profile, _jacobi(compiled.problem, point))
    if not (scaled.eta.sound_above or profile.allow_estimates) or highest(scaled.eta) > profile.eta_max:
        return finding
    advice = f"Precondition by the diagonal of L (solver='preconditioned'), which makes eta_dd {scaled.eta.value:.4g}"
    return replace(finding, remedy="precondition", advice=advice)


def _dominance(seen: list[tuple[Block, Known]], profile: CertificationProfile, diagonal: str | None) -> tuple[Bound, str]:
    if profile.lens != "auto":
        lenses = [lens_for(profile.lens, block) for block, _ in seen]
        bounds = [dominance.eta(block, found, lens) for (block, found), lens in zip(seen, lenses, strict=True)]
        return dominance.joined(bounds), lenses[0].name if lenses else "pixel"
    in_pixels = dominance.joined([dominance.eta(block, found, lens_for("pixel", block)) for block, found in seen])
    if (in_pixels.sound_above and highest(in_pixels) <= profile.eta_max) or diagonal in (None, "pixel"):
        return in_pixels, "pixel"
    return dominance.joined([dominance.eta(block, found, lens_for(str(diagonal), block)) for block, found in seen]), str(diagonal)


def _jacobi(problem: Problem, point: State) -> dict[str, Any]:
    """1 / diag(L), slot by slot; where L_ii is not above 0 the element is left as it is."""
    found: dict[str, Any] = {}
    for block in curvature(problem, point).blocks:
        entries = diagonal_of(block)
        inverse = np.where(entries > 0, 1 / np.where(entries > 0, entries, 1), 1.0)
        cuts = np.cumsum([int(np.prod(shape)) for shape in block.shapes])[:-1]
        for slot, shape, piece in zip(block.slots, block.shapes, np.split(inverse, cuts), strict=True):
            found[slot] = piece.reshape(shape)
    return found


def diagonal_of(block: Block) -> Any:
    """diag(L) of a block: exact where L is diagonal in pixels, circulant, dense or sparse; else of a norm that is never too small."""
    seen = known(block)
    if seen.dense is not None:
        return np.diagonal(seen.dense)
    if seen.sparse is not None:
        return seen.sparse[0].diagonal()
    if seen.eigen is not None and seen.eigen[0].name == "pixel":
        return seen.eigen[1].entries
    if seen.eigen is not None and seen.eigen[0].name == "dft":
        return np.full(block.size, float(seen.eigen[1].entries.mean())) if len(block.shapes) == 1 else np.full(block.size, block.above)
    return np.full(block.size, block.above)


def spectral_findings(spectrum: Spectrum, profile: CertificationProfile) -> list[Finding]:
    """What the gate has against the spectrum."""
    eta, gamma = spectrum.eta, spectrum.gamma
    if not (np.isfinite(eta.value) and np.isfinite(gamma.value)):
        return [
            Finding(
                "finite", f"L is not finite (eta_dd {eta.value}, gamma {gamma.value})", "none", "Look for NaN or infinity in the inputs"
            )
        ]
    findings = []
    if highest(eta) > profile.eta_max:
        changes: tuple[Remedy, str] = ("raise_ridge", "Add curvature (a tikhonov term), or precondition")
        if spectrum.eigenbasis not in (None, spectrum.lens):
            changes = ("switch_lens", f"Certify in the lens {spectrum.eigenbasis}, in which L is diagonal")
        findings.append(
            Finding(
                "eta_dd",
                f"eta_dd is {_told(eta)} in the lens {spectrum.lens}, above {profile.eta_max:g}",
                *changes,
                eta.value,
                profile.eta_max,
            )
        )
    elif not eta.sound_above and not profile.allow_estimates:
        findings.append(
            Finding(
                "eta_dd",
                f"eta_dd is only known as {_told(eta)}, which does not rule out more",
                "none",
                "Choose a lens in which L has structure, the profile convex, or allow_estimates=True",
                eta.value,
                profile.eta_max,
            )
        )
    if gamma.kind == "estimate" and gamma.value >= profile.gamma_min and not profile.allow_estimates:
        reason = f"gamma is only known as {_told(gamma)}; a Ritz value is above the true gap"
        advice = "Add curvature (a tikhonov term of that weight certifies itself), or set allow_estimates=True"
        findings.append(Finding("gamma", reason, "raise_ridge", advice, gamma.value, profile.gamma_min))
    elif lowest(gamma) < profile.gamma_min:
        reason = f"gamma is {_told(gamma)}, below {profile.gamma_min:g}: some direction has too little curvature to be determined"
        advice = "Raise the ridge (a tikhonov or elastic_net term), or use the profile convex if the energy is only convex"
        findings.append(Finding("gamma", reason, "raise_ridge", advice, gamma.value, profile.gamma_min))
    return findings


def _energy_findings(compiled: CompiledFlow, point: State) -> list[Finding]:
    """Whether E is a number where L was looked at; of a quadratic f it is."""
    with precision(compiled.spec.dtype):
        energy = float(compiled.problem.f_value(point) + compiled.problem.g_value(point))
    if np.isfinite(energy):
        return []
    return [Finding("finite", f"E is {energy} where the flow starts", "none", "Give its slots a value at which every term is defined")]


def _beta_findings(spectrum: Spectrum, beta: Bound) -> list[Finding]:
    """Whether L shows that beta is no bound: a term may declare one that is not true."""
    if not spectrum.steepest > beta.value * (1 + 1e-4):
        return []
    reason = f"L reaches {spectrum.steepest:.4g}, above beta {beta.value:.4g} ({beta.method}), on which the step rests"
    return [Finding("beta", reason, "none", "Correct the bound that a term declares, or leave it out", spectrum.steepest, beta.value)]


def _unseen(problem: Problem, point: State) -> list[Finding]:
    """What keeps L of slots on manifolds from being examined."""
    found = []
    for slot, made in problem.manifolds.items():
        if slot in problem.prox:
            reason = f"{problem.prox[slot].name} has no second derivative, and along {made.name}, on which {slot} lives, no modulus either"
            found.append(Finding("gamma", reason, "none", "Smooth it, as huber does"))
    for slot in too_large(problem, point):
        reason = (
            f"{slot} has {point[slot].size} elements on {problem.manifolds[slot].name}, and tangent spaces of at most {LARGEST} are seen"
        )
        found.append(Finding("gamma", reason, "none", "Certify a smaller instance"))
    return found


def _convexity_findings(problem: Problem) -> list[Finding]:
    curved = [f"{slot} lives on {made.name}" for slot, made in problem.manifolds.items() if made.name != "euclidean"]
    if curved:
        reason = f"{', '.join(curved)}: that an energy is convex in the embedding says nothing there"
        return [Finding("convex", reason, "none", "Use the profile strict, which looks at the curvature along the manifold")]
    bent = problem.nonconvex()
    if not bent:
        return []
    return [Finding("convex", f"the terms {', '.join(bent)} are not convex", "none", "Use the profile strict, or replace these terms")]


def _refinement_findings(
    compiled: CompiledFlow, certificates: Mapping[str, Bound], refined: CompiledFlow | None, profile: CertificationProfile
) -> list[Finding]:
    check = "discretization_independence"
    if refined is None:
        advice = "Give `refined`, the flow compiled on the finer grid, or take the check out of the profile"
        return [
            Finding(
                check,
                "the flow was not given on a finer grid, so nothing shows that its certificates do not hang on the grid",
                "none",
                advice,
            )
        ]
    _check_grids(compiled, refined, profile)
    finer = examine(refined.problem, refined.start, profile)
    against = spectral_findings(finer, profile)
    if against:
        return [
            Finding(
                check, f"on the finer grid {against[0].reason}", against[0].remedy, against[0].advice, against[0].value, against[0].limit
            )
        ]
    coarse = certificates.get("gamma")
    least = 0.0 if coarse is None else coarse.value * (1 - profile.refinement_test.tolerance)
    if coarse is not None and finer.gamma.value < least:
        reason = (
            f"gamma falls from {coarse.value:.3g} to {finer.gamma.value:.3g} on the finer grid: it belongs to the grid, not to the problem"
        )
        return [Finding(check, reason, "raise_ridge", "Scale the operators with the grid, or raise the ridge", finer.gamma.value, least)]
    return []


def _check_grids(coarse: CompiledFlow, fine: CompiledFlow, profile: CertificationProfile) -> None:
    """Raises FlowInputError unless the finer grid is `scale_factor` times as fine along the axes that it refines, of which there is one."""
    factor = profile.refinement_test.scale_factor
    here, there = ({slot: tuple(value.shape) for slot, value in flow.start.items()} for flow in (coarse, fine))
    alike = here.keys() == there.keys() and all(len(here[slot]) == len(there[slot]) for slot in here)
    sides = [pair for slot in here for pair in zip(here[slot], there[slot], strict=True)] if alike else []
    if not any(side != finer for side, finer in sides) or any(finer not in {side, side * factor} for side, finer in sides):
        raise FlowInputError(
            f"refined has the slots {there}, and the flow {here}; it must be the same flow on a grid {factor} times as fine along the axes "
            "that it refines (refinement_test.scale_factor)"
        )


def _told(bound: Bound) -> str:
    off = f" +- {bound.residual:.1e}" if bound.kind == "exact" and bound.residual else ""
    return f"{bound.value:.4g}{off} ({bound.kind.replace('_', ' ')}, {bound.method})"
