"""Orthonormal wavelet transforms in any number of dimensions: periodised filters, exact for every length, odd ones too.

Only periodised filters make the transform orthonormal (symmetric extension does not), and an orthonormal transform is what gives the
wavelet prior its exact prox.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..operators.base import Operator, Shape, operator
from ..pytrees import node
from ..sizes import SMALL
from .base import Band, TransformOp, checked_levels, deepest, detail_orientations, flat, transformed_axes
from .filters import Filter, mirrored, scaling_filter


@node
class Wavelet(TransformOp):
    """The separable transform. Each level splits the approximation of the one before along every axis.

    A side of odd length n is split into its first n - 1 samples, which are filtered periodically, and the last, which joins the
    approximation as it is: still orthonormal, and no coefficient more than there are samples.
    """

    def forward(self, x: jax.Array) -> jax.Array:
        return flat(self.analysis(x), self.ndim)

    def adjoint(self, u: jax.Array) -> jax.Array:
        return self.synthesis(self.parts(u))

    def analysis(self, x: jax.Array) -> list[jax.Array]:
        """W x, band by band, each in its shape."""
        low = scaling_filter(self.name)
        high = mirrored(low)
        details: list[jax.Array] = []
        for _ in range(self.levels):
            split = [x]
            for axis in range(-self.ndim, 0):
                split = [half for part in split for half in analysed(part, low, high, axis)]
            x, *level = split
            details = [*level, *details]
        return [x, *details]

    def synthesis(self, bands: list[jax.Array]) -> jax.Array:
        """W^T u, of the bands of u."""
        low = scaling_filter(self.name)
        high = mirrored(low)
        x, *details = bands
        count = 2**self.ndim - 1
        for start in range(0, len(details), count):
            split = [x, *details[start : start + count]]
            # In the order of the analysis, which is as good as its reverse: interleaving rows copies whole rows, and columns come last.
            for axis in range(-self.ndim, 0):
                half = len(split) // 2
                split = [synthesised(a, d, low, high, axis) for a, d in zip(split[:half], split[half:], strict=True)]
            (x,) = split
        return x


def wavelet_transform(domain: Shape, name: str = "haar", levels: int | None = None, ndim: int | None = None) -> Wavelet:
    """The transform of the last `ndim` axes (all, at most two, if not given) of arrays of shape `domain`.

    levels: as many as keep the filter shorter than what it filters, if not given. Raises FlowInputError.
    """
    axes = transformed_axes(domain, ndim)
    sides = domain[len(domain) - axes :]
    depth = checked_levels(name, sides, deepest(sides, scaling_filter(name).size) if levels is None else levels)
    bands = band_table(sides, depth)
    size = bands[-1].offset + bands[-1].size
    return Wavelet(domain, (*domain[: len(domain) - axes], size), name, depth, axes, "unitary", 1.0, bands)


@cache
def band_table(sides: Shape, levels: int) -> tuple[Band, ...]:
    """The bands of a decimated transform: the approximation, then the details from coarse to fine."""
    orientations = detail_orientations(len(sides))
    shapes: list[tuple[Shape, int, str]] = []
    for level in range(1, levels + 1):
        halves = {"L": tuple(side - side // 2 for side in sides), "H": tuple(side // 2 for side in sides)}
        found = [(tuple(halves[letter][axis] for axis, letter in enumerate(kind)), level, kind) for kind in orientations]
        shapes = [*found, *shapes]
        sides = halves["L"]
    table, offset = [], 0
    for shape, level, kind in [(sides, levels, "L" * len(sides)), *shapes]:
        table.append(Band(offset, shape, level, kind))
        offset += table[-1].size
    return tuple(table)


def analysed(x: jax.Array, low: Filter, high: Filter, axis: int) -> tuple[jax.Array, jax.Array]:
    """a_k = sum_j h_j x_{2k+j}, d_k = sum_j g_j x_{2k+j}, indices modulo the even part of the length; an odd last sample joins a."""
    even = x.shape[axis] // 2 * 2
    paired = jax.lax.slice_in_dim(x, 0, even, axis=axis)
    wrapped = _stored(_wrapped(paired, 0, low.size - 2, axis))
    taps = [jax.lax.slice_in_dim(wrapped, j, j + even - 1, stride=2, axis=axis) for j in range(low.size)]
    approximation, detail = (_combined(filter_, taps) for filter_ in (low, high))
    if even == x.shape[axis]:
        return approximation, detail
    passed = jax.lax.slice_in_dim(x, even, x.shape[axis], axis=axis)
    return jnp.concatenate([approximation, passed], axis=axis), detail


def synthesised(approximation: jax.Array, detail: jax.Array, low: Filter, high: Filter, axis: int) -> jax.Array:
    """The transpose of `analysed` (axis < 0): even and odd samples interleaved, then the sample that was passed through."""
    half, reach = detail.shape[axis], low.size // 2 - 1
    paired = jax.lax.slice_in_dim(approximation, 0, half, axis=axis)
    a, d = (_stored(_wrapped(part, reach, 0, axis)) for part in (paired, detail))
    shifted = [jax.lax.slice_in_dim(part, reach - k, reach - k + half, axis=axis) for k in range(reach + 1) for part in (a, d)]

    def phase(parity: int) -> jax.Array:
        return _combined(np.stack([low[parity::2], high[parity::2]], axis=1).ravel(), shifted)

    samples = _interleaved(phase(0), phase(1), axis)
    if approximation.shape[axis] == half:
        return samples
    passed = jax.lax.slice_in_dim(approximation, half, approximation.shape[axis], axis=axis)
    return jnp.concatenate([samples, passed], axis=axis)


def _interleaved(even: jax.Array, odd: jax.Array, axis: int) -> jax.Array:
    """even_0, odd_0, even_1, odd_1, ... along an axis (< 0)."""
    if even.ndim > 1 and even.size > SMALL:
        # Spread and added up: what is stacked XLA reshapes, and computes, once for each of its readers.
        zero, spread = jnp.zeros((), even.dtype), [[(0, 0, 0)] * even.ndim for _ in range(2)]
        spread[0][axis], spread[1][axis] = (0, 1, 1), (1, 0, 1)
        return jax.lax.pad(even, zero, spread[0]) + jax.lax.pad(odd, zero, spread[1])
    sizes = list(even.shape)
    sizes[axis] *= 2
    return jnp.stack([even, odd], axis=even.ndim + axis + 1).reshape(sizes)


def _combined(weights: Filter, parts: list[jax.Array]) -> jax.Array:
    total = float(weights[0]) * parts[0]
    for weight, part in zip(weights[1:].tolist(), parts[1:], strict=True):
        total = total + weight * part
    return total


def _wrapped(x: jax.Array, before: int, after: int, axis: int) -> jax.Array:
    """The periodic extension of x, which may be longer than a period."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths, mode="wrap")


def _stored(x: jax.Array) -> jax.Array:
    """Makes XLA store x: fused into its readers, every level would be computed again for each tap."""
    stored: jax.Array = jax.lax.optimization_barrier(x)  # type: ignore[no-untyped-call]
    return stored


@operator("wavelet")
def _wavelet(domain: Shape, real: np.dtype[Any], *, wavelet: str = "haar", levels: int | None = None, ndim: int | None = None) -> Operator:
    """wavelet: haar, db1 to db16, sym2 to sym16."""
    return wavelet_transform(domain, wavelet, levels, ndim)
