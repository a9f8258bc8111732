"""The tuner of a certified run: when a round is due, which move it ends with, and whether that move may be kept.

It holds what a dial has tried so far; the controller decides, and the run does as it says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .certificates import CertificationProfile, Verdict, certify
from .compiler import CompiledFlow
from .controller import (
    Candidate,
    GapDial,
    Move,
    MoveTried,
    SparsityPolicy,
    TunerState,
    committed,
    evaluate,
    lambdas_of,
    propose,
    seeded,
    tried,
    weights,
)
from .errors import FlowInputError
from .problem import State
from .recorded import flow_columns
from .scaling import Scaling


class Tuning:
    """A dial at work. best, trial: the candidate of the last round, and the flow that it would make."""

    def __init__(self, dial: GapDial) -> None:
        self.dial = dial
        self.state = TunerState(width=dial.proposal)
        self._best: Candidate | None = None
        self._trial: CompiledFlow | None = None
        self._last: int | None = None
        self._unseeded = dial.per_scale_seed is not None
        self._accepted: str | None = None

    @property
    def best(self) -> Candidate:
        """The best candidate of the last round."""
        if self._best is None:
            raise FlowInputError("no move was proposed yet; a round comes first")
        return self._best

    @property
    def trial(self) -> CompiledFlow:
        """The flow after that move."""
        if self._trial is None:
            raise FlowInputError("no move was proposed yet; a round comes first")
        return self._trial

    @property
    def trial_id(self) -> str:
        """Of the round that goes on."""
        return f"trial-{self.state.trials + 1}"

    def due(self, iteration: int) -> bool:
        """Whether it is time for a round: after the warm-up, and not too soon after the last one."""
        if self._last is None:
            return iteration >= self.dial.warmup_iterations
        return iteration - self._last >= self.dial.monitoring_interval

    def proposed(self, compiled: CompiledFlow, x: State, iteration: int) -> Move | None:
        """The best move of a round from x; None once there is nothing more to try."""
        self._last = iteration
        moves = self._moves(compiled, x)
        if not moves:
            return None
        self._best = evaluate(compiled, self.dial, x, moves)[0]
        self._trial = committed(compiled, self._best.move, self.dial.step_rule)
        return self._best.move

    def _moves(self, compiled: CompiledFlow, x: State) -> list[Move]:
        if self._unseeded:
            self._unseeded = False
            first = seeded(compiled, self.dial, x)
            if first is not None:
                return [first]
        return propose(self.dial, self.state, weights(compiled))

    def judged(self, profile: CertificationProfile, elapsed_ms: float) -> tuple[MoveTried, bool]:
        """What came of the move, and whether it is to be kept: the gate holds for it, E fell, and the criterion is better."""
        best = self.best
        verdict = self._certified(profile)
        better = bool(best.objective < self.state.best)
        good = better and verdict.feasible and best.descended
        self.state = tried(self.dial, self.state, best.move if good else None, best.objective if good else None)
        if good:
            self._accepted = f"trial-{self.state.trials}"
        told = MoveTried(
            best.move.record(),
            verdict,
            best.descended,
            better,
            objective=best.objective,
            reanchors=best.move.reanchors,
            trial_id=f"trial-{self.state.trials}",
            elapsed_ms=elapsed_ms,
            alpha=float(self.trial.controls.alpha),
        )
        return told, good

    def _certified(self, profile: CertificationProfile) -> Verdict:
        """Where the move has led; by the profile, and by the limits of the dial where they are stricter."""
        eta = profile.eta_max if self.dial.eta_max is None else min(self.dial.eta_max, profile.eta_max)
        gamma = profile.gamma_min if self.dial.gamma_min is None else max(self.dial.gamma_min, profile.gamma_min)
        return certify(self.trial, replace(profile, eta_max=eta, gamma_min=gamma), at=self.best.state)

    def told_why(self) -> str:
        """Why no move is proposed any more."""
        if self.state.failures >= self.dial.no_improve:
            return f"nothing better by the criterion in {self.state.failures} rounds"
        return f"nothing to turn, of {', '.join(self.dial.knobs)} the one whose turn it is is 0, or at its limit"

    def columns(self) -> dict[str, Any]:
        """What rows say of the tuner: the move whose weights they have, and the metric of the task there, where the caller has one."""
        told: dict[str, Any] = {} if self._accepted is None else {"trial_id": self._accepted}
        if callable(self.dial.criterion) and math.isfinite(self.state.best):
            told["metric_ber"] = self.state.best
        return told

    def kept(self) -> dict[str, Any]:
        """All that it needs to go on."""
        return {"state": self.state, "last": self._last, "unseeded": self._unseeded, "accepted": self._accepted}

    def go_on_from(self, kept: Mapping[str, Any]) -> None:
        """Takes over from what was kept."""
        self.state, self._last, self._unseeded = kept["state"], kept["last"], kept["unseeded"]
        self._accepted = kept.get("accepted")

    def record(self) -> Mapping[str, Any]:
        """For checkpoints."""
        return self.state.record()


def adaptation(compiled: CompiledFlow, before: Verdict | None, after: Verdict, iteration: int) -> dict[str, Any]:
    """The payload of GAP_DIAL_ADAPTATION, of a move that changed a weight. gap: gamma before it."""
    return {
        "iteration": iteration,
        "gap": None if before is None else before.value("gamma"),
        "lambda": weights(compiled)["lambda"],
        "eta_after": after.value("eta_dd"),
        "gamma_after": after.value("gamma"),
    }


def controlled_columns(
    compiled: CompiledFlow, verdict: Verdict | None, scaling: Scaling | None, sparsity: SparsityPolicy | None, tuning: Tuning | None
) -> dict[str, Any]:
    """What the rows of a certified run say of the flow as it is now, beside the metrics."""
    made = flow_columns(compiled, verdict)
    if scaling is not None and scaling.state is not None:
        made["level_active_max"] = scaling.state.active
    if sparsity is not None:
        made["sparsity_mode"] = sparsity.sparsity_mode
    if tuning is not None:
        made |= {**tuning.columns(), "lambda": weights(compiled)["lambda"]}
        levels = lambdas_of(compiled.problem)
        if levels:
            made["lambda_j"] = json.dumps(levels)
    return made
