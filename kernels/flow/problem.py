"""The form between a spec and a solver: E(x) = f(x) + g(x) + sum h_i(K_i x), as records that the compiled step takes as arguments.

f is a sum of smooth terms, g has one prox for each slot, and each h_i has a prox of its own behind its operator. x is a dictionary of the
variable slots; data slots are inside the terms, so no step can move them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .banded import prox_by_bands
from .functions.base import Function, Proximal
from .functions.separable import Separable
from .functions.squares import HalfSquare
from .manifolds.base import Manifold
from .operators.balance import Balance
from .operators.base import Operator
from .operators.convolution import Circulant, hermitian_weights
from .pytrees import node, static
from .sums import summed

State = dict[str, jax.Array]


@node
class SmoothTerm:
    """phi(A x) with a gradient. `slots`: the variables that A takes, one or several (then as a tuple).

    A term is evaluated where it is cheapest: `lift` is linear, the energy and the gradient are read off lifted points. A solver that
    extrapolates between points extrapolates between their lifts alike, so an iteration applies A and A^T once each, energy included.
    """

    name: str = static()
    slots: tuple[str, ...] = static()
    op: Operator
    phi: Function

    @property
    def key(self) -> Any:
        """Terms with the same key have the same lift; None: its own."""
        return None

    def lift(self, x: Any) -> jax.Array:
        return self.op.matvec(x)

    def value(self, lifted: jax.Array) -> jax.Array:
        return self.phi.value(lifted)

    def cotangent(self, lifted: jax.Array) -> jax.Array:
        return self.phi.gradient(lifted)

    def drop(self, cotangent: jax.Array) -> Any:
        """The adjoint of `lift`."""
        return self.op.rmatvec(cotangent)


@node
class SpectralSquare:
    """w/2 ||k * x - b||^2 evaluated in the Fourier basis: by Parseval the energy costs no transform of its own, and the gradient
    F^-1(w conj(K^) (K^ x^ - b^)) one. Terms on the same axes share their transforms."""

    name: str = static()
    slots: tuple[str, ...] = static()
    op: Circulant
    weight: jax.Array
    data: jax.Array  # b^
    power: jax.Array  # |K^|^2
    pull: jax.Array  # conj(K^) b^

    @property
    def key(self) -> Any:
        return ("rfftn", self.slots, self.op.axes)

    def lift(self, x: jax.Array) -> jax.Array:
        return self.op.spectrum(x)

    def value(self, lifted: jax.Array) -> jax.Array:
        both = hermitian_weights(self.op.sides[-1], self.power.dtype)
        misfit = self.op.transfer * lifted - self.data
        total = summed((times(both, misfit) * jnp.conj(misfit)).real)
        return self.weight / (2.0 * math.prod(self.op.sides)) * total

    def cotangent(self, lifted: jax.Array) -> jax.Array:
        return times(self.weight, times(self.power, lifted) - self.pull)

    def drop(self, cotangent: jax.Array) -> jax.Array:
        return self.op.signal(cotangent)


AnySmooth = SmoothTerm | SpectralSquare


def smooth_term(name: str, slots: tuple[str, ...], op: Operator, phi: Function) -> AnySmooth:
    """The term in the form that is cheapest to evaluate. Host side."""
    if isinstance(op, Circulant) and isinstance(phi, HalfSquare) and jnp.ndim(phi.scale) == 0:
        # With NumPy: each of these operations would be compiled for its shape.
        target, transfer = np.broadcast_to(np.asarray(phi.target), op.codomain), np.asarray(op.transfer)
        data = np.fft.rfftn(target, axes=tuple(range(-op.axes, 0))).astype(transfer.dtype)
        power, pull = np.abs(transfer) ** 2, np.conj(transfer) * data
        weight = phi.weight * phi.scale**2
        # With their types named: without, JAX would compile a program for each shape.
        stored = (jnp.asarray(array, array.dtype) for array in (data, power, pull))
        return SpectralSquare(name, slots, op, weight, *stored)
    return SmoothTerm(name, slots, op, phi)


@node
class ProxTerm:
    """phi(W x) of one slot, W orthonormal: prox = W^T prox_phi(W v)."""

    name: str = static()
    slot: str = static()
    op: Operator
    phi: Function

    def value(self, x: jax.Array) -> jax.Array:
        return self.phi.value(self.op.matvec(x))

    def begin(self, x: jax.Array) -> Any:
        return self.phi.begin(self.op.matvec(x))

    def prox(self, v: jax.Array, tau: jax.Array, carry: Any) -> Proximal:
        if (found := prox_by_bands(self.op, self.phi, v, tau)) is not None:
            return found
        made = self.phi.prox(self.op.matvec(v), tau, carry)
        return made._replace(point=self.op.rmatvec(made.point))

    def distance(self, x: jax.Array) -> jax.Array:
        return self.phi.distance(self.op.matvec(x))


@node
class CompositeTerm:
    """h(K x), whose prox stands behind an operator: for the primal-dual solvers."""

    name: str = static()
    slots: tuple[str, ...] = static()
    op: Operator
    phi: Function

    def value(self, x: Any) -> jax.Array:
        return self.phi.value(self.op.matvec(x))


@node
class CouplingTerm(CompositeTerm):
    """A x = c: the indicator of {c}, as equal bounds, behind an operator on several slots."""

    op: Balance
    phi: Separable

    @property
    def target(self) -> jax.Array:
        """c."""
        return self.phi.lower


def times(factor: jax.Array, x: jax.Array) -> jax.Array:
    """A real factor times x, part by part: the product of types would make the factor complex first, and multiply by its zeros."""
    return jax.lax.complex(factor * x.real, factor * x.imag) if jnp.iscomplexobj(x) else factor * x


def taken(slots: tuple[str, ...], x: State) -> Any:
    """What an operator on these slots takes."""
    return x[slots[0]] if len(slots) == 1 else tuple(x[slot] for slot in slots)


def spread(slots: tuple[str, ...], parts: Any, onto: State) -> State:
    """Adds what an adjoint gives to the slots it belongs to."""
    pieces = (parts,) if len(slots) == 1 else parts
    for slot, piece in zip(slots, pieces, strict=True):
        onto = {**onto, slot: onto[slot] + piece} if slot in onto else {**onto, slot: piece}
    return onto


@node
class Problem:
    """E = f + g + h, subject to the couplings. `prox` holds at most one term for each slot, `second` one more for Davis-Yin splitting.
    pairs: of motion, (position, momentum, mass)."""

    smooth: tuple[AnySmooth, ...]
    prox: dict[str, ProxTerm]
    second: dict[str, ProxTerm]
    composite: tuple[CompositeTerm, ...]
    couplings: tuple[CouplingTerm, ...] = ()
    pairs: tuple[tuple[str, str, float], ...] = static(default=())
    manifolds: dict[str, Manifold] = dataclasses.field(default_factory=dict)  # of the slots that are not Euclidean

    def _groups(self) -> dict[Any, list[AnySmooth]]:
        groups: dict[Any, list[AnySmooth]] = {}
        for number, term in enumerate(self.smooth):
            groups.setdefault(term.key or number, []).append(term)
        return groups

    def lift(self, x: State) -> tuple[jax.Array, ...]:
        """The point as f reads it, one array for each group of terms that share a lift."""
        return tuple(terms[0].lift(taken(terms[0].slots, x)) for terms in self._groups().values())

    def terms_lifted(self, lifted: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
        """The energy of each term of f at a lifted point."""
        groups = zip(lifted, self._groups().values(), strict=True)
        found = {term.name: term.value(at) for at, terms in groups for term in terms}
        return {term.name: found[term.name] for term in self.smooth}

    def f_lifted(self, lifted: tuple[jax.Array, ...]) -> jax.Array:
        """f at a lifted point."""
        return jnp.asarray(sum(self.terms_lifted(lifted).values(), start=jnp.zeros(())))

    def gradient_lifted(self, lifted: tuple[jax.Array, ...], like: State) -> State:
        """grad f at a lifted point, for the slots of `like`."""
        found: State = {}
        for at, terms in zip(lifted, self._groups().values(), strict=True):
            total = sum((term.cotangent(at) for term in terms[1:]), start=terms[0].cotangent(at))
            found = spread(terms[0].slots, terms[0].drop(total), found)
        return {slot: found.get(slot, jnp.zeros_like(value)) for slot, value in like.items()}

    def nonconvex(self) -> list[str]:
        """The names of the terms that are not convex."""
        terms = (*self.smooth, *self.prox.values(), *self.second.values(), *self.composite)
        return [term.name for term in terms if not isinstance(term, SpectralSquare) and not term.phi.convex]

    def f_value(self, x: State) -> jax.Array:
        """f(x)."""
        return self.f_lifted(self.lift(x))

    def f_grad(self, x: State) -> State:
        """grad f(x)."""
        return self.gradient_lifted(self.lift(x), x)

    def g_value(self, x: State) -> jax.Array:
        """g(x) + h(K x): all that is not smooth."""
        values = [term.value(x[slot]) for terms in (self.prox, self.second) for slot, term in terms.items()]
        values += [term.value(taken(term.slots, x)) for term in self.composite]
        return jnp.asarray(sum(values, start=jnp.zeros(())))

    def hessian(self, x: State, v: State) -> State:
        """L v, L = the second derivative of f at x: the operator that the certificates are about."""
        second: State = jax.jvp(self.f_grad, (x,), (v,))[1]
        return second
