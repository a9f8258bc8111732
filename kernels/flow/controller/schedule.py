"""Coarse to fine: a schedule that unlocks the scales of a transform one after the other.

V_l holds the approximation and the l coarsest levels of details. A step in V_l is one of E + indicator of V_l, whose prox in the basis W
of the scales is that of g with the locked coefficients held at 0. The V_l are nested, so E never rises where a level is unlocked.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ..errors import FlowInputError
from ..functions.separable import Separable
from ..operators.base import Operator
from ..problem import Problem, ProxTerm

Mode = Literal["fixed_schedule", "residual_driven", "energy_driven"]
VARIABLES = ("iteration", "level_iters", "rel_residual", "energy_decrease", "gap")
# What the rule of a mode may look at.
LOOKS_AT: dict[str, tuple[str, ...]] = {
    "fixed_schedule": ("iteration", "level_iters"),
    "residual_driven": ("rel_residual", "gap"),
    "energy_driven": ("energy_decrease", "gap"),
}
_COMPARES = {"<=": operator.le, ">=": operator.ge, "==": operator.eq, "<": operator.lt, ">": operator.gt}
_RULE = re.compile(r"\s*([a-z_]+)\s*(<=|>=|==|<|>)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*")


@dataclass(frozen=True)
class Reading:
    """What a rule may look at, after a block. energy_decrease: (E before - E) / max(1, |E|) of the block."""

    iteration: int
    rel_residual: float
    energy_decrease: float
    gap: float = float("inf")


@dataclass(frozen=True)
class MultiscaleSchedule:
    """levels: in how many steps the scales are unlocked; the last one unlocks all that are left. mode and activate_rule: when. The rule is
    "level_complete" (the residual is at most `tol`), or one comparison of iteration, level_iters, rel_residual, energy_decrease or gap
    with a number, as in "rel_residual < 1e-3"."""

    levels: int
    mode: Mode = "fixed_schedule"
    activate_rule: str = "level_complete"
    tol: float = 1e-4

    def __post_init__(self) -> None:
        if isinstance(self.levels, bool) or not isinstance(self.levels, (int, np.integer)) or not 1 <= self.levels <= 20:
            raise FlowInputError(f"a schedule has {self.levels!r} levels; it may have 1 to 20")
        if self.mode not in LOOKS_AT:
            raise FlowInputError(f"mode is {self.mode!r}; it must be one of {', '.join(LOOKS_AT)}")
        parsed = self._parsed()
        if parsed is not None and parsed[0] not in LOOKS_AT[self.mode]:
            raise FlowInputError(
                f"the rule {self.activate_rule!r} looks at {parsed[0]}, but the mode {self.mode} goes by {' or '.join(LOOKS_AT[self.mode])}"
            )

    def _parsed(self) -> tuple[str, str, float] | None:
        if self.activate_rule == "level_complete":
            return None
        found = _RULE.fullmatch(self.activate_rule) if len(self.activate_rule) <= 100 else None
        if found is None or found[1] not in VARIABLES:
            raise FlowInputError(
                f"activate_rule is {self.activate_rule!r}; it must be level_complete or compare one of {', '.join(VARIABLES)} with a number"
            )
        try:
            return found[1], found[2], float(found[3])
        except ValueError:
            raise FlowInputError(f"activate_rule is {self.activate_rule!r}; {found[3]!r} is no number") from None

    @property
    def variable(self) -> str | None:
        """What the rule looks at; None of "level_complete"."""
        parsed = self._parsed()
        return None if parsed is None else parsed[0]

    def holds(self, reading: Reading, level_iters: int) -> tuple[bool, float]:
        """Whether the rule is true, and of which value."""
        parsed = self._parsed()
        if parsed is None:
            return reading.rel_residual <= self.tol, reading.rel_residual
        name, compare, number = parsed
        value = float(level_iters if name == "level_iters" else getattr(reading, name))
        return bool(_COMPARES[compare](value, number)), value


@dataclass(frozen=True)
class ScheduleState:
    """How many levels are unlocked, and since which iteration."""

    active: int = 0
    since: int = 0

    def complete(self, schedule: MultiscaleSchedule) -> bool:
        """Whether all scales take part."""
        return self.active >= schedule.levels


Events = list[tuple[str, dict[str, Any]]]


def begin(schedule: MultiscaleSchedule, iteration: int = 0) -> tuple[ScheduleState, Events]:
    """The first level, unlocked."""
    told = {"mode": schedule.mode, "levels": schedule.levels, "activate_rule": schedule.activate_rule}
    first = {"level": 1, "previous_level": 0, "iter": iteration, "rule": "start", "value": None}
    return ScheduleState(1, iteration), [("MULTISCALE_SCHEDULE_INIT", told), ("SCALE_ACTIVATED", first)]


def advanced(
    schedule: MultiscaleSchedule, state: ScheduleState, reading: Reading, *, stopped: bool = False
) -> tuple[ScheduleState, Events]:
    """After a block: at most one level more, so each is told once. stopped: the solver converged on the present scales, which completes
    them whatever the rule says."""
    if state.complete(schedule):
        return state, []
    due, value = schedule.holds(reading, reading.iteration - state.since)
    if not (due or stopped):
        return state, []
    rule = schedule.activate_rule if due else "level_complete"
    told = {"level": state.active + 1, "previous_level": state.active, "iter": reading.iteration, "rule": rule, "value": value}
    return ScheduleState(state.active + 1, reading.iteration), [("SCALE_ACTIVATED", told)]


def restricted_to(problem: Problem, slot: str, transform: Operator, mask: ArrayLike) -> Problem:
    """The problem on the scales that a mask over the coefficients of an orthonormal transform keeps: all but these are held at 0.

    The structure does not depend on the mask, so unlocking a level does not compile. Raises FlowInputError where g of the slot is a
    function in another basis.
    """
    kept = np.asarray(mask, bool)
    if not transform.orthonormal() or kept.shape != transform.codomain:
        raise FlowInputError(
            f"a schedule of {slot} needs an orthonormal transform with a mask of shape {transform.codomain}, not {kept.shape}"
        )
    present = problem.prox.get(slot)
    if present is not None and not (isinstance(present.phi, Separable) and _same(present.op, transform)):
        why = "is in another basis than the schedule" if isinstance(present.phi, Separable) else "is no sum over single coefficients"
        raise FlowInputError(f"the term {present.name} of {slot} {why}; use wavelet_l1 in the transform of the schedule, without groups")
    real = jnp.zeros(()).dtype
    phi = Separable(*(jnp.zeros((), real),) * 2, jnp.asarray(-np.inf, real), jnp.asarray(np.inf, real)) if present is None else present.phi
    assert isinstance(phi, Separable)
    locked = ~kept
    lower, upper = (jnp.where(locked, 0.0, bound).astype(real) for bound in (phi.lower, phi.upper))
    masked = replace(phi, lower=lower, upper=upper, parts=phi.parts | {"bounds"})
    name = "scales" if present is None else present.name
    return replace(problem, prox={**problem.prox, slot: ProxTerm(name, slot, transform, masked)})


def _same(one: Operator, other: Operator) -> bool:
    if type(one) is not type(other) or (one.domain, one.codomain) != (other.domain, other.codomain):
        return False
    probe = jnp.asarray(np.random.default_rng(0).standard_normal(one.domain), jnp.zeros(()).dtype)
    return bool(jnp.allclose(one.matvec(probe), other.matvec(probe)))
