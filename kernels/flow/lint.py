"""Lint: what can be wrong or doubtful in a spec, as a table of rules.

Each rule has an id, the modes in which it is asked, and a severity for each; what it finds names the term or slot, the rule and the cure.
`lint_spec` asks what the description alone can answer (`rules_of_specs`), `lint_problem` what needs operators built and the energy
evaluated (`rules_of_problems`).
"""

from __future__ import annotations

import os
from typing import Any

from . import rules_of_problems, rules_of_specs  # noqa: F401  they enter their rules into the tables
from .errors import FlowInputError
from .rules import MODES, PROBLEM_RULES, SCALE_FLOOR, SPEC_RULES, Built, Finding, Mode, Rule, SpecLintFailed
from .schema import malformed
from .spec import FlowSpec, a_spec

__all__ = [
    "PROBLEM_RULES",
    "SCALE_FLOOR",
    "SPEC_RULES",
    "Built",
    "Finding",
    "Mode",
    "SpecLintFailed",
    "lint_form",
    "lint_problem",
    "lint_spec",
    "mode_of",
    "raise_errors",
]

VALIDATION = "AFS_VALIDATION"
NUMERICAL_WARNINGS = "AFS_NUMERICAL_WARNINGS"


def mode_of(asked: str | None) -> Mode:
    """The mode asked for, or that of the environment, or "flexible"."""
    name = asked or os.environ.get(VALIDATION) or "flexible"
    for mode in MODES:
        if mode == name:
            return mode
    raise FlowInputError(f"the validation mode is {name!r}; it must be one of {', '.join(MODES)}")


def lint_form(spec: FlowSpec, mode: Mode = "flexible") -> list[Finding]:
    """What of the description has the wrong type, so that nothing more can be said of it."""
    return [] if mode == "expert" else [Finding("spec.schema", "error", *told) for told in malformed(spec)]


def lint_spec(spec: FlowSpec, mode: Mode = "flexible") -> list[Finding]:
    """What the description alone shows. Raises FlowInputError for what is no FlowSpec, in every mode."""
    return lint_form(a_spec(spec), mode) or _asked(SPEC_RULES, spec, mode)


def lint_problem(built: Built, mode: Mode) -> list[Finding]:
    """What the built operators and the energy at the start show."""
    return _asked(PROBLEM_RULES, built, mode)


def raise_errors(findings: list[Finding]) -> None:
    """Raises SpecLintFailed if there are errors among the findings."""
    if any(finding.severity == "error" for finding in findings):
        raise SpecLintFailed(findings)


def _harsh() -> bool:
    """Whether numerical warnings are errors."""
    asked = os.environ.get(NUMERICAL_WARNINGS) or "warn"
    if asked not in ("warn", "error"):
        raise FlowInputError(f"{NUMERICAL_WARNINGS} is {asked!r}; it must be warn or error")
    return asked == "error"


def _asked(rules: list[Rule], subject: Any, mode: Mode) -> list[Finding]:
    if mode == "expert":
        return []
    harsh = _harsh()
    found = []
    for each in rules:
        if MODES.index(each.since) > MODES.index(mode):
            continue
        severity = each.strict if mode == "strict" else each.severity
        severity = "error" if each.numerical and harsh else severity
        found += [Finding(each.id, severity, *complaint) for complaint in each.ask(subject)]
    return found
