"""Classes A and A': proximal gradient steps for f + g, plain (ISTA), accelerated (FISTA) and accelerated without ever rising (MFISTA).

Sources: Beck & Teboulle, SIAM J. Imaging Sci. 2(1), 2009 (ISTA, FISTA, backtracking) and IEEE TIP 18(11), 2009, section V (MFISTA);
O'Donoghue & Candes, Found. Comput. Math. 15, 2015 (restart); Beck, First-Order Methods in Optimization, 10.7.7 (strong convexity).
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..packed import elementwise
from ..problem import Problem, State, times
from ..sizes import SMALL
from .base import Controls, Metrics, Solver, inner, squares

# Two values of E that differ by no more than this many units of rounding count as equal.
ROUNDING = 4


class Point(NamedTuple):
    """A point and its lift."""

    x: State
    lifted: tuple[jax.Array, ...]


class Proximally(NamedTuple):
    """The state. The next gradient is taken at `ahead`, which is x + `toward` (x' - x) for another point x'; its lift is not stored: it is
    formed of the lift of x and that of x', `other`, where it is read. Without momentum there are neither. apart: ||x' - x||^2. t: of the
    momentum; carries: what each inexact prox goes on from."""

    at: Point
    ahead: State | None
    other: tuple[jax.Array, ...] | None
    toward: jax.Array
    apart: jax.Array
    t: jax.Array
    carries: dict[str, Any]
    metrics: Metrics

    @property
    def x(self) -> State:
        return self.at.x


class Trial(NamedTuple):
    """A step that was tried: where it led, with which alpha, f and g there, and the prox's gap and carries."""

    reached: Point
    alpha: jax.Array
    smooth: jax.Array
    nonsmooth: jax.Array
    gap: jax.Array
    carries: dict[str, Any]


@cache
def ista(backtracking: bool = False) -> Solver:
    """x+ = prox_{alpha g}(x - alpha grad f(x)); converges for alpha < 2/beta, and E falls with every step."""
    return _solver("ista", momentum=False, monotone=False, backtracking=backtracking)


@cache
def fista(backtracking: bool = False) -> Solver:
    """E - E* <= 2 beta ||x0 - x*||^2 / (k+1)^2 between restarts, alpha <= 1/beta; E may rise now and then."""
    return _solver("fista", momentum=True, monotone=False, backtracking=backtracking)


@cache
def mfista(backtracking: bool = False) -> Solver:
    """FISTA that keeps the better of the new and the old point, so E never rises, but for its rounding."""
    return _solver("mfista", momentum=True, monotone=True, backtracking=backtracking)


def _solver(name: str, *, momentum: bool, monotone: bool, backtracking: bool) -> Solver:
    step = partial(_step, momentum=momentum, monotone=monotone, backtracking=backtracking)
    return Solver(
        f"{name}_bt" if backtracking else name,
        partial(_init, momentum=momentum),
        step,
        "limit" if momentum and not monotone else "monotone",
        stride=2 if momentum else 1,
    )


def _init(problem: Problem, controls: Controls, x: State, *, momentum: bool) -> Proximally:
    point = Point(x, problem.lift(x))
    real = controls.alpha.dtype
    zero = jnp.zeros((), real)
    metrics = Metrics.standing(problem.f_lifted(point.lifted), problem.g_value(x), controls.alpha)
    carries = {slot: term.begin(x[slot]) for slot, term in problem.prox.items()}
    ahead, other = (x, point.lifted) if momentum else (None, None)
    return Proximally(point, ahead, other, zero, zero, zero + 1, carries, metrics)


def _step(problem: Problem, controls: Controls, state: Proximally, *, momentum: bool, monotone: bool, backtracking: bool) -> Proximally:
    """z = prox(y - alpha grad f(y)); x+ = z if accepted, else x; t+ = (1 + sqrt(1 + 4 t^2))/2;
    y+ = x+ + t/t+ (z - x+) + (t - 1)/t+ (x+ - x).

    Either way y+ is on the line through x and z: from x+ = z it goes -(t - 1)/t+ towards x, from x+ = x it goes t/t+ towards z.
    `controls.momentum`, where it is above 0, stands in the place of (t - 1)/t+. The momentum restarts (t+ = 1, y+ = x+) when
    <y - z, z - x> > 0, that is when the step went against it.
    """
    x, old = state.at, state.metrics
    y = Point(state.ahead, _between(x.lifted, state.other, state.toward)) if state.ahead is not None else x
    slope = problem.gradient_lifted(y.lifted, y.x)
    tried = partial(_tried, problem, y.x, slope, state.carries)
    made = _backtracked(problem, y, slope, tried, jnp.minimum(old.alpha, controls.alpha)) if backtracking else tried(controls.alpha)
    z, reached, smooth, nonsmooth, alpha = made.reached.x, made.reached, made.smooth, made.nonsmooth, made.alpha
    steep, moved, onward = squares(slope, _difference(y.x, z), _difference(z, x.x))
    # 2 <y - z, z - x> = ||y - x||^2 - ||y - z||^2 - ||z - x||^2, which reads less.
    against = (state.toward**2 * state.apart - moved - onward > 0) & controls.restarts
    grad_norm, length, root = elementwise(jnp.sqrt, [steep, moved, 1 + 4 * state.t**2])
    t = jnp.where(against, 1, (1 + root) / 2)
    residual, inertia, back, forth = elementwise(
        jnp.divide, [length, onward, 1 - state.t, state.t], [alpha * jnp.maximum(1, grad_norm), 2 * alpha, t, t]
    )
    metrics = old.after(smooth, nonsmooth, residual=residual, grad_norm=grad_norm, gap=made.gap, alpha=alpha)
    if not momentum:
        return Proximally(reached, None, None, state.toward, state.apart, state.t, made.carries, metrics)

    back = jnp.where(controls.momentum > 0, -controls.momentum, back)
    if not monotone:
        metrics = metrics._replace(restarts=metrics.restarts + against, inertia=inertia)
        return _onward(reached, x, jnp.where(against, 0, back), apart=onward, t=t, carries=made.carries, metrics=metrics)

    # E tells points apart only to its rounding, within which x is still off by the root of that: there, steps go on being taken. They are
    # held against the least E so far, so that no error adds up.
    taken = metrics.energy <= old.energy + ROUNDING * float(np.finfo(old.energy.dtype).eps) * jnp.abs(old.energy)
    # So are all sums of squares that are numbers. Asked here, it has them read the points before these change places, which spares copies.
    taken &= moved + onward >= 0
    smooth, nonsmooth = (jnp.where(taken, new, before) for new, before in zip(metrics[1:3], old[1:3], strict=True))
    energy = jnp.minimum(metrics.energy, old.energy)
    metrics = metrics._replace(energy=energy, smooth=smooth, nonsmooth=nonsmooth, restarts=old.restarts + against)
    at, other = _swapped(reached, x, ~taken)
    toward = jnp.where(against, 0, jnp.where(taken, back, forth))
    return _onward(at, other, toward, apart=onward, t=t, carries=made.carries, metrics=metrics)


def _onward(
    at: Point, other: Point, toward: jax.Array, *, apart: jax.Array, t: jax.Array, carries: dict[str, Any], metrics: Metrics
) -> Proximally:
    """The state at a point, with the next gradient on the line to another."""
    return Proximally(at, _between(at.x, other.x, toward), other.lifted, toward, apart, t, carries, metrics)


def _between(one: Any, other: Any, toward: jax.Array) -> Any:
    """one + toward (other - one)."""
    return jax.tree.map(lambda here, there: here + times(toward, there - here), one, other)


def _difference(one: State, other: State) -> State:
    return {slot: one[slot] - other[slot] for slot in one}


def _swapped(one: Point, other: Point, wanted: jax.Array) -> tuple[Point, Point]:
    """The two points, the other way round if wanted. Large ones by a loop of one turn or none: where there is none, nothing is copied, as
    choosing between the points by a branch or element by element would. Small ones element by element, which costs less than a loop."""
    if all(part.size <= SMALL for part in jax.tree.leaves(one)):
        pairs = [tuple(jax.tree.map(partial(jnp.where, wanted), b, a)) for a, b in ((one, other), (other, one))]
        return Point(*pairs[0]), Point(*pairs[1])

    def swap(carry: tuple[Point, Point, jax.Array]) -> tuple[Point, Point, jax.Array]:
        return carry[1], carry[0], jnp.zeros_like(carry[2])

    one, other, _ = jax.lax.while_loop(lambda carry: carry[2], swap, (one, other, wanted))
    return one, other


def _tried(problem: Problem, y: State, slope: State, carries: dict[str, Any], alpha: jax.Array) -> Trial:
    z, nonsmooth, gap, carries = proximal_step(problem, y, slope, alpha, carries)
    reached = Point(z, problem.lift(z))
    return Trial(reached, alpha, problem.f_lifted(reached.lifted), nonsmooth, gap, carries)


def _backtracked(problem: Problem, y: Point, slope: State, tried: Any, alpha: jax.Array) -> Trial:
    """Halves alpha until f(z) <= f(y) + <grad f(y), z - y> + ||z - y||^2 / (2 alpha), up to the rounding of f (BT09, section 4).

    What f(z) and f(y) differ by is lost in what they are made of where those are large: data far from 0, in single precision. Differences
    of gradients are not, and a convex f keeps the inequality where <grad f(z) - grad f(y), z - y> <= ||z - y||^2 / (2 alpha).
    """
    here = problem.f_lifted(y.lifted)
    slack, convex = 8 * float(np.finfo(alpha.dtype).eps), not problem.nonconvex()

    def steep(made: Trial) -> jax.Array:
        ahead = {slot: made.reached.x[slot] - y.x[slot] for slot in y.x}
        model = here + inner(slope, ahead) + inner(ahead, ahead) / (2 * made.alpha)
        excess = made.smooth - model > slack * (jnp.abs(here) + jnp.abs(made.smooth))
        if convex:
            excess = jax.lax.cond(excess, bent, lambda *_: False, made, ahead)
        return (excess | ~jnp.isfinite(made.smooth)) & (made.alpha > float(np.finfo(alpha.dtype).tiny) * 2**10)

    def bent(made: Trial, ahead: State) -> jax.Array:
        turned = _difference(problem.gradient_lifted(made.reached.lifted, made.reached.x), slope)
        return ~(inner(turned, ahead) <= inner(ahead, ahead) / (2 * made.alpha))

    found: Trial = jax.lax.while_loop(steep, lambda made: tried(made.alpha / 2), tried(alpha))
    return found


def proximal_step(
    problem: Problem, x: State, slope: State, alpha: jax.Array, carries: dict[str, Any]
) -> tuple[State, jax.Array, jax.Array, dict[str, Any]]:
    """prox_{alpha g}(x - alpha slope), slot by slot; with g there, the gap of inexact proxes, and what they go on from."""
    reached: State = {}
    onward: dict[str, Any] = {}
    value = gap = jnp.zeros((), alpha.dtype)
    for slot, here in x.items():
        point = here - alpha * slope[slot]
        if slot in problem.prox:
            made = problem.prox[slot].prox(point, alpha, carries[slot])
            point, onward[slot] = made.point, made.carry
            value, gap = value + made.value, gap + made.gap
        reached[slot] = point
    return reached, value, gap, onward
