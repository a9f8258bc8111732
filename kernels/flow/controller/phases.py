"""The controller as a pure state machine: RED (not a flow yet), AMBER (sound but not certified), GREEN (certified; only here is anything
tuned).

`step` takes what happened and returns the new state, the events to record, and what to do next (`happenings`). It runs nothing, measures
nothing and knows no clock: the run loop does as the actions say and tells what came of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..certificates.records import Phase, Verdict
from .happenings import (
    Accepted,
    Action,
    BlockDone,
    Cancelled,
    Certified,
    ControllerConfig,
    ControllerState,
    Diverged,
    Event,
    Failed,
    Happening,
    Linted,
    MoveProposed,
    MoveTried,
    NoMove,
    Step,
)

__all__ = ["Action", "Happening", "status", "step"]

# Ends of a solver that has done all it can with the present weights: a tuner that is not done goes on from there.
AT_REST = ("converged", "stagnated")


def step(config: ControllerConfig, state: ControllerState, happened: Happening) -> Step:
    """The table of the phases. What does not belong to the present phase changes nothing; after the end nothing does."""
    if state.ended:
        return Step(state)
    match happened:
        case Cancelled(reason):
            told: Event = ("CANCELLED", {"iteration": state.iteration, "reason": reason or None})
            return _finish(state, "cancelled", (told,))
        case Failed(error, message):
            return _finish(state, "failed", (("RUN_FAILED", {"error": error, "message": message}),))
        case Accepted(told_of, alpha) if not state.started:
            opened = replace(state, started=True, alpha=alpha, tuning=config.tuning)
            return Step(opened, (("RUN_STARTED", dict(told_of)),), (Action("lint"),))
        case Linted(problems) if state.started and state.phase == "RED":
            return _linted(state, problems)
        case Certified(verdict, alpha) if state.phase == "AMBER" and state.good is None and state.stage == 1:
            return _certified(config, state if alpha is None else replace(state, alpha=alpha), verdict)
        case BlockDone() if state.stage >= 2 and not state.trying:
            return _block(config, state, happened)
        case Diverged(_, reason) if state.stage >= 2 and not state.trying:
            return _diverged(config, state, reason)
        case MoveProposed(move, trial) if not state.trying and state.stage >= 2:
            if state.phase != "GREEN" or not state.tuning:
                why = "the phase is not GREEN" if state.phase != "GREEN" else "tuning is over"
                return Step(state, (("TUNER_MOVE_REJECTED", _move(move, trial, reason=why)),), (Action("iterate"),))
            return Step(replace(state, trying=True), (("TUNER_MOVE_TRY", _move(move, trial)),), (Action("try", {"move": move}),))
        case MoveTried() if state.trying and state.phase == "GREEN":
            return _tried(config, replace(state, trying=False), happened)
        case NoMove(reason) if state.stage >= 2 and not state.trying:
            # One that has made a move before has done what it could.
            gave_up: tuple[Event, ...] = (("TUNING_FAILED", {"reason": reason or "no move was proposed"}),)
            return Step(replace(state, tuning=False), () if state.accepted_moves else gave_up, (Action("iterate"),))
    return Step(state)


def _linted(state: ControllerState, problems: tuple[str, ...]) -> Step:
    if problems:
        return _finish(state, "lint_fail", (("SPEC_LINT_FAIL", {"problems": list(problems)}),))
    onward = replace(state, phase="AMBER", stage=1)
    return Step(onward, (_transition("RED", "AMBER", 1),), (Action("certify"),))


def _certified(config: ControllerConfig, state: ControllerState, verdict: Verdict) -> Step:
    """AMBER and the gate: pass, change an input of what failed and ask again, or give up."""
    if verdict.feasible:
        onward = replace(state, phase="GREEN", stage=2, good=state.iteration)
        events = (("CERT_PASS", verdict.payload()), _transition("AMBER", "GREEN", 2, verdict))
        return Step(onward, events, (Action("keep"), Action("iterate")))
    remedy = next((finding for finding in verdict.findings if finding.remedy != "none"), None)
    hopeless = verdict.phase == "RED" or any(finding.remedy == "none" for finding in verdict.findings)
    if not hopeless and remedy is not None and state.attempts < config.max_remediation_attempts:
        onward = replace(state, attempts=state.attempts + 1)
        told = {
            "attempt": onward.attempts,
            "feasible": False,
            "action": remedy.remedy,
            "alpha": state.alpha,
            "eta": verdict.value("eta_dd"),
            "gamma": verdict.value("gamma"),
        }
        actions = (Action("remedy", {"finding": remedy, "attempt": onward.attempts}), Action("certify"))
        return Step(onward, (("CERT_REMEDIATION", told),), actions)
    failed: Event = ("CERT_FAIL", verdict.payload())
    if config.on_failure == "degrade" and verdict.phase != "RED":
        return Step(replace(state, stage=2, tuning=False), (failed,), (Action("iterate"),))
    return _finish(replace(state, phase="RED"), "cert_fail", (failed, _transition("AMBER", "RED", 1, verdict)))


def _block(config: ControllerConfig, state: ControllerState, block: BlockDone) -> Step:
    if not block.descent.passed:
        return _no_descent(config, state, block)
    before = state
    state = replace(state, iteration=block.iteration, energy=block.energy, step_attempts=0)
    if block.findings and state.phase == "GREEN":
        return _regressed(config, state, "; ".join(finding.reason for finding in block.findings))
    actions: tuple[Action, ...] = ()
    if state.phase == "GREEN":
        state = replace(state, good=block.iteration, good_energy=block.energy)
        actions = (Action("keep"),)
    late = config.max_wall_time_ms is not None and block.elapsed_ms >= config.max_wall_time_ms
    spent = config.max_iterations is not None and block.iteration >= config.max_iterations
    if block.stopped is not None and (late or spent or block.stopped not in AT_REST):
        return _finish(state, block.stopped, (), actions)
    if late:
        told = {"iteration": block.iteration, "limit": "wall_time_ms", "value": config.max_wall_time_ms}
        return _finish(state, "timeout", (("TIMEOUT", told),), actions)
    if spent:
        return _finish(state, "budget", (), actions)
    state, events = _tuning_budget(config, state, block.elapsed_ms)
    tune = state.phase == "GREEN" and state.tuning and before.phase == "GREEN"
    if block.stopped is not None and not tune:
        return _finish(state, block.stopped, events, actions)
    return Step(state, events, (*actions, Action("propose" if tune else "iterate")))


def _no_descent(config: ControllerConfig, state: ControllerState, block: BlockDone) -> Step:
    """The energy did not fall as it should: back to where the block began with a smaller step, which is kept; then fail closed."""
    if state.step_attempts < config.max_step_attempts:
        alpha = state.alpha * config.step_alpha_reduction_factor
        onward = replace(state, step_attempts=state.step_attempts + 1, alpha=alpha)
        told = {
            "iter": block.iteration,
            "attempt": onward.step_attempts,
            "E_prev": float("nan") if state.energy is None else state.energy,
            "E_new": block.energy,
            "alpha": alpha,
        }
        return Step(onward, (("STEP_REMEDIATION", told),), (Action("restore", {"to": "block", "alpha": alpha}), Action("iterate")))
    energy = float("nan") if state.energy is None else state.energy
    failed: Event = ("STEP_FAIL", {"iter": block.iteration, "attempts": state.step_attempts, "E_prev": energy})
    reason = f"no step made the energy fall ({block.descent.rule})"
    if state.phase == "GREEN" and config.rollback_on_cert_failure and state.rollbacks < config.max_rollbacks and state.good is not None:
        onward, event = _rolled_back(replace(state, step_attempts=0), reason, state.good, state.good_energy)
        return Step(onward, (failed, event), (Action("restore", {"to": "good", "alpha": onward.alpha}), Action("iterate")))
    regressed = _regressed(replace(config, on_failure="abort"), state, reason)
    return replace(regressed, events=(failed, *regressed.events))


def _diverged(config: ControllerConfig, state: ControllerState, reason: str) -> Step:
    """Back to the last good state, or uncertified to where the block began, with a smaller step; once too often, the end, there."""
    green = state.phase == "GREEN" and state.good is not None
    to = "good" if green else "block"
    state = replace(state, step_attempts=0)
    if config.rollback_on_cert_failure and state.rollbacks < config.max_rollbacks:
        smaller = replace(state, alpha=state.alpha * config.step_alpha_reduction_factor)
        onward, event = _rolled_back(smaller, reason, *((state.good, state.good_energy) if green else (state.iteration, state.energy)))
        return Step(onward, (event,), (Action("restore", {"to": to, "alpha": onward.alpha}), Action("iterate")))
    events: tuple[Event, ...] = (("CERT_FAIL", {"reason": reason}),)
    if green:
        events = (*events, _transition("GREEN", "AMBER", state.stage))
    back = (Action("restore", {"to": to, "alpha": state.alpha}),)
    return _finish(replace(state, phase="RED"), "diverged", (*events, _transition("AMBER", "RED", state.stage)), back)


def _regressed(config: ControllerConfig, state: ControllerState, reason: str) -> Step:
    """A certificate is lost and no move of the tuner did it: on in AMBER, or an end with the best GREEN state."""
    failed: Event = ("CERT_FAIL", {"reason": reason})
    events: tuple[Event, ...] = (failed,)
    if state.phase == "GREEN":
        events = (failed, _transition("GREEN", "AMBER", state.stage))
    if config.on_failure == "degrade":
        return Step(replace(state, phase="AMBER", tuning=False), events, (Action("iterate"),))
    back = (Action("restore", {"to": "good", "alpha": state.alpha}),) if state.good is not None else ()
    return _finish(replace(state, phase="RED"), "cert_fail", (*events, _transition("AMBER", "RED", state.stage)), back)


def _tried(config: ControllerConfig, state: ControllerState, tried: MoveTried) -> Step:
    state = replace(state, moves=state.moves + 1)
    if not (tried.verdict.feasible and tried.descended):
        reason = tried.verdict.told() if not tried.verdict.feasible else "the energy did not fall"
        rejected: Event = ("TUNER_MOVE_REJECTED", _move(tried.move, tried.trial_id, reason=reason))
        back = Action("restore", {"to": "good", "alpha": state.alpha})
        if state.rollbacks >= config.max_rollbacks:
            # The best GREEN state is the result: a tuner that cannot keep a certificate is no reason to lose the run.
            failed: Event = ("TUNING_FAILED", {"reason": f"a move was rejected and no rollback is left: {reason}"})
            return _finish(state, "completed", (rejected, failed), (back,))
        state, event = _rolled_back(state, reason, state.good, state.good_energy)
        state, events = _tuning_budget(config, state, tried.elapsed_ms)
        return Step(state, (event, rejected, *events), (back, Action("iterate")))
    if not tried.better:
        rejected = ("TUNER_MOVE_REJECTED", _move(tried.move, tried.trial_id, reason="no better by the criterion"))
        state, events = _tuning_budget(config, state, tried.elapsed_ms)
        return Step(state, (rejected, *events), (Action("iterate"),))
    told = _move(tried.move, tried.trial_id, objective=tried.objective)
    state = replace(
        state,
        accepted_moves=state.accepted_moves + 1,
        segment=state.segment + tried.reanchors,
        energy=None if tried.reanchors else state.energy,
        alpha=state.alpha if tried.alpha is None else tried.alpha,
    )
    state, events = _tuning_budget(config, state, tried.elapsed_ms)
    return Step(
        state, (("TUNER_MOVE_ACCEPTED", told), *events), (Action("commit", {"move": tried.move}), Action("keep"), Action("iterate"))
    )


def _tuning_budget(config: ControllerConfig, state: ControllerState, elapsed_ms: float) -> tuple[ControllerState, tuple[Event, ...]]:
    """An exhausted budget of the tuner ends tuning, not the run."""
    if not state.tuning:
        return state, ()
    spent: tuple[tuple[str, float, float | None], ...] = (
        ("tuner_moves", float(state.moves), float(config.max_tuner_moves)),
        ("tuning_ms", elapsed_ms, config.max_tuning_ms),
    )
    for limit, used, most in spent:
        if most is not None and used >= most:
            return replace(state, tuning=False), (("TIMEOUT", {"iteration": state.iteration, "limit": limit, "value": most}),)
    return state, ()


def _rolled_back(state: ControllerState, reason: str, place: int | None, energy: float | None) -> tuple[ControllerState, Event]:
    onward = replace(state, rollbacks=state.rollbacks + 1, iteration=place or 0, energy=energy)
    told = {"rollback_count": onward.rollbacks, "target_iteration": place or 0, "reason": reason}
    return onward, ("ROLLBACK", told)


def _finish(state: ControllerState, status: str, events: tuple[Event, ...], actions: tuple[Action, ...] = ()) -> Step:
    ended = replace(state, ended=True, status=status, trying=False)
    if any(action.details.get("to") == "good" for action in actions) and state.good is not None:
        ended = replace(ended, iteration=state.good, energy=state.good_energy)
    told = {
        "status": status,
        "final_phase": ended.phase,
        "total_iterations": ended.iteration,
        "final_energy": ended.energy,
        "rollbacks": ended.rollbacks,
        "tuner_moves": ended.moves,
    }
    if status in ("budget", "timeout"):
        events = (("BUDGET_EXCEEDED", {"iteration": ended.iteration, "status": status}), *events)
    started = () if state.started else (("RUN_STARTED", {"flow_name": "flow", "dtype": "float64"}),)
    return Step(ended, (*started, *events, ("RUN_FINISHED", told)), (*actions, Action("stop", {"status": status})))


def _transition(before: Phase, after: Phase, stage: int, verdict: Verdict | None = None) -> Event:
    told: dict[str, Any] = {"from": before, "to": after, "stage": stage}
    if verdict is not None:
        told |= {"eta": verdict.value("eta_dd"), "gamma": verdict.value("gamma")}
    return "PHASE_TRANSITION", told


def _move(move: Mapping[str, Any], trial_id: str | None, **more: Any) -> dict[str, Any]:
    return {"move": dict(move), **({"trial_id": trial_id} if trial_id else {}), **more}


def status(state: ControllerState, elapsed_ms: float = 0.0) -> dict[str, Any]:
    """What anyone watching may read."""
    return {
        "phase": state.phase,
        "stage": state.stage,
        "rollback_count": state.rollbacks,
        "tuner_move_count": state.moves,
        "wall_time_ms": elapsed_ms,
        "checkpoints_available": int(state.good is not None),
        "iteration": state.iteration,
        "segment_id": state.segment,
        "status": state.status,
    }
