"""Atoms that compare A x with data: Huber, logistic, and the Poisson likelihood."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import FlowInputError
from ..functions.losses import Huber, Logistic, Poisson
from ..operators.base import Shape
from .base import Asked, Parts, atom


@atom("huber", r"w\sum h_\kappa(Ax-b),\ h_\kappa(r)=\tfrac12r^2\ (|r|\le\kappa),\ \kappa|r|-\tfrac12\kappa^2\ \text{else}")
def huber(asked: Asked, *, kappa: float = 1.0) -> Parts:
    op = asked.operator()
    return Parts(op, Huber(asked.scalar(asked.weight), asked.positive("kappa", kappa), asked.goal(op.codomain)))


@atom("poisson", r"w\sum(Ax+d)-b\log(Ax+d)")
def poisson(asked: Asked, *, background: ArrayLike = 0.0) -> Parts:
    """target: the counts b. background: d, what is counted where x = 0."""
    op = asked.operator()
    counts = _data(asked, op.codomain, "counts of 0 or more")
    if np.any(counts < 0):
        raise FlowInputError(f"the term {asked.name} counts {counts.min():.3g} somewhere; counts must be 0 or more: subtract no background")
    dark = asked.positive("background", background, op.codomain, zero=True)
    return Parts(op, Poisson(asked.scalar(asked.weight), asked.scalar(counts), dark))


@atom("logistic", r"w\sum\log(1+e^{-b\cdot Ax})")
def logistic(asked: Asked) -> Parts:
    """target: the labels b, +1 or -1."""
    op = asked.operator()
    labels = _data(asked, op.codomain, "labels +1 and -1")
    if not np.all(np.abs(labels) == 1):
        raise FlowInputError(
            f"the term {asked.name} has labels {np.unique(labels)[:5].tolist()}; they must be +1 and -1: use 2*b - 1 for 0 and 1"
        )
    return Parts(op, Logistic(asked.scalar(asked.weight), asked.scalar(labels)))


def _data(asked: Asked, shape: Shape, what: str) -> NDArray[np.float64]:
    """The target as an array of this shape."""
    if asked.target is None:
        raise FlowInputError(f"the term {asked.name} needs a target: {what}")
    return np.asarray(jnp.broadcast_to(asked.goal(shape), shape), np.float64)
