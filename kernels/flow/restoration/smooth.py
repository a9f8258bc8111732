"""Smooth terms f(x) = phi(A x): what the gradient half of a flow step needs.

A solver keeps the lifted point A x beside x. Its momentum points are linear combinations of points it has already
lifted, so A is applied once per iteration, and the energy costs no extra product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .operators import Circulant


class SmoothTerm(NamedTuple):
    """f = value(lift(x)), grad f(x) = gradient(lift(x)); `lift` is linear and beta bounds the Lipschitz constant of
    the gradient.
    """

    lift: Callable[[jax.Array], jax.Array]
    value: Callable[[jax.Array], jax.Array]
    gradient: Callable[[jax.Array], jax.Array]
    beta: jax.Array


def deconvolution(op: Circulant, data_spectrum: jax.Array, beta: jax.Array) -> SmoothTerm:
    """f(x) = 1/2 ||k * x - y||^2 in the Fourier domain, with `data_spectrum` = rfft2(y).

    By Parseval f = 1/(2hw) sum |K^ x^ - y^|^2, and grad f = F^-1(conj(K^) (K^ x^ - y^)): one pair of transforms per
    iteration, energy included. beta = max |K^|^2.
    """
    height, width = op.shape
    weights = _hermitian_weights(width, op.transfer.real.dtype) / (2.0 * height * width)

    def value(spectrum: jax.Array) -> jax.Array:
        misfit = op.transfer * spectrum - data_spectrum
        return jnp.sum(weights * (misfit.real**2 + misfit.imag**2))

    def gradient(spectrum: jax.Array) -> jax.Array:
        return jnp.fft.irfft2(jnp.conj(op.transfer) * (op.transfer * spectrum - data_spectrum), s=op.shape)

    return SmoothTerm(lift=jnp.fft.rfft2, value=value, gradient=gradient, beta=beta)


def _hermitian_weights(width: int, dtype: jnp.dtype) -> jax.Array:
    # rfft2 leaves out the mirrored half of the columns: each one counts twice, but the first and, for an even width,
    # the last have no mirror.
    doubled = jnp.full((width // 2 + 1,), 2.0, dtype).at[0].set(1.0)
    return doubled.at[-1].set(1.0) if width % 2 == 0 else doubled
