"""Which transform makes given data sparse: lenses are ranked by their best approximation with K terms; the choice is told as plain data.

The sparsity lens is for the prox; the lens of the certificates (`dft` for convolutions) may be another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import FlowInputError
from ..operators.base import Op, plain
from ..precision import real_dtype
from .base import TransformOp
from .synthesis import transform_of

DEFAULT_CANDIDATES = (Op("wavelet", wavelet="haar", levels=3), Op("wavelet", wavelet="db4", levels=3))
SELECTION_RULES = ("min_reconstruction_error", "max_sparsity_at_target")
# Errors this close, relative to the larger, are a tie: the candidate that comes first wins. So are errors of up to this many units of
# rounding, which tell nothing of the data.
_TIE = 1e-9
_ROUNDING = 32


@dataclass(frozen=True)
class LensPolicy:
    """How a lens is chosen.

    target_sparsity s: K = ceil((1 - s) n) terms are kept. selection_rule: "min_reconstruction_error", the least relative error with K
    terms; "max_sparsity_at_target", the fewest terms that come within `target_error`. threshold: coefficients above it count as dense.
    calibration: data like those of the flow, where the compiler is to choose on others than the flow's own.
    """

    candidates: tuple[Op, ...] = DEFAULT_CANDIDATES
    probe_metrics: tuple[str, ...] = ("compressibility", "reconstruction_error")
    selection_rule: str = "min_reconstruction_error"
    target_sparsity: float = 0.8
    target_error: float = 0.05
    threshold: float = 1e-8
    calibration: ArrayLike | None = None

    def __post_init__(self) -> None:
        for name in ("target_sparsity", "target_error", "threshold"):
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, (int, float)):
                raise FlowInputError(f"{name} of a LensPolicy is {value!r:.60}; it must be a number")
        if not (isinstance(self.candidates, tuple) and all(isinstance(one, Op) for one in self.candidates)):
            raise FlowInputError(f"candidates of a LensPolicy are {self.candidates!r:.60}; give a tuple of transforms, as Op('wavelet')")
        if not self.candidates:
            raise FlowInputError("a LensPolicy needs at least one candidate, such as Op('wavelet', wavelet='haar', levels=3)")
        if self.selection_rule not in SELECTION_RULES:
            raise FlowInputError(f"selection_rule is {self.selection_rule!r}; it must be one of {', '.join(SELECTION_RULES)}")
        if not 0 <= self.target_sparsity < 1:
            raise FlowInputError(f"target_sparsity is {self.target_sparsity!r}; it must be at least 0 and less than 1")
        if not 0 < self.target_error < 1:
            raise FlowInputError(f"target_error is {self.target_error!r}; it must be between 0 and 1")

    def identity(self) -> Any:
        """For digests and manifests."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True)
class Lens:
    """The winner: its description, the transform for the shape of the data, and the report (`lens_probe`)."""

    described: Op
    transform: TransformOp
    report: dict[str, Any]


def choose_lens(policy: LensPolicy, data: ArrayLike) -> Lens:
    """The best candidate for data, which may have batch axes in front of those that a candidate transforms.

    Runs in the present `precision`. Raises FlowInputError for data that is not finite and for candidates that are no transforms.
    """
    real = real_dtype()
    signal = np.asarray(data, real)
    if not np.all(np.isfinite(signal)):
        raise FlowInputError("the data that lenses are probed with holds NaN or infinity; mask or replace these values first")
    transforms = [transform_of(candidate, signal.shape, real) for candidate in policy.candidates]
    found = [_probed(policy, transform, signal) for transform in transforms]
    key = "best_k_error" if policy.selection_rule == "min_reconstruction_error" else "terms_at_target_error"
    least = _ROUNDING * float(np.finfo(real).eps)
    winner = 0
    for number, result in enumerate(found):
        if max(result[key], least) < found[winner][key] * (1 - _TIE):
            winner = number
    for candidate, result in zip(policy.candidates, found, strict=True):
        result["lens"], result["described"] = plain(candidate), repr(candidate)
    report = {
        "selected_lens": plain(policy.candidates[winner]),
        "selected_index": winner,
        "candidate_results": found,
        "selection_criteria": {
            "rule": policy.selection_rule,
            "metric": key,
            "tie_break": "candidate order",
            "target_error": policy.target_error,
        },
        "target_sparsity": policy.target_sparsity,
        "probe_data_shape": list(signal.shape),
        "probe_data_dtype": real.name,
    }
    return Lens(policy.candidates[winner], transforms[winner], report)


def _probed(policy: LensPolicy, transform: TransformOp, signal: NDArray[Any]) -> dict[str, Any]:
    coefficients = jax.jit(transform.forward)(jnp.asarray(signal))
    array = np.asarray(coefficients, np.float64)
    keep = max(1, math.ceil((1 - policy.target_sparsity) * signal.size))
    order = np.argsort(-np.abs(array), axis=None, kind="stable")
    best = np.zeros(array.size)
    best[order[:keep]] = array.ravel()[order[:keep]]
    approximation = jax.jit(transform.inverse)(jnp.asarray(best.reshape(array.shape), signal.dtype))
    size = float(np.linalg.norm(signal)) or 1.0
    energy = array.ravel()[order] ** 2
    # Added up from the smallest, so that rounding leaves nothing of the energy behind the last term.
    left = np.append(np.cumsum(energy[::-1])[-2::-1], 0.0)
    tail = np.sqrt(left) / math.sqrt(transform.frame_bounds()[0].value)
    found: dict[str, Any] = {
        "name": transform.name,
        "frame": transform.frame,
        "terms": keep,
        "best_k_error": float(np.linalg.norm(np.asarray(approximation, np.float64) - signal)) / size,
        # The error of an orthonormal transform; for a redundant one a bound of it.
        "terms_at_target_error": int(np.argmax(tail <= policy.target_error * size)) + 1,
    }
    if "compressibility" in policy.probe_metrics:
        magnitudes = [np.abs(array[..., band.offset : band.offset + band.size]) for band in transform.bands]
        total = sum(float(np.sum(part**2)) for part in magnitudes) or 1.0
        found["density"] = float(np.mean(np.abs(array) > policy.threshold))
        found["bands"] = [
            {**band.record(), "density": float(np.mean(part > policy.threshold)), "energy_share": float(np.sum(part**2)) / total}
            for band, part in zip(transform.bands, magnitudes, strict=True)
        ]
    return found
