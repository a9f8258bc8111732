"""Parallel projections of an image: line integrals at a list of angles, as a scanner measures them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ..bounds import Bound
from ..errors import FlowInputError
from ..pytrees import node, static
from .base import Operator, Shape, operator
from .spectra import largest_of_positive


@node
class ParallelProjection(Operator):
    """image -> sinogram of (angles, detectors); the detectors are one pixel apart, their middle sees the middle of the image.

    By Joseph's method (IEEE Trans. Med. Imaging 1, 1982): a ray takes one sample of each row (of each column, where it is closer to lying
    along the rows), interpolated linearly between the two pixels beside it, times the length of the ray in a row. Outside the image is 0.
    With i and j the row and the column, counted from the middle, the ray at the detector t is j cos a + i sin a = t.
    """

    angles: jax.Array
    detectors: int = static()

    def matvec(self, x: jax.Array) -> jax.Array:
        return jnp.asarray(jax.lax.map(lambda angle: self._one(x, angle), self.angles))

    def norm_sq(self) -> Bound:
        # All weights are 0 or more, which gives a sound bound where others only have an estimate.
        longest = max(self.domain)
        return largest_of_positive(lambda x: self.rmatvec(self.matvec(x)), self.domain, 4 * (longest + int(self.angles.size)))

    def _one(self, image: jax.Array, angle: jax.Array) -> jax.Array:
        """The projection at one angle: by rows where |cos a| >= |sin a|, else by columns. Both images are made square, so
        that one turn of the same code serves both."""
        height, width = self.domain
        side = max(height, width)
        before = ((side - height) // 2, (side - width) // 2)
        square = jnp.pad(image, [(first, side - size - first) for first, size in zip(before, self.domain, strict=True)])
        # Offsets from the middle of the image, which need not be the middle of the square.
        up = jnp.arange(side) - (before[0] + (height - 1) / 2)
        right = jnp.arange(side) - (before[1] + (width - 1) / 2)
        along = jnp.abs(jnp.cos(angle)) >= jnp.abs(jnp.sin(angle))
        rows = jnp.where(along, square, square.T)
        outer = jnp.where(along, up, right)
        inner_middle = jnp.where(along, before[1] + (width - 1) / 2, before[0] + (height - 1) / 2)
        # By rows: j = (t - i sin a)/cos a; by columns the two change places.
        steep, flat = jnp.where(along, jnp.cos(angle), jnp.sin(angle)), jnp.where(along, jnp.sin(angle), jnp.cos(angle))
        t = jnp.arange(self.detectors) - (self.detectors - 1) / 2
        place = ((t[None, :] - outer[:, None] * flat) / steep + inner_middle).astype(image.dtype)
        below = jnp.floor(place)
        share = place - below
        low = below.astype(jnp.int32)
        padded = jnp.pad(rows, ((0, 0), (1, 1)))

        def taken(columns: jax.Array) -> jax.Array:
            return jnp.take_along_axis(padded, jnp.clip(columns + 1, 0, side + 1), axis=1)

        samples = (1 - share) * taken(low) + share * taken(low + 1)
        return jnp.sum(samples, axis=0) / jnp.abs(steep).astype(image.dtype)


@operator("parallel_projection")
def _parallel_projection(domain: Shape, real: np.dtype[Any], *, angles: ArrayLike, detectors: int | None = None) -> Operator:
    """angles: in radians. detectors: as many as the diagonal of the image is long by default."""
    turned = np.asarray(angles, np.float64)
    if len(domain) != 2:
        raise FlowInputError(f"a projection is of an image of two dimensions; the variable has shape {domain}")
    if turned.ndim != 1 or not turned.size or not np.all(np.isfinite(turned)):
        raise FlowInputError(f"angles have shape {turned.shape}; they must be a list of finite numbers, in radians")
    count = int(np.ceil(np.hypot(*domain))) if detectors is None else int(detectors)
    if count < 1:
        raise FlowInputError(f"there are {detectors!r} detectors; there must be at least one")
    return ParallelProjection(domain, (turned.size, count), jnp.asarray(turned, real), count)
