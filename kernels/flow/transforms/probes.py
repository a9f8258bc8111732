"""Is a transform what it says? Reconstruction, Parseval, adjointness and the frame bounds, measured on random arrays, as plain data.

For manifests (`transforms.validation`) and for lint, which refuses a transform that fails.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..operators.base import adjoint_error
from ..precision import real_dtype
from .base import TransformOp

TOLERANCES = {"float32": 1e-5, "float64": 1e-12}
_LANCZOS_STEPS = 40


def validation(transform: TransformOp, *, seed: int = 0, probes: int = 5) -> dict[str, Any]:
    """Three checks and the measured bounds of the frame, each with its figures and whether it passed; {"passed": all of them}.

    Takes the floating point type of the present `precision`; the tolerances are 1e-12 in float64 and 1e-5 in float32.
    """
    real = real_dtype()
    tolerance = TOLERANCES[real.name]
    forward, inverse = jax.jit(transform.forward), jax.jit(transform.inverse)
    rng = np.random.default_rng(seed)
    reconstruction, energies = [], []
    for _ in range(probes):
        x = jnp.asarray(rng.standard_normal(transform.domain), real)
        u = forward(x)
        size = float(jnp.linalg.norm(x.ravel()))
        reconstruction.append(float(jnp.linalg.norm((inverse(u) - x).ravel())) / size)
        energies.append((float(jnp.linalg.norm(u.ravel())) / size) ** 2)
    adjoint = adjoint_error(transform, real, range(seed, seed + 2))
    measured_lower, measured_upper = measured_bounds(transform, seed=seed)
    lower, upper = (bound.value for bound in transform.frame_bounds())
    # Lanczos finds bounds from inside, so they cannot show that the declared ones hold, only that they do not.
    inside = [max(0.0, lower - energy, energy - upper) / upper for energy in [*energies, measured_lower, measured_upper]]
    checks = {
        "reconstruction": _judged(reconstruction, tolerance),
        "parseval" if transform.frame != "general" else "frame_inequality": _judged(inside, tolerance),
        "adjoint": _judged([adjoint], tolerance),
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
    real = real_dtype()
    apply = jax.jit(lambda x: transform.adjoint(transform.forward(x)))
    start = np.random.default_rng(seed).standard_normal(transform.domain).ravel()
    basis = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        image = np.asarray(apply(jnp.asarray(basis[-1].reshape(transform.domain), real)), np.float64).ravel()
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
