"""The host's side of a run: one visit per block of steps."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .compiler import CompiledFlow, compile_flow
from .precision import precision
from .problem import Problem, State
from .solvers.base import CONVERGED, NOT_FINITE, RUNNING, STAGNATED, Controls, Metrics, Run, Solver, advance, begin
from .spec import FlowSpec

CAPACITY = 1024
REASONS = {CONVERGED: "converged", STAGNATED: "stagnated", RUNNING: "budget", NOT_FINITE: "not finite"}


@partial(jax.jit, static_argnames=("solver",))
def begin_block(solver: Solver, problem: Problem, controls: Controls, x: State) -> Run:
    return begin(solver, problem, controls, x)


@partial(jax.jit, static_argnames=("solver", "capacity"))
def advance_block(
    solver: Solver, problem: Problem, controls: Controls, run: Run, steps: jax.Array, *, capacity: int
) -> tuple[Run, jax.Array, jax.Array]:
    return advance(solver, problem, controls, run, steps, capacity=capacity)


def run(spec: FlowSpec | CompiledFlow, *, iterations: int = 1000, tol: float = 1e-6) -> dict[str, Any]:
    """Compiles and runs to the end."""
    compiled = spec if isinstance(spec, CompiledFlow) else compile_flow(spec, tol=tol)
    with precision(compiled.spec.dtype):
        current = begin_block(compiled.solver, compiled.problem, compiled.controls, compiled.start)
        done, rows = 0, []
        began = time.perf_counter()
        while done < iterations and int(current.status) == RUNNING:
            steps = min(CAPACITY, iterations - done)
            current, count, trace = advance_block(
                compiled.solver, compiled.problem, compiled.controls, current, jnp.int32(steps), capacity=CAPACITY
            )
            rows.append(np.asarray(trace[: int(count)]))
            done += int(count)
        history = np.concatenate(rows) if rows else np.zeros((0, len(Metrics._fields)))
        return {
            "state": {slot: np.asarray(value) for slot, value in current.state.x.items()},
            "stopped": REASONS[int(current.status)],
            "iterations": done,
            "history": dict(zip(Metrics._fields, history.T, strict=True)),
            "elapsed_s": time.perf_counter() - began,
        }
