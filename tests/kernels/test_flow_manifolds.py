"""The laws of manifolds: exponential and logarithm, retraction, transport, projection, gradient; in batches and in both precisions."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.manifolds import build, names, placed
from bridge_adapter.kernels.flow.manifolds.rotations import rotation_exp, rotation_log
from bridge_adapter.kernels.flow.operators.base import Shape
from bridge_adapter.kernels.flow.precision import precision

CASES: list[tuple[Any, Shape]] = [
    ("euclidean", (2, 3)),
    (("sphere", {"radius": 2.0}), (3, 4)),
    (("stiefel", {"n": 5, "k": 2}), (2, 5, 2)),
    ("stiefel", (3, 2)),
    ("spd", (2, 3, 3)),
    ("so", (2, 3, 3)),
    ("so", (4, 4)),
    (("se", {"n": 3}), (2, 4, 4)),
]


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    with precision("float64"):
        yield


def compiled(function: Callable[..., jax.Array]) -> Callable[..., np.ndarray]:
    """Compiled once, numpy in and out: compilation is what these tests cost."""
    jitted = jax.jit(function)
    return lambda *arguments: np.asarray(jitted(*arguments))


@pytest.mark.parametrize(("described", "shape"), CASES, ids=str)
def test_the_laws_of_a_manifold(described: Any, shape: Shape) -> None:
    made = build(described, shape, np.dtype("float64"))
    exp, log, retract, transport = compiled(made.exp), compiled(made.log), compiled(made.retract), compiled(made.transport)
    project, gradient, metric, check = compiled(made.proj_tangent), compiled(made.gradient), compiled(made.metric), compiled(made.check)
    draw, acceleration, distance = compiled(made.random_point), compiled(made.acceleration), compiled(made.dist)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = draw(jax.random.PRNGKey(seed))
        assert x.shape == shape
        ambient, other, first, second = rng.standard_normal((4, *shape))
        v, w = project(x, first), project(x, second)
        # A third of the injectivity radius, or a length of 1.
        v = v * (min(made.injectivity_radius() / 3, 1.0) / np.max(np.sqrt(metric(x, v, v))))
        y = exp(x, v)
        for point in (x, y, retract(x, v), retract(x, 3 * v)):
            assert check(point) <= 1e-10

        assert_allclose(log(x, y), v, atol=1e-9, err_msg="log undoes exp")
        assert_allclose(retract(x, 0 * v), x, atol=1e-14, err_msg="R(0) = x")
        step = 1e-4
        assert_allclose((exp(x, step * v) - exp(x, -step * v)) / (2 * step), v, atol=1e-6, err_msg="exp leaves x with velocity v")
        bend = (exp(x, 10 * step * v) + exp(x, -10 * step * v) - 2 * x) / (10 * step) ** 2
        assert_allclose(acceleration(x, v), bend, atol=1e-5, err_msg="the second derivative of the geodesic")
        assert np.max(np.abs(retract(x, step * v) - exp(x, step * v))) < 10 * step**2, "R agrees with exp to first order"

        assert_allclose((retract(x, 1e-5 * v) - x - 1e-5 * v) / 1e-10, 0 * x, atol=100.0, err_msg="R(t v) = x + t v + O(t^2)")
        still = np.zeros_like(x)
        assert_allclose(exp(x, still), x, atol=1e-9, err_msg="exp(0) = x")
        assert_allclose(log(x, x), still, atol=2e-8, err_msg="log of the point itself")
        assert_allclose(transport(x, still, w), w, atol=1e-9, err_msg="transport along nothing")
        # Half of the injectivity radius, or a length of 3: of each point of a product.
        lengths = np.sqrt(metric(x, v, v))
        lengths = lengths.reshape(lengths.shape + (1,) * (x.ndim - lengths.ndim))
        far = v / lengths * min(0.499 * made.injectivity_radius(), 3.0)
        there = exp(x, far)
        assert_allclose(log(x, there), far, atol=1e-9, err_msg="log undoes exp as far as half of the injectivity radius")
        assert_allclose(distance(x, there), np.sqrt(metric(x, far, far)), atol=1e-9, err_msg="the distance is the length")
        assert_allclose(distance(there, x), distance(x, there), atol=1e-9, err_msg="the distance is symmetric")

        tangent = project(x, ambient)
        assert_allclose(project(x, tangent), tangent, atol=1e-13, err_msg="projection is idempotent")
        assert_allclose(metric(x, tangent, w), metric(x, ambient, w), atol=1e-10, err_msg="projection is self-adjoint in the metric")
        steepest = gradient(x, other)
        assert_allclose(project(x, steepest), steepest, atol=1e-12, err_msg="the gradient is tangent")
        assert_allclose(np.sum(metric(x, steepest, w)), np.sum(other * w), atol=1e-10, err_msg="the gradient represents the differential")

        carried, velocity = transport(x, v, w), transport(x, v, v)
        assert_allclose(project(y, carried), carried, atol=1e-11, err_msg="transport ends in the tangent space")
        assert_allclose(metric(y, carried, carried), metric(x, w, w), atol=1e-10, err_msg="transport keeps lengths")
        assert_allclose(metric(y, velocity, carried), metric(x, v, w), atol=1e-10, err_msg="transport keeps angles")
        assert_allclose(velocity, -log(y, x), atol=1e-8, err_msg="a geodesic carries its own velocity")


def test_rotations_by_nearly_pi_have_their_logarithm() -> None:
    generator = np.random.default_rng(0).standard_normal((5, 5))
    generator = generator - generator.T
    generator *= 3.1 / np.max(np.abs(np.linalg.eigvals(generator)))
    assert_allclose(jax.jit(lambda s: rotation_log(rotation_exp(s)))(generator), generator, atol=1e-12)


def test_the_distance_of_definite_matrices_is_that_of_their_logarithms_where_they_commute() -> None:
    made = build("spd", (2, 2), np.dtype("float64"))
    one, other = jnp.diag(jnp.asarray([1.0, 4.0])), jnp.diag(jnp.asarray([jnp.e, 4.0]))
    assert_allclose(jax.jit(made.dist)(one, other), 1.0, atol=1e-14)
    assert made.injectivity_radius() == np.inf


@pytest.mark.parametrize(
    ("described", "shape", "said"),
    [
        ("torus", (3,), "there is no manifold 'torus'"),
        (("sphere", {"radius": 0.0}), (3,), "above 0"),
        (("sphere", {"size": 1.0}), (3,), "cannot be built"),
        ("spd", (2, 3), "square"),
        ("so", (1, 1), "at least 2"),
        (("se", {"n": 3}), (3, 3), "n \\+ 1"),
        (("stiefel", {"n": 5, "k": 2}), (2, 5), "n >= k"),
    ],
)
def test_a_slot_that_cannot_hold_the_manifold_is_refused(described: Any, shape: Shape, said: str) -> None:
    with pytest.raises(FlowInputError, match=said):
        build(described, shape, np.dtype("float64"))


def test_a_slot_starts_on_its_manifold_or_says_how_far_off_it_is() -> None:
    real = np.dtype("float64")
    assert names() == ["euclidean", "se", "so", "spd", "sphere", "stiefel"]
    for name in ("sphere", "spd", "so"):
        made = build(name, (3, 3), real)
        drawn = placed("x", made, None, real)
        assert drawn.dtype == real and placed("x", made, drawn, real) is not None
    with pytest.raises(FlowInputError, match=r"the slot 'x' starts 1.0e\+00 off its manifold sphere"):
        placed("x", build("sphere", (3,), real), np.array([2.0, 0.0, 0.0]), real)
    with pytest.raises(FlowInputError, match="spd"):
        placed("x", build("spd", (2, 2), real), np.diag([1.0, -1.0]), real)
