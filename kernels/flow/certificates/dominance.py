"""eta_dd, how far L is from a diagonal matrix in chosen coordinates: max_i sum_{j != i} |L_ij| / |L_ii|."""

from __future__ import annotations

import numpy as np

from ..bounds import Bound
from .curvature import Block, Vector
from .lenses import CertificationLens
from .records import highest, weakest
from .structure import EPS, Guess, Known, diagonal_in, seen_through

# What the diagonal is taken to be at least, so that a zero row has a ratio.
FLOOR = 1e-9
SAMPLED = 32


def eta(block: Block, seen: Known, lens: CertificationLens) -> Bound:
    """A bound of eta_dd of a block in a lens. Of large blocks without structure the rows are sampled: such a bound is from below, which can
    close a gate but never open it."""
    if seen.eigen is not None:
        own, guess = seen.eigen
        if own.name == lens.name:
            return _diagonal(guess.entries, guess.radius, lens)
        if np.ptp(guess.entries) <= guess.radius:  # a multiple of the identity, diagonal in every basis
            return _diagonal(guess.entries, guess.radius, lens)
        if own.name == "dft" and lens.name == "pixel":
            return _circulant(block, guess)
    if seen.dense is not None:
        return _rows(np.abs(seen_through(seen.dense, lens)), "rows of the dense matrix")
    if block.size <= SMALL:
        made = np.stack([lens.forward(block.apply(lens.adjoint(row))) for row in np.eye(block.size)])
        return _rows(np.abs(made), "rows by matvec")
    if lens.name == "pixel" and seen.sparse is not None:
        rows, radius = seen.sparse
        sizes = abs(rows)
        diagonal = np.maximum(sizes.diagonal(), FLOOR)
        beside = np.asarray(sizes.sum(axis=1)).ravel() - sizes.diagonal()
        return Bound(float(np.max(beside / diagonal)), "exact", "rows by coloured probing", None, _radius(radius, block.size, diagonal))
    diagonal_here = diagonal_in(block, lens)
    if diagonal_here is not None:
        return _diagonal(diagonal_here.entries, diagonal_here.radius, lens)
    return _sampled(block, lens)


# Up to this many unknowns all rows are made one by one in a lens other than the one in which L is known.
SMALL = 2048


def _diagonal(entries: Vector, radius: float, lens: CertificationLens) -> Bound:
    # Rows that hold nothing have no ratio; it is gamma that fails for them.
    held = np.abs(entries[np.abs(entries) > FLOOR])
    return Bound(0.0, "exact", f"diagonal in {lens.name}", None, _radius(radius, entries.size, held) if len(held) else 0.0)


def _circulant(block: Block, guess: Guess) -> Bound:
    """(||k||_1 - |k_0|) / |k_0| of the kernel k, the first column of L, slot by slot."""
    kernels = _first_columns(block) if guess.kernel is None else list(guess.kernel)
    worst, smallest = 0.0, np.inf
    for kernel in map(np.abs, kernels):
        centre = max(float(kernel[0]), FLOOR)
        worst = max(worst, float(kernel.sum() - kernel[0]) / centre)
        smallest = min(smallest, centre)
    return Bound(worst, "exact", "kernel of the convolution", None, _radius(guess.radius, block.size, np.array([smallest])) * (1 + worst))


def _first_columns(block: Block) -> list[Vector]:
    """L e for the first element e of each slot, on that slot."""
    ends = np.cumsum([int(np.prod(shape)) for shape in block.shapes])
    found = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        first = np.zeros(block.size)
        first[start] = 1.0
        found.append(block.apply(first)[start:end])
    return found


def _rows(sizes: Vector, method: str) -> Bound:
    diagonal = np.maximum(np.diagonal(sizes), FLOOR)
    beside = sizes.sum(axis=1) - np.diagonal(sizes)
    noise = 8 * len(sizes) * EPS * float(np.linalg.norm(sizes))
    value = float(np.max(beside / diagonal, initial=0.0))
    return Bound(value, "exact", method, None, noise / float(diagonal.min(initial=1.0)) * (1 + value))


def _radius(radius: float, size: int, diagonal: Vector) -> float:
    """An error of `radius` in the Frobenius norm is one of sqrt(n) radius at most in a row's sum."""
    return float(np.sqrt(size) * radius / diagonal.min())


def _sampled(block: Block, lens: CertificationLens) -> Bound:
    chosen = np.unique(np.random.default_rng(3).integers(block.size, size=SAMPLED))
    worst = 0.0
    for place in chosen:
        basis = np.zeros(block.size)
        basis[place] = 1.0
        row = np.abs(lens.forward(block.apply(lens.adjoint(basis))))
        worst = max(worst, float(row.sum() - row[place]) / max(float(row[place]), FLOOR))
    return Bound(worst, "lower_bound", f"the largest of {len(chosen)} sampled rows", len(chosen))


def joined(bounds: list[Bound]) -> Bound:
    """eta_dd over blocks: the largest."""
    most = max(bounds, key=highest)
    if len(bounds) == 1:
        return most
    return Bound(most.value, weakest([bound.kind for bound in bounds], "upper_bound"), most.method, most.steps, most.residual)


def gap_from_dominance(eta_dd: float, smallest_diagonal: float) -> float:
    """gamma >= (1 - eta_dd) min L_ii for a matrix of positive diagonal and eta_dd < 1: the sound link between the two numbers."""
    return (1 - eta_dd) * smallest_diagonal
