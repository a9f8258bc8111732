"""Operators that the user writes: a function, and its adjoint or none, tested before they are believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..bounds import Bound, Kind
from ..errors import FlowInputError
from ..pytrees import node, static
from .base import TOLERANCES, Operator, Shape, adjoint_error, linearity_error, operator

# Of the power method that tries to refute a bound of the norm.
POWER_STEPS = 4


@node
class Written(Operator):
    """x -> forward(x, **arguments), its adjoint as given or as JAX derives it. `most` is a bound of ||A||^2 in the user's word."""

    forward: Callable[..., jax.Array] = static()
    adjoint: Callable[..., jax.Array] | None = static()
    most: float | None = static()
    arguments: dict[str, Any]

    def matvec(self, x: jax.Array) -> jax.Array:
        return self.forward(x, **self.arguments)

    def rmatvec(self, y: jax.Array) -> jax.Array:
        return super().rmatvec(y) if self.adjoint is None else self.adjoint(y, **self.arguments)

    def norm_sq(self) -> Bound:
        kind: Kind = "upper_bound"
        return super().norm_sq() if self.most is None else Bound(self.most, kind, "by the user")


@operator("matvec")
def _matvec(
    domain: Shape,
    real: np.dtype[Any],
    *,
    forward: Callable[..., jax.Array],
    adjoint: Callable[..., jax.Array] | None = None,
    norm: float | None = None,
    arguments: dict[str, Any] | None = None,
) -> Operator:
    """forward(x, **arguments): linear in x, written with jax.numpy. adjoint(y, **arguments): derived by default. norm: a bound of ||A||;
    estimated by default. arguments: arrays that may change without compiling again."""
    held = {name: jnp.asarray(value) for name, value in (arguments or {}).items()}
    try:
        image = jax.eval_shape(lambda x: forward(x, **held), jax.ShapeDtypeStruct(domain, real))  # type: ignore[no-untyped-call]
    except Exception as error:
        raise FlowInputError(f"forward fails on a variable of shape {domain}: {type(error).__name__}: {error}") from error
    if not hasattr(image, "shape") or image.dtype != real:
        raise FlowInputError(
            f"forward gives {getattr(image, 'dtype', type(image).__name__)} for a variable of {real}; it must give one array of {real}"
        )
    if norm is not None and not (np.isfinite(norm) and norm >= 0):
        raise FlowInputError(f"norm is {norm!r}; it must be a bound of ||A||, 0 or more")
    made = Written(domain, tuple(image.shape), forward, adjoint, None if norm is None else float(norm) ** 2, held)
    tested(made, real)
    if norm is not None and (found := _refuted(made, real)) > norm * (1 + 1e-4):
        raise FlowInputError(f"norm is {norm:.6g}, but ||A x|| is {found:.6g} ||x|| for some x; give a bound of ||A||, or leave it out")
    return made


def _refuted(made: Written, real: np.dtype[Any]) -> float:
    """The largest ||A x|| / ||x|| that a few steps of the power method find: no bound of ||A|| is below it."""
    x = jnp.asarray(np.random.default_rng(7).standard_normal(made.domain), real)
    found = 0.0
    for _ in range(POWER_STEPS):
        size = float(jnp.linalg.norm(jnp.ravel(x)))
        if size == 0:
            break
        image = made.matvec(x / size)
        found = max(found, float(jnp.linalg.norm(jnp.ravel(image))))
        x = made.rmatvec(image)
    return found


def tested(made: Operator, real: np.dtype[Any]) -> None:
    """Raises FlowInputError where the operator is not linear, or its adjoint is not its adjoint."""
    tolerance = TOLERANCES[real.name]
    bent = linearity_error(made, real)
    if not bent <= tolerance:
        raise FlowInputError(
            f"forward is not linear: A(ax + by) differs from aAx + bAy by {bent:.2g} of its size, above the tolerance {tolerance:g} "
            f"of {real}; move constants into the target of the term"
        )
    try:
        wrong = adjoint_error(made, real)
    except Exception as error:
        raise FlowInputError(f"the adjoint fails on an array of shape {made.codomain}: {type(error).__name__}: {error}") from error
    if not wrong <= tolerance:
        raise FlowInputError(
            f"the adjoint is not that of forward: |<Ax, y> - <x, A^T y>| is {wrong:.2g} of ||x|| ||y||, above the tolerance {tolerance:g} "
            f"of {real}; correct it, or leave it out to have it derived"
        )
