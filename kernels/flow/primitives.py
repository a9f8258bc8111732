"""The primitives of a flow as pure functions: dissipate, project, change coordinates, conserve, anneal.

One step is F_Dis, F_Multi, F_Proj and F_Multi back, perhaps with F_Con; the solvers compile the same maps into faster forms. Each takes a
state, a dictionary of arrays by slot, and gives back a new one; slots that it is given no gradient, prox or pair for come back as they are,
bit by bit. Source of F_Con: Hairer, Lubich & Wanner, Geometric Numerical Integration, I.1.4 and VI.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from .manifolds.base import Manifold
from .operators.base import Operator
from .problem import State
from .transforms.base import TransformOp

Pair = tuple[str, str, float]


def dissipate(
    x: State,
    grad: Mapping[str, jax.Array],
    alpha: Any,
    *,
    manifolds: Mapping[str, Manifold] | None = None,
    scale: Mapping[str, jax.Array] | None = None,
) -> State:
    """F_Dis: z - alpha P^-1 grad f(z); on a manifold the retraction of -alpha grad f.

    grad: for the slots that move; a slot without one stays. scale: the diagonal of P^-1, by slot. manifolds: by slot.
    For alpha < 2/beta: f(z+) <= f(z) - alpha (1 - alpha beta/2) ||grad f||^2.
    """
    moved = dict(x)
    for slot, slope in grad.items():
        if manifolds is not None and slot in manifolds:
            along = manifolds[slot].gradient(x[slot], slope)
            moved[slot] = manifolds[slot].retract(x[slot], -alpha * along)
        else:
            moved[slot] = x[slot] - alpha * (slope if scale is None or slot not in scale else scale[slot] * slope)
    return moved


def project(x: State, proxes: Mapping[str, Callable[[jax.Array, Any], jax.Array]], alpha: Any) -> State:
    """F_Proj: prox_{alpha g}, slot by slot, in whatever coordinates the state is in: firmly nonexpansive for convex g."""
    return {slot: proxes[slot](at, alpha) if slot in proxes else at for slot, at in x.items()}


def transform(array: jax.Array, operator: Any, direction: Literal["forward", "inverse"]) -> jax.Array:
    """F_Multi: u = W x, or x back from u. operator: anything with forward and inverse, as transforms have them, or an orthonormal
    Operator."""
    if isinstance(operator, Operator) and not isinstance(operator, TransformOp):
        if not operator.orthonormal():
            raise ValueError(f"{type(operator).__name__} is not orthonormal, so its adjoint is not its inverse; give one with an inverse")
        return operator.matvec(array) if direction == "forward" else operator.rmatvec(array)
    return jnp.asarray(operator.forward(array) if direction == "forward" else operator.inverse(array))


def conserve(x: State, pairs: Sequence[Pair], potential_grad: Callable[[State], State], step: Any, damping: Any = 0.0) -> State:
    """F_Con: kick, drift, kick for H(q, p) = V(q) + sum ||p||^2 / (2 m), then the momenta damped by exp(-damping step).

    p' = p - h/2 grad V(q); q+ = q + h p'/m; p+ = p' - h/2 grad V(q+). Symplectic and time reversible without damping, of second order; an
    oscillator of frequency w is stable if and only if w h < 2, and then |H - H0|/H0 <= a/(1 - a), a = (w h)^2/4, without drift.
    pairs: (position, momentum, mass). potential_grad: grad V for the position slots.
    """
    force = potential_grad(x)
    state = {**x, **{p: x[p] - step / 2 * force[q] for q, p, _ in pairs}}
    state = {**state, **{q: state[q] + step * state[p] / mass for q, p, mass in pairs}}
    force = potential_grad(state)
    fade = jnp.exp(-jnp.asarray(damping) * step)
    return {**state, **{p: (fade * (state[p] - step / 2 * force[q])).astype(x[p].dtype) for q, p, _ in pairs}}


def hamiltonian(x: State, pairs: Sequence[Pair], potential: Callable[[State], jax.Array]) -> jax.Array:
    """H = V(q) + sum ||p||^2 / (2 m)."""
    return potential(x) + sum(jnp.vdot(x[p], x[p]) / (2 * mass) for _, p, mass in pairs)


def anneal(x: State, key: jax.Array, temperature: Any, step: Any, slots: Sequence[str] | None = None) -> tuple[State, jax.Array]:
    """F_Ann: x + sqrt(2 T h) xi with xi standard normal, and the next key: no noise is drawn twice.

    After F_Dis with the same step it is the unadjusted Langevin step, whose law tends to exp(-E/T) up to O(h). slots: those that get noise,
    all by default.
    """
    chosen = list(x) if slots is None else list(slots)
    following, *keys = jax.random.split(key, len(chosen) + 1)
    moved = dict(x)
    for slot, own in zip(chosen, keys, strict=True):
        width = jnp.sqrt(jnp.asarray(2 * temperature * step, x[slot].dtype))
        moved[slot] = x[slot] + width * jax.random.normal(own, x[slot].shape, x[slot].dtype)
    return moved, following
