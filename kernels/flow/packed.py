"""Records whose scalars lie together in one vector for each type.

XLA's CPU back end makes a kernel of each scalar that a program or a turn of a loop gives back, which takes about as long to generate as
that of an image. Of a vector it makes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .pytrees import node, static


@node
class Packed:
    """A record, packed. places: of each of its leaves (the vector or -1 for `arrays`; the index there)."""

    arrays: tuple[jax.Array, ...]
    vectors: tuple[jax.Array, ...]
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
        return cls(tuple(arrays), tuple(vector(group) for group in groups.values()), structure, tuple(places))

    def opened(self) -> Any:
        """The record. Outside of traced functions its scalars are NumPy's."""
        traced = any(isinstance(each, jax.core.Tracer) for each in self.vectors)
        vectors = self.vectors if traced else tuple(np.asarray(each) for each in self.vectors)
        leaves = [self.arrays[index] if group < 0 else vectors[group][index] for group, index in self.places]
        return jax.tree.unflatten(self.structure, leaves)


def vector(scalars: Sequence[jax.Array]) -> jax.Array:
    """The scalars as one array. Chosen by index rather than stacked: XLA fuses choices into one kernel, and parts of a stack not."""
    size = len(scalars)
    made, *others = (jax.lax.broadcast(scalar, (size,)) for scalar in scalars)
    for place, other in enumerate(others, start=1):
        made = jax.lax.select(np.arange(size) == place, other, made)
    return made
