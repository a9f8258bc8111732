"""Wavelets on graphs: filters g_b(L) of the Laplacian L, from coarse to fine, with sum_b g_b^2 = 1.

The kernels are Meyer's on a dyadic scale, so the frame is tight by construction (Leonardi & Van De Ville, IEEE TSP 61(17), 2013; Hammond,
Vandergheynst & Gribonval, ACHA 30, 2011). On a small graph they are applied exactly, in the eigenbasis of L. On a large one Chebyshev
polynomials stand in for them: squares of polynomials never sum to 1, so that frame is a general one, with bounds that are known.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from ..bounds import Bound
from ..errors import FlowInputError
from ..operators.base import Operator, Shape, operator
from ..operators.sparse import checked_edges
from ..pytrees import node, static
from .base import Band, TransformOp

# Up to this many nodes the eigenbasis of L is computed and kept.
EXACT = 1024
# Chebyshev filters are made longer until sum_b p_b^2 is this close to 1, or this long.
CLOSE, LONGEST = 1e-2, 512


@node
class SpectralWavelets(TransformOp):
    """basis: eigenvectors of L as columns; kernels: g_b at the eigenvalues, (bands, nodes)."""

    basis: jax.Array
    kernels: jax.Array

    def forward(self, x: jax.Array) -> jax.Array:
        waves = jnp.expand_dims(x @ self.basis, -2) * self.kernels
        return (waves @ self.basis.T).reshape(*x.shape[:-1], -1)

    def adjoint(self, u: jax.Array) -> jax.Array:
        waves = u.reshape(*u.shape[:-1], *self.kernels.shape) @ self.basis
        return jnp.sum(waves * self.kernels, axis=-2) @ self.basis.T


@node
class ChebyshevWavelets(TransformOp):
    """edges (2, m) and their weights; series: the Chebyshev coefficients of p_b on [0, `top`], (bands, degree + 1).

    The inverse is the canonical dual, (W^T W)^-1 W^T, by `rounds` of x + 2/(A + B) (W^T u - W^T W x), each of which divides the error by
    (B + A)/(B - A): as many as lead to rounding.
    """

    edges: jax.Array
    edge_weights: jax.Array
    series: jax.Array
    top: float = static()
    lowest: float = static()
    highest: float = static()
    rounds: int = static()

    def _shifted(self, x: jax.Array) -> jax.Array:
        """(2 L / top - I) x, whose spectrum is in [-1, 1]."""
        i, j = self.edges
        flow = self.edge_weights * (x[..., i] - x[..., j])
        return (2 / self.top) * jnp.zeros_like(x).at[..., i].add(flow).at[..., j].add(-flow) - x

    def forward(self, x: jax.Array) -> jax.Array:
        first = self._shifted(x)
        start = self.series[:, 0, None] * x[..., None, :] + self.series[:, 1, None] * first[..., None, :]

        def onward(carry: Any, part: jax.Array) -> tuple[Any, None]:
            before, here, total = carry
            following = 2 * self._shifted(here) - before
            return (here, following, total + part[:, None] * following[..., None, :]), None

        (_, _, found), _ = jax.lax.scan(onward, (x, first, start), self.series[:, 2:].T)
        return found.reshape(*x.shape[:-1], -1)

    def adjoint(self, u: jax.Array) -> jax.Array:
        """Clenshaw's recurrence, on all bands at once."""
        images = u.reshape(*u.shape[:-1], len(self.bands), *self.domain[-1:])

        def onward(carry: tuple[jax.Array, jax.Array], part: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
            here, before = carry
            return (jnp.sum(part[:, None] * images, axis=-2) + 2 * self._shifted(here) - before, here), None

        nothing = jnp.zeros_like(images[..., 0, :])
        (one, two), _ = jax.lax.scan(onward, (nothing, nothing), self.series[:, :0:-1].T)
        return jnp.sum(self.series[:, 0, None] * images, axis=-2) + self._shifted(one) - two

    def inverse(self, u: jax.Array) -> jax.Array:
        pulled = self.adjoint(u)
        step = 2 / (self.lowest + self.highest)

        def closer(_: int, x: jax.Array) -> jax.Array:
            return x + step * (pulled - self.adjoint(self.forward(x)))

        return jnp.asarray(jax.lax.fori_loop(0, self.rounds, closer, step * pulled))

    def frame_bounds(self) -> tuple[Bound, Bound]:
        method = "sum of the squared filters on [0, top]"
        return Bound(self.lowest, "lower_bound", method), Bound(self.highest, "upper_bound", method)


def meyer_kernels(eigenvalues: NDArray[np.float64], top: float, levels: int) -> NDArray[np.float64]:
    """g_b at eigenvalues in [0, top], (levels + 1, ...): the scaling function, then details from coarse to fine; sum_b g_b^2 = 1.

    With a_j = top / 2^j the low pass of level j is 1 below a_j, 0 above 2 a_j, and cos(pi/2 nu(l/a_j - 1)) between, nu(s) = s^4 (35 - 84 s
    + 70 s^2 - 20 s^3). The details of level j are what its low pass takes from that of the level before.
    """
    lows = [np.ones_like(eigenvalues)]
    for level in range(1, levels + 1):
        s = np.clip(eigenvalues * 2**level / top - 1, 0, 1)
        lows.append(np.cos(np.pi / 2 * s**4 * (35 - 84 * s + 70 * s**2 - 20 * s**3)))
    details = [np.sqrt(np.maximum(lows[level - 1] ** 2 - lows[level] ** 2, 0)) for level in range(levels, 0, -1)]
    return np.stack([lows[-1], *details])


def graph_wavelets(
    nodes: int, real: np.dtype[Any], edges: ArrayLike, weights: ArrayLike | None = None, *, levels: int = 3, degree: int | None = None
) -> TransformOp:
    """The wavelets of a graph of `nodes` nodes. degree: of Chebyshev filters; None: exact filters on graphs of up to EXACT nodes, else as
    long as it takes to sum to 1 but for CLOSE. Raises FlowInputError."""
    pairs, given = checked_edges((nodes,), edges, weights)
    if not 1 <= levels <= 12:
        raise FlowInputError(f"graph_wavelet has {levels!r} levels; it may have 1 to 12, each for half of the spectrum that is left")
    if degree is not None and not 2 <= degree <= 4 * LONGEST:
        raise FlowInputError(f"graph_wavelet has filters of degree {degree!r}; it must be from 2 to {4 * LONGEST}")
    kinds = ["L", *["H"] * levels]
    of_level = [levels, *range(levels, 0, -1)]
    bands = tuple(Band(number * nodes, (nodes,), level, kind) for number, (level, kind) in enumerate(zip(of_level, kinds, strict=True)))
    codomain = ((levels + 1) * nodes,)
    i, j = pairs.T
    degrees = np.bincount(i, given, nodes) + np.bincount(j, given, nodes)
    top = float(np.max(degrees[i] + degrees[j]))  # above every eigenvalue (Anderson & Morley, 1985)
    if degree is None and nodes <= EXACT:
        matrix = np.diag(degrees)
        np.subtract.at(matrix, (np.concatenate([i, j]), np.concatenate([j, i])), np.concatenate([given, given]))
        eigenvalues, basis = np.linalg.eigh(matrix)
        kernels = meyer_kernels(np.clip(eigenvalues, 0, top), top, levels)
        held = jnp.asarray(basis, real), jnp.asarray(kernels, real)
        return SpectralWavelets((nodes,), codomain, "graph wavelet", levels, 1, "tight", 1.0, bands, *held)
    series, off = _series(top, levels, degree)
    if off >= 0.5:
        length = series.shape[1] - 1
        raise FlowInputError(
            f"graph_wavelet: filters of degree {length} sum to 1 but for {off:.2g}; take fewer levels than {levels}, or a higher degree"
        )
    rounds = int(np.ceil(np.log(np.finfo(real).eps / 4) / np.log(max(off, 1e-15)))) + 1
    numbers = jnp.asarray(np.stack([i, j]), np.int32), jnp.asarray(given, real), jnp.asarray(series, real)
    return ChebyshevWavelets((nodes,), codomain, "graph wavelet", levels, 1, "general", 1.0, bands, *numbers, top, 1 - off, 1 + off, rounds)


def _series(top: float, levels: int, degree: int | None) -> tuple[NDArray[np.float64], float]:
    """Chebyshev coefficients of the filters on [0, top], and by how much the sum of their squares is off 1 at most."""
    length = 32 if degree is None else degree
    while True:
        places = chebyshev.chebpts1(length + 1)
        kernels = meyer_kernels((places + 1) / 2 * top, top, levels)
        # Interpolation at the Chebyshev points, by their discrete orthogonality.
        series = kernels @ chebyshev.chebvander(places, length) * (2 / (length + 1))
        series[:, 0] /= 2
        # sum_b p_b^2 - 1 has degree N = 2 length: its maximum is at most that over M Chebyshev nodes over cos(pi N / 2 M) (Ehlich & Zeller,
        # Math. Z. 86, 1964).
        count = 16 * length
        nodes = np.cos(np.pi * (np.arange(count) + 0.5) / count)
        squares = np.sum(chebyshev.chebval(nodes, series.T) ** 2, axis=0)
        off = float(np.abs(squares - 1).max() / np.cos(np.pi / 16))
        if degree is not None or off <= CLOSE or length >= LONGEST:
            return series, off
        length *= 2


@operator("graph_wavelet")
def _graph_wavelet(
    domain: Shape, real: np.dtype[Any], *, edges: ArrayLike, weights: ArrayLike | None = None, levels: int = 3, degree: int | None = None
) -> Operator:
    """Of a variable with one value for each node."""
    checked_edges(domain, edges, weights)
    return graph_wavelets(domain[0], real, edges, weights, levels=levels, degree=degree)
