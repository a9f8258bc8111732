"""What a certificate leaves behind: numbers with their kinds, findings with their reasons and remedies, and a verdict over them all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..bounds import Bound, Kind

Phase = Literal["RED", "AMBER", "GREEN"]
# What would change an input of a failed check: none where only the user can.
Remedy = Literal["raise_ridge", "switch_lens", "precondition", "set_alpha", "none"]


def lowest(bound: Bound) -> float:
    """The least that the true number can be if the bound is sound from below: exact values less their error radius."""
    return bound.value - (bound.residual or 0.0) if bound.kind == "exact" else bound.value


def highest(bound: Bound) -> float:
    """The most that the true number can be if the bound is sound from above."""
    return bound.value + (bound.residual or 0.0) if bound.kind == "exact" else bound.value


def weakest(kinds: list[Kind], sound: Kind) -> Kind:
    """What a minimum (`sound` "lower_bound") or a maximum ("upper_bound") of numbers of these kinds is."""
    if all(kind == "exact" for kind in kinds):
        return "exact"
    return sound if all(kind in ("exact", sound) for kind in kinds) else "estimate"


@dataclass(frozen=True, slots=True)
class Finding:
    """A check that did not pass: which, what it found and wanted, why in words, and what would help."""

    check: str
    reason: str
    remedy: Remedy
    advice: str
    value: float | None = None
    limit: float | None = None

    def record(self) -> dict[str, Any]:
        """For events and run cards."""
        told = {"check": self.check, "reason": self.reason, "remedy": self.remedy, "advice": self.advice}
        # JSON has no infinities; the reason tells of them.
        numbers = (("value", self.value), ("limit", self.limit))
        return told | {name: value for name, value in numbers if value is not None and math.isfinite(value)}


@dataclass(frozen=True)
class Verdict:
    """Whether a flow may run as certified. phase: GREEN if nothing was found against it, RED if what was found cannot be a flow at all
    (L is not finite), else AMBER.

    certificates: by name (eta_dd, gamma, beta, ...). scope: "everywhere" where L does not depend on the point, else "at the reference
    point". lens: the coordinates of eta_dd.
    """

    profile: str
    phase: Phase
    certificates: Mapping[str, Bound]
    findings: tuple[Finding, ...] = ()
    lens: str = "pixel"
    scope: str = "everywhere"
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def feasible(self) -> bool:
        """Whether the gate is open."""
        return self.phase == "GREEN"

    def value(self, name: str) -> float | None:
        """The number of a certificate."""
        found = self.certificates.get(name)
        return None if found is None else found.value

    def told(self) -> str:
        """The verdict in a sentence."""
        if not self.findings:
            return f"{self.phase}: every check of the profile {self.profile} passed{self._of_what()}"
        return f"{self.phase}: " + "; ".join(f"{finding.reason}. {finding.advice}" for finding in self.findings)

    def _of_what(self) -> str:
        """What the spectrum that was certified is the one of: terms without a second derivative are in it by their convexity alone."""
        eta, gamma = self.value("eta_dd"), self.value("gamma")
        if eta is None or gamma is None:
            return ""
        return (
            f", with eta_dd {eta:.4g} (lens {self.lens}) and gamma {gamma:.4g} {self.scope}, of the second derivative of f and the "
            "convexity moduli of g; terms that are not smooth enter no further"
        )

    def payload(self) -> dict[str, Any]:
        """The keys that CERT_PASS, CERT_FAIL and CERT_CHECK share."""
        told: dict[str, Any] = {"profile": self.profile, "reason": self.told()}
        for name in ("eta_dd", "gamma"):
            found = self.certificates.get(name)
            if found is not None:
                told[name] = found.value
                told[f"{name.removesuffix('_dd')}_kind"] = found.kind
        return told | {name: self.limits[name] for name in ("eta_max", "gamma_min") if name in self.limits}

    def record(self) -> dict[str, Any]:
        """For manifests and run cards."""
        return {
            "profile": self.profile,
            "phase": self.phase,
            "feasible": self.feasible,
            "lens": self.lens,
            "scope": self.scope,
            "limits": dict(self.limits),
            "certificates": {name: bound.record() for name, bound in self.certificates.items()},
            "findings": [finding.record() for finding in self.findings],
        }
