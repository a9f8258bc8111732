"""Matrices with orthonormal columns, with the canonical metric, in which geodesics and isometric transport are closed forms."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import FlowInputError
from ..operators.base import Shape
from ..pytrees import node
from .base import Manifold, manifold, skew, sym, turned
from .rotations import orthonormal_columns, rotation_exp, rotation_log, straightened

_LOG_STEPS = 100


@node
class Stiefel(Manifold):
    """{X of (n, k) : X^T X = I} with <V, W> = tr V^T (I - X X^T / 2) W (Edelman, Arias & Smith, SIMAX 20(2), 1998, section 2.4).

    With Q an orthonormal basis of what V adds to the columns of X, B = [X, Q], a tangent vector is V = S X for the skew
    S = B [[A, -R^T], [R, 0]] B^T, A = X^T V, R = Q^T V, and exp_X(V) = exp(S) X (their section 2.4.2).
    """

    name = "stiefel"
    rank = 2

    def _halved(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """(I - X X^T / 2) V."""
        return v - x @ (turned(x) @ v) / 2

    def _completed(self, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """X, Y and k columns that are orthogonal to X and span with it the columns of Y. Where n < 2k, rows of zeros are added to all
        three: that embeds the manifold in a larger one without bending it."""
        n, k = x.shape[-2:]
        padding = [(0, 0)] * (x.ndim - 2) + [(0, max(2 * k - n, 0)), (0, 0)]
        x, y = jnp.pad(x, padding), jnp.pad(y, padding)
        return x, y, jnp.linalg.qr(jnp.concatenate([x, y - x @ (turned(x) @ y)], axis=-1))[0][..., k:]

    def _moved(self, x: jax.Array, v: jax.Array, y: jax.Array) -> jax.Array:
        """exp(S) Y."""
        n, k = x.shape[-2:]
        x, v, beside = self._completed(x, v)
        across = turned(beside) @ v
        left = jnp.concatenate([skew(turned(x) @ v), across], axis=-2)
        right = jnp.concatenate([-turned(across), jnp.zeros((*x.shape[:-2], k, k), x.dtype)], axis=-2)
        basis = jnp.concatenate([x, beside], axis=-1)
        turn = rotation_exp(jnp.concatenate([left, right], axis=-1)) - jnp.eye(2 * k, dtype=x.dtype)
        return jnp.asarray(y + (basis @ (turn @ (turned(basis[..., :n, :]) @ y)))[..., :n, :])

    def exp(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return straightened(self._moved(x, v, x))

    def acceleration(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """-V V^T X - X ((X^T V)^2 + V^T V) (Edelman, Arias & Smith, equation 2.41)."""
        within = turned(x) @ v
        return -v @ turned(within) - x @ (within @ within + turned(v) @ v)

    def log(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """By the iteration of Zimmermann (SIMAX 38(2), 2017, algorithm 3.1), which turns the complement of X until the lower right block of
        the logarithm is 0."""
        n, k = x.shape[-2:]
        x, y, complement = self._completed(x, y)
        within, across = turned(x) @ y, turned(complement) @ y
        # Completed to a rotation of 2k axes, with the block that continues it nearest to the identity.
        first = jnp.concatenate([within, across], axis=-2)
        rest = jnp.linalg.qr(first, mode="complete")[0][..., k:]
        left, _, right = jnp.linalg.svd(rest[..., k:, :])
        rest = rest @ turned(left @ right)
        rotation = jnp.concatenate([first, rest], axis=-1)
        rotation = rotation.at[..., -1].multiply(jnp.sign(jnp.linalg.det(rotation))[..., None])
        enough = 10 * float(np.finfo(np.dtype(x.dtype)).eps)

        def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            _, logarithm, step = carry
            return (step < _LOG_STEPS) & (jnp.max(jnp.abs(logarithm[..., k:, k:])) > enough)

        def turn(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            current, logarithm, step = carry
            current = current.at[..., k:].set(current[..., k:] @ rotation_exp(-logarithm[..., k:, k:]))
            return current, rotation_log(current), step + 1

        _, logarithm, _ = jax.lax.while_loop(unfinished, turn, (rotation, rotation_log(rotation), jnp.int32(0)))
        return (x @ logarithm[..., :k, :k] + complement @ logarithm[..., k:, :k])[..., :n, :]

    def metric(self, x: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(v * self._halved(x, w), axis=(-2, -1))

    def proj_tangent(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """V - X sym(X^T V), orthogonal in the metric too: normal vectors X S with S symmetric are orthogonal to tangent ones in both."""
        return v - x @ sym(turned(x) @ v)

    def gradient(self, x: jax.Array, slope: jax.Array) -> jax.Array:
        """G - X G^T X."""
        return slope - x @ (turned(slope) @ x)

    def retract(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return orthonormal_columns(x + v)

    def transport(self, x: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        """exp(S) W: a rotation of the whole space, so an isometry from the tangent space at X to that at exp(S) X; not the parallel one,
        which has no closed form."""
        return self._moved(x, v, w)

    def random_point(self, key: jax.Array) -> jax.Array:
        return orthonormal_columns(jax.random.normal(key, self.shape))

    def check(self, x: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(turned(x) @ x - jnp.eye(x.shape[-1], dtype=x.dtype)))

    def injectivity_radius(self) -> float:
        """sqrt(4/5) pi (Rentmeesters, Algorithms for data fitting on some common homogeneous spaces, 2013)."""
        return math.sqrt(0.8) * math.pi


@manifold("stiefel")
def _stiefel(shape: Shape, real: np.dtype[Any], *, n: int | None = None, k: int | None = None) -> Manifold:
    """n, k: rows and columns, checked against the slot."""
    if len(shape) < 2 or shape[-2] < shape[-1] or n not in (None, shape[-2]) or k not in (None, shape[-1]):
        raise FlowInputError(f"stiefel is asked for (n, k) = ({n}, {k}), and the slot has shape {shape}; its last two axes must be n >= k")
    return Stiefel(shape)
