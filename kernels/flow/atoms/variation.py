"""Atoms that charge for changes: total variation of arrays and graphs, and trends (second differences)."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from ..errors import FlowInputError
from ..functions.base import Function
from ..functions.groups import AxisNorm
from ..functions.variation import LineVariation, Variation
from ..operators.base import Op
from ..operators.differences import checked_axes, checked_boundary
from .base import Asked, Parts, atom
from .norms import separable

METHODS = ("auto", "exact", "composite", "inner")


@atom("tv", r"w\sum_i\|(DAx)_i\|_2\ \text{(isotropic)},\quad w\sum_{i,a}|(D_aAx)_i|")
def tv(
    asked: Asked, *, isotropic: bool = True, axes: Any = None, boundary: str = "neumann", prox: str = "auto", inner_steps: int = 20
) -> Parts:
    """axes: along which changes count; all if none. prox: "exact" (along one axis, its ends free), "composite" (a norm behind the operator
    of differences, for primal-dual solvers), "inner" (an inner iteration of `inner_steps` that reports its gap); "auto" is exact where it
    can be, else composite."""
    asked.aimless("translate the variable instead")
    if prox not in METHODS:
        raise FlowInputError(f"the term {asked.name}: prox is {prox!r}; it must be one of {', '.join(METHODS)}")
    op = asked.operator()
    where = checked_axes(op.codomain, axes, 2)
    kind = checked_boundary(boundary, ("periodic", "neumann"))
    lined = len(where) == 1 and kind == "neumann"
    if prox == "exact" and not lined:
        raise FlowInputError(
            f"the term {asked.name}: total variation has an exact prox along one axis (neumann), not along {where} ({kind}); "
            "use composite or inner"
        )
    if prox == "exact" or (prox == "auto" and lined and op.orthonormal()):
        return Parts(op, LineVariation(asked.scalar(asked.weight), separable(asked), where[0] - len(op.codomain)))
    if prox == "inner":
        if int(inner_steps) < 1:
            raise FlowInputError(f"the term {asked.name}: inner_steps is {inner_steps!r}; it must be 1 or more")
        return Parts(op, Variation(asked.scalar(asked.weight), where, bool(isotropic), kind, int(inner_steps)))
    differences = asked.before(Op("differences", axes=where, boundary=kind))
    # Along one axis the vector at an element is one number, so both kinds are the l1 norm.
    norm: Function = AxisNorm(asked.scalar(asked.weight)) if isotropic and len(where) > 1 else separable(asked, threshold=asked.weight)
    return Parts(differences, norm)


@atom("tv2", r"w\|D^2Ax\|_1")
def tv2(asked: Asked, *, axes: Any = None, boundary: str = "free", spacing: Any = 1.0) -> Parts:
    """Second differences along each axis; "free": only where all three samples are there, so that straight lines cost nothing."""
    asked.aimless("translate the variable instead")
    op = asked.before(Op("differences", order=2, axes=axes, boundary=boundary, spacing=spacing))
    return Parts(op, separable(asked, threshold=asked.weight))


@atom("trend", r"w\|D^2Ax\|_1\ \text{along the last axis}")
def trend(asked: Asked, *, spacing: Any = 1.0) -> Parts:
    """Trend filtering (Kim, Koh, Boyd & Gorinevsky, SIAM Rev. 51, 2009): the fit is made of straight pieces."""
    return tv2(asked, axes=-1, spacing=spacing)


@atom("graph_tv", r"w\sum_{(i,j)}w_{ij}|x_i-x_j|")
def graph_tv(asked: Asked, *, edges: ArrayLike, weights: ArrayLike | None = None) -> Parts:
    asked.aimless("translate the variable instead")
    return Parts(asked.before(Op("incidence", edges=edges, factors=weights)), separable(asked, threshold=asked.weight))
