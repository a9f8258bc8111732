"""Orthonormal wavelet filters, computed by spectral factorisation: Daubechies' of extremal phase and the symlets, nearest to linear phase.

No tables: a filter of N vanishing moments follows from the roots of one polynomial, and which root of each pair is kept makes the family.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FlowInputError

Filter = NDArray[np.float64]

# Up to here the factorisation gives orthonormality to a few units of the last place (see the tests).
MAX_ORDER = 16
WAVELETS = ("haar", *(f"db{order}" for order in range(1, MAX_ORDER + 1)), *(f"sym{order}" for order in range(2, MAX_ORDER + 1)))


def scaling_filter(name: str) -> Filter:
    """The low-pass filter of a wavelet by name, with sum sqrt(2) and ||h|| = 1. Raises FlowInputError."""
    if name not in WAVELETS:
        raise FlowInputError(f"there is no wavelet {name!r}; there are haar, db1 to db{MAX_ORDER} and sym2 to sym{MAX_ORDER}")
    if name == "haar":
        return daubechies(1)
    return symlet(int(name[3:])) if name.startswith("sym") else daubechies(int(name[2:]))


def mirrored(low: Filter) -> Filter:
    """The high-pass filter to a low-pass filter of even length: g_k = (-1)^k h_{L-1-k}."""
    return np.asarray(low[::-1] * (-1.0) ** np.arange(low.size))


@cache
def daubechies(order: int) -> Filter:
    """The orthonormal low-pass filter of 2 * order taps with `order` vanishing moments; 1 is Haar.

    P(y) = sum_k C(N-1+k, k) y^k with y = (2 - z - 1/z)/4 is factored over the unit circle: each root y gives a pair (z, 1/z), of which the
    one inside is kept, times ((1 + z)/2)^N. Source: Daubechies, Ten Lectures on Wavelets, 1992, section 6.1.
    """
    return _assembled([inside for inside, _ in _root_pairs(order)], order)


@cache
def symlet(order: int) -> Filter:
    """As `daubechies`, with the choice between z and 1/z, for each real root and each conjugate pair of roots, that makes the phase of the
    filter nearest to linear (Daubechies, section 8.1.1)."""
    groups: list[list[tuple[complex, complex]]] = []
    for inside, outside in _root_pairs(order):
        if abs(inside.imag) < 1e-12:
            groups.append([(inside, outside)])
        elif inside.imag > 0:
            groups.append([(inside, outside), (inside.conjugate(), outside.conjugate())])
    best, least = daubechies(order), math.inf
    # The mirror image of a choice has the mirrored phase, so the first group can stay as it is.
    for choice in itertools.product((0, 1), repeat=max(len(groups) - 1, 0)):
        kept = [pair[side] for group, side in zip(groups, (0, *choice), strict=False) for pair in group]
        candidate = _assembled(kept, order)
        bend = _phase_bend(candidate)
        if bend < least * (1 - 1e-9):
            best, least = candidate, bend
    return best


def _root_pairs(order: int) -> list[tuple[complex, complex]]:
    """The roots z of P((2 - z - 1/z)/4), as pairs (inside, outside) of the unit circle."""
    half_band = np.array([math.comb(order - 1 + k, k) for k in range(order)], np.longdouble)
    pairs = []
    for start in np.roots(half_band[::-1].astype(np.float64)):
        root = _polished(half_band, start)
        # (2 - z - 1/z)/4 = y  <=>  z^2 - (2 - 4 y) z + 1 = 0.
        half = 1 - 2 * root
        gap = np.sqrt(half * half - 1)
        outside = max(half + gap, half - gap, key=abs)  # the other one is its inverse, which loses fewer digits than the difference
        pairs.append((complex(1 / outside), complex(outside)))
    return pairs


def _polished(coefficients: NDArray[np.longdouble], start: complex) -> Any:
    """A simple root by Newton's method in the longest floating point type there is."""
    root: Any = np.clongdouble(start)
    slope = coefficients[1:] * np.arange(1, coefficients.size)
    for _ in range(4):
        root = root - np.polyval(coefficients[::-1], root) / np.polyval(slope[::-1], root)
    return root


def _assembled(roots: list[complex], order: int) -> Filter:
    taps: NDArray[Any] = np.array([1.0], np.clongdouble)
    for root in sorted(roots, key=abs):
        taps = np.convolve(taps, np.array([1.0, -root], np.clongdouble))
    for _ in range(order):
        taps = np.convolve(taps, [1.0, 1.0])
    real = taps.real
    return np.asarray(real * (np.sqrt(np.longdouble(2)) / real.sum()), np.float64)


def _phase_bend(low: Filter) -> float:
    """How far the phase of the filter is from a straight line, mean square over the frequencies below pi, weighted with its response."""
    frequencies = np.linspace(0.0, np.pi, 65)[:-1]
    response = np.exp(-1j * np.outer(frequencies, np.arange(low.size))) @ low
    phase = np.unwrap(np.angle(response))
    weight = np.abs(response)
    slope = np.sum(weight * phase * frequencies) / np.sum(weight * frequencies**2)
    return float(np.sum(weight * (phase - slope * frequencies) ** 2))
