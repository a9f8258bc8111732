"""Proximal gradient steps on manifolds: f + g with g on a slot that lives on a sphere or a Stiefel manifold, as sparse components do.

The prox of the flat space followed by a retraction is only right to first order. ManPG solves for the tangent step itself, then retracts
along it with a line search. Source: Chen, Ma, Man-Cho So & Zhang, SIAM J. Optim. 30(1), 2020.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..manifolds.base import Manifold, turned
from ..manifolds.flat import Sphere
from ..manifolds.stiefel import Stiefel
from ..problem import Problem, ProxTerm, State
from .base import Controls, Metrics, Solver, norm
from .line_search import Descending, Trial, energies, halved, rounding
from .proximal_gradient import Point

SUFFICIENT, GROW = 1e-2, 1.25
NEWTON_STEPS = 30

# Manifolds whose tangent vectors are those with X^T V + V^T X = 0.
SUPPORTED = (Sphere, Stiefel)


def manpg() -> Solver:
    """x+ = R_x(gamma v), v = argmin over tangent v of <grad f, v> + ||v||^2 / (2 t) + g(x + v); gamma is halved until
    E(x+) <= E(x) - c gamma ||v||^2 / t, c = 1e-2.

    t (alpha of the controls at first) grows by a quarter after a full step and shrinks to gamma t after a shorter one. Slots on a manifold
    without g take v = -t grad f, slots without a manifold v = prox_{t g}(x - t grad f) - x. E never rises but by its rounding, and every
    limit point is stationary. The residual is ||v|| / (t max(1, ||grad f||)).
    """
    return Solver("manpg", _init, _step, "monotone")


def suits(made: Manifold, term: ProxTerm) -> bool:
    """Whether the tangent problem of a term on a manifold can be solved: g is a sum over elements of x itself."""
    return isinstance(made, SUPPORTED) and term.op.structure == "identity" and term.phi.separable


def _init(problem: Problem, controls: Controls, x: State) -> Descending:
    point = Point(x, problem.lift(x))
    metrics = Metrics.standing(problem.f_lifted(point.lifted), problem.g_value(x), controls.alpha)
    multipliers = {}
    for slot in problem.manifolds:
        if slot in problem.prox:
            columns = _columns(problem.manifolds[slot], x[slot])
            multipliers[slot] = jnp.zeros_like(turned(columns) @ columns)
    carries = {slot: term.begin(x[slot]) for slot, term in problem.prox.items()}
    return Descending(point, controls.alpha, multipliers, carries, metrics)


def _step(problem: Problem, controls: Controls, state: Descending) -> Descending:
    old, real, t, x = state.metrics, state.metrics.energy.dtype, state.alpha, state.x
    slope = problem.gradient_lifted(state.at.lifted, x)
    direction: State = {}
    multipliers, carries = {}, {}
    gap = length_sq = jnp.zeros((), real)
    for slot, here in x.items():
        if slot in state.remembered:
            made = problem.manifolds[slot]
            tangent = TangentProblem(made, problem.prox[slot], here, slope[slot], t)
            multipliers[slot], direction[slot], missed = tangent.solved(state.remembered[slot])
            carries[slot] = state.carries[slot]
            length_sq, gap = length_sq + jnp.sum(direction[slot] ** 2), gap + missed
        elif slot in problem.manifolds:
            made = problem.manifolds[slot]
            direction[slot] = -t * made.gradient(here, slope[slot])
            length_sq = length_sq + made.inner(here, direction[slot], direction[slot])
        else:
            goal = here - t * slope[slot]
            if slot in problem.prox:
                found = problem.prox[slot].prox(goal, t, state.carries[slot])
                goal, carries[slot], gap = found.point, found.carry, gap + found.gap
            direction[slot] = goal - here
            length_sq = length_sq + jnp.sum(direction[slot] ** 2)

    def tried(gamma: jax.Array) -> Trial:
        reached = {
            slot: problem.manifolds[slot].retract(here, gamma * direction[slot])
            if slot in problem.manifolds
            else here + gamma * direction[slot]
            for slot, here in x.items()
        }
        at, smooth, nonsmooth = energies(problem, reached, real)
        change = smooth + nonsmooth - old.energy
        # Where the decrease drowns in the rounding of E, a full step is trusted: there the steps shrink by themselves.
        accepted = (change + SUFFICIENT * gamma * length_sq / t <= 0) | ((jnp.abs(change) <= rounding(old)) & (gamma == 1))
        return Trial(gamma, at, smooth, nonsmooth, accepted, ())

    trial = halved(tried, jnp.ones((), real))
    grad_norm = norm(slope)
    residual = jnp.sqrt(length_sq) / (t * jnp.maximum(1, grad_norm))
    metrics = trial.metrics(old, residual=residual, grad_norm=grad_norm, inner_gap=gap, alpha=t)
    following = jnp.where(trial.length == 1, GROW, trial.length) * t
    return Descending(trial.kept(trial.at, state.at), following, multipliers, carries, metrics)


class TangentProblem(NamedTuple):
    """argmin <slope, v> + ||v||^2 / (2 t) + g(x + v) over v with X^T V + V^T X = 0.

    With symmetric multipliers L, v(L) = prox_{t g}(x - t (slope - 2 X L)) - x, and F(L) = X^T v(L) + v(L)^T X is the gradient of a convex
    function of L, with Lipschitz constant 4 t r^2. A batch is solved together, since g is a sum over elements.
    """

    made: Manifold
    term: ProxTerm
    x: jax.Array
    slope: jax.Array
    t: jax.Array

    def moved(self, multipliers: jax.Array) -> jax.Array:
        """v(L)."""
        pull = jnp.reshape(_columns(self.made, self.x) @ (multipliers + turned(multipliers)), self.x.shape)
        return self.term.prox(self.x - self.t * (self.slope - pull), self.t, ()).point - self.x

    def miss(self, multipliers: jax.Array) -> jax.Array:
        """F(L)."""
        product = turned(_columns(self.made, self.x)) @ _columns(self.made, self.moved(multipliers))
        return product + turned(product)

    def jacobian(self, multipliers: jax.Array) -> jax.Array:
        """Of F, (..., k^2, k^2): F acts on each element of the batch for itself, so one basis serves all."""
        side = multipliers.shape[-1]
        basis = jnp.eye(side * side, dtype=self.x.dtype).reshape(side * side, side, side)

        def along(one: jax.Array) -> jax.Array:
            change: jax.Array = jax.jvp(self.miss, (multipliers,), (jnp.broadcast_to(one, multipliers.shape),))[1]
            return change

        slopes = jax.vmap(along)(basis).reshape(side * side, *multipliers.shape[:-2], side * side)
        return jnp.moveaxis(slopes, 0, -1)

    def solved(self, start: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """L, v, and by how much they miss in units of the energy: regularised semismooth Newton steps on F(L) = 0 where they bring F down,
        gradient steps where not."""
        columns = _columns(self.made, self.x)
        entries = columns.shape[-1] ** 2
        radius_sq = jnp.max(jnp.sum(columns**2, axis=-2))
        tolerance = 100 * float(np.finfo(np.dtype(self.x.dtype)).eps) * jnp.sqrt(radius_sq)

        def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            _, missed, count = carry
            return (jnp.max(jnp.abs(missed)) > tolerance) & (count < NEWTON_STEPS)

        def improve(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            multipliers, missed, count = carry
            size = jnp.sqrt(jnp.sum(missed**2, axis=(-2, -1), keepdims=True))
            shift = self.t * (radius_sq * jnp.minimum(1e-2, size) + tolerance)
            regular = self.jacobian(multipliers) + shift * jnp.eye(entries, dtype=self.x.dtype)
            newton = jnp.linalg.solve(regular, missed.reshape(*missed.shape[:-2], entries, 1)).reshape(missed.shape)
            candidate = multipliers - newton
            there = self.miss(candidate)
            better = jnp.sum(there**2, axis=(-2, -1), keepdims=True) < 0.81 * size**2
            following = jnp.where(better, candidate, multipliers - missed / (4 * self.t * radius_sq))
            return following, jnp.where(better, there, self.miss(following)), count + 1

        multipliers, missed, _ = jax.lax.while_loop(unfinished, improve, (start, self.miss(start), jnp.int32(0)))
        gap = jnp.abs(jnp.sum(multipliers * missed))
        return multipliers, self.made.proj_tangent(self.x, self.moved(multipliers)), gap


def _columns(made: Manifold, x: jax.Array) -> jax.Array:
    """Points as matrices: those of a sphere have one column."""
    return jnp.expand_dims(x, -1) if isinstance(made, Sphere) else x
