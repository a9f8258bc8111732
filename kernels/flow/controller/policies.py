"""What a user may ask of the steps (`FlowPolicy`) and of sparsity (`SparsityPolicy`), and which solver a policy stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import FlowInputError

Family = Literal["basic", "preconditioned", "accelerated"]
Discretization = Literal["explicit", "implicit", "symplectic"]

FAMILIES = ("basic", "preconditioned", "accelerated")
DISCRETIZATIONS = ("explicit", "implicit", "symplectic")
PRECONDITIONERS = ("jacobi",)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,50}")

# The solver of each policy. An implicit step is prox_{alpha f}; a symplectic one is kick, drift, kick on the declared pairs.
SOLVER_OF = {
    ("basic", "explicit"): "ista",
    ("accelerated", "explicit"): "mfista",
    ("preconditioned", "explicit"): "preconditioned",
    ("basic", "implicit"): "implicit",
    ("basic", "symplectic"): "symplectic",
}


@dataclass(frozen=True)
class FlowPolicy:
    """How a flow steps. preconditioner: "jacobi", the diagonal of L; for the family "preconditioned", which needs one."""

    family: Family = "basic"
    discretization: Discretization = "explicit"
    preconditioner: str | None = None

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise FlowInputError(f"family is {self.family!r}; it must be one of {', '.join(FAMILIES)}")
        if self.discretization not in DISCRETIZATIONS:
            raise FlowInputError(f"discretization is {self.discretization!r}; it must be one of {', '.join(DISCRETIZATIONS)}")
        if self.preconditioner is not None and not _NAME.fullmatch(self.preconditioner):
            raise FlowInputError(f"preconditioner is {self.preconditioner!r}; it must be 1 to 50 letters, digits, _ or -")
        if self.family == "preconditioned" and self.preconditioner not in PRECONDITIONERS:
            raise FlowInputError(
                f"the family preconditioned has the preconditioner {self.preconditioner!r}; give one of {', '.join(PRECONDITIONERS)}"
            )
        if self.family != "preconditioned" and self.preconditioner is not None:
            raise FlowInputError(f"the family {self.family} takes no preconditioner, but {self.preconditioner!r} was given; leave it out")
        if (self.family, self.discretization) not in SOLVER_OF:
            raise FlowInputError(f"the family {self.family} has explicit steps only; {self.discretization} goes with the family basic")

    @property
    def solver(self) -> str:
        """The name of the solver that makes these steps."""
        return SOLVER_OF[self.family, self.discretization]

    def applied(self, executed: str) -> dict[str, Any]:
        """The payload of FLOW_POLICY_APPLIED; raises FlowInputError if the solver that runs is another one."""
        if executed.removesuffix("_bt") != self.solver:
            raise FlowInputError(f"the policy {self.family}/{self.discretization} stands for {self.solver}, but {executed} runs")
        return {"family": self.family, "discretization": self.discretization, "preconditioner": self.preconditioner}


@dataclass(frozen=True)
class SparsityPolicy:
    """Which sparsity a flow seeks. mode: "l1" of coefficients, "group_l1" of groups of them, "tree" of wavelet coefficients with their
    parents. adaptive_rule: "fixed", or "residual_adaptive": the weight follows the noise by the discrepancy principle."""

    penalty: Literal["l1"] = "l1"
    thresholding: Literal["soft"] = "soft"
    adaptive_rule: Literal["residual_adaptive", "fixed"] = "residual_adaptive"
    sparsity_mode: Literal["l1", "group_l1", "tree"] = "l1"

    def __post_init__(self) -> None:
        allowed = {
            "penalty": ("l1",),
            "thresholding": ("soft",),
            "adaptive_rule": ("residual_adaptive", "fixed"),
            "sparsity_mode": ("l1", "group_l1", "tree"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise FlowInputError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(values)}")
