"""Eigenvalues of symmetric operators that are only known by what they do to a vector."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ..bounds import Bound
from ..precision import real_dtype

# An estimate from below by power iteration is multiplied by this much, so that a step of 1/beta is safe in practice.
SAFETY = 1.05
_STEPS = 60


def largest_eigenvalue(apply: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], steps: int = _STEPS) -> Bound:
    """An estimate of the largest eigenvalue of a positive semidefinite operator, from a random start, times SAFETY.

    The Rayleigh quotient of power iteration approaches it from below (Kuczynski & Wozniakowski, SIMAX 13, 1992); never called exact.
    """
    start = jnp.asarray(np.random.default_rng(0).standard_normal(shape), real_dtype())

    def one(vector: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        image = apply(vector)
        value = jnp.vdot(vector, image)
        norm = jnp.linalg.norm(image)
        return jnp.where(norm > 0, image / norm, vector), (value, jnp.linalg.norm(image - value * vector))

    _, (values, residuals) = jax.lax.scan(one, start / jnp.linalg.norm(start), None, length=steps)
    return Bound(float(values[-1]) * SAFETY, "estimate", f"power iteration x {SAFETY}", steps, float(residuals[-1]))
