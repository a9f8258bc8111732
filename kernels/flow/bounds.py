"""Numbers that are known to be something: exact, a bound, or only an estimate. A gate may rest on the first two kinds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["exact", "lower_bound", "upper_bound", "estimate"]


@dataclass(frozen=True, slots=True)
class Bound:
    """A value, what it is, and by which method it was found. `steps` and `residual` are those of an iterative method."""

    value: float
    kind: Kind
    method: str
    steps: int | None = None
    residual: float | None = None

    @property
    def sound_above(self) -> bool:
        """Whether the true number is certainly not larger."""
        return self.kind in ("exact", "upper_bound")

    @property
    def sound_below(self) -> bool:
        """Whether the true number is certainly not smaller."""
        return self.kind in ("exact", "lower_bound")

    def scaled(self, factor: float) -> Bound:
        """The same times a factor that is not negative."""
        return Bound(self.value * factor, self.kind, self.method, self.steps, self.residual)

    def record(self) -> dict[str, Any]:
        """For manifests and reports."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def total(bounds: list[Bound], method: str = "sum") -> Bound:
    """The sum of upper bounds of norms, which bounds the norm of the sum; exact only where there is one."""
    if len(bounds) == 1:
        return bounds[0]
    kind: Kind = "upper_bound" if all(bound.sound_above for bound in bounds) else "estimate"
    return Bound(sum(bound.value for bound in bounds), kind if bounds else "exact", method)
