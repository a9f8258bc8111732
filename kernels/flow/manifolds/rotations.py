"""Rotations SO(n) and rigid motions SE(n), as matrices; and the exponential and logarithm of rotation matrices that other manifolds use."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import FlowInputError
from ..operators.base import Shape
from ..pytrees import node
from .base import Manifold, manifold, skew, square, turned


def rotation_exp(s: jax.Array) -> jax.Array:
    """exp(S) of a skew matrix, orthogonal to rounding: i S is Hermitian, and i S = U w U^H gives exp(S) = U e^-iw U^H."""
    return _of_skew(s, lambda w: jnp.exp(-1j * w))


def rotation_log(q: jax.Array) -> jax.Array:
    """The skew matrix of angles below pi with exp(S) = Q, Q a rotation without the eigenvalue -1.

    Its Cayley transform Z = (Q - I)(Q + I)^-1 is skew with the eigenvalues i tan(t/2) where Q has e^it, and S those i t.
    """
    eye = jnp.eye(q.shape[-1], dtype=q.dtype)
    return skew(_of_skew(skew(jnp.linalg.solve(q + eye, q - eye)), lambda w: -2j * jnp.arctan(w)))


def _of_skew(s: jax.Array, function: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """U f(w) U^H for i S = U w U^H; real for the functions that are used here."""
    values, vectors = jnp.linalg.eigh(1j * s)
    return jnp.asarray(((vectors * function(values)[..., None, :]) @ jnp.conj(turned(vectors))).real)


def straightened(x: jax.Array) -> jax.Array:
    """X (3 I - X^T X) / 2, which squares the distance of X from orthonormal columns."""
    eye = jnp.eye(x.shape[-1], dtype=x.dtype)
    return x @ (3 * eye - turned(x) @ x) / 2


def orthonormal_columns(x: jax.Array) -> jax.Array:
    """The Q of X = Q R with a positive diagonal of R, which makes it unique and smooth."""
    q, r = jnp.linalg.qr(x)
    signs = jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1, 1).astype(x.dtype)
    return q * signs[..., None, :]


@node
class SpecialOrthogonal(Manifold):
    """{X : X^T X = I, det X = 1}, the bi-invariant metric tr(V^T W); tangent vectors are X S with S skew (Bo23, section 7.4)."""

    name = "so"
    rank = 2

    def exp(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return straightened(x @ rotation_exp(skew(turned(x) @ v)))

    def acceleration(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """X S^2 for V = X S."""
        turn = skew(turned(x) @ v)
        return x @ (turn @ turn)

    def log(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return x @ rotation_log(turned(x) @ y)

    def proj_tangent(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return x @ skew(turned(x) @ v)

    def retract(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return orthonormal_columns(x + v)

    def transport(self, x: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        """Parallel: X S -> X exp(V/2) S exp(V/2), as in any group with a bi-invariant metric."""
        half = rotation_exp(skew(turned(x) @ v) / 2)
        return x @ half @ skew(turned(x) @ w) @ half

    def random_point(self, key: jax.Array) -> jax.Array:
        q = orthonormal_columns(jax.random.normal(key, self.shape))
        return q.at[..., 0].multiply(jnp.sign(jnp.linalg.det(q))[..., None])

    def check(self, x: jax.Array) -> jax.Array:
        eye = jnp.eye(x.shape[-1], dtype=x.dtype)
        return jnp.max(jnp.abs(turned(x) @ x - eye)) + jnp.max(jnp.abs(jnp.linalg.det(x) - 1))

    def injectivity_radius(self) -> float:
        return math.pi * math.sqrt(2)


@node
class SpecialEuclidean(Manifold):
    """{[[R, t], [0, 1]]}: rigid motions, with the product metric of SO(n) x R^n, which is left-invariant; geodesics are those of the
    parts. A tangent vector is [[V, u], [0, 0]] with V tangent to SO(n) at R."""

    rotations: SpecialOrthogonal

    name = "se"
    rank = 2

    def _joined(self, x: jax.Array, rotation: jax.Array, shift: jax.Array) -> jax.Array:
        """A matrix with these parts, and the last row of x."""
        return x.at[..., :-1, :-1].set(rotation).at[..., :-1, -1].set(shift)

    def _tangent(self, v: jax.Array, rotation: jax.Array) -> jax.Array:
        return jnp.zeros_like(v).at[..., :-1, :-1].set(rotation).at[..., :-1, -1].set(v[..., :-1, -1])

    def exp(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return self._joined(x, self.rotations.exp(_turn(x), _turn(v)), x[..., :-1, -1] + v[..., :-1, -1])

    def acceleration(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.zeros_like(x).at[..., :-1, :-1].set(self.rotations.acceleration(_turn(x), _turn(v)))

    def log(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return self._tangent(y - x, self.rotations.log(_turn(x), _turn(y)))

    def proj_tangent(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return self._tangent(v, self.rotations.proj_tangent(_turn(x), _turn(v)))

    def retract(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return self._joined(x, self.rotations.retract(_turn(x), _turn(v)), x[..., :-1, -1] + v[..., :-1, -1])

    def transport(self, x: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        return self._tangent(w, self.rotations.transport(_turn(x), _turn(v), _turn(w)))

    def random_point(self, key: jax.Array) -> jax.Array:
        turn, shift = jax.random.split(key)
        side = self.shape[-1]
        whole = jnp.broadcast_to(jnp.eye(side), self.shape)
        return self._joined(whole, self.rotations.random_point(turn), jax.random.normal(shift, (*self.shape[:-2], side - 1)))

    def check(self, x: jax.Array) -> jax.Array:
        last = jnp.zeros(x.shape[-1], x.dtype).at[-1].set(1)
        return self.rotations.check(_turn(x)) + jnp.max(jnp.abs(x[..., -1, :] - last))

    def injectivity_radius(self) -> float:
        return self.rotations.injectivity_radius()


def _turn(x: jax.Array) -> jax.Array:
    return x[..., :-1, :-1]


@manifold("so")
def _so(shape: Shape, real: np.dtype[Any], *, n: int | None = None) -> Manifold:
    """n: the side of the matrices, checked against the slot."""
    side = square("so", shape)
    if side < 2 or n not in (None, side):
        raise FlowInputError(f"so is asked for n = {n}, and the slot has shape {shape}; its last two axes must be n, at least 2")
    return SpecialOrthogonal(shape)


@manifold("se")
def _se(shape: Shape, real: np.dtype[Any], *, n: int | None = None) -> Manifold:
    """n: the dimension of the space that is moved: matrices have side n + 1."""
    side = square("se", shape)
    if side < 3 or n not in (None, side - 1):
        raise FlowInputError(f"se is asked for n = {n}, and the slot has shape {shape}; its last two axes must be n + 1, with n at least 2")
    return SpecialEuclidean(shape, SpecialOrthogonal((*shape[:-2], side - 1, side - 1)))
