"""Trying moves of a dial: all candidates make a short run from the last good state at once, as one batched program, and are judged.

The factors of the weights are arguments of that program: whatever is tried, nothing is compiled again.
"""

from __future__ import annotations

import math
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
from ..choosing import again, longest
from ..compiler import CompiledFlow
from ..errors import FlowInputError
from ..functions.base import Function
from ..functions.separable import Separable
from ..precision import precision
from ..problem import AnySmooth, Problem, ProxTerm, SmoothTerm, State
from ..solvers.base import Controls, Metrics, Solver
from ..transforms.base import TransformOp, band_weights
from .dial import GapDial, Move, StepRule, per_scale
from .dial import seed as _seed

# What the weight of a norm is called: of single elements, of all, of groups.
SIZES = ("threshold", "weight", "weights")


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


def committed(compiled: CompiledFlow, move: Move, step_rule: StepRule = "c/beta") -> CompiledFlow:
    """The flow after a move: the same programs, other numbers. A ridge moves beta; its new value is in the report, and by the rule "c/beta"
    the steps follow it."""
    with precision(compiled.spec.dtype) as real:
        problem = turned(on_scales(compiled.problem, move), ridges(compiled), move.factors)
        report, controls = compiled.report, compiled.controls
        if move.factors.get("lambda2", 1.0) != 1.0:
            stepped = again(compiled.solver.name, (compiled.problem, problem), compiled.start, controls, real)
            controls = stepped.controls if step_rule == "c/beta" else controls
            limit = longest(compiled.solver.name, stepped.found, float(controls.sigma))
            report = replace(report, beta=stepped.found.beta, mu=stepped.found.mu, alpha_limit=limit)
        controls = replace(controls, alpha=controls.alpha * move.factors.get("alpha", 1.0))
        return replace(compiled, problem=problem, controls=controls, report=replace(report, alpha=float(controls.alpha)))


def on_scales(problem: Problem, move: Move) -> Problem:
    """The problem with the weights of single levels turned."""
    prox = dict(problem.prox)
    for slot, factors in move.scales.items():
        term = prox[slot]
        assert isinstance(term.op, TransformOp) and isinstance(term.phi, Separable)
        each = band_weights(term.op, np.array([1.0 if band.approximation else factors[band.level] for band in term.op.bands]))
        prox[slot] = replace(term, phi=replace(term.phi, threshold=term.phi.threshold * jnp.asarray(each, term.phi.threshold.dtype)))
    return replace(problem, prox=prox)


def seeded(compiled: CompiledFlow, dial: GapDial, state: State) -> Move | None:
    """The move that gives each scale its seed: lambda_j = k median |W_j v| of what the prox sees, v = x - alpha grad f(x), within the
    ratios; k such that the finest scale keeps its weight. None where there is no wavelet term, or nothing on its finest scale."""
    scales: dict[str, dict[int, float]] = {}
    with precision(compiled.spec.dtype):
        slope = compiled.problem.f_grad(state)
        for slot, term in compiled.problem.prox.items():
            if not (isinstance(term.op, TransformOp) and isinstance(term.phi, Separable)):
                continue
            seen = np.asarray(term.op.matvec(state[slot] - compiled.controls.alpha * slope[slot]), np.float64)
            present = weights_of_levels(term)
            levels = sorted(present, reverse=True)  # coarse to fine
            coefficients = [_level(term.op, seen, level) for level in levels]
            finest = float(_seed(dial, coefficients[-1]))
            if not (finest > 0 and present[levels[-1]] > 0 and all(value > 0 for value in present.values())):
                continue
            wanted = per_scale(dial, coefficients, present[levels[-1]] / finest)
            scales[slot] = {level: float(value / present[level]) for level, value in zip(levels, wanted, strict=True)}
    return Move({"lambda": 1.0}, scales) if scales else None


def weights_of_levels(term: ProxTerm) -> dict[int, float]:
    """lambda_j of the details of each level of a wavelet term, the largest of its orientations."""
    assert isinstance(term.op, TransformOp) and isinstance(term.phi, Separable)
    each = np.broadcast_to(np.asarray(term.phi.threshold, np.float64), (term.op.codomain[-1],))
    details = [band for band in term.op.bands if not band.approximation]
    return {
        level: max(float(each[band.offset : band.offset + band.size].max()) for band in details if band.level == level)
        for level in {band.level for band in details}
    }


def lambdas_of(problem: Problem) -> dict[str, dict[int, float]]:
    """lambda_j of the wavelet terms, by slot."""
    found = {}
    for slot, term in problem.prox.items():
        if isinstance(term.op, TransformOp) and isinstance(term.phi, Separable):
            found[slot] = weights_of_levels(term)
    return found


def _level(transform: TransformOp, coefficients: NDArray[np.float64], level: int) -> NDArray[np.float64]:
    parts = [
        coefficients[..., band.offset : band.offset + band.size].ravel()
        for band in transform.bands
        if band.level == level and not band.approximation
    ]
    return np.concatenate(parts)


def evaluate(compiled: CompiledFlow, dial: GapDial, start: State, moves: Sequence[Move]) -> list[Candidate]:
    """Runs every candidate from `start`, all in one program, best first, last those whose energy rose or whose objective is NaN. Whether
    the gate holds for it, the caller certifies: `committed` is what to certify. Moves of single scales are tried alone."""
    if not moves:
        return []
    if any(move.scales for move in moves) and len(moves) > 1:
        raise FlowInputError(f"{len(moves)} moves were given, one of them of single scales; try that one alone")
    with precision(compiled.spec.dtype) as real:
        trials = [committed(compiled, move, dial.step_rule) for move in moves]
        table = jnp.asarray([[move.factors.get(name, 1.0) for name in ("lambda", "lambda2")] for move in moves], real)
        controls = jax.tree.map(lambda *each: jnp.stack([jnp.asarray(value) for value in each]), *[trial.controls for trial in trials])
        base = on_scales(compiled.problem, moves[0])
        ends, traces, before = _short_runs(compiled.solver, base, controls, start, table, ridges(compiled), dial.validation_iterations)
        table_of = np.asarray(traces, np.float64)
        found = []
        for number, (move, trial) in enumerate(zip(moves, trials, strict=True)):
            state = {slot: value[number] for slot, value in ends.items()}
            trace = dict(zip(Metrics._fields, table_of[number].T, strict=True))
            size = sum(int(value.size) for value in state.values())
            alpha, energy = float(trial.controls.alpha), float(table_of[number, -1, 0])
            descent = check_block(
                trace,
                compiled.solver.name,
                before=float(before[number]),
                alpha=alpha,
                size=size,
                dtype=compiled.spec.dtype,
                promise=compiled.solver.descent,
            )
            found.append(Candidate(move, state, energy, descent.passed, objective(trial.problem, dial, state)))
    return sorted(found, key=_rank)


def _rank(candidate: Candidate) -> tuple[bool, bool, float]:
    """Those that may be kept come first: of the others, NaN compares with nothing, and E that rose may hide behind a good objective."""
    number = not math.isnan(candidate.objective)
    return not number, not candidate.descended, candidate.objective if number else math.inf


@partial(jax.jit, static_argnames=("solver", "names", "steps"))
def _short_runs(  # noqa: PLR0917  arguments of one compiled program
    solver: Solver, problem: Problem, controls: Controls, start: State, table: jax.Array, names: tuple[str, ...], steps: int
) -> tuple[State, jax.Array, jax.Array]:
    def one(factors: jax.Array, steered: Controls) -> tuple[State, jax.Array, jax.Array]:
        changed = turned(problem, names, {"lambda": factors[0], "lambda2": factors[1]})
        first = solver.init(changed, steered, start)

        def onward(state: Any, _: None) -> tuple[Any, jax.Array]:
            state = solver.step(changed, steered, state)
            return state, jnp.stack([jnp.asarray(value, factors.dtype) for value in state.metrics])

        last, trace = jax.lax.scan(onward, first, None, length=steps)
        return last.x, trace, first.metrics.energy

    return jax.vmap(one)(table, controls)


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
    changes: dict[str, Any] = {}
    for part in fields(phi):
        held = getattr(phi, part.name)
        if part.name in SIZES:
            changes[part.name] = held * weight
        elif part.name == "ridge":
            changes["ridge"] = held * ridge
        elif isinstance(held, Function):  # a function of a translated or otherwise changed argument
            changes[part.name] = _scaled(held, weight, ridge)
    return replace(phi, **changes) if changes else phi


def _heavier(term: AnySmooth, factor: Any) -> AnySmooth:
    if isinstance(term, SmoothTerm):
        return replace(term, phi=replace(term.phi, weight=term.phi.weight * factor))  # type: ignore[attr-defined, call-arg]
    return replace(term, weight=term.weight * factor)


def _ridge_size(term: AnySmooth) -> float:
    return float(jnp.max(term.phi.weight if isinstance(term, SmoothTerm) else term.weight))  # type: ignore[attr-defined]


def _size(phi: Any) -> float:
    inner = [_size(getattr(phi, part.name)) for part in fields(phi) if isinstance(getattr(phi, part.name), Function)]
    return max((float(jnp.max(getattr(phi, name))) for name in SIZES if hasattr(phi, name)), default=max(inner, default=0.0))
