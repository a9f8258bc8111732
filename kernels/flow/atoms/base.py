"""What an atom is: a name, a formula, and how a term of its kind is built from a description, as phi(A x)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import FlowInputError
from ..functions.base import Function
from ..operators.base import Op, Operator, Shape, build, misfit, owned


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
        return build(self.op or default or Op("identity"), self._only(), self.real)

    def before(self, last: Op) -> Operator:
        """last A: what the atom itself applies, to A x."""
        return self.operator(last) if self.op is None else build(Op("compose", of=(last, self.op)), self._only(), self.real)

    def _only(self) -> Shape:
        if len(self.shapes) != 1:
            raise FlowInputError(f"the term {self.name} names {len(self.shapes)} variables, but its atom is of one; use a coupling atom")
        return self.shape

    def scalar(self, value: Any) -> jax.Array:
        """A number or an array in the type of the flow."""
        return jnp.asarray(value, self.real)

    def goal(self, shape: Shape) -> jax.Array:
        """The target, which must have this shape; 0 where there is none."""
        if self.target is None:
            return self.scalar(0.0)
        array = np.asarray(self.target)
        if array.shape not in (shape, ()):
            raise FlowInputError(
                f"the term {self.name}: its target has shape {array.shape}, but A x has shape {shape}; give one of that shape, or a number"
            )
        return self.scalar(array)

    def aimless(self, remedy: str = "leave it out") -> None:
        """Raises FlowInputError where the term has a target and its atom takes none."""
        if self.target is not None:
            raise FlowInputError(f"the term {self.name} has a target, which its atom does not take; {remedy}")

    def positive(self, what: str, value: Any, shape: Shape | None = None, *, zero: bool = False) -> jax.Array:
        """A parameter that must be finite and above 0 (or 0, if `zero`): one number, or an array that fits `shape`."""
        array = np.asarray(value, np.float64)
        fits = array.ndim == 0 if shape is None else _fits(array.shape, shape)
        if not fits:
            raise FlowInputError(
                f"the term {self.name}: {what} has shape {array.shape}; it must be one number" + (f" or fit {shape}" if shape else "")
            )
        if not np.all(np.isfinite(array) & ((array >= 0) if zero else (array > 0))):
            raise FlowInputError(f"the term {self.name}: {what} is {value!r}; it must be finite and {'0 or more' if zero else 'above 0'}")
        return self.scalar(array)


def _fits(shape: Shape, onto: Shape) -> bool:
    try:
        return np.broadcast_shapes(shape, onto) == onto
    except ValueError:
        return False


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


def take_apart(kind: str, asked: Asked, params: Mapping[str, Any]) -> Parts:
    """The parts of a term of this kind. Raises FlowInputError, also for parameters that the atom does not have."""
    found = find(kind)
    told = misfit(found.build, params)
    if told:
        raise FlowInputError(f"the term {asked.name}, of the atom {kind!r}: {told}")
    return found.build(asked, **owned(params))
