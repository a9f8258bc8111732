"""Proximable terms g(x): total variation and the wavelet l1 norm, each as a pair of pure functions.

A term is `init(x) -> state` and `prox(v, step, state) -> Proximal`: the state carries what the next call may start
from (a dual variable), and the answer carries the value of the term and how exact it is. A term with an exact prox
reports a gap of zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .operators import DIFFERENCE_NORM_SQ, differences, differences_adjoint
from .transforms import Transform

Dual = tuple[jax.Array, jax.Array]


class Proximal(NamedTuple):
    """The point x close to prox_{step g}(v), g(x), and a bound on the excess of g(x) + ||x - v||^2 / (2 step) over
    its minimum.
    """

    x: jax.Array
    value: jax.Array
    gap: jax.Array
    state: Any


class ProximalTerm(NamedTuple):
    """g as (init, prox, value); `value` is for the start of a run, afterwards `prox` says it."""

    init: Callable[[jax.Array], Any]
    prox: Callable[[jax.Array, jax.Array, Any], Proximal]
    value: Callable[[jax.Array], jax.Array]


def soft_threshold(v: jax.Array, threshold: jax.Array) -> jax.Array:
    """S_t(v) = sign(v) max(|v| - t, 0), the prox of t ||.||_1."""
    return jnp.sign(v) * jnp.maximum(jnp.abs(v) - threshold, 0)


def wavelet_l1(weight: jax.Array, transform: Transform) -> ProximalTerm:
    """g(x) = weight ||W x||_1 over the detail bands of an orthonormal W; the approximation band is free.

    prox_{tg}(v) = W^T S_{t weight}(W v) on the details, exact because W^T W = W W^T = I (Beck, First-Order Methods,
    thm 6.15).
    """
    height, width = transform.bands[0].shape
    free = height * width

    def init(_: jax.Array) -> tuple[()]:
        return ()

    def prox(v: jax.Array, step: jax.Array, state: tuple[()]) -> Proximal:
        u = transform.forward(v)
        details = soft_threshold(u[..., free:], step * weight)
        x = transform.inverse(jnp.concatenate([u[..., :free], details], axis=-1))
        return Proximal(x, weight * jnp.sum(jnp.abs(details)), jnp.zeros((), v.dtype), state)

    def value(x: jax.Array) -> jax.Array:
        return weight * jnp.sum(jnp.abs(transform.forward(x)[..., free:]))

    return ProximalTerm(init, prox, value)


def total_variation(weight: jax.Array, inner_steps: int) -> ProximalTerm:
    """g(x) = weight sum_ij |(D x)_ij|_2, isotropic, by `inner_steps` steps of fast gradient projection on the dual.

    With m = step weight: x = v - m D^T p over |p_ij| <= 1, iterating p <- P(r + D(v - m D^T r) / (8 m)) with
    Nesterov's momentum (Beck & Teboulle, IEEE TIP 18(11), 2009, algorithm 4.1). The dual starts where the last call
    ended. The duality gap is m sum(|D x| - <D x, p>), a sum of terms that are never negative; divided by the step it
    is in the units of the energy.
    """

    def init(x: jax.Array) -> Dual:
        return jnp.zeros_like(x), jnp.zeros_like(x)

    def prox(v: jax.Array, step: jax.Array, start: Dual) -> Proximal:
        m = step * weight

        def ascend(_: int, carry: tuple[Dual, Dual, jax.Array]) -> tuple[Dual, Dual, jax.Array]:
            p, r, t = carry
            slope = differences(v - m * differences_adjoint(r))
            p_next = _project((r[0] + slope[0] / (DIFFERENCE_NORM_SQ * m), r[1] + slope[1] / (DIFFERENCE_NORM_SQ * m)))
            t_next = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
            pull = (t - 1) / t_next
            r_next = (p_next[0] + pull * (p_next[0] - p[0]), p_next[1] + pull * (p_next[1] - p[1]))
            return p_next, r_next, t_next

        p, _, _ = jax.lax.fori_loop(0, inner_steps, ascend, (start, start, jnp.ones((), v.dtype)))
        x = v - m * differences_adjoint(p)
        rows, columns = differences(x)
        magnitude = _magnitude((rows, columns))
        gap = weight * jnp.sum(magnitude - (rows * p[0] + columns * p[1]))
        return Proximal(x, weight * jnp.sum(magnitude), gap, p)

    def value(x: jax.Array) -> jax.Array:
        return weight * jnp.sum(_magnitude(differences(x)))

    return ProximalTerm(init, prox, value)


def _magnitude(p: Dual) -> jax.Array:
    return jnp.sqrt(p[0] ** 2 + p[1] ** 2)


def _project(p: Dual) -> Dual:
    scale = 1 / jnp.maximum(1, _magnitude(p))
    return p[0] * scale, p[1] * scale
