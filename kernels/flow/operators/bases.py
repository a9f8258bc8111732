"""The bases that diagonalise differences on a box: Fourier (periodic), cosines (neumann) and sines (dirichlet), axis by axis.

They give (I + tau A^T A)^-1 in closed form for every A whose A^T A is a function of the Laplacian of the box.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .stencils import Boundary, eigenvalues


def laplacian_spectrum(
    sides: tuple[int, ...], axes: tuple[int, ...], weights: tuple[float, ...], boundary: Boundary, real: Any
) -> jax.Array:
    """The eigenvalues of sum_a weight_a D_a^T D_a, on the grid of the basis functions; size 1 along axes that it leaves alone."""
    spectrum = jnp.zeros((1,) * len(sides), real)
    for axis, weight in zip(axes, weights, strict=True):
        along = [1] * len(sides)
        along[axis] = sides[axis]
        spectrum = spectrum + jnp.asarray(weight * eigenvalues(sides[axis], boundary).reshape(along), real)
    return spectrum


def solve_in_basis(rhs: jax.Array, symbol: jax.Array, axes: tuple[int, ...], boundary: Boundary) -> jax.Array:
    """B^-1 (B rhs / symbol), B the transform of the boundary along the axes."""
    if boundary == "periodic":
        return jnp.real(jnp.fft.ifftn(jnp.fft.fftn(rhs, axes=axes) / symbol, axes=axes)).astype(rhs.dtype)
    if boundary == "dirichlet":
        turned = rhs
        for axis in axes:
            turned = sine_transform(turned, axis)
        turned = turned / symbol
        for axis in axes:
            turned = sine_transform(turned, axis)
        return turned
    turned = rhs
    for axis in axes:
        turned = jax.scipy.fft.dct(turned, type=2, axis=axis, norm="ortho")
    turned = turned / symbol
    for axis in axes:
        turned = jax.scipy.fft.idct(turned, type=2, axis=axis, norm="ortho")
    return turned


def sine_transform(x: jax.Array, axis: int) -> jax.Array:
    """The orthonormal sine transform (type 1), its own inverse: sqrt(2/(n+1)) sum_j x_j sin(pi (j+1)(k+1)/(n+1)), read off the Fourier
    transform of the odd extension."""
    count = x.shape[axis]
    zero = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis))
    odd = jnp.concatenate([zero, x, zero, -jnp.flip(x, axis)], axis)
    spectrum = jnp.fft.rfft(odd, axis=axis)
    return jnp.asarray(-jnp.imag(jax.lax.slice_in_dim(spectrum, 1, count + 1, axis=axis)) / np.sqrt(2 * (count + 1)))
