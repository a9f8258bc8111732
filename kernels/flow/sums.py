"""Sums over all elements, in the form of which XLA's CPU back end makes the least at each size.

Of a lone sum of 32 elements and more it makes a tree of three or four kernels, each of which takes ten milliseconds and more to generate.
Of several sums side by side it makes one, and of a sum of 4 096 elements and more, too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

ONE_PASS = 4096  # elements: sums of fewer are made in one pass
LANES = 4  # of a lone sum: where elements are added one by one, rounding grows with the length. More lanes are more to compile


@jax.custom_jvp
def summed(array: jax.Array) -> jax.Array:
    """The sum of all elements."""
    if not 32 <= array.size < ONE_PASS:
        return jnp.sum(array)
    sums = each_summed(*jnp.pad(array.ravel(), (0, -array.size % LANES)).reshape(LANES, -1))
    while len(sums) > 1:
        sums = tuple(one + other for one, other in zip(sums[::2], sums[1::2], strict=True))
    return sums[0]


@summed.defjvp
def _(at: tuple[jax.Array], along: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # Left to itself, JAX would take the derivative of the sum as of any other reduction, by a tree of its own.
    return summed(at[0]), jnp.sum(along[0])


def each_summed(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The sums of all elements of arrays of one shape. Short ones add up one by one, so their rounding grows with the length."""
    if arrays[0].size >= ONE_PASS:
        return tuple(jnp.sum(array) for array in arrays)
    zeros = [jnp.zeros((), array.dtype) for array in arrays]
    sums = jax.lax.reduce(arrays, tuple(zeros), lambda one, other: tuple(map(jnp.add, one, other)), range(arrays[0].ndim))
    return tuple(sums)
