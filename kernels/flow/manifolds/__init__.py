"""Where a variable may live: "euclidean", "sphere", "stiefel", "spd", "so" and "se". Importing this package registers them; `base` has the
contract. A problem with several slots lives on the product of their manifolds, slot by slot."""

from .base import Manifold, build, manifold, names, placed
from .definite import PositiveDefinite
from .flat import Euclidean, Sphere
from .rotations import SpecialEuclidean, SpecialOrthogonal
from .stiefel import Stiefel

__all__ = [
    "Euclidean",
    "Manifold",
    "PositiveDefinite",
    "SpecialEuclidean",
    "SpecialOrthogonal",
    "Sphere",
    "Stiefel",
    "build",
    "manifold",
    "names",
    "placed",
]
