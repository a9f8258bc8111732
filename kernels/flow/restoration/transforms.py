"""Orthonormal wavelet transforms of images: periodised Daubechies filters, exact for every image size.

Coefficients are one flat vector, the approximation band first; a static table says where each band lies. Only
periodised filters make the transform orthonormal (symmetric extension does not), and an orthonormal transform is what
gives the wavelet prior its exact prox.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Filter = NDArray[np.float64]

# Up to here the spectral factorisation is exact to rounding.
MAX_ORDER = 8


class Band(NamedTuple):
    """One band, coefficients [offset, offset + height * width) of the flat vector. Level 1 is the finest.

    orientation: the filter along the rows (last axis), then the filter down the columns; L low-pass, H high-pass.
    """

    offset: int
    shape: tuple[int, int]
    level: int
    orientation: str


class Transform(NamedTuple):
    """forward: (..., h, w) -> (..., h * w); inverse = its transpose."""

    forward: Callable[[jax.Array], jax.Array]
    inverse: Callable[[jax.Array], jax.Array]
    bands: tuple[Band, ...]


@cache
def daubechies(order: int) -> NDArray[np.float64]:
    """The orthonormal low-pass filter of 2 * order taps with `order` vanishing moments and sum sqrt(2); 1 is Haar.

    Spectral factorisation: P(z) = sum_k C(N-1+k, k) ((2 - z - 1/z)/4)^k on the unit circle; keep the roots inside it
    and multiply by ((1 + z)/2)^N. Source: Daubechies, Ten Lectures on Wavelets, 1992, section 6.1.
    """
    half_band = [math.comb(order - 1 + k, k) for k in range(order)]
    taps = np.array([1.0])
    for root in np.roots(half_band[::-1]):
        # (2 - z - 1/z)/4 = root  <=>  z^2 - (2 - 4 root) z + 1 = 0: a pair (z, 1/z).
        pair = np.roots([1.0, -(2.0 - 4.0 * root), 1.0])
        taps = np.convolve(taps, [1.0, -pair[np.argmin(np.abs(pair))]])
    for _ in range(order):
        taps = np.convolve(taps, [1.0, 1.0])
    return np.asarray(taps.real * (math.sqrt(2.0) / taps.real.sum()))


def wavelet_order(name: str) -> int | None:
    """The Daubechies order of a wavelet's name (`haar`, `db1`, ..., `db8`), or None for any other name."""
    return {"haar": 1, **{f"db{order}": order for order in range(1, MAX_ORDER + 1)}}.get(name)


def max_levels(shape: tuple[int, int]) -> int:
    """How often both sides can be halved."""
    return int(math.log2(min(shape)))


def wavelet(shape: tuple[int, int], order: int, levels: int) -> Transform:
    """The separable 2-D transform of `levels` levels on the last two axes: W W^T = W^T W = I.

    A side of odd length n is split into an even part, which is filtered periodically, and its last sample, which
    joins the approximation as it is: still orthonormal, and no coefficient more than there are pixels.
    """
    low = daubechies(order)
    high = low[::-1] * (-1.0) ** np.arange(low.size)
    bands = _band_table(shape, levels)

    def forward(x: jax.Array) -> jax.Array:
        details: list[jax.Array] = []
        for _ in range(levels):
            x_low, x_high = _analyse(x, low, high, axis=-1)
            x, lh = _analyse(x_low, low, high, axis=-2)
            hl, hh = _analyse(x_high, low, high, axis=-2)
            details = [_flat(lh), _flat(hl), _flat(hh), *details]
        return jnp.concatenate([_flat(x), *details], axis=-1)

    def inverse(u: jax.Array) -> jax.Array:
        x, *details = [_band(u, band) for band in bands]
        for position in range(0, len(details), 3):
            lh, hl, hh = details[position : position + 3]
            x_low = _synthesise(x, lh, low, high, axis=-2)
            x_high = _synthesise(hl, hh, low, high, axis=-2)
            x = _synthesise(x_low, x_high, low, high, axis=-1)
        return x

    return Transform(forward=forward, inverse=inverse, bands=bands)


def _band_table(shape: tuple[int, int], levels: int) -> tuple[Band, ...]:
    (height, width), details = shape, []
    for level in range(1, levels + 1):
        low, high = (height - height // 2, width - width // 2), (height // 2, width // 2)
        # Backwards, and turned round below: the coarsest level comes first, and LH, HL, HH within a level.
        details += [
            ((high[0], high[1]), level, "HH"),
            ((low[0], high[1]), level, "HL"),
            ((high[0], low[1]), level, "LH"),
        ]
        height, width = low
    table, offset = [], 0
    for band_shape, level, orientation in [((height, width), levels, "LL"), *reversed(details)]:
        table.append(Band(offset, band_shape, level, orientation))
        offset += band_shape[0] * band_shape[1]
    return tuple(table)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-2], -1)


def _band(u: jax.Array, band: Band) -> jax.Array:
    height, width = band.shape
    return u[..., band.offset : band.offset + height * width].reshape(*u.shape[:-1], height, width)


def _analyse(x: jax.Array, low: Filter, high: Filter, axis: int) -> tuple[jax.Array, jax.Array]:
    """a[k] = sum_j low[j] x[2k + j], d[k] = sum_j high[j] x[2k + j], indices modulo the even length.

    Where the length is odd, the last sample is appended to a.
    """
    even_length = x.shape[axis] // 2 * 2
    paired = jax.lax.slice_in_dim(x, 0, even_length, axis=axis)
    wrapped = _wrap(paired, 0, low.size - 2, axis)
    taps = [jax.lax.slice_in_dim(wrapped, j, j + even_length - 1, stride=2, axis=axis) for j in range(low.size)]
    approximation, detail = (
        sum((c * tap for c, tap in zip(f.tolist(), taps, strict=True)), start=jnp.zeros_like(taps[0])) for f in (low, high)
    )
    passed = jax.lax.slice_in_dim(x, even_length, x.shape[axis], axis=axis)
    return jnp.concatenate([approximation, passed], axis=axis), detail


def _synthesise(approximation: jax.Array, detail: jax.Array, low: Filter, high: Filter, axis: int) -> jax.Array:
    """The transpose of `_analyse`: even and odd samples interleaved, then the sample that was passed through."""
    half, reach = detail.shape[axis], low.size // 2 - 1
    paired = jax.lax.slice_in_dim(approximation, 0, half, axis=axis)
    a, d = _wrap(paired, reach, 0, axis), _wrap(detail, reach, 0, axis)

    def polyphase(phase: int) -> jax.Array:
        total = jnp.zeros_like(detail)
        for shift in range(reach + 1):
            start = reach - shift
            a_k, d_k = (jax.lax.slice_in_dim(part, start, start + half, axis=axis) for part in (a, d))
            total += float(low[2 * shift + phase]) * a_k + float(high[2 * shift + phase]) * d_k
        return total

    interleaved = jnp.stack([polyphase(0), polyphase(1)], axis=axis)
    samples = interleaved.reshape(_doubled(detail.shape, axis))
    passed = jax.lax.slice_in_dim(approximation, half, approximation.shape[axis], axis=axis)
    return jnp.concatenate([samples, passed], axis=axis)


def _wrap(x: jax.Array, before: int, after: int, axis: int) -> jax.Array:
    """The periodic extension of x.

    The barrier makes XLA store it: fused into its readers, every level would be computed again for each tap.
    """
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    stored: jax.Array = jax.lax.optimization_barrier(jnp.pad(x, widths, mode="wrap"))  # type: ignore[no-untyped-call]
    return stored


def _doubled(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    sizes = list(shape)
    sizes[axis] *= 2
    return tuple(sizes)
