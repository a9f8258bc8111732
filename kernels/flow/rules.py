"""What a rule of lint is: an id, the modes in which it is asked, a severity for each, and what it asks; and the two tables of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from .atoms.base import Parts
from .errors import FlowInputError
from .problem import Problem, State
from .spec import FlowSpec, Term

Mode = Literal["basic", "flexible", "strict", "expert"]
Severity = Literal["error", "warning"]
MODES: tuple[Mode, ...] = ("basic", "flexible", "strict", "expert")
# A term whose energy at the reference is below this is not divided by less (unit normalisation).
SCALE_FLOOR = 1e-8


@dataclass(frozen=True)
class Finding:
    """One thing that a rule found. where: the term, slot or coupling; cure: what to do."""

    rule: str
    severity: Severity
    where: str
    message: str
    cure: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}{'; ' if self.cure else ''}{self.cure} [{self.rule}]"


class SpecLintFailed(FlowInputError):
    """A spec has errors. `findings` are all of them, warnings too."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = tuple(findings)
        errors = [str(finding) for finding in findings if finding.severity == "error"]
        super().__init__("the spec cannot be compiled:\n" + "\n".join(f"- {error}" for error in errors))


class Complaint(NamedTuple):
    """What a rule yields: it adds its own id and severity."""

    where: str
    message: str
    cure: str


class Built(NamedTuple):
    """What the rules on a built problem see. scales: |w_i E_i| of each term where the flow starts, with the weights in force; slope:
    ||grad f|| there; slope_at_zero: the same at 0."""

    spec: FlowSpec
    terms: Mapping[str, tuple[Term, Parts]]
    problem: Problem
    start: State
    scales: Mapping[str, float]
    slope: float
    slope_at_zero: float


@dataclass(frozen=True)
class Rule:
    """id; since: the first mode that asks it (basic, flexible, strict); severity in that mode and, where different, in strict; numerical:
    AFS_NUMERICAL_WARNINGS=error makes it an error."""

    id: str
    since: Mode
    severity: Severity
    strict: Severity
    numerical: bool
    ask: Callable[[Any], Iterator[Complaint]]


SPEC_RULES: list[Rule] = []
PROBLEM_RULES: list[Rule] = []


def rule(
    id: str, since: Mode, severity: Severity, *, strict: Severity | None = None, numerical: bool = False, built: bool = False
) -> Callable[[Callable[[Any], Iterator[Complaint]]], Callable[[Any], Iterator[Complaint]]]:
    """Enters a rule into the table."""

    def enter(ask: Callable[[Any], Iterator[Complaint]]) -> Callable[[Any], Iterator[Complaint]]:
        (PROBLEM_RULES if built else SPEC_RULES).append(Rule(id, since, severity, strict or severity, numerical, ask))
        return ask

    return enter
