"""Is a transform what it says? Reconstruction, Parseval, adjointness and the frame bounds, measured on random arrays, as plain data.

For the record (`transforms.validation`); lint has a test of its own, of operators of which nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from ..operators.base import TOLERANCES, Shape
from ..precision import real_dtype
from .base import TransformOp

_LANCZOS_STEPS = 40


# Compiled once for all transforms of a structure.
_forward = jax.jit(lambda transform, x: transform.forward(x))
_adjoint = jax.jit(lambda transform, u: transform.adjoint(u))
_inverse = jax.jit(lambda transform, u: transform.inverse(u))


def validation(transform: TransformOp, *, seed: int = 0, probes: int = 5) -> dict[str, Any]:
    """Three checks and the measured bounds of the frame, each with its figures and whether it passed; {"passed": all of them}.

    Takes the floating point type of the present `precision`; the tolerances are 1e-12 in float64 and 1e-5 in float32.
    """
    real = real_dtype()
    tolerance = TOLERANCES[real.name]
    forward, adjoint, inverse = (partial(call, transform) for call in (_forward, _adjoint, _inverse))
    rng = np.random.default_rng(seed)
    reconstruction, energies, asymmetry = [], [], []
    for _ in range(probes):
        x, y = (rng.standard_normal(shape).astype(real) for shape in (transform.domain, transform.codomain))
        u = forward(x)
        size = float(np.linalg.norm(x))
        reconstruction.append(float(np.linalg.norm(np.asarray(inverse(u)) - x)) / size)
        energies.append((float(np.linalg.norm(u)) / size) ** 2)
        gap = np.vdot(np.asarray(u, np.float64), y) - np.vdot(np.asarray(adjoint(y), np.float64), x)
        asymmetry.append(abs(float(gap)) / float(np.linalg.norm(u) * np.linalg.norm(y)))
    measured_lower, measured_upper = _ritz(lambda x: adjoint(forward(x)), transform.domain, seed, _LANCZOS_STEPS)
    lower, upper = (bound.value for bound in transform.frame_bounds())
    # Lanczos finds bounds from inside, so they cannot show that the declared ones hold, only that they do not.
    inside = [max(0.0, lower - energy, energy - upper) / upper for energy in [*energies, measured_lower, measured_upper]]
    checks = {
        "reconstruction": _judged(reconstruction, tolerance),
        "parseval" if transform.frame != "general" else "frame_inequality": _judged(inside, tolerance),
        "adjoint": _judged(asymmetry, tolerance),
    }
    return {
        "name": transform.name,
        "frame": transform.frame,
        "c": transform.c,
        "bounds": {"A": lower, "B": upper},
        "measured_bounds": {"A": measured_lower, "B": measured_upper, "kind": "estimate", "method": "Lanczos"},
        "dtype": real.name,
        "seed": seed,
        "probes": probes,
        **checks,
        "passed": all(check["passed"] for check in checks.values()),
    }


def _judged(errors: list[float], tolerance: float) -> dict[str, Any]:
    return {
        "mean": float(np.mean(errors)),
        "std": float(np.std(errors)),
        "max": float(np.max(errors)),
        "tolerance": tolerance,
        "passed": bool(np.max(errors) <= tolerance),
    }


def measured_bounds(transform: TransformOp, *, seed: int = 0, steps: int = _LANCZOS_STEPS) -> tuple[float, float]:
    """The extreme Ritz values of W^T W: A from above, B from below. Lanczos with full reorthogonalisation, stopped at breakdown."""
    return _ritz(jax.jit(lambda x: transform.adjoint(transform.forward(x))), transform.domain, seed, steps)


def _ritz(apply: Callable[[Any], jax.Array], shape: Shape, seed: int, steps: int) -> tuple[float, float]:
    real = real_dtype()
    start = np.random.default_rng(seed).standard_normal(shape).ravel()
    basis = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        image = np.asarray(apply(basis[-1].reshape(shape).astype(real)), np.float64).ravel()
        diagonal.append(float(image @ basis[-1]))
        spanned = np.stack(basis)
        for _ in range(2):
            image = image - spanned.T @ (spanned @ image)
        rest = float(np.linalg.norm(image))
        if len(basis) >= min(steps, image.size) or rest <= 100 * float(np.finfo(real).eps) * abs(diagonal[0]):
            break
        beside.append(rest)
        basis.append(image / rest)
    ritz = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    return float(ritz[0]), float(ritz[-1])
