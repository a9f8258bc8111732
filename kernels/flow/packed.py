"""Scalars that lie together in vectors.

XLA's CPU back end makes a kernel of each scalar that a program or a turn of a loop gives back, and of each root and quotient of scalars
in it. That takes about as long to generate as a kernel for an image. Of a vector it makes one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .pytrees import node, static

FUSED = 8  # parts of a stack that become one kernel with what they are computed from; of more, each part is a kernel


@node
class Packed:
    """A record, packed. places: of each of its leaves (the vector or -1 for `arrays`; the index there).

    The vectors are first: with them as the first results of a loop, XLA's CPU back end was seen to run the sums of a step beside its next
    transform; otherwise, after it.
    """

    vectors: tuple[jax.Array, ...]
    arrays: tuple[jax.Array, ...]
    structure: Any = static()
    places: tuple[tuple[int, int], ...] = static()

    @classmethod
    def of(cls, record: Any) -> Packed:
        """Packs a record of arrays and scalars; in a traced function."""
        leaves, structure = jax.tree.flatten(record)
        arrays: list[jax.Array] = []
        groups: dict[Any, list[jax.Array]] = {}
        places = []
        for leaf in leaves:
            fits = jnp.ndim(leaf) == 0 and jnp.result_type(leaf).kind in "fi"
            group = groups.setdefault(leaf.dtype, []) if fits else arrays
            places.append((list(groups).index(leaf.dtype) if fits else -1, len(group)))
            group.append(leaf)
        return cls(tuple(vector(group) for group in groups.values()), tuple(arrays), structure, tuple(places))

    def opened(self) -> Any:
        """The record. Outside of traced functions its scalars are NumPy's."""
        traced = any(isinstance(each, jax.core.Tracer) for each in self.vectors)
        vectors = self.vectors if traced else tuple(np.asarray(each) for each in self.vectors)
        leaves = [self.arrays[index] if group < 0 else vectors[group][index] for group, index in self.places]
        return jax.tree.unflatten(self.structure, leaves)


def vector(scalars: Sequence[jax.Array]) -> jax.Array:
    """The scalars as one array: a stack of stacks."""
    size, most = len(scalars), FUSED**2
    if size > most:
        return jnp.concatenate([vector(scalars[first : first + most]) for first in range(0, size, most)])
    rows = -(-size // FUSED)
    width = -(-size // rows)
    filled = [*scalars, *(jnp.zeros_like(scalars[0]) for _ in range(rows * width - size))]
    return jnp.stack([jnp.stack(filled[row * width : (row + 1) * width]) for row in range(rows)]).reshape(-1)[:size]


def elementwise(function: Callable[..., jax.Array], *columns: Sequence[jax.Array]) -> list[jax.Array]:
    """function(one, of, each, column) for each place of the columns, together."""
    made = function(*map(vector, columns))
    return [made[place] for place in range(len(columns[0]))]
