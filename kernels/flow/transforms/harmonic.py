"""Orthonormal transforms into waves: the DCT-II, and the DFT of real arrays as a real transform.

The DFT makes every circular convolution with a symmetric kernel diagonal, and the DCT every difference operator with reflecting ends; that
is what they are for as coordinates of certificates. As priors both are for signals that oscillate.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..operators.base import Operator, Shape, operator
from ..pytrees import node
from .base import Band, TransformOp, transformed_axes


@node
class Harmonic(TransformOp):
    """What both have in common: coefficients lie as the samples do, in C order. The first is the mean times sqrt(n), a band of its own."""

    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-self.ndim, 0))

    def _flattened(self, waves: jax.Array) -> jax.Array:
        return waves.reshape(*waves.shape[: waves.ndim - self.ndim], -1)

    def _gridded(self, u: jax.Array) -> jax.Array:
        return u.reshape(*u.shape[:-1], *self.sides)


@node
class Cosine(Harmonic):
    """DCT-II, separable and scaled to be orthonormal: u_k = s_k sum_j x_j cos(pi k (2j + 1) / 2n), s_0 = sqrt(1/n), else sqrt(2/n)."""

    def forward(self, x: jax.Array) -> jax.Array:
        return self._flattened(jax.scipy.fft.dctn(x, axes=self._axes(), norm="ortho"))

    def adjoint(self, u: jax.Array) -> jax.Array:
        return jax.scipy.fft.idctn(self._gridded(u), axes=self._axes(), norm="ortho")


@node
class Fourier(Harmonic):
    """The DFT in the Hartley form u_k = n^-1/2 sum_j x_j (cos + sin)(2 pi k.j / n) = Re F_k - Im F_k, with F scaled to be unitary.

    It holds the same numbers as F: those at k and -k give the cosine and the sine part by their sum and difference, rotated by 45 degrees.
    It is real, symmetric and its own inverse, for any lengths. Source: Bracewell, J. Opt. Soc. Am. 73(12), 1983.
    """

    def forward(self, x: jax.Array) -> jax.Array:
        spectrum = jnp.fft.fftn(x, axes=self._axes(), norm="ortho")
        return self._flattened(spectrum.real - spectrum.imag)

    def adjoint(self, u: jax.Array) -> jax.Array:
        return self.forward(self._gridded(u)).reshape(*u.shape[:-1], *self.sides)


def harmonic(cls: type[Harmonic], name: str, domain: Shape, ndim: int | None = None) -> Harmonic:
    """The transform of the last `ndim` axes (all, at most two, if not given) of arrays of shape `domain`. Raises FlowInputError."""
    axes = transformed_axes(domain, ndim)
    sides = domain[len(domain) - axes :]
    size = math.prod(sides)
    bands = (Band(0, (1,), 1, "L" * axes), Band(1, (size - 1,), 1, "H" * axes))
    return cls(domain, (*domain[: len(domain) - axes], size), name, 1, axes, "unitary", 1.0, bands)


@operator("dct")
def _dct(domain: Shape, real: np.dtype[Any], *, ndim: int | None = None) -> Operator:
    return harmonic(Cosine, "dct", domain, ndim)


@operator("dft")
def _dft(domain: Shape, real: np.dtype[Any], *, ndim: int | None = None) -> Operator:
    return harmonic(Fourier, "dft", domain, ndim)
