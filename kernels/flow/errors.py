"""What the flow runtime raises. Each error names the value, the rule it breaks, and the remedy."""

from __future__ import annotations


class FlowError(Exception):
    """Base of every error of the flow runtime."""


class FlowInputError(FlowError, ValueError):
    """An argument cannot be used: wrong shape, wrong type, out of range, not finite."""


class FlowDiverged(FlowError, ArithmeticError):
    """The energy stopped being a finite number while the flow was running. step: at which; slot: the first one with values that are not
    finite; None where they are not known."""

    def __init__(self, message: str, *, step: int | None = None, slot: str | None = None) -> None:
        super().__init__(message)
        self.step, self.slot = step, slot


class MissingExtra(FlowError, ImportError):
    """A package that only one optional feature needs is not installed."""
