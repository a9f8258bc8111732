"""l1, ridge and box together, element by element: sum a|u| + r/2 u^2 + indicator of [lower, upper].

Each of them alone is this with the others at rest, and a sum of such functions is one again, which makes it legal to combine them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..bounds import Bound
from ..errors import FlowInputError
from ..pytrees import node, static
from ..sums import summed
from .base import Function, Proximal, exactly, length

PARTS = frozenset({"threshold", "ridge", "bounds"})


@node
class Separable(Function):
    """`threshold` a >= 0, `ridge` r >= 0, `lower` <= `upper` (infinite where there is no bound); scalars or of the shape of u.

    The prox of a convex function of one number, restricted to an interval, is its prox clipped to the interval (B17, Theorem 6.15 and the
    remark on intervals), so this one is exact: clip(S_{tau a}(v) / (1 + tau r), lower, upper).

    `parts` are those that may be other than at rest ("threshold", "ridge", "bounds"); a step leaves the arithmetic of the others out.
    """

    threshold: jax.Array
    ridge: jax.Array
    lower: jax.Array
    upper: jax.Array
    parts: frozenset[str] = static(default=PARTS)

    proximable = separable = True

    def value(self, u: jax.Array) -> jax.Array:
        total = jnp.zeros((), u.dtype)
        if "threshold" in self.parts:
            total = total + _weighted(self.threshold, jnp.abs(u))
        if "ridge" in self.parts:
            total = total + _weighted(self.ridge / 2, u**2)
        return total

    def curvature(self) -> tuple[Bound, Bound]:
        ridge = Bound(float(np.min(self.ridge)), "lower_bound", "ridge")
        return ridge, Bound(float("inf"), "exact", "not smooth")

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        point = v
        if "threshold" in self.parts:
            point = soft_threshold(point, tau * self.threshold)
        if "ridge" in self.parts:
            point = point / (1 + tau * self.ridge)
        if "bounds" in self.parts:
            point = jnp.clip(point, self.lower, self.upper)
        return exactly(self, point)

    def conjugate(self, y: jax.Array) -> jax.Array:
        """sup_u y u - phi(u) is reached where the prox of an infinite step from y would be: at S_a(y)/r clipped, or, with no ridge, at the
        bound that S_a(y) points to."""
        beyond = soft_threshold(y, self.threshold)
        curved = self.ridge > 0
        runaway = jnp.where(beyond == 0, 0.0, jnp.sign(beyond) * jnp.inf)
        best = jnp.clip(jnp.where(curved, beyond / jnp.where(curved, self.ridge, 1), runaway), self.lower, self.upper)
        # |u| (y sign u - a) instead of y u - a |u|: at infinite u this has no inf - inf.
        linear = jnp.where(best == 0, 0, jnp.abs(best) * (y * jnp.sign(best) - self.threshold))
        return summed(jnp.where(curved, linear - self.ridge / 2 * best**2, linear))

    def distance(self, u: jax.Array) -> jax.Array:
        return length(u - jnp.clip(u, self.lower, self.upper)) if "bounds" in self.parts else jnp.zeros((), u.dtype)

    def merged(self, other: Function) -> Function | None:
        if not isinstance(other, Separable):
            return None
        both = self.parts | other.parts
        return Separable(self.threshold + other.threshold, self.ridge + other.ridge, *_common(self, other), both)


@node
class Bounded(Function):
    """phi of a sum over elements, on lower <= u <= upper: its prox is that of phi, clipped."""

    phi: Function
    lower: jax.Array
    upper: jax.Array

    proximable = separable = True

    def value(self, u: jax.Array) -> jax.Array:
        return self.phi.value(u)

    def curvature(self) -> tuple[Bound, Bound]:
        return self.phi.curvature()[0], Bound(float("inf"), "exact", "bounds")

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        return exactly(self, jnp.clip(self.phi.prox(v, tau).point, self.lower, self.upper))

    def distance(self, u: jax.Array) -> jax.Array:
        outside = length(u - jnp.clip(u, self.lower, self.upper))
        return jnp.hypot(outside, self.phi.distance(u))

    def merged(self, other: Function) -> Function | None:
        both = bounded(self.phi, other)
        if not isinstance(both, Bounded):
            return None
        return Bounded(self.phi, *_common(self, both))


def bounded(phi: Function, other: Function) -> Function | None:
    """phi + other where phi is a sum over elements and other is nothing but bounds; else None. Host side."""
    if not phi.separable or not isinstance(other, Separable) or np.any(other.threshold) or np.any(other.ridge):
        return None
    return Bounded(phi, other.lower, other.upper)


def finite_everywhere(phi: Function) -> bool:
    """Whether phi is no indicator of a set, nor has one in it; without the programs that measuring a distance would compile. Host side."""
    if isinstance(phi, Separable):
        return not (np.isfinite(phi.lower).any() or np.isfinite(phi.upper).any())
    return type(phi).distance is Function.distance


def _weighted(weight: jax.Array, parts: jax.Array) -> jax.Array:
    """sum weight parts. One weight for all stands before the sum, which spares an array of it in every step."""
    return summed(weight * parts) if jnp.ndim(weight) else weight * summed(parts)


def _common(one: Separable | Bounded, other: Separable | Bounded) -> tuple[jax.Array, jax.Array]:
    """The bounds of both. Raises FlowInputError where no number is within them. Host side."""
    # NumPy: JAX would compile each operation for each shape.
    lower = np.maximum(np.asarray(one.lower), np.asarray(other.lower))
    upper = np.minimum(np.asarray(one.upper), np.asarray(other.upper))
    if np.any(lower > upper):
        raise FlowInputError("the bounds of two terms on one slot exclude each other somewhere, so no x is within both; widen one of them")
    return jnp.asarray(lower), jnp.asarray(upper)


def soft_threshold(v: jax.Array, t: jax.Array) -> jax.Array:
    """sign(v) max(|v| - t, 0), written as two clips, which is what a processor does fastest."""
    return jnp.asarray(v - jnp.clip(v, -t, t))
