"""Descent, duality gaps, invariants and residuals: each against what is known of a small problem exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_adapter.kernels.flow.bounds import Bound
from bridge_adapter.kernels.flow.certificates import CertificationProfile, block_findings, convex, gap, run_card
from bridge_adapter.kernels.flow.certificates.certify import certify
from bridge_adapter.kernels.flow.certificates.descent import Descent, check_block
from bridge_adapter.kernels.flow.certificates.duality import duality_gap, gap_by_curvature
from bridge_adapter.kernels.flow.certificates.invariants import Drift, drifts, freeze, largest_drift, phi_residual, physics_residuals
from bridge_adapter.kernels.flow.certified import run_certified
from bridge_adapter.kernels.flow.compiler import CompiledFlow, compile_flow
from bridge_adapter.kernels.flow.operators import Op
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.problem import Problem, State
from bridge_adapter.kernels.flow.solvers.base import Controls, Metrics, Solver, advance, begin
from bridge_adapter.kernels.flow.solvers.bregman import bregman
from bridge_adapter.kernels.flow.solvers.manpg import manpg
from bridge_adapter.kernels.flow.solvers.riemannian import riemannian_gradient
from bridge_adapter.kernels.flow.spec import FlowSpec, Invariant, Slot, Term

rng = np.random.default_rng(3)
A, B = rng.standard_normal((12, 8)), rng.standard_normal(12)


def run(compiled: CompiledFlow, *, iterations: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The state after at most so many steps, and the metrics of the steps."""
    with precision(compiled.spec.dtype):
        made = _steps(compiled.solver, compiled.problem, compiled.controls, compiled.start, iterations)
        last, count, trace = jax.tree.map(np.asarray, made)
    return last, dict(zip(Metrics._fields, trace[: int(count)].T, strict=True))


@partial(jax.jit, static_argnames=("solver", "iterations"))
def _steps(solver: Solver, problem: Problem, controls: Controls, start: State, iterations: int) -> tuple[State, jax.Array, jax.Array]:
    first = begin(solver, problem, controls, start)
    last, count, trace = advance(solver, problem, controls, first, jnp.int32(iterations), capacity=iterations)
    return last.state.x, count, trace


ENERGY = jax.jit(lambda problem, x: problem.f_value(x) + problem.g_value(x))


def lasso(weight: float = 0.5, *more: Term) -> FlowSpec:
    data = Term("quadratic", "x", op=Op("dense", matrix=A), target=B, group="data")
    return FlowSpec({"x": Slot(shape=(8,))}, [data, Term("l1", "x", weight=weight), *more])


def test_a_proximal_gradient_run_keeps_its_inequality_and_a_doctored_one_does_not() -> None:
    for solver in ("ista", "mfista", "fista"):
        compiled = compile_flow(lasso(), solver=solver, tol=0.0)
        trace: dict[str, Any] = run(compiled, iterations=200)[1]
        told = {"before": 0.5 * float(B @ B), "alpha": float(compiled.controls.alpha), "beta": compiled.report.beta, "size": 8}
        assert check_block(trace, solver, **told).passed
        risen = {name: np.resize(column, 60) for name, column in trace.items()}
        risen["energy"] = np.where(np.arange(60) >= 20, 1e3, 1.0)
        assert not check_block(risen, solver, **told).passed
        lost = trace | {"energy": np.where(np.arange(len(trace["energy"])) == 7, np.nan, trace["energy"])}
        found = check_block(lost, solver, **told)
        assert not found.passed and found.first == 7


@pytest.mark.parametrize("solver", [riemannian_gradient(), manpg(), bregman()], ids=lambda solver: solver.name)
@pytest.mark.parametrize("told", [True, False])
def test_a_solver_whose_energy_never_rises_is_held_to_it(solver: Solver, told: bool) -> None:
    energies = 1.0 + 0.1 * np.arange(10)
    trace = {"energy": energies, "residual": np.ones(10), "grad_norm": np.ones(10), "alpha": np.ones(10)}
    promise = solver.descent if told else None
    found = check_block(trace, solver.name, before=1.0, alpha=1.0, size=4, promise=promise)
    assert not found.passed and found.first == 1 and found.rule == "E+ <= E"
    assert check_block(trace | {"energy": energies[::-1]}, solver.name, before=2.0, alpha=1.0, size=4, promise=promise).passed


def test_energy_and_inertia_of_fista_never_rise_together_however_its_energy_swings() -> None:
    compiled = compile_flow(lasso(), solver="fista", tol=0.0)
    with precision("float64"):
        endless = replace(compiled.controls, restarts=jnp.asarray(False), patience=jnp.asarray(10**6))
    trace: dict[str, Any] = run(replace(compiled, controls=endless), iterations=400)[1]
    start = 0.5 * float(B @ B)
    told: dict[str, Any] = {"alpha": float(compiled.controls.alpha), "beta": compiled.report.beta, "size": 8, "convex": True}
    rises = np.diff(trace["energy"])
    assert (rises > 1e-9).sum() > 10
    found = check_block(trace, "fista", before=start, **told)
    assert found.passed and "||x+ - x||^2" in found.rule
    # The inequality looks at every step, also at the first of a block, which goes on with the speed of the one before.
    at = int(rises.argmax()) + 1
    cut = {name: column[at:] for name, column in trace.items()}
    before, speed = float(trace["energy"][at - 1]), float(trace["inertia"][at - 1])
    assert check_block(cut, "fista", before=before, inertia=speed, **told).passed
    assert check_block(cut, "fista", before=before, **told).first == 0
    risen = trace | {"energy": np.where(np.arange(400) == 300, trace["energy"] + 1e-6, trace["energy"])}
    assert check_block(risen, "fista", before=start, **told).first == 300
    # What the proof does not hold for is judged by windows of energies.
    for without in ({"convex": False}, {"alpha": 3 * told["alpha"]}, {"beta": None}):
        assert "window" in check_block(trace, "fista", before=start, **(told | without)).rule
    assert "window" in check_block(trace | {"inner_gap": np.full(400, 1e-9)}, "fista", before=start, **told).rule


def test_a_certified_run_of_fista_goes_on_while_its_energy_swings_after_it_has_converged() -> None:
    compiled = compile_flow(lasso(), solver="fista", tol=0.0)
    with precision("float64"):
        endless = replace(compiled.controls, tol=jnp.asarray(-1.0), patience=jnp.asarray(10**6), restarts=jnp.asarray(False))
    result = run_certified(compiled.spec, replace(compiled, controls=endless), cert_profile=convex(), iterations=1500, block=100)
    assert (result["phase"], result["iterations"]) == ("GREEN", 1500)
    assert set(result["controller"].values()) == {0}
    assert (np.diff(result["history"]["energy"]) > 1e-9).any()


def test_the_inequality_of_ista_asks_for_more_than_a_fall() -> None:
    # Of a step that moved by 1 with alpha = 1/beta = 1 the energy must fall by 1/2.
    trace = {"energy": [9.9], "residual": [1.0], "grad_norm": [0.5], "inner_gap": [0.0]}
    told: dict[str, Any] = {"before": 10.0, "alpha": 1.0, "beta": Bound(1.0, "exact", "known"), "size": 1}
    assert not check_block(trace, "ista", **told).passed
    assert check_block(trace | {"energy": [9.5]}, "ista", **told).passed
    assert check_block(trace, "mfista", **told).passed
    assert check_block(trace | {"inner_gap": [0.5]}, "ista", **told).passed
    assert check_block(trace | {"energy": [99.0]}, "langevin", promise="suspended", **told).rule.startswith("suspended")


def test_the_tolerance_of_a_fall_is_rounding_of_the_type_of_the_flow() -> None:
    trace = {"energy": [1.0 + 1e-6], "residual": [1e-9], "grad_norm": [1.0]}
    told: dict[str, Any] = {"before": 1.0, "alpha": 1.0, "size": 100}
    assert check_block(trace, "mfista", dtype="float32", **told).passed
    assert not check_block(trace, "mfista", dtype="float64", **told).passed


def test_windows_of_primal_dual_residuals_may_wave_but_not_climb() -> None:
    waves = 1 + 0.5 * np.sin(np.arange(200))
    told: dict[str, Any] = {"before": 0.0, "alpha": 1.0, "size": 4}
    energy = np.zeros(200)
    assert check_block({"energy": energy, "residual": waves}, "condat_vu", **told).passed
    climbing = check_block({"energy": energy, "residual": waves * 1.1 ** np.arange(200)}, "condat_vu", **told)
    assert not climbing.passed and climbing.first == 50
    assert not check_block({"energy": energy, "residual": waves * 1.02 ** np.arange(200)}, "condat_vu", **told).passed
    # After a restart the residuals are those of other steps; they may be larger, but must not climb either.
    jump = np.where(np.arange(200) < 70, 1.0, 50.0)
    trace = {"energy": energy, "residual": waves * jump}
    assert not check_block(trace, "condat_vu", **told).passed
    assert check_block(trace | {"restarts": (np.arange(200) >= 70).astype(float)}, "condat_vu", **told).passed


def test_the_duality_gap_of_the_lasso_is_that_of_the_rescaled_residual_and_bounds_the_error() -> None:
    compiled = compile_flow(lasso(), tol=1e-14)
    x_best, trace = run(compiled, iterations=20000)
    best = float(trace["energy"][-1])
    with precision("float64"):
        for _ in range(20):
            x = rng.standard_normal(8) * 10.0 ** rng.uniform(-3, 1)
            found = duality_gap(compiled.problem, {"x": jnp.asarray(x)})
            r = B - A @ x
            theta = r * min(1.0, 0.5 / np.abs(A.T @ r).max())
            energy = 0.5 * r @ r + 0.5 * np.abs(x).sum()
            assert found.gap == pytest.approx(energy - (0.5 * B @ B - 0.5 * (B - theta) @ (B - theta)), rel=1e-9)
            assert found.gap >= energy - best - 1e-12
        solved = duality_gap(compiled.problem, {"x": jnp.asarray(x_best["x"])})
    assert solved.gap <= 1e-8 and solved.relative <= solved.gap


def test_the_gap_of_other_energies_is_rigorous_and_small_at_the_minimum() -> None:
    blur = Term("quadratic", "x", op=Op("gaussian_blur", sigma=1.0), target=B[:9])
    specs = [
        lasso(0.1, Term("elastic_net", "x", weight=0.3, params={"ridge": 2.0})),
        lasso(0.1, Term("box", "x", params={"lower": -0.2, "upper": 0.3})),
        FlowSpec({"x": Slot(shape=(8,))}, [Term("quadratic", "x", op=Op("dense", matrix=A), target=B), Term("tikhonov", "x", weight=0.7)]),
        FlowSpec({"x": Slot(shape=(9,))}, [blur, Term("l1", "x", weight=0.1)]),
    ]
    for spec in specs:
        compiled = compile_flow(spec, tol=1e-14)
        x_best, trace = run(compiled, iterations=20000)
        best = float(trace["energy"][-1])
        with precision("float64"):
            problem = compiled.problem
            assert duality_gap(problem, {"x": jnp.asarray(x_best["x"])}).gap <= 1e-7
            for _ in range(3):
                x = {"x": jnp.asarray(np.clip(rng.standard_normal(compiled.start["x"].shape), -0.2, 0.3))}
                assert duality_gap(problem, x).gap >= float(ENERGY(problem, x)) - best
    with precision("float64"):
        boxed = compile_flow(specs[1]).problem
        outside = duality_gap(boxed, {"x": jnp.full(8, 0.4)})
    assert np.isinf(outside.gap) and "outside the set" in outside.reason


def test_where_there_is_no_gap_the_reason_is_told_and_curvature_gives_another_bound() -> None:
    plain = compile_flow(replace(lasso(), terms=lasso().terms[:1]), tol=1e-13)
    with precision("float64"):
        found = duality_gap(plain.problem, plain.start)
        assert np.isinf(found.gap) and "ridge" in found.reason
        slope = np.asarray(jax.jit(plain.problem.f_grad)(plain.start)["x"])
    best = 0.5 * np.linalg.norm(A @ np.linalg.lstsq(A, B)[0] - B) ** 2
    gamma = certify(plain).certificates["gamma"]
    assert gap_by_curvature(float(np.linalg.norm(slope)), gamma) >= 0.5 * B @ B - best
    assert np.isinf(gap_by_curvature(1.0, Bound(1.0, "estimate", "Lanczos"))) and gap.lowest(gamma) > 0


def test_drift_is_measured_from_the_start_of_the_run_and_a_broken_checker_has_lost_its_invariant() -> None:
    def mass(state: Mapping[str, Any]) -> Any:
        return np.asarray(state["x"]).sum()

    def broken(state: Mapping[str, Any]) -> float:
        raise KeyError("pressure")

    kept = (Invariant("mass", mass, relative=0.0, absolute=1e-6), Invariant("zero", mass, kind="constraint"), Invariant("odd", broken))
    spec = replace(lasso(), invariants=kept)
    start = {"x": jnp.full(8, 20.0)}
    references = freeze(spec, start)
    assert references["mass"] == 160.0 and np.isnan(references["odd"]) and set(references) == {"mass", "odd"}
    found = {one.name: one for one in drifts(spec, {"x": jnp.full(8, 107 / 8)}, references)}
    assert found["mass"].value == pytest.approx(53.0) and not found["mass"].passed
    assert found["zero"].value == pytest.approx(107.0)
    assert np.isinf(found["odd"].value) and "pressure" in found["odd"].error
    assert found["odd"].value == largest_drift(list(found.values())) and largest_drift([]) is None


def test_residuals_are_of_the_declared_physics_and_else_of_the_data() -> None:
    compiled = compile_flow(lasso(0.5, Term("quadratic", "x", op=Op("dense", matrix=A[:3]), group="physics", name="law")))
    with precision("float64"):
        x = {"x": jnp.asarray(rng.standard_normal(8))}
    (law,) = physics_residuals(compiled, x)
    assert law.name == "law" and law.norm == pytest.approx(np.linalg.norm(A[:3] @ np.asarray(x["x"])))
    data = compile_flow(lasso())
    assert phi_residual(data, x) == pytest.approx(np.linalg.norm(A @ np.asarray(x["x"]) - B) / np.linalg.norm(B))
    assert phi_residual(compile_flow(FlowSpec({"x": Slot(shape=(2,))}, [Term("tikhonov", "x")])), {"x": jnp.ones(2)}) is None


def test_the_run_card_says_of_each_check_whether_it_passed_and_is_json() -> None:
    compiled = compile_flow(lasso())
    profile = CertificationProfile(checks=("lyapunov", "spectral_gap", "invariant", "duality_gap"), eta_max=100.0)
    fell, drifted = Descent(True, "E+ <= E"), Drift("mass", float("inf"), 1e-9, "KeyError: x")
    with precision("float64"):
        gap_here = duality_gap(compiled.problem, compiled.start)
    wide = run_card(profile, certify(compiled, profile), descents=[fell], gap=gap_here)
    assert not wide["passed"] and "of the energy, above 1e-06" in wide["findings"][0]["reason"]
    near = replace(profile, tolerances={"duality_gap": gap_here.relative})
    good = run_card(near, certify(compiled, profile), descents=[fell], gap=gap_here)
    assert good["passed"] and set(good["checks"]) == set(profile.checks) and all(good["checks"].values())
    bad = run_card(profile, certify(compiled, profile), descents=[fell, Descent(False, "E+ <= E", 3, 1.0)], drifts=[drifted])
    assert json.loads(json.dumps(bad, allow_nan=False))["checks"] == {
        "spectral_gap": True,
        "invariant": False,
        "duality_gap": False,
        "lyapunov": False,
    }
    assert bad["descent"]["first"] == 3 and "KeyError" in bad["findings"][0]["reason"]
    physics = CertificationProfile(checks=("physics_residual",), tolerances={"physics_residual": 0.1})
    assert [one.check for one in block_findings(physics)] == ["physics_residual"]
    far = physics_residuals(compiled, {"x": jnp.full(8, 10.0)})
    assert "of its data" in block_findings(physics, residuals=far)[0].reason
