"""Eigenvalues of symmetric operators that are only known by what they do to a vector: Lanczos' method, and what its answers are worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from ..bounds import Bound
from ..precision import real_dtype

# An estimate from below is multiplied by at least this much, so that a step of 1/beta is safe in practice.
SAFETY = 1.05
# With at most this probability the random start hides more than the recorded error.
FAILURE = 1e-6
_STEPS = 60


def largest_eigenvalue(apply: Callable[[Any], Any], shape: Any, steps: int = _STEPS) -> Bound:
    """An estimate of the largest eigenvalue of a positive semidefinite operator on arrays of this shape (or of these shapes), widened so
    that it is below with a probability of at most FAILURE; never called exact.

    The largest Ritz value t approaches the eigenvalue from below. With a random start, P[t < (1 - e) lambda] <= 1.648 sqrt(n)
    exp(-sqrt(e) (2k - 1)) after k steps (Kuczynski & Wozniakowski, SIMAX 13, 1992); so t/(1 - e) with the e of that probability. The
    recursion keeps two vectors and does not orthogonalise again: lost orthogonality repeats the extreme Ritz values but does not move
    them (Parlett, The Symmetric Eigenvalue Problem, chapter 13).
    """
    example = jax.tree.map(lambda side: jnp.zeros(side, real_dtype()), shape, is_leaf=_is_shape)
    flat, unravel = ravel_pytree(example)
    if flat.size == 0:
        return Bound(0.0, "exact", "empty")
    steps = min(steps, flat.size)
    start = jnp.asarray(np.random.default_rng(0).standard_normal(flat.size), flat.dtype)
    diagonal, beside = (np.asarray(part, np.float64) for part in lanczos(lambda v: ravel_pytree(apply(unravel(v)))[0], start, steps))
    values, last = ritz(diagonal, beside)
    missed = missed_share(flat.size, len(diagonal))
    factor = max(SAFETY, 1 / (1 - missed)) if missed < 0.5 else 2.0
    method = f"Lanczos x {factor:.4g}; above {missed:.2g} of error with probability {FAILURE:g} at most (KW92)"
    return Bound(max(float(values[-1]), 0.0) * factor, "estimate", method, len(diagonal), float(last[-1]))


def largest_of_positive(apply: Callable[[jax.Array], jax.Array], shape: Any, operations: int, steps: int = _STEPS) -> Bound:
    """A sound upper bound of the largest eigenvalue of a symmetric operator whose entries are all 0 or more: max_i (M v)_i / v_i for any
    v > 0 (Collatz, 1942; Wielandt, 1950), here v after some steps of the power method. operations: how many numbers M adds up for an
    element, at most, whose rounding is put on top."""
    real = real_dtype()

    def one(v: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        image = apply(v)
        # The floor keeps v above 0 where M gives nothing; the ratio is a bound there too.
        return jnp.maximum(image / jnp.max(image), 1e-3), jnp.max(image / v)

    _, ratios = jax.lax.scan(one, jnp.ones(shape, real), None, length=steps)
    least = float(jnp.min(ratios))
    if not np.isfinite(least):  # M is 0
        return Bound(0.0, "exact", "no entry")
    return Bound(least * (1 + 4 * operations * float(np.finfo(real).eps)), "upper_bound", "Collatz-Wielandt ratio", steps)


def lanczos(apply: Callable[[jax.Array], jax.Array], start: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    """The diagonal and off-diagonal of the tridiagonal matrix that `steps` steps leave, off-diagonal k between rows k and k+1 (the last is
    the norm of the residual)."""

    def one(
        carry: tuple[jax.Array, jax.Array, jax.Array], _: None
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
        before, vector, size = carry
        image = apply(vector) - size * before
        along = jnp.vdot(vector, image)
        rest = image - along * vector
        left = jnp.linalg.norm(rest)
        following = rest / jnp.where(left > 0, left, 1)
        return (vector, following, left), (along, left)

    first = start / jnp.linalg.norm(start)
    _, (diagonal, beside) = jax.lax.scan(one, (jnp.zeros_like(first), first, jnp.zeros((), first.dtype)), None, length=steps)
    return diagonal, beside


def ritz(diagonal: NDArray[np.float64], beside: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The Ritz values in order, and for each the norm of its residual. An invariant subspace ends the matrix: what follows is noise."""
    scale = float(np.max(np.abs(diagonal), initial=0.0) + np.max(np.abs(beside), initial=0.0))
    broken = np.flatnonzero(beside <= 1e-14 * scale)
    count = int(broken[0]) + 1 if len(broken) else len(diagonal)
    values, vectors = np.linalg.eigh(np.diag(diagonal[:count]) + np.diag(beside[: count - 1], 1) + np.diag(beside[: count - 1], -1))
    return values, np.abs(beside[count - 1] * vectors[-1])


def missed_share(size: int, steps: int, failure: float = FAILURE) -> float:
    """The relative error e of the largest eigenvalue that is exceeded with probability `failure` at most: exp(-sqrt(e) (2k - 1)) =
    failure / (1.648 sqrt(n)); 0 once the steps are as many as the dimensions."""
    if steps >= size:
        return 0.0
    return float((np.log(1.648 * np.sqrt(size) / failure) / (2 * steps - 1)) ** 2)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(side, int) for side in value)
