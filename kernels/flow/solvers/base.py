"""What a solver is, what each of its steps leaves to be read, and the loop that runs a block of steps on the device.

A block ends at the very step that converges, stagnates or stops being finite (at the very stride, of a solver with one), so what a run
computes does not depend on how it is cut into blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..packed import Packed, vector
from ..problem import Problem, State
from ..pytrees import node
from ..sizes import ONE_PASS
from ..sums import each_summed, summed

RUNNING, CONVERGED, STAGNATED, NOT_FINITE = range(4)

# A run stagnates when this many steps in a row leave the energy within its own rounding error of where they found it and do not halve the
# residual. Together, not each: a slow solver may fall by less than that with every step, and energies that are as low as they get still
# jump by more from step to step.
STAGNATION_STEPS = 50
ROUNDING = 2


class Metrics(NamedTuple):
    """What a step leaves to be read, scalars all: E = f + g + h at the current point, and how far the step was from standing still.

    residual: ||x+ - x|| / (alpha max(1, ||grad f||)) of a proximal step, the larger of the relative primal and dual residual elsewhere.
    inner_gap: by how much an inexact prox missed, in units of the energy. restarts: of the momentum, since the run began. alpha: the step
    that was made. inertia: ||x+ - x||^2 / (2 alpha) of FISTA's steps, which is to E what kinetic energy is to a potential: their sum never
    rises; of other steps no number.
    """

    energy: jax.Array
    smooth: jax.Array
    nonsmooth: jax.Array
    residual: jax.Array
    grad_norm: jax.Array
    inner_gap: jax.Array
    restarts: jax.Array
    alpha: jax.Array
    inertia: jax.Array

    @classmethod
    def standing(cls, smooth: jax.Array, nonsmooth: jax.Array, alpha: jax.Array) -> Metrics:
        """Before the first step."""
        zero = jnp.zeros((), alpha.dtype)
        smooth, nonsmooth = smooth.astype(alpha.dtype), nonsmooth.astype(alpha.dtype)
        return cls(smooth + nonsmooth, smooth, nonsmooth, zero + jnp.inf, zero, zero, zero, alpha, zero + jnp.nan)

    def after(
        self,
        smooth: jax.Array,
        nonsmooth: jax.Array,
        *,
        residual: jax.Array,
        grad_norm: jax.Array,
        alpha: jax.Array,
        gap: jax.Array | None = None,
        restarts: jax.Array | None = None,
    ) -> Metrics:
        """Of the step that follows; what is not given stays."""
        inner_gap, count = self.inner_gap if gap is None else gap, self.restarts if restarts is None else restarts
        return Metrics(smooth + nonsmooth, smooth, nonsmooth, residual, grad_norm, inner_gap, count, alpha, self.inertia)


@node
class Controls:
    """The numbers that steer a solver; all may change between two blocks without compilation.

    alpha: the primal step (tau of primal-dual ones), an upper limit where a solver backtracks. sigma: the dual step, rho of ADMM.
    relaxation: of splittings. momentum: of strongly convex problems (0: the usual sequence). tol: of the residual. modulus: of strong
    convexity, where a solver uses it. scale: for each slot the diagonal of P^-1, of preconditioned steps only. damping, temperature, seed:
    of motion and of noise. patience: after how many steps in a row that change nothing a run has stagnated. restarts: whether momentum
    restarts when a step goes against it.
    """

    alpha: jax.Array
    sigma: jax.Array
    relaxation: jax.Array
    momentum: jax.Array
    tol: jax.Array
    modulus: jax.Array | float = 0.0
    scale: State = dataclasses.field(default_factory=dict)
    damping: jax.Array | float = 0.0
    temperature: jax.Array | float = 0.0
    seed: jax.Array | int = 0
    patience: jax.Array | int = STAGNATION_STEPS
    restarts: jax.Array | bool = True


class Solver(NamedTuple):
    """init(problem, controls, x) stands at x; step(problem, controls, state) makes one step from there. Both pure.

    descent: what is promised of the energy, within the condition on steps: that it never rises ("monotone"), that it tends to the minimum
    ("limit"), or nothing ("suspended"). stride: steps per turn of the loop. A step that leaves the old point beside the new one swaps the
    places of two arrays, which a loop does by copying both; two such steps bring each back to its place, and nothing is copied. Where
    arrays are small, `choosing` takes single steps.
    """

    name: str
    init: Callable[[Problem, Controls, State], Any]
    step: Callable[[Problem, Controls, Any], Any]
    descent: Literal["monotone", "limit", "suspended"] = "limit"
    stride: int = 1


class Place(NamedTuple):
    """Where a run stands between two steps: the solver's state, how many steps in a row changed nothing, RUNNING or why it ended, and the
    residual and the energy where the steps in a row began."""

    state: Any
    flat: jax.Array
    status: jax.Array
    mark: jax.Array
    level: jax.Array


@node
class Run:
    """A run between two blocks: its place, with all scalars together."""

    packed: Packed

    @classmethod
    def at(cls, place: Place) -> Run:
        return cls(Packed.of(place))

    @property
    def place(self) -> Place:
        found: Place = self.packed.opened()
        return found

    @property
    def state(self) -> Any:
        """The solver's."""
        return self.place.state

    @property
    def status(self) -> Any:
        """RUNNING, or why it ended."""
        return self.place.status


def begin(solver: Solver, problem: Problem, controls: Controls, x: State) -> Run:
    """A run that stands at x."""
    state = solver.init(problem, controls, x)
    energy = state.metrics.energy
    status = jnp.where(jnp.isfinite(energy), RUNNING, NOT_FINITE).astype(energy.dtype)
    return Run.at(Place(state, jnp.zeros_like(energy), status, state.metrics.residual, energy))


def advance(
    solver: Solver, problem: Problem, controls: Controls, run: Run, steps: jax.Array, *, capacity: int, whole: bool = True
) -> tuple[Run, jax.Array, jax.Array]:
    """Makes up to `steps` (<= capacity) further steps, in whole strides: after each of them it is asked whether the run is over.

    whole: false for the part of a stride, made of single steps, after which only numbers that are not finite end a run.

    Returns the run, how many steps it made, and their metrics, an array of (capacity, len(Metrics._fields)).
    """
    stride = solver.stride if whole else 1
    real = run.state.metrics.energy.dtype
    trace = jnp.zeros((capacity, len(Metrics._fields)), real)

    def unfinished(carry: tuple[Run, jax.Array, jax.Array]) -> jax.Array:
        return jnp.asarray((carry[1] + stride <= steps) & (carry[0].status == RUNNING))

    def one(given: tuple[Problem, Controls], current: Place, count: jax.Array, written: jax.Array) -> tuple[Place, jax.Array, jax.Array]:
        state = solver.step(*given, current.state)
        metrics = state.metrics
        after = metrics.energy
        still = jnp.abs(current.level - after) <= ROUNDING * float(np.finfo(real).eps) * jnp.abs(after)
        still &= metrics.residual > current.mark / 2
        flat = jnp.where(still & (solver.descent != "suspended"), current.flat + 1, jnp.zeros_like(after))
        mark, level = jnp.where(still, current.mark, metrics.residual), jnp.where(still, current.level, after)
        over = jnp.where(metrics.residual <= given[1].tol, CONVERGED, jnp.where(flat >= given[1].patience, STAGNATED, RUNNING))
        over = over if whole else jnp.full_like(over, RUNNING)
        status = jnp.where(jnp.isfinite(after + metrics.residual), over, NOT_FINITE).astype(real)
        row = vector([jnp.asarray(value, real) for value in metrics])
        return Place(state, flat, status, mark, level), count + 1, jax.lax.dynamic_update_index_in_dim(written, row, count, 0)

    def turn(carry: tuple[Run, jax.Array, jax.Array]) -> tuple[Run, jax.Array, jax.Array]:
        place, count, written = carry[0].place, carry[1], carry[2]
        given: tuple[Problem, Controls] = unhoisted((problem, controls), count)
        for _ in range(stride):
            place, count, written = one(given, place, count, written)
        return Run.at(place), count, written

    return jax.lax.while_loop(unfinished, turn, (run, jnp.int32(0), trace))


def unhoisted(constants: Any, turn: jax.Array) -> Any:
    """Constants of a loop whose scalars seem to change with its counter. XLA would compute what follows from constant scalars once, before
    the loop, and compile a kernel for each; in the loop it is part of the kernels that read it."""
    leaves, structure = jax.tree.flatten(constants)
    scalars = {number: leaf for number, leaf in enumerate(leaves) if jnp.ndim(leaf) == 0}
    scalars, _ = jax.lax.optimization_barrier((scalars, turn))  # type: ignore[no-untyped-call]
    return jax.tree.unflatten(structure, [scalars.get(number, leaf) for number, leaf in enumerate(leaves)])


def largest(*values: jax.Array | float) -> jax.Array:
    """The largest of a few scalars."""
    return jnp.max(jnp.stack([jnp.asarray(value) for value in values]))


def norm(x: State) -> jax.Array:
    """The Euclidean norm over all slots."""
    return jnp.sqrt(inner(x, x))


def inner(x: State, y: State) -> jax.Array:
    """The inner product over all slots."""
    products = [summed(jnp.conj(x[slot]) * y[slot]) if x[slot].size < ONE_PASS else jnp.vdot(x[slot], y[slot]) for slot in x]
    return jnp.asarray(sum(products[1:], start=products[0]))


def squares(*states: Any) -> tuple[jax.Array, ...]:
    """The squared Euclidean norm over all arrays of each of these, which have the same structure and shapes."""
    sums = [each_summed(*map(_squared, parts)) for parts in zip(*map(jax.tree.leaves, states), strict=True)]
    return tuple(sum(parts[1:], start=parts[0]) for parts in zip(*sums, strict=True))


def _squared(array: jax.Array) -> jax.Array:
    return array.real**2 + array.imag**2 if jnp.iscomplexobj(array) else array**2
