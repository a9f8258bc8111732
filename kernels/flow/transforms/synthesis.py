"""From coefficients to arrays, as an operator: what the synthesis form of a prior minimises through.

With x = W~^T u and an l1 norm of u, a redundant frame keeps an exact prox. That is another model than the l1 norm of W x, the analysis form
(Elad, Milanfar & Rubinstein, Inverse Problems 23, 2007); for a unitary transform the two are the same.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ..bounds import Bound
from ..errors import FlowInputError
from ..operators.base import Op, Operator, Shape, build, operator
from ..pytrees import node
from .base import TransformOp


@node
class Synthesis(Operator):
    """u -> W~^T u, the canonical dual."""

    transform: TransformOp

    def matvec(self, x: jax.Array) -> jax.Array:
        return self.transform.inverse(x)

    def rmatvec(self, y: jax.Array) -> jax.Array:
        if self.transform.frame == "general":
            return super().rmatvec(y)
        return self.transform.forward(y) / self.transform.c

    def norm_sq(self) -> Bound:
        lower, _ = self.transform.frame_bounds()  # ||W (W^T W)^-1||^2 = 1 / A
        return Bound(1.0 / lower.value, "exact" if lower.kind == "exact" else "upper_bound", lower.method)

    def coisometry(self) -> float | None:
        return None if self.transform.frame == "general" else 1.0 / self.transform.c

    def orthonormal(self) -> bool:
        return self.transform.orthonormal()


def transform_of(described: Op | Operator, shape: Shape, real: np.dtype[Any]) -> TransformOp:
    """The transform of a description. Raises FlowInputError if it is an operator of another kind."""
    made = build(described, tuple(shape), real)
    if not isinstance(made, TransformOp):
        raise FlowInputError(f"{described!r} is no transform; give one such as Op('wavelet', wavelet='db4', levels=3)")
    return made


@operator("synthesis")
def _synthesis(domain: Shape, real: np.dtype[Any], *, of: Op, shape: Shape) -> Operator:
    """of: the transform of arrays of `shape` whose coefficients the variable holds."""
    made = transform_of(of, shape, real)
    if domain != made.codomain:
        raise FlowInputError(f"the variable has shape {domain}, but {of!r} of arrays of {tuple(shape)} has coefficients of {made.codomain}")
    return Synthesis(made.codomain, made.domain, made)
