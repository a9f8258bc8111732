"""Class E: f + g subject to couplings sum_s A_s x_s = c between the slots, by linearised ADMM.

Two blocks of slots take turns, the first and all others; each makes a proximal step on the augmented Lagrangian, then the scaled duals
follow. Where A_s is plus or minus the identity and the block has no f, that step is ADMM's own, exactly. Sources: Boyd et al., Found.
Trends Mach. Learn. 3(1), 2011; He & Yuan, Numer. Math. 130, 2015 (the linearised step as ADMM in a metric).
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..problem import Problem, State, spread, taken
from .base import Controls, Metrics, Solver, largest, norm


class Coupled(NamedTuple):
    """The state: x, for each coupling the scaled dual u and how far it is from holding, r = A x - c."""

    x: State
    u: tuple[jax.Array, ...]
    off: tuple[jax.Array, ...]
    carries: dict[str, Any]
    metrics: Metrics


@cache
def admm() -> Solver:
    """alpha <= 1/(beta + rho ||A||^2), rho = `controls.sigma`; primal residual ||A x - c||, dual residual that of the Lagrangian."""
    return Solver("admm", _init, _step)


def _init(problem: Problem, controls: Controls, x: State) -> Coupled:
    off = _off(problem, x)
    u = tuple(jnp.zeros_like(at) for at in off)
    carries = {slot: term.begin(x[slot]) for slot, term in problem.prox.items()}
    return Coupled(x, u, off, carries, Metrics.standing(problem.f_value(x), problem.g_value(x), controls.alpha))


def _step(problem: Problem, controls: Controls, state: Coupled) -> Coupled:
    alpha, rho = controls.alpha, controls.sigma
    first, *others = state.x
    x, off = dict(state.x), state.off
    carries: dict[str, Any] = {}
    value = gap = jnp.zeros((), alpha.dtype)
    shown: State = {}  # an element of the subdifferential of g at the new point
    for block in ((first,), tuple(others)):
        slope = problem.f_grad(x)
        force = _pulled(problem, tuple(now + dual for now, dual in zip(off, state.u, strict=True)), x)
        for slot in block:
            downhill = slope[slot] + rho * force[slot]
            point = x[slot] - alpha * downhill
            if slot in problem.prox:
                made = problem.prox[slot].prox(point, alpha, state.carries[slot])
                point, carries[slot] = made.point, made.carry
                value, gap = value + made.value, gap + made.gap
            shown[slot] = (x[slot] - point) / alpha - downhill
            x[slot] = point
        off = _off(problem, x)
    u = tuple(dual + now for dual, now in zip(state.u, off, strict=True))

    smooth, slope = problem.f_value(x), problem.f_grad(x)
    pull = _pulled(problem, u, x)
    grad_norm = norm(slope)
    dual = norm({slot: shown[slot] + slope[slot] + rho * pull[slot] for slot in x}) / largest(1.0, grad_norm, rho * norm(pull))
    scale = largest(1.0, *(jnp.linalg.norm(term.target.ravel()) for term in problem.couplings), norm(x))
    primal = jnp.sqrt(jnp.sum(jnp.stack([jnp.vdot(now, now) for now in off]))) / scale
    residual = jnp.maximum(primal, dual)
    metrics = state.metrics.after(smooth, value, residual=residual, grad_norm=grad_norm, gap=gap, alpha=alpha)
    return Coupled(x, u, off, carries, metrics)


def _off(problem: Problem, x: State) -> tuple[jax.Array, ...]:
    return tuple(term.op.matvec(taken(term.slots, x)) - term.target for term in problem.couplings)


def _pulled(problem: Problem, u: tuple[jax.Array, ...], like: State) -> State:
    """sum A^T u, for every slot."""
    found: State = {}
    for term, dual in zip(problem.couplings, u, strict=True):
        found = spread(term.slots, term.op.rmatvec(dual), found)
    return {slot: found.get(slot, jnp.zeros_like(value)) for slot, value in like.items()}
