"""Total variation with a prox of its own: exact in one dimension, in linear time, and by an inner iteration that reports its gap in more.

Where a solver takes composite terms, total variation is a norm behind a difference operator instead, and needs neither of these.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ..bounds import Bound
from ..operators.stencils import Boundary, ahead, back
from ..pytrees import node, static
from .base import Function, Proximal, exactly
from .separable import Separable, soft_threshold


@node
class LineVariation(Function):
    """w sum |u[i+1] - u[i]| along the last axis, + what is merged into it: sum a|u| + r/2 u^2 and bounds, each the same for all elements.

    The prox is exact. Total variation is the Lovasz extension of a cut, so that a further sum of one scalar function over the elements is
    served by the scalar prox after it ("fused lasso": Friedman et al., Ann. Appl. Stat. 1, 2007; Bach, FnT ML 6, 2013, section 8).
    """

    weight: jax.Array
    plus: Separable

    proximable = True

    def value(self, u: jax.Array) -> jax.Array:
        return self.weight * jnp.sum(jnp.abs(jnp.diff(u, axis=-1))) + self.plus.value(u)

    def curvature(self) -> tuple[Bound, Bound]:
        return self.plus.curvature()

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        shrunk = 1 + tau * self.plus.ridge
        step = tau / shrunk
        rows = jnp.reshape(v / shrunk, (-1, v.shape[-1]))
        fitted = (
            jax.lax.map(lambda row: denoise_line(row, step * self.weight), rows)
            if len(rows) > 1
            else denoise_line(rows[0], step * self.weight)
        )
        sparse = soft_threshold(jnp.reshape(fitted, v.shape), step * self.plus.threshold)
        return exactly(self, jnp.clip(sparse, self.plus.lower, self.plus.upper))

    def distance(self, u: jax.Array) -> jax.Array:
        return self.plus.distance(u)

    def merged(self, other: Function) -> Function | None:
        if not isinstance(other, Separable) or any(part.ndim for part in (other.threshold, other.ridge, other.lower, other.upper)):
            return None
        both = self.plus.merged(other)
        return LineVariation(self.weight, both) if isinstance(both, Separable) else None


def denoise_line(y: jax.Array, weight: jax.Array) -> jax.Array:
    """argmin_x ||x - y||^2/2 + weight sum |x[i+1] - x[i]|, exactly, in O(n).

    Dynamic programming (Johnson, J. Comput. Graph. Stat. 22, 2013). Let m_i(x) be the least energy of the first i samples with x_i = x. Its
    derivative rises and is piecewise linear; the difference to x_{i+1} clips it to [-weight, weight], at low_i and high_i, and the next
    sample adds x - y_{i+1}. So x_n is where the last derivative is 0, and x_i = clip(x_{i+1}, low_i, high_i) backwards. The kinks are kept in
    order in a double-ended queue, two are added by each sample and each is removed at most once, which makes the time linear.

    A kink holds its position and by how much slope and intercept of the derivative jump there. Beyond all kinks the derivative is
    x - y - weight on the left and x - y + weight on the right.
    """
    count = y.shape[0]
    if count == 1:
        return y
    lows, highs = jnp.zeros((2, count), y.dtype)
    queue = jnp.zeros((3, 2 * count + 2), y.dtype)  # positions, jumps of slopes, jumps of intercepts
    first = jnp.int32(count)  # of the queue; `last` is inclusive, so it is empty when first = last + 1

    def cross(queue: jax.Array, at: jax.Array, end: jax.Array, slope: jax.Array, intercept: jax.Array, level: jax.Array, step: int) -> Any:
        """Walks from one end of the queue (step +1: from the left) over the kinks that lie before the place where the derivative is
        `level`. Returns the next kink, and the line on which the place is."""

        def before(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            k, slope, intercept = state
            here = slope * queue[0, k] + intercept
            return (step * (end - k) >= 0) & (step * (level - here) >= 0)

        def over(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            k, slope, intercept = state
            return k + step, slope + step * queue[1, k], intercept + step * queue[2, k]

        return jax.lax.while_loop(before, over, (at, slope, intercept))

    one = jnp.ones((), y.dtype)

    def sample(i: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        queue, left, right, lows, highs = carry
        outside = jnp.where(i == 0, 0, weight)  # before the first sample there is no message
        k, slope, intercept = cross(queue, left, right, one, -y[i] - outside, -weight, 1)
        low = (-weight - intercept) / slope
        left = k - 1
        k, slope_h, intercept_h = cross(queue, right, left + 1, one, -y[i] + outside, weight, -1)
        high = (weight - intercept_h) / slope_h
        right = k + 1
        # Left of `low` the clipped derivative is -weight, right of `high` it is +weight: slope 0 outside, the lines found inside.
        queue = queue.at[:, left].set(jnp.stack([low, slope, intercept + weight]))
        queue = queue.at[:, right].set(jnp.stack([high, -slope_h, weight - intercept_h]))
        return queue, left, right, lows.at[i].set(low), highs.at[i].set(high)

    queue, left, right, lows, highs = jax.lax.fori_loop(0, count - 1, sample, (queue, first, first - 1, lows, highs))
    _, slope, intercept = cross(queue, left, right, one, -y[-1] - weight, jnp.zeros((), y.dtype), 1)
    end = -intercept / slope

    def backwards(x: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x = jnp.clip(x, bounds[0], bounds[1])
        return x, x

    _, rest = jax.lax.scan(backwards, end, (lows[:-1], highs[:-1]), reverse=True)
    return jnp.append(rest, end)


@node
class Variation(Function):
    """w sum of |D u| over the given axes, D first differences; `isotropic`: of the Euclidean norm of the vector of differences at each
    element, else of their absolute values.

    The prox takes `inner_steps` steps of fast gradient projection on the dual (Beck & Teboulle, IEEE TIP 18(11), 2009, algorithm 4.1), from
    where the last call ended. With m = tau w: z = v - m D^T p, |p| <= 1. The duality gap m sum (|D z| - <D z, p>) is a sum of terms that are
    never negative; divided by tau it is in units of the energy.
    """

    weight: jax.Array
    axes: tuple[int, ...] = static()
    isotropic: bool = static()
    boundary: Boundary = static()
    inner_steps: int = static()

    proximable = True
    exact = False

    def _apply(self, u: jax.Array) -> jax.Array:
        return jnp.stack([ahead(u, axis, self.boundary) for axis in self.axes])

    def _transposed(self, p: jax.Array) -> jax.Array:
        return jnp.asarray(sum(back(part, axis, self.boundary) for part, axis in zip(p, self.axes, strict=True)))

    def _sizes(self, differences: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(differences**2, axis=0)) if self.isotropic else jnp.abs(differences)

    def value(self, u: jax.Array) -> jax.Array:
        return self.weight * jnp.sum(self._sizes(self._apply(u)))

    def begin(self, u: jax.Array) -> jax.Array:
        return jnp.zeros((len(self.axes), *u.shape), u.dtype)

    def prox(self, v: jax.Array, tau: jax.Array, carry: Any = ()) -> Proximal:
        m = tau * self.weight
        start = self.begin(v) if isinstance(carry, tuple) else carry
        ascent = 1 / (4 * len(self.axes) * m)

        def climb(_: int, state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            p, r, t = state
            risen = r + ascent * self._apply(v - m * self._transposed(r))
            following = risen / jnp.maximum(1, self._sizes(risen))
            grown = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
            return following, following + (t - 1) / grown * (following - p), grown

        p, _, _ = jax.lax.fori_loop(0, self.inner_steps, climb, (start, start, jnp.ones((), v.dtype)))
        point = v - m * self._transposed(p)
        differences = self._apply(point)
        total = jnp.sum(self._sizes(differences))
        return Proximal(point, self.weight * total, self.weight * (total - jnp.vdot(differences, p)), p)
