"""Whole runs in one call: `run` compiles a spec and drives it to its end, recorded if a folder is named; `resume_run` goes on from the last
checkpoint of a capsule, whatever ended it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .certificates import freeze
from .certified import RESTORE, resume_certified
from .compiler import SOLVERS, CompiledFlow, compile_flow
from .errors import FlowInputError
from .precision import precision
from .recorded import (
    budget_fields,
    flow_columns,
    flow_fields,
    keep_first_pictures,
    keep_last_pictures,
    recorder_in,
    reference_fields,
    tell_lens,
)
from .recorder import Last, NoRecorder, Recorder
from .recorder.errors import CheckpointRefused
from .running import CHECKPOINT_SECONDS, Execution, Progress, check_ways, drive, saved_if_interrupted, steps_of
from .spec import FlowSpec, a_spec
from .watching import Watch


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

    iterations, tol: the run ends when the relative residual is at most `tol` ("converged"), when 50 steps in a row together change the
    energy by no more than its rounding and do not halve the residual ("stagnated"), or after `iterations` ("budget"). solver, alpha,
    validation: as of `compile_flow`. block: steps between two visits of the host, rounded up to an even number for accelerated solvers of
    more than 8192 elements; None: about a fifth of a second's worth. on_progress: called after each block with {"block", "iteration",
    "iterations", "energy", "smooth", "nonsmooth", "residual", "grad_norm", "inner_gap", "restarts", "alpha", "elapsed_s"};
    answering "cancel" or False ends the run ("cancelled"). out_dir: where a capsule of the run is kept (see docs/flow/recorder.md).
    save_every: seconds between its checkpoints; 0: after each block.

    Returns {"state" (slot to array), "stopped", "iterations", "energy", "residual", "history" (by metric a value for each step),
    "elapsed_s", "device", "dtype", "report" (what the compiler chose and why), "capsule" (its folder, or None)}.

    Raises FlowInputError (SpecLintFailed with all findings) for a spec that cannot be used, FlowDiverged when a step is not finite.
    """
    iterations = steps_of(iterations)
    check_ways(on_progress, save_every, redact)
    compiled = spec if isinstance(spec, CompiledFlow) else compile_flow(spec, solver=solver, tol=tol, alpha=alpha, validation=validation)

    def told() -> dict[str, Any]:
        # Compiled, so sound, and not certified.
        return {"phase": "AMBER", **budget_fields(iterations, block), **flow_fields(compiled), **reference_fields(compiled)}

    with precision(compiled.spec.dtype), recorder_in(out_dir, compiled.spec, told, redact=redact) as recorder:
        execution = Execution(compiled, iterations=iterations, block=block, recorder=recorder, save_every=save_every)
        if not isinstance(recorder, NoRecorder):
            references = freeze(compiled.spec, compiled.start)
            _watched(execution, recorder, references).began(compiled, references)
            tell_lens(recorder, compiled)
        return _driven(execution, recorder, on_progress)


def resume_run(
    run_dir: str | Path,
    spec: FlowSpec | CompiledFlow | None = None,
    *,
    iterations: int | None = None,
    on_progress: Progress | None = None,
    block: int | None = None,
    save_every: float = CHECKPOINT_SECONDS,
    certified: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Goes on with a run from its last good checkpoint: bit for bit as if it had not been cut, on the same device.

    spec: that of the run; another one is refused by its digest. None, for loops of one's own: nothing runs, and what there is to go on from
    comes back, {"state", "tuner_state", "phase", "iter", "rng_key", "record", "checkpoint"}. iterations: in all; None: as many as the run
    was to have. A run whose process was killed goes on in its own capsule; one that had ended gets a new one, with the old one as parent.

    A certified run goes on under its controller, with the profile, the dial, the schedule and the limits that it had; bit for bit if its
    blocks were of a fixed size (`block`), for decisions are made between blocks. certified: some of what it was asked for anew, by the
    names of `run_certified`, as for functions, which a checkpoint cannot hold.

    Returns what `run` or `run_certified` returns; its history begins where it goes on. Raises CheckpointRefused, FlowInputError.
    """
    from .recorder.capsule import Capsule, resume_state
    from .recorder.manifest import load_run_manifest

    if spec is None:
        if not (iterations is None and on_progress is None and block is None and certified is None):
            raise FlowInputError(f"to go on with {run_dir} takes its spec, whose data are not in the capsule: give it after the folder")
        return resume_state(run_dir)
    check_ways(on_progress, save_every)
    manifest = load_run_manifest(run_dir)
    if manifest.get("certified"):
        budget = None if iterations is None else steps_of(iterations)
        return resume_certified(
            run_dir, spec, iterations=budget, on_progress=on_progress, block=block, save_every=save_every, certified=certified
        )
    if certified is not None:
        refuse_uncertified(run_dir, manifest)
    given = spec.spec if isinstance(spec, CompiledFlow) else a_spec(spec)
    found = resume_state(run_dir, spec_digest=given.digest())
    solver = manifest.get("solver")
    if not isinstance(spec, CompiledFlow) and solver is not None and solver not in SOLVERS and solver == found["record"].get("solver"):
        told = f"{run_dir} is of a run with a solver of one's own, {solver!r}, which no capsule can hold"
        raise FlowInputError(f"{told}; give the compiled flow, compile_flow(spec, solver=...), in the place of the spec")
    compiled = spec if isinstance(spec, CompiledFlow) else compile_flow(spec, solver=solver)
    record = found["record"]
    if "certified" in record:
        raise CheckpointRefused(f"{run_dir} is of a run without certificates by its manifest, and its checkpoint of one with: {RESTORE}")
    budget = steps_of(int(record["iterations"]) if iterations is None else iterations)
    with precision(given.dtype):
        # First, for it refuses what does not fit, and that leaves no trace in the capsule.
        execution = Execution(compiled, iterations=budget, block=block, saved=record, save_every=save_every)
        with Capsule.resume(run_dir, found["checkpoint"], remaining=max(0, budget - found["iter"])) as capsule:
            execution.recorder = capsule
            _watched(execution, capsule, manifest.get("invariants", {}))
            capsule.update(**budget_fields(budget, block or record.get("block")))
            return _driven(execution, capsule, on_progress)


def refuse_uncertified(run_dir: str | Path, manifest: Mapping[str, Any]) -> None:
    """Raises FlowInputError where a recorded run has no certificates, which none can be given on the way."""
    if not manifest.get("certified"):
        cure = "leave `certified` out, or start a certified run of the spec, under another name if it has one"
        raise FlowInputError(f"{run_dir} is of a run without certificates; {cure}")


def _watched(execution: Execution, recorder: Recorder, references: Mapping[str, float]) -> Watch:
    """Has the rows of a run tell what it is and what is seen where its blocks end. references: of its invariants."""
    watch = Watch(recorder)
    watch.references = references
    execution.columns = flow_columns(execution.compiled, None)
    execution.closing = watch.at
    return watch


def _driven(execution: Execution, recorder: Recorder, on_progress: Progress | None) -> dict[str, Any]:
    keep_first_pictures(recorder, execution.compiled)
    with saved_if_interrupted(execution):
        drive(execution, on_progress)
        result = execution.result() | {"report": execution.compiled.report, "capsule": getattr(recorder, "path", None)}
        keep_last_pictures(recorder, result["state"])
    told = {name: result[name] for name in ("iterations", "energy", "residual", "elapsed_s")}
    if execution.stopped == "budget":
        recorder.event("BUDGET_EXCEEDED", {"iteration": execution.done, "status": execution.stopped}, iteration=execution.done)
    recorder.finish(execution.stopped, last=Last(execution.record()), **told)
    return result
