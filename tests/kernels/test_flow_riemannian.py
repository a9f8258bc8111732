"""Riemannian gradient steps find minima that are known in closed form, and the energy never rises on the way."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bridge_adapter.kernels.flow import manifolds
from bridge_adapter.kernels.flow.compiler import compile_flow
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.functions.base import Function
from bridge_adapter.kernels.flow.operators.arrays import Identity
from bridge_adapter.kernels.flow.operators.base import Op
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.problem import Problem, smooth_term
from bridge_adapter.kernels.flow.pytrees import node
from bridge_adapter.kernels.flow.runs import run
from bridge_adapter.kernels.flow.solvers.base import CONVERGED, Controls, advance, begin
from bridge_adapter.kernels.flow.solvers.riemannian import riemannian_gradient
from bridge_adapter.kernels.flow.spec import FlowSpec, Slot, Term


def test_the_sphere_leads_to_the_smallest_singular_vector_and_a_free_slot_moves_along() -> None:
    rng = np.random.default_rng(0)
    matrix, y = rng.standard_normal((9, 6)), rng.standard_normal(5)
    spec = FlowSpec(
        slots={"x": Slot(shape=(6,), manifold="sphere"), "z": Slot(shape=(5,)), "y": Slot(value=y, role="data")},
        terms=[
            Term("quadratic", "x", op=Op("dense", matrix=matrix)),
            Term("quadratic", "z", target="y"),
            Term("l1", "z", weight=0.3),
        ],
    )
    found = run(spec, iterations=2000, tol=1e-9)
    _, singular, rows = np.linalg.svd(matrix)
    assert found["stopped"] == "converged"
    assert_allclose(abs(found["state"]["x"] @ rows[-1]), 1.0, atol=1e-12)
    assert_allclose(found["state"]["z"], np.sign(y) * np.maximum(np.abs(y) - 0.3, 0), atol=1e-8)
    best = singular[-1] ** 2 / 2 + 0.5 * np.sum((found["state"]["z"] - y) ** 2) + 0.3 * np.sum(np.abs(found["state"]["z"]))
    energy = found["history"]["energy"]
    assert_allclose(energy[-1], best, rtol=1e-12)
    assert np.all(np.diff(energy) <= 1e-14 * np.abs(energy[:-1]))
    assert_array_equal(spec.slots["y"].value, y)


def test_rotations_solve_the_problem_of_kabsch() -> None:
    rng = np.random.default_rng(1)
    points = rng.standard_normal((3, 10))
    turned = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    turned *= np.sign(np.linalg.det(turned))
    seen = turned @ points + 0.05 * rng.standard_normal((3, 10))
    spec = FlowSpec(
        slots={"r": Slot(value=np.eye(3), manifold=("so", {"n": 3}))},
        terms=[Term("quadratic", "r", op=Op("dense", matrix=np.kron(np.eye(3), points.T)), target=seen.ravel())],
    )
    found = run(spec, iterations=500, tol=1e-8)
    left, _, right = np.linalg.svd(seen @ points.T)
    assert found["stopped"] == "converged"
    assert_allclose(found["state"]["r"], left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right, atol=1e-6)


@node
class LogDetDivergence(Function):
    """tr(S X^-1) + log det X, least at X = S."""

    sample: jax.Array
    smooth = True

    def value(self, u: jax.Array) -> jax.Array:
        return jnp.trace(jnp.linalg.solve(u, self.sample)) + jnp.linalg.slogdet(u)[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_definite_matrices_find_the_covariance_of_greatest_likelihood(dtype: str) -> None:
    with precision(dtype) as real:
        data = np.random.default_rng(2).standard_normal((3, 20)) * np.array([[5.0], [1.0], [0.2]])
        sample = data @ data.T / 20
        shape = (3, 3)
        term = smooth_term("likelihood", ("x",), Identity(shape, shape), LogDetDivergence(jnp.asarray(sample, real)))
        problem = Problem((term,), {}, {}, (), {"x": manifolds.build("spd", shape, real)})
        tol = 1e-3 if dtype == "float32" else 1e-7
        controls = Controls(*(jnp.asarray(number, real) for number in (1.0, 1.0, 1.0, 0.0, tol)))
        solver = riemannian_gradient()

        @jax.jit
        def whole(x: dict[str, jax.Array]) -> Any:
            return advance(solver, problem, controls, begin(solver, problem, controls, x), jnp.int32(200), capacity=200)

        ended, count, trace = whole({"x": np.eye(3, dtype=real)})
        assert int(ended.status) == CONVERGED
        assert_allclose(ended.state.x["x"], sample, rtol=2e-3 if dtype == "float32" else 1e-6)
        assert ended.state.x["x"].dtype == trace.dtype == real
        assert int(count) < 60, "the affine-invariant metric makes the conditioning of the sample irrelevant"


def test_a_start_off_the_manifold_and_a_term_without_gradient_are_refused() -> None:
    sphere = {"x": Slot(value=np.ones(3), manifold="sphere")}
    with pytest.raises(FlowInputError, match=r"the slot 'x' starts 7\.3e-01 off its manifold sphere"):
        compile_flow(FlowSpec(slots=sphere, terms=[Term("quadratic", "x")]))
    sphere = {"x": Slot(shape=(3,), manifold="sphere")}
    with pytest.raises(FlowInputError, match="the solver fista cannot be used: x lives on a manifold"):
        compile_flow(FlowSpec(slots=sphere, terms=[Term("quadratic", "x")]), solver="fista")
    definite = {"x": Slot(shape=(3, 3), manifold="spd")}
    with pytest.raises(FlowInputError, match="the term x_l1_0 is not smooth and its slot 'x' lives on spd"):
        compile_flow(FlowSpec(slots=definite, terms=[Term("l1", "x")]))


def soft(v: np.ndarray, threshold: float) -> np.ndarray:
    return np.asarray(np.sign(v) * np.maximum(np.abs(v) - threshold, 0))


def test_sparse_points_of_spheres_are_thresholded_and_normalised() -> None:
    """On a sphere ||x - b||^2 / 2 + t ||x||_1 is least at S_t(b) / ||S_t(b)||."""
    b = np.random.default_rng(3).standard_normal((2, 7))
    spec = FlowSpec(
        slots={"x": Slot(shape=(2, 7), manifold=("sphere", {"radius": 2.0})), "z": Slot(shape=(3,))},
        terms=[Term("quadratic", "x", target=b), Term("l1", "x", weight=0.5), Term("quadratic", "z", target=np.ones(3)), Term("l1", "z")],
    )
    compiled = compile_flow(spec, tol=1e-9)
    assert compiled.solver.name == "manpg" and "x on sphere: proximal gradient steps" in compiled.report.reason
    found = run(compiled, iterations=500)
    thresholded = soft(b, 0.5)
    assert found["stopped"] == "converged"
    assert_allclose(found["state"]["x"], 2 * thresholded / np.linalg.norm(thresholded, axis=1, keepdims=True), atol=1e-8)
    assert_allclose(found["state"]["z"], 0, atol=1e-12)


def test_sparse_frames_with_separate_supports_are_found_column_by_column() -> None:
    """Where the thresholded columns have no row in common they are orthogonal already, so each solves its own problem."""
    rng = np.random.default_rng(4)
    b = 0.1 * rng.standard_normal((8, 2))
    b[:4, 0] += 2 + rng.random(4)
    b[4:, 1] -= 2 + rng.random(4)
    start = np.linalg.qr(b + 0.5 * rng.standard_normal((8, 2)))[0]
    start *= np.sign(np.sum(start * b, axis=0))
    spec = FlowSpec(
        slots={"x": Slot(value=start, manifold=("stiefel", {"n": 8, "k": 2}))},
        terms=[Term("quadratic", "x", target=b), Term("l1", "x", weight=0.6)],
    )
    found = run(spec, iterations=500, tol=1e-9)
    thresholded = soft(b, 0.6)
    assert found["stopped"] == "converged"
    assert_allclose(found["state"]["x"], thresholded / np.linalg.norm(thresholded, axis=0), atol=1e-7)
    energy = found["history"]["energy"]
    assert np.all(np.diff(energy) <= 1e-14 * np.abs(energy[:-1]))


def test_sparse_principal_components_are_stationary_and_sparse() -> None:
    rng = np.random.default_rng(5)
    data = rng.standard_normal((30, 10)) @ np.diag(np.linspace(2, 0.3, 10))
    gram = data.T @ data / 30
    complement = np.linalg.cholesky(np.linalg.norm(gram, 2) * 1.01 * np.eye(10) - gram).T  # the least of this is the most of that
    spec = FlowSpec(
        slots={"x": Slot(value=np.linalg.eigh(gram)[1][:, -3:], manifold="stiefel")},
        terms=[Term("quadratic", "x", op=Op("dense", matrix=np.kron(complement, np.eye(3)))), Term("l1", "x", weight=0.4)],
    )
    found = run(spec, iterations=3000, tol=1e-7)
    x = found["state"]["x"]
    assert found["stopped"] in ("converged", "stagnated") and found["history"]["residual"][-1] < 1e-6
    assert_allclose(x.T @ x, np.eye(3), atol=1e-10)
    assert np.mean(np.abs(x) < 1e-8) > 0.5

    def energy(at: np.ndarray) -> float:
        return float(0.5 * np.sum((complement @ at) ** 2) + 0.4 * np.sum(np.abs(at)))

    for size in (1e-3, 1e-2):
        for _ in range(20):
            assert energy(np.linalg.qr(x + size * rng.standard_normal((10, 3)))[0]) > energy(x) - 1e-9
