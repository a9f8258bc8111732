"""Certified runs: nothing is tuned before the gate is passed, every move is certified again, and a lost certificate ends in the last good
state or in an end that says why. See `controlled.CertifiedRun` for how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from .certificates import CertificationProfile
from .compiler import CompiledFlow
from .controlled import CertifiedRun
from .controller import ControllerConfig, FlowPolicy, GapDial, MultiscaleSchedule, SparsityPolicy
from .errors import FlowInputError
from .kept import Asked, asked_again
from .lint import lint_form, mode_of, raise_errors
from .precision import precision
from .recorded import asked_fields, recorder_in
from .recorder import NoRecorder
from .recorder.errors import CheckpointRefused
from .running import CHECKPOINT_SECONDS, Progress, check_ways, steps_of
from .spec import FlowSpec, a_spec

RESTORE = "one of them is from another run. Restore it from a copy, or start the run anew"


def run_certified(
    spec: FlowSpec,
    compiled: CompiledFlow | None = None,
    *,
    cert_profile: CertificationProfile | None = None,
    multiscale: MultiscaleSchedule | None = None,
    flow: FlowPolicy | None = None,
    gap_dial: GapDial | None = None,
    sparsity: SparsityPolicy | None = None,
    config: ControllerConfig | None = None,
    iterations: int = 1000,
    tol: float | None = None,
    block: int | None = None,
    on_progress: Progress | None = None,
    out_dir: str | Path | None = None,
    redact: bool = False,
    save_every: float = CHECKPOINT_SECONDS,
) -> dict[str, Any]:
    """Runs a flow under certificates.

    compiled: the spec compiled already; else it is compiled here, with the solver of `flow` if a policy is given. cert_profile: what must
    be shown (the strict gate eta_dd <= 0.9 and gamma >= 1e-6 by default; `certificates.convex()` for energies without strong convexity).
    multiscale: unlocks the scales of the wavelet term one after the other. gap_dial: turns weights once the run is GREEN. sparsity: of the
    wavelet terms, and a rule by which their weight follows the noise where no gap_dial is given. config: limits and what happens on
    failure. tol: of the relative residual; None: that of `compiled`, or 1e-6. on_progress: as of `run`, with "phase". out_dir: where the
    capsule is kept, of the spec as it was given. save_every: seconds between its checkpoints; 0: after each block.

    Returns what `run` returns and {"phase", "verdict", "card" (what was shown and what passed), "controller" (counts), "spec" (with what
    remediation has added), "weights" (of each knob of a dial, at the end), "changes" ({"ridge": what remediation added, "factors": by
    which the tuner turned each knob})}. A run that is not certified ends with "stopped": "cert_fail" and the reasons in the verdict, one
    whose numbers stay infinite however short its steps with "diverged"; nothing is raised.
    Raises SpecLintFailed for a spec with errors, FlowInputError for iterations that are no whole number above 0, for an argument of another
    kind, and for a flow that was compiled of another spec.
    """
    given = {"cert_profile": cert_profile, "multiscale": multiscale, "flow": flow, "gap_dial": gap_dial, "sparsity": sparsity}
    # What has the wrong form cannot be recorded, not even as refused.
    raise_errors(lint_form(a_spec(spec), mode_of(None)))
    iterations = steps_of(iterations)
    check_ways(on_progress, save_every, redact)
    _check(spec, compiled)
    if tol is None:
        tol = 1e-6 if compiled is None else float(compiled.controls.tol)
    asked = Asked(tol=tol).with_given({**given, "config": config})
    begun = asked.applied(spec if compiled is None else compiled)
    made = begun if isinstance(begun, CompiledFlow) and flow is None else None
    asked = replace(asked, solver=made.solver.name if made else None)
    told = partial(asked_fields, asked, iterations, block)
    with precision(spec.dtype), recorder_in(out_dir, spec, told, redact=redact) as recorder:
        run = CertifiedRun(
            begun.spec if isinstance(begun, CompiledFlow) else begun,
            asked,
            compiled=made,
            recorder=recorder,
            iterations=iterations,
            block=block,
            save_every=save_every,
        )
        return run.to_the_end(on_progress)


def resume_certified(
    run_dir: str | Path,
    spec: FlowSpec | CompiledFlow,
    *,
    iterations: int | None = None,
    on_progress: Progress | None = None,
    block: int | None = None,
    save_every: float = CHECKPOINT_SECONDS,
    certified: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`runs.resume_run` of a certified run: the controller, the tuner and the schedule go on from where they stood, under the profile, the
    dial and the limits that they had. certified: some of these anew; see there."""
    from .recorder.capsule import Capsule, resume_state

    given = spec.spec if isinstance(spec, CompiledFlow) else a_spec(spec)
    found = resume_state(run_dir, spec_digest=given.digest())
    record = found["record"]
    if "certified" not in record:
        raise CheckpointRefused(f"{run_dir} is of a certified run by its manifest, and its checkpoint of one that is not: {RESTORE}")
    asked = asked_again(record["certified"]["asked"], certified)
    budget = steps_of(int(record["iterations"]) if iterations is None else iterations)
    with precision(given.dtype):
        run = CertifiedRun(given, asked, compiled=None, recorder=NoRecorder(), iterations=budget, block=block, save_every=save_every)
        # First, for it refuses what does not fit, and that leaves no trace in the capsule.
        run.go_on_from(record, asked.applied(spec))
        with Capsule.resume(run_dir, found["checkpoint"], remaining=max(0, budget - found["iter"])) as capsule:
            capsule.update(**asked_fields(asked, budget, block or record.get("block")))
            run.record_in(capsule)
            return run.to_the_end(on_progress)


def _check(spec: FlowSpec, compiled: CompiledFlow | None) -> None:
    """Raises FlowInputError where a flow is none, or not that of the spec."""
    if not (compiled is None or isinstance(compiled, CompiledFlow)):
        raise FlowInputError(f"compiled is {type(compiled).__name__}; give a flow, as compile_flow(spec) makes it, or None")
    if compiled is not None and compiled.spec is not spec and compiled.spec.digest() != spec.digest():
        told = f"compiled is of another spec, {compiled.spec.name!r}, whose digest is not that of {spec.name!r}"
        raise FlowInputError(f"{told}; compile this one, or leave compiled out")
