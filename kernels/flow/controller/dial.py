"""The gap dial: which numbers of an energy a tuner may turn, how far, and by what it judges.

The sparsity weight lambda enters neither L nor gamma, so no gap follows from it; the ridge lambda2 does. So a dial never goes by gamma
alone: a move is kept if the gate holds, the energy falls, and a criterion of the task gets better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import FlowInputError

Criterion = Literal["discrepancy", "gcv", "sure"]
StepRule = Literal["c/beta", "fixed"]
Metric = Callable[[Mapping[str, Any]], float]
KNOBS = ("lambda", "lambda2", "alpha")
# Of a normal distribution: its standard deviation over the median of |x|.
MAD = 1.4826


@dataclass(frozen=True)
class GapDial:
    """What is turned and how far.

    knobs: of lambda (weights of l1 and the like), lambda2 (ridges), alpha. criterion: "discrepancy" (||Ax - b||^2 = m sigma^2), "gcv",
    "sure", or a function of the state, the smaller the better. sigma: of the noise, for discrepancy and sure. proposal: the first relative
    move; lambda_move_cap: the largest of one trial. search: where the candidates of a round lie. ratios: of the weights of neighbouring
    scales. validation_iterations: of the short run that a candidate must pass.

    eta_max, gamma_min: what a move must keep where that is stricter than the profile. step_rule: "c/beta" keeps alpha the same part of
    c/beta when a ridge moves beta; "fixed" leaves it, and a ridge that makes it too long is refused. per_scale_seed: the first move gives
    each scale of a wavelet term the weight k median |W_j x| ("mad": k times the robust standard deviation, or a function of the
    coefficients), k such that the finest keeps its own; None leaves the scales as they are. warmup_iterations, monitoring_interval:
    before the first round, and between two.
    """

    eta_max: float | None = None
    gamma_min: float | None = None
    step_rule: StepRule = "c/beta"
    per_scale_seed: Literal["median", "mad"] | Callable[[NDArray[Any]], float] | None = None
    knobs: tuple[str, ...] = ("lambda",)
    criterion: Criterion | Metric = "discrepancy"
    sigma: float | None = None
    proposal: float = 0.1
    lambda_move_cap: float = 0.2
    lambda_min: float = 1e-6
    lambda_max: float = 1e3
    ratios: tuple[float, float] = (0.5, 2.0)
    no_improve: int = 5
    search: Literal["grid", "golden"] = "grid"
    monitoring_interval: int = 5
    warmup_iterations: int = 10
    validation_iterations: int = 10

    def __post_init__(self) -> None:
        unknown = [name for name in self.knobs if name not in KNOBS]
        if unknown or not self.knobs:
            raise FlowInputError(f"the knobs of a dial are {self.knobs}; give some of {', '.join(KNOBS)}")
        if not 0 < self.proposal <= self.lambda_move_cap < 1:
            raise FlowInputError(
                f"proposal is {self.proposal!r} and lambda_move_cap {self.lambda_move_cap!r}; need 0 < proposal <= cap < 1"
            )
        if not 0 < self.lambda_min < self.lambda_max:
            raise FlowInputError(f"lambda_min is {self.lambda_min!r} and lambda_max {self.lambda_max!r}; need 0 < min < max")
        if self.criterion in ("discrepancy", "sure") and not (self.sigma is not None and self.sigma > 0):
            raise FlowInputError(f"the criterion {self.criterion} needs sigma, the standard deviation of the noise; or use gcv")
        if isinstance(self.criterion, str) and self.criterion not in ("discrepancy", "gcv", "sure"):
            raise FlowInputError(f"the criterion is {self.criterion!r}; it must be discrepancy, gcv, sure or a function of the state")
        if not 0 < self.ratios[0] <= self.ratios[1]:
            raise FlowInputError(f"ratios are {self.ratios!r}; need 0 < least <= most, of lambda_j / lambda_(j+1)")
        for name in ("no_improve", "validation_iterations", "monitoring_interval"):
            if getattr(self, name) < 1:
                raise FlowInputError(f"{name} is {getattr(self, name)!r}; it must be 1 or more")
        for name, allowed in {"step_rule": ("c/beta", "fixed"), "search": ("grid", "golden")}.items():
            if getattr(self, name) not in allowed:
                raise FlowInputError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        seed = self.per_scale_seed
        if not (seed is None or callable(seed) or seed in ("median", "mad")):
            raise FlowInputError(f"per_scale_seed is {seed!r}; it must be median, mad, a function of the coefficients of a scale, or None")


@dataclass(frozen=True)
class Move:
    """Factors of the knobs; 1 leaves one alone. scales: the factors of the weights of the levels of a wavelet term, by slot, where a move
    changes them one by one."""

    factors: Mapping[str, float]
    scales: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @property
    def reanchors(self) -> bool:
        """Whether energies before and after do not compare: a weight changes."""
        return bool(self.scales) or any(self.factors.get(name, 1.0) != 1.0 for name in ("lambda", "lambda2"))

    def record(self) -> dict[str, Any]:
        """For events."""
        told: dict[str, Any] = {name: float(factor) for name, factor in self.factors.items()}
        if self.scales:
            told["lambda_j"] = {slot: {str(level): float(by) for level, by in made.items()} for slot, made in self.scales.items()}
        return told


@dataclass(frozen=True)
class TunerState:
    """Where the dial stands: the product of all factors so far, how wide the next proposal is, and the best objective."""

    values: Mapping[str, float] = field(default_factory=dict)
    width: float = 0.1
    best: float = float("inf")
    failures: int = 0
    trials: int = 0

    def record(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"values": dict(self.values), "width": self.width, "best": self.best, "failures": self.failures, "trials": self.trials}


def propose(dial: GapDial, state: TunerState, weights: Mapping[str, float]) -> list[Move]:
    """Candidates around the present values, empty once `no_improve` rounds in a row have found nothing better.

    weights: the present value of each knob, for its limits. A round tries the knobs in turn.
    """
    if state.failures >= dial.no_improve:
        return []
    knob = dial.knobs[state.trials % len(dial.knobs)]
    width = min(state.width, dial.lambda_move_cap)
    if dial.search == "golden":
        inner = 2 / (1 + math.sqrt(5)) * width
        steps = [-width, -inner, inner, width]
    else:
        steps = [-width, -width / 2, width / 2, width]
    present = weights.get(knob, 0.0)
    if present <= 0:
        return []
    limits = (0.0, float("inf")) if knob == "alpha" else (dial.lambda_min, dial.lambda_max)
    moves = []
    for step in steps:
        value = min(max(present * (1 + step), limits[0]), limits[1])
        if value != present:
            moves.append(Move({knob: value / present}))
    return moves


def tried(dial: GapDial, state: TunerState, move: Move | None, objective: float | None) -> TunerState:
    """After a round: the move that was accepted with its objective, or None. Success widens the next proposal, failure narrows it."""
    if move is None or objective is None:
        return TunerState(state.values, state.width / 2, state.best, state.failures + 1, state.trials + 1)
    values = {name: state.values.get(name, 1.0) * move.factors.get(name, 1.0) for name in {*state.values, *move.factors}}
    return TunerState(values, min(state.width * 2, dial.lambda_move_cap), objective, 0, state.trials + 1)


def per_scale(dial: GapDial, bands: Sequence[NDArray[Any]], k: float = 1.0) -> NDArray[np.float64]:
    """lambda_j = k median |W_j x| (or k times a robust standard deviation) for each band, coarse to fine, neighbours within the
    ratios."""
    seeds = [k * seed(dial, band) for band in bands]
    return within_ratios(np.clip(seeds, dial.lambda_min, dial.lambda_max), dial.ratios)


def seed(dial: GapDial, band: NDArray[Any]) -> float:
    """The size of the coefficients of a band, by `per_scale_seed`."""
    if callable(dial.per_scale_seed):
        return float(dial.per_scale_seed(np.asarray(band)))
    size = np.abs(np.asarray(band, np.float64))
    return (float(np.median(size)) if size.size else 0.0) * (MAD if dial.per_scale_seed == "mad" else 1.0)


def within_ratios(values: NDArray[Any], ratios: tuple[float, float]) -> NDArray[np.float64]:
    """The nearest below-to-above pass that brings every lambda_j / lambda_{j+1} into the ratios; what already is stays."""
    low, high = ratios
    made = np.array(values, np.float64)
    for j in range(len(made) - 2, -1, -1):
        made[j] = min(max(made[j], low * made[j + 1]), high * made[j + 1])
    return made


def continuation(start: float, target: float, factor: float = 0.25) -> list[float]:
    """Decreasing weights from `start` to `target`, each to be started from the solution before: what makes small weights quick (Hale, Yin &
    Zhang, SIAM J. Optim. 19, 2008). start: ||A^T b||_inf, above which the solution of l1 least squares is 0."""
    if not (target > 0 and 0 < factor < 1):
        raise FlowInputError(f"the continuation goes to {target!r} by the factor {factor!r}; need a target above 0 and 0 < factor < 1")
    found = []
    value = start * factor
    while value > target:
        found.append(value)
        value *= factor
    return [*found, target]


@dataclass(frozen=True)
class Suggestion:
    """Numbers for the next run, and the run they come from; None: of no run, these are the defaults."""

    alpha: float
    ridge: float
    run_id: str | None = None


def suggested(history: Sequence[Mapping[str, Any]], *, default_alpha: float = 0.1) -> Suggestion:
    """From earlier runs: the numbers of the certified one with the best objective, and among equals the shortest time.

    history: rows with run_id, final_phase, status, objective, time_ms, alpha and ridge. Runs that did not end GREEN teach nothing.
    """
    good = [row for row in history if row.get("final_phase") == "GREEN" and math.isfinite(float(row.get("objective", math.nan)))]
    if not good:
        return Suggestion(default_alpha, 0.0)
    best = min(good, key=lambda row: (float(row["objective"]), float(row.get("time_ms", 0.0))))
    return Suggestion(float(best.get("alpha", default_alpha)), float(best.get("ridge", 0.0)), str(best.get("run_id")))
