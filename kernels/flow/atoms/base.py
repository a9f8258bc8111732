"""What an atom is: a name, a formula, and how a term of its kind is built from a description, as phi(A x)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import FlowInputError
from ..functions.base import Function
from ..operators.base import Op, Operator, Shape, build


class Parts(NamedTuple):
    """A term taken apart: A and phi. Whether it becomes smooth, proximable or composite is the compiler's choice."""

    op: Operator
    phi: Function


@dataclass(frozen=True)
class Asked:
    """What a builder gets: the shapes of the variables, the weight, the target (None: none), the operator (None: none was named), the
    floating point type, and the name of the term for errors."""

    name: str
    shapes: tuple[Shape, ...]
    weight: float
    target: Any
    op: Op | Operator | None
    real: np.dtype[Any]

    @property
    def shape(self) -> Shape:
        """Of the variable, where there is one."""
        return self.shapes[0]

    def operator(self, default: Op | None = None) -> Operator:
        """A."""
        return build(self.op or default or Op("identity"), self.shape, self.real)

    def scalar(self, value: Any) -> jax.Array:
        """A number or an array in the type of the flow."""
        return jnp.asarray(value, self.real)

    def goal(self, shape: Shape) -> jax.Array:
        """The target, which must have this shape; 0 where there is none."""
        if self.target is None:
            return self.scalar(0.0)
        array = np.asarray(self.target)
        if array.shape not in (shape, ()):
            raise FlowInputError(f"the term {self.name}: its target has shape {array.shape}, but A x has shape {shape}")
        return self.scalar(array)


Builder = Callable[..., Parts]


@dataclass(frozen=True)
class Atom:
    """An entry of the library. form: its energy in LaTeX, weight w included."""

    name: str
    form: str
    build: Builder


_ATOMS: dict[str, Atom] = {}


def atom(name: str, form: str) -> Callable[[Builder], Builder]:
    """Registers a builder: builder(asked, **params) gives the parts of a term."""

    def register(builder: Builder) -> Builder:
        _ATOMS[name] = Atom(name, form, builder)
        return builder

    return register


def names() -> list[str]:
    """The atoms there are."""
    return sorted(_ATOMS)


def find(name: str) -> Atom:
    """An atom by its name. Raises FlowInputError."""
    if name not in _ATOMS:
        raise FlowInputError(f"there is no atom {name!r}; there are {', '.join(names())}")
    return _ATOMS[name]
