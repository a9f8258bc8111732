"""Atoms that are norms of A x - b and make it sparse: l1, weighted, elastic net, groups, and nuclear norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ..errors import FlowInputError
from ..functions.base import Function
from ..functions.composed import Translated
from ..functions.groups import GroupNorm, NuclearNorm
from ..functions.separable import Separable
from ..operators.base import Op
from ..operators.combined import Composed
from ..operators.selection import selection
from .base import Asked, Parts, atom


@atom("l1", r"w\|Ax-b\|_1")
def l1(asked: Asked) -> Parts:
    op = asked.operator()
    return Parts(op, aimed(asked, op.codomain, separable(asked, threshold=asked.weight)))


@atom("l1_data", r"w\|Ax-b\|_1")
def l1_data(asked: Asked) -> Parts:
    if asked.target is None:
        raise FlowInputError(f"the term {asked.name} needs a target: it is w||Ax - b||_1; without one use l1")
    return l1(asked)


@atom("weighted_l1", r"w\sum_i\lambda_i|(Ax-b)_i|")
def weighted_l1(asked: Asked, *, weights: ArrayLike) -> Parts:
    op = asked.operator()
    each = asked.positive("weights", weights, op.codomain, zero=True)
    return Parts(op, aimed(asked, op.codomain, separable(asked, threshold=asked.weight * each)))


@atom("elastic_net", r"w(\|Ax-b\|_1+\frac{r}{2}\|Ax-b\|^2)")
def elastic_net(asked: Asked, *, ridge: float = 1.0) -> Parts:
    op = asked.operator()
    curved = asked.weight * asked.positive("ridge", ridge, zero=True)
    return Parts(op, aimed(asked, op.codomain, separable(asked, threshold=asked.weight, ridge=curved)))


@atom("group_l1", r"w\sum_g\lambda_g\|(Ax-b)_g\|_2")
def group_l1(asked: Asked, *, groups: ArrayLike | Sequence[ArrayLike], weights: ArrayLike | None = None) -> Parts:
    """groups: an array of whole numbers of the shape of A x that says the group of each element, or a list of arrays of flat indices, which
    may overlap and leave elements out. weights: lambda, one for each group; 1 by default."""
    op = asked.operator()
    labels = _labels(groups, op.codomain)
    zero = asked.scalar(0.0)
    if labels is not None:
        if int(labels.max()) >= labels.size:
            raise FlowInputError(
                f"the term {asked.name}: a group is called {labels.max()}; number the groups from 0, up to {labels.size - 1}"
            )
        count = int(labels.max()) + 1
        each = jnp.broadcast_to(asked.positive("weights", 1.0 if weights is None else weights, (count,), zero=True), (count,))
        norm = GroupNorm(asked.weight * each, jnp.asarray(labels, np.int32), zero, zero, count)
        return Parts(op, aimed(asked, op.codomain, norm))
    members = [np.ravel(np.asarray(group)) for group in groups]  # type: ignore[union-attr]  # not an array, so a sequence of them
    if not members or any(not np.issubdtype(group.dtype, np.integer) or not group.size for group in members):
        raise FlowInputError(f"the term {asked.name}: groups must be an array of labels of shape {op.codomain}, or lists of flat indices")
    # Each group gets its own copy of its elements, so that groups of copies do not overlap: the norm stands behind the copying.
    copied = selection(op.codomain, np.concatenate(members))
    count = len(members)
    each = jnp.broadcast_to(asked.positive("weights", 1.0 if weights is None else weights, (count,), zero=True), (count,))
    owner = np.repeat(np.arange(count), [group.size for group in members])
    goal = None if asked.target is None else copied.matvec(jnp.broadcast_to(asked.goal(op.codomain), op.codomain))
    norm = GroupNorm(asked.weight * each, jnp.asarray(owner, np.int32), zero, zero, count)
    behind = copied if op.structure == "identity" else Composed(op.domain, copied.codomain, copied, op)
    return Parts(behind, norm if goal is None else Translated(norm, goal))


@atom("nuclear", r"w\|AX-B\|_*")
def nuclear(asked: Asked) -> Parts:
    """Of the matrices in the last two axes."""
    op = asked.operator(Op("identity"))
    if len(op.codomain) < 2:
        raise FlowInputError(f"the term {asked.name}: the nuclear norm is of matrices, and A x has shape {op.codomain}")
    return Parts(op, aimed(asked, op.codomain, NuclearNorm(asked.scalar(asked.weight), asked.scalar(0.0))))


def separable(asked: Asked, *, threshold: Any = None, ridge: Any = None, lower: Any = None, upper: Any = None) -> Separable:
    """l1, ridge and bounds, those that are given, be they 0: a weight may be another later."""
    given = {"threshold": threshold is not None, "ridge": ridge is not None, "bounds": lower is not None or upper is not None}
    return Separable(
        asked.scalar(0.0 if threshold is None else threshold),
        asked.scalar(0.0 if ridge is None else ridge),
        asked.scalar(-np.inf if lower is None else lower),
        asked.scalar(np.inf if upper is None else upper),
        frozenset(name for name, there in given.items() if there),
    )


def aimed(asked: Asked, shape: tuple[int, ...], phi: Function) -> Function:
    """phi(u - b), or phi where the term has no target."""
    return phi if asked.target is None else Translated(phi, asked.goal(shape))


def _labels(groups: ArrayLike | Sequence[ArrayLike], shape: tuple[int, ...]) -> Any:
    """Groups as labels of the shape, or None where they are lists of indices."""
    try:
        array = np.asarray(groups)
    except ValueError:  # lists of different lengths
        return None
    if array.shape != shape or not np.issubdtype(array.dtype, np.integer) or array.min() < 0:
        return None
    return array
