"""Proximal maps: each is compared with another way of finding the same minimum, and its reported gap is a true bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.restoration.proximal import Proximal, ProximalTerm, soft_threshold, total_variation, wavelet_l1
from bridge_adapter.kernels.flow.restoration.transforms import wavelet

rng = np.random.default_rng(2)


def apply(term: ProximalTerm, v: np.ndarray, step: float) -> Proximal:
    return jax.jit(term.prox)(jnp.asarray(v), jnp.asarray(step), term.init(jnp.asarray(v)))


def tv(x: np.ndarray) -> float:
    down, right = np.roll(x, -1, 0) - x, np.roll(x, -1, 1) - x
    return float(np.sum(np.hypot(down, right)))


def tv_prox_by_admm(v: np.ndarray, m: float, rho: float = 2.0, rounds: int = 4000) -> np.ndarray:
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


@pytest.mark.parametrize(("shape", "m"), [((5, 6), 0.3), ((4, 4), 2.0), ((2, 12), 0.5)])
def test_the_tv_prox_is_the_minimiser_found_by_an_independent_method(shape: tuple[int, int], m: float) -> None:
    v = rng.standard_normal(shape)
    with precision("float64"):
        ours = apply(total_variation(jnp.asarray(m), 5000), v, 1.0)
        x, gap, value = np.asarray(ours.x), float(ours.gap), float(ours.value)
    assert_allclose(x, tv_prox_by_admm(v, m), atol=1e-6)
    assert value == pytest.approx(m * tv(x), rel=1e-12)
    assert 0 <= gap < 1e-6


def test_the_tv_prox_of_two_stripes_has_its_closed_form() -> None:
    # On the torus each half has area h n/2 and borders of length 2h: it moves by m 2h / (h n/2) = 4m/n towards the other.
    v = np.tile([1.0] * 5 + [3.0] * 5, (4, 1))
    with precision("float64"):
        x = np.asarray(apply(total_variation(jnp.asarray(0.5), 3000), v, 2.0).x)
    assert_allclose(x, np.tile([1.4] * 5 + [2.6] * 5, (4, 1)), atol=1e-6)


@pytest.mark.parametrize("inner_steps", [1, 3, 10, 100])
def test_the_reported_gap_bounds_what_an_inexact_tv_prox_misses(inner_steps: int) -> None:
    v, weight, step = rng.standard_normal((9, 7)), 0.4, 0.5

    def objective(x: np.ndarray) -> float:
        return weight * tv(x) + float(np.sum((x - v) ** 2)) / (2 * step)

    with precision("float64"):
        best = objective(np.asarray(apply(total_variation(jnp.asarray(weight), 10000), v, step).x))
        ours = apply(total_variation(jnp.asarray(weight), inner_steps), v, step)
        excess, gap = objective(np.asarray(ours.x)) - best, float(ours.gap)
    assert -1e-9 <= excess <= gap + 1e-12


def test_a_tv_prox_that_starts_from_the_last_dual_goes_on_where_it_ended() -> None:
    v = jnp.asarray(rng.standard_normal((16, 16)), jnp.float32)
    term = total_variation(jnp.float32(0.3), 5)
    prox = jax.jit(term.prox)
    first = prox(v, jnp.float32(1), term.init(v))
    gaps = [float(first.gap)]
    state = first.state
    for _ in range(20):
        again = prox(v, jnp.float32(1), state)
        gaps.append(float(again.gap))
        state = again.state
    assert gaps[-1] < 0.02 * gaps[0]


def test_the_tv_prox_is_firmly_nonexpansive() -> None:
    a, b = rng.standard_normal((2, 8, 8))
    with precision("float64"):
        term = total_variation(jnp.asarray(0.5), 3000)
        p, q = np.asarray(apply(term, a, 1.0).x), np.asarray(apply(term, b, 1.0).x)
    assert np.sum((p - q) ** 2) <= np.vdot(p - q, a - b) + 1e-6


@pytest.mark.parametrize("order", [1, 4])
def test_the_wavelet_prox_satisfies_the_optimality_condition_and_leaves_the_approximation_free(order: int) -> None:
    v, weight, step = rng.standard_normal((13, 16)), 0.3, 0.7
    with precision("float64"):
        transform = wavelet((13, 16), order, 3)
        ours = apply(wavelet_l1(jnp.asarray(weight), transform), v, step)
        u, c = (np.asarray(transform.forward(jnp.asarray(image))) for image in (np.asarray(ours.x), v))
        value, gap = float(ours.value), float(ours.gap)
    free = transform.bands[1].offset
    subgradient = (c - u) / (step * weight)  # must be in the subdifferential of ||.||_1 at u on the details, 0 before them
    assert_allclose(subgradient[:free], 0, atol=1e-12)
    details = u[free:]
    alive = np.abs(details) > 1e-9
    assert alive.any() and not alive.all()
    assert_allclose(subgradient[free:][alive], np.sign(details[alive]), atol=1e-9)
    assert np.all(np.abs(subgradient[free:]) <= 1 + 1e-9)
    assert value == pytest.approx(weight * np.abs(details).sum(), rel=1e-9) and gap == 0


def test_soft_threshold() -> None:
    assert_allclose(soft_threshold(jnp.asarray([-3.0, -1, 0, 0.5, 2]), jnp.asarray(1.0)), [-2, 0, 0, 0, 1])
