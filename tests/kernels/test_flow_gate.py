"""What may not open the gate: numbers that are only estimated, steps without a condition, and the certificate of another point. And what
remediation leaves as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from bridge_adapter.kernels.flow.bounds import Bound
from bridge_adapter.kernels.flow.certificates import CertificationProfile, Verdict, certify, certify_again, convex
from bridge_adapter.kernels.flow.certificates.records import Finding
from bridge_adapter.kernels.flow.certificates.steps import step_findings
from bridge_adapter.kernels.flow.compiler import CompiledFlow, compile_flow
from bridge_adapter.kernels.flow.controller import GapDial, Move, evaluate, remedied, with_ridge
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.operators import Op
from bridge_adapter.kernels.flow.runs import run
from bridge_adapter.kernels.flow.solvers.optax_flow import optax_flow
from bridge_adapter.kernels.flow.spec import FlowSpec, Slot, Term

N = 6
MATRIX = np.random.default_rng(0).standard_normal((N, N)) / 3
LEAST_SQUARES = Term("quadratic", "x", op=Op("dense", matrix=MATRIX), target=np.ones(N))


def spec(*terms: Term, start: Any = None, **more: Any) -> FlowSpec:
    slot = Slot(shape=(N,)) if start is None else Slot(value=start)
    return FlowSpec(slots={"x": slot}, terms=list(terms), **more)


def alphas(compiled: CompiledFlow, profile: CertificationProfile) -> list[Finding]:
    return [finding for finding in certify(compiled, profile).findings if finding.check == "alpha"]


def test_a_solver_of_ones_own_has_no_condition_and_opens_no_gate() -> None:
    # A step of 1 where 2/beta is less: nothing but the caller's word is for it.
    steep = spec(Term("tikhonov", "x", weight=10.0), start=np.ones(N))
    own = compile_flow(steep, solver=optax_flow("sgd", {"learning_rate": 1.0}), alpha=1.0)
    for profile in (CertificationProfile(), convex()):
        (finding,) = alphas(own, profile)
        assert finding.remedy == "none" and "no condition is known" in finding.reason
        assert not alphas(own, replace(profile, allow_estimates=True))


@pytest.mark.parametrize("solver", ["condat_vu", "davis_yin"])
def test_steps_that_would_rest_on_a_beta_that_does_not_exist_are_not_made(solver: str) -> None:
    quartic = Term("function", "x", params={"of": lambda x: (x**4).sum(), "convex": True})
    with pytest.raises(FlowInputError, match="no Lipschitz constant"):
        compile_flow(spec(quartic, start=np.ones(N)), solver=solver)
    assert not alphas(compile_flow(spec(quartic, start=np.ones(N))), convex())  # the compiler's own choice backtracks


def test_preconditioned_steps_rest_on_a_norm_that_must_be_known_or_follow_from_dominance() -> None:
    compiled = compile_flow(spec(LEAST_SQUARES), solver="preconditioned")
    known = compiled.report.operator_norm
    assert known is not None and known.kind == "exact" and not alphas(compiled, convex())
    # As of more unknowns than a dense matrix is made for.
    large = replace(compiled, report=replace(compiled.report, operator_norm=replace(known, kind="estimate")))
    limit = compiled.report.alpha_limit
    (finding,) = step_findings(large, limit, convex())
    assert "lambda_max(P^-1/2 L P^-1/2)" in finding.reason and finding.remedy == "none"
    alpha = float(compiled.controls.alpha)
    dominant, not_dominant, guessed = (
        Bound(2 / alpha - 1 + by, kind, "") for by, kind in ((-0.1, "exact"), (0.1, "exact"), (-0.1, "estimate"))
    )
    assert not step_findings(large, limit, convex(), dominant)
    assert step_findings(large, limit, convex(), not_dominant) and step_findings(large, limit, convex(), guessed)


def test_preconditioned_steps_of_a_curved_energy_are_short_enough_everywhere() -> None:
    # Where it starts, all residuals are in the linear part of huber's function, and its second derivative there is 0.
    far = Term("huber", "x", op=Op("dense", matrix=MATRIX), target=50 * np.ones(N))
    compiled = compile_flow(spec(far), solver="preconditioned")
    root = np.sqrt(np.asarray(compiled.controls.scale["x"]))
    most = np.linalg.eigvalsh(root[:, None] * (MATRIX.T @ MATRIX) * root)[-1]
    assert float(compiled.controls.alpha) == pytest.approx(1 / most)


def test_strong_convexity_is_seen_behind_a_target_and_asked_of_every_slot() -> None:
    behind = Term("l1", "x", op=Op("dense", matrix=MATRIX))
    net = Term("elastic_net", "x", target=np.ones(N), params={"ridge": 0.5})
    compiled = compile_flow(spec(net, behind), solver="chambolle_pock_accelerated")
    assert float(compiled.controls.modulus) == 0.5
    expected = run(compile_flow(spec(net, behind), tol=1e-10), iterations=20000)["energy"]
    assert run(compiled, iterations=2000)["energy"] == pytest.approx(expected, rel=1e-4)
    free = FlowSpec(slots={"x": Slot(shape=(N,)), "z": Slot(shape=(N,))}, terms=[net, Term("coupling_l1", ("x", "z"))])
    with pytest.raises(FlowInputError, match="g is not strongly convex"):  # z has no g
        compile_flow(free, solver="chambolle_pock_accelerated")


def well(x: Any) -> Any:
    """Convex where it starts, at pi, and falling to where it is concave."""
    return jnp.sum(jnp.cos(x) - 1.5 * x)


def test_the_certificate_of_a_point_is_asked_for_again_where_the_run_has_come_to() -> None:
    curved = spec(Term("function", "x", params={"of": well, "beta": 1.0}), start=np.pi * np.ones(N), allow_nonconvex=True)
    compiled, profile = compile_flow(curved), CertificationProfile()
    verdict = certify(compiled, profile)
    assert verdict.phase == "GREEN" and verdict.scope == "at the reference point"
    again = certify_again(compiled, profile, verdict, {"x": jnp.asarray(2 * np.pi * np.ones(N))})
    assert again.phase == "AMBER" and again.value("gamma") == pytest.approx(-1.0)
    assert certify_again(compiled, profile, verdict, {"x": jnp.asarray(3.2 * np.ones(N))}).phase == "GREEN"
    straight = Verdict("strict", "GREEN", {})
    assert certify_again(compiled, profile, straight, {}) is straight  # everywhere: nothing is computed


def test_a_candidate_without_an_objective_or_whose_energy_rose_comes_last() -> None:
    compiled = compile_flow(spec(Term("quadratic", "x", target=2 * np.ones(N)), Term("l1", "x", weight=0.5)))
    told = iter([np.nan, 3.0, 1.0, np.nan, 2.0])
    dial = GapDial(criterion=lambda state: next(told))
    moves = [Move({"lambda": 1 + by / 10}) for by in range(5)]
    found = evaluate(compiled, dial, compiled.start, moves)
    assert [candidate.objective for candidate in found[:3]] == [1.0, 2.0, 3.0]
    assert all(np.isnan(candidate.objective) for candidate in found[3:])
    # Twice 2/beta: the energy rises, and the criterion likes it.
    unstable = compile_flow(spec(Term("quadratic", "x", target=np.ones(N))), solver="ista")
    risen = evaluate(
        unstable,
        GapDial(knobs=("alpha",), criterion=lambda state: -float(np.abs(state["x"]).max())),
        unstable.start,
        [Move({"alpha": 4.0}), Move({"alpha": 1.0})],
    )
    assert [candidate.descended for candidate in risen] == [True, False] and risen[1].objective < risen[0].objective


def test_remediation_keeps_the_seed_the_units_and_what_lint_said() -> None:
    flat = spec(
        Term("quadratic", "x", op=Op("gaussian_blur", sigma=2.0), target=np.ones(N), units="J"), Term("l1", "x", weight=0.1, units="J")
    )
    compiled = compile_flow(flat, solver="langevin", temperature=0.5, seed=7, validation="strict")
    finding = Finding("gamma", "too small", "raise_ridge", "", 0.0, 1e-3)
    changed = remedied(
        compiled,
        CertificationProfile(),
        finding,
        ridge_cap=1.0,
        recompile=lambda held: compile_flow(held, solver="langevin", validation="strict"),
    )
    assert changed is not None
    controls = changed.compiled.controls
    assert (int(controls.seed), float(controls.temperature)) == (7, 0.5)
    assert changed.compiled.report.findings == compiled.report.findings
    assert {term.units for term in changed.compiled.spec.terms} == {"J"}
    assert with_ridge(spec(LEAST_SQUARES), 0.1).terms[-1].units is None


def test_data_in_small_units_are_told_of_also_where_the_flow_starts_near_its_end() -> None:
    def told(size: float, start: float) -> set[str]:
        quiet = spec(Term("quadratic", "x", target=size * np.ones(N)), start=start * np.ones(N))
        return {finding.rule for finding in compile_flow(quiet).report.findings}

    assert "energy.flat" in told(1e-6, 1e-6) and "energy.flat" in told(1e-6, 1.1e-6)
    assert "energy.flat" not in told(1.0, 1.0)


def test_data_in_small_units_stop_at_the_same_step_with_a_tol_in_their_units() -> None:
    def steps(unit: float) -> int:
        fit = Term("quadratic", "x", op=Op("dense", matrix=MATRIX), target=0.1 * unit * np.ones(N))
        return int(
            run(compile_flow(spec(fit, Term("l1", "x", weight=0.01 * unit)), solver="ista", tol=1e-6 * unit), iterations=5000)["iterations"]
        )

    assert steps(2.0**-20) == steps(1.0)
