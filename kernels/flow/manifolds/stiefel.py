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
from .base import Manifold, manifold, sym, turned
from .rotations import orthonormal_columns, rotation_exp, rotation_log, straightened

_LOG_STEPS = 200


@node
class Stiefel(Manifold):
    """{X of (n, k) : X^T X = I} with <V, W> = tr V^T (I - X X^T / 2) W (Edelman, Arias & Smith, SIMAX 20(2), 1998, section 2.4).

    A tangent vector V at X is S X for the skew S = U Z^T of rank at most 2k, U = [(I - X X^T / 2) V, X], Z = [X, -(I - X X^T / 2) V];
    exp_X(V) = exp(S) X, and exp(S) acts on matrices as I + U phi(Z^T U) Z^T with phi(z) = (e^z - 1) / z.
    """

    name = "stiefel"
    rank = 2

    def _halved(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """(I - X X^T / 2) V."""
        return v - x @ (turned(x) @ v) / 2

    def _moved(self, x: jax.Array, v: jax.Array, y: jax.Array) -> jax.Array:
        """exp(S) Y."""
        half = self._halved(x, v)
        u, z = jnp.concatenate([half, x], axis=-1), jnp.concatenate([x, -half], axis=-1)
        small = turned(z) @ u
        side = small.shape[-1]
        # exp [[M, I], [0, 0]] = [[e^M, phi(M)], [0, I]].
        eye = jnp.broadcast_to(jnp.eye(side, dtype=x.dtype), small.shape)
        top, bottom = jnp.concatenate([small, eye], axis=-1), jnp.zeros((*small.shape[:-1], 2 * side), x.dtype)
        phi = jax.scipy.linalg.expm(jnp.concatenate([top, bottom], axis=-2))[..., :side, side:]
        return jnp.asarray(y + u @ (phi @ (turned(z) @ y)))

    def exp(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return straightened(self._moved(x, v, x))

    def log(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """By the iteration of Zimmermann (SIMAX 38(2), 2017, algorithm 3.1), which turns the complement of X until the lower right block of
        the logarithm is 0. Where n < 2k, rows of zeros are added first; that does not change geodesics."""
        n, k = x.shape[-2:]
        padding = [(0, 0)] * (x.ndim - 2) + [(0, max(2 * k - n, 0)), (0, 0)]
        x, y = jnp.pad(x, padding), jnp.pad(y, padding)
        within = turned(x) @ y
        complement = jnp.linalg.qr(jnp.concatenate([x, y - x @ within], axis=-1))[0][..., k:]
        across = turned(complement) @ y
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
