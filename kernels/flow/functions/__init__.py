"""Functions phi of an array: what an energy applies to A x. `base` says what one can do; the other modules are the library."""

from .affine import Affine, AffineNonnegative, affine
from .base import Function, Proximal, conjugate_prox, merge
from .composed import ConvexWritten, Orthogonality, SquareThrough, ThroughCoisometry, Translated, Written, through
from .entropies import Entropy, LogBarrier, SimplexEntropy
from .groups import AxisNorm, GroupNorm, NuclearNorm
from .losses import Huber, Logistic, Poisson
from .separable import Bounded, Separable
from .sets import Indicator, Knapsack, L1Ball, L2Ball, Simplex
from .squares import HalfSquare
from .trees import TreeNorm
from .variation import LineVariation, Variation

__all__ = [
    "Affine",
    "AffineNonnegative",
    "AxisNorm",
    "Bounded",
    "ConvexWritten",
    "Entropy",
    "Function",
    "GroupNorm",
    "HalfSquare",
    "Huber",
    "Indicator",
    "Knapsack",
    "L1Ball",
    "L2Ball",
    "LineVariation",
    "LogBarrier",
    "Logistic",
    "NuclearNorm",
    "Orthogonality",
    "Poisson",
    "Proximal",
    "Separable",
    "Simplex",
    "SimplexEntropy",
    "SquareThrough",
    "ThroughCoisometry",
    "Translated",
    "TreeNorm",
    "Variation",
    "Written",
    "affine",
    "conjugate_prox",
    "merge",
    "through",
]
