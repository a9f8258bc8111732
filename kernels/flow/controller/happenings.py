"""What the controller is told, what it answers, and what it holds: plain records, without any rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ..certificates.descent import Descent
from ..certificates.records import Finding, Phase, Verdict
from ..errors import FlowInputError

Act = Literal["lint", "certify", "remedy", "iterate", "propose", "try", "commit", "restore", "keep", "stop"]
Event = tuple[str, dict[str, Any]]


class Action(NamedTuple):
    """What the run loop is to do. keep: this state is the last good one. restore: go back to it, with a fresh momentum and `alpha`. remedy:
    change what `finding` is about. propose, try, commit: of a move of the tuner. stop: with the state that there is now."""

    act: Act
    details: Mapping[str, Any] = {}


@dataclass(frozen=True)
class ControllerConfig:
    """Limits. on_failure: "abort" ends a run that is not certified; "degrade" lets it run on in AMBER, where nothing is tuned.

    max_wall_time_ms and max_iterations end the run; max_tuner_moves and max_tuning_ms end tuning only. ridge_cap: the most that remediation
    may raise the ridge to, as a part of beta; 0 leaves the energy alone.
    """

    max_remediation_attempts: int = 3
    max_wall_time_ms: float | None = None
    max_iterations: int | None = None
    max_tuner_moves: int = 10
    max_tuning_ms: float | None = None
    max_rollbacks: int = 3
    rollback_on_cert_failure: bool = True
    max_step_attempts: int = 3
    step_alpha_reduction_factor: float = 0.5
    ridge_cap: float = 1e-2
    tuning: bool = False
    on_failure: Literal["abort", "degrade"] = "abort"

    def __post_init__(self) -> None:
        if not 0 < self.step_alpha_reduction_factor < 1:
            raise FlowInputError(
                f"step_alpha_reduction_factor is {self.step_alpha_reduction_factor!r}; it must be between 0 and 1, 0.5 halves a step"
            )
        for name in ("max_remediation_attempts", "max_tuner_moves", "max_rollbacks", "max_step_attempts", "ridge_cap"):
            if getattr(self, name) < 0:
                raise FlowInputError(f"{name} is {getattr(self, name)!r}; it must not be negative")
        for name in ("max_wall_time_ms", "max_iterations", "max_tuning_ms"):
            limit = getattr(self, name)
            if not (limit is None or limit > 0):
                raise FlowInputError(f"{name} is {limit!r}; it must be above 0, or None for no limit")
        if self.on_failure not in ("abort", "degrade"):
            raise FlowInputError(f"on_failure is {self.on_failure!r}; it must be abort or degrade")


@dataclass(frozen=True)
class ControllerState:
    """Where a run stands. good: the iteration of the last good GREEN state. segment: energies compare only within one."""

    phase: Phase = "RED"
    stage: int = 0
    started: bool = False
    ended: bool = False
    status: str = ""
    attempts: int = 0
    step_attempts: int = 0
    rollbacks: int = 0
    moves: int = 0
    accepted_moves: int = 0
    tuning: bool = False
    trying: bool = False
    alpha: float = 1.0
    segment: int = 0
    iteration: int = 0
    energy: float | None = None
    good: int | None = None
    good_energy: float | None = None


@dataclass(frozen=True)
class Accepted:
    """A run was asked for. told: the payload of RUN_STARTED."""

    told: Mapping[str, Any]
    alpha: float


@dataclass(frozen=True)
class Linted:
    """The spec was looked through; problems are errors, not warnings."""

    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Certified:
    """The gate was asked. alpha: the step that was certified."""

    verdict: Verdict
    alpha: float | None = None


@dataclass(frozen=True)
class BlockDone:
    """A block of steps was made. findings: of checks other than descent (invariants, residuals, certificates looked at again). stopped: why
    the solver ended by itself ("converged", "stagnated"); None if it would go on."""

    iteration: int
    energy: float
    descent: Descent
    findings: tuple[Finding, ...] = ()
    stopped: str | None = None
    elapsed_ms: float = 0.0


@dataclass(frozen=True)
class Diverged:
    """A step of a block was not finite; nothing of the block counts."""

    iteration: int
    reason: str


@dataclass(frozen=True)
class MoveProposed:
    """The tuner would change something. Nothing was changed yet."""

    move: Mapping[str, Any]
    trial_id: str | None = None


@dataclass(frozen=True)
class MoveTried:
    """A move was tried from the last good state. better: by the criterion of the tuner. reanchors: it changes a weight, so that energies
    before and after do not compare."""

    move: Mapping[str, Any]
    verdict: Verdict
    descended: bool
    better: bool
    objective: float | None = None
    reanchors: bool = False
    trial_id: str | None = None
    elapsed_ms: float = 0.0
    alpha: float | None = None


@dataclass(frozen=True)
class NoMove:
    """The tuner has nothing more to propose, and why."""

    reason: str = ""


@dataclass(frozen=True)
class Cancelled:
    """Somebody wants the run to end."""

    reason: str = ""


@dataclass(frozen=True)
class Failed:
    """The run loop cannot go on."""

    error: str
    message: str


Happening = Accepted | Linted | Certified | BlockDone | Diverged | MoveProposed | MoveTried | NoMove | Cancelled | Failed


@dataclass(frozen=True)
class Step:
    """The outcome of one happening."""

    state: ControllerState
    events: tuple[Event, ...] = ()
    actions: tuple[Action, ...] = field(default=())
