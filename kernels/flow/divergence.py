"""A step that is not finite: which slot went wrong, what is kept to look into it, and the error that says so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import FlowDiverged
from .problem import State
from .recorder import Recorder
from .recorder.redaction import statistics


def file_name(slot: str) -> str:
    """What a file about a slot is called: a slot may be called as one likes, a file may not."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", slot)[:60].lstrip("._-") or "slot"


def diverged(
    recorder: Recorder,
    *,
    name: str,
    dtype: str,
    solver: str,
    step: int,
    alpha: float,
    state: State,
    before: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> FlowDiverged:
    """Records what is left of a step that is not finite, and the error to raise.

    state: after the step. before: {"step", "metrics", "state"} of the last finite step and of where its block began. metrics: of the step.
    Kept are the event STEP_NOT_FINITE, the artifact `diverged-<step>.json` with summary statistics, and each slot as it was left, in
    `diverged-<step>.<slot>.npy`, which a redacted capsule reduces to a summary.
    """
    values = {slot: np.asarray(value) for slot, value in state.items()}
    lost = {slot: int(value.size - np.isfinite(value).sum()) for slot, value in values.items()}
    first = next((slot for slot, count in lost.items() if count), None)
    where = "its energy overflows while every slot is finite still"
    if first is not None:
        where = f"{lost[first]} of {values[first].size} values of the slot {first} are NaN or infinite"
    dump = {
        "step": step,
        "slot": first,
        "solver": solver,
        "dtype": dtype,
        "alpha": alpha,
        "metrics": dict(metrics),
        "slots": {slot: {**statistics(value), "not_finite": lost[slot]} for slot, value in values.items()},
        "last_good": {
            "step": before["step"],
            "metrics": dict(before["metrics"]),
            "slots_where_the_block_began": {slot: statistics(value) for slot, value in before["state"].items()},
        },
    }
    artifact = f"diverged-{step}.json"
    recorder.artifact(artifact.removesuffix(".json"), dump)
    for slot, value in values.items():
        recorder.artifact(f"diverged-{step}.{file_name(slot)}", value)
    recorder.event("STEP_NOT_FINITE", {"iter": step, "slot": first, "alpha": alpha, "artifact": artifact}, iteration=step)
    return FlowDiverged(
        f"step {step} of {name} is not finite: {where}, in {dtype} with alpha {alpha:.4g}. Take a smaller alpha, check functions of your "
        "own (their bound beta, their derivative at 0), or scale the data so that it is about 1",
        step=step,
        slot=first,
    )
