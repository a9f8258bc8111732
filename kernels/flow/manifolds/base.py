"""What a manifold is for a solver, and the registry of those that a slot can live on.

A point is an array whose last axes (`Manifold.rank` of them) are one element of the manifold; axes before are a batch, so that a slot can
be many points at once and the manifold then is their product. Tangent vectors are arrays of the same shape, as the embedding has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import FlowInputError
from ..operators.base import Shape
from ..pytrees import node, static

# How far a given point may be from its manifold.
TOLERANCES = {"float32": 1e-5, "float64": 1e-10}


@node
class Manifold:
    """`shape`: of the slot. Every function is pure, and batched over the axes before the last `rank`."""

    shape: Shape = static()

    name: ClassVar[str]
    rank: ClassVar[int] = 0

    def exp(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """The end of the geodesic that leaves x with velocity v."""
        raise NotImplementedError

    def acceleration(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """The second derivative at 0 of the geodesic t -> exp(x, t v): x + v + acceleration(x, v) / 2 agrees with exp to second order and
        can be differentiated at v = 0, so the second derivative of f along it is the Riemannian Hessian of f (Bo23, section 5.9)."""
        raise NotImplementedError

    def log(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The tangent vector at x with exp(x, v) = y, within the injectivity radius."""
        raise NotImplementedError

    def metric(self, x: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        """<v, w> at x, one number for each point of the batch."""
        return jnp.sum(v * w, axis=tuple(range(-self.rank, 0)))

    def proj_tangent(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """The tangent vector at x that is nearest to v in the metric."""
        raise NotImplementedError

    def retract(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """A point that agrees with exp(x, v) to first order and costs less."""
        return self.exp(x, v)

    def transport(self, x: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        """w, tangent at x, carried to exp(x, v) along the geodesic; lengths and angles are kept."""
        raise NotImplementedError

    def gradient(self, x: jax.Array, slope: jax.Array) -> jax.Array:
        """The Riemannian gradient: the tangent vector g with <g, v> = sum(slope * v) for all tangent v, from the Euclidean gradient."""
        return self.proj_tangent(x, slope)

    def dist(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The length of the shortest geodesic."""
        v = self.log(x, y)
        return jnp.sqrt(self.metric(x, v, v))

    def random_point(self, key: jax.Array) -> jax.Array:
        """A point for each element of the batch; uniform where the manifold has a uniform distribution."""
        raise NotImplementedError

    def random_tangent(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """A normal array, projected."""
        return self.proj_tangent(x, jax.random.normal(key, self.shape, x.dtype))

    def check(self, x: jax.Array) -> jax.Array:
        """How far x is from the manifold, relative to its size: the worst of the batch, 0 on it."""
        raise NotImplementedError

    def injectivity_radius(self) -> float:
        """Within this distance of any point geodesics are shortest and `log` is unique; a lower bound."""
        return float("inf")

    def inner(self, x: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        """The metric of the product over the batch: one number."""
        return jnp.sum(self.metric(x, v, w))


Builder = Callable[..., Manifold]
_BUILDERS: dict[str, Builder] = {}


def manifold(name: str) -> Callable[[Builder], Builder]:
    """Registers a builder: builder(shape, real, **params) gives the manifold of a slot of that shape."""

    def register(builder: Builder) -> Builder:
        _BUILDERS[name] = builder
        return builder

    return register


def names() -> list[str]:
    """The manifolds there are."""
    return sorted(_BUILDERS)


def build(described: str | tuple[str, Mapping[str, Any]], shape: Shape, real: np.dtype[Any]) -> Manifold:
    """The manifold of a slot by its description. Raises FlowInputError."""
    name, params = (described, {}) if isinstance(described, str) else described
    builder = _BUILDERS.get(name)
    if builder is None:
        raise FlowInputError(f"there is no manifold {name!r}; there are {', '.join(names())}")
    try:
        return builder(shape, real, **params)
    except TypeError as error:
        raise FlowInputError(f"the manifold {name!r} cannot be built with {dict(params)}: {error}") from error


def placed(slot: str, made: Manifold, value: Any, real: np.dtype[Any]) -> jax.Array:
    """Where a slot starts: its value, which must lie on the manifold, or a point drawn with a fixed key. Raises FlowInputError."""
    if value is None:
        point: jax.Array = jax.jit(made.random_point)(jax.random.PRNGKey(0))
        return point.astype(real)
    point = jnp.asarray(value, real)
    off, most = float(jax.jit(made.check)(point)), TOLERANCES[real.name]
    if not off <= most:
        raise FlowInputError(
            f"the slot {slot!r} starts {off:.1e} off its manifold {made.name}; at most {most:.0e} is rounding: project it first"
        )
    return point


def sym(v: jax.Array) -> jax.Array:
    """(V + V^T) / 2."""
    return (v + jnp.swapaxes(v, -1, -2)) / 2


def skew(v: jax.Array) -> jax.Array:
    """(V - V^T) / 2."""
    return (v - jnp.swapaxes(v, -1, -2)) / 2


def turned(x: jax.Array) -> jax.Array:
    """X^T."""
    return jnp.swapaxes(x, -1, -2)


def square(name: str, shape: Shape) -> int:
    """The side of the square matrices that a slot holds. Raises FlowInputError."""
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise FlowInputError(f"the manifold {name} is of square matrices, the last two axes of a slot; this one has shape {shape}")
    return shape[-1]
