"""What a run must show to count as certified: the checks of a profile, their limits and tolerances.

"strict" is the gate of spectral dominance and gap: eta_dd(L) <= eta_max and gamma(L) >= gamma_min, and it fails closed. "convex" asks for
what a convex energy without strong convexity can have: a sound step and descent, and a small duality gap if its checks name that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import FlowInputError
from ..operators.base import Op, Operator, plain

CHECKS = ("lyapunov", "physics_residual", "invariant", "spectral_gap", "discretization_independence", "duality_gap")
TOLERANCES: Mapping[str, float] = {"lyapunov": 1e-6, "invariant": 1e-9, "physics_residual": 1.0, "duality_gap": 1e-6}


@dataclass(frozen=True)
class RefinementTest:
    """Of discretization_independence: the same flow on a grid `scale_factor` times as fine must pass the same gate, and its gamma may be
    smaller by `tolerance` of itself at most."""

    enable: bool = True
    scale_factor: int = 2
    tolerance: float = 0.5


@dataclass(frozen=True)
class CertificationProfile:
    """checks: of CHECKS. tolerances: lyapunov, how much of max(1, |E|) the energy may rise within a block, rounding apart; invariant,
    relative and absolute; physics_residual, of a residual relative to its data; duality_gap, relative: a run ends there.

    lens: the coordinates of eta_dd: "pixel", "dft", "dct", "dst", an orthonormal operator, or "auto": pixel if that passes, else the basis
    in which L is diagonal, if there is one. allow_estimates: whether numbers of the kind "estimate" may open the gate.
    precondition: asks for preconditioned steps, of which eta_dd and gamma are those of D^-1/2 L D^-1/2, D = diag(L). Of a flow whose
    steps are preconditioned they are so in any case. invariants: whether those that a spec declares are checked although `checks` does
    not name them.
    """

    name: Literal["strict", "convex"] = "strict"
    checks: tuple[str, ...] = ("lyapunov", "spectral_gap")
    tolerances: Mapping[str, float] = field(default_factory=dict)
    refinement_test: RefinementTest = RefinementTest()
    eta_max: float = 0.9
    gamma_min: float = 1e-6
    lens: str | Op | Operator = "auto"
    allow_estimates: bool = False
    precondition: bool = False
    invariants: bool = True

    def __post_init__(self) -> None:
        if self.name not in ("strict", "convex"):
            raise FlowInputError(f"the profile is {self.name!r}; it must be strict or convex")
        unknown = [check for check in self.checks if check not in CHECKS] + [name for name in self.tolerances if name not in TOLERANCES]
        if unknown:
            raise FlowInputError(f"the profile names {', '.join(map(repr, unknown))}; checks are {', '.join(CHECKS)}")
        if not (self.eta_max >= 0 and self.gamma_min >= 0):
            raise FlowInputError(f"eta_max is {self.eta_max!r} and gamma_min {self.gamma_min!r}; both must be numbers of at least 0")
        below = [name for name, value in self.tolerances.items() if not value >= 0]
        if below:
            raise FlowInputError(f"the tolerance {below[0]} is {self.tolerances[below[0]]!r}; it must be 0 or more")
        if self.refinement_test.scale_factor < 2:
            raise FlowInputError(f"refinement_test.scale_factor is {self.refinement_test.scale_factor!r}; it must be 2 or more")

    def tolerance(self, name: str) -> float:
        """Of a check, given or default."""
        return float(self.tolerances.get(name, TOLERANCES[name]))

    def asked(self, declared: bool) -> tuple[str, ...]:
        """The checks, with that of invariants where some are declared."""
        return (*self.checks, "invariant") if declared and self.invariants and "invariant" not in self.checks else self.checks

    def record(self) -> dict[str, Any]:
        """For manifests and run cards."""
        return {
            "name": self.name,
            "checks": list(self.checks),
            "tolerances": {name: self.tolerance(name) for name in TOLERANCES},
            "refinement_test": {"enable": self.refinement_test.enable, "scale_factor": self.refinement_test.scale_factor},
            "eta_max": self.eta_max,
            "gamma_min": self.gamma_min,
            "lens": self.lens
            if isinstance(self.lens, str)
            else plain(self.lens)
            if isinstance(self.lens, Op)
            else type(self.lens).__name__,
            "allow_estimates": self.allow_estimates,
            "precondition": self.precondition,
            "invariants": self.invariants,
        }


def convex(**changes: Any) -> CertificationProfile:
    """The profile for convex energies that are not strongly convex: l1 least squares, total variation."""
    return CertificationProfile(**{"name": "convex", "checks": ("lyapunov",), **changes})
