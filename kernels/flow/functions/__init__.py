"""Functions phi of an array: what an energy applies to A x. `base` says what one can do; the other modules are the library."""

from .base import Function, Proximal
from .separable import Separable
from .squares import HalfSquare

__all__ = ["Function", "HalfSquare", "Proximal", "Separable"]
