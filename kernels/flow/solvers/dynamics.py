"""Flows that do not descend: motion with momenta on declared pairs (F_Con), and Langevin noise (F_Ann).

Their certificate of descent is suspended, and their `descent` says so. Undamped motion keeps H = V + T up to O(h^2); damped, it comes to
rest at a minimum of V; the law of the Langevin flow tends to exp(-E/T) up to O(alpha).
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..primitives import anneal, conserve, hamiltonian
from ..problem import Problem, State
from .base import Controls, Metrics, Solver, largest, norm
from .proximal_gradient import proximal_step


class Moving(NamedTuple):
    """The state of a motion."""

    x: State
    metrics: Metrics


class Noisy(NamedTuple):
    """The state of a Langevin flow, with the lift of x: the key is that of the next step, never used twice."""

    x: State
    lifted: tuple[jax.Array, ...]
    key: jax.Array
    carries: dict[str, Any]
    metrics: Metrics


@cache
def symplectic() -> Solver:
    """Kick, drift, kick with the step alpha on the pairs of the spec, V = f, then p scaled by exp(-damping alpha).

    Metrics: energy is H = V + T, smooth is V, nonsmooth T. Stable for alpha < 2/sqrt(beta/m).
    """
    return Solver("symplectic", _init_motion, _move, "suspended")


@cache
def langevin() -> Solver:
    """x+ = prox_{alpha g}(x - alpha grad f(x)) + sqrt(2 T alpha) xi: ULA, with a prox where there is one; T is `controls.temperature`."""
    return Solver("langevin", _init_noisy, _shake, "suspended")


def _init_motion(problem: Problem, controls: Controls, x: State) -> Moving:
    potential = problem.f_value(x)
    kinetic = hamiltonian(x, problem.pairs, problem.f_value) - potential
    return Moving(x, Metrics.standing(potential, kinetic, controls.alpha))


def _move(problem: Problem, controls: Controls, state: Moving) -> Moving:
    x = conserve(state.x, problem.pairs, problem.f_grad, controls.alpha, controls.damping)
    potential = problem.f_value(x)
    total = hamiltonian(x, problem.pairs, problem.f_value)
    slope = norm(problem.f_grad(x))
    momenta = norm({p: x[p] for _, p, _ in problem.pairs})
    residual = largest(slope, momenta)
    metrics = state.metrics.after(potential, total - potential, residual=residual, grad_norm=slope, alpha=controls.alpha)
    return Moving(x, metrics)


def _init_noisy(problem: Problem, controls: Controls, x: State) -> Noisy:
    key = jax.random.key_data(jax.random.key(jnp.asarray(controls.seed, jnp.uint32)))
    carries = {slot: term.begin(x[slot]) for slot, term in problem.prox.items()}
    lifted = problem.lift(x)
    return Noisy(x, lifted, key, carries, Metrics.standing(problem.f_lifted(lifted), problem.g_value(x), controls.alpha))


def _shake(problem: Problem, controls: Controls, state: Noisy) -> Noisy:
    slope = problem.gradient_lifted(state.lifted, state.x)
    made, _, gap, carries = proximal_step(problem, state.x, slope, controls.alpha, state.carries)
    x, key = anneal(made, jax.random.wrap_key_data(state.key), controls.temperature, controls.alpha)
    lifted = problem.lift(x)
    smooth, nonsmooth = problem.f_lifted(lifted), problem.g_value(x)
    grad_norm = norm(slope)
    moved = norm({slot: state.x[slot] - x[slot] for slot in x})
    residual = moved / (controls.alpha * largest(1.0, grad_norm))
    metrics = state.metrics.after(smooth, nonsmooth, residual=residual, grad_norm=grad_norm, gap=gap, alpha=controls.alpha)
    return Noisy(x, lifted, jax.random.key_data(key), carries, metrics)
