"""Atoms of positive arrays: entropy, alone and on the simplex, and the logarithmic barrier."""

from __future__ import annotations

from ..functions.entropies import Entropy, LogBarrier, SimplexEntropy
from .base import Asked, Parts, atom


@atom("entropy", r"w\sum u\log u,\ u=Ax\ge0\ (\text{and}\ \mathbf1^\top u=t)")
def entropy(asked: Asked, *, total: float | None = None) -> Parts:
    """total: of the sum of all elements, which is free if none is given."""
    asked.aimless()
    weight = asked.scalar(asked.weight)
    return Parts(asked.operator(), Entropy(weight) if total is None else SimplexEntropy(weight, asked.positive("total", total)))


@atom("log_barrier", r"-w\sum\log(Ax)")
def log_barrier(asked: Asked) -> Parts:
    asked.aimless()
    return Parts(asked.operator(), LogBarrier(asked.scalar(asked.weight)))
