"""Atoms that hold A x in a convex set. Their weight is of no consequence."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import FlowInputError
from ..functions.affine import AffineNonnegative
from ..functions.affine import affine as affine_set
from ..functions.sets import Knapsack, L1Ball, L2Ball, Simplex
from ..operators.arrays import Dense, Identity
from ..operators.base import Op, Operator
from .base import Asked, Parts, atom
from .norms import separable

# An affine set with more equations or unknowns than this is held by a primal-dual solver, which needs no matrix.
EQUATIONS, UNKNOWNS = 1024, 8192


@atom("box", r"\iota\{l\le Ax\le u\}")
def box(asked: Asked, *, lower: ArrayLike = -np.inf, upper: ArrayLike = np.inf) -> Parts:
    asked.aimless("move it into lower and upper")
    op = asked.operator()
    low, high = (_bound(asked, name, value, op) for name, value in (("lower", lower), ("upper", upper)))
    if np.any(low > high):
        raise FlowInputError(f"the term {asked.name}: lower is above upper somewhere, so no x is in the box")
    return Parts(op, separable(asked, lower=low, upper=high))


@atom("nonnegative", r"\iota\{Ax\ge0\}")
def nonnegative(asked: Asked) -> Parts:
    return box(asked, lower=0.0)


@atom("l2_ball", r"\iota\{\|Ax-b\|_2\le r\}")
def l2_ball(asked: Asked, *, radius: float) -> Parts:
    op = asked.operator()
    return Parts(op, L2Ball(asked.positive("radius", radius, zero=True), asked.goal(op.codomain)))


@atom("l1_ball", r"\iota\{\|Ax\|_1\le r\}")
def l1_ball(asked: Asked, *, radius: float) -> Parts:
    asked.aimless("translate the variable instead")
    return Parts(asked.operator(), L1Ball(asked.positive("radius", radius)))


@atom("simplex", r"\iota\{Ax\ge0,\ \mathbf1^\top Ax=t\}")
def simplex(asked: Asked, *, total: float = 1.0, rows: bool = False) -> Parts:
    """rows: each vector along the last axis has the total t, instead of all of A x."""
    asked.aimless()
    return Parts(asked.operator(), Simplex(asked.positive("total", total), bool(rows)))


@atom("knapsack", r"\iota\{l\le Ax\le u,\ c^\top Ax\le B\}")
def knapsack(asked: Asked, *, costs: ArrayLike, budget: float, lower: ArrayLike = 0.0, upper: ArrayLike = 1.0) -> Parts:
    asked.aimless()
    op = asked.operator()
    each = jnp.broadcast_to(asked.positive("costs", costs, op.codomain, zero=True), op.codomain)
    low, high = (np.broadcast_to(_bound(asked, name, value, op), op.codomain) for name, value in (("lower", lower), ("upper", upper)))
    if not np.all(np.isfinite(low)) or np.any(low > high):
        raise FlowInputError(f"the term {asked.name}: lower must be finite, and nowhere above upper")
    least = float(np.sum(np.asarray(each, np.float64) * low))
    if not np.isfinite(budget) or least > budget:
        raise FlowInputError(
            f"the term {asked.name}: the lower bounds alone cost {least:.6g}, above the budget {budget!r}; raise the budget"
        )
    return Parts(op, Knapsack(each, asked.scalar(budget), asked.scalar(low), asked.scalar(high)))


@atom("affine", r"\iota\{Ax=b\}\ \text{or}\ \iota\{Ax=b,\ x\ge0\}")
def affine(asked: Asked, *, nonnegative: bool = False, inner_steps: int = 200) -> Parts:
    """nonnegative: with x >= 0, projected by `inner_steps` rounds of Dykstra's algorithm with a reported gap. Small sets are projected onto
    exactly; large ones are composite terms."""
    if asked.op is None:
        raise FlowInputError(f"the term {asked.name} needs an operator: A of A x = b; use box to fix elements")
    op = asked.operator()
    equations, unknowns = int(np.prod(op.codomain)), int(np.prod(op.domain))
    if equations <= EQUATIONS and unknowns <= UNKNOWNS:
        goal = np.broadcast_to(np.asarray(asked.goal(op.codomain), np.float64), op.codomain)
        held = affine_set(_matrix(op, asked.real), goal, asked.real, asked.name)
        here = Identity(op.domain, op.domain)
        return Parts(here, AffineNonnegative(held, int(inner_steps)) if nonnegative else held)
    if nonnegative:
        raise FlowInputError(
            f"the term {asked.name} has {equations} equations for {unknowns} unknowns, too many to project (at most {EQUATIONS} and "
            f"{UNKNOWNS}); leave nonnegative out and add a term of the atom nonnegative"
        )
    goal_there = asked.goal(op.codomain)
    return Parts(op, separable(asked, lower=goal_there, upper=goal_there))


@atom("rate_limit", r"\iota\{|x_{t+1}-x_t|\le r\}")
def rate_limit(asked: Asked, *, limit: ArrayLike, axis: int = 0) -> Parts:
    """limit: one for all steps, or an array that fits A x (its last step is not used)."""
    asked.aimless()
    op = asked.before(Op("differences", axes=axis))
    most = asked.positive("limit", limit, op.codomain[1:], zero=True)
    return Parts(op, separable(asked, lower=-most, upper=most))


def _bound(asked: Asked, name: str, value: ArrayLike, op: Operator) -> NDArray[np.float64]:
    array = np.asarray(value, np.float64)
    if np.any(np.isnan(array)) or array.shape not in ((), op.codomain):
        raise FlowInputError(
            f"the term {asked.name}: {name} has shape {array.shape}; it must be one number, or an array of shape {op.codomain}"
        )
    return array


def _matrix(op: Operator, real: np.dtype[Any]) -> NDArray[np.float64]:
    """A as a matrix: its own, or its columns one by one."""
    if isinstance(op, Dense):
        return np.asarray(op.matrix, np.float64)
    units = jnp.eye(int(np.prod(op.domain)), dtype=real).reshape(-1, *op.domain)
    columns = jax.lax.map(lambda unit: jnp.ravel(op.matvec(unit)), units)
    return np.asarray(columns, np.float64).T
