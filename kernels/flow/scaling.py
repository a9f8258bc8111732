"""The schedule of a certified run at work: which scales are unlocked, and what the problem is on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .controller import MultiscaleSchedule, Reading, ScheduleState, advanced, begin, restricted_to
from .controller.schedule import Events
from .errors import FlowInputError
from .problem import Problem
from .transforms import TransformOp, level_masks


class Scaling:
    """state: how many levels are unlocked; None before the first."""

    def __init__(self, schedule: MultiscaleSchedule) -> None:
        self.schedule = schedule
        self.state: ScheduleState | None = None

    def begun(self) -> Events:
        """Unlocks the first level."""
        self.state, told = begin(self.schedule)
        return told

    def unlocked(self, info: Mapping[str, Any], before: float, gap: float, *, converged: bool) -> Events:
        """Unlocks the next level where the schedule says so, after a block; nothing is told where it does not. before: E where the block
        began."""
        if self.state is None:
            return []
        fallen = (before - info["energy"]) / max(1.0, abs(before))
        reading = Reading(info["iteration"], info["residual"], fallen, gap)
        self.state, told = advanced(self.schedule, self.state, reading, stopped=converged)
        return told

    def on(self, problem: Problem) -> Problem:
        """The problem on the scales that are unlocked. Raises FlowInputError where it has no wavelet term."""
        if self.state is None:
            return problem
        for slot, term in problem.prox.items():
            if isinstance(term.op, TransformOp):
                masks = level_masks(term.op)
                # The last level unlocks whatever is left: with scales locked for good, the run would end at another minimum.
                last = self.state.complete(self.schedule) or self.state.active >= len(masks)
                return restricted_to(problem, slot, term.op, masks[-1 if last else self.state.active])
        raise FlowInputError("a multiscale schedule unlocks the scales of a wavelet term; add a wavelet_l1 term, or leave the schedule out")
