"""Scalars that lie together: nothing is lost or swapped."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_adapter.kernels.flow.packed import FUSED, Packed, elementwise, vector
from bridge_adapter.kernels.flow.precision import precision


@pytest.mark.parametrize("size", [1, 2, FUSED - 1, FUSED, FUSED + 1, 14, FUSED**2, FUSED**2 + 1, 200])
def test_a_vector_holds_its_scalars_in_their_order(size: int) -> None:
    values = np.random.default_rng(size).standard_normal(size)
    with precision("float64"):
        made = jax.jit(vector)([jnp.asarray(value) for value in values])
    assert made.shape == (size,) and np.asarray(made).tolist() == values.tolist()


def test_numbers_that_are_not_finite_stay_in_their_places() -> None:
    values = [1.0, np.nan, np.inf, -np.inf, -0.0, 2.0, 3.0, 4.0, np.nan, 5.0]
    with precision("float64"):
        made = np.asarray(jax.jit(vector)([jnp.asarray(value) for value in values]))
    np.testing.assert_array_equal(made, values)
    assert np.signbit(made[4])


def test_a_function_of_columns_is_taken_place_by_place() -> None:
    with precision("float64"):
        made = jax.jit(lambda a, b, c: elementwise(jnp.divide, [a, b, c], [b, c, a]))(6.0, 3.0, 2.0)
    assert [float(value) for value in made] == [2.0, 1.5, 2.0 / 6.0]


def test_a_record_comes_back_with_its_types_and_arrays() -> None:
    record = {
        "a": jnp.float32(1.5),
        "b": jnp.arange(3),
        "c": (jnp.int32(7), jnp.bool_(True), [jnp.float32(-2.0)] * 70),
        "d": jnp.float32(9.0),
    }
    opened = jax.jit(Packed.of)(record).opened()
    assert jax.tree.structure(opened) == jax.tree.structure(record)
    for found, given in zip(jax.tree.leaves(opened), jax.tree.leaves(record), strict=True):
        assert np.asarray(found).dtype == given.dtype and np.array_equal(found, given)
