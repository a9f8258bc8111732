"""Whether the energy fell as the class of the solver promises, judged on the trace of a block: numpy, host side.

ista: E+ <= E - (1/alpha - beta/2) ||x+ - x||^2 for every step (Beck & Teboulle, 2009, lemma 2.3). mfista, preconditioned, Bregman and
Riemannian steps: E+ <= E. mfista keeps that whatever its step is, by staying where it stands; so its steps without momentum, which are
those of ista, must make E fall by ||z - x||^2 / (2 alpha), where f and g are convex and proxes are exact. fista: E+ + ||x+ - x||^2 /
(2 alpha) never rises where f and g are convex, alpha <= 1/beta stays what it is and proxes are exact (lemma 2.3 at x, with y - x no longer
than the last step; Chambolle & Dossal, J. Optim. Theory Appl. 166, 2015), though E itself swings; elsewhere no window of its energies may
lie above the one before. Primal-dual steps promise nothing of E: their residuals must not climb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bounds import Bound
from .steps import family

# C of the tolerance C eps max(1, |E|) sqrt(n).
ROUNDING = 8.0
INERTIAL = "E+ + ||x+ - x||^2 / (2 alpha) <= E + ||x - x-||^2 / (2 alpha)"
WINDOW = 25
SWING = 8.0
MONOTONE = ("ista", "mfista", "preconditioned", "bregman", "riemannian_gradient", "manpg")
ENERGETIC = (*MONOTONE, "fista")


@dataclass(frozen=True)
class Descent:
    """Of a block: whether every step kept the inequality, the first that did not (its place in the block), the largest rise above what was
    allowed, the rise of the whole block, and the rule in words."""

    passed: bool
    rule: str
    first: int | None = None
    excess: float = 0.0
    rise: float = 0.0

    def record(self) -> dict[str, Any]:
        """For events and run cards."""
        return {"passed": self.passed, "rule": self.rule, "first": self.first, "excess": self.excess, "rise": self.rise}


def rounding(energy: ArrayLike, size: int, dtype: str) -> NDArray[np.float64]:
    """By how much two energies that are equal may differ as computed: C eps max(1, |E|) sqrt(n)."""
    sizes = np.maximum(1.0, np.abs(np.asarray(energy, np.float64)))
    return np.asarray(ROUNDING * float(np.finfo(dtype).eps) * np.sqrt(size) * sizes)


def check_block(
    trace: Mapping[str, ArrayLike],
    solver: str,
    *,
    before: float,
    alpha: float,
    beta: Bound | None = None,
    size: int,
    dtype: str = "float64",
    tolerance: float = 1e-6,
    promise: str | None = None,
    convex: bool = False,
    inertia: float = 0.0,
    at_rest: bool = False,
) -> Descent:
    """Judges the steps of a block.

    trace: columns by the names of `Metrics`. before: E where the block began. alpha: the step, where the trace does not have its own. size:
    how many numbers move. promise: what the solver says of E ("monotone", "limit", "suspended"), by default as its name is known.
    tolerance: how much of max(1, |E|) all rises of the block together may be, rounding apart. convex: whether f and g are. inertia: that of
    the step before the block, 0 where the momentum begins. at_rest: whether the block begins without momentum.
    """
    energies = np.concatenate([[before], np.asarray(trace["energy"], np.float64)])
    if len(energies) == 1:
        return Descent(True, "no step was made")
    if not np.all(np.isfinite(energies)):
        return Descent(False, "E is finite", int(np.flatnonzero(~np.isfinite(energies))[0]) - 1, float("inf"), float("inf"))
    kind = family(solver)
    if promise == "suspended":
        return Descent(True, f"suspended: {solver} promises nothing of E", rise=float(energies[-1] - energies[0]))
    if kind not in ENERGETIC and promise != "monotone":
        residuals = np.asarray(trace["residual"], np.float64)
        return _between_restarts(residuals, np.asarray(trace.get("restarts", np.zeros(len(residuals))), np.float64))
    slack = rounding(np.maximum(np.abs(energies[1:]), np.abs(energies[:-1])), size, dtype)
    if kind == "fista" and convex and (whole := _with_inertia(energies, trace, alpha, beta, inertia)) is not None:
        excess = np.diff(whole) - slack
        bad = np.flatnonzero(excess > 0)
        rise = float(energies[-1] - energies[0])
        return Descent(not len(bad), INERTIAL, int(bad[0]) if len(bad) else None, max(float(excess.max()), 0.0), rise)
    if kind == "fista":
        return _windowed(energies, "no window of energies lies above the one before, or above the start", float(slack.max()))
    inner = np.asarray(trace.get("inner_gap", np.zeros(len(energies) - 1)), np.float64)
    # What an inexact prox misses, the energy may miss; without a minimum it also loses half of the quadratic term.
    required = np.zeros(len(inner))
    rule = "E+ <= E"
    if kind == "ista" and beta is not None and beta.sound_above:
        steps, moved = _moved(trace, alpha)
        factor = np.where(inner > 0, 0.5, 1.0) / steps - beta.value / 2
        required = np.maximum(factor, 0.0) * moved**2
        rule = "E+ <= E - (1/alpha - beta/2) ||x+ - x||^2"
    elif kind == "mfista" and convex and not np.any(inner):
        steps, moved = _moved(trace, alpha)
        restarts = np.asarray(trace.get("restarts", np.zeros(len(inner))), np.float64)
        alone = np.concatenate([[at_rest], np.diff(restarts, prepend=restarts[0])[:-1] > 0])
        required = np.where(alone, moved**2 / (2 * steps), 0.0)
        rule = "E+ <= E, and E+ <= E - ||z - x||^2 / (2 alpha) without momentum"
    excess = np.diff(energies) + required - inner - slack
    rises = float(np.maximum(np.diff(energies), 0.0).sum())
    allowed = max(tolerance * max(1.0, abs(before)), float(slack.max())) + float(inner.sum())
    bad = np.flatnonzero(excess > 0)
    passed = not len(bad) and rises <= allowed
    return Descent(passed, rule, int(bad[0]) if len(bad) else None, max(float(excess.max()), 0.0), float(energies[-1] - energies[0]))


def _moved(trace: Mapping[str, ArrayLike], alpha: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each proximal step alpha, and how long it was."""
    residuals = np.asarray(trace["residual"], np.float64)
    steps = np.broadcast_to(np.asarray(trace.get("alpha", alpha), np.float64), residuals.shape)
    return steps, residuals * steps * np.maximum(1.0, np.asarray(trace["grad_norm"], np.float64))


def _with_inertia(
    energies: NDArray[np.float64], trace: Mapping[str, ArrayLike], alpha: float, beta: Bound | None, before: float
) -> NDArray[np.float64] | None:
    """E + ||x+ - x||^2 / (2 alpha) from the start of the block on; None where it may rise."""
    inertia = np.asarray(trace.get("inertia", np.nan), np.float64)
    exact = not np.any(np.asarray(trace.get("inner_gap", 0.0), np.float64))
    steady = np.all(np.asarray(trace.get("alpha", alpha), np.float64) == alpha)
    if beta is None or not beta.sound_above or alpha * beta.value > 1 + 1e-6 or not (exact and steady):
        return None
    whole = energies + np.concatenate([[before], np.broadcast_to(inertia, len(energies) - 1)])
    return whole if np.all(np.isfinite(whole)) else None


def _between_restarts(values: NDArray[np.float64], restarts: NDArray[np.float64]) -> Descent:
    """Residuals of primal-dual steps swing, the more the better their steps are balanced, but they do not climb: the middle of no window
    lies above SWING times the worst of any before it. After a restart they are those of other steps, and are judged anew."""
    rule = f"no window of residuals lies above {SWING:g} times one before it"
    ends = [0, *(np.flatnonzero(np.diff(restarts)) + 1), len(values)]
    rise = float(values[-1] - values[0]) if np.isfinite(values[0]) else 0.0
    values = np.where(np.isnan(values), np.inf, values)
    for start, end in pairwise(ends):
        count = (end - start) // WINDOW
        windows = values[start : start + count * WINDOW].reshape(count, WINDOW)
        worst, middle = np.minimum.accumulate(windows.max(axis=1, initial=0.0))[:-1], np.median(windows, axis=1)[1:]
        bad = np.flatnonzero(middle > SWING * worst)
        if len(bad):
            excess = float((middle - SWING * worst)[bad].max())
            return Descent(False, rule, int(start + (bad[0] + 1) * WINDOW), excess, rise)
    return Descent(True, rule, rise=rise)


def _windowed(values: NDArray[np.float64], rule: str, slack: float) -> Descent:
    """The middle of no window may lie above the worst of the one before, or above the first value."""
    count = len(values) // WINDOW
    rise = float(values[-1] - values[0])
    if count < 2:
        return Descent(True, rule, rise=rise)
    windows = values[: count * WINDOW].reshape(count, WINDOW)
    # A rise within one window would hide in its worst value: energies may not stay above where the block began either.
    worst, middle = np.minimum(windows.max(axis=1)[:-1], values[0]), np.median(windows, axis=1)[1:]
    bad = np.flatnonzero(middle > worst + slack)
    excess = float(max((middle - worst - slack).max(), 0.0)) if len(bad) else 0.0
    return Descent(not len(bad), rule, int((bad[0] + 1) * WINDOW) if len(bad) else None, excess, rise)
