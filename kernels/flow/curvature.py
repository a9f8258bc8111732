"""Bounds of the curvature of f and of the norms of the operators behind h: what the step sizes rest on. Host side, from concrete arrays."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .bounds import Bound, total
from .functions.squares import HalfSquare
from .operators.spectra import largest_eigenvalue
from .precision import real_dtype
from .problem import AnySmooth, CompositeTerm, CouplingTerm, Problem, ProxTerm, SmoothTerm, State

# Up to this many unknowns, an extreme eigenvalue is computed from the dense matrix.
DENSE = 512


def smoothness(problem: Problem) -> Bound:
    """beta, the Lipschitz constant of grad f: the sum over its terms of beta_phi ||A||^2."""
    if not problem.smooth:
        return Bound(0.0, "exact", "no smooth term")
    return total([_of_term(term) for term in problem.smooth])


def _of_term(term: AnySmooth) -> Bound:
    squares = term.op.norm_sq()
    if not isinstance(term, SmoothTerm):
        return squares.scaled(float(term.weight))
    _, above = term.phi.curvature()
    weaker = squares if not squares.sound_above else above if not above.sound_above else squares
    kind = "upper_bound" if weaker.sound_above and "upper_bound" in (squares.kind, above.kind) else weaker.kind
    return Bound(above.value * squares.value, kind, squares.method, squares.steps, squares.residual)


def strong_convexity(problem: Problem, x: State) -> Bound:
    """mu >= 0 with f - mu/2 ||x||^2 convex, a lower bound: from terms on the only variable whose operator has a known smallest singular
    value."""
    found = 0.0
    for term in problem.smooth:
        if len(x) != 1 or term.slots != tuple(x):
            continue
        smallest = 1.0 if term.op.orthonormal() else float(getattr(term.op, "smallest_sq", lambda: _NOTHING)().value)
        below = float(term.phi.curvature()[0].value) if isinstance(term, SmoothTerm) else float(term.weight)
        found += max(below, 0.0) * max(smallest, 0.0)
    return Bound(found, "lower_bound", "sum of mu_phi lambda_min(A^T A)")


_NOTHING = Bound(0.0, "lower_bound", "unknown")


def prox_modulus(problem: Problem, slots: Set[str]) -> float:
    """The modulus of strong convexity of g over these slots: the smallest of theirs, 0 where a slot has no prox."""
    return min((_prox_modulus(problem.prox.get(slot)) for slot in slots), default=0.0)


def _prox_modulus(term: ProxTerm | None) -> float:
    return max(float(term.phi.curvature()[0].value), 0.0) if term is not None and term.op.orthonormal() else 0.0


def operator_norm(terms: tuple[CompositeTerm, ...]) -> Bound:
    """||K||^2 of all of them stacked: at most the sum."""
    return total([term.op.norm_sq() for term in terms]) if terms else Bound(0.0, "exact", "no operator")


def block_norm(couplings: tuple[CouplingTerm, ...], x: State) -> Bound:
    """||A_B||^2 of the larger of the two blocks that ADMM moves in turn: the first slot, and all others together."""
    first = min(x)
    blocks: tuple[list[Bound], list[Bound]] = ([], [])
    for term in couplings:
        for slot, part in zip(term.slots, term.op.parts, strict=True):
            blocks[slot != first].append(part.norm_sq())
    return max((total(block, "sum over the block") for block in blocks if block), key=lambda bound: bound.value)


def diagonal(problem: Problem, x: State) -> tuple[State, bool]:
    """diag(L) of the Hessian of a quadratic f, slot by slot, and whether every term knew its own; where one does not, beta of the term
    stands in its place, which is never too small."""
    found = {slot: jnp.zeros_like(value) for slot, value in x.items()}
    exact = True
    for term in problem.smooth:
        squares = term.op.normal_diagonal() if len(term.slots) == 1 else None
        if squares is None:
            exact = False
            for slot in term.slots:
                found[slot] = found[slot] + _of_term(term).value
            continue
        above = float(term.phi.curvature()[1].value) if isinstance(term, SmoothTerm) else float(term.weight)
        found[term.slots[0]] = found[term.slots[0]] + above * squares
    return found, exact


def quadratic_majorant(problem: Problem) -> tuple[Problem, bool]:
    """The problem with squares in the place of other smooth terms, whose second derivative is nowhere smaller; and whether all of them
    could be so replaced."""
    smooth = tuple(_square_above(term) for term in problem.smooth)
    return replace(problem, smooth=smooth), all(not isinstance(term, SmoothTerm) or isinstance(term.phi, HalfSquare) for term in smooth)


def _square_above(term: AnySmooth) -> AnySmooth:
    if not isinstance(term, SmoothTerm) or isinstance(term.phi, HalfSquare) or len(term.slots) > 1:
        return term
    above = term.phi.curvature()[1]
    if not above.sound_above:
        return term
    zero = jnp.zeros((), real_dtype())
    return replace(term, phi=HalfSquare(zero + above.value, zero, zero + 1))


def scaled_norm(problem: Problem, x: State, scale: State) -> Bound:
    """lambda_max(P^-1/2 L P^-1/2) of the Hessian L of f at x (of a quadratic f: everywhere), `scale` the diagonal of P^-1: dense where that
    is small, else an estimate."""
    slots = list(x)
    sizes = [int(np.prod(x[slot].shape)) for slot in slots]
    cuts = np.cumsum(sizes)[:-1]
    roots = jnp.concatenate([jnp.sqrt(scale[slot]).ravel() for slot in slots])

    def apply(flat: Any) -> Any:
        pieces = jnp.split(roots * flat, cuts)
        direction = {slot: piece.reshape(x[slot].shape) for slot, piece in zip(slots, pieces, strict=True)}
        image = problem.hessian(x, direction)
        return roots * jnp.concatenate([image[slot].ravel() for slot in slots])

    if sum(sizes) <= DENSE:
        matrix = np.asarray(jax.vmap(apply)(jnp.eye(sum(sizes), dtype=roots.dtype)), np.float64)
        return Bound(float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]), "exact", "eigenvalues")
    return largest_eigenvalue(apply, (sum(sizes),))
