"""The atom library: the kinds of terms that an energy can have. `base` has the registry; importing this package fills it."""

from . import couplings, entropies, losses, norms, physics, sets, sparsity, squares, variation, written
from .base import Atom, Parts, atom, find, names, take_apart

__all__ = [
    "Atom",
    "Parts",
    "atom",
    "couplings",
    "entropies",
    "find",
    "losses",
    "names",
    "norms",
    "physics",
    "sets",
    "sparsity",
    "squares",
    "take_apart",
    "variation",
    "written",
]
