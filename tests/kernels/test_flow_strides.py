"""Large arrays, of which accelerated solvers make two steps per turn of the loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bridge_adapter.kernels.flow import CompiledFlow, FlowSpec, Op, Slot, Term, compile_flow, resume_run, run

SHAPE = (96, 96)


@pytest.fixture(scope="module", params=["fista", "mfista"])
def compiled(request: pytest.FixtureRequest) -> CompiledFlow:
    data = np.random.default_rng(3).standard_normal(SHAPE)
    terms = [Term("quadratic", "x", op=Op("gaussian_blur", sigma=1.0), target="y"), Term("l1", "x", weight=0.05)]
    spec = FlowSpec({"x": Slot(shape=SHAPE), "y": Slot(value=data, role="data")}, terms)
    made = compile_flow(spec, solver=request.param, tol=0.0)
    assert made.solver.stride == 2
    return made


def test_steps_two_by_two_are_the_steps_one_by_one(compiled: CompiledFlow) -> None:
    single = run(CompiledFlow(**{**vars(compiled), "solver": compiled.solver._replace(stride=1)}), iterations=41)
    double = run(compiled, iterations=41)
    assert double["iterations"] == single["iterations"] == 41
    # Two programs, whose sums need not be made in the same order.
    np.testing.assert_allclose(double["state"]["x"], single["state"]["x"], rtol=1e-9, atol=1e-12)
    for name in ("energy", "residual", "alpha", "restarts"):
        np.testing.assert_allclose(double["history"][name], single["history"][name], rtol=1e-9)


def test_a_run_does_not_depend_on_its_blocks_and_goes_on_bit_for_bit(compiled: CompiledFlow, tmp_path: Path) -> None:
    whole = run(compiled, iterations=41)
    cut = run(compiled, iterations=41, block=7)  # of eight steps
    assert np.array_equal(whole["state"]["x"], cut["state"]["x"])
    begun = run(compiled, iterations=17, out_dir=tmp_path)  # ends in the middle of a stride
    resumed = resume_run(begun["capsule"], compiled, iterations=41)
    assert np.array_equal(whole["state"]["x"], resumed["state"]["x"]) and resumed["iterations"] == 41


def test_a_run_converges_after_whole_strides(compiled: CompiledFlow) -> None:
    ended = run(CompiledFlow(**{**vars(compiled), "controls": compile_flow(compiled.spec, tol=1e-3).controls}), iterations=2000)
    residuals = ended["history"]["residual"]
    assert ended["stopped"] == "converged" and ended["iterations"] % 2 == 0
    assert residuals[-1] <= 1e-3 < min(residuals[1:-2:2])
