"""The duality gap: how far E is from its minimum, at most, without knowing the minimum.

For E = sum f_i(A_i x) + sum h_j(K_j x) + g(x) and any dual point, Fenchel's inequality gives E(x) - min E <= sum f_i(A_i x) + f_i*(y_i) +
sum h_j(K_j x) + h_j*(u_j) + g(x) + g*(-sum A_i^T y_i - sum K_j^T u_j). With y = grad f(Ax) scaled into the domain of g*, this is for l1
least squares the gap of Ndiaye, Fercoq, Gramfort & Salmon, JMLR 18, 2017: theta = r min(1, lambda/||A^T r||_inf).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ..bounds import Bound
from ..functions.base import Function
from ..functions.separable import Separable
from ..functions.squares import HalfSquare
from ..operators.base import Operator
from ..problem import AnySmooth, Problem, SmoothTerm, State, spread, taken
from .records import lowest

HALVINGS = 40


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


@dataclass(frozen=True)
class _Side:
    """A term of the dual problem: phi of op x on slots."""

    slots: tuple[str, ...]
    op: Operator
    phi: Function


def duality_gap(problem: Problem, x: State, duals: Mapping[str, jax.Array] | None = None) -> Gap:
    """The gap at x. duals: u_j of the composite terms, by the names of the terms, as primal-dual solvers have them.

    Runs in the present precision. A term that has no closed form of its conjugate leaves the gap infinite.
    """
    primal = float(problem.f_value(x) + problem.g_value(x))
    smooth = [_side(term) for term in problem.smooth]
    held, smooth = _holders(problem, x, smooth)
    missing = [slot for slot in x if slot not in held]
    if problem.second:
        return Gap(np.inf, primal, reason="two proximable terms on one slot have no common conjugate")
    if any(not term.phi.convex for term in [*smooth, *held.values()]):
        return Gap(np.inf, primal, reason="a term is not convex")
    if missing:
        return Gap(np.inf, primal, reason=f"nothing holds {', '.join(missing)}: g is 0 there; a ridge gives it a finite conjugate")
    points = [side.phi.gradient(side.op.matvec(taken(side.slots, x))) for side in smooth]
    sides = list(smooth)
    for term in problem.composite:
        if duals is None or term.name not in duals:
            return Gap(np.inf, primal, reason=f"the composite term {term.name} needs the dual variable of a primal-dual solver")
        sides.append(_Side(term.slots, term.op, term.phi))
        points.append(jnp.asarray(duals[term.name]))
    pulled: State = {slot: jnp.zeros_like(value) for slot, value in x.items()}
    for side, point in zip(sides, points, strict=True):
        pulled = spread(side.slots, side.op.rmatvec(point), pulled)
    images = {slot: side.op.matvec(pulled[slot]) for slot, side in held.items()}

    def dual(scale: float) -> float:
        total = 0.0
        for slot, side in held.items():
            value = side.phi.conjugate(-scale * images[slot])
            total += np.inf if value is None else float(value)
        for side, point in zip(sides, points, strict=True):
            value = side.phi.conjugate(scale * point)
            total += np.inf if value is None else float(value)
        return total if np.isfinite(total) else np.inf

    scale = _largest(dual, min((_feasible(side.phi, -images[slot]) for slot, side in held.items()), default=1.0))
    if scale is None:
        return Gap(np.inf, primal, reason="a term has no closed form of its conjugate, or no multiple of the dual point is feasible")
    return Gap(max(primal + dual(scale), 0.0), primal, scale)


def _feasible(phi: Function, point: jax.Array) -> float:
    """The largest scale in [0, 1] with scale * point in the domain of the conjugate, where that is known: of l1, box and ridge it is
    |y| <= threshold on the sides that neither a ridge nor a bound holds."""
    if not isinstance(phi, Separable):
        return 1.0
    loose = (phi.ridge == 0) & jnp.isinf(jnp.where(point > 0, phi.upper, phi.lower)) & (point != 0)
    ratios = jnp.where(loose, phi.threshold / jnp.where(point == 0, 1, jnp.abs(point)), jnp.inf)
    return min(1.0, float(jnp.min(ratios)) * (1 - 4 * float(jnp.finfo(point.dtype).eps)))


def _largest(dual: Callable[[float], float], guess: float) -> float | None:
    """The guess if the dual is finite there, else the largest scale below at which it is, within 2^-HALVINGS; None if there is none: the
    domain of a conjugate is convex, and holds 0 or the gap is infinite."""
    if np.isfinite(dual(guess)):
        return guess
    if not np.isfinite(dual(0.0)):
        return None
    lower, upper = 0.0, guess
    for _ in range(HALVINGS):
        middle = (lower + upper) / 2
        lower, upper = (middle, upper) if np.isfinite(dual(middle)) else (lower, middle)
    return lower


def _side(term: AnySmooth) -> _Side:
    if isinstance(term, SmoothTerm):
        return _Side(term.slots, term.op, term.phi)
    one = jnp.ones((), term.weight.dtype)
    return _Side(term.slots, term.op, HalfSquare(term.weight, term.op.signal(term.data), one))


def _holders(problem: Problem, x: State, smooth: list[_Side]) -> tuple[dict[str, _Side], list[_Side]]:
    """For each slot the term that plays g: its prox term, or a smooth one on an orthonormal operator, such as a ridge."""
    held = {slot: _Side((slot,), term.op, term.phi) for slot, term in problem.prox.items() if slot in x and term.op.orthonormal()}
    rest = []
    for side in smooth:
        single = len(side.slots) == 1 and side.slots[0] not in held and side.slots[0] not in problem.prox and side.op.orthonormal()
        if single:
            held[side.slots[0]] = side
        else:
            rest.append(side)
    return held, rest


def gap_by_curvature(subgradient_norm: float, gamma: Bound) -> float:
    """E(x) - min E <= ||v||^2 / (2 gamma) for a subgradient v of a gamma-strongly convex E; infinite where gamma is not soundly above 0."""
    least = lowest(gamma) if gamma.sound_below else 0.0
    return subgradient_norm**2 / (2 * least) if least > 0 else np.inf
