"""One run under the controller. The controller (`controller.phases`) decides; this module does what it says and tells it what came of it:
it compiles, certifies, makes blocks, keeps places to go back to, tries moves of the tuner, and records all of it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from . import judging
from .certificates import Descent, Finding, Gap, Verdict, certify, freeze, run_card
from .compiler import CompiledFlow, compile_flow
from .controller import (
    Accepted,
    BlockDone,
    Cancelled,
    Certified,
    ControllerState,
    Diverged,
    Failed,
    Linted,
    Move,
    MoveProposed,
    NoMove,
    TunerState,
    exhausted,
    remedied,
    step,
    weights,
    with_alpha,
)
from .controller.phases import Action, Happening
from .controller.remediation import ridge_of
from .errors import FlowDiverged, FlowInputError
from .kept import Asked, Changes, counts, opened_again, packed, place_from, place_record, told_changes, told_descents, unpacked
from .lint import Mode, SpecLintFailed
from .precision import device
from .problem import Problem
from .recorded import certificate_fields, flow_fields, keep_first_pictures, keep_last_pictures, reference_fields, tell_lens, tell_verdict
from .recorder import Last, Recorder
from .recorder.files import undisturbed
from .running import Execution, Progress, Snapshot, visited
from .scaling import Scaling
from .spec import FlowSpec
from .tuning import Tuning, adaptation, controlled_columns
from .watching import watch_of

# The capsule tells of these itself.
_OWN = ("RUN_STARTED", "RUN_FINISHED", "CANCELLED", "RUN_FAILED")


class CertifiedRun:
    """One run under the controller; see `run_certified`."""

    def __init__(
        self,
        spec: FlowSpec,
        asked: Asked,
        *,
        compiled: CompiledFlow | None,
        recorder: Recorder,
        iterations: int,
        block: int | None,
        save_every: float,
    ) -> None:
        self.spec, self.asked, self.profile, self.config = spec, asked, asked.cert_profile, asked.config
        self._policy, self._sparsity = asked.flow, asked.sparsity
        self._scaling = Scaling(asked.multiscale) if asked.multiscale is not None else None
        self._tuning = Tuning(asked.gap_dial) if asked.gap_dial is not None else None
        self._compiled, self._recorder = compiled, recorder
        self._iterations, self._block, self._save_every = iterations, block, save_every
        self._gate = judging.Gate(always=block is not None)
        self.controller = ControllerState()
        self.verdict: Verdict | None = None
        self._moves: list[Move] = []
        self._execution: Execution | None = None
        self._good: Snapshot | None = None
        self._before: Snapshot | None = None  # where the last block began
        self._descents: list[Descent] = []
        self._lint: SpecLintFailed | None = None
        self._skip_certify = False
        self._stood: CertifiedRun | None = None  # this run where the present block began, until all that comes of the block is done
        self._references: dict[str, float] = {}
        self._watch = watch_of(asked, recorder)
        self._began = self._saved = time.perf_counter()

    # The loop.

    def to_the_end(self, on_progress: Progress | None) -> dict[str, Any]:
        """Runs until the controller says that it is over."""
        try:
            if not self.controller.started:
                self._happen(Accepted({"flow_name": self.spec.name, "dtype": self.spec.dtype}, 1.0))
            while not self.controller.ended:
                self._make_block(on_progress)
        except KeyboardInterrupt:
            self._happen(Cancelled("interrupted"))
        except Exception as error:
            self._happen(Failed(type(error).__name__, str(error) or type(error).__name__))
            raise
        except BaseException:  # a deadline, or whoever else runs the call has ended it
            undisturbed(self._save)
            raise
        if self._lint is not None:
            self._recorder.finish("lint_fail")
            raise self._lint
        if self.verdict is None:  # interrupted before anything was certified: there is no result
            self._recorder.finish(self.controller.status)
            raise KeyboardInterrupt
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
        if self._scaling is not None:
            for kind, payload in self._scaling.begun():
                self._tell(kind, payload)
            execution.change(problem=self._on_scales(compiled.problem), restart=True)
            execution.segment = 0
        execution.closing = self._watch.at
        self._watch.began(compiled, self._references)
        tell_lens(self._recorder, compiled)
        keep_first_pictures(self._recorder, compiled)
        return execution

    def _make_block(self, on_progress: Progress | None) -> None:
        execution = self.execution
        execution.columns = {"phase": self.controller.phase, "segment_id": self.controller.segment} | controlled_columns(
            self.compiled, self.verdict, self._scaling, self._sparsity, self._tuning
        )
        self._stood = self._standing()
        self._before = execution.snapshot()
        before = self._before.energy
        try:
            info = next(execution)
        except StopIteration:
            self._happen(BlockDone(execution.done, before, judging.IDLE, (), execution.stopped or "budget", self._elapsed_ms()))
            self._stood = None
            return
        except FlowDiverged as error:
            self._happen(Diverged(int(error.step or 0), str(error)))
            if self.verdict is not None and self.controller.status == "diverged":
                self.verdict = judging.lost(self.verdict, self.controller.phase, judging.IDLE, (judging.infinite(error),))
            self._stood = None
            return
        descent = judging.descent(execution, self.compiled, self.profile, self._before.run.state.metrics)
        seen = self._watch.seen
        gap, found = seen.gap, judging.findings(self.profile, seen)
        findings = (*self._lost(), *found)
        earlier, self._descents = self._descents, told_descents([*self._descents, descent])
        stopped: str | None = execution.stopped or None
        if gap is not None and "duality_gap" in self.profile.checks and gap.relative <= self.profile.tolerance("duality_gap"):
            stopped = "converged"
        if descent.passed and self._unlocked(info, before, gap, converged=stopped in ("converged", "stagnated")):
            stopped = None
        told, green, verdict = {**info, "phase": self.controller.phase}, self.controller.phase == "GREEN", self.verdict
        self._happen(BlockDone(execution.done, info["energy"], descent, findings, stopped, self._elapsed_ms()))
        if green and self.controller.phase != "GREEN" and self.verdict is verdict and verdict is not None:
            self.verdict = judging.lost(verdict, self.controller.phase, descent, findings)
        if execution.done < info["iteration"] and not self.controller.ended:
            self._descents = earlier  # the block was undone: what the card is about does not go through it
        self._stood = None
        # Once it is judged: what interrupts the visit, or fails in it, finds the run where a checkpoint can go on.
        if visited(on_progress, told, self._save) and not self.controller.ended:
            execution.cancel()
            self._happen(Cancelled("by the caller"))
        elif not self.controller.ended and time.perf_counter() - self._saved >= self._save_every:
            self._save()

    def _lost(self) -> tuple[Finding, ...]:
        """What the gate has against the point that a GREEN run has come to."""
        if self.controller.phase != "GREEN" or self.verdict is None:
            return ()
        before = self.verdict
        self.verdict = self._gate.again(self.execution, self.profile, before)
        if self.verdict is not before:
            tell_verdict(self._recorder, self.verdict, before, self.execution.done, self.profile.lens)
        return self.verdict.findings

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
                self._certify()
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
        self._happen(Linted(()))

    def _certify(self) -> None:
        compiled, before = self.compiled, self.verdict
        self.verdict = certify(compiled, self.profile)
        tell_verdict(self._recorder, self.verdict, before, self.controller.iteration, self.profile.lens)
        if self._execution is None:
            self._references = freeze(self.spec, compiled.start)
        told = flow_fields(compiled) | reference_fields(compiled, self._references)
        self._recorder.update(**told, certificates=certificate_fields(self.verdict))
        self._happen(Certified(self.verdict, float(compiled.controls.alpha)))

    def _recompiled(self, spec: FlowSpec, solver: str | None = None, validation: Mode | None = None) -> CompiledFlow:
        asked = self._policy.solver if self._policy is not None else None
        if asked is not None and solver not in (None, asked):
            raise FlowInputError(f"the policy stands for {asked}, so {solver} cannot be used; leave the policy out")
        return compile_flow(spec, solver=solver or asked, tol=self.asked.tol, validation=validation)

    def _remedy(self, finding: Finding) -> None:
        # The spec was judged in the mode that was asked for when it was compiled first.
        again = partial(self._recompiled, validation="expert")
        change = remedied(self.compiled, self.profile, finding, ridge_cap=self.config.ridge_cap, recompile=again)
        if change is None:
            assert self.verdict is not None
            self._skip_certify = True
            self.verdict = exhausted(self.verdict, finding)
            self._happen(Certified(self.verdict))
            return
        self._compiled, self.profile, self.spec = change.compiled, change.profile, change.compiled.spec

    def _restore(self, to: str, alpha: float | None) -> None:
        place = self._before if to == "block" else self._good
        if alpha is not None and alpha != float(self.compiled.controls.alpha):
            self._compiled = self.execution.compiled = with_alpha(self.compiled, alpha)  # what the tuner tries, it tries with this step
        if place is not None:
            # The scales that were unlocked since stay so: the place lies in all later ones.
            self.execution.stand_at(place._replace(problem=self._on_scales(self.compiled.problem)), alpha)

    # The tuner.

    def _propose(self) -> None:
        tuning, done = self._tuning, self.execution.done
        assert tuning is not None
        if not (tuning.due(done) or self.execution.stopped):
            return  # a solver at rest waits for nothing
        try:
            move = tuning.proposed(self.compiled, self.execution.run.state.x, done)
        except Exception as error:
            self._tell("TUNING_FAILED", {"reason": f"{type(error).__name__}: {error}"[:2000]})
            raise
        self._happen(NoMove(tuning.told_why()) if move is None else MoveProposed(move.record(), tuning.trial_id))

    def _try(self) -> None:
        assert self._tuning is not None
        before = self.verdict
        told, good = self._tuning.judged(self.profile, self._elapsed_ms())
        tell_verdict(self._recorder, told.verdict, before, self.controller.iteration, self.profile.lens)
        if good:
            self.verdict = told.verdict
        self._happen(told)
        if good and told.reanchors:
            self._tell("GAP_DIAL_ADAPTATION", adaptation(self.compiled, before, told.verdict, self.controller.iteration))

    def _commit(self) -> None:
        assert self._tuning is not None
        trial = self._tuning.trial
        self._compiled = trial
        self._moves.append(self._tuning.best.move)
        self.execution.compiled = trial
        self.execution.change(trial.controls, self._on_scales(trial.problem), restart=True, x=self._tuning.best.state)

    def _on_scales(self, problem: Problem) -> Problem:
        return problem if self._scaling is None else self._scaling.on(problem)

    def _unlocked(self, info: Mapping[str, Any], before: float, gap: Gap | None, *, converged: bool) -> bool:
        """Unlocks the next level where the schedule says so; True where it did."""
        if self._scaling is None:
            return False
        told = self._scaling.unlocked(info, before, np.inf if gap is None else gap.gap, converged=converged)
        if not told:
            return False
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
        """Keeps a checkpoint, once there are steps: of this moment, or where the present block began."""
        last = self._last()
        if last is not None:
            self._recorder.checkpoint(last.record, iteration=last.record["iteration"], certificates=last.certificates)
            self._saved = time.perf_counter()

    def _last(self) -> Last | None:
        """What that checkpoint holds."""
        run = self._stood or self
        return None if run._execution is None else Last(run._record(), None if run.verdict is None else run.verdict.record())

    def _standing(self) -> CertifiedRun:
        """This run as it stands, whatever becomes of it: what a block changes is assigned anew, but within these."""
        made = copy.copy(self)
        vars(made).update({name: copy.copy(getattr(self, name)) for name in ("_execution", "_tuning", "_scaling", "_moves")})
        return made

    def _record(self) -> dict[str, Any]:
        """All that is needed to go on under the controller, bit for bit."""
        execution, good = self.execution, self._good
        here = good is not None and good.run is execution.run
        return execution.record() | {
            "tuner_state": self._tuning.record() if self._tuning is not None else TunerState().record(),
            "references": self._references,
            "certified": {
                "asked": packed(self.asked),
                "controller": packed(self.controller),
                "tuning": packed(self._tuning.kept()) if self._tuning is not None else None,
                "scales": packed(self._scaling.state) if self._scaling is not None else None,
                "verdict": packed(self.verdict),
                "descents": packed(self._descents),
                "changes": packed(Changes.between(self.asked, self.profile, self.compiled, self._moves)),
                "weights": weights(self.compiled),
                "good": here if good is None or here else place_record(good),
                "elapsed_ms": self._elapsed_ms(),
            },
        }

    def go_on_from(self, record: Mapping[str, Any], given: FlowSpec | CompiledFlow) -> None:
        """Takes over from a checkpoint; `record_in` comes next. given: the spec of the run, perhaps compiled. Raises CheckpointRefused."""
        kept = record["certified"]
        self.controller = unpacked(kept["controller"])
        if self._scaling is not None:
            self._scaling.state = unpacked(kept["scales"])
        if self._tuning is not None and kept["tuning"] is not None:
            self._tuning.go_on_from(unpacked(kept["tuning"]))
        self.verdict, self._descents, self._references = unpacked(kept["verdict"]), unpacked(kept["descents"]), record["references"]
        changes: Changes = unpacked(kept["changes"])
        self.profile = replace(self.profile, **changes.profile)
        self._compiled, self._moves = changes.again(self.asked, given, self._recompiled), list(changes.moves)
        self.spec = self._compiled.spec
        self._began -= float(kept["elapsed_ms"]) / 1000.0
        problem = self._on_scales(self._compiled.problem)
        execution = Execution(self._compiled, iterations=self._iterations, block=self._block, saved=record, problem=problem)
        execution.closing, self._watch.references = self._watch.at, self._references
        self._execution = execution
        if isinstance(kept["good"], Mapping):
            self._good = place_from(kept["good"], self._compiled, problem)
        elif kept["good"]:
            self._good = execution.snapshot()

    def record_in(self, recorder: Recorder) -> None:
        """Where a run that has taken over tells what it does, from here on."""
        self._recorder = self.execution.recorder = self._watch.recorder = recorder
        keep_first_pictures(recorder, self.compiled)
        before, self.controller = self.controller, opened_again(self.controller, left=self.execution.done < self._iterations)
        if before.ended and not self.controller.ended and before.status != "cancelled":
            # What its last block would have led to, had it not been the last: perhaps a move of the tuner.
            energy = float(self.execution.info["energy"])
            self._happen(BlockDone(self.execution.done, energy, (self._descents or [judging.IDLE])[-1], (), None, self._elapsed_ms()))

    def _finished(self) -> dict[str, Any]:
        try:
            if self._execution is None:
                keep_first_pictures(self._recorder, self.compiled)
            keep_last_pictures(self._recorder, self.compiled.start if self._execution is None else self._execution.state())
            result, card = self._shown()
        except BaseException:
            self._save()
            raise
        assert self.verdict is not None
        status = self.controller.status
        # A tuner or a shorter step has changed these since the gate was passed.
        fields = {"alpha": float(self.compiled.controls.alpha), "certificates": certificate_fields(self.verdict)}
        told = {name: result[name] for name in ("iterations", "energy", "residual", "elapsed_s")}
        self._recorder.finish(status, last=self._last(), fields=fields, **told, card=card)
        return result | {
            "stopped": status,
            "phase": self.controller.phase,
            "verdict": self.verdict,
            "card": card,
            "controller": counts(self.controller),
            "weights": weights(self.compiled),
            "report": self.compiled.report,
            "spec": self.spec,
            "changes": told_changes(ridge_of(self.spec), self._moves),
            "capsule": getattr(self._recorder, "path", None),
        }

    def _shown(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Where the run ends, and its run card."""
        assert self.verdict is not None
        if self._execution is not None:
            result, seen = self._execution.result(), judging.seen(self._execution, self.compiled, self.profile, self._references)
        else:
            start = {slot: np.asarray(value) for slot, value in self.compiled.start.items()}
            result = {"state": start, "iterations": 0, "energy": None, "residual": None, "history": {}, "dtype": self.spec.dtype}
            result |= {"elapsed_s": self._elapsed_ms() / 1000.0, "device": device()}
            seen = judging.NOTHING
        card = run_card(self.profile, self.verdict, descents=self._descents, **seen._asdict())
        # A run that lost its certificate and went back to its last good state has shown nothing, whatever that state is like.
        card["passed"] = card["passed"] and self.controller.phase == "GREEN"
        return result, card
