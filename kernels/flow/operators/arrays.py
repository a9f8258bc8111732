"""Operators that are an array themselves: the identity, diagonals (masks), and matrices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ..bounds import Bound
from ..errors import FlowInputError
from ..pytrees import node
from .base import Operator, Shape, operator


@node
class Identity(Operator):
    """x -> x."""

    structure = "identity"

    def matvec(self, x: jax.Array) -> jax.Array:
        return x

    def rmatvec(self, y: jax.Array) -> jax.Array:
        return y

    def norm_sq(self) -> Bound:
        return Bound(1.0, "exact", "identity")

    def coisometry(self) -> float | None:
        return 1.0

    def orthonormal(self) -> bool:
        return True

    def normal_diagonal(self) -> jax.Array:
        return jnp.ones(self.domain)

    def solve_shifted(self, rhs: jax.Array, tau: jax.Array) -> jax.Array:
        return rhs / (1 + tau)


@node
class Diagonal(Operator):
    """x -> d * x, elementwise; a mask where d is 0 or 1."""

    entries: jax.Array

    structure = "diag"

    def matvec(self, x: jax.Array) -> jax.Array:
        return self.entries * x

    def rmatvec(self, y: jax.Array) -> jax.Array:
        return self.entries * y

    def norm_sq(self) -> Bound:
        return Bound(float(jnp.max(self.entries**2)), "exact", "diagonal")

    def normal_diagonal(self) -> jax.Array:
        return self.entries**2

    def solve_shifted(self, rhs: jax.Array, tau: jax.Array) -> jax.Array:
        return rhs / (1 + tau * self.entries**2)


@node
class Dense(Operator):
    """x -> M x for a matrix M of (rows, size of x); x is read in C order."""

    matrix: jax.Array

    structure = "dense"

    def matvec(self, x: jax.Array) -> jax.Array:
        return self.matrix @ x.ravel()

    def rmatvec(self, y: jax.Array) -> jax.Array:
        return jnp.reshape(y @ self.matrix, self.domain)

    def norm_sq(self) -> Bound:
        matrix = np.asarray(self.matrix, np.float64)
        rows, columns = matrix.shape
        # An eigenvalue of the smaller Gram matrix, whose largest is as exact as a singular value and costs a fraction of it.
        gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
        return Bound(max(0.0, float(np.linalg.eigvalsh(gram)[-1])), "exact", "eigenvalues of the Gram matrix")

    def normal_diagonal(self) -> jax.Array:
        return jnp.sum(self.matrix**2, axis=0).reshape(self.domain)

    def solve_shifted(self, rhs: jax.Array, tau: jax.Array) -> jax.Array:
        gram = self.matrix.T @ self.matrix
        shifted = jnp.eye(gram.shape[0], dtype=gram.dtype) + tau * gram
        return jnp.reshape(jnp.linalg.solve(shifted, rhs.ravel()), self.domain)


@operator("identity")
def _identity(domain: Shape, real: np.dtype[Any]) -> Operator:
    return Identity(domain, domain)


@operator("diagonal")
def _diagonal(domain: Shape, real: np.dtype[Any], *, entries: ArrayLike) -> Operator:
    array = np.asarray(entries)
    if array.shape != domain:
        raise FlowInputError(f"the diagonal has shape {array.shape} and its variable {domain}; give one entry for each element")
    return Diagonal(domain, domain, jnp.asarray(array, real))


@operator("dense")
def _dense(domain: Shape, real: np.dtype[Any], *, matrix: ArrayLike) -> Operator:
    array = np.asarray(matrix)
    size = int(np.prod(domain))
    if array.ndim != 2 or array.shape[1] != size:
        raise FlowInputError(f"the matrix has shape {array.shape}; for a variable of shape {domain} it needs {size} columns")
    return Dense(domain, (array.shape[0],), jnp.asarray(array, real))
