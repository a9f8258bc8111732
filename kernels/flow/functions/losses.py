"""Losses of data, element by element: Huber, logistic, and the Poisson likelihood (generalised Kullback-Leibler divergence)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy

from ..bounds import Bound
from ..pytrees import node
from ..sums import summed
from .base import Function, Proximal, exactly, length
from .separable import bounded

# Newton's method on the scalar equation of the logistic prox converges to rounding from every start well before this many steps.
_NEWTON_STEPS = 24


@node
class Huber(Function):
    """w sum h_k(u - b), h_k(r) = r^2/2 for |r| <= k, else k|r| - k^2/2: quadratic for small residuals, linear for outliers."""

    weight: jax.Array
    knee: jax.Array
    target: jax.Array

    smooth = proximable = separable = True

    def value(self, u: jax.Array) -> jax.Array:
        size = jnp.abs(u - self.target)
        near = jnp.minimum(size, self.knee)
        return self.weight * summed(near * (size - near / 2))

    def gradient(self, u: jax.Array) -> jax.Array:
        return self.weight * jnp.clip(u - self.target, -self.knee, self.knee)

    def curvature(self) -> tuple[Bound, Bound]:
        return Bound(0.0, "exact", "linear far out"), Bound(float(self.weight), "exact", "w")

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        """b + r/(1 + t) for |r| <= k(1 + t), else b + r - t k sign r, with r = v - b, t = tau w (B17, section 6.7): both say
        r - t clip(r/(1 + t), -k, k)."""
        pull = tau * self.weight
        residual = v - self.target
        return exactly(self, v - pull * jnp.clip(residual / (1 + pull), -self.knee, self.knee))

    def conjugate(self, y: jax.Array) -> jax.Array:
        inside = jnp.all(jnp.abs(y) <= self.weight * self.knee)
        return jnp.where(inside, summed(y**2 / (2 * self.weight) + y * self.target), jnp.inf)


@node
class Logistic(Function):
    """w sum log(1 + exp(-l u)), labels l = +1 or -1."""

    weight: jax.Array
    labels: jax.Array

    smooth = proximable = separable = True

    def value(self, u: jax.Array) -> jax.Array:
        return self.weight * summed(jax.nn.softplus(-self.labels * u))

    def gradient(self, u: jax.Array) -> jax.Array:
        return -self.weight * self.labels * jax.nn.sigmoid(-self.labels * u)

    def curvature(self) -> tuple[Bound, Bound]:
        return Bound(0.0, "exact", "flat far out"), Bound(float(self.weight) / 4, "exact", "w/4")

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        """With margins m = l u and m0 = l v: m - m0 = t s(-m), whose root lies in [m0, m0 + t]; Newton's steps that leave what is known
        of the root become bisections, so they converge from everywhere."""
        pull = jnp.broadcast_to(tau * self.weight, v.shape)
        margin = self.labels * v

        def one(_: int, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            m, below, above = carry
            chance = jax.nn.sigmoid(-m)
            error = m - margin - pull * chance
            below, above = jnp.where(error < 0, m, below), jnp.where(error > 0, m, above)
            tried = m - error / (1 + pull * chance * (1 - chance))
            kept = ((tried > below) & (tried < above)) | (tried == m)  # equal to the root to rounding
            return jnp.where(kept, tried, (below + above) / 2), below, above

        # Where t is large, s(-m) is about e^-m at the root, which then is about log t - log(log t - m0).
        far = jnp.log(jnp.maximum(pull, float(np.finfo(v.dtype).tiny))) - margin
        near = margin + pull * jax.nn.sigmoid(-margin - pull / 2)
        first = jnp.where(far > 1, jnp.clip(margin + far - jnp.log(jnp.maximum(far, 1)), margin, margin + pull), near)
        m, _, _ = jax.lax.fori_loop(0, _NEWTON_STEPS, one, (first, margin, margin + pull))
        return exactly(self, self.labels * m)

    def conjugate(self, y: jax.Array) -> jax.Array:
        """w (p log p + (1-p) log(1-p)) with p = -l y / w in [0, 1]."""
        chance = -self.labels * y / self.weight
        inside = jnp.all((chance >= 0) & (chance <= 1))
        kept = jnp.clip(chance, 0, 1)
        return jnp.where(inside, self.weight * summed(xlogy(kept, kept) + xlogy(1 - kept, 1 - kept)), jnp.inf)


@node
class Poisson(Function):
    """w sum (u + d) - b log(u + d) on u + d >= 0: minus the log-likelihood of counts b >= 0 at intensity u + d, d the background. Where
    b = 0 it is linear and the bound is all that keeps u in place."""

    weight: jax.Array
    counts: jax.Array
    background: jax.Array

    proximable = separable = differentiable = True

    def value(self, u: jax.Array) -> jax.Array:
        rate = u + self.background
        return self.weight * summed(rate - xlogy(self.counts, jnp.maximum(rate, 0)))

    def gradient(self, u: jax.Array) -> jax.Array:
        return self.weight * (1 - self.counts / (u + self.background))

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        """The positive root of z^2 + (t - v) z - t b = 0, t = tau w: (v - t + sqrt((v - t)^2 + 4 t b))/2, written so that nothing cancels
        for v < t."""
        pull = tau * self.weight
        shift = v + self.background - pull
        return exactly(self, positive_root(shift, pull * self.counts) - self.background)

    def relative_smoothness(self) -> Bound:
        """L for which L h - phi(A x) is convex for every A >= 0, h Burg's entropy -sum log x: w ||b||_1 (BBT17, Lemma 7)."""
        return Bound(float(self.weight * jnp.sum(self.counts)), "upper_bound", "w ||b||_1")

    def conjugate(self, y: jax.Array) -> jax.Array:
        """w b (log(b / (1 - y/w)) - 1) - y d for y <= w, and y < w where b > 0."""
        room = 1 - y / self.weight
        inside = jnp.all(jnp.where(self.counts > 0, room > 0, room >= 0))
        safe = jnp.where(room > 0, room, 1)
        each = self.weight * (xlogy(self.counts, self.counts / safe) - self.counts) - y * self.background
        return jnp.where(inside, summed(each), jnp.inf)

    def distance(self, u: jax.Array) -> jax.Array:
        return length(jnp.minimum(u + self.background, 0))

    def merged(self, other: Function) -> Function | None:
        return bounded(self, other)


def positive_root(shift: jax.Array, product: jax.Array) -> jax.Array:
    """The root z >= 0 of z^2 - shift z - product = 0, product >= 0, without cancellation for negative shifts."""
    root = jnp.sqrt(shift**2 + 4 * product)
    apart = jnp.where(shift < 0, root - shift, 1)
    return jnp.where(shift >= 0, (shift + root) / 2, 2 * product / apart)
