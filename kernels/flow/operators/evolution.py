"""Residuals of equations in time, of variables whose first axis is time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..bounds import Bound
from ..errors import FlowInputError
from ..pytrees import node
from .base import Operator, Shape, operator
from .differences import Laplacian, checked_boundary, checked_spacing


@node
class HeatResidual(Operator):
    """x -> (x[t+1] - x[t])/dt - kappa Laplacian x[t], t = 0 .. T-2: 0 for what the explicit scheme of the heat equation computes."""

    kappa: jax.Array
    interval: jax.Array
    laplacian: Laplacian

    structure = "stencil"

    def matvec(self, x: jax.Array) -> jax.Array:
        return jnp.diff(x, axis=0) / self.interval - self.kappa * jax.vmap(self.laplacian.matvec)(x[:-1])

    def rmatvec(self, y: jax.Array) -> jax.Array:
        nothing = jnp.zeros((1, *self.domain[1:]), y.dtype)
        stay = -y / self.interval - self.kappa * jax.vmap(self.laplacian.matvec)(y)
        return jnp.concatenate([stay, nothing]) + jnp.concatenate([nothing, y / self.interval])

    def norm_sq(self) -> Bound:
        """||(a, b) -> a/dt - (b/dt + kappa Laplacian b)||: with s the largest |eigenvalue| of the Laplacian, an eigenvalue -e scales the
        present by kappa e - 1/dt; over both, (1/dt + max |1/dt - kappa e|)^2 is never below."""
        rate, spread = 1 / float(self.interval), float(self.kappa) * float(np.sqrt(self.laplacian.norm_sq().value))
        return Bound((rate + max(rate, spread - rate)) ** 2, "upper_bound", "spectra of the axes")


@operator("heat_residual")
def _heat_residual(
    domain: Shape, real: np.dtype[Any], *, kappa: float, interval: float = 1.0, boundary: str = "neumann", spacing: Any = 1.0
) -> Operator:
    """kappa: the diffusivity. interval: between two times. spacing: between samples in space."""
    if len(domain) < 2 or min(domain) < 2:
        raise FlowInputError(f"the heat residual is of a variable with time along its first axis and space after it; the shape is {domain}")
    for name, number in (("kappa", kappa), ("interval", interval)):
        if not (np.isfinite(number) and number > 0):
            raise FlowInputError(f"the heat residual has {name} {number!r}; it must be finite and above 0")
    sides = domain[1:]
    kind = checked_boundary(boundary, ("periodic", "neumann", "dirichlet"))
    laplacian = Laplacian(sides, sides, tuple(range(len(sides))), checked_spacing(spacing, len(sides)), kind)
    return HeatResidual(domain, (domain[0] - 1, *sides), jnp.asarray(kappa, real), jnp.asarray(interval, real), laplacian)
