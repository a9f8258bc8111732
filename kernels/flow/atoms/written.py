"""The atom of those who write their own: a smooth function of one or several variables, differentiated by JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import FlowInputError
from ..functions.composed import ConvexWritten, Written
from ..operators.base import Operator
from ..operators.combined import Several
from .base import Asked, Parts, atom


@atom("function", r"w\,\varphi(Ax)")
def function(
    asked: Asked, *, of: Callable[..., Any], beta: float | None = None, convex: bool = False, arguments: Mapping[str, Any] | None = None
) -> Parts:
    """of(u, **arguments): a number, with jax.numpy; u is A x, or the tuple of the variables where there are several. beta: a bound of the
    curvature of `of`; without one, steps are found by backtracking. convex: your word that it is. arguments: arrays (or trees of them) that
    may change without compiling again."""
    asked.aimless("let `of` subtract it, or give it in arguments")
    op: Operator
    if len(asked.shapes) == 1:
        op = asked.operator()
    elif asked.op is not None:
        raise FlowInputError(f"the term {asked.name} is of several variables and has an operator; apply it inside the function")
    else:
        op = Several(asked.shapes, asked.shapes)  # type: ignore[arg-type]  # shapes of several variables, as the class says
    held = {name: jax.tree.map(lambda leaf: _cast(leaf, asked.real), tree) for name, tree in (arguments or {}).items()}
    shapes = op.codomain if len(asked.shapes) == 1 else asked.shapes
    example = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, asked.real),  # type: ignore[no-untyped-call]
        shapes,
        is_leaf=lambda part: isinstance(part, tuple) and all(isinstance(side, int) for side in part),
    )
    try:
        value = jax.eval_shape(lambda u: of(u, **held), example)
    except Exception as error:
        raise FlowInputError(
            f"the term {asked.name}: its function fails on arrays of shape {shapes}: {type(error).__name__}: {error}"
        ) from error
    if getattr(value, "shape", None) != () or value.dtype != asked.real:
        raise FlowInputError(f"the term {asked.name}: its function gives {value}; it must give one number of type {asked.real}")
    bound = asked.scalar(jnp.inf) if beta is None else asked.positive("beta", beta, zero=True)
    kind = ConvexWritten if convex else Written
    return Parts(op, kind(of, asked.scalar(asked.weight), bound, held))


def _cast(leaf: Any, real: np.dtype[Any]) -> jax.Array:
    """Floating point numbers in the type of the flow; whole numbers as they are."""
    array = jnp.asarray(leaf)
    return array.astype(real) if jnp.issubdtype(array.dtype, jnp.floating) else array
