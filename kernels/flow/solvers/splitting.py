"""Class D: f + g1 + g2 where each slot may have two proxes (Davis-Yin), and Douglas-Rachford steps with the prox of f (implicit).

Sources: Davis & Yin, Set-Valued Var. Anal. 25, 2017; Combettes & Pesquet, IEEE JSTSP 1(4), 2007 (Douglas-Rachford).
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..problem import Problem, ProxTerm, State
from .base import Controls, Metrics, Solver, largest, norm

# Conjugate gradients of an implicit step stop at this residual, relative to the right-hand side, or after this many steps.
CG_TOLERANCE, CG_STEPS = 1e-10, 200


class Split(NamedTuple):
    """The state: the point z that the proxes are taken from, where the flow stands, and what inexact proxes go on from."""

    z: State
    x: State
    carries: dict[str, Any]
    second_carries: dict[str, Any]
    metrics: Metrics


@cache
def davis_yin() -> Solver:
    """x = prox_{alpha g1}(z); y = prox_{alpha g2}(2x - z - alpha grad f(x)); z+ = z + relaxation (y - x).

    Converges for alpha < 2/beta and relaxation < 2 - alpha beta/2; without f it is Douglas-Rachford, for every alpha > 0.
    """
    return Solver("davis_yin", _init, _davis_yin)


@cache
def implicit() -> Solver:
    """x = prox_{alpha f}(z); y = prox_{alpha g}(2x - z); z+ = z + y - x: stable for every alpha > 0. f must be quadratic.

    Without g it is the proximal point iteration x+ = prox_{alpha f}(x), the implicit Euler step of the flow x' = -grad f(x).
    """
    return Solver("implicit", _init, _implicit)


def _init(problem: Problem, controls: Controls, x: State) -> Split:
    carries = {slot: term.begin(x[slot]) for slot, term in problem.prox.items()}
    second = {slot: term.begin(x[slot]) for slot, term in problem.second.items()}
    return Split(x, x, carries, second, Metrics.standing(problem.f_value(x), problem.g_value(x), controls.alpha))


def proxes(terms: dict[str, ProxTerm], v: State, alpha: jax.Array, carries: dict[str, Any]) -> tuple[State, jax.Array, dict[str, Any]]:
    """The prox of each slot that has one, the gap of the inexact ones, and their carries."""
    points, onward, gap = dict(v), {}, jnp.zeros((), alpha.dtype)
    for slot, term in terms.items():
        made = term.prox(v[slot], alpha, carries[slot])
        points[slot], onward[slot], gap = made.point, made.carry, gap + made.gap
    return points, gap, onward


def _davis_yin(problem: Problem, controls: Controls, state: Split) -> Split:
    alpha = controls.alpha
    x, gap, carries = proxes(problem.prox, state.z, alpha, state.carries)
    lifted = problem.lift(x)
    slope = problem.gradient_lifted(lifted, x)
    turned = {slot: 2 * x[slot] - state.z[slot] - alpha * slope[slot] for slot in x}
    y, other_gap, second = proxes(problem.second, turned, alpha, state.second_carries)
    apart = {slot: y[slot] - x[slot] for slot in x}
    z = {slot: state.z[slot] + controls.relaxation * apart[slot] for slot in x}
    return _arrived(problem, Split(z, x, carries, second, state.metrics), norm(apart), slope, lifted, gap=gap + other_gap, alpha=alpha)


def _implicit(problem: Problem, controls: Controls, state: Split) -> Split:
    alpha = controls.alpha
    halfway = smooth_prox(problem, state.z, alpha)
    y, gap, carries = proxes(problem.prox, {slot: 2 * halfway[slot] - state.z[slot] for slot in halfway}, alpha, state.carries)
    apart = {slot: y[slot] - halfway[slot] for slot in y}
    z = {slot: state.z[slot] + apart[slot] for slot in y}
    x = y if problem.prox else halfway
    lifted = problem.lift(x)
    slope = problem.gradient_lifted(lifted, x)
    moved = Split(z, x, carries, state.second_carries, state.metrics)
    return _arrived(problem, moved, norm(apart), slope, lifted, gap=gap, alpha=alpha)


def _arrived(
    problem: Problem, after: Split, apart: jax.Array, slope: State, lifted: tuple[jax.Array, ...], *, gap: jax.Array, alpha: jax.Array
) -> Split:
    """The metrics of a step; ||y - x|| / alpha is how far 0 is from the sum of the subgradients that the step has shown."""
    smooth, nonsmooth = problem.f_lifted(lifted), problem.g_value(after.x)
    grad_norm = norm(slope)
    residual = apart / (alpha * largest(1.0, grad_norm))
    metrics = after.metrics.after(smooth, nonsmooth, residual=residual, grad_norm=grad_norm, gap=gap, alpha=alpha)
    return after._replace(metrics=metrics)


def smooth_prox(problem: Problem, z: State, alpha: jax.Array) -> State:
    """prox_{alpha f}(z) of a quadratic f: (I + alpha H) x = z - alpha grad f(0), by conjugate gradients from z."""
    nothing = {slot: jnp.zeros_like(value) for slot, value in z.items()}
    constant = problem.f_grad(nothing)

    def shifted(x: State) -> State:
        slope = problem.f_grad(x)
        return {slot: x[slot] + alpha * (slope[slot] - constant[slot]) for slot in x}

    rhs = {slot: z[slot] - alpha * constant[slot] for slot in z}
    solve: Any = jax.scipy.sparse.linalg.cg
    solved: State = solve(shifted, rhs, x0=z, tol=CG_TOLERANCE, maxiter=CG_STEPS)[0]
    return solved
