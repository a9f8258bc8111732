"""Classes A and A': proximal gradient steps for f + g, plain (ISTA), accelerated (FISTA) and accelerated without ever rising (MFISTA).

Sources: Beck & Teboulle, SIAM J. Imaging Sci. 2(1), 2009 (ISTA, FISTA) and IEEE TIP 18(11), 2009, section V (MFISTA); O'Donoghue & Candes,
Found. Comput. Math. 15, 2015 (restart).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..problem import Problem, State
from .base import Controls, Metrics, Solver, inner, norm


class Point(NamedTuple):
    """A point and its lift."""

    x: State
    lifted: tuple[jax.Array, ...]


class Proximally(NamedTuple):
    """The state: the current point, the point of the next gradient, the momentum t, what each inexact prox goes on from."""

    at: Point
    y: Point
    t: jax.Array
    carries: dict[str, Any]
    metrics: Metrics

    @property
    def x(self) -> State:
        return self.at.x


def ista() -> Solver:
    """x+ = prox_{alpha g}(x - alpha grad f(x)); converges for alpha < 2/beta, and E falls with every step."""
    return Solver("ista", _init, lambda problem, controls, state: _step(problem, controls, state, momentum=False, monotone=False))


def fista() -> Solver:
    """E - E* <= 2 beta ||x0 - x*||^2 / (k+1)^2 between restarts, alpha <= 1/beta; E may rise now and then."""
    return Solver("fista", _init, lambda problem, controls, state: _step(problem, controls, state, momentum=True, monotone=False))


def mfista() -> Solver:
    """FISTA that keeps the better of the new and the old point, so E never rises."""
    return Solver("mfista", _init, lambda problem, controls, state: _step(problem, controls, state, momentum=True, monotone=True))


def _init(problem: Problem, controls: Controls, x: State) -> Proximally:
    point = Point(x, problem.lift(x))
    real = controls.alpha.dtype
    zero = jnp.zeros((), real)
    smooth, nonsmooth = problem.f_lifted(point.lifted).astype(real), problem.g_value(x).astype(real)
    metrics = Metrics(smooth + nonsmooth, smooth, nonsmooth, zero + jnp.inf, zero, zero, zero)
    carries = {slot: term.begin(x[slot]) for slot, term in problem.prox.items()}
    return Proximally(point, point, zero + 1, carries, metrics)


def _step(problem: Problem, controls: Controls, state: Proximally, *, momentum: bool, monotone: bool) -> Proximally:
    """z = prox(y - alpha grad f(y)); x+ = z if accepted, else x; t+ = (1 + sqrt(1 + 4 t^2))/2;
    y+ = x+ + t/t+ (z - x+) + (t - 1)/t+ (x+ - x).

    The momentum restarts (t+ = 1, y+ = x+) when <y - z, z - x> > 0, that is when the step went against it.
    """
    alpha, x, y = controls.alpha, state.at, state.y
    slope = problem.gradient_lifted(y.lifted, y.x)
    z, nonsmooth, inner_gap, carries = proximal_step(problem, y.x, slope, alpha, state.carries)
    reached = Point(z, problem.lift(z))
    smooth = problem.f_lifted(reached.lifted)
    energy = smooth + nonsmooth
    taken = (energy <= state.metrics.energy) if monotone else jnp.bool_(True)
    moved = {slot: y.x[slot] - z[slot] for slot in z}
    grad_norm = norm(slope)
    residual = norm(moved) / (alpha * jnp.maximum(1, grad_norm))

    restarts, t, following = state.metrics.restarts, state.t, reached
    here = reached
    if momentum:
        against = inner(moved, {slot: z[slot] - x.x[slot] for slot in z}) > 0
        t = jnp.where(against, 1, (1 + jnp.sqrt(1 + 4 * state.t**2)) / 2)
        restarts = restarts + against
        to_z = jnp.where(against, 0, state.t / t) if monotone else None
        onward = jnp.where(against, 0, (state.t - 1) / t)

        def kept(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(taken, new, old) if monotone else new

        def ahead(new: jax.Array, old: jax.Array) -> jax.Array:
            # Linear, so it is applied to points and to their lifts alike.
            stays = kept(new, old)
            out = stays + onward * (stays - old)
            return out if to_z is None else out + to_z * (new - stays)

        here = jax.tree.map(kept, reached, x)
        following = jax.tree.map(ahead, reached, x)
    old = state.metrics
    metrics = Metrics(
        jnp.where(taken, energy, old.energy),
        jnp.where(taken, smooth, old.smooth),
        jnp.where(taken, nonsmooth, old.nonsmooth),
        residual,
        grad_norm,
        inner_gap,
        restarts,
    )
    return Proximally(here, following, t, carries, metrics)


def proximal_step(
    problem: Problem, x: State, slope: State, alpha: jax.Array, carries: dict[str, Any]
) -> tuple[State, jax.Array, jax.Array, dict[str, Any]]:
    """prox_{alpha g}(x - alpha slope), slot by slot; with g there, the gap of inexact proxes, and what they go on from."""
    reached: State = {}
    onward: dict[str, Any] = {}
    value = gap = jnp.zeros((), alpha.dtype)
    for slot, here in x.items():
        point = here - alpha * slope[slot]
        if slot in problem.prox:
            made = problem.prox[slot].prox(point, alpha, carries[slot])
            point, onward[slot] = made.point, made.carry
            value, gap = value + made.value, gap + made.gap
        reached[slot] = point
    return reached, value, gap, onward
