"""Where formulas meet their edges: numbers of very different size, flat directions, manifolds, and bounds that must hold anywhere."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import coo_array

from bridge_adapter.kernels.flow import FlowSpec, Op, Slot, Term, compile_flow, run_flow_step
from bridge_adapter.kernels.flow import functions as F
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.functions.variation import denoise_line
from bridge_adapter.kernels.flow.manifolds import build as manifold
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.primitives import dissipate, transform
from bridge_adapter.kernels.flow.runs import run
from bridge_adapter.kernels.flow.transforms import LensPolicy, choose_lens, transform_of

rng = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    with precision("float64"):
        yield


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_points_far_from_a_ball_or_a_simplex_are_projected_onto_it(dtype: str) -> None:
    """1e20 beside a total of 1 is lost in either type, and its square in float32."""
    with precision(dtype) as real:
        far, one = jnp.asarray([1e20, 0.0, -1e20, 1e20], real), jnp.ones((), real)
        assert_allclose(F.Simplex(one, False).project(far), [0.5, 0, 0, 0.5])
        assert_allclose(F.L1Ball(one).project(far), np.sign(far) / 3, rtol=1e-6)
        assert_allclose(F.L2Ball(one, 0 * one).project(far), np.sign(far) / np.sqrt(3), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_prox_of_the_logistic_loss_solves_its_equation_for_steps_of_any_length(dtype: str) -> None:
    with precision(dtype) as real:
        v = np.concatenate([-np.geomspace(1e6, 1e-3, 40), [0.0], np.geomspace(1e-3, 1e6, 40)]).astype(real)
        phi = F.Logistic(jnp.ones((), real), jnp.ones(v.size, real))
        prox = jax.jit(lambda tau: phi.prox(jnp.asarray(v), tau).point)
        for tau in np.geomspace(1e-6, 1e30, 37):
            m = np.asarray(prox(jnp.asarray(tau, real)), np.float64)
            pulled = tau / (1 + np.exp(np.minimum(m, 700)))
            sizes = np.abs(m) + np.abs(v) + pulled * (1 + np.abs(m))  # what its terms are known to
            assert np.max(np.abs(m - v - pulled) / sizes) < 4 * float(np.finfo(real).eps)


def test_a_line_far_from_0_is_denoised_in_float32_as_well_as_one_near_0() -> None:
    y = np.round(rng.standard_normal(2000) * 1024) / 1024  # exact in float32 with the offset too
    with precision("float32"):
        near, far = (np.asarray(jax.jit(denoise_line)(jnp.asarray(y + off, np.float32), jnp.float32(0.5))) for off in (0, 4096))
    assert_allclose(far - 4096, near, atol=1e-3)


def test_elements_that_a_weighted_square_leaves_out_cost_its_conjugate_nothing() -> None:
    phi = F.HalfSquare(*(jnp.asarray(value) for value in (2.0, [1.0, 5.0], [3.0, 0.0])))
    y = phi.gradient(jnp.asarray([4.0, 7.0]))
    assert_allclose(phi.conjugate(y), 4 * y[0] - phi.value(jnp.asarray([4.0, 7.0])))
    assert phi.conjugate(y.at[1].set(0.1)) == np.inf


def test_a_barrier_is_infinite_outside_its_domain() -> None:
    assert F.LogBarrier(jnp.ones(())).value(jnp.asarray([1.0, -2.0])) == np.inf


def test_a_scaled_step_of_a_loss_that_is_not_quadratic_is_safe_wherever_it_starts() -> None:
    """Far out, where these losses are flat, their Hessian says nothing of what comes."""
    matrix = 1 + 0.01 * rng.standard_normal((30, 20))
    labels = np.sign(rng.standard_normal(30))
    for kind, params in (("logistic", {}), ("huber", {"kappa": 0.5})):
        terms = [Term(kind, "x", op=Op("dense", matrix=matrix), target=labels, params=params)]
        spec = FlowSpec({"x": Slot(value=np.full(20, 5.0))}, terms)
        energies = run(compile_flow(spec, solver="preconditioned", tol=0.0), iterations=40)["history"]["energy"]
        assert np.all(np.diff(energies) <= 1e-12) and energies[-1] < energies[0]
    unknown = Term("function", "x", params={"of": lambda x: jnp.sum(x**4), "convex": True})
    with pytest.raises(FlowInputError, match="no Lipschitz constant"):
        compile_flow(FlowSpec({"x": Slot(value=np.ones(3))}, [unknown]), solver="preconditioned")


def test_a_gradient_step_stays_on_a_manifold() -> None:
    made = manifold("sphere", (3,), np.dtype("float64"))
    x, slope = jnp.asarray([0.0, 0.6, 0.8]), jnp.asarray([1.0, 2.0, 3.0])
    moved = dissipate({"x": x}, {"x": slope}, 0.1, manifolds={"x": made})["x"]
    expected = x - 0.1 * (slope - (slope @ x) * x)
    assert_allclose(moved, expected / np.linalg.norm(expected), rtol=1e-14)
    spec = FlowSpec({"x": Slot(value=np.asarray(x), manifold="sphere")}, [Term("quadratic", "x", target=np.asarray(x - slope))])
    assert_allclose(run_flow_step({"x": np.asarray(x)}, compile_flow(spec), 0.1)["x"], moved, rtol=1e-14)
    sparse = FlowSpec(spec.slots, [*spec.terms, Term("l1", "x")])
    with pytest.raises(FlowInputError, match="prox on a manifold"):
        run_flow_step({"x": np.asarray(x)}, compile_flow(sparse), 0.1)


def test_redundant_frames_change_coordinates_there_and_back() -> None:
    frame = transform_of(Op("undecimated", wavelet="starlet", levels=2), (9,), np.dtype("float64"))
    x = jnp.asarray(rng.standard_normal(9))
    u = transform(x, frame, "forward")
    assert u.shape == frame.codomain
    assert_allclose(transform(u, frame, "inverse"), x, atol=1e-14)


def test_a_lens_that_needs_every_term_is_not_taken_for_one_that_needs_a_single_one() -> None:
    policy = LensPolicy(candidates=(Op("dct"),), selection_rule="max_sparsity_at_target", target_error=1e-12)
    found = [choose_lens(policy, rng.standard_normal(64)).report["candidate_results"][0] for _ in range(5)]
    assert [one["terms_at_target_error"] for one in found] == [64] * 5


@pytest.mark.parametrize(
    ("term", "said"),
    [
        (Term("group_l1", "x", params={"groups": np.array([0, 1, 2**40])}), "number the groups from 0"),
        (Term("tikhonov", "x", op=Op("gaussian_blur", sigma=1.0, axes=2)), "axes must be from 1 to 1"),
    ],
)
def test_numbers_that_would_ask_for_more_than_there_is_are_refused(term: Term, said: str) -> None:
    with pytest.raises(FlowInputError, match=said):
        compile_flow(FlowSpec({"x": Slot(shape=(3,))}, [Term("quadratic", "x", target=np.ones(3)), term]))


def test_a_solver_is_refused_where_its_condition_cannot_hold() -> None:
    steep = Term("function", "x", params={"of": lambda x: jnp.sum(x**4), "convex": True})
    behind = Term("tv", "x", params={"boundary": "periodic"})
    with pytest.raises(FlowInputError, match=r"x_function_0 has no Lipschitz constant.*give it a beta"):
        compile_flow(FlowSpec({"x": Slot(value=np.full((4, 4), 2.0))}, [steep, behind]))
    for operator in (
        Op("dense", matrix=[[1.0, -0.1], [0.0, 1.0]]),
        Op("convolution", kernel=[1.0, -0.5]),
        Op("sparse", matrix=coo_array([[1.0, 0.0], [-1.0, 1.0]])),
    ):
        counts = Term("poisson", "x", op=operator, target=np.ones(2), params={"background": 1.0})
        with pytest.raises(FlowInputError, match="the operator of x_poisson_0 has negative entries"):
            compile_flow(FlowSpec({"x": Slot(value=np.ones(2))}, [counts]), solver="bregman")
    springs = [Term("quadratic", "q"), Term("quadratic", "p")]
    moving = FlowSpec({"q": Slot(value=np.ones(2)), "p": Slot(value=np.ones(2), role="momentum")}, springs, pairs=[("q", "p", 1.0)])
    with pytest.raises(FlowInputError, match="p_quadratic_1 is of a momentum"):
        compile_flow(moving, solver="symplectic")
