"""Redundant, translation-invariant transforms: banks of circular filters, held by their frequency responses.

x -> (f_b * x) for each band b, as large as x. W^T W is the circular convolution with response S = sum_b |F_b|^2, so the frame bounds
are the least and the greatest value of S, and the canonical dual divides by S: all exact, for every length.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ..bounds import Bound
from ..operators.base import Operator, Shape, operator
from ..pytrees import node
from .base import Band, Frame, TransformOp, checked_levels, deepest, detail_orientations, transformed_axes
from .filters import mirrored, scaling_filter

# The cubic B-spline, (1 + z)^4 / 16.
SPLINE = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16


@node
class FilterBank(TransformOp):
    """`responses`: rfftn of the filters, (bands, *half spectrum)."""

    responses: jax.Array

    structure = "circulant"

    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-self.ndim, 0))

    def _gain(self) -> jax.Array:
        """S."""
        return jnp.sum(jnp.abs(self.responses) ** 2, axis=0)

    def forward(self, x: jax.Array) -> jax.Array:
        spectrum = jnp.expand_dims(jnp.fft.rfftn(x, axes=self._axes()), -self.ndim - 1)
        filtered = jnp.fft.irfftn(self.responses * spectrum, s=self.sides, axes=self._axes())
        return filtered.reshape(*x.shape[: x.ndim - self.ndim], -1)

    def _gathered(self, u: jax.Array) -> jax.Array:
        """The spectrum of W^T u."""
        images = u.reshape(*u.shape[:-1], len(self.bands), *self.sides)
        return jnp.sum(jnp.conj(self.responses) * jnp.fft.rfftn(images, axes=self._axes()), axis=-self.ndim - 1)

    def adjoint(self, u: jax.Array) -> jax.Array:
        return jnp.fft.irfftn(self._gathered(u), s=self.sides, axes=self._axes())

    def inverse(self, u: jax.Array) -> jax.Array:
        gain = self.c if self.frame == "tight" else self._gain()
        return jnp.fft.irfftn(self._gathered(u) / gain, s=self.sides, axes=self._axes())

    def frame_bounds(self) -> tuple[Bound, Bound]:
        if self.frame == "tight":
            return super().frame_bounds()
        gain = self._gain()
        return Bound(float(jnp.min(gain)), "exact", "min sum |F_b|^2"), Bound(float(jnp.max(gain)), "exact", "max sum |F_b|^2")

    def normal_diagonal(self) -> jax.Array:
        energy = jnp.fft.irfftn(self._gain(), s=self.sides, axes=self._axes())  # the diagonal of a convolution is its kernel at 0
        return jnp.full(self.domain, energy.ravel()[0])

    def solve_shifted(self, rhs: jax.Array, tau: jax.Array) -> jax.Array:
        spectrum = jnp.fft.rfftn(rhs, axes=self._axes()) / (1 + tau * self._gain())
        return jnp.fft.irfftn(spectrum, s=self.sides, axes=self._axes())


def undecimated(domain: Shape, real: np.dtype[Any], name: str = "haar", levels: int = 2, ndim: int | None = None) -> FilterBank:
    """The stationary wavelet transform: a tight frame with c = 1.

    The filters of level j are those of the wavelet divided by sqrt(2), with 2^(j-1) - 1 zeros between the taps. |H|^2 + |G|^2 = 1 at every
    frequency, so the energies of the bands of a level sum to that of the approximation before it, whatever the length. Source: Nason &
    Silverman, The stationary wavelet transform, 1995.
    """
    axes = transformed_axes(domain, ndim)
    sides = domain[len(domain) - axes :]
    depth = checked_levels(name, sides, levels)
    low = scaling_filter(name) / math.sqrt(2.0)
    high = mirrored(low)
    smoother = [np.ones(side, complex) for side in sides]
    bands: list[tuple[int, str, NDArray[Any]]] = []
    for level in range(1, depth + 1):
        responses = [{"L": _response(low, side, level), "H": _response(high, side, level)} for side in sides]
        found = []
        for kind in detail_orientations(axes):
            along = [smooth * response[letter] for smooth, response, letter in zip(smoother, responses, kind, strict=True)]
            found.append((level, kind, _outer(along)))
        bands = [*found, *bands]
        smoother = [smooth * response["L"] for smooth, response in zip(smoother, responses, strict=True)]
    return _bank(domain, real, f"undecimated {name}", "tight", [(depth, "L" * axes, _outer(smoother)), *bands])


def starlet(domain: Shape, real: np.dtype[Any], levels: int = 3, ndim: int | None = None) -> FilterBank:
    """The isotropic undecimated transform of the cubic B-spline: w_j = c_{j-1} - c_j with c_j ever smoother; a general frame.

    One band for each level whatever the dimension, without orientation. Source: Starck, Fadili & Murtagh, IEEE TIP 16(2), 2007.
    """
    axes = transformed_axes(domain, ndim)
    sides = domain[len(domain) - axes :]
    depth = checked_levels("starlet", sides, levels)
    smoother = _outer([np.ones(side, complex) for side in sides])
    bands: list[tuple[int, str, NDArray[Any]]] = []
    for level in range(1, depth + 1):
        next_one = smoother * _outer([_response(SPLINE, side, level, centre=2) for side in sides])
        bands = [(level, "H" * axes, smoother - next_one), *bands]
        smoother = next_one
    return _bank(domain, real, "starlet", "general", [(depth, "L" * axes, smoother), *bands])


def _response(taps: NDArray[np.float64], side: int, level: int, centre: int = 0) -> NDArray[Any]:
    """sum_k f_k exp(i w 2^(level-1) (k - centre)), the response of x -> sum_k f_k x_{j + 2^(level-1) (k - centre)}."""
    frequencies = 2 * np.pi * np.arange(side) / side
    offsets = (np.arange(taps.size) - centre) * 2 ** (level - 1) % side
    return np.asarray(np.exp(1j * np.outer(frequencies, offsets)) @ taps)


def _outer(along: list[NDArray[Any]]) -> NDArray[Any]:
    """The response of a separable filter, the last axis cut to the half that rfftn keeps."""
    product = np.ones((), complex)
    for response in [*along[:-1], along[-1][: along[-1].size // 2 + 1]]:
        product = np.multiply.outer(product, response)
    return product


def _bank(domain: Shape, real: np.dtype[Any], name: str, frame: Frame, found: list[tuple[int, str, NDArray[Any]]]) -> FilterBank:
    """found: level, orientation and response of each band, the approximation first."""
    levels, orientation, _ = found[0]
    axes = len(orientation)
    sides = domain[len(domain) - axes :]
    size = math.prod(sides)
    bands = tuple(Band(number * size, sides, level, kind) for number, (level, kind, _) in enumerate(found))
    responses = np.stack([response for _, _, response in found])
    gain = np.sum(np.abs(responses) ** 2, axis=0)
    c = 1.0 if frame == "tight" else float(gain.min() + gain.max()) / 2
    codomain = (*domain[: len(domain) - axes], len(bands) * size)
    complex_type = np.result_type(real, np.complex64)
    return FilterBank(domain, codomain, name, levels, axes, frame, c, bands, jnp.asarray(responses, complex_type))


@operator("undecimated")
def _undecimated(
    domain: Shape, real: np.dtype[Any], *, wavelet: str = "haar", levels: int | None = None, ndim: int | None = None
) -> Operator:
    """wavelet: as of the operator "wavelet", or "starlet"."""
    sides = domain[len(domain) - transformed_axes(domain, ndim) :]
    taps = SPLINE.size if wavelet == "starlet" else scaling_filter(wavelet).size
    depth = min(deepest(sides, taps), 4) if levels is None else levels
    return starlet(domain, real, depth, ndim) if wavelet == "starlet" else undecimated(domain, real, wavelet, depth, ndim)
