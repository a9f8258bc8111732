"""The primitives keep what they promise: descent, symplecticity, reversibility, energy, and fresh noise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_adapter.kernels.flow.compiler import compile_flow
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.operators.arrays import Dense, Identity
from bridge_adapter.kernels.flow.operators.base import Op
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.primitives import anneal, conserve, dissipate, hamiltonian, project, transform
from bridge_adapter.kernels.flow.runs import run
from bridge_adapter.kernels.flow.spec import FlowSpec, Slot, Term

STIFFNESS = np.asarray([1.0, 4.0, 9.0])


@pytest.fixture(autouse=True)
def double() -> Any:
    with precision("float64"):
        yield


def potential(x: dict[str, jax.Array]) -> jax.Array:
    """A quartic well: nothing that a quadratic would hide."""
    return jnp.sum(STIFFNESS * x["q"] ** 2) / 2 + jnp.sum(x["q"] ** 4) / 4


def force(x: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {"q": jax.grad(potential)(x)["q"]}


@pytest.mark.parametrize("mass", [1.0, 4.0])
def test_motion_is_symplectic_and_reversible_for_every_mass(mass: float) -> None:
    pairs = [("q", "p", mass)]

    def step(z: jax.Array) -> jax.Array:
        moved = conserve({"q": z[:3], "p": z[3:]}, pairs, force, 0.1)
        return jnp.concatenate([moved["q"], moved["p"]])

    z = np.random.default_rng(0).standard_normal(6)
    step = jax.jit(step)
    jacobian = np.asarray(jax.jit(jax.jacobian(step))(z))
    omega = np.block([[np.zeros((3, 3)), np.eye(3)], [-np.eye(3), np.zeros((3, 3))]])
    np.testing.assert_allclose(jacobian.T @ omega @ jacobian, omega, atol=1e-13)
    turned = np.array([1.0, 1, 1, -1, -1, -1])
    back = step(np.asarray(step(z)) * turned)
    np.testing.assert_allclose(back, z * turned, atol=1e-13)


@pytest.mark.parametrize("mass", [1.0, 4.0])
def test_an_oscillator_keeps_its_energy_within_the_bound_and_does_not_drift(mass: float) -> None:
    """|H - H0|/H0 <= a/(1 - a), a = (w h)^2/4, over some hundred periods."""
    frequency, step = 2.0, 0.3
    spec = FlowSpec(
        {"q": Slot(value=[1.0]), "p": Slot(value=[0.0], role="momentum")},
        [Term("tikhonov", "q", weight=mass * frequency**2)],
        pairs=[("q", "p", mass)],
    )
    compiled = compile_flow(spec, solver="symplectic", alpha=step, tol=0.0)
    assert compiled.solver.descent == "suspended"
    energy = run(compiled, iterations=1000)["history"]["energy"]
    assert len(energy) == 1000
    a = (frequency * step) ** 2 / 4
    start = mass * frequency**2 / 2
    assert (np.abs(energy - start) / start <= a / (1 - a) + 1e-12).all()
    assert abs(energy[:500].mean() - energy[500:].mean()) < 0.01 * start
    with pytest.raises(FlowInputError, match="alpha < 2/sqrt"):
        compile_flow(spec, solver="symplectic", alpha=1.001)


def test_damped_motion_comes_to_rest_at_the_minimum() -> None:
    spec = FlowSpec(
        {"q": Slot(shape=(3,)), "p": Slot(shape=(3,), role="momentum")},
        [Term("quadratic", "q", op=Op("diagonal", entries=np.sqrt(STIFFNESS)), target=STIFFNESS)],
        pairs=[("q", "p", 2.0)],
    )
    result = run(compile_flow(spec, solver="symplectic", damping=0.5, tol=1e-9), iterations=20_000)
    assert result["stopped"] == "converged"
    np.testing.assert_allclose(result["state"]["q"], np.sqrt(STIFFNESS), atol=1e-8)


def test_a_gradient_step_within_2_over_beta_descends_and_leaves_other_slots_bit_by_bit() -> None:
    data = jnp.asarray([0.1, 0.2])
    x = {"q": jnp.asarray([1.0, -2.0, 0.5]), "y": data}
    alpha = 1.9 / STIFFNESS.max()
    slope = STIFFNESS * x["q"]
    moved = dissipate(x, {"q": slope}, alpha)
    assert moved["y"] is data

    def value(q: Any) -> float:
        return float(jnp.sum(STIFFNESS * q**2) / 2)

    assert value(moved["q"]) <= value(x["q"]) - alpha * (1 - alpha * STIFFNESS.max() / 2) * float(slope @ slope) + 1e-12
    scaled = dissipate(x, {"q": slope}, 1.0, scale={"q": 1 / STIFFNESS})
    np.testing.assert_allclose(scaled["q"], 0, atol=1e-15)


def test_coordinates_change_there_and_back_and_only_by_operators_that_can() -> None:
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(transform(transform(x, Identity((3,), (3,)), "forward"), Identity((3,), (3,)), "inverse"), x)
    with pytest.raises(ValueError, match="not orthonormal"):
        transform(x, Dense((3,), (3,), 2 * jnp.eye(3)), "forward")
    assert project({"x": x}, {"x": lambda v, alpha: v - alpha}, 1.0)["x"][0] == -1


def test_noise_has_the_variance_2th_and_no_two_calls_share_it() -> None:
    x = {"a": jnp.zeros(20_000), "b": jnp.zeros(20_000)}
    compiled = jax.jit(lambda key: anneal(x, key, 0.5, 0.2))
    first, key = compiled(jax.random.key(0))
    second, _ = compiled(key)
    for one in (first["a"], first["b"], second["a"]):
        assert np.var(one) == pytest.approx(0.2, rel=0.05)
    noises = np.stack([first["a"], first["b"], second["a"], second["b"]])
    assert np.abs(np.corrcoef(noises) - np.eye(4)).max() < 0.05
    held, _ = anneal(x, key, 0.5, 0.2, slots=["a"])
    assert held["b"] is x["b"]


def test_langevin_flow_has_the_variance_of_the_gibbs_law() -> None:
    """For E = k x^2/2 the law of ULA is normal with variance T / (k (1 - alpha k/2))."""
    spec = FlowSpec({"x": Slot(shape=(4000,))}, [Term("tikhonov", "x", weight=2.0)])
    compiled = compile_flow(spec, solver="langevin", alpha=0.1, temperature=0.3, seed=7, tol=0.0)
    result = run(compiled, iterations=100)
    assert np.var(result["state"]["x"]) == pytest.approx(0.3 / (2 * (1 - 0.1)), rel=0.1)
    again = run(compiled, iterations=100)
    np.testing.assert_array_equal(again["state"]["x"], result["state"]["x"])


def test_the_energy_of_motion_counts_kinetic_energy_with_its_mass() -> None:
    x = {"q": jnp.zeros(3), "p": jnp.full(3, 2.0)}
    assert float(hamiltonian(x, [("q", "p", 3.0)], potential)) == pytest.approx(12 / 6)
