"""The host's side of a run: one visit per block of steps.

Steps run on the device in compiled blocks of about a fifth of a second. While the device makes the next block, the host records the last
one; a visit is where a run is told of, cancelled, saved and judged. What a run computes does not depend on where it is cut into blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from .compiler import CompiledFlow
from .divergence import diverged
from .errors import FlowDiverged, FlowError, FlowInputError
from .precision import device, precision
from .problem import Problem, State
from .recorder import NoRecorder, Recorder
from .recorder.errors import CheckpointRefused
from .recorder.files import undisturbed
from .solvers.base import CONVERGED, NOT_FINITE, RUNNING, STAGNATED, Controls, Metrics, Run, Solver, advance

# One visit: long enough that it costs next to nothing, short enough for a live bar and a prompt cancel.
BLOCK_SECONDS = 0.2
CAPACITY = 1024  # steps of a block, at most
LONGEST = 1_000_000  # steps of a block whose size was asked for, whose metrics are kept until it ends
FIRST = 4  # steps of the first block, which may be long ones
CHECKPOINT_SECONDS = 5.0
REASONS = {CONVERGED: "converged", STAGNATED: "stagnated", RUNNING: "budget"}

Progress = Callable[[dict[str, Any]], Any]


@partial(jax.jit, static_argnames=("solver", "capacity", "whole"))
def advance_block(
    solver: Solver, problem: Problem, controls: Controls, run: Run, steps: ArrayLike, *, capacity: int, whole: bool = True
) -> tuple[Run, jax.Array, jax.Array]:
    """Up to `steps` steps on the device; see `solvers.base.advance`."""
    return advance(solver, problem, controls, run, jnp.asarray(steps), capacity=capacity, whole=whole)


class Block(NamedTuple):
    """Steps that were made: the first one's number, and by metric a value for each."""

    first: int
    size: int
    metrics: Mapping[str, np.ndarray[Any, Any]]

    @property
    def last(self) -> dict[str, float]:
        """The metrics of the last step."""
        return {name: float(values[-1]) for name, values in self.metrics.items()}


class Snapshot(NamedTuple):
    """A place that a run can go back to. It shares its arrays with the run: nothing is copied."""

    run: Run
    problem: Problem
    controls: Controls
    done: int
    segment: int

    @property
    def energy(self) -> float:
        """E there."""
        return float(self.run.state.metrics.energy)


class Execution:
    """A run, one block per step: an iterator of progress reports (dictionaries).

    `run` is where it stands, `done` how many steps were made, `stopped` why it is over ("" while it goes on), `info` the last report. Use
    it in `precision(compiled.spec.dtype)`, or by `drive`.
    """

    def __init__(
        self,
        compiled: CompiledFlow,
        *,
        iterations: int,
        block: int | None = None,
        recorder: Recorder | None = None,
        saved: Any = None,
        save_every: float = CHECKPOINT_SECONDS,
        problem: Problem | None = None,
    ) -> None:
        """block: steps per block, or None to let measured time choose. saved: what `record` gave, to go on from there in blocks as before.
        save_every: seconds between checkpoints. problem: instead of the compiled one, of the same structure. Raises CheckpointRefused where
        `saved` is of another solver."""
        whole = isinstance(block, (int, np.integer)) and not isinstance(block, bool)
        if block is not None and not (whole and 1 <= block <= LONGEST):
            raise FlowInputError(f"block is {block!r}; it must be 1 to {LONGEST} whole steps, or None to let measured time choose")
        self.compiled, self.controls, self.problem = compiled, compiled.controls, problem or compiled.problem
        self.iterations, self.done = iterations, 0
        self.stopped = ""
        self.info: dict[str, Any] = {}
        self.segment = 0
        self.latest: Block | None = None
        self.columns: dict[str, Any] = {}  # of every row that is recorded, beside the metrics
        # Asked where a block ends, which is where, after how many steps and whether it is the end, for what its last row says beside these.
        self.closing: Callable[[Execution, Run, int, bool], Mapping[str, Any]] | None = None
        self.recorder = recorder or NoRecorder()
        block = block or (saved or {}).get("block")
        stride = compiled.solver.stride
        block = block and -(-block // stride) * stride
        self._block, self._steps = block, block or FIRST
        self._save_every = save_every
        self._blocks = 0
        self._capacity = max(CAPACITY, block or 0)
        self._ahead: tuple[Run, jax.Array, jax.Array] | None = None
        self._history: list[np.ndarray[Any, Any]] = []
        self._began = self._saved_at = time.perf_counter()
        if saved is not None:
            self._go_on_from(saved)
            return
        self.run = compiled.begun(problem=self.problem)
        if int(self.run.status) == NOT_FINITE:
            raise FlowDiverged(
                f"the energy of {compiled.spec.name} is not finite where the flow starts; "
                "give its slots a value at which every term is defined"
            )

    def __iter__(self) -> Execution:
        return self

    def __next__(self) -> dict[str, Any]:
        """Runs a block. Raises FlowDiverged when a step is not finite: the finite steps of the block are recorded then, and so is what is
        left of that one; `run` is where the block began."""
        if self.stopped or self.done >= self.iterations:
            self.stopped = self.stopped or "budget"
            raise StopIteration
        started = time.perf_counter()
        run, made, trace = self._ahead or self._dispatch(self.run, self.done)
        self._ahead = None
        status, count = int(run.status), int(made)
        elapsed = time.perf_counter() - started
        if status == NOT_FINITE:
            raise self._diverged(run, np.asarray(trace)[:count])
        done, stopped = self.done + count, ""
        if status != RUNNING or done >= self.iterations:
            stopped = REASONS[status]
        elif self._block is None:
            self._steps = next_block(self._steps, elapsed, self._capacity)
        ahead = None if stopped else self._dispatch(run, done)
        values = np.asarray(trace)[:count].copy()  # cut on the host: on the device, each new count would compile a slice
        block = Block(self.done, count, dict(zip(Metrics._fields, values.T, strict=True)))
        ends = self.closing(self, run, done, bool(stopped)) if self.closing is not None else {}

        def take_over() -> None:
            self.run, self.done, self.stopped, self._ahead = run, done, stopped, ahead
            self._blocks += 1
            self.latest = block
            self._history.append(values)
            self._tell(block, ends)

        # Whole or not at all: what interrupts the run finds it where a checkpoint can go on.
        undisturbed(take_over)
        return dict(self.info)

    def _dispatch(self, run: Run, done: int) -> tuple[Run, jax.Array, jax.Array]:
        stride = self.compiled.solver.stride
        left, off = self.iterations - done, done % stride
        whole = not off and left >= stride
        # Strides begin at multiples of themselves, whatever the blocks, so that it does not matter where a run is cut.
        steps = min(max(self._steps, stride), left) // stride * stride if whole else min(stride - off, left)
        made: tuple[Run, jax.Array, jax.Array] = advance_block(
            self.compiled.solver, self.problem, self.controls, run, np.int32(steps), capacity=self._capacity, whole=whole
        )
        return made

    def _diverged(self, run: Run, trace: np.ndarray[Any, Any]) -> FlowDiverged:
        # A stride goes on to its end.
        size = int(np.argmin(np.isfinite(trace[:, 0] + trace[:, Metrics._fields.index("residual")])))
        good = trace[:size]
        if size:
            self._tell_rows(Block(self.done, size, dict(zip(Metrics._fields, good.T, strict=True))))
        standing = dict(zip(Metrics._fields, (float(value) for value in self.run.state.metrics), strict=True))
        return diverged(
            self.recorder,
            name=self.compiled.spec.name,
            dtype=self.compiled.spec.dtype,
            solver=self.compiled.solver.name,
            step=self.done + size + 1,
            alpha=float(self.controls.alpha),
            state=run.state.x,
            before={
                "step": self.done + size,
                "metrics": dict(zip(Metrics._fields, good[-1].tolist(), strict=True)) if size else standing,
                "state": self.state(),
            },
            metrics=dict(zip(Metrics._fields, trace[size].tolist(), strict=True)),
        )

    def _tell(self, block: Block, ends: Mapping[str, Any]) -> None:
        last = block.last
        self.info = {
            "block": self._blocks,
            "iteration": self.done,
            "iterations": self.iterations,
            **last,
            "elapsed_s": time.perf_counter() - self._began,
        }
        self._tell_rows(block, ends)

    def _tell_rows(self, block: Block, ends: Mapping[str, Any] | None = None) -> None:
        metrics, size = block.metrics, block.size
        self.recorder.rows(
            {
                "iter": np.arange(block.first + 1, block.first + block.size + 1),
                "E": metrics["energy"],
                "E_smooth": metrics["smooth"],
                "E_nonsmooth": metrics["nonsmooth"],
                "grad_norm": metrics["grad_norm"],
                "prox_residual": metrics["residual"],
                "alpha": metrics["alpha"],
                "restarts": metrics["restarts"].astype(np.int64),
                "inner_gap": metrics["inner_gap"],
                "segment_id": self.segment,
                **self.columns,
                **{name: at_end(value, size) for name, value in (ends or {}).items()},
            }
        )

    def snapshot(self) -> Snapshot:
        """Where it stands now."""
        return Snapshot(self.run, self.problem, self.controls, self.done, self.segment)

    def stand_at(self, place: Snapshot, alpha: float | None = None) -> None:
        """Goes back to a place, with a fresh momentum and, if given, another step."""
        self._ahead = None
        self.problem, self.controls, self.done = place.problem, place.controls, place.done
        self.stopped = ""
        if alpha is not None:
            self.controls = replace(place.controls, alpha=jnp.asarray(alpha, place.controls.alpha.dtype))
        self.run = self.compiled.begun(problem=self.problem, controls=self.controls, x=place.run.state.x)
        last = {name: float(value) for name, value in zip(Metrics._fields, place.run.state.metrics, strict=True)}
        self.info = {**self.info, "iteration": self.done, **last}

    def change(
        self, controls: Controls | None = None, problem: Problem | None = None, *, restart: bool = False, x: State | None = None
    ) -> None:
        """Other numbers from the next step on. restart: the solver begins anew where it stands, as it must when the energy is another."""
        self._ahead = None
        self.stopped = ""
        self.controls = controls or self.controls
        self.problem = problem or self.problem
        if restart:
            self.segment += 1
            self.run = self.compiled.begun(problem=self.problem, controls=self.controls, x=x or self.run.state.x)

    def cancel(self) -> None:
        """Ends the run where it stands."""
        self.stopped = self.stopped or "cancelled"
        self._ahead = None

    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        """The variables, as numpy arrays."""
        return {slot: np.asarray(value) for slot, value in self.run.state.x.items()}

    def history(self) -> dict[str, np.ndarray[Any, Any]]:
        """By metric a value for each step since this execution began."""
        width = len(Metrics._fields)
        rows = np.concatenate(self._history) if self._history else np.zeros((0, width))
        return dict(zip(Metrics._fields, rows.T, strict=True))

    def record(self) -> dict[str, Any]:
        """All that is needed to go on from here with the same spec, as plain data and arrays: bit for bit the same run."""
        return {
            "state": self.state(),
            "solver": self.compiled.solver.name,
            "run": [np.asarray(leaf) for leaf in jax.tree.leaves(self.run)],
            "controls": [np.asarray(leaf) for leaf in jax.tree.leaves(self.controls)],
            # Of the next step; of a solver without noise, that of its seed.
            "rng_key": np.asarray(getattr(self.run.state, "key", (0, np.uint32(self.controls.seed))), np.uint32),
            "iteration": self.done,
            "iterations": self.iterations,
            "segment": self.segment,
            "blocks": self._blocks,
            "steps": self._steps,
            "block": self._block,
            "stopped": self.stopped,
            "info": dict(self.info),
            "elapsed_s": time.perf_counter() - self._began,
        }

    def _go_on_from(self, saved: Mapping[str, Any]) -> None:
        solver = self.compiled.solver.name
        if saved.get("solver", solver) != solver:  # states of different meaning may look alike
            raise CheckpointRefused(
                f"the checkpoint is of the solver {saved['solver']}, the flow was compiled for {solver}; compile it with "
                f"solver={saved['solver']!r}, or start a new run from the state of the checkpoint"
            )
        # Where the run would begin gives the structure only: nothing is computed, so nothing is compiled.
        like = self.compiled.form_of_run()
        self.run = refilled(like, saved["run"])
        self.controls = refilled(self.controls, saved["controls"], "the controls")
        self.done, self.segment = int(saved["iteration"]), int(saved["segment"])
        self._blocks, self._steps = int(saved["blocks"]), int(saved["steps"])
        self.stopped = str(saved["stopped"])
        if self.stopped in ("budget", "cancelled"):  # which the next one need not be
            self.stopped = "budget" if self.done >= self.iterations else ""
        self.info = dict(saved["info"])
        self._began = time.perf_counter() - float(saved["elapsed_s"])

    def save(self, *, certificates: Any = None) -> None:
        """Has the recorder keep a checkpoint."""
        self.recorder.checkpoint(self.record(), iteration=self.done, certificates=certificates)
        self._saved_at = time.perf_counter()

    @property
    def save_due(self) -> bool:
        """Whether the last checkpoint is old enough for another."""
        return time.perf_counter() - self._saved_at >= self._save_every

    def result(self) -> dict[str, Any]:
        """What `run` returns, of the state reached so far; "stopped" is "" while it is not over."""
        return {
            "state": self.state(),
            "stopped": self.stopped,
            "iterations": self.done,
            "energy": self.info.get("energy", float(self.run.state.metrics.energy)),
            "residual": self.info.get("residual"),
            "history": self.history(),
            "elapsed_s": time.perf_counter() - self._began,
            "device": device(),
            "dtype": self.compiled.spec.dtype,
        }


def steps_of(iterations: Any) -> int:
    """The budget of a run. Raises FlowInputError."""
    if isinstance(iterations, bool) or not isinstance(iterations, (int, np.integer)) or iterations < 1:
        raise FlowInputError(f"iterations is {iterations!r}; it must be a whole number, 1 or more")
    return int(iterations)


def check_ways(on_progress: Any, save_every: Any, redact: Any = False) -> None:
    """Of how a run is told of and kept. Raises FlowInputError before anything runs."""
    if not (on_progress is None or callable(on_progress)):
        raise FlowInputError(f"on_progress is {on_progress!r:.60}; give a function of a progress report, or None")
    if isinstance(save_every, bool) or not isinstance(save_every, (int, float, np.number)) or not save_every >= 0:
        raise FlowInputError(f"save_every is {save_every!r:.60}; it must be a number of seconds, 0 or more (0: after each block)")
    if not isinstance(redact, (bool, np.bool_)):
        raise FlowInputError(f"redact is {redact!r:.60}; it must be True or False")


def at_end(value: float, size: int) -> np.ma.MaskedArray[Any, Any]:
    """A column of a block of which the last row alone says something."""
    return np.ma.masked_array(np.full(size, value, float), np.arange(size) < size - 1)


def drive(execution: Execution, on_progress: Progress | None = None) -> None:
    """Runs blocks until the run is over, or `on_progress` answers "cancel" or False to the report of one. Saves on the way."""
    with precision(execution.compiled.spec.dtype):
        for info in execution:
            if visited(on_progress, info, execution.save):
                execution.cancel()
            if not execution.stopped and execution.save_due:
                execution.save()


@contextmanager
def saved_if_interrupted(execution: Execution) -> Iterator[None]:
    """Saves the run when the block is interrupted (SIGINT, a deadline): by what is no Exception."""
    try:
        yield
    except Exception:
        raise
    except BaseException:
        if execution.done:
            undisturbed(execution.save)
        raise


def visited(on_progress: Progress | None, info: dict[str, Any], save: Callable[[], None]) -> bool:
    """Tells `on_progress` of a block; whether it wants the run to end. One that fails, as when its caller has died, ends it, too: `save`
    keeps a checkpoint before."""
    if on_progress is None:
        return False
    try:
        return is_cancel(on_progress(info))
    except Exception as error:
        try:
            save()
        except FlowError as second:
            error.add_note(f"and where the run stands could not be saved: {second}")
        raise


def is_cancel(answer: Any) -> bool:
    """Whether a progress callback wants the run to end."""
    return answer is False or (isinstance(answer, str) and answer == "cancel")


def next_block(steps: int, elapsed: float, most: int = CAPACITY) -> int:
    """How many steps to take next when `steps` took `elapsed` seconds: towards BLOCK_SECONDS, at most four times as many."""
    wanted = int(steps * BLOCK_SECONDS / max(elapsed, 1e-9))
    return max(1, min(wanted, 4 * steps, most))


def refilled(like: Any, leaves: list[Any], what: str = "the solver's state") -> Any:
    """A record of the structure and the types of `like` with other leaves. what: what they are, for errors.

    Raises CheckpointRefused where their types or shapes are not those of `like`: scalars lie in vectors, and beyond the end of a shorter
    one JAX would read its last number without a word.
    """
    old_leaves, structure = jax.tree.flatten(like)
    saved, wanted = [_form(leaf) for leaf in leaves], [_form(leaf) for leaf in old_leaves]
    if saved != wanted:
        raise CheckpointRefused(
            f"the checkpoint has for {what} {', '.join(saved):.200}, and the flow {', '.join(wanted):.200}: it is of another solver, "
            "or of another version of bridge-adapter. Resume with what wrote it, or start a new run from its state"
        )
    pairs = zip(leaves, old_leaves, strict=True)  # a control that was left at its default is a plain number
    fitting = [jnp.asarray(leaf, old.dtype) if hasattr(old, "dtype") else type(old)(leaf) for leaf, old in pairs]
    return jax.tree.unflatten(structure, fitting)


def _form(leaf: Any) -> str:
    """The type and the shape of a number or an array; of plain numbers, which are saved as arrays, no type."""
    return f"{np.dtype(leaf.dtype).name if np.ndim(leaf) else ''}{list(np.shape(leaf))}"
