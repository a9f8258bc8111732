"""The duality gap: how far E is from its minimum, at most, without knowing the minimum.

For E = sum f_i(A_i x) + sum h_j(K_j x) + g(x) and any dual point, Fenchel's inequality gives E(x) - min E <= sum f_i(A_i x) + f_i*(y_i) +
sum h_j(K_j x) + h_j*(u_j) + g(x) + g*(-sum A_i^T y_i - sum K_j^T u_j). With y = grad f(Ax) scaled into the domain of g*, this is for l1
least squares the gap of Ndiaye, Fercoq, Gramfort & Salmon, JMLR 18, 2017: theta = r min(1, lambda/||A^T r||_inf).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..bounds import Bound
from ..functions.base import Function
from ..functions.separable import Separable
from ..functions.squares import HalfSquare
from ..operators.base import Operator
from ..problem import AnySmooth, Problem, ProxTerm, SmoothTerm, State, spread, taken
from .records import lowest

HALVINGS = 40
# A point counts as inside a set up to this many units of rounding.
ROUNDING = 16


@dataclass(frozen=True)
class Gap:
    """E(x) - min E <= gap; infinite where no bound was found, and then `reason` says why."""

    gap: float
    primal: float
    scale: float = 1.0
    reason: str = ""

    @property
    def relative(self) -> float:
        """To max(1, |E|)."""
        return self.gap / max(1.0, abs(self.primal))


class _Side(NamedTuple):
    """A term of the dual problem: phi of op x on slots."""

    slots: tuple[str, ...]
    op: Operator
    phi: Function


def duality_gap(problem: Problem, x: State, duals: Mapping[str, jax.Array] | None = None) -> Gap:
    """The gap at x. duals: u_j of the composite terms, by the names of the terms, as primal-dual solvers have them.

    Runs in the present precision, as one compiled program. Where a term stands in the way the gap is infinite and the reason is told.
    """
    known = dict(duals or {})
    against = _obstacle(problem, x, known) or _outside(problem, x)
    if against:
        return Gap(np.inf, float(problem.f_value(x) + problem.g_value(x)), reason=against)

    def at(share: float) -> tuple[float, float, float]:
        primal, dual, scale = _evaluated(problem, x, known, jnp.asarray(share, jnp.zeros(()).dtype))
        return float(primal), float(dual), float(scale)

    primal, dual, scale = at(1.0)
    if not np.isfinite(dual) and np.isfinite(at(0.0)[1]):
        # The domain of a conjugate is convex and holds 0, so halving finds its end.
        lower, upper = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (lower + upper) / 2
            lower, upper = (middle, upper) if np.isfinite(at(middle)[1]) else (lower, middle)
        primal, dual, scale = at(lower)
    if not np.isfinite(dual):
        return Gap(np.inf, primal, reason="a conjugate has no closed form, or no multiple of the dual point is feasible")
    # The two sides nearly cancel; what their rounding may hide is put on top.
    hidden = ROUNDING * float(np.finfo(np.dtype(jnp.zeros(()).dtype)).eps) * (abs(primal) + abs(dual))
    return Gap(max(primal + dual, 0.0) + hidden, primal, scale)


def _outside(problem: Problem, x: State) -> str:
    """E counts no set: outside of one it says nothing of the energy, which is infinite there."""
    held = [(term.name, term.distance(x[slot]), x[slot]) for slot, term in problem.prox.items() if slot in x]
    images = [(term, term.op.matvec(taken(term.slots, x))) for term in (*problem.composite, *problem.couplings)]
    for name, off, at in held + [(term.name, term.phi.distance(image), image) for term, image in images]:
        apart, size = float(off), float(jnp.linalg.norm(jnp.ravel(at)))
        if not apart <= ROUNDING * float(np.finfo(np.dtype(at.dtype)).eps) * np.sqrt(at.size) * (1 + size):
            return f"the point is {apart:.1e} outside the set of {name}, where E is infinite"
    return ""


def _obstacle(problem: Problem, x: State, duals: Mapping[str, jax.Array]) -> str:
    """Why there is no gap, as far as the structure tells."""
    if problem.second:
        return "two proximable terms on one slot have no common conjugate"
    if any(isinstance(term, SmoothTerm) and not term.phi.convex for term in problem.smooth):
        return "a smooth term is not convex"
    if not all(term.phi.convex for term in problem.prox.values()) or not all(term.phi.convex for term in problem.composite):
        return "a term is not convex"
    missing = [slot for slot in x if slot not in _holders(problem, x)]
    if missing:
        return f"nothing holds {', '.join(missing)}: g is 0 there; a ridge gives it a finite conjugate"
    unknown = [term.name for term in problem.composite if term.name not in duals]
    return f"the composite term {unknown[0]} needs the dual variable of a primal-dual solver" if unknown else ""


def _holders(problem: Problem, x: State) -> dict[str, ProxTerm | AnySmooth]:
    """For each slot the term that plays g: its prox term, or a smooth one on an orthonormal operator, such as a ridge."""
    held: dict[str, ProxTerm | AnySmooth] = {
        slot: term for slot, term in problem.prox.items() if slot in x and isinstance(term, ProxTerm) and term.op.orthonormal()
    }
    for term in problem.smooth:
        slot = term.slots[0]
        if len(term.slots) == 1 and slot not in held and slot not in problem.prox and term.op.orthonormal():
            held[slot] = term
    return held


@jax.jit
def _evaluated(problem: Problem, x: State, duals: dict[str, jax.Array], share: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """E, minus the dual energy, and the scale of the dual point: `share` of the largest that is known to be feasible."""
    holders = _holders(problem, x)
    held = {slot: _side(term) for slot, term in holders.items()}
    sides = [_side(term) for term in problem.smooth if all(term is not holder for holder in holders.values())]
    points = [side.phi.gradient(side.op.matvec(taken(side.slots, x))) for side in sides]
    sides += [_Side(term.slots, term.op, term.phi) for term in problem.composite]
    points += [duals[term.name] for term in problem.composite]
    pulled: State = {slot: jnp.zeros_like(value) for slot, value in x.items()}
    for side, point in zip(sides, points, strict=True):
        pulled = spread(side.slots, side.op.rmatvec(point), pulled)
    images = {slot: side.op.matvec(pulled[slot]) for slot, side in held.items()}
    scale = share
    for slot, side in held.items():
        scale = jnp.minimum(scale, share * _feasible(side.phi, -images[slot]))
    values = [side.phi.conjugate(-scale * images[slot]) for slot, side in held.items()]
    values += [side.phi.conjugate(scale * point) for side, point in zip(sides, points, strict=True)]
    known = [jnp.asarray(jnp.inf) if value is None else value for value in values]
    total = jnp.asarray(sum(known, start=jnp.zeros(())))
    return problem.f_value(x) + problem.g_value(x), jnp.where(jnp.isfinite(total), total, jnp.inf), scale


def _feasible(phi: Function, point: jax.Array) -> jax.Array:
    """The largest scale in [0, 1] with scale * point in the domain of the conjugate, where that is known: of l1, box and ridge it is
    |y| <= threshold on the sides that neither a ridge nor a bound holds."""
    if not isinstance(phi, Separable):
        return jnp.ones((), point.dtype)
    loose = (phi.ridge == 0) & jnp.isinf(jnp.where(point > 0, phi.upper, phi.lower)) & (point != 0)
    ratios = jnp.where(loose, phi.threshold / jnp.where(point == 0, 1, jnp.abs(point)), jnp.inf)
    # A little less, so that rounding does not lead out of the domain.
    return jnp.minimum(1.0, jnp.min(ratios) * (1 - 4 * float(np.finfo(np.dtype(point.dtype)).eps)))


def _side(term: AnySmooth | ProxTerm) -> _Side:
    if isinstance(term, ProxTerm):
        return _Side((term.slot,), term.op, term.phi)
    if isinstance(term, SmoothTerm):
        return _Side(term.slots, term.op, term.phi)
    one = jnp.ones((), term.weight.dtype)
    return _Side(term.slots, term.op, HalfSquare(term.weight, term.op.signal(term.data), one))


def gap_by_curvature(subgradient_norm: float, gamma: Bound) -> float:
    """E(x) - min E <= ||v||^2 / (2 gamma) for a subgradient v of a gamma-strongly convex E; infinite where gamma is not soundly above 0."""
    least = lowest(gamma) if gamma.sound_below else 0.0
    return subgradient_norm**2 / (2 * least) if least > 0 else np.inf
