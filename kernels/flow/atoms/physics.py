"""Atoms that are squared residuals of differential equations."""

from __future__ import annotations

from typing import Any

from ..operators.base import Op
from .base import Asked, Parts, atom
from .squares import half_square


@atom("laplace_residual", r"w\|\Delta x-s\|^2")
def laplace_residual(asked: Asked, *, axes: Any = None, boundary: str = "dirichlet", spacing: Any = 1.0) -> Parts:
    """target: the source s."""
    return half_square(asked, asked.before(Op("laplacian", axes=axes, boundary=boundary, spacing=spacing)), 2.0)


@atom("heat_residual", r"w\|\partial_tx-\kappa\Delta x-s\|^2")
def heat_residual(asked: Asked, *, kappa: float, interval: float = 1.0, boundary: str = "neumann", spacing: Any = 1.0) -> Parts:
    """Time along the first axis. target: the source s at all times but the last."""
    described = Op("heat_residual", kappa=kappa, interval=interval, boundary=boundary, spacing=spacing)
    return half_square(asked, asked.before(described), 2.0)


@atom("divergence_residual", r"w\|\nabla\cdot v-s\|^2")
def divergence_residual(asked: Asked, *, boundary: str = "periodic", spacing: Any = 1.0) -> Parts:
    """Of a vector field, components along the first axis."""
    return half_square(asked, asked.before(Op("divergence", boundary=boundary, spacing=spacing)), 2.0)


@atom("curl_residual", r"w\|\nabla\times v-s\|^2")
def curl_residual(asked: Asked, *, boundary: str = "periodic", spacing: Any = 1.0) -> Parts:
    """Of a vector field in two or three dimensions, components along the first axis."""
    return half_square(asked, asked.before(Op("curl", boundary=boundary, spacing=spacing)), 2.0)
