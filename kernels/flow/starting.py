"""Where a run starts: the solver's state there, and what the compiler's lint asks of the point.

One program for both, which the compiler and then the run call: what they share is computed once, and compiling it takes longer than
calling it twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .atoms.base import Parts
from .packed import vector
from .problem import CompositeTerm, Problem, State, taken
from .solvers.base import Controls, Run, Solver, begin
from .spec import Term
from .sums import summed


class Measured(NamedTuple):
    """What there is at a point: the energy of each term, and ||grad f||."""

    energies: dict[str, float]
    slope: float


@partial(jax.jit, static_argnames=("solver",))
def begin_block(
    solver: Solver, problem: Problem, controls: Controls, x: State, others: tuple[CompositeTerm, ...] = ()
) -> tuple[Run, jax.Array]:
    """A run that stands at x; and ||grad f|| there, the energies of the terms of f, and those of the others."""
    lifted = problem.lift(x)
    gradient = problem.gradient_lifted(lifted, x)
    slope = jnp.sqrt(sum((summed(jnp.abs(piece) ** 2) for piece in gradient.values()), start=jnp.zeros(())))
    energies = [*problem.terms_lifted(lifted).values(), *(term.value(taken(term.slots, x)) for term in others)]
    told = vector([slope, *(jnp.reshape(energy, ()).astype(slope.dtype) for energy in energies)])
    return begin(solver, problem, controls, x), told


def not_in_f(terms: Mapping[str, tuple[Term, Parts]], problem: Problem) -> tuple[CompositeTerm, ...]:
    """The terms, as the spec has them, that are not part of f."""
    smooth = {term.name for term in problem.smooth}
    return tuple(CompositeTerm(name, term.slots, *parts) for name, (term, parts) in terms.items() if name not in smooth)


def measured(solver: Solver, problem: Problem, controls: Controls, x: State, others: tuple[CompositeTerm, ...]) -> Measured:
    """At x, of the terms of f and of the others."""
    slope, *energies = np.asarray(begin_block(solver, problem, controls, x, others)[1]).tolist()
    return Measured(dict(zip((term.name for term in (*problem.smooth, *others)), energies, strict=True)), slope)
