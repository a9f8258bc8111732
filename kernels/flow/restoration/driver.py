"""The host's side of a run: one visit per block of steps, what the block did, and whether to go on.

The device decides when a run is over (see `solvers`); the host decides how many steps a block has, tells whoever
wants to know, and listens for a cancel. Between two blocks the thread is back in Python, so an exception raised into
it (a deadline, a caller that left) unwinds there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import FlowDiverged
from .solvers import CONVERGED, NOT_FINITE, RUNNING, STAGNATED, Metrics, Run

# One visit: long enough that it costs next to nothing, short enough for a live bar and a prompt cancel.
BLOCK_SECONDS = 0.1
BLOCK_CAPACITY = 64

_REASONS = {CONVERGED: "converged", STAGNATED: "stagnated", RUNNING: "budget"}

Advance = Callable[[Run, int], tuple[Run, jax.Array, Metrics]]
Progress = Callable[[dict[str, Any]], Any]


class Descent:
    """A run, one block per step: an iterator of progress reports.

    `run` is where it stands, `stopped` why it is over ("" while it goes on), `info` the last report, `history` one value per iteration of
    energy, residual and inner_gap.
    """

    def __init__(
        self, advance: Advance, run: Run, *, iterations: int, block: int | None, measure: Callable[[Run], dict[str, float]] | None = None
    ) -> None:
        """block: steps per block, or None to let measured time choose. measure: further figures for each report."""
        self._advance, self._measure = advance, measure
        self._iterations, self._block = iterations, block
        self.run = run
        self.stopped = ""
        self.info: dict[str, Any] = {}
        self.history: dict[str, list[float]] = {"energy": [], "residual": [], "inner_gap": []}
        self._blocks = self._done = 0
        self._steps = block or 1
        self._started = time.perf_counter()

    def __iter__(self) -> Descent:
        return self

    def __next__(self) -> dict[str, Any]:
        """Runs a block. Raises FlowDiverged when the energy of a step is not a finite number."""
        if self.stopped:
            raise StopIteration
        block_started = time.perf_counter()
        run, made, trace = self._advance(self.run, min(self._steps, self._iterations - self._done))
        status, count, metrics = jax.device_get((run.status, made, trace))
        elapsed = time.perf_counter() - block_started
        blocks, done = self._blocks + 1, self._done + int(count)
        if status == NOT_FINITE:
            raise FlowDiverged(
                f"the energy is not a finite number after iteration {done}: the values are too large for "
                f"{metrics.residual.dtype.name}. Scale them so that white is 1, or use dtype='float64'"
            )
        info = _report(blocks, done, self._iterations, metrics, int(count)) | (self._measure(run) if self._measure else {})
        info["elapsed_s"] = time.perf_counter() - self._started
        self.run, self._blocks, self._done, self.info = run, blocks, done, info
        _append(self.history, metrics, int(count))
        if status != RUNNING or done >= self._iterations:
            self.stopped = _REASONS[int(status)]
        elif self._block is None:
            self._steps = next_block(self._steps, elapsed)
        return dict(info)

    def cancel(self) -> None:
        """Ends the run where it stands."""
        self.stopped = self.stopped or "cancelled"

    def checkpoint(self) -> dict[str, Any]:
        """Where it stands, as plain data and arrays."""
        return {
            "run": [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(self.run)],
            "history": {name: np.asarray(values) for name, values in self.history.items()},
            "info": dict(self.info),
            "stopped": self.stopped,
            "blocks": self._blocks,
            "steps": self._steps,
            "elapsed_s": time.perf_counter() - self._started,
        }

    def restore(self, value: dict[str, Any]) -> None:
        """Goes on from a checkpoint of a run with the same arguments."""
        structure = jax.tree_util.tree_structure(self.run)
        self.run = jax.tree_util.tree_unflatten(structure, [jnp.asarray(leaf) for leaf in value["run"]])
        self.history = {name: values.tolist() for name, values in value["history"].items()}
        self.info, self.stopped = dict(value["info"]), value["stopped"]
        self._blocks, self._steps, self._done = value["blocks"], value["steps"], len(self.history["energy"])
        self._started = time.perf_counter() - value["elapsed_s"]


def drive(descent: Descent, on_progress: Progress | None) -> None:
    """Runs blocks until the run is over or `on_progress` answers "cancel" or False to the report of one."""
    for info in descent:
        answer = on_progress(info) if on_progress else None
        if _is_cancel(answer):
            descent.cancel()


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
