"""Steps on a curve that leaves a point, halved until the energy has fallen far enough: what the solvers on manifolds share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..problem import Problem, State
from .base import Metrics
from .proximal_gradient import Point

SHRINK = 0.5
MOST_TRIALS = 40


class Descending(NamedTuple):
    """The state: the point and its lift, the step that the next search starts from, what inexact proxes go on from, and what else the
    solver remembers by slot: its gradients, its multipliers."""

    at: Point
    alpha: jax.Array
    remembered: dict[str, jax.Array]
    carries: dict[str, Any]
    metrics: Metrics

    @property
    def x(self) -> State:
        return self.at.x


class Trial(NamedTuple):
    """A step that was tried: its length, where it led, f and g there, whether it is accepted, and what the solver wants to know of it."""

    length: jax.Array
    at: Point
    smooth: jax.Array
    nonsmooth: jax.Array
    accepted: jax.Array
    found: Any

    def kept(self, new: Any, before: Any) -> Any:
        """What the step made where it is accepted, else what was there."""
        return jax.tree.map(lambda one, other: jnp.where(self.accepted, one, other), new, before)

    def metrics(self, old: Metrics, *, residual: jax.Array, grad_norm: jax.Array, inner_gap: jax.Array, alpha: jax.Array) -> Metrics:
        """Of the step: the energies are those of the point that is kept."""
        energy, smooth, nonsmooth = self.kept((self.smooth + self.nonsmooth, self.smooth, self.nonsmooth), old[:3])
        return Metrics(energy, smooth, nonsmooth, residual, grad_norm, inner_gap, old.restarts, alpha, old.inertia)


def energies(problem: Problem, x: State, real: np.dtype[Any]) -> tuple[Point, jax.Array, jax.Array]:
    """A point with its lift, and f and g there."""
    at = Point(x, problem.lift(x))
    return at, problem.f_lifted(at.lifted).astype(real), problem.g_value(x).astype(real)


def rounding(metrics: Metrics) -> jax.Array:
    """Changes of E up to this say nothing."""
    return 4 * float(np.finfo(metrics.energy.dtype).eps) * jnp.abs(metrics.energy)


def halved(tried: Callable[[jax.Array], Trial], longest: jax.Array) -> Trial:
    """The first accepted trial among longest, longest/2, longest/4, ...; the last one, refused, where none of MOST_TRIALS is."""

    def refused(searched: tuple[Trial, jax.Array]) -> jax.Array:
        trial, count = searched
        return ~trial.accepted & (count < MOST_TRIALS)

    def shorter(searched: tuple[Trial, jax.Array]) -> tuple[Trial, jax.Array]:
        trial, count = searched
        return tried(trial.length * SHRINK), count + 1

    trial, _ = jax.lax.while_loop(refused, shorter, (tried(longest), jnp.int32(1)))
    return trial
