"""Indicators of affine sets, {u: A u = b}, alone and together with u >= 0."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ..errors import FlowInputError
from ..pytrees import node, static
from .base import Function, Proximal
from .sets import Indicator

# Singular values below this, relative to the largest, are rounding errors of rows that depend on each other.
_RANK_TOLERANCE = 1e-10


@node
class Affine(Indicator):
    """{u: A u = b} as {u: R u = c} with R R^T = I: the rows of R span those of A. Made by `affine`."""

    rows: jax.Array  # (rank, size)
    level: jax.Array  # (rank,)

    def project(self, v: jax.Array) -> jax.Array:
        """v - R^T (R v - c), which is v - A^+ (A v - b)."""
        flat = jnp.ravel(v)
        # Once more: what the first pass left of the residual by rounding is removed.
        for _ in range(2):
            flat = flat - self.rows.T @ (self.rows @ flat - self.level)
        return jnp.reshape(flat, v.shape)


@node
class AffineNonnegative(Function):
    """{u: A u = b, u >= 0}: flow conservation. The projection is by Dykstra's algorithm, `inner_steps` rounds of it.

    Projecting onto one set after the other ends in the intersection but not at the nearest point; Dykstra's corrections p (of u >= 0) and
    q = R^T nu (of the affine set) are a block coordinate ascent on the dual problem max -||p + q||^2/2 + <v, p + q> - <c, nu> over p <= 0
    (Bauschke & Combettes, chapter 30). So any earlier corrections are a legal start, and the dual value bounds the gap.
    """

    affine: Affine
    inner_steps: int = static()

    proximable = True
    exact = False

    def value(self, u: jax.Array) -> jax.Array:
        return jnp.zeros((), u.dtype)

    def begin(self, u: jax.Array) -> Any:
        return jnp.zeros(u.size, u.dtype), jnp.zeros_like(self.affine.level)

    def prox(self, v: jax.Array, tau: jax.Array, carry: Any = ()) -> Proximal:
        flat, rows, level = jnp.ravel(v), self.affine.rows, self.affine.level
        start = carry if carry else self.begin(v)
        tiny = 16 * float(np.finfo(v.dtype).eps) * (1 + jnp.linalg.norm(level))

        def unfinished(state: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> jax.Array:
            return jnp.asarray((state[2] < self.inner_steps) & (state[3] > tiny))

        def one(state: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
            p, _, count, _ = state
            nu = rows @ (flat - p) - level
            moved = flat - rows.T @ nu
            p = jnp.minimum(moved, 0)
            return p, nu, count + 1, jnp.linalg.norm(rows @ (moved - p) - level)

        p, nu, _, _ = jax.lax.while_loop(unfinished, one, (*start, jnp.int32(0), jnp.asarray(jnp.inf, v.dtype)))
        moved = flat - rows.T @ nu
        point = jnp.maximum(moved, 0)
        p = moved - point
        correction = p + rows.T @ nu
        dual = jnp.vdot(flat, correction) - jnp.vdot(correction, correction) / 2 - jnp.vdot(level, nu)
        gap = jnp.maximum(jnp.vdot(point - flat, point - flat) / 2 - dual, 0) / tau
        return Proximal(jnp.reshape(point, v.shape), jnp.zeros((), v.dtype), gap, (p, nu))

    def distance(self, u: jax.Array) -> jax.Array:
        flat = jnp.ravel(u)
        return jnp.hypot(jnp.linalg.norm(jnp.minimum(flat, 0)), jnp.linalg.norm(self.affine.rows @ flat - self.affine.level))


def affine(matrix: ArrayLike, target: ArrayLike, real: np.dtype[Any], name: str = "affine") -> Affine:
    """The set A u = b, from its singular value decomposition in float64. Raises FlowInputError where no u satisfies it."""
    a, b = np.asarray(matrix, np.float64), np.ravel(np.asarray(target, np.float64))
    left, sizes, right = np.linalg.svd(a, full_matrices=False)
    kept = sizes > _RANK_TOLERANCE * max(sizes.max(initial=0.0), 1e-300)
    turned = left.T @ b
    unreachable = float(np.linalg.norm(b - left[:, kept] @ turned[kept]))
    if unreachable > 1e-8 * max(1.0, float(np.linalg.norm(b))):
        raise FlowInputError(
            f"the term {name}: no x satisfies A x = b, at best it is {unreachable:.3g} off; correct A or b, or use quadratic"
        )
    return Affine(jnp.asarray(right[kept], real), jnp.asarray(turned[kept] / sizes[kept], real))
