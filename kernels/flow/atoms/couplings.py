"""Atoms of several variables, and the soft constraint that a matrix has orthonormal columns."""

from __future__ import annotations

from ..errors import FlowInputError
from ..functions.composed import Orthogonality
from ..operators.base import Op, Operator, build
from ..operators.combined import Beside, beside, scaled
from .base import Asked, Parts, atom
from .norms import aimed, separable
from .squares import half_square


@atom("coupling", r"\frac{w}{2}\|Uu-Vv-b\|^2")
def coupling(asked: Asked, *, left: Op | None = None, right: Op | None = None) -> Parts:
    """left, right: the operators U and V; the identity by default."""
    return half_square(asked, _difference(asked, left, right))


@atom("coupling_l1", r"w\|Fu-Gv-b\|_1")
def coupling_l1(asked: Asked, *, left: Op | None = None, right: Op | None = None) -> Parts:
    op = _difference(asked, left, right)
    return Parts(op, aimed(asked, op.codomain, separable(asked, threshold=asked.weight)))


@atom("consensus", r"\frac{w}{2}\|x-z\|^2")
def consensus(asked: Asked) -> Parts:
    asked.aimless("use coupling for w/2||x - z - b||^2")
    return coupling(asked)


@atom("orthogonality", r"w\|U^\top U-I\|^2")
def orthogonality(asked: Asked) -> Parts:
    """Not convex: the spec must allow it."""
    asked.aimless()
    op = asked.operator()
    if len(op.codomain) < 2 or op.codomain[-2] < op.codomain[-1]:
        raise FlowInputError(
            f"the term {asked.name}: columns of a matrix of shape {op.codomain} cannot be orthonormal; it needs as many rows as columns"
        )
    return Parts(op, Orthogonality(asked.scalar(asked.weight)))


def _difference(asked: Asked, left: Op | None, right: Op | None) -> Beside:
    """(u, v) -> U u - V v."""
    if len(asked.shapes) != 2:
        raise FlowInputError(f"the term {asked.name} couples two variables and names {len(asked.shapes)}; give variable as a pair")
    if asked.op is not None:
        raise FlowInputError(
            f"the term {asked.name} has an operator; a coupling takes one for each variable, as the parameters left and right"
        )
    parts: list[Operator] = [
        build(described or Op("identity"), shape, asked.real) for described, shape in zip((left, right), asked.shapes, strict=True)
    ]
    return beside([parts[0], scaled(parts[1], -1.0)], ["left", "right"])
