"""Transforms W, for priors of few coefficients and as coordinates of certificates. Importing this package registers them as operators:
"wavelet", "dct", "dft", "undecimated", "graph_wavelet", "chirplet" and "synthesis". `base` has the contract."""

from .base import Band, TransformOp, band_thresholds, level_masks, restricted
from .chirplets import Chirplets, chirplets
from .filters import WAVELETS, scaling_filter
from .graphs import ChebyshevWavelets, SpectralWavelets, graph_wavelets, meyer_kernels
from .harmonic import Cosine, Fourier
from .lenses import Lens, LensPolicy, choose_lens
from .probes import measured_bounds, validation
from .synthesis import Synthesis, transform_of
from .undecimated import FilterBank, starlet, undecimated
from .wavelets import Wavelet, wavelet_transform

__all__ = [
    "WAVELETS",
    "Band",
    "ChebyshevWavelets",
    "Chirplets",
    "Cosine",
    "FilterBank",
    "Fourier",
    "Lens",
    "LensPolicy",
    "SpectralWavelets",
    "Synthesis",
    "TransformOp",
    "Wavelet",
    "band_thresholds",
    "chirplets",
    "choose_lens",
    "graph_wavelets",
    "level_masks",
    "measured_bounds",
    "meyer_kernels",
    "restricted",
    "scaling_filter",
    "starlet",
    "transform_of",
    "undecimated",
    "validation",
    "wavelet_transform",
]
