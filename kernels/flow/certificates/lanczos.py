"""Lanczos' method with full reorthogonalisation: an estimate of the smallest eigenvalue of a symmetric operator, never a certificate.

Ritz values lie inside the spectrum, so the smallest is above the smallest eigenvalue: alone it would overestimate every gap (Parlett, The
Symmetric Eigenvalue Problem). With a random start the error has a bound in probability (Kuczynski & Wozniakowski, SIMAX 13, 1992).
"""

from __future__ import annotations

import numpy as np

from ..bounds import Bound
from .curvature import Block, Vector

STEPS = 60
FAILURE = 1e-6
BREAKDOWN = 1e-13


def tridiagonal(block: Block, steps: int = STEPS, seed: int = 0) -> tuple[Vector, Vector]:
    """The diagonal (k) and off-diagonal (k; the last is the norm of the residual) after k <= steps steps; truncated at a breakdown."""
    rng = np.random.default_rng([seed, block.size])
    vector = rng.standard_normal(block.size)
    basis = np.zeros((min(steps, block.size), block.size))
    diagonal: list[float] = []
    beside: list[float] = []
    vector /= np.linalg.norm(vector)
    for step in range(len(basis)):
        basis[step] = vector
        image = block.apply(vector)
        diagonal.append(float(vector @ image))
        # Twice is enough (Kahan and Parlett): what remains is orthogonal to working precision.
        for _ in range(2):
            image = image - basis[: step + 1].T @ (basis[: step + 1] @ image)
        left = float(np.linalg.norm(image))
        beside.append(left)
        if not np.isfinite(left) or left <= BREAKDOWN * max(*map(abs, diagonal), *beside):
            break
        vector = image / left
    return np.array(diagonal), np.array(beside)


def smallest(block: Block, steps: int = STEPS) -> Bound:
    """An estimate of lambda_min. residual: beta_k |s_k|, within which there is some eigenvalue. The method tells, where ||L|| is soundly
    bounded, how far below lambda_min may still be with a probability of FAILURE."""
    diagonal, beside = tridiagonal(block, steps)
    if not np.all(np.isfinite(diagonal)):
        return Bound(float("nan"), "estimate", "Lanczos; L is not finite", len(diagonal))
    count = len(diagonal)
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside[: count - 1], 1) + np.diag(beside[: count - 1], -1))
    residual = float(beside[-1] * abs(vectors[-1, 0]))
    method = "Lanczos, reorthogonalised"
    if block.above_sound and np.isfinite(block.above):
        # KW92 for beta I - L, whose largest eigenvalue is beta - lambda_min.
        share = min((np.log(1.648 * np.sqrt(block.size) / FAILURE) / max(2 * count - 1, 1)) ** 2, 1.0)
        below = block.above - (block.above - values[0]) / (1 - share) if share < 1 else -np.inf
        method += f"; at least {below:.3g} with probability 1 - {FAILURE:g} (KW92)"
    return Bound(float(values[0]), "estimate", method, count, residual)
