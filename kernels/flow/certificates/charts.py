"""L of slots that live on manifolds: in an orthonormal basis of the tangent space, where it is the Riemannian Hessian of f.

The Euclidean second derivative says nothing there: 1/2 ||x - y||^2 has the identity, and on a sphere it is not convex.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..manifolds.base import Manifold
from ..problem import Problem, State

# A basis is found from a dense matrix of the slot's size; larger slots are not examined.
LARGEST = 2048


def too_large(problem: Problem, x: State) -> list[str]:
    """The slots on manifolds that are too large to have their tangent space written down."""
    return [slot for slot in problem.manifolds if x[slot].size > LARGEST]


def tangent_bases(problem: Problem, x: State) -> State:
    """For each slot on a manifold an orthonormal basis of its tangent space at x: an array of (dimension, *shape)."""
    return {slot: _basis(made, x[slot]) for slot, made in problem.manifolds.items() if slot in x}


def hessian(problem: Problem, x: State, bases: State, direction: State) -> State:
    """L v, v in coordinates of the bases for slots that have one: the second derivative of f along second-order approximations of
    geodesics, which is the Riemannian Hessian wherever x is (Bo23, proposition 5.44)."""

    def energy(coordinates: State) -> jax.Array:
        return problem.f_value({slot: _moved(problem, slot, at, bases, coordinates[slot]) for slot, at in x.items()})

    still = {slot: jnp.zeros_like(part) for slot, part in direction.items()}
    second: State = jax.jvp(jax.grad(energy), (still,), (direction,))[1]
    return second


def _moved(problem: Problem, slot: str, at: jax.Array, bases: State, coordinates: jax.Array) -> jax.Array:
    if slot not in bases:
        return at + coordinates
    velocity = jnp.tensordot(coordinates, bases[slot], 1)
    return at + velocity + problem.manifolds[slot].acceleration(at, velocity) / 2


def _basis(made: Manifold, x: jax.Array) -> jax.Array:
    units = jnp.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape)
    spanning = jax.vmap(lambda unit: made.proj_tangent(x, unit))(units)
    gram = jax.vmap(lambda v: jax.vmap(lambda w: made.inner(x, v, w))(spanning))(spanning)
    sizes, turns = np.linalg.eigh(np.asarray(gram, np.float64))
    held = sizes > 1e-9 * sizes.max(initial=0.0)
    return jnp.tensordot(jnp.asarray((turns[:, held] / np.sqrt(sizes[held])).T, x.dtype), spanning, 1)
