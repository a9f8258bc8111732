"""Bregman proximal gradient steps for f without a Lipschitz gradient, such as Poisson's: the distance is that of Burg's entropy.

With h(x) = -sum log x and L h - f convex, the step x+ = argmin <grad f(x) + lambda, u> + D_h(u, x)/alpha has the closed form
x+ = x / (1 + alpha x (grad f(x) + lambda)), stays above 0, and E falls with every step for alpha <= 1/L. For Poisson's f, L = w ||b||_1.
Source: Bauschke, Bolte & Teboulle, Math. Oper. Res. 42(2), 2017, sections 5.1 and 5.3.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..functions.separable import Separable
from ..problem import Problem, State
from .base import Controls, Metrics, Solver, norm


class Positive(NamedTuple):
    """The state, above 0 in every element, with the lift of x."""

    x: State
    lifted: tuple[jax.Array, ...]
    metrics: Metrics


@cache
def bregman() -> Solver:
    """g may be lambda sum x (an l1 term, as x > 0), with or without the bound x >= 0."""
    return Solver("bregman", _init, _step, "monotone")


def _init(problem: Problem, controls: Controls, x: State) -> Positive:
    lifted = problem.lift(x)
    return Positive(x, lifted, Metrics.standing(problem.f_lifted(lifted), problem.g_value(x), controls.alpha))


def _step(problem: Problem, controls: Controls, state: Positive) -> Positive:
    alpha = controls.alpha
    slope = problem.gradient_lifted(state.lifted, state.x)
    x: State = {}
    for slot, here in state.x.items():
        phi = problem.prox[slot].phi if slot in problem.prox else None
        push = slope[slot] + (phi.threshold if isinstance(phi, Separable) else 0.0)
        x[slot] = here / (1 + alpha * here * push)
    lifted = problem.lift(x)
    smooth, nonsmooth = problem.f_lifted(lifted), problem.g_value(x)
    grad_norm = norm(slope)
    # x (grad f + lambda) is what must vanish where x >= 0 is a constraint: complementary slackness.
    slack = norm({slot: (state.x[slot] / x[slot] - 1) / alpha for slot in x})
    residual = slack / jnp.maximum(1, norm({slot: state.x[slot] * slope[slot] for slot in x}))
    metrics = state.metrics.after(smooth, nonsmooth, residual=residual, grad_norm=grad_norm, alpha=alpha)
    return Positive(x, lifted, metrics)
