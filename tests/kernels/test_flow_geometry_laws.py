"""Laws of manifolds in float32, and of motion with several masses; those of manifolds in float64 are in test_flow_manifolds."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bridge_adapter.kernels.flow.manifolds import build
from bridge_adapter.kernels.flow.operators.base import Shape
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.primitives import conserve, hamiltonian

CASES: list[tuple[Any, Shape]] = [
    (("sphere", {"radius": 2.0}), (3, 4)),
    ("stiefel", (2, 5, 2)),
    ("stiefel", (3, 2)),
    ("spd", (2, 3, 3)),
    ("so", (2, 3, 3)),
    ("so", (4, 4)),
    ("se", (2, 4, 4)),
]


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    with precision("float64"):
        yield


@pytest.mark.parametrize(("described", "shape"), CASES, ids=str)
def test_in_float32_points_stay_on_their_manifold_to_1e_5(described: Any, shape: Shape) -> None:
    with precision("float32") as real:
        made = build(described, shape, real)

        @jax.jit
        def off(key: jax.Array) -> tuple[jax.Array, ...]:
            x = made.random_point(key)
            v = made.random_tangent(jax.random.fold_in(key, 0), x)
            tangent = v - made.proj_tangent(x, v)
            return made.check(made.exp(x, v / 3)), made.check(made.retract(x, v / 3)), jnp.max(jnp.abs(tangent)) / jnp.max(jnp.abs(v))

        errors = [error for seed in range(3) for error in off(jax.random.key(seed))]
        assert all(error.dtype == real and float(error) <= 1e-5 for error in errors)


def test_motion_of_several_pairs_is_of_second_order_and_symplectic_with_a_mass_for_each() -> None:
    """Coupled springs, a potential that is not quadratic; halving the step leaves a quarter of the error in energy and position."""
    pairs = [("a", "p", 0.5), ("b", "r", 3.0)]

    def potential(x: dict[str, jax.Array]) -> jax.Array:
        return jnp.sum((x["a"] - x["b"]) ** 2) + jnp.sum(x["a"] ** 4) / 4 + jnp.sum(jnp.cosh(x["b"]))

    def force(x: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return jax.grad(potential)(x)

    def as_state(z: jax.Array) -> dict[str, jax.Array]:
        return {"a": z[:2], "b": z[2:4], "p": z[4:6], "r": z[6:]}

    def moved(z: jax.Array, step: jax.Array) -> jax.Array:
        after = conserve(as_state(z), pairs, force, step)
        return jnp.concatenate([after[name] for name in ("a", "b", "p", "r")])

    z = jnp.asarray(np.random.default_rng(2).standard_normal(8))
    jacobian = np.asarray(jax.jit(jax.jacobian(moved))(z, 0.1))
    omega = np.block([[np.zeros((4, 4)), np.eye(4)], [-np.eye(4), np.zeros((4, 4))]])
    assert_allclose(jacobian.T @ omega @ jacobian, omega, atol=1e-13)

    @jax.jit
    def until_one(step: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        end = jax.lax.fori_loop(0, count, lambda _, at: moved(at, step), z)
        return end, hamiltonian(as_state(end), pairs, potential) - hamiltonian(as_state(z), pairs, potential)

    exact, _ = until_one(1 / 4096, 4096)
    (coarse, lost), (fine, left) = until_one(1 / 32, 32), until_one(1 / 64, 64)
    assert np.linalg.norm(coarse - exact) == pytest.approx(4 * np.linalg.norm(fine - exact), rel=0.1)
    assert float(abs(lost)) == pytest.approx(4 * float(abs(left)), rel=0.2)
