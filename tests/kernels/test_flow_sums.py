"""Sums, packed scalars and energies in the spectrum: all in forms that are chosen for what they cost, and held against the plain ones."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bridge_adapter.kernels.flow import compile_flow
from bridge_adapter.kernels.flow.functions.squares import HalfSquare
from bridge_adapter.kernels.flow.operators import Op
from bridge_adapter.kernels.flow.operators.base import build
from bridge_adapter.kernels.flow.packed import Packed, vector
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.problem import SpectralSquare, smooth_term
from bridge_adapter.kernels.flow.running import advance_block
from bridge_adapter.kernels.flow.sizes import ONE_PASS
from bridge_adapter.kernels.flow.spec import FlowSpec, Slot, Term
from bridge_adapter.kernels.flow.sums import each_summed, summed

SHAPES = [(), (0,), (1,), (31,), (32,), (33,), (7, 9), (3, 5, 11), (ONE_PASS - 1,), (ONE_PASS,), (ONE_PASS + 1,), (90, 91)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_sums_are_those_of_numpy(shape: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(1)
    array = (rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if dtype == "complex128" else 0)).astype(dtype)
    with precision("float32" if dtype == "float32" else "float64"):
        found = jax.jit(summed)(array)
        both = [np.asarray(part) for part in jax.jit(each_summed)(array, 2 * array)]
        found = np.asarray(found)
    assert found.dtype == array.dtype and found.shape == ()
    assert_allclose(found, np.sum(array), rtol=1e-4 if dtype == "float32" else 1e-11, atol=1e-3 if dtype == "float32" else 1e-11)
    assert_allclose(both, [found, 2 * found], rtol=1e-4 if dtype == "float32" else 1e-11, atol=1e-3)


@pytest.mark.parametrize("size", [31, 1001, ONE_PASS - 1, ONE_PASS])
def test_sums_in_single_precision_are_off_by_a_few_units_of_rounding(size: int) -> None:
    """Solvers tell points apart by energies to a few units of rounding."""
    unit = float(np.finfo(np.float32).eps)
    array = np.random.default_rng(size).random((50, size)).astype(np.float32)
    ours, theirs = (np.asarray(jax.jit(jax.vmap(total))(array)) for total in (summed, jnp.sum))
    exact = array.astype(np.float64).sum(axis=1)
    off, reference = (np.max(np.abs(found / exact - 1)) / unit for found in (ours, theirs))
    alone = np.asarray([jax.jit(summed)(row) for row in array[:20]])
    assert off <= reference + 5 and np.max(np.abs(alone / exact[:20] - 1)) / unit <= 7


@pytest.mark.parametrize("size", [5, 101, ONE_PASS])
def test_sums_have_derivatives_of_every_order_and_mode_and_a_batch_of_them(size: int) -> None:
    x = jnp.linspace(-1, 1, size)

    def energy(u: jax.Array) -> jax.Array:
        return summed(u**3)

    assert_allclose(jax.grad(energy)(x), 3 * x**2, rtol=1e-5)
    assert_allclose(jax.jvp(energy, (x,), (x,))[1], jnp.sum(3 * x**3), atol=1e-4 * size)
    assert_allclose(jax.jvp(jax.grad(energy), (x,), (jnp.ones(size),))[1], 6 * x, rtol=1e-5)
    assert_allclose(jax.grad(lambda u: jnp.vdot(jax.grad(energy)(u), u))(x), 9 * x**2, rtol=1e-4)
    assert_allclose(jax.vmap(energy)(jnp.stack([x, 2 * x])), [energy(x), energy(2 * x)], atol=1e-4 * size)


class Record(NamedTuple):
    real: Any
    count: Any
    image: Any
    flag: Any
    short: Any
    parts: dict[str, Any]


def test_a_packed_record_opens_to_what_it_was_inside_of_programs_and_outside() -> None:
    with precision("float64"):
        record = Record(
            jnp.asarray(0.1),
            jnp.int32(-3),
            jnp.arange(6.0).reshape(2, 3),
            jnp.asarray(True),
            jnp.float32(2.5),
            {"a": jnp.asarray(jnp.nan), "b": jnp.asarray(jnp.inf), "c": None, "d": jnp.int64(2**40)},
        )
        packed = jax.jit(Packed.of)(record)
        opened = packed.opened()
        through = jax.jit(lambda item: Packed.of(item.opened()))(packed)
        twice = jax.jit(lambda item: item.opened())(packed)
    assert len(packed.vectors) == 4 and [each.shape for each in packed.arrays] == [(2, 3), ()]
    for found in (opened, twice, through.opened()):
        assert jax.tree.structure(found) == jax.tree.structure(record)
        for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(record), strict=True):
            assert new.dtype == old.dtype and np.shape(new) == old.shape
            assert_array_equal(new, old)


def test_one_scalar_is_a_vector_too() -> None:
    assert_array_equal(vector([jnp.float32(3.0)]), np.float32([3.0]))
    assert_array_equal(vector([jnp.float32(number) for number in range(5)]), np.arange(5, dtype="float32"))


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (64,), (65,), (1, 2), (8, 1), (9, 10), (10, 9), (96, 97), (97, 96)], ids=str)
def test_the_energy_in_the_spectrum_is_that_of_the_signal(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    with precision("float64"):
        op = build(Op("gaussian_blur", sigma=0.7), shape, np.dtype("float64"))
        target, x = (jnp.asarray(rng.standard_normal(shape)) for _ in range(2))
        term = smooth_term("misfit", ("x",), op, HalfSquare(jnp.asarray(3.0), target, jnp.asarray(1.0)))
        assert isinstance(term, SpectralSquare)
        value, slope = term.value(term.lift(x)), term.drop(term.cotangent(term.lift(x)))
        misfit = op.matvec(x) - target
        assert_allclose(value, 1.5 * jnp.sum(misfit**2), rtol=1e-12)
        assert_allclose(slope, 3 * op.rmatvec(misfit), atol=1e-12)


def test_a_step_is_made_of_few_kernels() -> None:
    """Each takes XLA ten milliseconds and more to generate; there were 36 when scalars were kept one by one and short sums made trees."""
    data = np.random.default_rng(0).standard_normal(1100)
    spec = FlowSpec(
        {"x": Slot(shape=(1100,)), "y": Slot(value=data, role="data")},
        [Term("quadratic", "x", op=Op("gaussian_blur", sigma=2.0), target="y"), Term("l1", "x", weight=0.01)],
    )
    with precision("float64"):
        flow = compile_flow(spec, solver="fista")
        begun = flow.begun()
        lowered = advance_block.lower(flow.solver, flow.problem, flow.controls, begun, np.int32(2), capacity=64)
    kernels = re.findall(r" fusion\(", lowered.compile().as_text())
    assert 0 < len(kernels) <= 28, len(kernels)
