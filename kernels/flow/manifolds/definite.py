"""Symmetric positive definite matrices with the affine-invariant metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..operators.base import Shape
from ..pytrees import node
from .base import Manifold, manifold, square, sym, turned


@node
class PositiveDefinite(Manifold):
    """{X = X^T > 0} with <V, W> = tr(X^-1 V X^-1 W): complete, without cut locus, and invariant under X -> A X A^T (Bo23, section 11.7;
    Pennec, Fillard & Ayache, IJCV 66(1), 2006)."""

    name = "spd"
    rank = 2

    def exp(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """X^1/2 exp(X^-1/2 V X^-1/2) X^1/2."""
        root, inverse = _roots(x)
        return sym(root @ _spectral(sym(inverse @ v @ inverse), jnp.exp) @ root)

    def acceleration(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """V X^-1 V."""
        return sym(v @ jnp.linalg.solve(x, v))

    def log(self, x: jax.Array, y: jax.Array) -> jax.Array:
        root, inverse = _roots(x)
        return sym(root @ _spectral(sym(inverse @ y @ inverse), jnp.log) @ root)

    def metric(self, x: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.linalg.solve(x, v) * turned(jnp.linalg.solve(x, w)), axis=(-2, -1))

    def proj_tangent(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return sym(v)

    def gradient(self, x: jax.Array, slope: jax.Array) -> jax.Array:
        """X sym(G) X."""
        return sym(x @ sym(slope) @ x)

    def retract(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """X + V + V X^-1 V / 2 = (X + (X + V) X^-1 (X + V)) / 2, so positive definite for every V; of second order."""
        return sym(x + v + v @ jnp.linalg.solve(x, v) / 2)

    def transport(self, x: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        """Parallel: E W E^T, E = X^1/2 exp(X^-1/2 V X^-1/2 / 2) X^-1/2."""
        root, inverse = _roots(x)
        carrier = root @ _spectral(sym(inverse @ v @ inverse) / 2, jnp.exp) @ inverse
        return sym(carrier @ w @ turned(carrier))

    def random_point(self, key: jax.Array) -> jax.Array:
        """exp at I of a symmetric matrix with normal entries."""
        return _spectral(sym(jax.random.normal(key, self.shape)), jnp.exp)

    def check(self, x: jax.Array) -> jax.Array:
        """The asymmetry; infinite where an eigenvalue is not positive."""
        asymmetry = jnp.max(jnp.abs(x - turned(x))) / jnp.max(jnp.abs(x))
        return jnp.where(jnp.min(jnp.linalg.eigvalsh(sym(x))) > 0, asymmetry, jnp.inf)


def _spectral(x: jax.Array, function: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """A function of a symmetric matrix, by its eigenvalues."""
    values, vectors = jnp.linalg.eigh(x)
    return jnp.asarray((vectors * function(values)[..., None, :]) @ turned(vectors))


def _roots(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """X^1/2 and X^-1/2."""
    values, vectors = jnp.linalg.eigh(x)
    roots = jnp.sqrt(values)[..., None, :]
    return (vectors * roots) @ turned(vectors), (vectors / roots) @ turned(vectors)


@manifold("spd")
def _spd(shape: Shape, real: np.dtype[Any]) -> Manifold:
    square("spd", shape)
    return PositiveDefinite(shape)
