"""gamma, the smallest eigenvalue of L, by the soundest method that a block allows: exact by structure, dense, by factorisation, from the
declared moduli and Gershgorin's discs, and only then an estimate."""

from __future__ import annotations

import numpy as np

from ..bounds import Bound
from .curvature import Block, Vector
from .inertia import gamma_below
from .lanczos import smallest
from .records import lowest, weakest
from .structure import EPS, Known


def gamma(block: Block, seen: Known, wanted: float = 0.0) -> Bound:
    """A bound of lambda_min of a block. wanted: what a gate asks for; bounds are not driven far beyond what is needed to answer."""
    if seen.eigen is not None:
        lens, guess = seen.eigen
        value = float(guess.entries.min())
        return Bound(value, "exact", f"eigenvalues: diagonal in {lens.name}", None, guess.radius)
    if seen.dense is not None:
        if not np.all(np.isfinite(seen.dense)):
            return Bound(float("nan"), "estimate", "L is not finite")
        values = np.linalg.eigvalsh(seen.dense)
        # Backward stable: each eigenvalue is off by a modest multiple of n eps ||L|| at most; entries of L carry rounding of their own.
        radius = 8 * block.size * EPS * float(np.abs(values).max(initial=0.0))
        return Bound(float(values[0]), "exact", "eigenvalues of the dense matrix", None, radius)
    bounds = [Bound(block.below, "lower_bound", "convexity moduli of the terms")]
    if seen.sparse is not None:
        rows, radius = seen.sparse
        bounds.append(Bound(gershgorin(rows.diagonal(), np.asarray(abs(rows).sum(axis=1)).ravel()) - radius, "lower_bound", "Gershgorin"))
        if max(bound.value for bound in bounds) < wanted:
            factored = gamma_below(rows, radius, wanted)
            if factored is not None:
                bounds.append(factored)
    best = max(bounds, key=lambda bound: bound.value)
    if best.value >= wanted and best.value > 0:
        return best
    estimate = smallest(block)
    # A sound bound of 0 or less says nothing that a Ritz value does not refine; the kind tells which it is.
    return estimate if not best.value > 0 else best


def gershgorin(diagonal: Vector, row_sums: Vector) -> float:
    """min_i L_ii - R_i, with the signed diagonal; row_sums: of |L_ij| with the diagonal (Gershgorin, 1931)."""
    return float(np.min(diagonal - (row_sums - np.abs(diagonal))))


def joined(bounds: list[Bound]) -> Bound:
    """gamma over blocks: the smallest."""
    least = min(bounds, key=lowest)
    if any(np.isnan(bound.value) for bound in bounds):
        return next(bound for bound in bounds if np.isnan(bound.value))
    kind = weakest([bound.kind for bound in bounds], "lower_bound")
    return Bound(least.value, least.kind if len(bounds) == 1 else kind, least.method, least.steps, least.residual)


def restricted(block: Block, support: Vector) -> Bound:
    """gamma_S = lambda_min of L restricted to the support of a solution: the rate of a sparse iteration once it has found
    the support (Liang, Fadili & Peyre, SIAM J. Optim. 2017). For a report, not for a gate. support: flags, in the basis of L."""
    places = np.flatnonzero(support)
    if not len(places):
        return Bound(float("inf"), "exact", "empty support")
    basis = np.zeros((len(places), block.size))
    basis[np.arange(len(places)), places] = 1.0
    part = block.apply_many(basis)[:, places]
    values = np.linalg.eigvalsh((part + part.T) / 2)
    return Bound(float(values[0]), "exact", "eigenvalues on the support", None, 8 * len(places) * EPS * float(np.abs(values).max()))
