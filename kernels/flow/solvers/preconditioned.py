"""Class P: proximal gradient steps in a metric P that is diagonal in the basis of the prox, so that the prox stays in closed form.

x+ = prox^P_{alpha g}(x - alpha P^-1 grad f(x)), where prox^P is taken element by element with the step alpha P^-1. Converges for
alpha < 2 / lambda_max(P^-1/2 L P^-1/2). P = diag(L) is Jacobi's choice.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..problem import Problem, State
from .base import Controls, Metrics, Solver, norm


class Scaled(NamedTuple):
    """The state, with the lift of x."""

    x: State
    lifted: tuple[jax.Array, ...]
    carries: dict[str, Any]
    metrics: Metrics


@cache
def preconditioned() -> Solver:
    """`controls.scale` is the diagonal of P^-1; every g must be a sum over the elements of x."""
    return Solver("preconditioned", _init, _step, "monotone")


def _init(problem: Problem, controls: Controls, x: State) -> Scaled:
    carries = {slot: term.begin(x[slot]) for slot, term in problem.prox.items()}
    lifted = problem.lift(x)
    return Scaled(x, lifted, carries, Metrics.standing(problem.f_lifted(lifted), problem.g_value(x), controls.alpha))


def _step(problem: Problem, controls: Controls, state: Scaled) -> Scaled:
    slope = problem.gradient_lifted(state.lifted, state.x)
    x: State = {}
    carries: dict[str, Any] = {}
    nonsmooth = gap = jnp.zeros((), controls.alpha.dtype)
    for slot, here in state.x.items():
        steps = controls.alpha * controls.scale[slot]
        x[slot] = here - steps * slope[slot]
        if slot in problem.prox:
            made = problem.prox[slot].prox(x[slot], steps, state.carries[slot])
            x[slot], carries[slot] = made.point, made.carry
            nonsmooth, gap = nonsmooth + made.value, gap + made.gap
    lifted = problem.lift(x)
    smooth = problem.f_lifted(lifted)
    grad_norm = norm(slope)
    # The subgradient of E that the step shows, up to the change of grad f: P (x - x+) / alpha.
    shown = {slot: (state.x[slot] - x[slot]) / (controls.alpha * controls.scale[slot]) for slot in x}
    residual = norm(shown) / jnp.maximum(1, grad_norm)
    metrics = state.metrics.after(smooth, nonsmooth, residual=residual, grad_norm=grad_norm, gap=gap, alpha=controls.alpha)
    return Scaled(x, lifted, carries, metrics)
