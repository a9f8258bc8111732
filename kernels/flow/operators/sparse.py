"""Sparse matrices, and those of graphs: incidence (differences along edges) and Laplacian."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bounds import Bound
from ..errors import FlowInputError
from ..pytrees import node
from .base import Operator, Shape, operator

# Up to this many rows or columns a norm is computed exactly, from the smaller Gram matrix.
DENSE = 1024

Entries = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


@node
class Sparse(Operator):
    """x -> M x, M given by its entries, held twice: sorted by row for M x and by column for M^T y, so that both add up runs of neighbours.
    x is read in C order."""

    by_row: tuple[jax.Array, jax.Array, jax.Array]  # rows, columns, values
    by_column: tuple[jax.Array, jax.Array, jax.Array]

    structure = "sparse"

    def matvec(self, x: jax.Array) -> jax.Array:
        rows, columns, values = self.by_row
        products = values * jnp.ravel(x)[columns]
        return jax.ops.segment_sum(products, rows, int(np.prod(self.codomain)), indices_are_sorted=True).reshape(self.codomain)

    def rmatvec(self, y: jax.Array) -> jax.Array:
        rows, columns, values = self.by_column
        products = values * jnp.ravel(y)[rows]
        return jax.ops.segment_sum(products, columns, int(np.prod(self.domain)), indices_are_sorted=True).reshape(self.domain)

    def norm_sq(self) -> Bound:
        """Exact for small matrices, else ||M||_1 ||M||_inf, which is never below."""
        rows, columns, values = (np.asarray(part) for part in self.by_row)
        wide, high = int(np.prod(self.domain)), int(np.prod(self.codomain))
        if min(wide, high) <= DENSE and wide * high <= 32 * DENSE**2:
            whole = np.zeros((high, wide))
            whole[rows, columns] = values
            gram = whole.T @ whole if wide <= high else whole @ whole.T
            return Bound(float(np.linalg.eigvalsh(gram)[-1]), "exact", "eigenvalues of the Gram matrix")
        sizes = np.abs(values.astype(np.float64))
        columns_sum = np.bincount(columns, sizes, wide).max()
        rows_sum = np.bincount(rows, sizes, high).max()
        return Bound(float(columns_sum * rows_sum), "upper_bound", "sums of columns times sums of rows")

    def normal_diagonal(self) -> jax.Array:
        _, columns, values = self.by_column
        return jax.ops.segment_sum(values**2, columns, int(np.prod(self.domain)), indices_are_sorted=True).reshape(self.domain)


@node
class Incidence(Sparse):
    """x -> factor_e (x_i - x_j) for each edge e = (i, j) of a graph; A^T A is its Laplacian with the weights factor^2."""

    def norm_sq(self) -> Bound:
        """Exact for small graphs, else max over edges of the degrees at both ends (Anderson & Morley, Linear Multilinear Algebra 18, 1985),
        which is at most twice the largest degree."""
        small = super().norm_sq()
        if small.kind == "exact":
            return small
        rows, nodes, factors = (np.asarray(part) for part in self.by_row)
        weights = factors.astype(np.float64) ** 2
        degrees = np.bincount(nodes, weights, int(np.prod(self.domain)))
        ends = np.bincount(rows, degrees[nodes])
        return Bound(float(min(ends.max(), small.value)), "upper_bound", "degrees at the ends of an edge")


def sparse(domain: Shape, codomain: Shape, entries: Entries, real: np.dtype[Any], kind: type[Sparse] = Sparse) -> Sparse:
    """From entries (rows, columns, values) in any order; those at the same place are added up."""
    rows, columns, values = entries
    wide = int(np.prod(domain))
    places, inverse = np.unique(rows.astype(np.int64) * wide + columns, return_inverse=True)
    added = np.bincount(inverse, values.astype(np.float64), places.size)
    rows, columns = places // wide, places % wide
    order = np.lexsort((rows, columns))

    def held(picked: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        return jnp.asarray(rows[picked], np.int32), jnp.asarray(columns[picked], np.int32), jnp.asarray(added[picked], real)

    return kind(domain, codomain, held(slice(None)), held(order))


@operator("sparse")
def _sparse(
    domain: Shape,
    real: np.dtype[Any],
    *,
    matrix: Any = None,
    rows: ArrayLike | None = None,
    columns: ArrayLike | None = None,
    values: ArrayLike | None = None,
    shape: tuple[int, int] | None = None,
) -> Operator:
    """matrix: of SciPy, or a BCOO of JAX; or its entries as rows, columns, values and its shape."""
    if matrix is not None:
        if hasattr(matrix, "tocoo"):
            entries = matrix.tocoo()
            shape, rows, columns, values = entries.shape, entries.row, entries.col, entries.data
        elif hasattr(matrix, "indices") and getattr(matrix, "n_sparse", None) == 2:
            shape, values = matrix.shape, matrix.data
            rows, columns = np.asarray(matrix.indices).T
        else:
            raise FlowInputError(
                f"sparse takes a matrix of scipy.sparse or a BCOO; this is a {type(matrix).__name__}; use dense for arrays"
            )
    if rows is None or columns is None or values is None or shape is None:
        raise FlowInputError("sparse takes a matrix, or rows, columns, values and shape")
    i, j, v = np.asarray(rows), np.asarray(columns), np.asarray(values)
    if shape[1] != int(np.prod(domain)):
        raise FlowInputError(
            f"the matrix has shape {tuple(shape)}; for a variable of shape {domain} it needs {int(np.prod(domain))} columns"
        )
    if i.shape != j.shape or i.shape != v.shape or i.ndim != 1:
        raise FlowInputError(
            f"rows, columns and values have shapes {i.shape}, {j.shape} and {v.shape}; they must be three lists of the same length"
        )
    if i.size and (min(i.min(), j.min()) < 0 or i.max() >= shape[0] or j.max() >= shape[1]):
        raise FlowInputError(f"an entry of the matrix is outside its shape {tuple(shape)}")
    return sparse(domain, (int(shape[0]),), (i, j, v), real)


def checked_edges(domain: Shape, edges: ArrayLike, weights: ArrayLike | None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Edges as pairs of nodes, and a weight > 0 for each; nodes are the elements of a one-dimensional variable."""
    pairs = np.asarray(edges)
    if len(domain) != 1:
        raise FlowInputError(f"a graph has one value for each node, as an array of one dimension; the variable has shape {domain}")
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer) or not len(pairs):
        raise FlowInputError(f"edges have shape {pairs.shape} and type {pairs.dtype}; they must be pairs of node numbers, shape (edges, 2)")
    if pairs.min() < 0 or pairs.max() >= domain[0] or np.any(pairs[:, 0] == pairs[:, 1]):
        raise FlowInputError(f"an edge joins a node to itself, or a node outside 0..{domain[0] - 1}")
    given = np.ones(len(pairs)) if weights is None else np.asarray(weights, np.float64)
    if given.shape != (len(pairs),) or not np.all(np.isfinite(given) & (given > 0)):
        raise FlowInputError(f"edge weights have shape {given.shape}; they must be {len(pairs)} numbers above 0, one for each edge")
    return pairs.astype(np.int64), given


@operator("incidence")
def _incidence(domain: Shape, real: np.dtype[Any], *, edges: ArrayLike, factors: ArrayLike | None = None) -> Operator:
    """factors: by which each difference is multiplied; 1 by default."""
    pairs, given = checked_edges(domain, edges, factors)
    rows = np.repeat(np.arange(len(pairs)), 2)
    values = np.stack([given, -given], axis=1).ravel()
    return sparse(domain, (len(pairs),), (rows, pairs.ravel(), values), real, Incidence)


@operator("graph_laplacian")
def _graph_laplacian(domain: Shape, real: np.dtype[Any], *, edges: ArrayLike, weights: ArrayLike | None = None) -> Operator:
    """x -> L x, (L x)_i = sum_j w_ij (x_i - x_j)."""
    pairs, given = checked_edges(domain, edges, weights)
    i, j = pairs.T
    rows, columns = np.concatenate([i, j, i, j]), np.concatenate([i, j, j, i])
    return sparse(domain, domain, (rows, columns, np.concatenate([given, given, -given, -given])), real)
