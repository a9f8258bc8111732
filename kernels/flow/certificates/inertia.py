"""Sound lower bounds of the smallest eigenvalue of a symmetric matrix by factorising it: a shifted matrix that has a Cholesky or LDL^T
factor with positive pivots is positive definite, up to a rounding error that is bounded and taken off (Higham, Accuracy and Stability of
Numerical Algorithms, theorem 10.3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg

from ..bounds import Bound
from .structure import EPS

# A banded factor costs n b^2 operations, and a sparse one is only tried up to this many unknowns.
BANDED_WORK = 4e8
SPARSE_SIZE = 40_000
SHIFTS = 24
SPARSE_SHIFTS = 3


def gamma_below(matrix: scipy.sparse.csr_matrix, radius: float, wanted: float) -> Bound | None:
    """A lower bound of lambda_min(L), L within `radius` of the matrix: the largest shift of a bisection that leaves it positive definite.
    None where no factorisation is affordable, or none succeeds. wanted: the shift that is tried first."""
    size = matrix.shape[0]
    order = scipy.sparse.csgraph.reverse_cuthill_mckee(matrix, symmetric_mode=True)
    permuted = matrix[order][:, order].tocoo()
    band = int(np.abs(permuted.row - permuted.col).max(initial=0))
    banded = size * float(band + 1) ** 2 <= BANDED_WORK
    if not banded and size > SPARSE_SIZE:
        return None
    test = _banded_test(permuted, band) if banded else _sparse_test(matrix)
    method = f"Cholesky of L - shift, bandwidth {band}" if banded else "LDL^T inertia of L - shift"
    norm = float(np.abs(matrix).sum(axis=1).max())

    def noise(width: int) -> float:
        # |R^T| |R| has norm at most width ||L||, and each of its entries carries an error of (width + 2) eps.
        return radius + 2 * (width + 2) ** 2 * EPS * norm

    found: Bound | None = None
    lower, upper, tried = 0.0, float(matrix.diagonal().min()), 0
    guess: float | None = wanted + noise(band)
    # By halves of the logarithm: gaps spread over orders of magnitude.
    while guess is not None and tried < (SHIFTS if banded else SPARSE_SHIFTS):
        tried += 1
        width = test(guess)
        if width is None:
            upper = min(upper, guess)
        else:
            lower = guess
            found = Bound(lower - noise(width), "lower_bound", method, tried, noise(width))
        floor = max(lower, noise(band))
        guess = float(np.sqrt(floor * upper)) if upper > 1.02 * floor else None
    return found


# Whether L - shift is positive definite: the number of entries in the fullest row of its factor, or None.
Definite = Callable[[float], int | None]


def _banded_test(permuted: scipy.sparse.coo_matrix, band: int) -> Definite:
    lower = permuted.row >= permuted.col
    stored = np.zeros((band + 1, permuted.shape[0]))
    stored[permuted.row[lower] - permuted.col[lower], permuted.col[lower]] = permuted.data[lower]

    def definite(shift: float) -> int | None:
        shifted = stored.copy()
        shifted[0] -= shift
        try:
            scipy.linalg.cholesky_banded(shifted, lower=True, overwrite_ab=True, check_finite=False)
        except np.linalg.LinAlgError:
            return None
        return band + 1

    return definite


def _sparse_test(matrix: scipy.sparse.csr_matrix) -> Definite:
    identity = scipy.sparse.identity(matrix.shape[0], format="csc")

    def definite(shift: float) -> int | None:
        try:
            factor = scipy.sparse.linalg.splu(
                (matrix - shift * identity).tocsc(),
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )
        except RuntimeError:  # exactly singular
            return None
        # Without a pivot off the diagonal this is L D L^T, and the signs of D are those of the eigenvalues (Sylvester).
        if not np.array_equal(factor.perm_r, factor.perm_c) or np.any(factor.U.diagonal() <= 0):
            return None
        return int(np.bincount(factor.L.indices).max())

    return definite
