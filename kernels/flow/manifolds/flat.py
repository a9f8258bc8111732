"""The flat space, where all is trivial, and the sphere."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import FlowInputError
from ..operators.base import Shape
from ..pytrees import node
from .base import Manifold, manifold


@node
class Euclidean(Manifold):
    """R^n."""

    name = "euclidean"

    def exp(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return x + v

    def acceleration(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.zeros_like(x)

    def log(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return y - x

    def metric(self, x: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(v * w)

    def proj_tangent(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return v

    def transport(self, x: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        return w

    def random_point(self, key: jax.Array) -> jax.Array:
        return jax.random.normal(key, self.shape)

    def check(self, x: jax.Array) -> jax.Array:
        return jnp.where(jnp.all(jnp.isfinite(x)), 0.0, jnp.inf)


@node
class Sphere(Manifold):
    """{x : ||x|| = r} in the last axis, with the metric of the embedding (Bo23, chapter 3 and example 10.1)."""

    radius: jax.Array

    name = "sphere"
    rank = 1

    def _norm(self, v: jax.Array) -> jax.Array:
        return jnp.asarray(jnp.linalg.norm(v, axis=-1, keepdims=True))

    def _dot(self, v: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(v * w, axis=-1, keepdims=True)

    def exp(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """cos(||v||/r) x + r sin(||v||/r) v/||v||."""
        angle = self._norm(v) / self.radius
        return jnp.cos(angle) * x + jnp.sinc(angle / math.pi) * v

    def acceleration(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return -self._dot(v, v) / self.radius**2 * x

    def log(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """theta/sin(theta) (y - cos(theta) x), with theta from both sine and cosine, so that small angles keep their digits."""
        cosine = self._dot(x, y) / self.radius**2
        rest = y - cosine * x
        angle = jnp.arctan2(self._norm(rest) / self.radius, cosine)
        return jnp.asarray(rest / jnp.sinc(angle / math.pi))

    def proj_tangent(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return v - self._dot(x, v) / self._dot(x, x) * x

    def retract(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.asarray(self.radius * (x + v) / self._norm(x + v))

    def transport(self, x: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        """Parallel: what w has along v turns with the geodesic, the rest stays."""
        length = self._norm(v)
        along = v / jnp.where(length > 0, length, 1)
        angle = length / self.radius
        return w + ((jnp.cos(angle) - 1) * along - jnp.sin(angle) * x / self.radius) * self._dot(along, w)

    def random_point(self, key: jax.Array) -> jax.Array:
        normal = jax.random.normal(key, self.shape, self.radius.dtype)
        return self.radius * normal / self._norm(normal)

    def check(self, x: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(self._norm(x) / self.radius - 1))

    def injectivity_radius(self) -> float:
        return math.pi * float(self.radius)


@manifold("euclidean")
def _euclidean(shape: Shape, real: np.dtype[Any]) -> Manifold:
    return Euclidean(shape)


@manifold("sphere")
def _sphere(shape: Shape, real: np.dtype[Any], *, radius: float = 1.0) -> Manifold:
    if not (math.isfinite(radius) and radius > 0):
        raise FlowInputError(f"the sphere has radius {radius!r}; it must be a number above 0")
    if not shape or shape[-1] < 2:
        raise FlowInputError(f"a sphere needs a last axis of at least 2; the slot has shape {shape}")
    return Sphere(shape, jnp.asarray(radius, real))
