"""Total variation with a prox of its own: exact in one dimension, in linear time, and by an inner iteration that reports its gap in more.

Where a solver takes composite terms, total variation is a norm behind a difference operator instead, and needs neither of these.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..bounds import Bound
from ..operators.stencils import Boundary, ahead, back
from ..pytrees import node, static
from ..sums import summed
from .base import Function, Proximal, exactly
from .separable import Separable, soft_threshold

Field = tuple[jax.Array, ...]  # a vector at each element, part by part


@node
class LineVariation(Function):
    """w sum |u[i+1] - u[i]| along `axis`, the last if not given, + what is merged into it: sum a|u| + r/2 u^2 and bounds, each the same for
    all elements.

    The prox is exact. Total variation is the Lovasz extension of a cut, so that a further sum of one scalar function over the elements is
    served by the scalar prox after it ("fused lasso": Friedman et al., Ann. Appl. Stat. 1, 2007; Bach, FnT ML 6, 2013, section 8).
    """

    weight: jax.Array
    plus: Separable
    axis: int = static(default=-1)

    proximable = True

    def value(self, u: jax.Array) -> jax.Array:
        return self.weight * jnp.sum(jnp.abs(jnp.diff(u, axis=self.axis))) + self.plus.value(u)

    def curvature(self) -> tuple[Bound, Bound]:
        return self.plus.curvature()

    def prox(self, v: jax.Array, tau: jax.Array, carry: object = ()) -> Proximal:
        shrunk = 1 + tau * self.plus.ridge
        step = tau / shrunk
        turned = jnp.moveaxis(v / shrunk, self.axis, -1)
        rows = jnp.reshape(turned, (-1, turned.shape[-1]))
        fitted = (
            jax.lax.map(lambda row: denoise_line(row, step * self.weight), rows)
            if len(rows) > 1
            else denoise_line(rows[0], step * self.weight)
        )
        lines = jnp.moveaxis(jnp.reshape(fitted, turned.shape), -1, self.axis)
        sparse = soft_threshold(lines, step * self.plus.threshold)
        return exactly(self, jnp.clip(sparse, self.plus.lower, self.plus.upper))

    def distance(self, u: jax.Array) -> jax.Array:
        return self.plus.distance(u)

    def merged(self, other: Function) -> Function | None:
        if not isinstance(other, Separable) or any(part.ndim for part in (other.threshold, other.ridge, other.lower, other.upper)):
            return None
        both = self.plus.merged(other)
        return LineVariation(self.weight, both, self.axis) if isinstance(both, Separable) else None


def denoise_line(y: jax.Array, weight: jax.Array) -> jax.Array:
    """argmin_x ||x - y||^2/2 + weight sum |x[i+1] - x[i]|, exactly, in O(n).

    Dynamic programming (Johnson, J. Comput. Graph. Stat. 22, 2013). Let m_i(x) be the least energy of the first i samples with x_i = x. Its
    derivative rises and is piecewise linear; the difference to x_{i+1} clips it to [-weight, weight], at low_i and high_i, and the next
    sample adds x - y_{i+1}. So x_n is where the last derivative is 0, and x_i = clip(x_{i+1}, low_i, high_i) backwards. The kinks are kept
    in order in a double-ended queue, two are added by each sample and each is removed at most once, which makes the time linear.

    A kink holds its position and by how much slope and intercept of the derivative jump there. Beyond all kinks the derivative is
    x - y - weight on the left and x - y + weight on the right.
    """
    count = y.shape[0]
    if count == 1:
        return y
    # A constant moves the solution alike. Without the mean, the intercepts are as small as the data allow, and lose the fewest digits.
    mean = jnp.mean(y)
    y = y - mean
    one = jnp.ones((), y.dtype)

    class Walk(NamedTuple):
        """Over the kinks from both ends at once, to where the derivative is -weight and where it is weight: which kink is next on either
        side, the kinks there, and the line (slope, intercept) before them."""

        sample: jax.Array
        first: jax.Array
        last: jax.Array
        next: tuple[jax.Array, jax.Array]
        read: jax.Array
        lines: tuple[jax.Array, jax.Array, jax.Array, jax.Array]
        kinks: jax.Array  # rows of position, jump of slope, jump of intercept
        lows: jax.Array
        highs: jax.Array

    def entered(sample: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """The lines beyond all kinks."""
        outside = jnp.where(sample == 0, 0, weight)  # before the first sample there is no message
        return one, -y[sample] - outside, one, -y[sample] + outside

    def onward(walk: Walk) -> Walk:
        """A step of one flat loop that writes first and reads what it has written: so XLA keeps the queue in place, and a step costs the
        same however long the line is."""
        (k, m), (slope, intercept, slope_right, intercept_right) = walk.next, walk.lines
        left, right = walk.read
        over = (k <= walk.last) & (slope * left[0] + intercept <= -weight)
        over_right = (m >= walk.first) & (slope_right * right[0] + intercept_right > weight)
        ended = ~(over | over_right)
        low, high = (-weight - intercept) / slope, (weight - intercept_right) / slope_right
        # Clipped, the derivative is -weight left of low and weight right of high. The kinks there are written at every step: until the walk
        # has ended, to places that it has left behind.
        made = jnp.stack([low, slope, intercept + weight, high, -slope_right, weight - intercept_right]).reshape(2, 3)
        kinks = walk.kinks.at[jnp.stack([k - 1, m + 1])].set(made, unique_indices=True, mode="promise_in_bounds")
        first, last = jnp.where(ended, k - 1, walk.first), jnp.where(ended, jnp.maximum(m + 1, k), walk.last)
        following = jnp.where(ended, first, k + over), jnp.where(ended, last, m - over_right)
        passed = (
            slope + jnp.where(over, left[1], 0),
            intercept + jnp.where(over, left[2], 0),
            slope_right - jnp.where(over_right, right[1], 0),
            intercept_right - jnp.where(over_right, right[2], 0),
        )
        lines = tuple(jnp.where(ended, new, old) for new, old in zip(entered(walk.sample + 1), passed, strict=True))
        read = kinks.at[jnp.stack(following)].get(mode="promise_in_bounds")
        lows, highs = walk.lows.at[walk.sample].set(low), walk.highs.at[walk.sample].set(high)
        return Walk(walk.sample + ended, first, last, following, read, lines, kinks, lows, highs)  # type: ignore[arg-type]

    nothing = jnp.zeros(count, y.dtype)
    empty = jnp.int32(count), jnp.int32(count - 1)  # first and last: the queue grows from its middle
    queue = jnp.zeros((2 * count + 2, 3), y.dtype)
    start = Walk(jnp.int32(0), *empty, empty, queue[:2], entered(jnp.int32(0)), queue, nothing, nothing)
    walk = jax.lax.while_loop(lambda walk: walk.sample < count - 1, onward, start)

    def rising(line: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return (line[0] <= walk.last) & (line[1] * walk.kinks[line[0], 0] + line[2] <= 0)

    def across(line: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        kink = walk.kinks[line[0]]
        return line[0] + 1, line[1] + kink[1], line[2] + kink[2]

    _, slope, intercept = jax.lax.while_loop(rising, across, (walk.first, *walk.lines[:2]))
    end = -intercept / slope

    def backwards(x: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x = jnp.clip(x, bounds[0], bounds[1])
        return x, x

    _, rest = jax.lax.scan(backwards, end, (walk.lows[:-1], walk.highs[:-1]), reverse=True)
    return jnp.append(rest, end) + mean


@node
class Variation(Function):
    """w sum of |D u| over the given axes, D first differences; `isotropic`: of the Euclidean norm of the vector of differences at each
    element, else of their absolute values.

    The prox takes `inner_steps` steps of fast gradient projection on the dual (Beck & Teboulle, IEEE TIP 18(11), 2009, algorithm 4.1), from
    where the last call ended. With m = tau w: z = v - m D^T p, |p| <= 1. The duality gap m sum (|D z| - <D z, p>) is a sum of terms that
    are never negative; divided by tau it is in units of the energy.
    """

    weight: jax.Array
    axes: tuple[int, ...] = static()
    isotropic: bool = static()
    boundary: Boundary = static()
    inner_steps: int = static()

    proximable = True
    exact = False

    # The parts of a vector field are separate arrays throughout: stacked, XLA would store each stack instead of computing with it.

    def _apply(self, u: jax.Array) -> Field:
        return tuple(ahead(u, axis, self.boundary) for axis in self.axes)

    def _transposed(self, p: Field) -> jax.Array:
        return jnp.asarray(sum(back(part, axis, self.boundary) for part, axis in zip(p, self.axes, strict=True)))

    def _sizes(self, field: Field) -> Field:
        """Of the vectors, one array; or of each part, as many arrays."""
        if not self.isotropic:
            return tuple(jnp.abs(part) for part in field)
        return (jnp.sqrt(sum((part**2 for part in field[1:]), start=field[0] ** 2)),)

    def _projected(self, field: Field) -> Field:
        scales = [1 / jnp.maximum(1, size) for size in self._sizes(field)] * (len(field) if self.isotropic else 1)
        return tuple(part * scale for part, scale in zip(field, scales, strict=True))

    def value(self, u: jax.Array) -> jax.Array:
        return self.weight * _total(self._sizes(self._apply(u)))

    def begin(self, u: jax.Array) -> Field:
        return tuple(jnp.zeros_like(u) for _ in self.axes)

    def prox(self, v: jax.Array, tau: jax.Array, carry: Any = ()) -> Proximal:
        m = tau * self.weight
        start: Field = tuple(carry) or self.begin(v)
        ascent = 1 / (4 * len(self.axes) * m)

        def climb(_: int, state: tuple[Field, Field, jax.Array]) -> tuple[Field, Field, jax.Array]:
            p, r, t = state
            slopes = self._apply(v - m * self._transposed(r))
            following = self._projected(tuple(part + ascent * slope for part, slope in zip(r, slopes, strict=True)))
            grown = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
            pull = (t - 1) / grown
            return following, tuple(new + pull * (new - old) for new, old in zip(following, p, strict=True)), grown

        p, _, _ = jax.lax.fori_loop(0, self.inner_steps, climb, (start, start, jnp.ones((), v.dtype)))
        point = v - m * self._transposed(p)
        differences = self._apply(point)
        sizes = self._sizes(differences)
        along = [part * dual for part, dual in zip(differences, p, strict=True)]
        along = [sum(along[1:], start=along[0])] if self.isotropic else along
        # Term by term, so that rounding in a large total does not hide it.
        gap = _total(tuple(jnp.maximum(size - part, 0) for size, part in zip(sizes, along, strict=True)))
        return Proximal(point, self.weight * _total(sizes), self.weight * gap, p)


def _total(field: Field) -> jax.Array:
    return jnp.asarray(sum(summed(part) for part in field))
