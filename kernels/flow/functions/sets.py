"""Indicators of convex sets: balls, simplices, knapsacks. Their prox is the projection, whatever the step."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..pytrees import node, static
from ..sums import summed
from .base import Function, Proximal, exactly, length

# Halvings of a bracket: more than a float64 has bits, so the bracket ends as two neighbouring numbers.
_BISECTIONS = 80


@node
class Indicator(Function):
    """0 on a set, infinite elsewhere; `project` gives the nearest point of the set."""

    proximable = True

    def project(self, v: jax.Array) -> jax.Array:
        """The nearest point of the set."""
        raise NotImplementedError

    def value(self, u: jax.Array) -> jax.Array:
        return jnp.zeros((), u.dtype)

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        return exactly(self, self.project(v))

    def distance(self, u: jax.Array) -> jax.Array:
        return length(u - self.project(u))


@node
class L2Ball(Indicator):
    """||u - centre|| <= radius."""

    radius: jax.Array
    centre: jax.Array

    def project(self, v: jax.Array) -> jax.Array:
        away = v - self.centre
        # In units of the largest element, so that no square overflows.
        unit = jnp.max(jnp.abs(away), initial=0.0)
        unit = jnp.where(unit > 0, unit, 1)
        away = away / unit
        size = length(away)
        return jnp.where(size > self.radius / unit, self.centre + away * (self.radius / jnp.where(size > 0, size, 1)), v)

    def conjugate(self, y: jax.Array) -> jax.Array:
        return self.radius * length(y) + summed(y * self.centre)


@node
class Simplex(Indicator):
    """u >= 0 with sum `total`: all of u, or along the last axis if `rows`."""

    total: jax.Array
    rows: bool = static()

    def project(self, v: jax.Array) -> jax.Array:
        flat = v if self.rows else jnp.ravel(v)
        return jnp.reshape(project_simplex(flat, self.total), v.shape)

    def conjugate(self, y: jax.Array) -> jax.Array:
        return self.total * (jnp.sum(jnp.max(y, axis=-1)) if self.rows else jnp.max(y))


@node
class L1Ball(Indicator):
    """||u||_1 <= radius: of all of u."""

    radius: jax.Array

    def project(self, v: jax.Array) -> jax.Array:
        """S_theta(v) with the theta of the simplex projection of |v| (Duchi et al., ICML 2008)."""
        inside = summed(jnp.abs(v)) <= self.radius
        shrunk = jnp.sign(v) * jnp.reshape(project_simplex(jnp.ravel(jnp.abs(v)), self.radius), v.shape)
        return jnp.where(inside, v, shrunk)

    def conjugate(self, y: jax.Array) -> jax.Array:
        return self.radius * jnp.max(jnp.abs(y))


@node
class Knapsack(Indicator):
    """lower <= u <= upper with <costs, u> <= budget, costs >= 0."""

    costs: jax.Array
    budget: jax.Array
    lower: jax.Array
    upper: jax.Array

    def project(self, v: jax.Array) -> jax.Array:
        """clip(v - mu c, lower, upper) with the least mu >= 0 that keeps the budget. What it costs falls with mu, so bisection finds which
        elements are strictly inside; mu is then their exact solution."""

        def at(mu: jax.Array) -> jax.Array:
            return jnp.clip(v - mu * self.costs, self.lower, self.upper)

        def spent(mu: jax.Array) -> jax.Array:
            return summed(self.costs * at(mu))

        def halve(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bracket
            middle = (low + high) / 2
            over = spent(middle) > self.budget
            return jnp.where(over, middle, low), jnp.where(over, high, middle)

        paid = self.costs > 0
        # Where everything that costs has come down to its lower bound; nothing is gained beyond.
        most = jnp.max(jnp.where(paid, (v - self.lower) / jnp.where(paid, self.costs, 1), 0), initial=0.0)
        low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (jnp.zeros((), v.dtype), jnp.maximum(most, 0).astype(v.dtype)))
        middle = (low + high) / 2
        moved = v - middle * self.costs
        free = paid & (moved > self.lower) & (moved < self.upper)
        held = summed(jnp.where(free, 0, self.costs * jnp.clip(moved, self.lower, self.upper)))
        squares = summed(jnp.where(free, self.costs**2, 0))
        solved = (summed(jnp.where(free, self.costs * v, 0)) + held - self.budget) / jnp.where(squares > 0, squares, 1)
        # The solution belongs to the elements that the bracket says are free; should rounding have put it elsewhere, keep the bracket.
        close = (squares > 0) & (jnp.abs(solved - middle) <= 1e-3 * (1 + jnp.abs(middle)))
        return jnp.where(spent(jnp.zeros((), v.dtype)) <= self.budget, at(jnp.zeros((), v.dtype)), at(jnp.where(close, solved, high)))


def project_simplex(v: jax.Array, total: jax.Array) -> jax.Array:
    """The nearest point with u >= 0 and sum `total` along the last axis: max(v - theta, 0), theta from the sorted elements (Duchi et al.,
    ICML 2008, figure 1)."""
    # Moving all elements by the same amount moves theta alike. From the largest on, the total is not lost beside them.
    v = v - jnp.max(v, axis=-1, keepdims=True)
    falling = -jnp.sort(-v, axis=-1)
    excess = jnp.cumsum(falling, axis=-1) - total
    ranks = jnp.arange(1, v.shape[-1] + 1, dtype=v.dtype)
    support = jnp.sum(falling * ranks > excess, axis=-1, keepdims=True)
    theta = jnp.take_along_axis(excess, support - 1, axis=-1) / support
    return jnp.maximum(v - theta, 0)
