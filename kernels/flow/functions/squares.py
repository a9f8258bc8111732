"""Half squares: w/2 ||D (u - b)||^2."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..bounds import Bound
from ..pytrees import node
from ..sums import summed
from .base import Function, Proximal, exactly


@node
class HalfSquare(Function):
    """w/2 sum d^2 (u - b)^2; `scale` is d, `target` b, each a scalar or of the shape of u."""

    weight: jax.Array
    target: jax.Array
    scale: jax.Array

    smooth = proximable = separable = True

    def value(self, u: jax.Array) -> jax.Array:
        return self.weight / 2 * summed((self.scale * (u - self.target)) ** 2)

    def gradient(self, u: jax.Array) -> jax.Array:
        return self.weight * self.scale**2 * (u - self.target)

    def curvature(self) -> tuple[Bound, Bound]:
        squares = np.asarray(self.weight) * np.asarray(self.scale) ** 2  # NumPy: JAX would compile each operation for each shape
        return Bound(float(np.min(squares)), "exact", "w min d^2"), Bound(float(np.max(squares)), "exact", "w max d^2")

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        pull = tau * self.weight * self.scale**2
        point = (v + pull * self.target) / (1 + pull)
        return exactly(self, point)

    def conjugate(self, y: jax.Array) -> jax.Array:
        """Where d is 0, phi is constant, and the conjugate infinite but for y = 0."""
        squares = self.weight * self.scale**2
        curved = squares > 0
        flat = jnp.where(y == 0, 0.0, jnp.inf)
        return summed(jnp.where(curved, y**2 / (2 * jnp.where(curved, squares, 1)) + y * self.target, flat))
