"""The l1 norm of the coefficients of a transform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import FlowInputError
from ..functions.separable import Separable
from ..operators.arrays import Identity
from ..operators.base import Op, Shape
from ..transforms.base import band_thresholds
from ..transforms.synthesis import transform_of
from .base import Asked, Parts, atom

FORMS = ("analysis", "synthesis")


@atom("wavelet_l1", r"w\sum_j\lambda_j\|W_jx\|_1")
def wavelet_l1(
    asked: Asked,
    *,
    wavelet: str | None = None,
    levels: int | None = None,
    ndim: int | None = None,
    transform: Op | None = None,
    lambdas: Mapping[int, float] | Sequence[float] | float = 1.0,
    threshold_approx: bool = False,
    form: str | None = None,
    shape: Shape | None = None,
) -> Parts:
    """wavelet, levels, ndim: an orthonormal wavelet, "haar" with as many levels as fit if none is given; or `transform`, a description of
    any. lambdas: by level, by band, or one for all. threshold_approx: whether the approximation band pays too.

    form: a redundant transform needs one. "analysis": the variable is x. "synthesis": it is u, the coefficients of arrays of `shape`, and
    the other terms take x = W~^T u with Op("synthesis", of=transform, shape=shape).
    """
    if asked.op is not None:
        raise FlowInputError(f"the term {asked.name}: wavelet_l1 has an operator W of its own; leave out op, or use l1 with both composed")
    if transform is not None and (wavelet is not None or levels is not None or ndim is not None):
        raise FlowInputError(f"the term {asked.name}: give either transform, or wavelet, levels and ndim")
    if form is not None and form not in FORMS:
        raise FlowInputError(f"the term {asked.name}: form is {form!r}; it must be one of {', '.join(FORMS)}")
    if (form == "synthesis") != (shape is not None):
        raise FlowInputError(f"the term {asked.name}: shape is that of the arrays of a synthesis prior, and of nothing else; it is {shape}")
    described = transform or Op("wavelet", wavelet=wavelet or "haar", levels=levels, ndim=ndim)
    made = transform_of(described, asked.shape if shape is None else tuple(shape), asked.real)
    if made.redundant and form is None:
        raise FlowInputError(
            f"the term {asked.name}: {described!r} is redundant, so the analysis form ||W x||_1 and the synthesis form x = W~^T u, ||u||_1 "
            f"are different models; say which with form='analysis' or form='synthesis'"
        )
    if form == "synthesis" and asked.shape != made.codomain:
        raise FlowInputError(
            f"the term {asked.name}: its variable has shape {asked.shape}, but {described!r} has {made.codomain} coefficients of {shape}"
        )
    thresholds = asked.weight * band_thresholds(made, lambdas, threshold_approx)
    # One number is faster than an array of equal ones; axes in front of the coefficients share theirs.
    threshold = thresholds[0] if np.all(thresholds == thresholds[0]) else thresholds
    phi = Separable(*(asked.scalar(number) for number in (threshold, 0.0, -np.inf, np.inf)))
    return Parts(Identity(asked.shape, asked.shape) if form == "synthesis" else made, phi)
