"""Sums of norms of the subtrees of wavelet coefficients: a coefficient is kept together with its ancestors, so that detail stays where
there is coarser detail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..pytrees import node, static
from .base import Function, Proximal, exactly
from .groups import shrink_factor

Shape = tuple[int, ...]


class Place(NamedTuple):
    """A band of coefficients in the flat vector: [offset, offset + size) in C order of `shape`."""

    offset: int
    size: int
    shape: Shape


@node
class TreeNorm(Function):
    """sum over the details d of weights[level of d] ||u_T(d)||_2, T(d) = d and its descendants. A descendant of index i has the parent
    i // 2 on the next coarser level, in its own orientation; the approximation costs nothing.

    The prox is exact: the shrinkages of the groups, one after the other from the leaves to the root (Jenatton, Mairal, Obozinski & Bach,
    JMLR 12, 2011, theorem 1: groups that are nested or apart). Linear time: the norms are summed upwards, the factors multiplied
    downwards. weights: (levels,), the finest first. chains: for each orientation its bands, finest first.
    """

    weights: jax.Array
    chains: tuple[tuple[Place, ...], ...] = static()

    proximable = True

    def value(self, u: jax.Array) -> jax.Array:
        total = jnp.zeros((), u.dtype)
        for chain in self.chains:
            below: jax.Array | None = None
            for level, (_, part) in enumerate(_bands(u, chain)):
                below = part**2 if below is None else part**2 + _summed(below, part.shape, len(chain[0].shape))
                total = total + self.weights[level] * jnp.sum(jnp.sqrt(below))
        return total

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        point = v
        for chain in self.chains:
            ndim = len(chain[0].shape)
            factors, kept = [], None
            for level, (_, part) in enumerate(_bands(v, chain)):
                squares = part**2 if kept is None else part**2 + _summed(kept, part.shape, ndim)
                factors.append(shrink_factor(jnp.sqrt(squares), tau * self.weights[level]))
                kept = squares * factors[-1] ** 2
            inherited: jax.Array | None = None
            for (place, part), factor in reversed(list(zip(_bands(v, chain), factors, strict=True))):
                inherited = factor if inherited is None else factor * _spread(inherited, part.shape, ndim)
                flat = (part * inherited).reshape(*v.shape[:-1], place.size)
                point = point.at[..., place.offset : place.offset + place.size].set(flat)
        return exactly(self, point)


def _bands(u: jax.Array, chain: tuple[Place, ...]) -> Iterator[tuple[Place, jax.Array]]:
    for place in chain:
        yield place, u[..., place.offset : place.offset + place.size].reshape(*u.shape[:-1], *place.shape)


def _summed(children: jax.Array, shape: Shape, ndim: int) -> jax.Array:
    """The sum over the children of each parent: blocks of 2 along the last `ndim` axes, the last of them cut off where the length is
    odd."""
    first = children.ndim - ndim
    missing = [(0, 2 * shape[axis] - children.shape[axis]) if axis >= first else (0, 0) for axis in range(children.ndim)]
    padded = jnp.pad(children, missing)
    split = padded.reshape(*shape[:first], *(side for axis in range(first, len(shape)) for side in (shape[axis], 2)))
    return jnp.sum(split, axis=tuple(range(first + 1, split.ndim, 2)))


def _spread(parents: jax.Array, shape: Shape, ndim: int) -> jax.Array:
    """What each child has of its parent."""
    for axis in range(parents.ndim - ndim, parents.ndim):
        parents = jnp.repeat(parents, 2, axis=axis)
    return parents[tuple(slice(side) for side in shape)]
