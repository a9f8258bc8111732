"""The atom library: the kinds of terms that an energy can have. `base` has the registry; importing this package fills it."""

from . import norms, sparsity, squares
from .base import Atom, Parts, atom, find, names

__all__ = ["Atom", "Parts", "atom", "find", "names", "norms", "sparsity", "squares"]
