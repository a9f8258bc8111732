"""The rules that need operators built and the energy evaluated where the flow starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .functions.separable import finite_everywhere
from .operators.base import TOLERANCES, Operator, adjoint_error, applied
from .rules import SCALE_FLOOR, Built, Complaint, rule
from .spec import REMEDY
from .transforms.base import TransformOp

STEEP = 1e6  # ||grad f|| at the start
FLAT = 1e-3  # the same there and at 0: below 1, the residual that tol is about is not relative
FAR_APART = 1e6  # the ratio of the largest term to the smallest, where the flow starts


@rule("term.nonconvex", "basic", "error", built=True)
def _convexity(built: Built) -> Iterator[Complaint]:
    for name, (_, parts) in built.terms.items():
        if not parts.phi.convex and not built.spec.allow_nonconvex:
            cure = "set allow_nonconvex=True if a local minimum will do"
            yield Complaint(f"the term {name}", "it is not convex", cure)


def _linear(name: str, op: Operator, real: np.dtype[Any]) -> Iterator[Complaint]:
    tolerance = TOLERANCES[real.name]
    try:
        rng = np.random.default_rng(2)
        x, y = (rng.standard_normal(op.domain).astype(real) for _ in range(2))
        images = applied(op, x), applied(op, y), applied(op, 0.5 * x - 2.0 * y)
    except (TypeError, ValueError) as error:
        yield Complaint(f"the term {name}", f"its operator cannot be applied: {error}", "check its shapes")
        return
    if images[0].shape != op.codomain:
        yield Complaint(f"the term {name}", f"A x has shape {images[0].shape}, declared is {op.codomain}", "correct the declaration")
        return
    off = float(np.linalg.norm((images[2] - 0.5 * images[0] + 2.0 * images[1]).ravel()))
    size = float(np.linalg.norm(images[0].ravel()) + np.linalg.norm(images[1].ravel()))
    if not off <= tolerance * max(size, 1e-300) * 10:
        yield Complaint(f"the term {name}", f"its operator is not linear, A(ax+by) is off by {off:.2g}", "move constants to the target")
        return
    apart = adjoint_error(op, real)
    if not apart <= tolerance * math.sqrt(max(math.prod(op.domain), 1)):
        yield Complaint(f"the term {name}", f"<Ax, y> and <x, A^T y> differ by {apart:.2g}", "correct rmatvec, or leave it out")


@rule("operator.adjoint", "flexible", "error", built=True)
def _adjoint_of_own(built: Built) -> Iterator[Complaint]:
    """Operators of which nothing is known, such as functions of the user; in strict mode all are tested, by the next rule."""
    for name, (term, parts) in built.terms.items():
        if _unknown(parts.op) and len(term.slots) == 1:
            yield from _linear(name, parts.op, np.dtype(built.spec.dtype))


@rule("operator.adjoint_all", "strict", "error", built=True)
def _adjoint_of_all(built: Built) -> Iterator[Complaint]:
    for name, (term, parts) in built.terms.items():
        if not _unknown(parts.op) and parts.op.structure != "identity" and len(term.slots) == 1:
            yield from _linear(name, parts.op, np.dtype(built.spec.dtype))


def _unknown(op: Operator) -> bool:
    # Of our transforms the frame is known, and with it W^T W; to apply a large one seven times would cost more than all other rules.
    ours = isinstance(op, TransformOp) and type(op).__module__.startswith(f"{__package__}.")
    return op.structure == "general" and not ours


@rule("energy.steep", "flexible", "warning", numerical=True, built=True)
def _steep(built: Built) -> Iterator[Complaint]:
    size = built.slope
    if not np.isfinite(size):
        yield Complaint("the energy", "its gradient is not finite where the flow starts", "start inside the domain")
    elif size > STEEP:
        yield Complaint("the energy", f"||grad f|| is {size:.3g} where the flow starts", "scale the data, or start nearer")


@rule("energy.flat", "flexible", "warning", built=True)
def _flat(built: Built) -> Iterator[Complaint]:
    if built.problem.manifolds:
        return
    # Near a minimum it is small whatever the units; at 0 it tells the size of the data.
    size = max(built.slope, built.slope_at_zero)
    if 0 < size < FLAT:
        message = f"||grad f|| is {size:.3g} where the flow starts and at 0, and the residual is relative to it only above 1"
        yield Complaint("the energy", message, f"scale the data so that it is about 1, or take a tol of about {1e-6 * size:.0e}")


@rule("energy.scales", "flexible", "warning", numerical=True, built=True)
def _scales(built: Built) -> Iterator[Complaint]:
    scales = {name: scale for name, scale in built.scales.items() if scale > SCALE_FLOOR}
    if scales and max(scales.values()) > FAR_APART * min(scales.values()):
        large, small = max(scales, key=lambda name: scales[name]), min(scales, key=lambda name: scales[name])
        message = f"{large} is {scales[large] / scales[small]:.2g} times {small} where the flow starts"
        yield Complaint("the energy", message, "weigh the terms, or normalise=True")


@rule("energy.normalised", "flexible", "warning", strict="error", built=True)
def _normalised(built: Built) -> Iterator[Complaint]:
    """Sets are 0 wherever they are finite, and no weight changes them."""
    if not built.spec.normalise:
        return
    for name, (_, parts) in built.terms.items():
        if built.scales[name] <= SCALE_FLOOR and not name.startswith(REMEDY) and finite_everywhere(parts.phi):
            message = f"it is 0 where the flow starts, so that normalise multiplies its weight by {1 / SCALE_FLOOR:.0e}"
            yield Complaint(f"the term {name}", message, "start where it is not, or leave normalise and weigh the terms")
