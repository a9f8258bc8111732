"""Functions phi: proxes are firmly nonexpansive and reach the minimum, gradients are those of the values, conjugates are suprema."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import minimize

from bridge_adapter.kernels.flow import functions as F
from bridge_adapter.kernels.flow.functions.trees import Place
from bridge_adapter.kernels.flow.functions.variation import denoise_line
from bridge_adapter.kernels.flow.operators.base import Op, build
from bridge_adapter.kernels.flow.precision import precision

rng = np.random.default_rng(7)
INF = np.inf
# Two coefficients of an approximation, their two details, and three of the level below: the last has a parent of its own.
CHAIN = ((Place(4, 3, (3,)), Place(2, 2, (2,))),)


@pytest.fixture(autouse=True)
def _double():  # type: ignore[no-untyped-def]
    with precision("float64"):
        yield


class Case(NamedTuple):
    """A function of arrays of a shape."""

    phi: F.Function
    shape: tuple[int, ...]


def a(*values: object) -> list[jax.Array]:
    return [jnp.asarray(value, np.float64) for value in values]


def separable(threshold=0.0, ridge=0.0, lower=-INF, upper=INF) -> F.Separable:  # type: ignore[no-untyped-def]
    return F.Separable(*a(threshold, ridge, lower, upper))


def build_cases() -> dict[str, Case]:
    one, two, half = a(1.0, 2.0, 0.5)
    labels = jnp.asarray([0, 1, 0, 2, 1, 2], np.int32)
    matrix = np.array([[1.0, 2.0, 0.5, 0.0], [2.0, 4.0, 1.0, 0.0], [0.0, -1.0, 1.0, 1.0]])  # the second row depends on the first
    mass = F.affine([[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 0.5, 0.0]], [2.0, 0.3], np.dtype("float64"))
    rows = build(Op("subsample", step=2), (6,), np.dtype("float64"))
    blur = build(Op("gaussian_blur", sigma=1.0), (6,), np.dtype("float64"))
    return {
        "square": Case(F.HalfSquare(two, *a([0.5, -1, 2]), *a([1.0, 0.5, 2.0])), (3,)),
        "l1": Case(separable(0.7), (4,)),
        "weighted l1 with ridge": Case(separable([0.7, 0.0, 2.0, 0.1], 0.5), (4,)),
        "everything separable": Case(separable(0.3, 0.2, -0.4, 1.5), (4,)),
        "box": Case(separable(lower=-0.5, upper=[0.2, 1.0, INF, 0.0]), (4,)),
        "huber": Case(F.Huber(half, two, *a([0.5, -1, 2])), (3,)),
        "logistic": Case(F.Logistic(two, *a([1.0, -1, 1, -1])), (4,)),
        "poisson": Case(F.Poisson(two, *a([0.0, 1, 7, 2]), *a([0.0, 0.1, 0.0, 2.0])), (4,)),
        "bounded poisson": Case(F.Bounded(F.Poisson(two, *a([0.0, 1, 7, 2], 0.1)), *a(0.2, 3.0)), (4,)),
        "entropy": Case(F.Entropy(half), (4,)),
        "entropy on the simplex": Case(F.SimplexEntropy(half, two), (4,)),
        "log barrier": Case(F.LogBarrier(half), (4,)),
        "groups": Case(F.GroupNorm(*a([0.5, 1.0, 2.0]), labels, *a(0.0, 0.0), 3), (6,)),
        "tree of 7": Case(F.TreeNorm(*a([0.3, 0.5]), CHAIN), (7,)),
        "sparse groups with ridge": Case(F.GroupNorm(*a([0.5, 1.0, 0.2]), labels, *a(0.3, 0.6), 3), (6,)),
        "vectors along an axis": Case(F.AxisNorm(half), (2, 3)),
        "nuclear": Case(F.NuclearNorm(half, *a(0.0)), (3, 4)),
        "nuclear with ridge": Case(F.NuclearNorm(half, half), (2, 3, 2)),
        "l2 ball": Case(F.L2Ball(half, *a([1.0, 0.0, 0.0])), (3,)),
        "simplex": Case(F.Simplex(two, False), (5,)),
        "simplices": Case(F.Simplex(one, True), (2, 3)),
        "l1 ball": Case(F.L1Ball(two), (5,)),
        "knapsack": Case(F.Knapsack(*a([1.0, 2.0, 0.0, 0.5], 1.2, 0.0, 1.0)), (4,)),
        "affine": Case(F.affine(matrix, [1.0, 2.0, 0.5], np.dtype("float64")), (4,)),
        "flow conservation": Case(F.AffineNonnegative(mass, 2000), (4,)),
        "total variation on a line": Case(F.LineVariation(half, separable()), (7,)),
        "total variation down the columns": Case(F.LineVariation(half, separable(), -2), (4, 3)),
        "fused lasso in a box": Case(F.LineVariation(half, separable(0.2, 0.4, -1.0, 0.9)), (2, 5)),
        "isotropic total variation": Case(F.Variation(half, (0, 1), True, "neumann", 400), (3, 4)),
        "anisotropic periodic total variation": Case(F.Variation(half, (0, 1), False, "periodic", 400), (3, 3)),
        "translated l1": Case(F.Translated(separable(0.7), *a([1.0, 2.0, -1.0])), (3,)),
        "l1 behind a coisometry": Case(F.ThroughCoisometry(rows, separable(0.7), one), (6,)),
        "square behind a blur": Case(F.SquareThrough(blur, two, *a([1.0, 2, 3, 4, 5, 6])), (6,)),
    }


with precision("float64"):
    CASES = build_cases()
NAMES = list(CASES)

# One compilation for each function, all tests together.
PROX = jax.jit(lambda phi, v, tau: phi.prox(v, tau, phi.begin(v)))
MANY = jax.jit(jax.vmap(lambda phi, u: (phi.value(u), phi.distance(u)), in_axes=(None, 0)))
FENCHEL = jax.jit(lambda phi, y, z: (phi.conjugate(y), phi.value(z)))
SLOPE = jax.jit(lambda phi, u: (phi.value(u), phi.gradient(u)))
BOTH = jax.jit(lambda phi, u: (phi.gradient(u), jax.grad(phi.value)(u)))


@pytest.mark.parametrize("name", NAMES)
def test_a_prox_is_firmly_nonexpansive_and_its_point_satisfies_the_inequality_of_the_subgradient(name: str) -> None:
    """z = prox(v) if and only if phi(u) >= phi(z) + <(v - z)/tau, u - z> for all u."""
    phi, shape = CASES[name]
    gap, far, loose = (1e-9, 1e-10, 1e-8) if phi.exact else (1e-4, 1e-6, 0.1)
    for tau in (0.3, 1.7):
        vs = rng.normal(scale=2.0, size=(6, *shape))
        made = [PROX(phi, jnp.asarray(v), jnp.asarray(tau)) for v in vs]
        zs = np.stack([np.asarray(one.point) for one in made])
        # Far and near points where phi is finite, which is convex.
        us = np.stack([zs[:, None] + share * (zs[None, :] - zs[:, None]) for share in (1.0, 0.01)])
        evaluated, distances = (np.asarray(told) for told in MANY(phi, np.concatenate([zs, us.reshape(72, *shape)])))
        values = evaluated[:6]
        assert all(-1e-12 <= float(one.gap) < gap for one in made) and np.all(distances[:6] < far)
        assert_allclose(values, [one.value for one in made], rtol=1e-9, atol=1e-12)
        for i, j in np.ndindex(6, 6):
            assert np.sum((zs[i] - zs[j]) ** 2) <= np.sum((zs[i] - zs[j]) * (vs[i] - vs[j])) + loose
        slopes = (vs - zs) / tau
        least = values[:, None] + np.sum((slopes[:, None] * (us - zs[:, None])).reshape(2, 6, 6, -1), axis=-1)
        assert np.all(evaluated[6:].reshape(2, 6, 6) >= least - loose)


@pytest.mark.parametrize("name", NAMES)
def test_a_conjugate_meets_the_equation_of_fenchel_and_young_where_the_prox_says_and_the_inequality_elsewhere(name: str) -> None:
    phi, shape = CASES[name]
    for _ in range(3):
        v, w = (rng.normal(scale=2.0, size=shape) for _ in range(2))
        z = np.asarray(PROX(phi, jnp.asarray(v), jnp.asarray(0.8)).point)
        # Just inside the domain of the conjugate, whose boundary is where most of these subgradients lie.
        y = (v - z) / 0.8
        told, value = FENCHEL(phi, y * (1 - 1e-12), z)
        if told is None:
            return
        if np.isfinite(told):
            assert_allclose(told + value, np.sum(y * z), rtol=1e-7, atol=1e-7)
        far, _ = FENCHEL(phi, w, z)
        assert float(far) + float(value) >= float(np.sum(w * z)) - 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_is_that_of_the_value_and_its_curvature_is_within_the_bounds(name: str) -> None:
    phi, shape = CASES[name]
    if not (phi.smooth or phi.differentiable):
        return
    u = rng.uniform(0.3, 2.0, shape) + (0 if phi.differentiable else rng.normal(size=shape))
    slope = np.asarray(SLOPE(phi, u)[1])
    step = 1e-6
    for _ in range(3):
        d = rng.normal(size=shape)
        told = (float(SLOPE(phi, u + step * d)[0]) - float(SLOPE(phi, u - step * d)[0])) / (2 * step)
        assert_allclose(np.sum(slope * d), told, rtol=1e-6, atol=1e-7)
    below, above = phi.curvature()
    other = rng.uniform(0.3, 2.0, shape)
    along = float(np.sum((np.asarray(SLOPE(phi, other)[1]) - slope) * (other - u)))
    size = float(np.sum((other - u) ** 2))
    assert below.value * size - 1e-9 <= along <= above.value * size + 1e-9


def test_a_prox_reaches_what_brute_force_finds() -> None:
    """Nelder and Mead know neither gradients nor duality."""
    for name in ("everything separable", "huber", "logistic", "entropy", "groups", "tree of 7", "knapsack", "l1 behind a coisometry"):
        phi, shape = CASES[name]
        v = rng.normal(scale=1.5, size=shape)

        evaluate = jax.jit(lambda u, phi=phi, v=v: phi.value(u) + jnp.sum((u - v) ** 2) / 1.4 + 1e6 * phi.distance(u))
        z = np.asarray(PROX(phi, jnp.asarray(v), jnp.asarray(0.7)).point)
        options = {"maxiter": 400, "xatol": 1e-6}
        found = minimize(lambda flat, evaluate=evaluate: float(evaluate(flat)), z + 0.05, method="Nelder-Mead", options=options)
        assert float(evaluate(z)) <= found.fun + 1e-7


def test_orthogonality_and_written_functions_have_the_gradients_and_the_flags_that_they_say() -> None:
    u = rng.normal(size=(4, 2))
    phi = F.Orthogonality(jnp.asarray(0.7))
    told, derived = BOTH(phi, u)
    assert_allclose(told, derived, rtol=1e-12)
    q, _ = np.linalg.qr(rng.normal(size=(4, 2)))
    assert_allclose(SLOPE(phi, q)[0], 0, atol=1e-25)
    assert not phi.convex and phi.curvature()[0].value == pytest.approx(-2.8)
    step = 1e-4 * u
    along = np.sum(np.asarray(SLOPE(phi, step)[1]) * step)
    assert_allclose(along / np.sum(step**2), -2.8, rtol=1e-6)  # at 0, the most negative curvature

    written = F.ConvexWritten(lambda x, c: jnp.sum(jnp.cosh(c * x)), jnp.asarray(2.0), jnp.asarray(np.inf), {"c": jnp.asarray(0.5)})
    assert_allclose(SLOPE(written, u)[1], 0.5 * 2.0 * np.sinh(0.5 * u), rtol=1e-12)
    assert written.convex and not F.Written(written.of, written.weight, written.beta, written.arguments).convex


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=12, max_size=12), st.floats(0, 8))
def test_total_variation_on_a_line_is_denoised_exactly(y: list[float], weight: float) -> None:
    """By its dual: x = y - D^T p with |p| <= weight, and p = weight sign(D x) wherever D x is not 0."""
    x = np.asarray(LINE(jnp.asarray(y, np.float64), jnp.asarray(weight, np.float64)))
    p = np.cumsum(np.asarray(y) - x)  # of y - x = D^T p: p_i = -(sum of the first i)
    scale = 1e-10 * (1 + np.max(np.abs(y)))
    assert abs(p[-1]) <= 12 * scale
    p = -p[:-1]
    jumps = np.diff(x)
    assert np.all(np.abs(p) <= weight + 12 * scale)
    moving = np.abs(jumps) > 1e-7
    assert_allclose(p[moving], weight * np.sign(jumps[moving]), atol=1e-9)


LINE = jax.jit(denoise_line)


def test_total_variation_of_long_lines_has_the_known_solutions() -> None:
    steps = np.repeat([0.0, 4.0, 1.0], 50)
    fitted = np.asarray(LINE(jnp.asarray(steps), jnp.asarray(2.0)))
    assert_allclose(fitted, np.repeat([2 / 50, 4 - 4 / 50, 1 + 2 / 50], 50), rtol=1e-12)
    y = rng.normal(size=150)
    assert_allclose(LINE(jnp.asarray(y), jnp.asarray(1e4)), np.full(150, y.mean()), rtol=1e-9)
    assert_allclose(LINE(jnp.asarray(y), jnp.asarray(0.0)), y, rtol=1e-12)


def test_the_two_proxes_of_total_variation_agree() -> None:
    v = jnp.asarray(rng.normal(size=(1, 20)))
    exact = PROX(F.LineVariation(jnp.asarray(0.4), separable()), v, jnp.asarray(1.3))
    inner = F.Variation(jnp.asarray(0.4), (1,), True, "neumann", 3000)
    made = PROX(inner, v, jnp.asarray(1.3))
    assert_allclose(made.point, exact.point, atol=1e-6)
    assert float(made.gap) < 1e-9


def test_the_gap_of_an_inexact_prox_bounds_what_it_misses_and_a_warm_start_makes_it_small() -> None:
    v = jnp.asarray(rng.normal(size=(6, 6)))
    tau = jnp.asarray(0.7)
    best = F.Variation(jnp.asarray(0.8), (0, 1), True, "neumann", 5000)
    rough = F.Variation(jnp.asarray(0.8), (0, 1), True, "neumann", 5)
    energy = jax.jit(lambda point: best.value(point) + jnp.sum((point - v) ** 2) / (2 * tau))

    least = float(energy(PROX(best, v, tau).point))
    carry, gaps = rough.begin(v), []
    again = jax.jit(rough.prox)
    for _ in range(20):
        made = again(v, tau, carry)
        carry = made.carry
        gaps.append(float(made.gap))
        assert float(energy(made.point) - least) <= gaps[-1] + 1e-9
    assert gaps[-1] < gaps[0] / 50


def test_periodic_total_variation_of_an_image_is_denoised_as_by_an_independent_method_and_as_in_the_known_case() -> None:
    variation = F.Variation(jnp.asarray(0.5), (0, 1), True, "periodic", 3000)
    v = rng.standard_normal((4, 10))
    made = PROX(variation, jnp.asarray(v), jnp.asarray(0.6))
    assert_allclose(made.point, total_variation_by_admm(v, 0.3), atol=1e-6)
    assert 0 <= float(made.gap) < 1e-6
    # On the torus each half has area 4 n/2 and borders of length 8: it moves by m 8 / (4 n/2) = 4m/n towards the other.
    stripes = np.tile([1.0] * 5 + [3.0] * 5, (4, 1))
    made = PROX(variation, jnp.asarray(stripes), jnp.asarray(2.0))
    assert_allclose(made.point, np.tile([1.4] * 5 + [2.6] * 5, (4, 1)), atol=1e-6)


def total_variation_by_admm(v: np.ndarray, m: float, rho: float = 2.0, rounds: int = 4000) -> np.ndarray:
    """argmin 1/2 ||x - v||^2 + m TV(x) with a dense matrix D and splitting z = D x: nothing in common with ours."""
    size = v.size
    units = np.eye(size).reshape(size, *v.shape)
    d = np.concatenate([(np.roll(units, -1, axis) - units).reshape(size, size).T for axis in (1, 2)])
    solve = np.linalg.inv(np.eye(size) + rho * d.T @ d)
    z, u = np.zeros(2 * size), np.zeros(2 * size)
    x = v.ravel()
    for _ in range(rounds):
        x = solve @ (v.ravel() + rho * d.T @ (z - u))
        w = (d @ x + u).reshape(2, size)
        length = np.maximum(np.hypot(w[0], w[1]), 1e-300)
        z = (w * np.maximum(0, 1 - m / (rho * length))).ravel()
        u = u + d @ x - z
    return x.reshape(v.shape)


def test_flow_conservation_is_projected_onto_the_intersection_not_one_after_the_other() -> None:
    """In two dimensions: x1 + x2 = 1, x >= 0, a segment."""
    segment = F.AffineNonnegative(F.affine([[1.0, 1.0]], [1.0], np.dtype("float64")), 500)
    for v, nearest in (([3.0, 0.0], [1.0, 0.0]), ([0.2, 0.4], [0.4, 0.6]), ([-1.0, -5.0], [1.0, 0.0])):
        made = PROX(segment, jnp.asarray(v), jnp.asarray(1.0))
        assert_allclose(made.point, nearest, atol=1e-10)


MERGES = [
    ("l1", lambda: separable(0.3), (4,)),
    ("entropy", lambda: F.Simplex(jnp.asarray(2.0), False), (4,)),
    ("poisson", lambda: separable(lower=0.3), (4,)),
    ("groups", lambda: separable(0.3, 0.2), (6,)),
    ("nuclear", lambda: separable(ridge=0.3), (3, 4)),
    ("total variation on a line", lambda: separable(0.3, 0.2, -0.5, 0.8), (7,)),
]


@pytest.mark.parametrize(("name", "other", "shape"), MERGES, ids=[name for name, _, _ in MERGES])
def test_merged_functions_are_the_sum_in_either_order_and_have_its_prox(name, other, shape) -> None:  # type: ignore[no-untyped-def]
    phi, extra = CASES[name].phi, other()
    for both in (F.merge(phi, extra), F.merge(extra, phi)):
        assert both is not None
        vs = rng.normal(size=(11, *shape))
        us = np.stack([PROX(both, jnp.asarray(v), jnp.asarray(0.9)).point for v in vs])
        (together, _), (one, off), (two, away) = (np.asarray(MANY(part, us)) for part in (both, phi, extra))
        assert_allclose(together, one + two, rtol=1e-10)
        assert np.all(off + away < 1e-10)
        v, z = vs[0], us[0]
        least = together[0] + np.sum(((v - z) / 0.9 * (us - z)).reshape(11, -1), axis=1)  # the inequality of the subgradient
        assert np.all(together >= least - 1e-9)


def test_functions_that_do_not_merge_say_so() -> None:
    assert F.merge(separable(0.3), F.L2Ball(*a(1.0, 0.0))) is None
    assert F.merge(F.NuclearNorm(*a(1.0, 0.0)), separable(0.5)) is None
    assert F.merge(F.Poisson(*a(1.0, [1.0, 2.0], 0.0)), separable(0.5)) is None
    assert F.merge(F.GroupNorm(*a([1.0]), jnp.zeros(2, np.int32), *a(0.0, 0.0), 1), separable(lower=0.0)) is None


def test_the_prox_of_a_conjugate_is_a_projection_for_l1() -> None:
    made = F.conjugate_prox(separable(0.7), jnp.asarray([-3.0, 0.2, 0.9]), jnp.asarray(2.5))
    assert_allclose(made.point, [-0.7, 0.2, 0.7])


def test_functions_keep_single_precision() -> None:
    names = (
        "huber",
        "logistic",
        "poisson",
        "entropy",
        "knapsack",
        "sparse groups with ridge",
        "fused lasso in a box",
        "nuclear with ridge",
    )
    doubles = {name: CASES[name] for name in names}
    expected = {}
    for name, (phi, shape) in doubles.items():
        v = np.linspace(-2, 2, int(np.prod(shape))).reshape(shape)
        expected[name] = v, np.asarray(PROX(phi, jnp.asarray(v), jnp.asarray(0.6)).point)
    with precision("float32"):
        for name, (phi, _) in doubles.items():
            single = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), np.float32 if leaf.dtype == np.float64 else leaf.dtype), phi)
            v, point = expected[name]
            made = PROX(single, jnp.asarray(v, np.float32), jnp.float32(0.6))
            assert made.point.dtype == made.value.dtype == np.float32
            assert_allclose(made.point, point, atol=3e-5)


@pytest.mark.parametrize("parts", [(), ("threshold",), ("ridge",), ("bounds",), ("threshold", "bounds"), ("threshold", "ridge")])
def test_parts_that_are_at_rest_may_be_left_out(parts: tuple[str, ...]) -> None:
    given = {"threshold": {"threshold": 0.7}, "ridge": {"ridge": 0.5}, "bounds": {"lower": -0.2, "upper": 0.4}}
    whole = separable(**{name: value for part in parts for name, value in given[part].items()})
    spared = replace(whole, parts=frozenset(parts))
    v, tau = jnp.linspace(-2, 2, 9), jnp.asarray(0.6)
    for made, expected in zip(spared.prox(v, tau)[:2], whole.prox(v, tau)[:2], strict=True):
        assert_allclose(made, expected, rtol=1e-15)
    assert float(spared.distance(v)) == float(whole.distance(v))
    both = spared.merged(separable(ridge=1.0))
    assert isinstance(both, F.Separable)
    assert_allclose(both.prox(v, tau).point, whole.merged(separable(ridge=1.0)).prox(v, tau).point, rtol=1e-15)  # type: ignore[union-attr]
