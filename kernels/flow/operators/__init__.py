"""Linear operators: what stands between a variable and a function of it in a term. `base` has the protocol and the registry."""

from . import arrays, combined, convolution, differences, evolution, selection, sparse, tomography, written
from .base import Op, Operator, build, names

__all__ = [
    "Op",
    "Operator",
    "arrays",
    "build",
    "combined",
    "convolution",
    "differences",
    "evolution",
    "names",
    "selection",
    "sparse",
    "tomography",
    "written",
]
