"""The entries of a sparse L by few products: columns that share no row are probed at once (Curtis, Powell & Reid, IMA J. Appl. Math. 13,
1974).

The pattern comes from the operators of the terms; the entries come from L itself, so curved terms and scaled steps are served alike.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from ..operators.arrays import Diagonal, Identity
from ..operators.sparse import Sparse
from ..problem import SmoothTerm
from .curvature import Block


def pattern_of(block: Block) -> scipy.sparse.csr_matrix | None:
    """Where L may have entries: the union of A^T A over the terms, and the diagonal. None where an operator does not say, or where a
    block has several slots."""
    if len(block.shapes) != 1:
        return None
    found = scipy.sparse.identity(block.size, dtype=np.int8, format="csr")
    for term in block.terms:
        if not isinstance(term, SmoothTerm):
            return None
        if type(term.op) in (Identity, Diagonal):
            continue
        if not isinstance(term.op, Sparse):
            return None
        rows, columns, _ = (np.asarray(part) for part in term.op.by_row)
        touched = scipy.sparse.csr_matrix(
            (np.ones(len(rows), np.int8), (rows, columns)), shape=(int(np.prod(term.op.codomain)), block.size)
        )
        # As truth values: sums of many small integers would overflow, and 0 is no entry.
        found = found + (touched.T.astype(bool) @ touched.astype(bool)).astype(np.int8)
    found.data[:] = 1
    return found.tocsr()


def colours(pattern: scipy.sparse.csr_matrix, most: int) -> NDArray[np.int64] | None:
    """A colour for each column, so that no two of a colour have an entry in the same row: the first that is free, columns with many
    neighbours first. None if `most` are not enough."""
    near = pattern.indptr, pattern.indices
    counts = np.diff(near[0])
    if counts.max(initial=0) > most:  # the columns of a full row all differ
        return None
    found = np.full(pattern.shape[0], -1)
    for column in np.argsort(-counts, kind="stable"):
        rows = near[1][near[0][column] : near[0][column + 1]]
        others = np.concatenate([near[1][near[0][row] : near[0][row + 1]] for row in rows])
        taken = found[others]
        free = np.ones(most + 1, bool)
        free[taken[taken >= 0]] = False
        chosen = int(np.argmax(free))
        if chosen >= most:
            return None
        found[column] = chosen
    return found


def probed(block: Block, pattern: scipy.sparse.csr_matrix, most: int) -> scipy.sparse.csr_matrix | None:
    """L with the entries of the pattern, symmetrised; None where that takes more than `most` products."""
    found = colours(pattern, most)
    if found is None:
        return None
    count = int(found.max(initial=0)) + 1
    images = block.apply_many((found[None, :] == np.arange(count)[:, None]).astype(np.float64))
    entries = pattern.tocoo()
    values = images[found[entries.col], entries.row]
    made = scipy.sparse.csr_matrix((values, (entries.row, entries.col)), shape=pattern.shape)
    return ((made + made.T) / 2).tocsr()
