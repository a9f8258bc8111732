"""Transforms W, for priors of few coefficients and as coordinates of certificates. Importing this package registers them as operators:
"wavelet", "dct", "dft", "undecimated" and "synthesis". `base` has the contract."""

from .base import Band, TransformOp, band_thresholds, level_masks, restricted
from .filters import WAVELETS, scaling_filter
from .harmonic import Cosine, Fourier
from .lenses import Lens, LensPolicy, choose_lens
from .probes import measured_bounds, validation
from .synthesis import Synthesis, transform_of
from .undecimated import FilterBank, starlet, undecimated
from .wavelets import Wavelet, wavelet_transform

__all__ = [
    "WAVELETS",
    "Band",
    "Cosine",
    "FilterBank",
    "Fourier",
    "Lens",
    "LensPolicy",
    "Synthesis",
    "TransformOp",
    "Wavelet",
    "band_thresholds",
    "choose_lens",
    "level_masks",
    "measured_bounds",
    "restricted",
    "scaling_filter",
    "starlet",
    "transform_of",
    "undecimated",
    "validation",
    "wavelet_transform",
]
