"""The tuner, policies and schedules: limits of moves, criteria against their formulas, and that scales unlock once and never raise E."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_adapter.kernels.flow.certificates import CertificationProfile, certify, convex
from bridge_adapter.kernels.flow.compiler import CompiledFlow, compile_flow
from bridge_adapter.kernels.flow.controller import (
    FlowPolicy,
    GapDial,
    Move,
    MultiscaleSchedule,
    Reading,
    SparsityPolicy,
    TunerState,
    advanced,
    begin,
    committed,
    continuation,
    evaluate,
    lambdas_of,
    objective,
    per_scale,
    propose,
    restricted_to,
    seeded,
    suggested,
    tried,
    weights,
)
from bridge_adapter.kernels.flow.controller.dial import within_ratios
from bridge_adapter.kernels.flow.controller.tuner import turned
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.functions.squares import HalfSquare
from bridge_adapter.kernels.flow.operators import Op
from bridge_adapter.kernels.flow.operators.arrays import Dense
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.problem import Problem, SmoothTerm
from bridge_adapter.kernels.flow.pytrees import node
from bridge_adapter.kernels.flow.running import advance_block
from bridge_adapter.kernels.flow.spec import FlowSpec, Slot, Term
from bridge_adapter.kernels.flow.transforms import TransformOp
from bridge_adapter.kernels.flow.tuning import Tuning

rng = np.random.default_rng(9)
A = rng.standard_normal((40, 16))
TRUTH = np.where(np.arange(16) < 3, 2.0, 0.0)
SIGMA = 0.3
B = A @ TRUTH + SIGMA * rng.standard_normal(40)


def flow(weight: float = 4.0, ridge: float = 0.1) -> CompiledFlow:
    data = Term("quadratic", "x", op=Op("dense", matrix=A), target=B)
    terms = [data, Term("l1", "x", weight=weight), Term("tikhonov", "x", weight=ridge)]
    return compile_flow(FlowSpec({"x": Slot(shape=(16,))}, terms))


ENERGIES = jax.jit(lambda problem, x: (problem.f_value(x), problem.g_value(x)))


def test_knobs_turn_what_they_name_and_a_committed_move_is_a_flow_with_those_weights() -> None:
    compiled = flow()
    assert weights(compiled) == {"lambda": 4.0, "lambda2": 0.1, "alpha": float(compiled.controls.alpha)}
    moved = committed(compiled, Move({"lambda": 0.5, "lambda2": 3.0, "alpha": 0.9}))
    other = flow(2.0, 0.3)
    with precision("float64"):
        x = {"x": jnp.asarray(rng.standard_normal(16))}
        for one, two in zip(ENERGIES(moved.problem, x), ENERGIES(other.problem, x), strict=True):
            assert float(one) == pytest.approx(float(two))
    assert moved.report.beta.value == pytest.approx(other.report.beta.value)
    assert weights(moved)["alpha"] == pytest.approx(0.9 * weights(other)["alpha"]) == pytest.approx(moved.report.alpha)
    fixed = committed(compiled, Move({"lambda2": 300.0}), "fixed")
    assert weights(fixed)["alpha"] == weights(compiled)["alpha"]
    assert [finding.check for finding in certify(fixed, convex()).findings] == ["alpha"]  # too long for the ridge
    assert certify(moved).value("gamma") == pytest.approx(certify(other).value("gamma") or 0.0)


def test_candidates_are_judged_after_the_same_short_run_that_they_would_make_alone() -> None:
    compiled = flow()
    dial = GapDial(criterion="discrepancy", sigma=SIGMA, validation_iterations=10)
    moves = propose(dial, TunerState(), weights(compiled))
    found = evaluate(compiled, dial, compiled.start, moves)
    assert len(found) == 4 and all(one.descended for one in found)
    assert [one.objective for one in found] == sorted(one.objective for one in found)
    for one in found[1:2]:
        changed = committed(compiled, one.move)
        with precision("float64"):
            first = changed.begun()
            last, _, _ = advance_block(changed.solver, changed.problem, changed.controls, first, jnp.int32(10), capacity=10)
            alone = np.asarray(last.state.x["x"])
        np.testing.assert_allclose(one.state["x"], alone, rtol=1e-10)
        misfit = A @ alone - B
        assert one.objective == pytest.approx(abs(misfit @ misfit / (40 * SIGMA**2) - 1))
    hasty = evaluate(compiled, dial, compiled.start, [Move({"alpha": 40.0})])
    assert not hasty[0].descended or hasty[0].energy > found[0].energy


def test_the_criteria_are_their_formulas() -> None:
    compiled = flow()
    with precision("float64"):
        x = {"x": jnp.asarray(TRUTH)}
        square = float(np.sum((A @ TRUTH - B) ** 2))
        variance = SIGMA**2
        assert objective(compiled.problem, GapDial(criterion="gcv"), x) == pytest.approx(40 * square / 37**2)
        assert objective(compiled.problem, GapDial(criterion="sure", sigma=SIGMA), x) == pytest.approx(
            square - 40 * variance + 6 * variance
        )
        assert objective(compiled.problem, GapDial(criterion=lambda state: float(np.sum(state["x"]))), x) == 6.0


def test_the_weights_of_scales_are_seeded_by_what_the_prox_sees_and_the_weight_of_groups_is_turned_too() -> None:
    noisy = rng.standard_normal(64) + 6 * np.sin(np.arange(64) / 10)
    terms = [Term("quadratic", "x", target=noisy), Term("wavelet_l1", "x", weight=0.5, params={"levels": 3})]
    compiled = compile_flow(FlowSpec({"x": Slot(shape=(64,))}, terms))
    dial = GapDial(criterion="discrepancy", sigma=1.0, per_scale_seed="median", validation_iterations=5)
    move = seeded(compiled, dial, compiled.start)
    assert move is not None and move.reanchors and move.scales["x"][1] == pytest.approx(1.0)  # the finest keeps its own
    made = lambdas_of(committed(compiled, move).problem)["x"]
    with precision("float64"):
        transform = compiled.problem.prox["x"].op
        assert isinstance(transform, TransformOp)
        bands = jax.jit(lambda x: transform.parts(transform.matvec(x)))(noisy)
        parts = {band.level: np.asarray(part) for band, part in zip(transform.bands, bands, strict=True)}
    medians = [0.5 / np.median(np.abs(parts[1])) * np.median(np.abs(parts[level])) for level in (3, 2, 1)]
    np.testing.assert_allclose([made[level] for level in (3, 2, 1)], within_ratios(np.array(medians), dial.ratios))
    (found,) = evaluate(compiled, dial, compiled.start, [move])
    assert found.descended and found.move.record()["lambda_j"]["x"]["1"] == pytest.approx(1.0)
    assert seeded(flow(), dial, flow().start) is None  # no wavelet term

    grouped = Term("group_l1", "x", weight=2.0, target=np.ones(16), params={"groups": np.arange(16) // 4})
    groups = compile_flow(FlowSpec({"x": Slot(shape=(16,))}, [Term("quadratic", "x", target=B[:16]), grouped]))
    assert weights(groups)["lambda"] == 2.0 and weights(committed(groups, Move({"lambda": 3.0})))["lambda"] == 6.0


def test_a_dial_waits_for_its_warm_up_keeps_its_distance_and_has_a_gate_of_its_own() -> None:
    compiled = flow(8.0)
    for gate, holds in ((None, True), (1e3, False)):
        dial = GapDial(sigma=SIGMA, warmup_iterations=20, monitoring_interval=7, gamma_min=gate)
        tuning = Tuning(dial)
        assert [tuning.due(iteration) for iteration in (0, 19, 20, 21)] == [False, False, True, True]
        assert tuning.proposed(compiled, compiled.start, 21) is not None
        assert [tuning.due(iteration) for iteration in (21, 27, 28)] == [False, False, True]
        told, good = tuning.judged(CertificationProfile(eta_max=100.0), 0.0)
        assert (good, told.verdict.feasible, tuning.state.failures) == (holds, holds, 0 if holds else 1)
        assert told.descended and told.better


def test_a_sparsity_policy_changes_the_wavelet_terms_and_brings_the_dial_of_its_rule() -> None:
    tuned = SparsityPolicy(adaptive_rule="residual_adaptive", sparsity_mode="tree", sigma=SIGMA)
    made = tuned.applied(FlowSpec({"x": Slot(shape=(16,))}, [Term("quadratic", "x", target=B[:16]), Term("wavelet_l1", "x")]))
    assert [term.params for term in made.terms] == [{}, {"sparsity": "tree"}]
    dial = tuned.dial()
    assert dial is not None and (dial.criterion, dial.sigma) == ("discrepancy", SIGMA) and SparsityPolicy().dial() is None


def test_sure_follows_the_risk_of_soft_thresholding() -> None:
    noisy = np.where(np.arange(400) < 40, 5.0, 0.0) + rng.standard_normal(400)
    clean = np.where(np.arange(400) < 40, 5.0, 0.0)
    dial = GapDial(criterion="sure", sigma=1.0)
    found = []
    for weight in (0.2, 1.0, 2.0, 6.0):
        compiled = compile_flow(FlowSpec({"x": Slot(shape=(400,))}, [Term("quadratic", "x", target=noisy), Term("l1", "x", weight=weight)]))
        with precision("float64"):
            x = np.sign(noisy) * np.maximum(np.abs(noisy) - weight, 0)
            found.append((objective(compiled.problem, dial, {"x": jnp.asarray(x)}), float(np.sum((x - clean) ** 2))))
    told, true = np.array(found).T
    assert np.argmin(told) == np.argmin(true) and np.all(np.abs(told - true) < 120)


def test_the_dial_tunes_a_wrong_weight_towards_the_noise_level() -> None:
    compiled, state = flow(60.0), TunerState(width=0.1)
    dial = GapDial(criterion="discrepancy", sigma=SIGMA, validation_iterations=40)
    start, best = compiled.start, np.inf
    for _ in range(12):
        found = evaluate(compiled, dial, start, propose(dial, state, weights(compiled)))
        better = found[0] if found and found[0].descended and found[0].objective < best else None
        state = tried(dial, state, better.move if better else None, better.objective if better else None)
        if better is not None:
            compiled, start, best = committed(compiled, better.move), better.state, better.objective
    assert weights(compiled)["lambda"] < 60.0 * 0.8**6 and state.values["lambda"] == pytest.approx(weights(compiled)["lambda"] / 60.0)


@given(st.floats(1e-7, 1e4), st.floats(0.01, 0.9), st.sampled_from(["grid", "golden"]))
def test_moves_stay_within_the_cap_and_the_limits(present: float, width: float, search: Any) -> None:
    dial = GapDial(search=search, criterion="gcv")
    for move in propose(dial, TunerState(width=width), {"lambda": present}):
        value = present * move.factors["lambda"]
        assert dial.lambda_min * (1 - 1e-12) <= value <= dial.lambda_max * (1 + 1e-12)
        inside = dial.lambda_min <= present <= dial.lambda_max
        assert not inside or abs(move.factors["lambda"] - 1) <= dial.lambda_move_cap + 1e-12
        assert move.reanchors


def test_a_dial_that_finds_nothing_better_stops() -> None:
    dial, state = GapDial(criterion="gcv"), TunerState()
    for _ in range(dial.no_improve):
        assert propose(dial, state, {"lambda": 1.0})
        state = tried(dial, state, None, None)
    assert not propose(dial, state, {"lambda": 1.0})


@settings(max_examples=50)
@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=8))
def test_weights_of_neighbouring_scales_stay_within_their_ratios(values: list[float]) -> None:
    made = within_ratios(np.array(values), (0.5, 2.0))
    assert np.all(made[:-1] / made[1:] <= 2 * (1 + 1e-12)) and np.all(made[:-1] / made[1:] >= 0.5 * (1 - 1e-12))
    np.testing.assert_allclose(within_ratios(made, (0.5, 2.0)), made)


def test_seeds_of_scales_continuation_and_suggestions() -> None:
    bands = [np.array([3.0, -3.0, 3.0]), 2.0 * np.ones((2, 2))]
    np.testing.assert_allclose(per_scale(GapDial(criterion="gcv", per_scale_seed="median"), bands, 2.0), [6.0, 4.0])
    np.testing.assert_allclose(per_scale(GapDial(criterion="gcv", per_scale_seed="mad"), bands), [3 * 1.4826, 2 * 1.4826])
    steps = continuation(16.0, 0.5)
    assert steps == [4.0, 1.0, 0.5] and continuation(1.0, 2.0) == [2.0]
    rows = [
        {"run_id": "a", "final_phase": "GREEN", "objective": 2.0, "time_ms": 1.0, "alpha": 0.3},
        {"run_id": "b", "final_phase": "GREEN", "objective": 1.0, "time_ms": 9.0, "alpha": 0.4, "ridge": 0.1},
        {"run_id": "c", "final_phase": "GREEN", "objective": 1.0, "time_ms": 5.0, "alpha": 0.5},
        {"run_id": "d", "final_phase": "AMBER", "objective": 0.0, "time_ms": 1.0, "alpha": 0.9},
    ]
    assert (suggested(rows).run_id, suggested(rows).alpha) == ("c", 0.5)
    assert suggested(rows[3:]).run_id is None and suggested([]).alpha == 0.1


def test_dials_and_policies_refuse_what_makes_no_sense_and_say_what_does() -> None:
    cases: list[tuple[Any, str]] = [
        (GapDial, "needs sigma"),
        (lambda: GapDial(criterion="gcv", knobs=("volume",)), "lambda, lambda2, alpha"),
        (lambda: GapDial(criterion="gcv", proposal=0.5), "proposal <= cap"),
        (lambda: GapDial(criterion="gcv", per_scale_seed="mode"), "median, mad"),  # type: ignore[arg-type]
        (lambda: GapDial(criterion="gcv", step_rule="1/L"), "c/beta, fixed"),  # type: ignore[arg-type]
        (lambda: SparsityPolicy(adaptive_rule="residual_adaptive"), "give the standard deviation"),
        (lambda: SparsityPolicy().applied(FlowSpec({"x": Slot(shape=(4,))}, [Term("tikhonov", "x")])), "has none; add one"),
        (lambda: SparsityPolicy(sparsity_mode="tree").applied(flow().spec), "use the atom group_l1"),
        (lambda: FlowPolicy(family="preconditioned"), "give one of jacobi"),
        (lambda: FlowPolicy(family="accelerated", preconditioner="jacobi"), "takes no preconditioner"),
        (lambda: FlowPolicy(family="accelerated", discretization="implicit"), "explicit steps only"),
        (lambda: FlowPolicy(family="swift"), "basic, preconditioned"),  # type: ignore[arg-type]
        (lambda: FlowPolicy().applied("fista"), "stands for ista"),
        (lambda: SparsityPolicy(sparsity_mode="l0"), "l1, group_l1, tree"),  # type: ignore[arg-type]
        (lambda: MultiscaleSchedule(0), "1 to 20"),
        (lambda: MultiscaleSchedule(3, activate_rule="iteration%2==0"), "level_complete"),
        (lambda: MultiscaleSchedule(3, activate_rule="iteration > 1.2.3"), "no number"),
        (lambda: MultiscaleSchedule(3, mode="energy_driven", activate_rule="iteration > 3"), "energy_decrease or gap"),
    ]
    for made, message in cases:
        with pytest.raises(FlowInputError, match=message):
            made()
    assert FlowPolicy("preconditioned", preconditioner="jacobi").solver == "preconditioned"
    assert FlowPolicy("accelerated").applied("mfista_bt")["family"] == "accelerated"


@settings(max_examples=60)
@given(
    st.integers(1, 6),
    st.sampled_from(
        [
            ("fixed_schedule", "level_iters >= 10"),
            ("residual_driven", "rel_residual<1e-2"),
            ("energy_driven", "energy_decrease < 0.01"),
            ("fixed_schedule", "level_complete"),
        ]
    ),
    st.lists(st.tuples(st.integers(1, 9), st.floats(1e-6, 1), st.floats(-1, 1), st.booleans()), max_size=60),
)
def test_every_level_is_unlocked_once_and_in_order(levels: int, how: Any, blocks: list[tuple[int, float, float, bool]]) -> None:
    schedule = MultiscaleSchedule(levels, mode=how[0], activate_rule=how[1])
    state, events = begin(schedule)
    iteration = 0
    for steps, residual, decrease, stopped in [*blocks, *[(1, 1.0, 1.0, True)] * levels]:
        iteration += steps
        state, more = advanced(schedule, state, Reading(iteration, residual, decrease), stopped=stopped)
        assert len(more) <= 1
        events += more
    assert state.complete(schedule)
    assert [told["level"] for name, told in events if name == "SCALE_ACTIVATED"] == list(range(1, levels + 1))
    assert events[0][0] == "MULTISCALE_SCHEDULE_INIT"


@node
class Turn(Dense):
    """An orthogonal matrix."""

    def orthonormal(self) -> bool:
        return True


@jax.jit
def settled(problem: Problem, x: jax.Array, alpha: jax.Array) -> jax.Array:
    def one(_: int, at: jax.Array) -> jax.Array:
        return problem.prox["x"].prox(at - alpha * problem.f_grad({"x": at})["x"], alpha, ()).point

    return jax.lax.fori_loop(0, 3000, one, x)


def test_unlocking_scales_never_raises_the_energy_and_ends_at_the_unrestricted_minimum() -> None:
    basis = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    with precision("float64"):
        scales = Turn((16,), (16,), jnp.asarray(basis))
        data = SmoothTerm(
            "data", ("x",), Dense((16,), (40,), jnp.asarray(A)), HalfSquare(jnp.asarray(1.0), jnp.asarray(B), jnp.asarray(1.0))
        )
        problem = Problem((data,), {}, {}, ())
        x, energies = jnp.zeros(16), []
        alpha = jnp.asarray(1 / np.linalg.norm(A, 2) ** 2)
        for kept in (4, 8, 16):
            held = restricted_to(problem, "x", scales, np.arange(16) < kept)
            x = settled(held, x, alpha)
            energies.append(float(ENERGIES(held, {"x": x})[0]))
            within = basis[:kept].T @ np.linalg.lstsq(A @ basis[:kept].T, B)[0]
            np.testing.assert_allclose(x, within, atol=1e-6)
        assert energies == sorted(energies, reverse=True)
        with pytest.raises(FlowInputError, match="orthonormal transform with a mask"):
            restricted_to(problem, "x", data.op, np.ones(16, bool))
        other = turned(flow().problem, (), {})
        with pytest.raises(FlowInputError, match="is in another basis than the schedule; use wavelet_l1"):
            restricted_to(other, "x", scales, np.ones(16, bool))
        grouped = Term("wavelet_l1", "x", params={"wavelet": "haar", "levels": 2, "sparsity": "group_l1"})
        made = compile_flow(
            FlowSpec({"x": Slot(shape=(16,)), "y": Slot(value=B[:16], role="data")}, [Term("quadratic", "x", target="y"), grouped])
        ).problem
        with pytest.raises(FlowInputError, match="is no sum over single coefficients; use wavelet_l1"):
            restricted_to(made, "x", made.prox["x"].op, np.ones(16, bool))


def test_a_move_of_a_ridge_moves_the_limit_of_the_step_with_it() -> None:
    ridged = [Term("quadratic", "x", target=np.arange(6.0)), Term("tikhonov", "x", weight=0.3)]
    lowered = committed(compile_flow(FlowSpec({"x": Slot(shape=(6,))}, ridged)), Move({"lambda2": 0.8}))
    assert lowered.report.alpha_limit == pytest.approx(1 / 1.24) and certify(lowered).phase == "GREEN"
    behind = FlowSpec({"x": Slot(shape=(6,))}, [*ridged, Term("l1", "x", op=Op("gradient"), weight=0.1)])
    compiled = compile_flow(behind, solver="condat_vu")
    raised = Move({"lambda2": 10.0})
    assert certify(committed(compiled, raised)).phase == "GREEN"
    assert [finding.check for finding in certify(committed(compiled, raised, "fixed")).findings] == ["alpha"]
