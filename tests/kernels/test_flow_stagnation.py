"""When a run has stagnated: on energies that are made up to the last bit, since no problem promises where its rounding falls."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_adapter.kernels.flow import FlowSpec, Slot, Term, run
from bridge_adapter.kernels.flow.compiler import compile_flow
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.problem import Problem, State
from bridge_adapter.kernels.flow.solvers.base import STAGNATED, STAGNATION_STEPS, Controls, Metrics, Solver, advance, begin

EPS = float(np.finfo(np.float64).eps)
STEPS = 4 * STAGNATION_STEPS


class Counted(NamedTuple):
    """A solver's state that only counts."""

    x: State
    count: jax.Array
    metrics: Metrics


def _told(energy: Callable[[jax.Array], jax.Array], residual: Callable[[jax.Array], jax.Array]) -> tuple[int, int]:
    """After how many steps a run with these energies and residuals ended, and how."""

    def at(x: State, count: jax.Array) -> Counted:
        zero = jnp.zeros(())
        return Counted(x, count, Metrics(energy(count), zero, zero, residual(count), zero, zero, zero, zero + 1, zero))

    solver = Solver("counted", lambda _, __, x: at(x, jnp.zeros(())), lambda _, __, state: at(state.x, state.count + 1))
    with precision("float64"):
        one = jnp.ones(())
        controls, problem = Controls(one, one, one, one, 0 * one), Problem((), {}, {}, (), (), (), {})
        run_of, count, _ = advance(
            solver, problem, controls, begin(solver, problem, controls, {"x": one}), jnp.int32(STEPS), capacity=STEPS
        )
        return int(count), int(run_of.status)


@pytest.mark.parametrize(
    ("energy", "residual", "ended"),
    [
        (lambda k: 0 * k + 1, lambda k: 0 * k + 1, True),
        (lambda k: 1 - 1.5 * EPS * (k % 2), lambda k: 0 * k + 1, True),  # as low as it gets, and its last bits still jump
        (lambda k: 1 - 0.5 * EPS * k, lambda k: 0 * k + 1, False),  # each step falls by less than rounding, all of them by more
        (lambda k: 0 * k + 1, lambda k: 0.98**k, False),  # the energy can tell no more, the residual can
        (lambda k: 1 + 1e-3 * 0.99**k * jnp.cos(k), lambda k: 0 * k + 1, False),  # it swings, and less each time
    ],
)
def test_a_run_stagnates_when_its_steps_together_get_nowhere(
    energy: Callable[[jax.Array], jax.Array], residual: Callable[[jax.Array], jax.Array], ended: bool
) -> None:
    count, status = _told(energy, residual)
    assert (status == STAGNATED, count < STEPS) == (ended, ended)


def test_primal_dual_steps_without_an_operator_do_not_swing_between_two_points() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0.0, 2.0, -1.0], 8) + 0.2 * rng.standard_normal(24)
    spec = FlowSpec(slots={"x": Slot(shape=(24,))}, terms=[Term("quadratic", "x", target=y), Term("l1", "x", weight=0.5)])
    found = run(compile_flow(spec, solver="condat_vu", tol=1e-10), iterations=100)
    assert found["stopped"] == "converged"
    np.testing.assert_allclose(found["state"]["x"], np.sign(y) * np.maximum(np.abs(y) - 0.5, 0), atol=1e-9)
