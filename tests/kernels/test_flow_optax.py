"""Optax as a solver: training is a flow, reproducible, with minibatches, schedules and a prox."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bridge_adapter.kernels.flow.compiler import compile_flow
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.operators.base import Op
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.running import advance_block
from bridge_adapter.kernels.flow.runs import run
from bridge_adapter.kernels.flow.solvers.optax_flow import minibatch, optax_flow, schedule, transformation
from bridge_adapter.kernels.flow.spec import FlowSpec, Slot, Term

RNG = np.random.default_rng(3)
MATRIX = RNG.standard_normal((30, 8))
TRUTH = np.asarray([1.0, -2.0, 0, 0, 0, 0, 0, 3.0])
DATA = MATRIX @ TRUTH


def fit(*extra: Term, weight: float = 1.0) -> FlowSpec:
    return FlowSpec({"x": Slot(shape=(8,))}, [Term("quadratic", "x", op=Op("dense", matrix=MATRIX), target=DATA, weight=weight), *extra])


def test_adam_with_a_schedule_by_name_finds_the_least_squares_solution() -> None:
    solver = optax_flow("adam", {"learning_rate": ("cosine_decay_schedule", {"init_value": 0.3, "decay_steps": 600})})
    compiled = compile_flow(fit(), solver=solver, tol=1e-6)
    assert compiled.solver.descent == "suspended"
    np.testing.assert_allclose(run(compiled, iterations=600)["state"]["x"], TRUTH, atol=1e-4)


def test_sgd_with_a_prox_is_the_proximal_gradient_step() -> None:
    spec = fit(Term("l1", "x", weight=2.0))
    plain = compile_flow(spec, solver="ista", tol=0.0)
    step = plain.report.alpha
    other = compile_flow(spec, solver=optax_flow(optax.sgd(step)), alpha=step, tol=0.0)
    np.testing.assert_allclose(run(other, iterations=30)["state"]["x"], run(plain, iterations=30)["state"]["x"], atol=1e-12)


def network() -> tuple[FlowSpec, Any]:
    """Two layers on minibatches of a labelled cloud: the data term is sampled, weight decay is a term of the energy."""
    points = RNG.standard_normal((256, 2))
    labels = (points[:, 0] * points[:, 1] > 0).astype(float)
    start = {"w": 0.5 * RNG.standard_normal((2, 16)), "b": 0.5 * RNG.standard_normal(16), "v": 0.5 * RNG.standard_normal(16)}
    spec = FlowSpec({name: Slot(value=value) for name, value in start.items()}, [Term("tikhonov", name, weight=1e-4) for name in start])

    def loss(x: dict[str, jax.Array], batch: dict[str, jax.Array]) -> jax.Array:
        scores = jnp.tanh(batch["points"] @ x["w"] + x["b"]) @ x["v"]
        return jnp.mean(optax.sigmoid_binary_cross_entropy(scores, batch["labels"]))

    with precision("float64"):
        data = {"points": jnp.asarray(points), "labels": jnp.asarray(labels)}
    return spec, minibatch(data, 64, loss)


def test_a_network_trains_on_minibatches_and_a_resumed_run_is_the_same_run_bit_by_bit() -> None:
    spec, loss = network()
    compiled = compile_flow(spec, solver=optax_flow("adam", {"learning_rate": 0.05}, loss=loss, seed=5), tol=0.0)
    with precision("float64"):
        start = compiled.begun()

        def on(state: Any, steps: int) -> Any:
            return advance_block(compiled.solver, compiled.problem, compiled.controls, state, jnp.int32(steps), capacity=256)

        whole, count, trace = on(start, 200)
        halves, _, _ = on(on(start, 100)[0], 100)
    assert int(count) == 200
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(halves), strict=True):
        np.testing.assert_array_equal(one, other)
    energy = np.asarray(trace)[:200, 0]
    assert energy[-20:].mean() < 0.4 * energy[:5].mean()


def test_descriptions_that_optax_does_not_know_are_refused() -> None:
    with pytest.raises(FlowInputError, match="no transformation 'newton'"):
        transformation("newton")
    with pytest.raises(FlowInputError, match=r"optax\.adam cannot be built"):
        transformation("adam", {"speed": 1.0})
    with pytest.raises(FlowInputError, match="no schedule"):
        schedule("os", {})
    with pytest.raises(FlowInputError, match="take 1 to 3"):
        minibatch({"x": jnp.zeros(3)}, 4, lambda x, batch: jnp.zeros(()))
    behind = Term("l1", "x", op=Op("dense", matrix=np.ones((1, 8))))
    with pytest.raises(FlowInputError, match="behind operators"):
        compile_flow(
            FlowSpec({"x": Slot(shape=(8,))}, [behind, Term("box", "x", op=Op("dense", matrix=MATRIX))]),
            solver=optax_flow("sgd", {"learning_rate": 0.1}),
        )


def test_the_examples_of_the_page_on_solvers_run() -> None:
    page = (Path(__file__).parents[2] / "docs" / "flow" / "solvers.md").read_text()
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "solvers.md", "exec"), names)
