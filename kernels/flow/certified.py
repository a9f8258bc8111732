"""Certified runs: nothing is tuned before the gate is passed, every move is certified again, and a lost certificate ends in the last good
state or in an end that says why.

The controller (`controller.phases`) decides; this module does what it says and tells it what came of it: it compiles, certifies, makes
blocks, keeps places to go back to, tries moves of the tuner, and records all of it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .certificates import (
    CertificationProfile,
    Descent,
    Finding,
    Verdict,
    block_findings,
    certify,
    check_block,
    freeze,
    largest_drift,
    physics_residuals,
    run_card,
)
from .certificates import drifts as drifts_of
from .certificates.records import weakest
from .compiler import CompiledFlow, compile_flow
from .controller import (
    Accepted,
    BlockDone,
    Cancelled,
    Candidate,
    Certified,
    ControllerConfig,
    ControllerState,
    Failed,
    FlowPolicy,
    GapDial,
    Linted,
    MoveProposed,
    MoveTried,
    MultiscaleSchedule,
    NoMove,
    Reading,
    ScheduleState,
    SparsityPolicy,
    TunerState,
    advanced,
    begin,
    committed,
    evaluate,
    exhausted,
    propose,
    remedied,
    restricted_to,
    step,
    tried,
    weights,
)
from .controller.phases import Action, Happening
from .errors import FlowInputError
from .lint import SpecLintFailed
from .precision import device, precision
from .problem import Problem
from .recorder import NoRecorder, Recorder
from .running import CHECKPOINT_SECONDS, Execution, Progress, Snapshot, is_cancel
from .spec import FlowSpec
from .transforms import TransformOp, level_masks

# The capsule tells of these itself.
_OWN = ("RUN_STARTED", "RUN_FINISHED", "CANCELLED")
_FAMILIES = {"ista": "proximal", "fista": "accelerated", "mfista": "accelerated", "preconditioned": "preconditioned"}
_CLASSES = {"B": "primal_dual", "C": "primal_dual", "D": "splitting", "E": "splitting", "R": "riemannian", "motion": "hamiltonian_damped"}


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
    tol: float = 1e-6,
    block: int | None = None,
    on_progress: Progress | None = None,
    out_dir: str | Path | None = None,
    redact: bool = False,
) -> dict[str, Any]:
    """Runs a flow under certificates.

    compiled: the spec compiled already; else it is compiled here, with the solver of `flow` if a policy is given. cert_profile: what must
    be shown (the strict gate eta_dd <= 0.9 and gamma >= 1e-6 by default; `certificates.convex()` for energies without strong convexity).
    multiscale: unlocks the scales of the wavelet term one after the other. gap_dial: turns weights once the run is GREEN. config: limits
    and what happens on failure. on_progress: as of `run`, with "phase". out_dir: where the capsule is kept.

    Returns what `run` returns and {"phase", "verdict", "card" (what was shown and what passed), "controller" (counts), "spec" (with what
    remediation has added)}. A run that is not certified ends with "stopped": "cert_fail" and the reasons in the verdict; nothing is raised.
    Raises SpecLintFailed for a spec that is none.
    """
    profile = cert_profile or CertificationProfile()
    settings = replace(config or ControllerConfig(), tuning=gap_dial is not None)
    made = compiled if compiled is not None and flow is None else None
    with _capsule(spec, out_dir, redact, profile, iterations) as recorder:
        run = CertifiedRun(
            spec,
            profile=profile,
            config=settings,
            policy=flow,
            schedule=multiscale,
            dial=gap_dial,
            sparsity=sparsity,
            compiled=made,
            recorder=recorder,
            iterations=iterations,
            tol=tol,
            block=block,
        )
        with precision(spec.dtype):
            return run.to_the_end(on_progress)


class CertifiedRun:
    """One run under the controller; see `run_certified`."""

    def __init__(
        self,
        spec: FlowSpec,
        *,
        profile: CertificationProfile,
        config: ControllerConfig,
        policy: FlowPolicy | None,
        schedule: MultiscaleSchedule | None,
        dial: GapDial | None,
        sparsity: SparsityPolicy | None,
        compiled: CompiledFlow | None,
        recorder: Recorder,
        iterations: int,
        tol: float,
        block: int | None,
    ) -> None:
        self.spec, self.profile, self.config = spec, profile, config
        self._policy, self._schedule, self._dial, self._sparsity = policy, schedule, dial, sparsity
        self._compiled, self._recorder = compiled, recorder
        self._iterations, self._tol, self._block = iterations, tol, block
        self.controller = ControllerState()
        self.verdict: Verdict | None = None
        self._tuner = TunerState(width=dial.proposal if dial else 0.1)
        self._scales: ScheduleState | None = None
        self._execution: Execution | None = None
        self._good: Snapshot | None = None
        self._before: Snapshot | None = None  # where the last block began
        self._best: Candidate | None = None
        self._trial: CompiledFlow | None = None
        self._descents: list[Descent] = []
        self._lint: SpecLintFailed | None = None
        self._skip_certify = False
        self._references: dict[str, float] = {}
        self._began = self._saved = time.perf_counter()

    # The loop.

    def to_the_end(self, on_progress: Progress | None) -> dict[str, Any]:
        """Runs until the controller says that it is over."""
        self._happen(Accepted({"flow_name": self.spec.name, "dtype": self.spec.dtype}, 1.0))
        try:
            while not self.controller.ended:
                self._make_block(on_progress)
        except KeyboardInterrupt:
            self._happen(Cancelled("interrupted"))
        except Exception as error:
            self._happen(Failed(type(error).__name__, str(error) or type(error).__name__))
            raise
        if self._lint is not None:
            self._recorder.finish("lint_fail")
            raise self._lint
        return self._finished()

    @property
    def compiled(self) -> CompiledFlow:
        """The flow as it is now."""
        if self._compiled is None:
            raise FlowInputError("the spec is not compiled")
        return self._compiled

    @property
    def execution(self) -> Execution:
        """The steps, once there are some."""
        if self._execution is None:
            self._execution = self._begun()
        return self._execution

    def _begun(self) -> Execution:
        compiled = self.compiled
        if self._policy is not None:
            self._tell("FLOW_POLICY_APPLIED", self._policy.applied(compiled.solver.name))
        execution = Execution(compiled, iterations=self._iterations, block=self._block, recorder=self._recorder)
        self._references = freeze(self.spec, compiled.start)
        if self._schedule is not None:
            self._scales, told = begin(self._schedule)
            for kind, payload in told:
                self._tell(kind, payload)
            execution.change(problem=self._on_scales(compiled.problem), restart=True)
            execution.segment = 0
        return execution

    def _make_block(self, on_progress: Progress | None) -> None:
        execution = self.execution
        execution.columns = self._columns()
        self._before = execution.snapshot()
        before = self._before.energy
        try:
            info = next(execution)
        except StopIteration:
            self._happen(BlockDone(execution.done, before, Descent(True, "no step was made"), (), execution.stopped or "budget"))
            return
        latest = execution.latest
        assert latest is not None
        descent = check_block(
            latest.metrics,
            self.compiled.solver.name,
            before=before,
            alpha=float(execution.controls.alpha),
            beta=self.compiled.report.beta,
            size=sum(int(value.size) for value in self.compiled.start.values()),
            dtype=self.spec.dtype,
            tolerance=self.profile.tolerance("lyapunov"),
            promise=self.compiled.solver.descent,
        )
        if "lyapunov" not in self.profile.checks:
            descent = replace(descent, passed=True)
        self._descents.append(descent)
        findings = self._findings()
        stopped: str | None = execution.stopped or None
        if descent.passed and self._unlocked(info, before, converged=stopped in ("converged", "stagnated")):
            stopped = None
        told = {**info, "phase": self.controller.phase}
        cancelled = on_progress is not None and is_cancel(on_progress(told))
        self._happen(BlockDone(execution.done, info["energy"], descent, findings, stopped, self._elapsed_ms()))
        if cancelled and not self.controller.ended:
            execution.cancel()
            self._happen(Cancelled("by the caller"))
        elif not self.controller.ended and time.perf_counter() - self._saved >= CHECKPOINT_SECONDS:
            self._save()

    def _findings(self) -> tuple[Finding, ...]:
        if not {"invariant", "physics_residual"} & set(self.profile.checks):
            return ()
        x = self.execution.run.state.x
        residuals = physics_residuals(self.compiled, x) if "physics_residual" in self.profile.checks else ()
        return block_findings(self.profile, drifts=drifts_of(self.spec, x, self._references), residuals=residuals)

    def _columns(self) -> dict[str, Any]:
        """What the rows of a block say beside the metrics."""
        made: dict[str, Any] = {"phase": self.controller.phase, "flow_family": self._family(), "segment_id": self.controller.segment}
        if self.verdict is not None:
            found = [self.verdict.certificates[name] for name in ("eta_dd", "gamma") if name in self.verdict.certificates]
            if len(found) == 2 and all(np.isfinite(bound.value) for bound in found):
                made |= {"eta_dd": found[0].value, "gamma": found[1].value}
                made["cert_kind"] = weakest([bound.kind for bound in found], "lower_bound")
        if self.compiled.report.lens_name:
            made["lens_name"] = self.compiled.report.lens_name
        if self._scales is not None:
            made["level_active_max"] = self._scales.active
        if self._sparsity is not None:
            made["sparsity_mode"] = self._sparsity.sparsity_mode
        if self._dial is not None:
            made["lambda"] = weights(self.compiled)["lambda"]
        if self.spec.invariants and self._execution is not None:
            made["invariant_drift_max"] = largest_drift(drifts_of(self.spec, self._execution.run.state.x, self._references))
        return made

    def _family(self) -> str:
        report = self.compiled.report
        return _FAMILIES.get(report.solver.removesuffix("_bt"), _CLASSES.get(report.solver_class, "gradient"))

    # What the controller asks for.

    def _happen(self, happened: Happening) -> None:
        came = step(self.config, self.controller, happened)
        self.controller = came.state
        for kind, payload in came.events:
            self._tell(kind, payload)
        for action in came.actions:
            if self._skip_certify and action.act == "certify":
                self._skip_certify = False
                continue
            self._do(action)

    def _tell(self, kind: str, payload: Mapping[str, Any]) -> None:
        if kind not in _OWN:
            self._recorder.event(kind, payload, iteration=self.controller.iteration)

    def _do(self, action: Action) -> None:
        match action.act:
            case "lint":
                self._compile()
            case "certify":
                self.verdict = certify(self.compiled, self.profile)
                self._happen(Certified(self.verdict, float(self.compiled.controls.alpha)))
            case "remedy":
                self._remedy(action.details["finding"])
            case "keep":
                self._good = self.execution.snapshot()
            case "restore":
                self._restore(str(action.details.get("to", "good")), action.details.get("alpha"))
            case "propose":
                self._propose()
            case "try":
                self._try()
            case "commit":
                self._commit()
            case "iterate" | "stop":
                pass

    def _compile(self) -> None:
        if self._compiled is None:
            try:
                self._compiled = self._recompiled(self.spec)
            except SpecLintFailed as failed:
                self._lint = failed
                self._happen(Linted(tuple(str(finding) for finding in failed.findings)))
                return
        report = self.compiled.report
        self._recorder.update(solver=report.solver, solver_reason=report.reason, alpha=report.alpha, beta=report.beta.record())
        self._happen(Linted(()))

    def _recompiled(self, spec: FlowSpec) -> CompiledFlow:
        return compile_flow(spec, solver=self._policy.solver if self._policy is not None else None, tol=self._tol)

    def _remedy(self, finding: Finding) -> None:
        change = remedied(self.compiled, self.profile, finding, ridge_cap=self.config.ridge_cap, recompile=self._recompiled)
        if change is None:
            assert self.verdict is not None
            self._skip_certify = True
            self.verdict = exhausted(self.verdict, finding)
            self._happen(Certified(self.verdict))
            return
        self._compiled, self.profile, self.spec = change.compiled, change.profile, change.compiled.spec

    def _restore(self, to: str, alpha: float | None) -> None:
        place = self._before if to == "block" else self._good
        if place is not None:
            self.execution.stand_at(place, alpha)

    # The tuner.

    def _propose(self) -> None:
        assert self._dial is not None
        moves = propose(self._dial, self._tuner, weights(self.compiled))
        if not moves:
            self._happen(NoMove())
            return
        self._best = evaluate(self.compiled, self._dial, self.execution.run.state.x, moves)[0]
        self._trial = committed(self.compiled, self._best.move)
        self._happen(MoveProposed(self._best.move.record(), f"trial-{self._tuner.trials + 1}"))

    def _try(self) -> None:
        best, trial = self._best, self._trial
        assert best is not None and trial is not None
        verdict = certify(trial, self.profile)
        better = bool(best.objective < self._tuner.best)
        good = better and verdict.feasible and best.descended
        self._tuner = tried(self._dial or GapDial(), self._tuner, best.move if good else None, best.objective if good else None)
        happened = MoveTried(
            best.move.record(),
            verdict,
            best.descended,
            better,
            objective=best.objective,
            reanchors=best.move.reanchors,
            trial_id=f"trial-{self._tuner.trials}",
            elapsed_ms=self._elapsed_ms(),
            alpha=float(trial.controls.alpha),
        )
        if good:
            self.verdict = verdict
        self._happen(happened)

    def _commit(self) -> None:
        best, trial = self._best, self._trial
        assert best is not None and trial is not None
        self._compiled = trial
        self.execution.compiled = trial
        self.execution.change(trial.controls, self._on_scales(trial.problem), restart=True, x=best.state)

    # Scales.

    def _on_scales(self, problem: Problem) -> Problem:
        """The problem on the scales that are unlocked."""
        if self._schedule is None or self._scales is None:
            return problem
        for slot, term in problem.prox.items():
            if isinstance(term.op, TransformOp):
                masks = level_masks(term.op)
                return restricted_to(problem, slot, term.op, masks[min(self._scales.active, len(masks) - 1)])
        raise FlowInputError("a multiscale schedule unlocks the scales of a wavelet term; add a wavelet_l1 term, or leave the schedule out")

    def _unlocked(self, info: Mapping[str, Any], before: float, *, converged: bool) -> bool:
        """Unlocks the next level where the schedule says so; True where it did."""
        if self._schedule is None or self._scales is None:
            return False
        fallen = (before - info["energy"]) / max(1.0, abs(before))
        reading = Reading(info["iteration"], info["residual"], fallen)
        onward, told = advanced(self._schedule, self._scales, reading, stopped=converged)
        if not told:
            return False
        self._scales = onward
        for kind, payload in told:
            self._tell(kind, payload)
        segment = self.execution.segment
        self.execution.change(problem=self._on_scales(self.compiled.problem), restart=True)
        self.execution.segment = segment  # the energy is the same one, and falls on
        return True

    # The end.

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._began) * 1000.0

    def _save(self) -> None:
        record = self.execution.record() | {
            "tuner_state": self._tuner.record(),
            "references": self._references,
            "active_level": self._scales.active if self._scales is not None else None,
            "controller": {"phase": self.controller.phase, "rollbacks": self.controller.rollbacks, "moves": self.controller.moves},
        }
        certificates = self.verdict.record() if self.verdict is not None else None
        self._recorder.checkpoint(record, iteration=self.execution.done, certificates=certificates)
        self._saved = time.perf_counter()

    def _finished(self) -> dict[str, Any]:
        assert self.verdict is not None
        status = self.controller.status
        if self._execution is not None:
            self._save()
            result = self._execution.result()
            x = self._execution.run.state.x
            kept = drifts_of(self.spec, x, self._references)
            residuals = physics_residuals(self.compiled, x)
        else:
            start = {slot: np.asarray(value) for slot, value in self.compiled.start.items()}
            result = {"state": start, "iterations": 0, "energy": None, "residual": None, "history": {}, "dtype": self.spec.dtype}
            result |= {"elapsed_s": self._elapsed_ms() / 1000.0, "device": device()}
            kept, residuals = [], []
        card = run_card(self.profile, self.verdict, descents=self._descents, drifts=kept, residuals=residuals)
        # A run that lost its certificate and went back to its last good state has shown nothing, whatever that state is like.
        card["passed"] = card["passed"] and self.controller.phase == "GREEN"
        self._recorder.update(certificates=_certificates(self.verdict))
        self._recorder.finish(status, energy=result["energy"], residual=result["residual"], elapsed_s=result["elapsed_s"], card=card)
        return result | {
            "stopped": status,
            "phase": self.controller.phase,
            "verdict": self.verdict,
            "card": card,
            "controller": {
                "rollbacks": self.controller.rollbacks,
                "moves": self.controller.moves,
                "accepted_moves": self.controller.accepted_moves,
                "remedies": self.controller.attempts,
            },
            "report": self.compiled.report,
            "spec": self.spec,
            "capsule": getattr(self._recorder, "path", None),
        }


def _certificates(verdict: Verdict) -> list[dict[str, Any]]:
    """For the manifest: each number with what it is, and whether a check failed by it."""
    failed = {finding.check for finding in verdict.findings}
    return [{"name": name, **bound.record(), "passed": name not in failed} for name, bound in verdict.certificates.items()]


@contextlib.contextmanager
def _capsule(
    spec: FlowSpec, out_dir: str | Path | None, redact: bool, profile: CertificationProfile, iterations: int
) -> Iterator[Recorder]:
    if out_dir is None:
        yield NoRecorder()
        return
    from .recorder.capsule import Capsule

    gates = {"eta_max": profile.eta_max, "gamma_min": profile.gamma_min}
    fields = {"gates": gates, "budgets": {"iterations": iterations}, "extra": {"device": device(), "profile": profile.record()}}
    with Capsule.create(out_dir, spec.plain(), fields, redact=redact) as capsule:
        yield capsule
