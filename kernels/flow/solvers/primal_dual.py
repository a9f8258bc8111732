"""Classes B and C: primal-dual steps for f + g + sum h_i(K_i x) (Condat-Vu), and without f (Chambolle-Pock, also accelerated).

Sources: Condat, JOTA 158, 2013; Vu, Adv. Comput. Math. 38, 2013; Chambolle & Pock, JMIV 40, 2011 (algorithms 1 and 2).
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..functions.base import conjugate_prox
from ..problem import Problem, State, spread, taken
from .base import Controls, Metrics, Solver, largest, norm
from .proximal_gradient import proximal_step


class PrimalDual(NamedTuple):
    """The state: x, a dual variable u_i for each h_i, and what the next step reads of both: K_i x, grad f(x), sum K_i^T u_i. tau and
    sigma are those of the next step."""

    x: State
    u: tuple[jax.Array, ...]
    image: tuple[jax.Array, ...]
    slope: State
    pull: State
    tau: jax.Array
    sigma: jax.Array
    carries: dict[str, Any]
    dual_carries: tuple[Any, ...]
    metrics: Metrics


@cache
def condat_vu() -> Solver:
    """x+ = prox_{tau g}(x - tau grad f(x) - tau K^T u); u+ = prox_{sigma h*}(u + sigma K(2x+ - x)); 1/tau - sigma ||K||^2 >= beta/2."""
    return Solver("condat_vu", _init, partial(_step, accelerated=False))


@cache
def chambolle_pock() -> Solver:
    """The same without f: tau sigma ||K||^2 <= 1; the gap falls like 1/k."""
    return Solver("chambolle_pock", _init, partial(_step, accelerated=False))


@cache
def chambolle_pock_accelerated() -> Solver:
    """For g that is strongly convex with `controls.modulus`: theta = 1/sqrt(1 + 2 mu tau), tau+ = theta tau, sigma+ = sigma/theta, and
    ||x - x*||^2 falls like 1/k^2."""
    return Solver("chambolle_pock_accelerated", _init, partial(_step, accelerated=True))


def _init(problem: Problem, controls: Controls, x: State) -> PrimalDual:
    image = tuple(term.op.matvec(taken(term.slots, x)) for term in problem.composite)
    u = tuple(jnp.zeros_like(at) for at in image)
    carries = {slot: term.begin(x[slot]) for slot, term in problem.prox.items()}
    dual_carries = tuple(term.phi.begin(at) for term, at in zip(problem.composite, image, strict=True))
    metrics = Metrics.standing(problem.f_value(x), problem.g_value(x), controls.alpha)
    still = {slot: jnp.zeros_like(value) for slot, value in x.items()}
    return PrimalDual(x, u, image, problem.f_grad(x), still, controls.alpha, controls.sigma, carries, dual_carries, metrics)


def _step(problem: Problem, controls: Controls, state: PrimalDual, *, accelerated: bool) -> PrimalDual:
    """One step; K, K^T, A and A^T are applied once each.

    The residuals are those of the optimality conditions at (x+, u+), exactly: the step shows an element of dg(x+) and of dh*(u+), and what
    is left of 0 in dg(x+) + grad f(x+) + K^T u+ and of 0 in dh*(u+) - K x+ is measured.
    """
    tau, theta = (state.tau, 1 / jnp.sqrt(1 + 2 * controls.modulus * state.tau)) if accelerated else (controls.alpha, 1.0)
    sigma = state.sigma / theta if accelerated else controls.sigma
    downhill = {slot: state.slope[slot] + state.pull[slot] for slot in state.x}
    x, value, gap, carries = proximal_step(problem, state.x, downhill, tau, state.carries)
    lifted = problem.lift(x)
    slope = problem.gradient_lifted(lifted, x)
    smooth = problem.f_lifted(lifted)

    pull: State = {}
    u, image, dual_carries, misses = [], [], [], []
    for term, before, seen, carry in zip(problem.composite, state.u, state.image, state.dual_carries, strict=True):
        at = term.op.matvec(taken(term.slots, x))
        onward = at - seen
        made = conjugate_prox(term.phi, before + sigma * (at + theta * onward), sigma, carry)
        misses.append((before - made.point) / sigma + theta * onward)
        value, gap = value + term.phi.value(at), gap + made.gap
        pull = spread(term.slots, term.op.rmatvec(made.point), pull)
        u.append(made.point)
        image.append(at)
        dual_carries.append(made.carry)
    pull = {slot: pull.get(slot, jnp.zeros_like(at)) for slot, at in x.items()}

    primal_miss = {slot: (state.x[slot] - x[slot]) / tau - downhill[slot] + slope[slot] + pull[slot] for slot in x}
    grad_norm = norm(slope)
    residual = norm(primal_miss) / largest(1.0, grad_norm, norm(pull))
    if misses:
        residual = jnp.maximum(residual, _norm(misses) / jnp.maximum(1, _norm(image)))
    metrics = Metrics(smooth + value, smooth, value, residual, grad_norm, gap, state.metrics.restarts, tau)
    return PrimalDual(x, tuple(u), tuple(image), slope, pull, tau * theta, sigma, carries, tuple(dual_carries), metrics)


def _norm(arrays: list[jax.Array]) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.stack([jnp.vdot(array, array).real for array in arrays])))
