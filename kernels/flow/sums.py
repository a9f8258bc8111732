"""Sums over all elements, in the form of which XLA's CPU back end makes the least at each size.

Of a lone sum of 32 elements and more it makes a tree of three or four kernels, each of which takes ten milliseconds and more to generate.
Of several sums side by side it makes one, and of a sum of 4 096 elements and more, too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .sizes import ONE_PASS

LANES = 4  # of a lone sum: where elements are added one by one, rounding grows with the length. More lanes are more to compile


@jax.custom_jvp
def summed(array: jax.Array) -> jax.Array:
    """The sum of all elements."""
    if not 32 <= array.size < ONE_PASS:
        return jnp.sum(array)
    flat, length = array.ravel(), -(-array.size // LANES)
    *lanes, last = (flat[first : first + length] for first in (*range(0, (LANES - 1) * length, length), array.size - length))
    # The last begins within the one before, unless they come out even. Padding the array would be a kernel of its own.
    first, second, third, fourth = each_summed(*lanes, jnp.where(np.arange(length) < LANES * length - array.size, 0, last))
    return (first + second) + (third + fourth)


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
