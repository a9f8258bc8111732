"""Functions made from others: moved, behind an operator where the prox stays in closed form, and functions that the user writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..bounds import Bound
from ..operators.base import Operator
from ..pytrees import node, static
from ..sums import summed
from .base import Function, Proximal, exactly
from .separable import bounded
from .squares import HalfSquare


@node
class Translated(Function):
    """phi(u - b), of a phi that is not smooth."""

    phi: Function
    target: jax.Array

    proximable = True

    @property
    def separable(self) -> bool:  # type: ignore[override]  # here it depends on the function inside
        return self.phi.separable

    def value(self, u: jax.Array) -> jax.Array:
        return self.phi.value(u - self.target)

    def curvature(self) -> tuple[Bound, Bound]:
        return self.phi.curvature()

    def begin(self, u: jax.Array) -> Any:
        return self.phi.begin(u - self.target)

    def prox(self, v: jax.Array, tau: jax.Array, carry: Any = ()) -> Proximal:
        made = self.phi.prox(v - self.target, tau, carry)
        return made._replace(point=made.point + self.target)

    def conjugate(self, y: jax.Array) -> jax.Array | None:
        inside = self.phi.conjugate(y)
        return None if inside is None else inside + summed(y * self.target)

    def distance(self, u: jax.Array) -> jax.Array:
        return self.phi.distance(u - self.target)

    def merged(self, other: Function) -> Function | None:
        return bounded(self, other)


@node
class ThroughCoisometry(Function):
    """phi(A x) with A A^T = nu I: prox_tau(v) = v + A^T (prox_{nu tau phi}(A v) - A v)/nu (Combettes & Pesquet, IEEE JSTSP 1, 2007;
    B17, Theorem 6.15)."""

    op: Operator
    phi: Function
    nu: jax.Array

    proximable = True

    def value(self, u: jax.Array) -> jax.Array:
        return self.phi.value(self.op.matvec(u))

    def begin(self, u: jax.Array) -> Any:
        return self.phi.begin(self.op.matvec(u))

    def prox(self, v: jax.Array, tau: jax.Array, carry: Any = ()) -> Proximal:
        seen = self.op.matvec(v)
        made = self.phi.prox(seen, self.nu * tau, carry)
        return made._replace(point=v + self.op.rmatvec(made.point - seen) / self.nu)

    def distance(self, u: jax.Array) -> jax.Array:
        return self.phi.distance(self.op.matvec(u)) / jnp.sqrt(self.nu)


@node
class SquareThrough(Function):
    """w/2 ||A x - b||^2 with (I + tau A^T A)^-1 in closed form: prox_tau(v) = (I + tau w A^T A)^-1 (v + tau w A^T b)."""

    op: Operator
    weight: jax.Array
    target: jax.Array

    smooth = proximable = True

    def value(self, u: jax.Array) -> jax.Array:
        return self.weight / 2 * summed((self.op.matvec(u) - self.target) ** 2)

    def gradient(self, u: jax.Array) -> jax.Array:
        return self.weight * self.op.rmatvec(self.op.matvec(u) - self.target)

    def curvature(self) -> tuple[Bound, Bound]:
        return Bound(0.0, "lower_bound", "convex"), self.op.norm_sq().scaled(float(self.weight))

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        pull = tau * self.weight
        back = self.op.rmatvec(jnp.broadcast_to(self.target, self.op.codomain))
        solved = self.op.solve_shifted(v + pull * back, pull)
        assert solved is not None  # `through` asked before
        return exactly(self, solved)


def through(op: Operator, phi: Function, real: Any) -> Function | None:
    """phi(A x) as a function with a prox of its own, where that has a closed form; else None."""
    if op.structure == "identity":
        return phi if phi.proximable else None
    nu = op.coisometry()
    if nu is not None and phi.proximable:
        return ThroughCoisometry(op, phi, jnp.asarray(nu, real))
    if isinstance(phi, HalfSquare) and jnp.ndim(phi.scale) == 0 and _has_shifted_inverse(op, real):
        return SquareThrough(op, phi.weight * phi.scale**2, phi.target)
    return None


def _has_shifted_inverse(op: Operator, real: Any) -> bool:
    """Whether `solve_shifted` has a closed form, without computing anything by it."""
    nothing = np.zeros((), real)
    return jax.eval_shape(op.solve_shifted, np.broadcast_to(nothing, op.domain), nothing) is not None


@node
class Written(Function):
    """weight * of(x, **arguments), a function that the user writes with jax.numpy; x is a tuple where the term is of several slots. Taken
    as not convex unless it is said to be; `beta` is infinite where no bound of its curvature is given."""

    of: Callable[..., jax.Array] = static()
    weight: jax.Array
    beta: jax.Array
    arguments: dict[str, Any]

    smooth = True
    convex = False

    def value(self, u: Any) -> jax.Array:
        return self.weight * self.of(u, **self.arguments)

    def gradient(self, u: Any) -> Any:
        return jax.grad(self.value)(u)

    def curvature(self) -> tuple[Bound, Bound]:
        above = float(self.weight * self.beta)
        return Bound(-above, "lower_bound", "by the user"), Bound(above, "upper_bound", "by the user")


@node
class ConvexWritten(Written):
    """The same, convex by the word of the user."""

    convex = True

    def curvature(self) -> tuple[Bound, Bound]:
        return Bound(0.0, "lower_bound", "by the user"), super().curvature()[1]


@node
class Orthogonality(Function):
    """w ||U^T U - I||^2 for matrices with orthonormal columns. Not convex; the gradient 4 w U (U^T U - I) has no global Lipschitz constant,
    and the curvature is nowhere below -4 w (its value at U = 0)."""

    weight: jax.Array

    smooth = True
    convex = False

    def _miss(self, u: jax.Array) -> jax.Array:
        return jnp.swapaxes(u, -1, -2) @ u - jnp.eye(u.shape[-1], dtype=u.dtype)

    def value(self, u: jax.Array) -> jax.Array:
        return self.weight * summed(self._miss(u) ** 2)

    def gradient(self, u: jax.Array) -> jax.Array:
        return 4 * self.weight * (u @ self._miss(u))

    def curvature(self) -> tuple[Bound, Bound]:
        return Bound(-4 * float(self.weight), "lower_bound", "at U = 0"), Bound(float("inf"), "exact", "quartic")
