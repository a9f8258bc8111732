"""Accelerated proximal gradient flows for E = f + g, and the loop that runs a block of their steps on the device.

A solver is a pair of pure functions `init` and `step` over an explicit state. `advance` runs many steps inside one
compiled loop and stops it at the very step that converges, stagnates or stops being finite, so what a run computes
does not depend on how it is cut into blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .proximal import ProximalTerm
from .smooth import SmoothTerm

RUNNING, CONVERGED, STAGNATED, NOT_FINITE = range(4)

# A run stagnates when this many steps in a row change the energy by less than its own rounding error.
STAGNATION_STEPS = 20


class Metrics(NamedTuple):
    """What a step leaves to be read: E = f + g, f and g at the current point, and how far the step was from standing.

    residual = ||z - y|| / (step max(1, ||grad f(y)||)), the relative prox-gradient residual. inner_gap is the prox's.
    """

    energy: jax.Array
    data_term: jax.Array
    prior_term: jax.Array
    residual: jax.Array
    inner_gap: jax.Array


class SolverState(NamedTuple):
    """The current point x and the point y of the next gradient, each with its lift; momentum t; the prox's state."""

    x: jax.Array
    lifted_x: jax.Array
    y: jax.Array
    lifted_y: jax.Array
    t: jax.Array
    prior: Any
    metrics: Metrics
    finite: jax.Array


class Solver(NamedTuple):
    """init(x) stands at x; step(state) makes one step from there."""

    init: Callable[[jax.Array], SolverState]
    step: Callable[[SolverState], SolverState]


def fista(f: SmoothTerm, g: ProximalTerm) -> Solver:
    """FISTA with restart: E - E* <= 2 beta ||x0 - x*||^2 / (k+1)^2 between restarts; E may rise now and then.

    Source: Beck & Teboulle, SIAM J. Imaging Sci. 2(1), 2009.
    """
    return _accelerated(f, g, accept=lambda _new, _old: jnp.bool_(True))


def mfista(f: SmoothTerm, g: ProximalTerm) -> Solver:
    """MFISTA with restart: FISTA that keeps the better of the new and the old point, so E never rises.

    Source: Beck & Teboulle, IEEE TIP 18(11), 2009, section V.
    """
    return _accelerated(f, g, accept=lambda new, old: new <= old)


def _accelerated(f: SmoothTerm, g: ProximalTerm, accept: Callable[[jax.Array, jax.Array], jax.Array]) -> Solver:
    """z = prox_{g/beta}(y - grad f(y)/beta); x+ = z if accepted, else x; t+ = (1 + sqrt(1 + 4 t^2))/2;
    y+ = x+ + t/t+ (z - x+) + (t - 1)/t+ (x+ - x).

    The momentum restarts (t+ = 1, y+ = x+) when <y - z, z - x> > 0, that is when the step went against it
    (O'Donoghue & Candes, Found. Comput. Math. 15, 2015, gradient scheme).
    """
    step = 1 / f.beta

    def init(x: jax.Array) -> SolverState:
        lifted = f.lift(x)
        nothing = jnp.zeros((), x.dtype)
        data_term, prior_term = f.value(lifted), g.value(x)
        energy = data_term + prior_term
        metrics = Metrics(energy, data_term, prior_term, residual=nothing + jnp.inf, inner_gap=nothing)
        return SolverState(x, lifted, x, lifted, nothing + 1, g.init(x), metrics, jnp.isfinite(energy))

    def advance_one(state: SolverState) -> SolverState:
        x, y, t = state.x, state.y, state.t
        slope = f.gradient(state.lifted_y)
        point = g.prox(y - step * slope, step, state.prior)
        z, lifted_z = point.x, f.lift(point.x)
        data_term = f.value(lifted_z)
        energy = data_term + point.value
        taken = accept(energy, state.metrics.energy)

        restart = jnp.vdot(y - z, z - x) > 0
        t_next = jnp.where(restart, 1, (1 + jnp.sqrt(1 + 4 * t**2)) / 2)
        to_z = jnp.where(restart, 0, t / t_next)
        onward = jnp.where(restart, 0, (t - 1) / t_next)

        def move(new: jax.Array, old: jax.Array) -> tuple[jax.Array, jax.Array]:
            # Linear, so it is applied to the points and to their lifts alike.
            kept = jnp.where(taken, new, old)
            return kept, kept + to_z * (new - kept) + onward * (kept - old)

        x_next, y_next = move(z, x)
        lifted_x, lifted_y = move(lifted_z, state.lifted_x)
        metrics = Metrics(
            energy=jnp.where(taken, energy, state.metrics.energy),
            data_term=jnp.where(taken, data_term, state.metrics.data_term),
            prior_term=jnp.where(taken, point.value, state.metrics.prior_term),
            residual=jnp.linalg.norm((z - y).ravel()) / (step * jnp.maximum(1, jnp.linalg.norm(slope.ravel()))),
            inner_gap=point.gap,
        )
        return SolverState(x_next, lifted_x, y_next, lifted_y, t_next, point.state, metrics, jnp.isfinite(energy))

    return Solver(init, advance_one)


class Run(NamedTuple):
    """A run between two blocks: the solver's state, how many steps in a row changed nothing, RUNNING or why it ended."""

    state: SolverState
    flat: jax.Array
    status: jax.Array


def begin(solver: Solver, x: jax.Array) -> Run:
    """A run that stands at x."""
    state = solver.init(x)
    return Run(state, jnp.int32(0), jnp.where(state.finite, RUNNING, NOT_FINITE).astype(jnp.int32))


def advance(solver: Solver, run: Run, steps: jax.Array, capacity: int, tol: jax.Array) -> tuple[Run, jax.Array, Metrics]:
    """Makes up to `steps` (<= capacity) further steps.

    Returns the run, how many steps it made, and the metrics of each, in arrays of length `capacity`.
    """
    history = Metrics(*(jnp.zeros((capacity,), run.state.x.dtype) for _ in Metrics._fields))

    def unfinished(carry: tuple[Run, jax.Array, Metrics]) -> jax.Array:
        return (carry[1] < steps) & (carry[0].status == RUNNING)

    def one(carry: tuple[Run, jax.Array, Metrics]) -> tuple[Run, jax.Array, Metrics]:
        current, count, trace = carry
        state = solver.step(current.state)
        flat = jnp.where(_unchanged(current.state.metrics, state.metrics), current.flat + 1, 0)
        status = jnp.select(
            [~state.finite, state.metrics.residual <= tol, flat >= STAGNATION_STEPS],
            [jnp.int32(NOT_FINITE), jnp.int32(CONVERGED), jnp.int32(STAGNATED)],
            jnp.int32(RUNNING),
        )
        written = Metrics(*(kept.at[count].set(new) for kept, new in zip(trace, state.metrics, strict=True)))
        return Run(state, flat, status), count + 1, written

    return jax.lax.while_loop(unfinished, one, (run, jnp.int32(0), history))


def _unchanged(before: Metrics, after: Metrics) -> jax.Array:
    old, new = before.energy, after.energy
    return jnp.abs(old - new) <= float(np.finfo(old.dtype).eps) * jnp.abs(old)
