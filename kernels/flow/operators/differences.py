"""Differences of n-dimensional arrays: gradients, second differences, the Laplacian, divergence and curl.

One operator stacks the differences along several axes; its norm is exact, because A^T A is a sum of operators that each act on one axis.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ..bounds import Bound
from ..errors import FlowInputError
from ..pytrees import node, static
from .base import Operator, Shape, operator
from .bases import laplacian_spectrum, solve_in_basis
from .stencils import BOUNDARIES, Boundary, ahead, back, largest, second, second_transposed


@node
class Differences(Operator):
    """x -> (D_a x / h_a^order) for the axes a, stacked along a new first axis. First differences with the boundary "dirichlet" are one
    longer along every axis than x."""

    axes: tuple[int, ...] = static()
    spacing: tuple[float, ...] = static()
    boundary: Boundary = static()
    order: int = static()

    structure = "stencil"

    @property
    def _longer(self) -> bool:
        return self.boundary == "dirichlet" and self.order == 1

    def matvec(self, x: jax.Array) -> jax.Array:
        if self._longer:
            x = jnp.pad(x, [(1, 0)] * x.ndim)
        one = ahead if self.order == 1 else second
        return jnp.stack([one(x, axis, self.boundary) / h**self.order for axis, h in zip(self.axes, self.spacing, strict=True)])

    def rmatvec(self, y: jax.Array) -> jax.Array:
        one = back if self.order == 1 else second_transposed
        parts = [one(part, axis, self.boundary) / h**self.order for part, axis, h in zip(y, self.axes, self.spacing, strict=True)]
        whole = jnp.asarray(sum(parts[1:], start=parts[0]))
        return whole[(slice(1, None),) * whole.ndim] if self._longer else whole

    def norm_sq(self) -> Bound:
        found = [largest(self.domain[axis], self.boundary, self.order) for axis in self.axes]
        value = sum(most / h ** (2 * self.order) for (most, _), h in zip(found, self.spacing, strict=True))
        exact = all(sure for _, sure in found)
        return Bound(value, "exact" if exact else "upper_bound", "spectra of the axes" if exact else "16 for each axis")

    def normal_diagonal(self) -> jax.Array | None:
        """By the rows of the stencil: the squares of its weights, where they fall."""
        total = jnp.zeros(self.domain)
        for axis, h in zip(self.axes, self.spacing, strict=True):
            length = self.domain[axis]
            rows = np.asarray(_matrix(length, self.boundary, self.order)) if length <= 8 else None
            if rows is None:
                # Beyond a few samples from the ends the stencil is the same: the diagonal of a short array, its middle repeated.
                short = np.sum(_matrix(8, self.boundary, self.order) ** 2, axis=0)
                column = np.concatenate([short[:4], np.full(length - 8, short[4]), short[4:]])
            else:
                column = np.sum(rows**2, axis=0)
            along = [1] * len(self.domain)
            along[axis] = length
            total = total + jnp.asarray(column.reshape(along) / h ** (2 * self.order))
        return total

    def solve_shifted(self, rhs: jax.Array, tau: jax.Array) -> jax.Array | None:
        if self.boundary == "free" or (self.order == 2 and len(self.axes) > 1):
            return None
        weights = tuple(1 / h**2 for h in self.spacing)
        spectrum = laplacian_spectrum(self.domain, self.axes, weights, self.boundary, rhs.dtype) ** self.order
        return solve_in_basis(rhs, 1 + tau * spectrum, self.axes, self.boundary)


@node
class Laplacian(Operator):
    """x -> sum_a d^2 x/da^2, symmetric and never positive."""

    axes: tuple[int, ...] = static()
    spacing: tuple[float, ...] = static()
    boundary: Boundary = static()

    structure = "stencil"

    def matvec(self, x: jax.Array) -> jax.Array:
        parts = [second(x, axis, self.boundary) / h**2 for axis, h in zip(self.axes, self.spacing, strict=True)]
        return jnp.asarray(sum(parts[1:], start=parts[0]))

    def rmatvec(self, y: jax.Array) -> jax.Array:
        return self.matvec(y)

    def norm_sq(self) -> Bound:
        most = sum(largest(self.domain[axis], self.boundary, 1)[0] / h**2 for axis, h in zip(self.axes, self.spacing, strict=True))
        return Bound(most**2, "exact", "spectra of the axes")

    def solve_shifted(self, rhs: jax.Array, tau: jax.Array) -> jax.Array:
        weights = tuple(1 / h**2 for h in self.spacing)
        spectrum = laplacian_spectrum(self.domain, self.axes, weights, self.boundary, rhs.dtype)
        return solve_in_basis(rhs, 1 + tau * spectrum**2, self.axes, self.boundary)


@node
class Divergence(Operator):
    """(v_1, ..., v_d) -> sum_a D_a v_a / h_a of a vector field, components along the first axis."""

    spacing: tuple[float, ...] = static()
    boundary: Boundary = static()

    structure = "stencil"

    def matvec(self, x: jax.Array) -> jax.Array:
        parts = [ahead(part, axis, self.boundary) / h for axis, (part, h) in enumerate(zip(x, self.spacing, strict=True))]
        return jnp.asarray(sum(parts[1:], start=parts[0]))

    def rmatvec(self, y: jax.Array) -> jax.Array:
        return jnp.stack([back(y, axis, self.boundary) / h for axis, h in enumerate(self.spacing)])

    def norm_sq(self) -> Bound:
        """A A^T = sum_a D_a D_a^T / h_a^2 acts axis by axis."""
        sides = self.domain[1:]
        most = sum(largest(side, self.boundary, 1)[0] / h**2 for side, h in zip(sides, self.spacing, strict=True))
        return Bound(most, "exact", "spectra of the axes")


@node
class Curl(Operator):
    """Of a field of two components: the scalar D_1 v_2 - D_2 v_1; of three: the vector (D_2 v_3 - D_3 v_2, ...)."""

    spacing: tuple[float, ...] = static()
    boundary: Boundary = static()

    structure = "stencil"

    def _pairs(self) -> tuple[tuple[int, int], ...]:
        return ((0, 1),) if len(self.spacing) == 2 else ((1, 2), (2, 0), (0, 1))

    def matvec(self, x: jax.Array) -> jax.Array:
        def one(a: int, b: int) -> jax.Array:
            return ahead(x[b], a, self.boundary) / self.spacing[a] - ahead(x[a], b, self.boundary) / self.spacing[b]

        parts = [one(a, b) for a, b in self._pairs()]
        return parts[0] if len(parts) == 1 else jnp.stack(parts)

    def rmatvec(self, y: jax.Array) -> jax.Array:
        parts = [jnp.zeros(self.domain[1:], y.dtype)] * len(self.spacing)
        for (a, b), part in zip(self._pairs(), (y,) if len(self.spacing) == 2 else y, strict=True):
            parts[b] = parts[b] + back(part, a, self.boundary) / self.spacing[a]
            parts[a] = parts[a] - back(part, b, self.boundary) / self.spacing[b]
        return jnp.stack(parts)

    def norm_sq(self) -> Bound:
        """In two dimensions A A^T = sum_a D_a D_a^T / h_a^2. In three, A^T A + E E^T, E = (D_1, D_2, D_3), is diagonal with blocks that are
        such sums, because differences along different axes commute: an upper bound."""
        sides = self.domain[1:]
        most = sum(largest(side, self.boundary, 1)[0] / h**2 for side, h in zip(sides, self.spacing, strict=True))
        return Bound(most, "exact" if len(sides) == 2 else "upper_bound", "spectra of the axes")


def _matrix(length: int, boundary: Boundary, order: int) -> NDArray[np.float64]:
    """D of one axis as a matrix, for the few samples at the ends."""
    if order == 1 and boundary == "dirichlet":
        return np.diff(np.eye(length + 2), axis=0)[:, 1:-1]
    inside = np.diff(np.eye(length), axis=0)
    if boundary == "periodic":
        first = np.roll(np.eye(length), -1, axis=0).T - np.eye(length)
        return first if order == 1 else -first @ first.T
    if order == 1:
        return inside
    if boundary == "neumann":
        return -inside.T @ inside
    ends = np.diff(np.eye(length + 2), n=2, axis=0)[:, 1:-1]
    return ends if boundary == "dirichlet" else ends[1:-1]


def checked_axes(domain: Shape, axes: Any, least: int) -> tuple[int, ...]:
    """The axes, from 0 up; all by default."""
    asked = tuple(range(len(domain))) if axes is None else tuple(int(axis) for axis in np.atleast_1d(axes))
    if (
        not asked
        or any(not -len(domain) <= axis < len(domain) for axis in asked)
        or len({axis % len(domain) for axis in asked}) < len(asked)
    ):
        raise FlowInputError(f"axes are {axes!r}; for a variable of shape {domain} they must be different numbers below {len(domain)}")
    whole = tuple(axis % len(domain) for axis in asked)
    for axis in whole:
        if domain[axis] < least:
            raise FlowInputError(f"differences along axis {axis} need {least} samples or more; the variable has shape {domain}")
    return whole


def checked_spacing(spacing: Any, count: int) -> tuple[float, ...]:
    given = np.atleast_1d(np.asarray(spacing, np.float64))
    if given.shape not in ((1,), (count,)) or not np.all(np.isfinite(given) & (given > 0)):
        raise FlowInputError(f"spacing is {spacing!r}; it must be one positive number, or one for each of the {count} axes")
    return tuple(float(h) for h in np.broadcast_to(given, (count,)))


def checked_boundary(boundary: str, allowed: tuple[Boundary, ...]) -> Boundary:
    for known in BOUNDARIES:
        if boundary == known and known in allowed:
            return known
    raise FlowInputError(f"boundary is {boundary!r}; here it must be one of {', '.join(allowed)}")


@operator("differences")
def _differences(
    domain: Shape, real: np.dtype[Any], *, axes: Any = None, order: int = 1, boundary: str = "neumann", spacing: Any = 1.0
) -> Operator:
    """axes: all by default. order: 1 or 2. spacing: between samples, one for all axes or one for each."""
    if order not in (1, 2):
        raise FlowInputError(f"differences are of order {order!r}; it must be 1 or 2")
    kind = checked_boundary(boundary, BOUNDARIES if order == 2 else ("periodic", "neumann", "dirichlet"))
    where = checked_axes(domain, axes, order + 1 if kind == "free" or order == 1 else 1)
    sides = tuple(side + 1 for side in domain) if kind == "dirichlet" and order == 1 else domain
    return Differences(domain, (len(where), *sides), where, checked_spacing(spacing, len(where)), kind, order)


@operator("gradient")
def _gradient(domain: Shape, real: np.dtype[Any], *, boundary: str = "neumann", spacing: Any = 1.0) -> Operator:
    """Forward differences along all axes."""
    return _differences(domain, real, boundary=boundary, spacing=spacing)


@operator("laplacian")
def _laplacian(domain: Shape, real: np.dtype[Any], *, axes: Any = None, boundary: str = "neumann", spacing: Any = 1.0) -> Operator:
    kind = checked_boundary(boundary, ("periodic", "neumann", "dirichlet"))
    where = checked_axes(domain, axes, 2)
    return Laplacian(domain, domain, where, checked_spacing(spacing, len(where)), kind)


@operator("divergence")
def _divergence(domain: Shape, real: np.dtype[Any], *, boundary: str = "periodic", spacing: Any = 1.0) -> Operator:
    """Of a variable of shape (d, n_1, ..., n_d)."""
    kind = checked_boundary(boundary, ("periodic", "neumann"))
    _field(domain, "divergence", tuple(range(1, len(domain))))
    return Divergence(domain, domain[1:], checked_spacing(spacing, len(domain) - 1), kind)


@operator("curl")
def _curl(domain: Shape, real: np.dtype[Any], *, boundary: str = "periodic", spacing: Any = 1.0) -> Operator:
    """Of a variable of shape (2, n_1, n_2) or (3, n_1, n_2, n_3)."""
    kind = checked_boundary(boundary, ("periodic", "neumann"))
    _field(domain, "curl", (2, 3))
    return Curl(domain, domain if domain[0] == 3 else domain[1:], checked_spacing(spacing, domain[0]), kind)


def _field(domain: Shape, name: str, components: tuple[int, ...]) -> None:
    if len(domain) < 2 or domain[0] != len(domain) - 1 or domain[0] not in components or min(domain[1:]) < 2:
        raise FlowInputError(
            f"the {name} is of a vector field, with one component for each axis along the first axis; the variable has shape {domain}"
        )
