"""Linear operators on images: circular convolution and periodic finite differences, each with its adjoint and its norm.

Images live on the torus: the last two axes are periodic, all axes before them are a batch (colour channels). On the
torus the blur is a circulant matrix, which the Fourier transform makes diagonal, so its adjoint is a conjugate and
its norm is exact, not estimated.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

AXES = (-2, -1)

# max over frequencies of 4 sin^2(pi k/h) + 4 sin^2(pi l/w): attained where both sides are even, a bound otherwise.
DIFFERENCE_NORM_SQ = 8.0


class Circulant(NamedTuple):
    """The operator x -> k * x (circular convolution), held as the transfer function K^ = rfft2(k)."""

    transfer: jax.Array  # (h, w // 2 + 1) complex
    shape: tuple[int, int]


def gaussian_kernel(shape: tuple[int, int], sigma: float) -> NDArray[np.float64]:
    """A Gaussian of standard deviation `sigma` pixels, wrapped around the torus, centred at index (0, 0), with sum 1.

    sigma = 0 gives the identity.
    """
    rows, columns = (_wrapped_gaussian(n, sigma) for n in shape)
    return np.asarray(np.outer(rows, columns))


def _wrapped_gaussian(n: int, sigma: float) -> NDArray[np.float64]:
    if sigma == 0:
        return np.asarray(np.eye(1, n)[0])
    reach = int(np.ceil(10 * sigma / n)) + 1  # images of the period beyond which a Gaussian is below 1e-20
    offsets = np.arange(n)[:, None] + n * np.arange(-reach, reach + 1)[None, :]
    profile = np.exp(-0.5 * (offsets / sigma) ** 2).sum(axis=1)
    return np.asarray(profile / profile.sum())


def transfer_function(kernel: NDArray[np.float64]) -> NDArray[np.complex128]:
    """K^ = rfft2(k), computed in double precision on the host: it is made once per run."""
    return np.asarray(np.fft.rfft2(kernel))


def norm_sq(transfer: NDArray[np.complex128]) -> float:
    """||K||^2 = max |K^|^2: exact, because the Fourier modes are the singular vectors of a circulant matrix."""
    return float(np.max(np.abs(transfer) ** 2))


def convolve(op: Circulant, x: jax.Array) -> jax.Array:
    """k * x = F^-1(K^ x^)."""
    return jnp.fft.irfft2(op.transfer * jnp.fft.rfft2(x), s=op.shape)


def correlate(op: Circulant, y: jax.Array) -> jax.Array:
    """The adjoint: F^-1(conj(K^) y^)."""
    return jnp.fft.irfft2(jnp.conj(op.transfer) * jnp.fft.rfft2(y), s=op.shape)


def differences(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """D x: forward differences (x[i+1, j] - x[i, j], x[i, j+1] - x[i, j]), periodic."""
    return jnp.roll(x, -1, axis=-2) - x, jnp.roll(x, -1, axis=-1) - x


def differences_adjoint(p: tuple[jax.Array, jax.Array]) -> jax.Array:
    """D^T p, the negative divergence."""
    rows, columns = p
    return jnp.roll(rows, 1, axis=-2) - rows + jnp.roll(columns, 1, axis=-1) - columns
