"""Gradient steps on manifolds: f is lowered along retractions of the Riemannian gradient, with a line search in the metric.

Slots without a manifold move in the same step, by proximal gradient steps with the same step size, so that one decrease is tested for all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..problem import Problem, State
from .base import Controls, Metrics, Solver
from .line_search import Descending, Trial, energies, halved, rounding
from .proximal_gradient import Point

# Armijo's constant: which part of the decrease that the gradient promises must come.
SUFFICIENT = 1e-4
# By how much the first trial of a step may differ from the step before.
WIDEST = 10.0


class Found(NamedTuple):
    """Of a trial: the gradients there, what inexact proxes go on from and missed, and how far slots without a manifold moved."""

    slope: State
    carries: dict[str, Any]
    inner_gap: jax.Array
    moved_sq: jax.Array


def riemannian_gradient() -> Solver:
    """x+ = R_x(-alpha grad f(x)) on manifolds, prox_{alpha g}(x - alpha grad f(x)) elsewhere.

    alpha is halved until E(x+) <= E(x) - c (alpha ||grad f||_x^2 + ||x+ - x||^2 / alpha), the norms over the slots with and without a
    manifold, c = 1e-4. The first alpha of a step is that of Barzilai & Borwein, <s, s>/<s, y> for the last displacement s and the change y
    of the gradient, both projected to the new tangent space (Iannazzo & Porcelli, IMA J. Numer. Anal. 38(1), 2018). E never rises, and
    where it is bounded below the gradients go to 0 (Boumal, An Introduction to Optimization on Smooth Manifolds, 2023, section 4.5).

    Near a minimum the decrease drowns in the rounding of E; there a step is accepted that leaves E as it is to rounding and makes the
    gradient smaller, so that the gradient converges further than E can tell.
    """
    return Solver("riemannian_gradient", _init, _step, "monotone")


def _init(problem: Problem, controls: Controls, x: State) -> Descending:
    point = Point(x, problem.lift(x))
    metrics = Metrics.standing(problem.f_lifted(point.lifted), problem.g_value(x), controls.alpha)
    carries = {slot: term.begin(x[slot]) for slot, term in problem.prox.items()}
    return Descending(point, controls.alpha, gradients(problem, point), carries, metrics)


def gradients(problem: Problem, point: Point) -> State:
    """grad f, Riemannian where a slot has a manifold."""
    slope = problem.gradient_lifted(point.lifted, point.x)
    return {slot: problem.manifolds[slot].gradient(point.x[slot], g) if slot in problem.manifolds else g for slot, g in slope.items()}


def _step(problem: Problem, controls: Controls, state: Descending) -> Descending:
    old, real = state.metrics, state.metrics.energy.dtype
    slope = state.remembered
    zero = jnp.zeros((), real)
    curved_sq, free_sq, constrained_sq = _squares(problem, state.x, slope)

    def tried(alpha: jax.Array) -> Trial:
        reached: State = {}
        carries: dict[str, Any] = {}
        gap = moved_sq = zero
        for slot, here in state.x.items():
            if slot in problem.manifolds:
                reached[slot] = problem.manifolds[slot].retract(here, -alpha * slope[slot])
                continue
            reached[slot] = here - alpha * slope[slot]
            if slot in problem.prox:
                made = problem.prox[slot].prox(reached[slot], alpha, state.carries[slot])
                reached[slot], carries[slot] = made.point, made.carry
                gap = gap + made.gap
            moved_sq = moved_sq + jnp.sum((reached[slot] - here) ** 2)
        at, smooth, nonsmooth = energies(problem, reached, real)
        promised = SUFFICIENT * (alpha * curved_sq + moved_sq / alpha)
        change = smooth + nonsmooth - old.energy
        there = gradients(problem, at)
        curved_there, free_there, _ = _squares(problem, reached, there)
        flatter = (jnp.abs(change) <= rounding(old)) & (curved_there + free_there <= curved_sq + free_sq)
        accepted = (change + promised <= 0) | flatter
        return Trial(alpha, at, smooth, nonsmooth, accepted, Found(there, carries, gap, moved_sq))

    trial = halved(tried, state.alpha)
    found: Found = trial.found
    grad_norm = jnp.sqrt(curved_sq + free_sq + constrained_sq)
    residual = jnp.sqrt(curved_sq + found.moved_sq / trial.length**2) / jnp.maximum(1, grad_norm)
    metrics = trial.metrics(old, residual=residual, grad_norm=grad_norm, inner_gap=found.inner_gap, alpha=trial.length)
    following = jnp.where(trial.accepted, _next_alpha(problem, state.at, slope, trial), state.alpha)
    at, remembered, carries = trial.kept((trial.at, found.slope, found.carries), (state.at, slope, state.carries))
    return Descending(at, following, remembered, carries, metrics)


def _next_alpha(problem: Problem, here: Point, slope: State, trial: Trial) -> jax.Array:
    """The step of Barzilai & Borwein, kept within a factor of the last one; longer by that factor where the curvature is not positive."""
    there: State = trial.found.slope
    longest = along = jnp.zeros_like(trial.length)
    for slot, x in trial.at.x.items():
        if slot in problem.manifolds:
            made = problem.manifolds[slot]
            before = made.proj_tangent(x, slope[slot])
            moved = -trial.length * before
            longest = longest + made.inner(x, moved, moved)
            along = along + made.inner(x, moved, there[slot] - before)
        else:
            moved = x - here.x[slot]
            longest = longest + jnp.sum(moved**2)
            along = along + jnp.sum(moved * (there[slot] - slope[slot]))
    least, most = trial.length / WIDEST, trial.length * WIDEST
    return jnp.where(along > 0, jnp.clip(longest / jnp.where(along > 0, along, 1), least, most), most)


def _squares(problem: Problem, x: State, slope: State) -> tuple[jax.Array, jax.Array, jax.Array]:
    """||grad f||^2 over the slots on manifolds, in their metrics; over those without a prox; and over those with one, where it need not
    vanish."""
    curved = free = constrained = jnp.zeros((), next(iter(slope.values())).dtype)
    for slot, g in slope.items():
        if slot in problem.manifolds:
            curved = curved + problem.manifolds[slot].inner(x[slot], g, g)
        elif slot in problem.prox:
            constrained = constrained + jnp.sum(g**2)
        else:
            free = free + jnp.sum(g**2)
    return curved, free, constrained
