"""What to change after a failed check, so that the next try differs in an input of that very check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from ..certificates.profiles import CertificationProfile
from ..certificates.records import Finding, Verdict
from ..compiler import CompiledFlow
from ..errors import FlowInputError
from ..precision import precision
from ..spec import REMEDY, FlowSpec, Term


@dataclass(frozen=True)
class Remedied:
    """The flow and the profile to certify next, and what was changed, as plain data."""

    compiled: CompiledFlow
    profile: CertificationProfile
    changed: dict[str, Any]


def remedied(
    compiled: CompiledFlow,
    profile: CertificationProfile,
    finding: Finding,
    *,
    ridge_cap: float,
    recompile: Callable[..., CompiledFlow],
) -> Remedied | None:
    """Applies the remedy of a finding; None where it is used up or not allowed. ridge_cap: the most ridge, as a part of beta. recompile:
    compiles a spec, if asked with the `solver` of a name; raises FlowInputError where it may not. Lint has judged the spec before, and has
    nothing to judge in a ridge: it need not ask again."""
    match finding.remedy:
        case "raise_ridge":
            weight = _next_ridge(compiled.spec, finding)
            if not 0 < weight <= ridge_cap * compiled.report.beta.value:
                return None
            held = with_ridge(compiled.spec, weight)
            # Steps that an earlier remedy has preconditioned stay so.
            made = recompile(held, solver=compiled.solver.name) if compiled.solver.name == "preconditioned" else recompile(held)
            return Remedied(_as_before(made, compiled), profile, {"ridge": weight})
        case "switch_lens":
            return None if profile.lens == "auto" else Remedied(compiled, replace(profile, lens="auto"), {"lens": "auto"})
        case "precondition" if compiled.solver.name != "preconditioned":
            try:
                made = recompile(compiled.spec, solver="preconditioned")
            except FlowInputError:  # the user has asked for another solver, or P would leave the prox without a closed form
                return None
            return Remedied(_as_before(made, compiled), profile, {"precondition": "jacobi"})
        case "set_alpha" if finding.limit is not None:
            return Remedied(with_alpha(compiled, finding.limit), profile, {"alpha": finding.limit})
    return None


def _as_before(made: CompiledFlow, compiled: CompiledFlow) -> CompiledFlow:
    """The remedied flow with what its user said when the first one was compiled: seed, temperature and damping, and the doubts of lint, in
    the mode that was asked for."""
    old = compiled.controls
    controls = replace(made.controls, seed=old.seed, temperature=old.temperature, damping=old.damping)
    report = replace(made.report, warnings=compiled.report.warnings, findings=compiled.report.findings)
    return replace(made, controls=controls, report=report)


def exhausted(verdict: Verdict, finding: Finding) -> Verdict:
    """The verdict once the remedy of a finding has been found to be used up: the controller then gives up instead of trying the same
    again."""
    known = tuple(replace(one, remedy="none") if one == finding else one for one in verdict.findings)
    return replace(verdict, findings=known)


def with_ridge(spec: FlowSpec, weight: float) -> FlowSpec:
    """The spec with w/2 ||x||^2 added to every variable slot, or raised where remediation added it before; in the units of the other terms,
    where they have them."""
    kept = [term for term in spec.terms if not (term.name or "").startswith(REMEDY)]
    slots = [name for name, slot in spec.slots.items() if slot.role == "variable"]
    units = kept[0].units if len({term.units for term in kept}) == 1 else None
    added = [Term("tikhonov", slot, weight=weight, name=f"{REMEDY}{slot}", group="regularizer", units=units) for slot in slots]
    return replace(spec, terms=[*kept, *added])


def ridge_of(spec: FlowSpec) -> float:
    """The weight that remediation has added so far."""
    return max((float(term.weight) for term in spec.terms if (term.name or "").startswith(REMEDY)), default=0.0)


def _next_ridge(spec: FlowSpec, finding: Finding) -> float:
    """Twice what there is, and at first twice what is missing."""
    missing = 0.0
    if finding.check == "gamma" and finding.value is not None and finding.limit is not None:
        missing = 2 * (finding.limit - min(finding.value, 0.0))
    elif finding.limit is not None and finding.value is not None:
        missing = 1e-6
    return max(2 * ridge_of(spec), missing)


def with_alpha(compiled: CompiledFlow, alpha: float) -> CompiledFlow:
    """The same flow with another step: no compilation."""
    with precision(compiled.spec.dtype) as real:
        return replace(compiled, controls=replace(compiled.controls, alpha=jnp.asarray(alpha, real)))
