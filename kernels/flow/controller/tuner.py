"""Trying moves of a dial: all candidates make a short run from the last good state at once, as one batched program, and are judged.

The factors of the weights are arguments of that program: whatever is tried, nothing is compiled again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ..certificates.descent import check_block
from ..certificates.invariants import misfit_of
from ..compiler import CompiledFlow
from ..errors import FlowInputError
from ..functions.separable import Separable
from ..precision import precision
from ..problem import AnySmooth, Problem, SmoothTerm, State
from ..solvers.base import Controls, Metrics, Solver
from .dial import GapDial, Move


@dataclass(frozen=True)
class Candidate:
    """A move after its short run: where it led, whether the energy fell, and the criterion there, the smaller the better."""

    move: Move
    state: State
    energy: float
    descended: bool
    objective: float


def ridges(compiled: CompiledFlow) -> tuple[str, ...]:
    """The names of the smooth terms that are ridges."""
    return tuple(name for name, term in zip(compiled.spec.term_names(), compiled.spec.terms, strict=True) if term.type == "tikhonov")


def weights(compiled: CompiledFlow) -> dict[str, float]:
    """The present value of each knob: the largest weight that it turns; 0 where it turns nothing."""
    problem = compiled.problem
    with precision(compiled.spec.dtype):
        sparse = [_size(term.phi) for terms in (problem.prox, problem.second) for term in terms.values()]
        sparse += [_size(term.phi) for term in problem.composite]
        curved = [_ridge_size(term) for term in problem.smooth if term.name in ridges(compiled)]
        curved += [float(jnp.max(term.phi.ridge)) for term in problem.prox.values() if isinstance(term.phi, Separable)]
    return {"lambda": max(sparse, default=0.0), "lambda2": max(curved, default=0.0), "alpha": float(compiled.controls.alpha)}


def turned(problem: Problem, names: tuple[str, ...], factors: Mapping[str, Any]) -> Problem:
    """The problem with its knobs turned by factors; `names` are the smooth terms that lambda2 is the weight of."""
    weight, ridge = factors.get("lambda", 1.0), factors.get("lambda2", 1.0)
    smooth = tuple(_heavier(term, ridge) if term.name in names else term for term in problem.smooth)
    sides = [
        {slot: replace(term, phi=_scaled(term.phi, weight, ridge)) for slot, term in terms.items()}
        for terms in (problem.prox, problem.second)
    ]
    composite = tuple(replace(term, phi=_scaled(term.phi, weight, ridge)) for term in problem.composite)
    return replace(problem, smooth=smooth, prox=sides[0], second=sides[1], composite=composite)


def committed(compiled: CompiledFlow, move: Move) -> CompiledFlow:
    """The flow after a move: the same programs, other numbers."""
    with precision(compiled.spec.dtype):
        problem = turned(compiled.problem, ridges(compiled), move.factors)
        alpha = compiled.controls.alpha * move.factors.get("alpha", 1.0)
        return replace(compiled, problem=problem, controls=replace(compiled.controls, alpha=alpha))


def evaluate(compiled: CompiledFlow, dial: GapDial, start: State, moves: Sequence[Move]) -> list[Candidate]:
    """Runs every candidate from `start`, all in one program, best first. Whether the gate holds for it, the caller certifies: `committed`
    is what to certify."""
    if not moves:
        return []
    names = ("lambda", "lambda2", "alpha")
    with precision(compiled.spec.dtype) as real:
        table = jnp.asarray([[move.factors.get(name, 1.0) for name in names] for move in moves], real)
        ends, traces, before = _short_runs(
            compiled.solver, compiled.problem, compiled.controls, start, table, ridges(compiled), dial.validation_iterations
        )
        table_of = np.asarray(traces, np.float64)
        found = []
        for number, move in enumerate(moves):
            state = {slot: value[number] for slot, value in ends.items()}
            trace = dict(zip(Metrics._fields, table_of[number].T, strict=True))
            size = sum(int(value.size) for value in state.values())
            alpha = float(compiled.controls.alpha) * move.factors.get("alpha", 1.0)
            descent = check_block(
                trace, compiled.solver.name, before=float(before[number]), alpha=alpha, size=size, dtype=compiled.spec.dtype
            )
            problem = turned(compiled.problem, ridges(compiled), move.factors)
            energy = float(table_of[number, -1, 0])
            found.append(Candidate(move, state, energy, descent.passed, objective(problem, dial, state)))
    return sorted(found, key=lambda candidate: candidate.objective)


@partial(jax.jit, static_argnames=("solver", "names", "steps"))
def _short_runs(  # noqa: PLR0917  arguments of one compiled program
    solver: Solver, problem: Problem, controls: Controls, start: State, table: jax.Array, names: tuple[str, ...], steps: int
) -> tuple[State, jax.Array, jax.Array]:
    def one(factors: jax.Array) -> tuple[State, jax.Array, jax.Array]:
        changed = turned(problem, names, {"lambda": factors[0], "lambda2": factors[1]})
        steered = replace(controls, alpha=controls.alpha * factors[2])
        first = solver.init(changed, steered, start)

        def onward(state: Any, _: None) -> tuple[Any, jax.Array]:
            state = solver.step(changed, steered, state)
            return state, jnp.stack([jnp.asarray(value, factors.dtype) for value in state.metrics])

        last, trace = jax.lax.scan(onward, first, None, length=steps)
        return last.x, trace, first.metrics.energy

    return jax.vmap(one)(table)


def objective(problem: Problem, dial: GapDial, state: State) -> float:
    """The criterion at a state, the smaller the better.

    With r = A x - b of the data term, m its size and d the degrees of freedom (the coefficients of an l1 term that are not 0: Zou, Hastie &
    Tibshirani, Ann. Statist. 35, 2007): discrepancy | ||r||^2/(m sigma^2) - 1 |; gcv m ||r||^2/(m - d)^2; sure ||r||^2 - m sigma^2 + 2
    sigma^2 d.
    """
    if callable(dial.criterion):
        return float(dial.criterion({slot: np.asarray(value) for slot, value in state.items()}))
    misfit = _misfit(problem, state)
    count, square = misfit.size, float(np.sum(misfit**2))
    variance = (dial.sigma or 0.0) ** 2
    if dial.criterion == "discrepancy":
        return abs(square / (count * variance) - 1)
    freedom = _freedom(problem, state)
    if dial.criterion == "sure":
        return square - count * variance + 2 * variance * freedom
    return count * square / (count - freedom) ** 2 if freedom < count else float("inf")


def _misfit(problem: Problem, state: State) -> NDArray[np.float64]:
    for term in problem.smooth:
        squared = misfit_of(term, state)
        if squared is not None and np.any(squared[1] != 0):
            return squared[0]
    raise FlowInputError(
        "discrepancy, gcv and sure go by a squared data term with a target, and there is none; give a function as criterion"
    )


def _freedom(problem: Problem, state: State) -> float:
    if problem.composite or not all(isinstance(term.phi, Separable) for term in problem.prox.values()):
        raise FlowInputError(
            "gcv and sure count the coefficients of an l1 term; use discrepancy, or a function as criterion, for other priors"
        )
    total = 0.0
    for slot, value in state.items():
        term = problem.prox.get(slot)
        total += float(value.size) if term is None else float(jnp.sum(term.op.matvec(value) != 0))
    return total


def _scaled(phi: Any, weight: Any, ridge: Any) -> Any:
    held = {field.name for field in fields(phi)}
    changes: dict[str, Any] = {name: getattr(phi, name) * weight for name in ("threshold", "weight") if name in held}
    if "threshold" not in held and "weight" not in held and "weights" in held:
        changes["weights"] = phi.weights * weight
    if "ridge" in held:
        changes["ridge"] = phi.ridge * ridge
    return replace(phi, **changes) if changes else phi


def _heavier(term: AnySmooth, factor: Any) -> AnySmooth:
    if isinstance(term, SmoothTerm):
        return replace(term, phi=replace(term.phi, weight=term.phi.weight * factor))  # type: ignore[attr-defined, call-arg]
    return replace(term, weight=term.weight * factor)


def _ridge_size(term: AnySmooth) -> float:
    return float(jnp.max(term.phi.weight if isinstance(term, SmoothTerm) else term.weight))  # type: ignore[attr-defined]


def _size(phi: Any) -> float:
    return max((float(jnp.max(getattr(phi, name))) for name in ("threshold", "weight", "weights") if hasattr(phi, name)), default=0.0)
