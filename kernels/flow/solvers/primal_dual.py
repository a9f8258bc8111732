"""Classes B and C: primal-dual steps for f + g + sum h_i(K_i x) (Condat-Vu), and without f (Chambolle-Pock, also accelerated).

Sources: Condat, JOTA 158, 2013; Vu, Adv. Comput. Math. 38, 2013; Chambolle & Pock, JMIV 40, 2011 (algorithms 1 and 2).
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..functions.base import conjugate_prox
from ..packed import elementwise
from ..problem import Problem, State, spread, taken
from ..pytrees import node
from .base import Controls, Metrics, Solver, largest, squares
from .proximal_gradient import proximal_step

# Steps between two looks at the balance, how uneven it must be to change anything, and by how much each change is less than the last.
LOOK = 10
UNEVEN = 1.5
FADING = 0.95
# The least part of the condition on steps that sigma ||K||^2 takes: below that a shorter sigma no longer buys a longer tau.
LEAST_DUAL = 0.1
# A change of sigma by more than this part of it is told as a restart.
NOTABLE = 0.05


@node
class PrimalDualControls(Controls):
    """share: alpha beta / 2, the part of the condition that the gradient of f takes. balance: how much the first change of the steps may
    be, as a part of them; 0 keeps alpha and sigma as they are."""

    share: jax.Array | float = 0.0
    balance: jax.Array | float = 0.0


class Balance(NamedTuple):
    """How the next step divides its condition: sigma is `grown` times that of the controls, and tau what this leaves. most: by how much
    `grown` may change; steps: made since the last look; primal, dual: how far x and u have gone since then, sums of ||dx||^2 / tau and
    ||du||^2 / sigma."""

    grown: jax.Array
    most: jax.Array
    steps: jax.Array
    primal: jax.Array
    dual: jax.Array


class PrimalDual(NamedTuple):
    """The state: x, a dual variable u_i for each h_i, what the next step reads of both (K_i x, grad f(x), sum K_i^T u_i), and how
    it divides its condition."""

    x: State
    u: tuple[jax.Array, ...]
    image: tuple[jax.Array, ...]
    slope: State
    pull: State
    balance: Balance
    carries: dict[str, Any]
    dual_carries: tuple[Any, ...]
    metrics: Metrics


@cache
def condat_vu() -> Solver:
    """x+ = prox_{tau g}(x - tau grad f(x) - tau K^T u); u+ = prox_{sigma h*}(u + sigma K(2x+ - x)); 1/tau - sigma ||K||^2 > beta/2."""
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
    zero = jnp.zeros((), controls.alpha.dtype)
    balance = Balance(zero + 1, zero + getattr(controls, "balance", 0.0), zero, zero, zero)
    return PrimalDual(x, u, image, problem.f_grad(x), still, balance, carries, dual_carries, metrics)


def _step(problem: Problem, controls: Controls, state: PrimalDual, *, accelerated: bool) -> PrimalDual:
    """One step; K, K^T, A and A^T are applied once each.

    The residuals are those of the optimality conditions at (x+, u+), exactly: the step shows an element of dg(x+) and of dh*(u+), and what
    is left of 0 in dg(x+) + grad f(x+) + K^T u+ and of 0 in dh*(u+) - K x+ is measured.
    """
    balance = state.balance
    # 1/tau = beta/2 + sigma ||K||^2: of 1/alpha the share says what is beta/2, and sigma grows the rest.
    share = getattr(controls, "share", 0.0)
    tau, theta = controls.alpha / (share + (1 - share) * balance.grown), jnp.ones((), controls.alpha.dtype)
    if accelerated:
        theta = 1 / jnp.sqrt(1 + 2 * controls.modulus * tau)
        balance = balance._replace(grown=balance.grown / theta)
    sigma = controls.sigma * balance.grown
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

    back = {slot: state.x[slot] - x[slot] for slot in x}
    primal_miss = {slot: back[slot] / tau - downhill[slot] + slope[slot] + pull[slot] for slot in x}
    steep, pulled, missed, far = squares(slope, pull, primal_miss, back)
    dual_missed, seen, dual_far = squares(misses, image, jax.tree.map(jnp.subtract, u, list(state.u))) if u else (jnp.zeros_like(far),) * 3
    grad_norm, pulled, missed, dual_missed, seen = elementwise(jnp.sqrt, [steep, pulled, missed, dual_missed, seen])
    missed, dual_missed, far, dual_far = elementwise(
        jnp.divide, [missed, dual_missed, far, dual_far], [largest(1.0, grad_norm, pulled), jnp.maximum(1, seen), tau, sigma]
    )
    residual = jnp.maximum(missed, dual_missed)
    if u and not accelerated:
        balance = _balanced(controls, balance, far, dual_far)
    # Residuals before and after a change of the steps do not compare, so it counts as a restart; a small one does not.
    changed = (1 - NOTABLE) * jnp.maximum(balance.grown, state.balance.grown) > jnp.minimum(balance.grown, state.balance.grown)
    restarts = state.metrics.restarts + (changed & jnp.bool_(not accelerated))
    metrics = state.metrics.after(smooth, value, residual=residual, grad_norm=grad_norm, gap=gap, restarts=restarts, alpha=tau)
    return PrimalDual(x, tuple(u), tuple(image), slope, pull, balance, carries, tuple(dual_carries), metrics)


def _balanced(controls: Controls, balance: Balance, primal: jax.Array, dual: jax.Array) -> Balance:
    """The next steps: the side that has gone farther, in the metric of the iteration, gets the longer one. tau is always the longest that
    the condition allows for sigma.

    Balancing as of Goldstein, Li, Yuan, Esser & Studer (arXiv:1305.0546), with movements in the place of residuals: they have the same
    unit, so that neither that of x nor that of E matters. The changes fade geometrically, so their sum is finite, under which a
    forward-backward iteration in a variable metric, as this one is, converges (Combettes & Vu, Optimization 63, 2014, theorem 4.1).
    """
    primal, dual, steps = balance.primal + primal, balance.dual + dual, balance.steps + 1
    look = steps >= LOOK
    tiny = float(np.finfo(primal.dtype).tiny)
    share, one = jnp.asarray(getattr(controls, "share", 0.0), primal.dtype), jnp.ones_like(primal)
    ratio, least, most = elementwise(
        jnp.divide,
        [jnp.maximum(dual, tiny), LEAST_DUAL / (1 - LEAST_DUAL) * share, one],
        [jnp.maximum(primal, tiny), jnp.maximum(1 - share, tiny), 1 - balance.most],
    )
    uneven = look & ((ratio > UNEVEN) | (ratio < 1 / UNEVEN))
    grown = jnp.maximum(balance.grown * jnp.clip(jnp.sqrt(ratio), 1 - balance.most, most), jnp.minimum(least, 1))
    return Balance(
        jnp.where(uneven, grown, balance.grown),
        jnp.where(uneven, balance.most * FADING, balance.most),
        jnp.where(look, 0, steps),
        jnp.where(look, 0, primal),
        jnp.where(look, 0, dual),
    )
