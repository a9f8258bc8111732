"""Differences along one axis: the map, its transpose, and the largest eigenvalue of D^T D, which for all but one kind is in closed form.

Boundaries. "periodic": the last neighbours the first. "neumann": nothing flows out, the difference across the end is 0. "dirichlet": the
array is 0 beyond both ends, so there is one difference more than there are samples. "free" (second order): only inside, where all three
samples are there.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Boundary = Literal["periodic", "neumann", "dirichlet", "free"]
BOUNDARIES: tuple[Boundary, ...] = ("periodic", "neumann", "dirichlet", "free")

# Up to this length eigenvalues without a closed form are computed from the matrix.
DENSE = 512


def ahead(x: jax.Array, axis: int, boundary: Boundary) -> jax.Array:
    """x[i+1] - x[i]. "dirichlet" takes an array that begins with the 0 before its first sample, so shapes are kept here too."""
    if boundary == "periodic":
        return jnp.roll(x, -1, axis) - x
    rest = jnp.diff(x, axis=axis)
    if boundary == "dirichlet":
        return jnp.concatenate([rest, -jax.lax.slice_in_dim(x, x.shape[axis] - 1, x.shape[axis], axis=axis)], axis)
    return jnp.concatenate([rest, _zeros(x, axis, 1)], axis)


def back(y: jax.Array, axis: int, boundary: Boundary) -> jax.Array:
    """The transpose of `ahead`."""
    if boundary == "periodic":
        return jnp.roll(y, 1, axis) - y
    length = y.shape[axis]
    if boundary == "dirichlet":
        return jnp.concatenate([_zeros(y, axis, 1), jax.lax.slice_in_dim(y, 0, length - 1, axis=axis)], axis) - y
    inside = jax.lax.slice_in_dim(y, 0, length - 1, axis=axis)
    nothing = _zeros(y, axis, 1)
    return jnp.concatenate([nothing, inside], axis) - jnp.concatenate([inside, nothing], axis)


def second(x: jax.Array, axis: int, boundary: Boundary) -> jax.Array:
    """x[i-1] - 2 x[i] + x[i+1]; symmetric for all boundaries but "free", where the two ends are 0."""
    if boundary == "periodic":
        return jnp.roll(x, 1, axis) - 2 * x + jnp.roll(x, -1, axis)
    if boundary == "neumann":
        return -back(ahead(x, axis, "neumann"), axis, "neumann")
    if boundary == "dirichlet":
        zero = _zeros(x, axis, 1)
        return jnp.diff(jnp.concatenate([zero, x, zero], axis), n=2, axis=axis)
    zero = _zeros(x, axis, 1)
    return jnp.concatenate([zero, jnp.diff(x, n=2, axis=axis), zero], axis)


def second_transposed(y: jax.Array, axis: int, boundary: Boundary) -> jax.Array:
    """The transpose of `second`."""
    if boundary != "free":
        return second(y, axis, boundary)
    inside = jax.lax.slice_in_dim(y, 1, y.shape[axis] - 1, axis=axis)
    zero = _zeros(y, axis, 2)
    return jnp.diff(jnp.concatenate([zero, inside, zero], axis), n=2, axis=axis)


def eigenvalues(length: int, boundary: Boundary) -> NDArray[np.float64]:
    """Of D^T D, first differences of `length` samples: 4 sin^2 of the angles of the Fourier, cosine or sine basis that diagonalises it, in
    the order of that basis."""
    k = np.arange(length)
    if boundary == "periodic":
        angles = np.pi * k / length
    elif boundary == "dirichlet":
        angles = np.pi * (k + 1) / (2 * (length + 1))
    else:
        angles = np.pi * k / (2 * length)
    return 4 * np.sin(angles) ** 2


@lru_cache(maxsize=256)
def largest(length: int, boundary: Boundary, order: int) -> tuple[float, bool]:
    """The largest eigenvalue of D^T D, and whether it is exact (else it is 16, which is above it)."""
    if order == 1 or boundary != "free":
        return float(eigenvalues(length, boundary).max() ** order), True
    if length < 3:
        return 0.0, True
    if length > DENSE:
        return 16.0, False
    rows = np.diff(np.eye(length), n=2, axis=0)
    return float(np.linalg.norm(rows, 2) ** 2), True


def _zeros(like: jax.Array, axis: int, count: int) -> jax.Array:
    shape = list(like.shape)
    shape[axis] = count
    return jnp.zeros(shape, like.dtype)
