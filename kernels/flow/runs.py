"""Whole runs in one call: `run` compiles a spec and drives it to its end, recorded if a folder is named; `resume_run` goes on from the last
checkpoint of a capsule, whatever ended it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .compiler import CompiledFlow, compile_flow
from .errors import FlowInputError
from .precision import device, precision
from .recorder import NoRecorder, Recorder
from .running import CHECKPOINT_SECONDS, Execution, Progress, drive
from .spec import FlowSpec


def run(
    spec: FlowSpec | CompiledFlow,
    *,
    iterations: int = 1000,
    tol: float = 1e-6,
    solver: str | None = None,
    alpha: float | None = None,
    block: int | None = None,
    validation: Any = None,
    on_progress: Progress | None = None,
    out_dir: str | Path | None = None,
    redact: bool = False,
    save_every: float = CHECKPOINT_SECONDS,
) -> dict[str, Any]:
    """Minimises the energy of a spec.

    iterations, tol: the run ends when the relative residual is at most `tol` ("converged"), when the energy changes by no more than its
    rounding for 20 steps in a row ("stagnated"), or after `iterations` ("budget"). solver, alpha, validation: as of `compile_flow`. block:
    steps between two visits of the host; None: about a tenth of a second's worth. on_progress: called after each block with {"block",
    "iteration", "iterations", "energy", "smooth", "nonsmooth", "residual", "grad_norm", "inner_gap", "restarts", "alpha", "elapsed_s"};
    answering "cancel" or False ends the run ("cancelled"). out_dir: where a capsule of the run is kept (see docs/flow/recorder.md).
    save_every: seconds between its checkpoints; 0: after each block.

    Returns {"state" (slot to array), "stopped", "iterations", "energy", "residual", "history" (by metric a value for each step),
    "elapsed_s", "device", "dtype", "report" (what the compiler chose and why), "capsule" (its folder, or None)}.

    Raises FlowInputError (SpecLintFailed with all findings) for a spec that cannot be used, FlowDiverged when a step is not finite.
    """
    compiled = spec if isinstance(spec, CompiledFlow) else compile_flow(spec, solver=solver, tol=tol, alpha=alpha, validation=validation)
    with precision(compiled.spec.dtype), _recorded(compiled, out_dir, redact, iterations) as recorder:
        execution = Execution(compiled, iterations=_steps(iterations), block=block, recorder=recorder, save_every=save_every)
        return _driven(execution, recorder, on_progress)


def resume_run(
    run_dir: str | Path,
    spec: FlowSpec | CompiledFlow,
    *,
    iterations: int | None = None,
    on_progress: Progress | None = None,
    block: int | None = None,
    save_every: float = CHECKPOINT_SECONDS,
) -> dict[str, Any]:
    """Goes on with a run from its last good checkpoint: bit for bit as if it had not been cut, on the same device.

    spec: that of the run; another one is refused by its digest. iterations: in all; None: as many as the run was to have. A run whose
    process was killed goes on in its own capsule; one that had ended gets a new one, with the old one as parent.

    Returns what `run` returns; its history begins where it goes on. Raises CheckpointRefused, FlowInputError.
    """
    from .recorder.capsule import Capsule, resume_state
    from .recorder.manifest import load_run_manifest

    manifest = load_run_manifest(run_dir)
    given = spec.spec if isinstance(spec, CompiledFlow) else spec
    found = resume_state(run_dir, spec_digest=given.digest())
    compiled = spec if isinstance(spec, CompiledFlow) else compile_flow(spec, solver=manifest.get("solver"))
    record = found["record"]
    budget = _steps(int(record["iterations"]) if iterations is None else iterations)
    with precision(given.dtype), Capsule.resume(run_dir, found["checkpoint"], remaining=budget - found["iter"]) as capsule:
        execution = Execution(compiled, iterations=budget, block=block, recorder=capsule, saved=record, save_every=save_every)
        return _driven(execution, capsule, on_progress)


def _driven(execution: Execution, recorder: Recorder, on_progress: Progress | None) -> dict[str, Any]:
    drive(execution, on_progress)
    result = execution.result() | {"report": execution.compiled.report, "capsule": getattr(recorder, "path", None)}
    _pictures(recorder, execution, result["state"])
    recorder.finish(execution.stopped, energy=result["energy"], residual=result["residual"], elapsed_s=result["elapsed_s"])
    return result


@contextlib.contextmanager
def _recorded(compiled: CompiledFlow, out_dir: str | Path | None, redact: bool, iterations: int) -> Iterator[Recorder]:
    if out_dir is None:
        yield NoRecorder()
        return
    from .recorder.capsule import Capsule

    with Capsule.create(out_dir, compiled.spec.plain(), manifest_fields(compiled, iterations), redact=redact) as capsule:
        yield capsule


def manifest_fields(compiled: CompiledFlow, iterations: int) -> dict[str, Any]:
    """What the manifest of a run says beyond the spec."""
    report = compiled.report
    return {
        "solver": report.solver,
        "solver_reason": report.reason,
        "lens_name": report.lens_name or None,
        "frame_type": report.frame_type,
        "alpha": report.alpha,
        "beta": report.beta.record(),
        "unit_normalization_table": dict(report.unit_normalization_table),
        "budgets": {"iterations": iterations},
        "extra": {"device": device()},
    }


def _pictures(recorder: Recorder, execution: Execution, state: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Before and after of slots that look like images, for the report: the data beside what was made of it."""
    spec = execution.compiled.spec
    measured = [np.asarray(slot.value) for slot in spec.slots.values() if slot.role == "data"]
    data = {value.shape: value for value in measured}
    for slot, value in state.items():
        flat = value.ndim == 2 or (value.ndim == 3 and value.shape[-1] in (3, 4))
        if flat and min(value.shape[:2]) >= 16:
            before = data.get(value.shape)
            # A slot may be called as one likes, a file may not: a run that is over must not be lost to its name.
            name = re.sub(r"[^A-Za-z0-9._-]", "_", slot).lstrip("._-") or "slot"
            recorder.artifact(f"{name}.before", np.asarray(execution.compiled.start[slot] if before is None else before))
            recorder.artifact(f"{name}.after", value)


def _steps(iterations: int) -> int:
    if isinstance(iterations, bool) or not isinstance(iterations, (int, np.integer)) or iterations < 1:
        raise FlowInputError(f"iterations is {iterations!r}; it must be a whole number, 1 or more")
    return int(iterations)
