"""Every solver class against an exact solution, or against another class on the same energy; and the guarantees each one states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from bridge_adapter.kernels.flow.bounds import Bound
from bridge_adapter.kernels.flow.choosing import Own, choose
from bridge_adapter.kernels.flow.compiler import CompiledFlow, compile_flow
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.functions.base import Function
from bridge_adapter.kernels.flow.operators.arrays import Dense
from bridge_adapter.kernels.flow.operators.base import Op
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.problem import Problem, SmoothTerm
from bridge_adapter.kernels.flow.pytrees import node
from bridge_adapter.kernels.flow.running import advance_block
from bridge_adapter.kernels.flow.runs import run
from bridge_adapter.kernels.flow.sizes import ONE_PASS
from bridge_adapter.kernels.flow.solvers.base import squares
from bridge_adapter.kernels.flow.solvers.optax_flow import optax_flow
from bridge_adapter.kernels.flow.spec import Coupling, FlowSpec, Slot, Term
from bridge_adapter.kernels.flow.starting import begin_block

N, ROWS, WEIGHT = 20, 15, 0.5
RNG = np.random.default_rng(0)
MATRIX = RNG.standard_normal((ROWS, N))
DATA = RNG.standard_normal(ROWS)
SIGNAL = np.repeat([0.0, 3.0, -1.0, 2.0], 5) + 0.3 * RNG.standard_normal(N)
DIFFERENCES = np.diff(np.eye(N), axis=0)


def lasso() -> FlowSpec:
    terms = [Term("quadratic", "x", op=Op("dense", matrix=MATRIX), target=DATA), Term("l1", "x", weight=WEIGHT)]
    return FlowSpec(slots={"x": Slot(shape=(N,))}, terms=terms)


def variation() -> FlowSpec:
    terms = [Term("quadratic", "x", target=SIGNAL), Term("l1", "x", op=Op("dense", matrix=DIFFERENCES), weight=WEIGHT)]
    return FlowSpec(slots={"x": Slot(shape=(N,))}, terms=terms)


def minimised(spec: FlowSpec | CompiledFlow, solver: str | None = None, *, tol: float = 1e-11, iterations: int = 20_000) -> dict[str, Any]:
    compiled = spec if isinstance(spec, CompiledFlow) else compile_flow(spec, solver=solver, tol=tol)
    result = run(compiled, iterations=iterations)
    assert result["stopped"] == "converged"
    return result


def lasso_gap(x: NDArray[np.float64]) -> float:
    """The duality gap of the lasso, at the dual point that the residual gives: rigorous without knowing the solution."""
    residual = DATA - MATRIX @ x
    theta = residual * min(1.0, WEIGHT / np.abs(MATRIX.T @ residual).max())
    primal = 0.5 * residual @ residual + WEIGHT * np.abs(x).sum()
    return float(primal - 0.5 * DATA @ DATA + 0.5 * (DATA - theta) @ (DATA - theta))


def total_variation(y: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """The exact minimiser of 1/2||x - y||^2 + weight sum|x_{i+1} - x_i|, by its dual, a box-constrained least squares problem."""
    from scipy.optimize import lsq_linear

    dual = lsq_linear(DIFFERENCES.T, y, bounds=(-weight, weight), method="bvls", tol=1e-15).x
    return np.asarray(y - DIFFERENCES.T @ dual)


LASSO_SOLVERS = ("ista", "fista", "mfista", "condat_vu", "davis_yin", "preconditioned", "implicit")


@pytest.mark.parametrize(
    ("constraint", "nearest"),
    [
        (Term("simplex", "x"), [0.4, 0.4, 0.2]),
        (Term("l2_ball", "x", target=np.array([0.2, 3.2, 0.0]), params={"radius": 1.0}), [0.2, 2.2, 0.0]),
    ],
)
def test_a_start_outside_the_constraints_does_not_hold_up_a_solver_that_never_rises(constraint: Term, nearest: list[float]) -> None:
    # Without the constraint the energy of the start, 0, is below the minimum.
    spec = FlowSpec(slots={"x": Slot(shape=(3,))}, terms=[Term("quadratic", "x", target=np.array([0.2, 0.2, 0.0])), constraint])
    np.testing.assert_allclose(minimised(spec, "mfista")["state"]["x"], nearest, atol=1e-12)


def test_a_compiled_flow_does_not_change_with_the_arrays_that_it_was_made_of() -> None:
    room = np.ones(N + 16)  # JAX takes the memory of aligned arrays as it is
    first = -(room.ctypes.data // 8) % 8
    target, start, scale = room[first : first + N], np.zeros(N), np.ones(N)
    term = Term("weighted_ls", "x", target=target, op=Op("diagonal", entries=room[first : first + N]), params={"scale": scale})
    compiled = compile_flow(FlowSpec(slots={"x": Slot(value=start)}, terms=[term]))
    for mine in (target, start, scale):
        mine[:] = 7.0
    np.testing.assert_allclose(run(compiled)["state"]["x"], 1.0)


@pytest.mark.parametrize("solver", LASSO_SOLVERS)
def test_lasso_is_solved_to_a_gap_of_1e_10_by_every_class_that_can(solver: str) -> None:
    x = minimised(lasso(), solver)["state"]["x"]
    assert lasso_gap(x) <= 1e-10
    slope = MATRIX.T @ (DATA - MATRIX @ x)
    assert np.abs(slope).max() <= WEIGHT + 1e-8
    np.testing.assert_allclose(slope[np.abs(x) > 1e-8], WEIGHT * np.sign(x[np.abs(x) > 1e-8]), atol=1e-8)


def test_denoising_gives_the_soft_threshold_and_leaves_the_data_alone() -> None:
    data = SIGNAL.copy()
    spec = FlowSpec(
        slots={"x": Slot(value=SIGNAL.copy()), "y": Slot(value=data, role="data")},
        terms=[Term("quadratic", "x", target="y"), Term("l1", "x", weight=WEIGHT)],
    )
    result = minimised(spec)
    np.testing.assert_allclose(result["state"]["x"], np.sign(SIGNAL) * np.maximum(np.abs(SIGNAL) - WEIGHT, 0), atol=1e-12)
    assert list(result["state"]) == ["x"]
    np.testing.assert_array_equal(data, SIGNAL)


@pytest.mark.parametrize("solver", [None, "implicit"])
def test_ridge_regression_gives_the_solution_of_the_normal_equations(solver: str | None) -> None:
    spec = FlowSpec(
        slots={"x": Slot(shape=(N,))},
        terms=[Term("quadratic", "x", op=Op("dense", matrix=MATRIX), target=DATA), Term("tikhonov", "x", weight=0.3)],
    )
    exact = np.linalg.solve(MATRIX.T @ MATRIX + 0.3 * np.eye(N), MATRIX.T @ DATA)
    np.testing.assert_allclose(minimised(spec, solver)["state"]["x"], exact, atol=1e-9)


def test_fista_keeps_its_rate_and_mfista_never_rises() -> None:
    start = 10 * RNG.standard_normal(N)
    best = minimised(lasso())
    solution, least = best["state"]["x"], best["history"]["energy"][-1]
    compiled = compile_flow(FlowSpec({"x": Slot(value=start)}, lasso().terms), solver="fista", tol=0.0)
    energies = run(compiled, iterations=300)["history"]["energy"]
    beta = float(np.linalg.norm(MATRIX, 2) ** 2)
    assert compiled.report.beta.value == pytest.approx(beta)
    steps = np.arange(1, 301)
    first_restart = int(np.argmax(run(compiled, iterations=300)["history"]["restarts"] > 0)) or 300
    bound = 2 * beta * np.sum((start - solution) ** 2) / (steps + 1) ** 2
    assert (energies - least <= bound + 1e-12)[:first_restart].all()

    monotone = compile_flow(FlowSpec({"x": Slot(value=start)}, lasso().terms), solver="mfista", tol=0.0)
    assert (np.diff(run(monotone, iterations=300)["history"]["energy"]) <= 0).all()


def test_mfista_converges_beyond_what_the_rounding_of_the_energy_can_tell() -> None:
    rng = np.random.default_rng(11)
    matrix = rng.standard_normal((60, 20)) * np.geomspace(1, 0.05, 20)
    target = matrix @ rng.standard_normal(20) + rng.standard_normal(60)
    terms = [Term("quadratic", "x", op=Op("dense", matrix=matrix), target=target), Term("l1", "x", weight=0.3)]
    result = minimised(FlowSpec({"x": Slot(shape=(20,))}, terms), "mfista")
    assert result["residual"] <= 1e-11 and (np.diff(result["history"]["energy"]) <= 0).all()


def test_strongly_convex_momentum_converges_at_the_rate_of_the_root_of_the_condition() -> None:
    eigenvalues = np.geomspace(1e-3, 1.0, N)
    spec = FlowSpec(
        slots={"x": Slot(value=np.ones(N))},
        terms=[Term("tikhonov", "x", op=Op("diagonal", entries=np.sqrt(eigenvalues - 1e-3))), Term("tikhonov", "x", weight=1e-3)],
    )
    compiled = compile_flow(spec, tol=0.0)
    assert compiled.report.solver == "fista" and compiled.report.mu is not None
    assert compiled.report.mu.value == pytest.approx(1e-3)
    energies = run(compiled, iterations=400)["history"]["energy"]
    steps = np.arange(1, len(energies) + 1)
    assert (energies <= 2 * (1 - np.sqrt(1e-3)) ** steps * (energies[0] + 0.5e-3 * N) + 1e-15).all()


def test_total_variation_behind_an_operator_agrees_with_its_exact_dual() -> None:
    x = minimised(variation(), tol=1e-10)["state"]["x"]
    np.testing.assert_allclose(x, total_variation(SIGNAL, WEIGHT), atol=1e-8)


@pytest.mark.parametrize("solver", ["chambolle_pock", "chambolle_pock_accelerated"])
def test_primal_dual_steps_without_f_agree_with_admm_and_with_condat_vu_on_the_same_energy(solver: str) -> None:
    """Weight (|x| + x^2/2) as a prox, differences behind an operator."""
    shifted = Term("l1", "x", op=Op("dense", matrix=DIFFERENCES), weight=0.2)
    apart = Term("box", "x", op=Op("dense", matrix=np.eye(N) + np.eye(N, k=1)), params={"lower": 0.5})
    spec = FlowSpec({"x": Slot(shape=(N,))}, [Term("elastic_net", "x", weight=0.5), shifted, apart])
    x = minimised(spec, solver, tol=1e-10, iterations=60_000)["state"]["x"]
    split = FlowSpec(
        {"x": Slot(shape=(N,)), "d": Slot(shape=(N - 1,)), "s": Slot(shape=(N,))},
        [spec.terms[0], Term("l1", "d", weight=0.2), Term("box", "s", params={"lower": 0.5})],
        couplings=[
            Coupling({"x": Op("dense", matrix=DIFFERENCES), "d": -1.0}),
            Coupling({"x": Op("dense", matrix=np.eye(N) + np.eye(N, k=1)), "s": -1.0}),
        ],
    )
    np.testing.assert_allclose(minimised(split, "admm", tol=1e-10, iterations=60_000)["state"]["x"], x, atol=1e-7)


def test_primal_dual_steps_that_balance_themselves_arrive_sooner_within_the_condition_and_whatever_the_units() -> None:
    """An image, 1 and 1000 times as bright, started at 0: the steps divide the condition as the problem needs it."""
    image = np.kron(np.array([[0.0, 1.0], [0.6, 0.2]]), np.ones((8, 8))) + 0.1 * RNG.standard_normal((16, 16))

    def bright(unit: float) -> FlowSpec:
        terms = [Term("quadratic", "x", target=unit * image), Term("tv", "x", weight=0.15 * unit)]
        return FlowSpec({"x": Slot(shape=(16, 16))}, terms)

    compiled = compile_flow(bright(1.0), tol=1e-9)
    sigma = float(compiled.controls.sigma)
    held = compile_flow(bright(1.0), tol=1e-9, sigma=sigma)  # the same first steps, which are one's own and stay
    least = minimised(compiled)["energy"]
    sooner, later, scaled = (run(flow, iterations=800)["history"] for flow in (compiled, held, compile_flow(bright(1e3), tol=1e-12)))
    reached = [int(np.argmax(found["energy"] <= least * (1 + 1e-3))) for found in (sooner, later)]
    assert 0 < 3 * reached[0] < reached[1]
    assert set(later["alpha"]) == {float(held.controls.alpha)} and len(set(sooner["alpha"])) > 3
    np.testing.assert_allclose(scaled["alpha"][:200], sooner["alpha"][:200], rtol=1e-6)
    norm, beta = compiled.report.operator_norm, compiled.report.beta.value
    assert norm is not None
    with precision("float64"):
        state = compiled.begun()
        for _ in range(8):
            grown = float(state.state.balance.grown)
            state, _, _ = advance_block(compiled.solver, compiled.problem, compiled.controls, state, jnp.int32(1), capacity=10)
            assert 1 / float(state.state.metrics.alpha) - grown * sigma * norm.value >= beta / 2 * (1 - 1e-9)
            state, _, _ = advance_block(compiled.solver, compiled.problem, compiled.controls, state, jnp.int32(9), capacity=10)


def test_accelerated_primal_dual_steps_close_in_like_one_over_the_iteration() -> None:
    spec = FlowSpec(
        {"x": Slot(shape=(N,))}, [Term("elastic_net", "x"), Term("box", "x", op=Op("dense", matrix=MATRIX), params={"lower": 0.3})]
    )
    assert compile_flow(spec).report.solver == "chambolle_pock"
    solution = minimised(spec, tol=1e-10, iterations=60_000)["state"]["x"]
    accelerated = compile_flow(spec, solver="chambolle_pock_accelerated", tol=0.0)
    off = [float(np.linalg.norm(run(accelerated, iterations=count)["state"]["x"] - solution)) for count in (100, 1000)]
    assert off[1] <= off[0] / 8


def test_two_proxes_on_a_slot_meet_where_their_sum_is_least() -> None:
    """The nearest point to y in a box and, in another basis, in a second box, against the projection that its dual gives."""
    turn = np.linalg.qr(RNG.standard_normal((4, 4)))[0]
    y = 3 * RNG.standard_normal(4)
    spec = FlowSpec(
        {"x": Slot(shape=(4,))},
        [
            Term("quadratic", "x", target=y),
            Term("box", "x", params={"lower": -1.0, "upper": 1.0}),
            Term("box", "x", op=Op("dense", matrix=turn), params={"lower": -0.5, "upper": 0.5}),
        ],
    )
    x = minimised(spec, tol=1e-10)["state"]["x"]
    constraints = np.concatenate([np.eye(4), turn])
    size = np.concatenate([np.ones(4), np.full(4, 0.5)])
    both = np.concatenate([constraints, -constraints])
    # min 1/2||x - y||^2 with B x <= s has the dual min 1/2||B^T u - y||^2 + s^T u, u >= 0: non-negative least squares with a slope.
    dual = np.zeros(16)
    step = 1 / np.linalg.norm(both @ both.T, 2)
    for _ in range(20_000):
        dual = np.maximum(dual - step * (both @ (both.T @ dual - y) + np.concatenate([size, size])), 0)
    np.testing.assert_allclose(x, y - both.T @ dual, atol=1e-6)


def test_a_coupling_that_says_two_slots_are_equal_gives_the_sum_of_their_terms() -> None:
    spec = FlowSpec(
        {"x": Slot(shape=(N,)), "z": Slot(shape=(N,))},
        [Term("quadratic", "x", op=Op("dense", matrix=MATRIX), target=DATA), Term("l1", "z", weight=WEIGHT)],
        couplings=[Coupling({"x": 1.0, "z": -1.0})],
    )
    compiled = compile_flow(spec, tol=1e-9)
    assert compiled.report.solver == "admm"
    state: Mapping[str, NDArray[np.float64]] = minimised(compiled)["state"]
    assert lasso_gap(state["z"]) <= 1e-8
    np.testing.assert_allclose(state["x"], state["z"], atol=1e-8)


def test_backtracking_finds_a_step_from_any_start() -> None:
    compiled = compile_flow(lasso(), solver="mfista_bt", alpha=1e3, tol=1e-8)
    result = minimised(compiled)
    assert lasso_gap(result["state"]["x"]) <= 1e-6
    beta = float(np.linalg.norm(MATRIX, 2) ** 2)
    assert result["history"]["alpha"][-1] >= 0.5 / beta


def test_backtracking_keeps_its_step_where_f_is_lost_in_rounding() -> None:
    """Data far from 0 in single precision: f tells no two points apart, and the step must not shrink until nothing moves."""
    places = np.arange(60)
    blur = np.exp(-((places[:, None] - places) ** 2) / 8)
    blur = (blur / blur.sum(axis=1, keepdims=True)).astype(np.float32)
    data = (1000 + np.random.default_rng(0).standard_normal(60)).astype(np.float32)
    slots = {"x": Slot(value=data)}
    spec = FlowSpec(slots, [Term("quadratic", "x", op=Op("dense", matrix=blur), target=data)], dtype="float32")
    ends = {solver: run(compile_flow(spec, solver=solver, tol=1e-5), iterations=1000) for solver in ("ista", "ista_bt")}
    assert ends["ista_bt"]["history"]["alpha"][-1] >= 0.25 * ends["ista"]["report"].alpha
    assert ends["ista_bt"]["energy"] <= 1.01 * ends["ista"]["energy"]


def test_jacobi_scaling_makes_a_badly_scaled_problem_easy() -> None:
    scaled = MATRIX[:, :8] * np.geomspace(1, 30, 8)
    terms = [Term("quadratic", "x", op=Op("dense", matrix=scaled), target=DATA), Term("l1", "x", weight=0.01)]
    spec = FlowSpec({"x": Slot(shape=(8,))}, terms)
    steps = {
        solver: run(compile_flow(spec, solver=solver, tol=1e-3), iterations=4000)["iterations"] for solver in ("ista", "preconditioned")
    }
    assert steps["preconditioned"] * 5 < steps["ista"]


@pytest.mark.parametrize(
    ("solver", "factor"), [("ista", 2.0), ("fista", 1.1), ("mfista", 1.1), ("davis_yin", 2.0), ("condat_vu", 2.1), ("preconditioned", 2.1)]
)
def test_a_step_outside_the_condition_of_its_class_is_refused(solver: str, factor: float) -> None:
    spec = variation() if solver == "condat_vu" else lasso()
    longest = compile_flow(spec, solver=solver).report.alpha
    with pytest.raises(FlowInputError, match="converges for"):
        compile_flow(spec, solver=solver, alpha=factor * longest)
    assert compile_flow(spec, solver=solver, alpha=0.9 * longest).report.alpha == pytest.approx(0.9 * longest)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"alpha": "0.5"}, "alpha is '0.5'"),
        ({"alpha": [0.1, 0.2]}, "alpha is"),
        ({"alpha": True}, "alpha is True"),
        ({"solver": 3}, "solver is 3; give a name"),
        ({"damping": -0.1, "solver": "symplectic"}, "cannot be used"),
        ({"temperature": -0.1, "solver": "langevin"}, "temperature is -0.1; it must be a number of at least 0"),
        ({"temperature": 0.1}, "temperature is 0.1, and mfista has none; leave it out, or take a solver that has: langevin"),
        ({"sigma": 0.1, "solver": "ista"}, "sigma is 0.1, and ista has none; .* condat_vu, chambolle_pock, .*admm"),
        ({"sigma": 0.1, "solver": optax_flow("sgd", {"learning_rate": 0.1})}, "sigma is 0.1, and .* has none"),
        ({"alpha": -1.0, "solver": optax_flow("sgd", {"learning_rate": 0.1})}, "alpha is -1.0; it must be a number above 0"),
        ({"seed": -1}, "seed is -1; it must be a whole number from 0"),
        ({"seed": 2**32}, "seed is 4294967296; it must be"),
    ],
)
def test_what_is_no_step_and_no_solver_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(FlowInputError, match=told):
        compile_flow(lasso(), **options)


def test_a_step_that_the_type_of_the_flow_cannot_hold_is_refused() -> None:
    flat = FlowSpec({"x": Slot(shape=(N,))}, [Term("quadratic", "x", weight=1e-320)])
    with pytest.raises(FlowInputError, match=r"float64 cannot hold.*larger weights"):
        compile_flow(flat)


@pytest.mark.parametrize("block", [0, 10**12, 2.5, "a"])
def test_a_block_that_is_no_number_of_steps_is_refused(block: Any) -> None:
    with pytest.raises(FlowInputError, match=r"block is .* whole steps"):
        run(lasso(), block=block)


def test_plain_steps_descend_as_the_descent_inequality_says() -> None:
    """E+ <= E - (1/alpha - beta/2) ||x+ - x||^2 for a step within 2/beta."""
    beta = float(np.linalg.norm(MATRIX, 2) ** 2)
    compiled = compile_flow(lasso(), solver="ista", alpha=1.9 / beta, tol=0.0)
    history = run(compiled, iterations=50)["history"]
    moved = history["residual"] * np.maximum(1, history["grad_norm"]) * history["alpha"]
    fall = history["energy"][:-1] - history["energy"][1:]
    assert (fall >= (1 / 1.9 - 0.5) * beta * moved[1:] ** 2 - 1e-13).all()


def test_a_weight_and_a_step_change_without_compiling_again() -> None:
    compiled = [
        compile_flow(FlowSpec({"x": Slot(shape=(N,))}, [Term("quadratic", "x", target=SIGNAL), Term("l1", "x", weight=w)])) for w in (1, 2)
    ]
    run(compiled[0], iterations=5)
    before = advance_block._cache_size()
    run(compiled[1], iterations=5)
    assert advance_block._cache_size() == before


def test_float32_agrees_with_float64_to_its_own_precision() -> None:
    found = {}
    for dtype in ("float32", "float64"):
        spec = FlowSpec({"x": Slot(shape=(N,))}, lasso().terms, dtype=dtype)  # type: ignore[arg-type]
        compiled = compile_flow(spec, tol=1e-5)
        with precision(dtype):
            assert all(leaf.dtype == dtype for leaf in (compiled.controls.alpha, compiled.start["x"]))
        found[dtype] = run(compiled, iterations=2000)["state"]["x"]
        assert found[dtype].dtype == dtype
    np.testing.assert_allclose(found["float32"], found["float64"], atol=2e-4)
    assert jnp.asarray(found["float32"]).dtype == jnp.float32


@node
class Poisson(Function):
    """sum u - b log u, of u > 0."""

    counts: jax.Array

    smooth = True

    def value(self, u: jax.Array) -> jax.Array:
        return jnp.sum(u - self.counts * jnp.log(u))

    def curvature(self) -> tuple[Bound, Bound]:
        return Bound(0.0, "lower_bound", "convex"), Bound(float("inf"), "exact", "steep at 0")

    def relative_smoothness(self) -> Bound:
        return Bound(float(jnp.sum(self.counts)), "exact", "||b||_1")


def test_bregman_steps_minimise_poissons_energy_without_a_lipschitz_constant_and_never_rise() -> None:
    matrix = np.abs(RNG.standard_normal((12, 4))) + 0.1
    counts = matrix @ np.asarray([1.0, 0.2, 3.0, 0.7]) * 1.1
    with precision("float64"):
        op = Dense((4,), (12,), jnp.asarray(matrix))
        problem = Problem((SmoothTerm("poisson", ("x",), op, Poisson(jnp.asarray(counts))),), {}, {}, ())
        start = {"x": jnp.ones(4)}
        choice = choose(problem, start, np.dtype("float64"), asked="bregman", own=Own(), tol=1e-9)
        run_ = begin_block(choice.solver, choice.problem, choice.controls, start)[0]
        energies = [float(run_.state.metrics.energy)]
        for _ in range(40):
            run_, count, trace = advance_block(choice.solver, choice.problem, choice.controls, run_, jnp.int32(1000), capacity=1000)
            energies += np.asarray(trace)[: int(count), 0].tolist()
        assert (np.diff(energies) <= 1e-12 * np.abs(energies[0])).all()
        np.testing.assert_allclose(run_.state.x["x"], [1.1, 0.22, 3.3, 0.77], rtol=1e-4)
        with pytest.raises(FlowInputError, match="starts above 0"):
            choose(problem, {"x": jnp.zeros(4)}, np.dtype("float64"), asked="bregman", own=Own(), tol=1e-9)


@pytest.mark.parametrize("size", [5, ONE_PASS - 1, ONE_PASS])
def test_squares_are_those_of_small_arrays_and_of_large_ones(size: int) -> None:
    rng = np.random.default_rng(size)
    states = [{"x": rng.standard_normal(size), "y": rng.standard_normal((2, 3))} for _ in range(3)]
    expected = [sum(float(np.sum(part**2)) for part in state.values()) for state in states]
    with precision("float64"):
        found = squares(*(jax.tree.map(jnp.asarray, state) for state in states))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
