"""The host's side of a run: one visit per block of steps, what the block did, and whether to go on.

The device decides when a run is over (see `solvers`); the host decides how many steps a block has, tells whoever
wants to know, and listens for a cancel. Between two blocks the thread is back in Python, so an exception raised into
it (a deadline, a caller that left) unwinds there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from .errors import FlowDiverged
from .solvers import CONVERGED, NOT_FINITE, RUNNING, STAGNATED, Metrics, Run

# One visit: long enough that it costs next to nothing, short enough for a live bar and a prompt cancel.
BLOCK_SECONDS = 0.1
BLOCK_CAPACITY = 64

_REASONS = {CONVERGED: "converged", STAGNATED: "stagnated", RUNNING: "budget"}

Advance = Callable[[Run, int], tuple[Run, jax.Array, Metrics]]
Progress = Callable[[dict[str, Any]], Any]


class Outcome(NamedTuple):
    """The run where it stopped, why, the last progress report, and one value per iteration of energy, residual and
    inner_gap.
    """

    run: Run
    stopped: str
    info: dict[str, Any]
    history: dict[str, list[float]]


def drive(
    advance: Advance,
    run: Run,
    *,
    iterations: int,
    block: int | None,
    on_progress: Progress | None = None,
    measure: Callable[[Run], dict[str, float]] | None = None,
) -> Outcome:
    """Runs blocks until the run is over, `iterations` are spent or `on_progress` answers "cancel" or False.

    block: steps per block, or None to let measured time choose. measure: further figures for each report. Raises
    FlowDiverged when the energy of a step is not a finite number.
    """
    started = time.perf_counter()
    history: dict[str, list[float]] = {"energy": [], "residual": [], "inner_gap": []}
    blocks, done, steps = 0, 0, block or 1
    while True:
        block_started = time.perf_counter()
        run, made, trace = advance(run, min(steps, iterations - done))
        status, count, metrics = jax.device_get((run.status, made, trace))
        elapsed = time.perf_counter() - block_started
        blocks, done = blocks + 1, done + int(count)
        if status == NOT_FINITE:
            raise FlowDiverged(
                f"the energy is not a finite number after iteration {done}: the values are too large for "
                f"{metrics.residual.dtype.name}. Scale them so that white is 1, or use dtype='float64'"
            )
        _append(history, metrics, int(count))
        info = _report(blocks, done, iterations, metrics, int(count)) | (measure(run) if measure else {})
        info["elapsed_s"] = time.perf_counter() - started
        answer = on_progress(dict(info)) if on_progress else None
        if status != RUNNING or done >= iterations:
            return Outcome(run, _REASONS[int(status)], info, history)
        if _is_cancel(answer):
            return Outcome(run, "cancelled", info, history)
        if block is None:
            steps = next_block(steps, elapsed)


def next_block(steps: int, elapsed: float) -> int:
    """How many steps to take next when `steps` took `elapsed` seconds: towards BLOCK_SECONDS, at most doubling.

    The first block is one step and its time is mostly compilation; doubling from there finds the size in a few blocks.
    """
    wanted = int(steps * BLOCK_SECONDS / max(elapsed, 1e-9))
    return max(1, min(wanted, 2 * steps, BLOCK_CAPACITY))


def _is_cancel(answer: Any) -> bool:
    return answer is False or (isinstance(answer, str) and answer == "cancel")


def _append(history: dict[str, list[float]], metrics: Metrics, count: int) -> None:
    for name, values in (("energy", metrics.energy), ("residual", metrics.residual), ("inner_gap", metrics.inner_gap)):
        history[name].extend(np.asarray(values[:count]).tolist())


def _report(blocks: int, done: int, iterations: int, metrics: Metrics, count: int) -> dict[str, Any]:
    energy, data_term, prior_term, residual, inner_gap = (float(values[count - 1]) for values in metrics)
    return {
        "block": blocks,
        "iteration": done,
        "iterations": iterations,
        "energy": energy,
        "data_term": data_term,
        "prior_term": prior_term,
        "residual": residual,
        "inner_gap": inner_gap,
    }
