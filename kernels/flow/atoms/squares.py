"""Atoms that are squares of A x: data terms, ridges, and the smoothness of arrays and graphs."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ..functions.squares import HalfSquare
from ..operators.base import Op, Operator
from .base import Asked, Parts, atom


@atom("quadratic", r"\frac{w}{2}\|Ax-b\|^2")
def quadratic(asked: Asked) -> Parts:
    return half_square(asked, asked.operator())


@atom("weighted_ls", r"\frac{w}{2}\|D(Ax-b)\|^2")
def weighted_ls(asked: Asked, *, scale: ArrayLike) -> Parts:
    op = asked.operator()
    given = jnp.broadcast_to(asked.positive("scale", scale, op.codomain, zero=True), op.codomain)
    return Parts(op, HalfSquare(asked.scalar(asked.weight), asked.goal(op.codomain), given))


@atom("tikhonov", r"\frac{w}{2}\|Lx\|^2")
def tikhonov(asked: Asked) -> Parts:
    asked.aimless("use quadratic for w/2||Lx - b||^2")
    return half_square(asked, asked.operator())


@atom("sobolev", r"w\|\nabla x\|^2")
def sobolev(asked: Asked, *, axes: Any = None, boundary: str = "neumann", spacing: Any = 1.0) -> Parts:
    asked.aimless()
    return half_square(asked, asked.before(Op("differences", axes=axes, boundary=boundary, spacing=spacing)), 2.0)


@atom("biharmonic", r"w\|\Delta x\|^2")
def biharmonic(asked: Asked, *, axes: Any = None, boundary: str = "neumann", spacing: Any = 1.0) -> Parts:
    asked.aimless("use laplace_residual for w||Laplacian x - s||^2")
    return half_square(asked, asked.before(Op("laplacian", axes=axes, boundary=boundary, spacing=spacing)), 2.0)


@atom("graph_dirichlet", r"w\,x^\top L_G x=w\sum_{(i,j)}w_{ij}(x_i-x_j)^2")
def graph_dirichlet(asked: Asked, *, edges: ArrayLike, weights: ArrayLike | None = None) -> Parts:
    asked.aimless()
    factors = None if weights is None else np.sqrt(np.abs(np.asarray(weights, np.float64)))
    if weights is not None:
        asked.positive("the edge weights", weights, np.shape(weights))
    return half_square(asked, asked.before(Op("incidence", edges=edges, factors=factors)), 2.0)


def half_square(asked: Asked, op: Operator, factor: float = 1.0) -> Parts:
    """factor w/2 ||A x - b||^2."""
    return Parts(op, HalfSquare(asked.scalar(factor * asked.weight), asked.goal(op.codomain), asked.scalar(1.0)))
