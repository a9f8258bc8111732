"""How long it takes from a spec to its first step, most of which is XLA's compilation.

`floor` is the bare loop, FISTA in one scan; `measured` a loop written by hand for this one problem, as lean as it can be, that reads in
each step what ours does: the energy, the residual, the norm of the gradient, whether all are finite and whether it is over, and the
energies of its terms where it starts; `inner` ours, from the spec. Each shape is a new one. `fresh` is ours in a new process, `kept` in
one that finds the programs in a folder, as docs/flow/running.md says.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bridge_adapter.kernels.flow.compiler import CompiledFlow, compile_flow
from bridge_adapter.kernels.flow.packed import elementwise, vector
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.spec import FlowSpec
from bridge_adapter.kernels.flow.sums import each_summed, summed

from .flow_extra import deblurring, steps_of
from .report import Row, note

SHAPES = 7
PROBLEMS: dict[str, Callable[[int], tuple[int, ...]]] = {
    "compile_1e3": lambda number: (1000 + 2 * number,),
    "compile_512": lambda number: (500 + 2 * number, 512),
}
WEIGHT = 0.01


def rows() -> list[Row]:
    """Every row of this part: seconds, and the ratio to the floor."""
    made: list[Row] = []
    with precision("float64"):
        for problem, shaped in PROBLEMS.items():
            note(f"flow: {problem}")
            times: dict[str, list[float]] = {"floor": [], "measured": [], "inner": []}
            for number in range(SHAPES):
                spec = deblurring(shaped(number))
                times["inner"].append(_seconds(partial(_first_step, spec)))
                compiled = compile_flow(spec, solver="fista")
                times["floor"].append(_seconds(partial(_bare(compiled), compiled.start["x"])))
                times["measured"].append(_seconds(partial(_measured(compiled), compiled.start["x"])))
            times |= _in_new_processes(shaped(0))
            # The first has loaded what all need, or filled the folder.
            medians = {who: statistics.median(spent[1:]) for who, spent in times.items()}
            for who, spent in medians.items():
                made.append(Row(f"{problem}.{who}", spent, "s", len(times[who]) - 1, ratio=spent / medians["floor"], ratio_to="floor"))
    return made


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def _first_step(spec: FlowSpec) -> jax.Array:
    return steps_of(compile_flow(spec, solver="fista"))(1)


def _in_new_processes(shape: tuple[int, ...]) -> dict[str, list[float]]:
    """Without a folder, and with one that the first fills."""
    command = [sys.executable, "-m", "bench.flow_compile", *map(str, shape)]
    times: dict[str, list[float]] = {"fresh": [], "kept": []}
    with tempfile.TemporaryDirectory() as folder:
        kept = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        for _ in range(5):
            for who, more in (("fresh", {}), ("kept", kept)):
                done = subprocess.run(command, env={**os.environ, **more}, check=True, capture_output=True, text=True)
                times[who].append(float(done.stdout))
    return times


def _step(compiled: CompiledFlow) -> Any:
    """The gradient step and what it needs."""
    term: Any = compiled.problem.smooth[0]
    power, back, alpha = term.power, term.pull, compiled.controls.alpha
    axes, sides = tuple(range(-term.op.axes, 0)), term.op.sides

    def step(y: jax.Array) -> tuple[jax.Array, jax.Array]:
        slope = jnp.fft.irfftn(power * jnp.fft.rfftn(y, axes=axes) - back, s=sides, axes=axes)
        v = y - alpha * slope
        return jnp.sign(v) * jnp.maximum(jnp.abs(v) - alpha * WEIGHT, 0), slope

    return step


def _bare(compiled: CompiledFlow) -> Callable[[jax.Array], jax.Array]:
    """FISTA for `deblurring`, as one writes it down."""
    step = _step(compiled)

    @jax.jit
    def loop(x: jax.Array) -> jax.Array:
        def one(carry: tuple[jax.Array, jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array, jax.Array], None]:
            x, y, t = carry
            z, _ = step(y)
            following = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
            return (z, z + (t - 1) / following * (z - x), following), None

        return jax.lax.scan(one, (x, x, jnp.ones((), x.dtype)), None, length=2)[0][0]

    return loop


def _measured(compiled: CompiledFlow) -> Callable[[jax.Array], Any]:
    """The same with what our steps read, and a row of it for each step, after a look at the start: the energies of both terms and the norm
    of the gradient, by which it is decided whether there is anything to run. As lean as it can be written, scalars and sums together."""
    step = _step(compiled)
    term: Any = compiled.problem.smooth[0]
    transfer, data, alpha = term.op.transfer, term.data, compiled.controls.alpha
    axes, scale = tuple(range(-term.op.axes, 0)), math.prod(term.op.sides)

    @jax.jit
    def look(x: jax.Array) -> jax.Array:
        misfit = transfer * jnp.fft.rfftn(x, axes=axes) - data
        slope = jnp.fft.irfftn(jnp.conj(transfer) * misfit, s=term.op.sides, axes=axes)
        return vector([summed(misfit.real**2 + misfit.imag**2) / scale, *each_summed(WEIGHT * jnp.abs(x), slope**2)])

    @jax.jit
    def loop(x: jax.Array) -> Any:
        def one(carry: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
            x, y, (t, _, _, count), trace = carry
            z, slope = step(y)
            misfit = transfer * jnp.fft.rfftn(z, axes=axes) - data
            smooth = summed(misfit.real**2 + misfit.imag**2) / scale
            rest, steep, moved = each_summed(WEIGHT * jnp.abs(z), slope**2, (y - z) ** 2)
            size, length, root = elementwise(jnp.sqrt, [steep, moved, 1 + 4 * t**2])
            following = (1 + root) / 2
            residual, onward = elementwise(jnp.divide, [length, t - 1], [alpha * jnp.maximum(1, size), following])
            told = vector([smooth + rest, smooth, rest, residual, size])
            trace = jax.lax.dynamic_update_index_in_dim(trace, told, count.astype(jnp.int32), 0)
            return z, z + onward * (z - x), vector([following, smooth + rest, residual, count + 1]), trace

        def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> jax.Array:
            _, energy, residual, count = carry[2]
            return jnp.asarray((count < 2) & (residual > 0) & jnp.isfinite(energy))

        return jax.lax.while_loop(unfinished, one, (x, x, jnp.asarray([1, 0, 1, 0], x.dtype), jnp.zeros((1024, 5), x.dtype)))

    def looked(x: jax.Array) -> Any:
        if not np.isfinite(np.asarray(look(x))).all():
            raise RuntimeError("the energy is not finite where the flow starts")
        return loop(x)

    return looked


if __name__ == "__main__":
    with precision("float64"):
        jnp.zeros(3).block_until_ready()
        print(_seconds(partial(_first_step, deblurring(tuple(map(int, sys.argv[1:]))))))
