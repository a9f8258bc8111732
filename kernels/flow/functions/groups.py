"""Sums of norms: of groups of elements, of the vectors along an axis, and of the singular values of matrices."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..bounds import Bound
from ..pytrees import node, static
from ..sums import summed
from .base import Function, Proximal, exactly
from .separable import Separable, soft_threshold


@node
class GroupNorm(Function):
    """sum_g w_g ||u_g|| + a ||u||_1 + r/2 ||u||^2 for groups that do not overlap: `labels` (of the shape of u) says the group of each
    element. The last two are 0 until merged ("sparse group lasso").

    The prox is shrink(S_{tau a}(v)): soft thresholding first, then each group towards 0 (Simon, Friedman, Hastie & Tibshirani,
    JCGS 22, 2013), after the ridge is taken into v and tau.
    """

    weights: jax.Array  # (count,)
    labels: jax.Array
    threshold: jax.Array
    ridge: jax.Array
    count: int = static()

    proximable = True

    def _norms(self, u: jax.Array) -> jax.Array:
        return jnp.sqrt(jax.ops.segment_sum(jnp.ravel(u**2), jnp.ravel(self.labels), self.count))

    def value(self, u: jax.Array) -> jax.Array:
        return summed(self.weights * self._norms(u)) + self.threshold * summed(jnp.abs(u)) + self.ridge / 2 * summed(u**2)

    def curvature(self) -> tuple[Bound, Bound]:
        return Bound(float(self.ridge), "lower_bound", "ridge"), Bound(float("inf"), "exact", "not smooth")

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        step = tau / (1 + tau * self.ridge)
        sparse = soft_threshold(v / (1 + tau * self.ridge), step * self.threshold)
        return exactly(self, sparse * shrink_factor(self._norms(sparse), step * self.weights)[self.labels])

    def conjugate(self, y: jax.Array) -> jax.Array:
        return _thresholded_conjugate(self._norms(soft_threshold(y, self.threshold)), self.weights, self.ridge)

    def merged(self, other: Function) -> Function | None:
        extra = plain_shrinkage(other)
        if extra is None:
            return None
        return GroupNorm(self.weights, self.labels, self.threshold + extra[0], self.ridge + extra[1], self.count)


@node
class AxisNorm(Function):
    """sum_i w ||u[:, i]||: the Euclidean norms of the vectors along the first axis, as isotropic total variation has them."""

    weight: jax.Array

    proximable = True

    def _norms(self, u: jax.Array) -> jax.Array:
        # Part by part: before a sum along an axis, XLA would store all the squares.
        return jnp.sqrt(sum((u[part] ** 2 for part in range(1, u.shape[0])), start=u[0] ** 2))

    def value(self, u: jax.Array) -> jax.Array:
        return self.weight * summed(self._norms(u))

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        return exactly(self, v * shrink_factor(self._norms(v), tau * self.weight))

    def conjugate(self, y: jax.Array) -> jax.Array:
        return jnp.where(jnp.all(self._norms(y) <= self.weight), 0.0, jnp.inf).astype(y.dtype)


@node
class NuclearNorm(Function):
    """w sum of the singular values of the matrices in the last two axes, + r/2 ||u||^2 once merged with a ridge."""

    weight: jax.Array
    ridge: jax.Array

    proximable = True

    def value(self, u: jax.Array) -> jax.Array:
        return self.weight * summed(jnp.linalg.svd(u, compute_uv=False)) + self.ridge / 2 * summed(u**2)

    def curvature(self) -> tuple[Bound, Bound]:
        return Bound(float(self.ridge), "lower_bound", "ridge"), Bound(float("inf"), "exact", "not smooth")

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        """U S_{tau w}(sigma) V^T / (1 + tau r) (Cai, Candes & Shen, SIAM J. Optim. 20, 2010)."""
        left, sizes, right = jnp.linalg.svd(v, full_matrices=False)
        kept = jnp.maximum(sizes - tau * self.weight, 0) / (1 + tau * self.ridge)
        value = self.weight * summed(kept) + self.ridge / 2 * summed(kept**2)
        return Proximal((left * kept[..., None, :]) @ right, value, jnp.zeros((), v.dtype), ())

    def conjugate(self, y: jax.Array) -> jax.Array:
        return _thresholded_conjugate(jnp.linalg.svd(y, compute_uv=False), self.weight, self.ridge)

    def merged(self, other: Function) -> Function | None:
        extra = plain_shrinkage(other)
        # The threshold of an l1 term is known only on the host: a merge decides what is compiled, so it is decided there.
        if extra is None or float(extra[0]) != 0:
            return None
        return NuclearNorm(self.weight, self.ridge + extra[1])


def shrink_factor(size: jax.Array, threshold: jax.Array) -> jax.Array:
    """max(0, 1 - t/||u||), 0 for u = 0."""
    return jnp.where(size > threshold, 1 - threshold / jnp.where(size > threshold, size, 1), 0)


def plain_shrinkage(other: Function) -> tuple[jax.Array, jax.Array] | None:
    """The threshold and ridge of a Separable that is the same for all elements and has no bounds; else None. Host side."""
    if not isinstance(other, Separable) or other.threshold.ndim or other.ridge.ndim:
        return None
    if bool(jnp.any(jnp.isfinite(other.lower))) or bool(jnp.any(jnp.isfinite(other.upper))):
        return None
    return other.threshold, other.ridge


def _thresholded_conjugate(sizes: jax.Array, weights: jax.Array, ridge: jax.Array) -> jax.Array:
    """Of w s + r/2 s^2 on s >= 0: (s - w)+^2/(2 r); without a ridge 0 inside and infinite outside."""
    beyond = jnp.maximum(sizes - weights, 0)
    curved = summed(beyond**2) / (2 * jnp.where(ridge > 0, ridge, 1))
    return jnp.where(ridge > 0, curved, jnp.where(jnp.any(beyond > 0), jnp.inf, 0.0)).astype(sizes.dtype)
