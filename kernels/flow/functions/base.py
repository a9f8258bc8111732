"""What a function phi can do for a solver.

A term of an energy is phi(A x). A smooth phi has a gradient, and a solver steps along it; a proximable one has a prox, and a solver steps
to its minimum nearby. Many have both, and the compiler chooses. The weight of a term is part of phi.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from ..bounds import Bound
from ..pytrees import node
from ..sums import summed


class Proximal(NamedTuple):
    """The result of a prox: the point, phi there, a bound on how far phi(z) + ||z - v||^2 / (2 tau) is from its minimum (0 where the prox
    is exact), and what the next prox may start from."""

    point: jax.Array
    value: jax.Array
    gap: jax.Array
    carry: Any


@node
class Function:
    """phi. Records of arrays, like operators.

    smooth, proximable: which of `gradient` and `prox` there are. A phi with a gradient that is nowhere Lipschitz on its domain (Poisson,
    entropy, barrier) is not smooth in this sense: it is proximable, and `differentiable` for those who backtrack. separable: phi is a sum
    over elements, so that tau may be an array of the shape of v. convex: false for what needs `allow_nonconvex`.
    """

    smooth: ClassVar[bool] = False
    proximable: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    separable: ClassVar[bool] = False
    convex: ClassVar[bool] = True
    exact: ClassVar[bool] = True  # the prox is

    def value(self, u: jax.Array) -> jax.Array:
        """phi(u); indicators give 0, their sets are kept by the prox."""
        raise NotImplementedError

    def gradient(self, u: jax.Array) -> jax.Array:
        """grad phi(u), of a smooth phi; of a differentiable one inside its domain."""
        return jnp.asarray(jax.grad(self.value)(u))

    def curvature(self) -> tuple[Bound, Bound]:
        """mu and beta with mu I <= phi'' <= beta I, mu below 0 where phi is not convex, beta infinite where no gradient is Lipschitz.
        Host side."""
        return Bound(0.0, "lower_bound", "convex"), Bound(float("inf"), "exact", "not smooth")

    def begin(self, u: jax.Array) -> Any:
        """What the first prox starts from; of an exact prox nothing."""
        return ()

    def prox(self, v: jax.Array, tau: jax.Array, carry: Any = ()) -> Proximal:
        """argmin_z phi(z) + ||z - v||^2 / (2 tau)."""
        raise NotImplementedError

    def conjugate(self, y: jax.Array) -> jax.Array | None:
        """phi*(y) = sup <y, u> - phi(u), where there is a closed form; +inf outside its domain."""
        return None

    def distance(self, u: jax.Array) -> jax.Array:
        """How far u is from the set on which phi is finite: 0 for phi that is finite everywhere."""
        return jnp.zeros((), u.dtype)

    def merged(self, other: Function) -> Function | None:
        """The sum with another function of the same variable, where that has a prox of its own again; else None."""
        return None


def merge(one: Function, other: Function) -> Function | None:
    """The sum of two functions of the same variable as one with a prox of its own, whichever of them knows how; else None. Host side."""
    known = one.merged(other)
    return other.merged(one) if known is None else known


def length(u: jax.Array) -> jax.Array:
    """The Euclidean norm of all elements."""
    return jnp.sqrt(summed(u**2))


def exactly(phi: Function, point: jax.Array) -> Proximal:
    """The result of an exact prox."""
    return Proximal(point, phi.value(point), jnp.zeros((), point.dtype), ())


def conjugate_prox(phi: Function, v: jax.Array, sigma: jax.Array, carry: Any = ()) -> Proximal:
    """prox of sigma phi* at v, by Moreau: v - sigma prox_{phi/sigma}(v/sigma); the `value` and `gap` are those of the inner prox."""
    step = 1 / sigma  # by which v is multiplied: XLA stores the quotient of an array, not the product
    inner = phi.prox(v * step, step, carry)
    return Proximal(v - sigma * inner.point, inner.value, inner.gap, inner.carry)
