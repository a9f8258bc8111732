"""The l1 norm of the coefficients of a transform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ..errors import FlowInputError
from ..functions.base import Function
from ..functions.groups import GroupNorm
from ..functions.trees import Place, TreeNorm
from ..operators.arrays import Identity
from ..operators.base import Op, Shape
from ..transforms.base import TransformOp, band_thresholds
from ..transforms.synthesis import transform_of
from .base import Asked, Parts, atom
from .norms import separable

FORMS = ("analysis", "synthesis")
SPARSITIES = ("l1", "group_l1", "tree")


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
    sparsity: str = "l1",
    frame: str | None = None,
    c: float | None = None,
) -> Parts:
    """wavelet, levels, ndim: an orthonormal wavelet, "haar" with as many levels as fit if none is given; or `transform`, a description of
    any. lambdas: by level, by band, or one for all. threshold_approx: whether the approximation band pays too.

    form: a redundant transform needs one. "analysis": the variable is x. "synthesis": it is u, the coefficients of arrays of `shape`, and
    the other terms take x = W~^T u with Op("synthesis", of=transform, shape=shape).

    sparsity: "l1" of the coefficients; "group_l1" of their Euclidean norms over the orientations and channels at one place of a level;
    "tree" of the norms of each with its descendants (`functions.trees`). Both take one lambda for each level.

    frame, c: what W is believed to be, "unitary", "tight" with W^T W = c I, or "general"; another transform is refused.
    """
    if sparsity not in SPARSITIES:
        raise FlowInputError(f"the term {asked.name}: sparsity is {sparsity!r}; it must be one of {', '.join(SPARSITIES)}")
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
    _check_frame(asked, made, frame, c)
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
    if sparsity != "l1":
        return Parts(Identity(asked.shape, asked.shape) if form == "synthesis" else made, _structured(asked, made, thresholds, sparsity))
    # One number is faster than an array of equal ones; axes in front of the coefficients share theirs.
    threshold = thresholds[0] if np.all(thresholds == thresholds[0]) else thresholds
    return Parts(Identity(asked.shape, asked.shape) if form == "synthesis" else made, separable(asked, threshold=threshold))


def _check_frame(asked: Asked, made: TransformOp, frame: str | None, c: float | None) -> None:
    """Raises FlowInputError where the frame that was declared is not that of the transform."""
    if frame is None and c is None:
        return
    held = frame in (None, "general", made.frame) or (frame, made.frame) == ("tight", "unitary")
    if not held or (c is not None and (made.frame == "general" or not np.isclose(float(c), made.c, rtol=1e-3))):
        told = f"the term {asked.name} declares a {frame or 'tight'} frame" + ("" if c is None else f" with c = {c!r}")
        known = made.frame + ("" if made.frame == "general" else f" with c = {made.c:g}")
        raise FlowInputError(f"{told}, and its transform {made.name} is {known}; declare that, or leave it out")


def _structured(asked: Asked, made: TransformOp, thresholds: NDArray[Any], sparsity: str) -> Function:
    """The norm of groups or of subtrees of the coefficients."""
    per_band = [float(thresholds[band.offset]) for band in made.bands]
    details = [(band, weight) for band, weight in zip(made.bands, per_band, strict=True) if not band.approximation]
    levels = sorted({band.level for band, _ in details})
    weights = [max(weight for band, weight in details if band.level == level) for level in levels]
    unequal = any(weight != weights[levels.index(band.level)] for band, weight in details)
    if unequal or any(weight for band, weight in zip(made.bands, per_band, strict=True) if band.approximation):
        raise FlowInputError(
            f"the term {asked.name}: sparsity {sparsity} joins the orientations of a level and leaves the approximation alone; "
            "give one lambda for each level, without threshold_approx"
        )
    if sparsity == "group_l1":
        labels, each = np.zeros(made.codomain[-1], np.int32), [0.0]  # group 0: the approximation, which costs nothing
        for level, weight in zip(levels, weights, strict=True):
            beside = [band for band, _ in details if band.level == level]
            # Where sides are odd, an orientation may lack the last row or column of places.
            sides = np.max([band.shape for band in beside], axis=0)
            places = len(each) + np.arange(np.prod(sides)).reshape(sides)
            for band in beside:
                labels[band.offset : band.offset + band.size] = places[tuple(slice(side) for side in band.shape)].ravel()
            each += [weight] * places.size
        everywhere = np.broadcast_to(labels, made.codomain)
        zero = asked.scalar(0.0)
        return GroupNorm(asked.scalar(each), jnp.asarray(everywhere), zero, zero, len(each))
    chains = []
    for orientation in sorted({band.orientation for band, _ in details}):
        bands = sorted((band for band, _ in details if band.orientation == orientation), key=lambda band: band.level)
        for child, parent in pairwise(bands):
            if any((side + 1) // 2 != coarser for side, coarser in zip(child.shape, parent.shape, strict=True)):
                raise FlowInputError(
                    f"the term {asked.name}: a tree has half as many parents as children, and {made.name} has bands of {parent.shape} over "
                    f"{child.shape}; use an orthonormal wavelet, or sparsity='group_l1'"
                )
        chains.append(tuple(Place(band.offset, band.size, band.shape) for band in bands))
    return TreeNorm(asked.scalar(weights), tuple(chains))
