"""What a user may ask of the steps (`FlowPolicy`) and of sparsity (`SparsityPolicy`), and which solver a policy stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import FlowInputError
from ..spec import FlowSpec
from .dial import GapDial

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


SPARSE_ATOMS = ("l1", "weighted_l1", "elastic_net", "group_l1", "wavelet_l1")


@dataclass(frozen=True)
class SparsityPolicy:
    """Which sparsity a flow seeks, and who sets its weight.

    sparsity_mode: of the wavelet terms, "l1" of coefficients, "group_l1" of the coefficients at one place of a level in all orientations
    and channels, "tree" of coefficients with their descendants. adaptive_rule: "fixed" keeps the weights; "residual_adaptive" tunes them
    once the run is GREEN until ||Ax - b||^2 = m sigma^2 (the discrepancy principle), sigma the standard deviation of the noise.
    """

    adaptive_rule: Literal["residual_adaptive", "fixed"] = "fixed"
    sparsity_mode: Literal["l1", "group_l1", "tree"] = "l1"
    sigma: float | None = None

    def __post_init__(self) -> None:
        allowed = {"adaptive_rule": ("residual_adaptive", "fixed"), "sparsity_mode": ("l1", "group_l1", "tree")}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise FlowInputError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(values)}")
        if self.adaptive_rule == "residual_adaptive" and not (self.sigma is not None and self.sigma > 0):
            raise FlowInputError(
                f"adaptive_rule residual_adaptive has sigma {self.sigma!r}; give the standard deviation of the noise, or use fixed"
            )

    def applied(self, spec: FlowSpec) -> FlowSpec:
        """The spec with this sparsity in its wavelet terms. Raises FlowInputError where no term is sparse, or where none could be of this
        mode."""
        sparse = [term for term in spec.terms if term.type in SPARSE_ATOMS]
        if not sparse:
            raise FlowInputError(f"a sparsity policy is about terms such as {', '.join(SPARSE_ATOMS)}, and {spec.name} has none; add one")
        if self.sparsity_mode == "l1":
            return spec
        grouped = any(term.type == "group_l1" for term in sparse) and self.sparsity_mode == "group_l1"
        if not (grouped or any(term.type == "wavelet_l1" for term in sparse)):
            raise FlowInputError(
                f"sparsity_mode {self.sparsity_mode} groups the coefficients of a wavelet_l1 term, and {spec.name} has none; "
                "add one, or use the atom group_l1 with groups of your own"
            )
        terms = [
            replace(term, params={**term.params, "sparsity": self.sparsity_mode}) if term.type == "wavelet_l1" else term
            for term in spec.terms
        ]
        return replace(spec, terms=terms)

    def dial(self) -> GapDial | None:
        """The dial of a rule that adapts; None of one that does not."""
        return GapDial(criterion="discrepancy", sigma=self.sigma) if self.adaptive_rule == "residual_adaptive" else None
