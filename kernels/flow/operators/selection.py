"""Operators that pick elements: masks and inpainting, subsampling, and groups of elements that may overlap."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bounds import Bound
from ..errors import FlowInputError
from ..pytrees import node, static
from .arrays import Diagonal
from .base import Operator, Shape, operator


@node
class Selection(Operator):
    """x -> the elements of x at the flat `indices`. A^T A is diagonal: how often each element is picked, at most `repeats` times."""

    indices: jax.Array
    repeats: int = static()

    structure = "diag"

    def matvec(self, x: jax.Array) -> jax.Array:
        return jnp.ravel(x)[self.indices].reshape(self.codomain)

    def rmatvec(self, y: jax.Array) -> jax.Array:
        return self._scattered(jnp.ravel(y))

    def _scattered(self, y: jax.Array) -> jax.Array:
        size = int(np.prod(self.domain))
        return jnp.zeros(size, y.dtype).at[self.indices].add(y, unique_indices=self.repeats == 1).reshape(self.domain)

    def norm_sq(self) -> Bound:
        return Bound(float(self.repeats), "exact", "how often an element is picked")

    def coisometry(self) -> float | None:
        return 1.0 if self.repeats == 1 else None

    def normal_diagonal(self) -> jax.Array:
        return self._scattered(jnp.ones(self.indices.shape))

    def solve_shifted(self, rhs: jax.Array, tau: jax.Array) -> jax.Array:
        return rhs / (1 + tau * self._scattered(jnp.ones(self.indices.shape, rhs.dtype)))


def selection(domain: Shape, indices: NDArray[Any], codomain: Shape | None = None) -> Selection:
    """The operator that picks elements by their flat indices."""
    flat = np.ravel(indices)
    size = int(np.prod(domain))
    if flat.size == 0 or not np.issubdtype(flat.dtype, np.integer) or flat.min() < 0 or flat.max() >= size:
        raise FlowInputError(f"indices must be whole numbers from 0 to {size - 1}, at least one; the variable has shape {domain}")
    repeats = int(np.bincount(flat).max())
    return Selection(domain, codomain or (flat.size,), jnp.asarray(flat, np.int32), repeats)


@operator("mask")
def _mask(domain: Shape, real: np.dtype[Any], *, keep: ArrayLike) -> Operator:
    """keep: true (or 1) where an element is seen. The result has the shape of x, with 0 where nothing is seen."""
    array = np.asarray(keep)
    try:
        full = np.broadcast_to(array, domain)
    except ValueError:
        raise FlowInputError(f"the mask has shape {array.shape} and its variable {domain}; give one entry for each element") from None
    if not np.all((full == 0) | (full == 1)):
        raise FlowInputError("a mask has entries 0 and 1 only; use diagonal for other factors")
    return Diagonal(domain, domain, jnp.asarray(full, real))


@operator("subsample")
def _subsample(
    domain: Shape, real: np.dtype[Any], *, indices: ArrayLike | None = None, step: Any = None, keep: ArrayLike | None = None
) -> Operator:
    """The elements at flat `indices`, or every `step`-th along each axis (one number or one for each), or where `keep` is true."""
    if sum(given is not None for given in (indices, step, keep)) != 1:
        raise FlowInputError("subsample takes exactly one of indices, step and keep")
    places = np.arange(int(np.prod(domain))).reshape(domain)
    if step is not None:
        strides = np.broadcast_to(np.asarray(step), (len(domain),))
        if not np.issubdtype(strides.dtype, np.integer) or strides.min() < 1:
            raise FlowInputError(f"subsample has step {step!r}; it must be a whole number from 1 up, or one for each axis")
        picked = places[tuple(slice(None, None, int(stride)) for stride in strides)]
        return selection(domain, picked, picked.shape)
    if keep is not None:
        seen = np.asarray(keep)
        if seen.shape != domain:
            raise FlowInputError(f"subsample keeps by an array of shape {seen.shape}; the variable has shape {domain}")
        return selection(domain, places[seen.astype(bool)])
    return selection(domain, np.asarray(indices))
