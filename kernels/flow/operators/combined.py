"""Operators made from operators: scaled, one after the other, summed, stacked, and side by side on several variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..bounds import Bound, Kind, total
from ..errors import FlowInputError
from ..pytrees import node, static
from .arrays import Identity
from .base import Op, Operator, Shape, build, operator

# Its square, the bound of a step, is a number still.
LARGEST = 1e150


@node
class Scaled(Operator):
    """x -> factor A x. The factor is part of the structure, so that what follows from it (nu of A A^T = nu I) is known while compiling."""

    factor: float = static()
    inner: Operator

    @property
    def structure(self) -> str:  # type: ignore[override]  # that of the operator inside
        return "diag" if self.inner.structure == "identity" else self.inner.structure

    def matvec(self, x: jax.Array) -> jax.Array:
        return self.factor * self.inner.matvec(x)

    def rmatvec(self, y: jax.Array) -> jax.Array:
        return self.inner.rmatvec(self.factor * y)

    def norm_sq(self) -> Bound:
        return self.inner.norm_sq().scaled(self.factor**2)

    def coisometry(self) -> float | None:
        nu = self.inner.coisometry()
        return None if nu is None or self.factor == 0 else nu * self.factor**2

    def orthonormal(self) -> bool:
        return self.inner.orthonormal() and abs(self.factor) == 1

    def normal_diagonal(self) -> jax.Array | None:
        inside = self.inner.normal_diagonal()
        return None if inside is None else self.factor**2 * inside

    def solve_shifted(self, rhs: jax.Array, tau: jax.Array) -> jax.Array | None:
        return self.inner.solve_shifted(rhs, tau * self.factor**2)


@node
class Composed(Operator):
    """x -> A (B x)."""

    outer: Operator
    inner: Operator

    def matvec(self, x: jax.Array) -> jax.Array:
        return self.outer.matvec(self.inner.matvec(x))

    def rmatvec(self, y: jax.Array) -> jax.Array:
        return self.inner.rmatvec(self.outer.rmatvec(y))

    def norm_sq(self) -> Bound:
        """Exact where B is a multiple of a coisometry, else ||A||^2 ||B||^2, which is never below."""
        outer, nu = self.outer.norm_sq(), self.inner.coisometry()
        if nu is not None:
            return outer.scaled(nu)
        inner = self.inner.norm_sq()
        kind: Kind = "upper_bound" if outer.sound_above and inner.sound_above else "estimate"
        return Bound(outer.value * inner.value, kind, "product of the norms")

    def coisometry(self) -> float | None:
        outer, inner = self.outer.coisometry(), self.inner.coisometry()
        return None if outer is None or inner is None else outer * inner

    def orthonormal(self) -> bool:
        return self.outer.orthonormal() and self.inner.orthonormal()

    def solve_shifted(self, rhs: jax.Array, tau: jax.Array) -> jax.Array | None:
        """In the coordinates of an orthonormal B; and with A A^T = nu I and B B^T = nu' I by the rule of Sherman, Morrison and Woodbury."""
        if self.inner.orthonormal():
            turned = self.outer.solve_shifted(self.inner.matvec(rhs), tau)
            return None if turned is None else self.inner.rmatvec(turned)
        nu = self.coisometry()
        if nu is not None:
            return rhs - self.rmatvec(self.matvec(rhs)) * (tau / (1 + tau * nu))
        return None


@node
class Sum(Operator):
    """x -> sum_i A_i x."""

    parts: tuple[Operator, ...]

    def matvec(self, x: jax.Array) -> jax.Array:
        images = [part.matvec(x) for part in self.parts]
        return jnp.asarray(sum(images[1:], start=images[0]))

    def rmatvec(self, y: jax.Array) -> jax.Array:
        images = [part.rmatvec(y) for part in self.parts]
        return jnp.asarray(sum(images[1:], start=images[0]))

    def norm_sq(self) -> Bound:
        """(sum_i ||A_i||)^2."""
        bounds = [part.norm_sq() for part in self.parts]
        value = sum(float(np.sqrt(bound.value)) for bound in bounds) ** 2
        return Bound(value, total(bounds).kind, "sum of the norms" if len(bounds) > 1 else bounds[0].method)


@node
class Stack(Operator):
    """x -> (A_1 x, A_2 x, ...), as one flat array."""

    parts: tuple[Operator, ...]

    def matvec(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([jnp.ravel(part.matvec(x)) for part in self.parts])

    def rmatvec(self, y: jax.Array) -> jax.Array:
        ends = np.cumsum([int(np.prod(part.codomain)) for part in self.parts])[:-1]
        pieces = jnp.split(y, ends)
        images = [part.rmatvec(jnp.reshape(piece, part.codomain)) for part, piece in zip(self.parts, pieces, strict=True)]
        return jnp.asarray(sum(images[1:], start=images[0]))

    def norm_sq(self) -> Bound:
        """sum_i ||A_i||^2."""
        return total([part.norm_sq() for part in self.parts], "sum over the stack")

    def normal_diagonal(self) -> jax.Array | None:
        diagonals = [part.normal_diagonal() for part in self.parts]
        known = [diagonal for diagonal in diagonals if diagonal is not None]
        return jnp.asarray(sum(known[1:], start=known[0])) if len(known) == len(diagonals) else None


@node
class Beside(Operator):
    """(x_1, x_2, ...) -> sum_i A_i x_i, on several variables; `domain` is the tuple of their shapes."""

    parts: tuple[Operator, ...]

    def matvec(self, x: Any) -> jax.Array:
        images = [part.matvec(one) for part, one in zip(self.parts, x, strict=True)]
        return jnp.asarray(sum(images[1:], start=images[0]))

    def rmatvec(self, y: jax.Array) -> Any:
        return tuple(part.rmatvec(y) for part in self.parts)

    def norm_sq(self) -> Bound:
        """sum_i ||A_i||^2; exact where A_i A_i^T = nu_i I for all, as sum_i nu_i."""
        fixed = [part.coisometry() for part in self.parts]
        if all(nu is not None for nu in fixed):
            return Bound(sum(nu for nu in fixed if nu is not None), "exact", "coisometries side by side")
        return total([part.norm_sq() for part in self.parts], "sum over the variables")


@node
class Several(Operator):
    """(x_1, x_2, ...) -> the same: the identity on several variables, for functions that take a tuple."""

    structure = "identity"

    def matvec(self, x: Any) -> Any:
        return x

    def rmatvec(self, y: Any) -> Any:
        return y

    def norm_sq(self) -> Bound:
        return Bound(1.0, "exact", "identity")


def scaled(inner: Operator, factor: float) -> Operator:
    """factor A."""
    return Scaled(inner.domain, inner.codomain, factor, inner)


def beside(parts: Sequence[Operator], names: Sequence[str] = ()) -> Beside:
    """Operators side by side. Raises FlowInputError where what they give differs in shape."""
    shapes = [part.codomain for part in parts]
    if len(set(shapes)) > 1:
        raise FlowInputError(
            f"the operators on {' and '.join(names) or 'the variables'} give arrays of shapes {shapes}; they must be the same"
        )
    domain: Any = tuple(part.domain for part in parts)  # several shapes, as the class says
    return Beside(domain, shapes[0], tuple(parts))


@operator("scale")
def _scale(domain: Shape, real: np.dtype[Any], *, factor: float, of: Op | Operator | None = None) -> Operator:
    """factor: a number. of: the operator that is scaled; the identity by default."""
    number = np.asarray(factor)
    if number.dtype.kind not in "biuf" or number.ndim or not abs(number) < LARGEST:
        raise FlowInputError(f"scale has factor {factor!r:.80}; it must be one number below {LARGEST:g}; use diagonal for an array")
    return scaled(Identity(domain, domain) if of is None else build(of, domain, real), float(number))


@operator("compose")
def _compose(domain: Shape, real: np.dtype[Any], *, of: Sequence[Op | Operator]) -> Operator:
    """of: the operators as they are written, A B C: the last is applied first."""
    made = build(_some(of, "compose")[-1], domain, real)
    for described in reversed(of[:-1]):
        outer = build(described, made.codomain, real)
        made = Composed(made.domain, outer.codomain, outer, made)
    return made


@operator("sum")
def _sum(domain: Shape, real: np.dtype[Any], *, of: Sequence[Op | Operator]) -> Operator:
    parts = tuple(build(described, domain, real) for described in _some(of, "sum"))
    if len({part.codomain for part in parts}) > 1:
        raise FlowInputError(f"the operators of a sum give arrays of shapes {[part.codomain for part in parts]}; they must be the same")
    return Sum(domain, parts[0].codomain, parts)


@operator("stack")
def _stack(domain: Shape, real: np.dtype[Any], *, of: Sequence[Op | Operator]) -> Operator:
    parts = tuple(build(described, domain, real) for described in _some(of, "stack"))
    return Stack(domain, (sum(int(np.prod(part.codomain)) for part in parts),), parts)


def _some(of: Sequence[Op | Operator], name: str) -> Sequence[Op | Operator]:
    if not len(of):
        raise FlowInputError(f"{name} takes a list of at least one operator")
    return of
