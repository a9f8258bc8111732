"""The flow runtime beyond a step of its loop: memory, batches, images against scikit-image, and how near a step is to what the memory can
move."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bridge_adapter.kernels.flow.compiler import CompiledFlow, compile_flow
from bridge_adapter.kernels.flow.operators import Op
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.running import advance_block
from bridge_adapter.kernels.flow.solvers.base import advance, begin
from bridge_adapter.kernels.flow.spec import FlowSpec, Slot, Term

from .report import Row, note

ROUNDS = 7
BATCH, SIDE = 16, 128


def rows() -> list[Row]:
    """Every row of this part."""
    with precision("float64"):
        made: list[Row] = []
        for part in (memory, batches, images, bandwidth):
            note(f"flow: {part.__name__}")
            made += part()
        return made


def deblurring(shape: tuple[int, ...], dtype: str = "float64", seed: int = 0) -> FlowSpec:
    """1/2 ||k * x - y||^2 + 0.01 ||x||_1 of noise: what it costs does not depend on what it shows. The first axis of three is a batch."""
    data = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return FlowSpec(
        name="deblurring",
        slots={"x": Slot(shape=shape), "y": Slot(value=data, role="data")},
        terms=[
            Term("quadratic", "x", op=Op("gaussian_blur", sigma=2.0, axes=min(len(shape), 2)), target="y"),
            Term("l1", "x", weight=0.01),
        ],
        dtype="float64" if dtype == "float64" else "float32",
    )


def steps_of(compiled: CompiledFlow) -> Callable[[int], jax.Array]:
    """So many steps from the start, at least a stride: what x is then."""
    run = compiled.begun()

    def block(steps: int) -> jax.Array:
        count = jnp.int32(max(steps, compiled.solver.stride))
        made = advance_block(compiled.solver, compiled.problem, compiled.controls, run, count, capacity=1024)
        return jnp.asarray(made[0].state.x["x"])

    return block


def memory() -> list[Row]:
    """What the loop holds at most, in arrays of the size of the variable: the same at every size, up to an image of 1411 x 1411 x 3."""
    made = []
    for shape in ((256, 256), (512, 512), (3, 1411, 1411)):
        compiled = compile_flow(deblurring(shape), solver="fista")
        lowered = advance_block.lower(compiled.solver, compiled.problem, compiled.controls, compiled.begun(), jnp.int32(2), capacity=1024)
        told: Any = lowered.compile().memory_analysis()
        held = told.argument_size_in_bytes + told.output_size_in_bytes + told.temp_size_in_bytes
        name = "x".join(map(str, shape))
        made.append(Row(f"memory_{name}.inner", held / compiled.start["x"].nbytes, "arrays", 1))
        if len(shape) == 3:
            made.append(Row(f"l1_{name}.inner", 1000 * _seconds(partial(_steps, compiled, 4), 3) / 4, "ms", 3))
    return made


def _steps(compiled: CompiledFlow, steps: int) -> None:
    steps_of(compiled)(steps).block_until_ready()


def _seconds(call: Callable[[], Any], rounds: int = ROUNDS) -> float:
    call()
    spent = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def batches() -> list[Row]:
    """Sixteen images: one after the other, as one problem with an axis for them, and by vmap over the data. Milliseconds per iteration and
    image, all with the same result."""
    steps = 50
    together = compile_flow(deblurring((BATCH, SIDE, SIDE)), solver="ista", tol=0.0)
    data = np.asarray(together.spec.slots["y"].value)
    alone = compile_flow(_one(data[0]), solver="ista", tol=0.0)
    problems = [compile_flow(_one(image), solver="ista", tol=0.0).problem for image in data]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)

    @jax.jit
    def mapped(problems: Any) -> jax.Array:
        def one(problem: Any) -> jax.Array:
            begun = begin(alone.solver, problem, alone.controls, alone.start)
            run, _, _ = advance(alone.solver, problem, alone.controls, begun, jnp.int32(steps), capacity=steps)
            return jnp.asarray(run.state.x["x"])

        return jax.vmap(one)(problems)

    def in_turn() -> list[jax.Array]:
        made = []
        for problem in problems:
            begun = alone.begun(problem=problem)
            made.append(advance_block(alone.solver, problem, alone.controls, begun, jnp.int32(steps), capacity=1024)[0].state.x["x"])
        done: list[jax.Array] = jax.block_until_ready(made)
        return done

    contenders: dict[str, Callable[[], Any]] = {
        "one_by_one": in_turn,
        "axis": lambda: steps_of(together)(steps).block_until_ready(),
        "vmap": lambda: mapped(stacked).block_until_ready(),
    }
    reached = {who: np.asarray(call()) for who, call in contenders.items()}
    for who, images in reached.items():
        if not np.allclose(images, reached["one_by_one"], rtol=1e-8, atol=1e-10):
            raise RuntimeError(f"a batch by {who} is not what its images give alone")
    found = {who: 1000 * _seconds(call) / steps / BATCH for who, call in contenders.items()}
    base = found["one_by_one"]
    return [Row(f"batch_{BATCH}x{SIDE}.{who}", ms, "ms", ROUNDS, ratio=base / ms, ratio_to="one_by_one") for who, ms in found.items()]


def _one(image: np.ndarray[Any, Any]) -> FlowSpec:
    spec = deblurring(image.shape)
    return FlowSpec(name=spec.name, slots={**spec.slots, "y": Slot(value=image, role="data")}, terms=spec.terms, dtype=spec.dtype)


def images() -> list[Row]:
    """Total variation denoising of a photograph: how long until the objective is as low as scikit-image leaves it."""
    from skimage import data as photographs
    from skimage.restoration import denoise_tv_chambolle

    clean = photographs.camera() / 255.0
    noisy = clean + 0.1 * np.random.default_rng(0).standard_normal(clean.shape)
    weight = 0.1

    def energy(x: np.ndarray[Any, Any]) -> float:
        down, right = np.zeros_like(x), np.zeros_like(x)
        down[:-1], right[:, :-1] = np.diff(x, axis=0), np.diff(x, axis=1)
        return float(0.5 * np.sum((x - noisy) ** 2) + weight * np.sum(np.sqrt(down**2 + right**2)))

    def theirs() -> np.ndarray[Any, Any]:
        return np.asarray(denoise_tv_chambolle(noisy, weight=weight, eps=1e-6, max_num_iter=2000))

    wanted = energy(theirs())
    spec = FlowSpec(
        name="tv_512",
        slots={"x": Slot(value=noisy), "y": Slot(value=noisy, role="data")},
        terms=[Term("quadratic", "x", target="y"), Term("tv", "x", weight=weight)],
    )
    compiled = compile_flow(spec, tol=0.0)
    steps = 1
    while steps < 1024 and energy(np.asarray(steps_of(compiled)(steps))) > wanted:
        steps *= 2
    fewer = steps // 2
    while steps - fewer > 1:
        middle = (fewer + steps) // 2
        enough = energy(np.asarray(steps_of(compiled)(middle))) <= wanted
        fewer, steps = (fewer, middle) if enough else (middle, steps)
    reached = energy(np.asarray(steps_of(compiled)(steps)))
    if reached > wanted:
        raise RuntimeError(f"tv_512: {reached!r} after 1024 steps of {compiled.solver.name}, and scikit-image has {wanted!r}")
    ours, other = _seconds(partial(_steps, compiled, steps), 3), _seconds(theirs, 3)
    return [
        Row("tv_512.scikit_image", 1000 * other, "ms", 3),
        Row("tv_512.inner", 1000 * ours, "ms", 3, ratio=other / ours, ratio_to="tv_512.scikit_image"),
    ]


def bandwidth() -> list[Row]:
    """Which part of what the memory can copy the elementwise work of a step moves: of the step without its transforms, an l1 denoising."""
    side = 2048
    spec = FlowSpec(
        name="denoising",
        slots={"x": Slot(shape=(side, side)), "y": Slot(value=np.ones((side, side)), role="data")},
        terms=[Term("quadratic", "x", target="y"), Term("l1", "x", weight=0.01)],
    )
    compiled = compile_flow(spec, solver="ista", tol=0.0)
    never = compiled.controls
    begun = begin(compiled.solver, compiled.problem, never, compiled.start)
    step = jax.jit(lambda state: compiled.solver.step(compiled.problem, never, state))
    state = step(begun.state)
    copy = jax.jit(lambda x: x + 1)
    size = compiled.start["x"].nbytes
    copied = 2 * size / _seconds(lambda: copy(state.x["x"]).block_until_ready())
    # The least a step has to move: it reads x, A x and b, and writes x and A x.
    moved = 5 * size / _seconds(lambda: jax.block_until_ready(step(state)))
    return [
        Row("copy.bandwidth", copied / 1e9, "GB/s", ROUNDS),
        Row("l1_denoise_2048.bandwidth", moved / 1e9, "GB/s", ROUNDS, ratio=moved / copied, ratio_to="copy.bandwidth"),
    ]
