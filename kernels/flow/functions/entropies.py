"""Entropy and the logarithmic barrier: finite on positive arrays only, and their gradients are not Lipschitz there, so a solver uses the
prox."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from ..pytrees import node
from ..sums import summed
from .base import Function, Proximal, exactly, length
from .losses import positive_root
from .separable import bounded
from .sets import Simplex

# Newton's method for the Wright omega function falls monotonically onto the root from the start used here; five steps
# reach rounding, and three more are to spare.
_OMEGA_STEPS = 8
_BISECTIONS = 80


@node
class Entropy(Function):
    """w sum u log u (0 log 0 = 0): minimising it spreads u out."""

    weight: jax.Array

    proximable = separable = differentiable = True

    def value(self, u: jax.Array) -> jax.Array:
        return self.weight * summed(xlogy(u, jnp.maximum(u, 0)))

    def gradient(self, u: jax.Array) -> jax.Array:
        return self.weight * (jnp.log(u) + 1)

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        return exactly(self, _entropy_prox(v, tau * self.weight))

    def conjugate(self, y: jax.Array) -> jax.Array:
        return self.weight * summed(jnp.exp(y / self.weight - 1))

    def distance(self, u: jax.Array) -> jax.Array:
        return length(jnp.minimum(u, 0))

    def merged(self, other: Function) -> Function | None:
        if isinstance(other, Simplex):
            return None if other.rows else SimplexEntropy(self.weight, other.total)
        return bounded(self, other)


@node
class SimplexEntropy(Function):
    """w sum u log u on {u >= 0, sum u = total}. Its gradient step in the Kullback-Leibler geometry is a softmax; its Euclidean prox is
    that of the entropy, shifted until it sums up to the total."""

    weight: jax.Array
    total: jax.Array

    proximable = differentiable = True

    def value(self, u: jax.Array) -> jax.Array:
        return self.weight * summed(xlogy(u, jnp.maximum(u, 0)))

    def gradient(self, u: jax.Array) -> jax.Array:
        return self.weight * (jnp.log(u) + 1)

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        pull = tau * self.weight
        # At this shift and above even the largest element is below total/n; below the other it alone is the total.
        total, count = self.total, v.size
        high = jnp.max(v) - pull * (jnp.log(total / count) + 1) - total / count
        low = jnp.max(v) - pull * (jnp.log(total) + 1) - total

        def halve(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bracket
            middle = (low + high) / 2
            more = summed(_entropy_prox(v - middle, pull)) > total
            return jnp.where(more, middle, low), jnp.where(more, high, middle)

        low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (low, high))
        point = _entropy_prox(v - (low + high) / 2, pull)
        return exactly(self, point * (total / summed(point)))

    def conjugate(self, y: jax.Array) -> jax.Array:
        """w t logsumexp(y/w) - w t log t, t the total."""
        spread = jax.scipy.special.logsumexp(jnp.ravel(y) / self.weight)
        return self.weight * self.total * (spread - jnp.log(self.total))

    def distance(self, u: jax.Array) -> jax.Array:
        return jnp.hypot(length(jnp.minimum(u, 0)), jnp.abs(summed(u) - self.total))


@node
class LogBarrier(Function):
    """-w sum log u: keeps u positive; as w goes to 0 it becomes the indicator of u >= 0."""

    weight: jax.Array

    proximable = separable = differentiable = True

    def value(self, u: jax.Array) -> jax.Array:
        return -self.weight * summed(jnp.log(jnp.maximum(u, 0)))

    def gradient(self, u: jax.Array) -> jax.Array:
        return -self.weight / u

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        """(v + sqrt(v^2 + 4 tau w))/2."""
        return exactly(self, positive_root(v, jnp.broadcast_to(tau * self.weight, v.shape)))

    def conjugate(self, y: jax.Array) -> jax.Array:
        inside = jnp.all(y < 0)
        safe = jnp.where(y < 0, -y, 1)
        return jnp.where(inside, summed(self.weight * (jnp.log(self.weight / safe) - 1)), jnp.inf)

    def distance(self, u: jax.Array) -> jax.Array:
        return length(jnp.minimum(u, 0))

    def merged(self, other: Function) -> Function | None:
        return bounded(self, other)


def _entropy_prox(v: jax.Array, pull: jax.Array) -> jax.Array:
    """The root z of z + p (log z + 1) = v: z = p W_0(e^{v/p - 1}/p) (Lambert), here as p omega(v/p - 1 - log p), which does not overflow
    for large v/p."""
    return pull * _wright_omega(v / pull - 1 - jnp.log(pull))


def _wright_omega(z: jax.Array) -> jax.Array:
    """omega + log omega = z, for real z. Newton's method on e^s + s = z, s = log omega, from above: the left side is convex and rises, so
    the steps fall monotonically onto the root."""
    start = jnp.where(z > 1, jnp.log(jnp.maximum(z, 1)), z)

    def one(_: int, s: jax.Array) -> jax.Array:
        grown = jnp.exp(s)
        return s - (grown + s - z) / (grown + 1)

    return jnp.exp(jax.lax.fori_loop(0, _OMEGA_STEPS, one, start))
