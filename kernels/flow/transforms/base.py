"""What a transform is: a linear operator W into coefficients that lie in one flat vector, with a table of its bands and a known frame.

unitary: W^T W = W W^T = I. tight: W^T W = c I. general: A ||x||^2 <= ||W x||^2 <= B ||x||^2, with the canonical dual as synthesis.
Axes before the last `ndim` are a batch, each element of which is transformed for itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ..bounds import Bound
from ..errors import FlowInputError
from ..operators.base import Operator, Shape
from ..pytrees import node, static

Frame = Literal["unitary", "tight", "general"]


class Band(NamedTuple):
    """The coefficients [offset, offset + size) of the flat vector, in C order of `shape`.

    level: 1 is the finest. orientation: one letter for each transformed axis, L for the low-pass and H for the high-pass filter along it;
    all L is the approximation.
    """

    offset: int
    shape: Shape
    level: int
    orientation: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def approximation(self) -> bool:
        """Whether it holds the mean, or the coarse image, rather than detail."""
        return "H" not in self.orientation

    def record(self) -> dict[str, Any]:
        """For manifests."""
        return {"offset": self.offset, "shape": list(self.shape), "level": self.level, "orientation": self.orientation}


@node
class TransformOp(Operator):
    """W: arrays of (*batch, *sides) to coefficients of (*batch, m), the approximation band first, then details from coarse to fine.

    A subclass has `forward` and `adjoint`, and where W^T W is not a multiple of the identity also `inverse` and `frame_bounds`.
    """

    name: str = static()
    levels: int = static()
    ndim: int = static()
    frame: Frame = static()
    c: float = static()  # W^T W = c I; of a general frame (A + B) / 2
    bands: tuple[Band, ...] = static()

    @property
    def sides(self) -> Shape:
        """The lengths of the transformed axes."""
        return self.domain[len(self.domain) - self.ndim :]

    @property
    def batch(self) -> Shape:
        """The lengths of the axes before."""
        return self.domain[: len(self.domain) - self.ndim]

    @property
    def redundant(self) -> bool:
        """Whether there are more coefficients than samples."""
        return self.codomain[-1] > math.prod(self.sides)

    def forward(self, x: jax.Array) -> jax.Array:
        """W x. Takes any leading axes, not only those of `domain`."""
        raise NotImplementedError

    def adjoint(self, u: jax.Array) -> jax.Array:
        """W^T u."""
        raise NotImplementedError

    def inverse(self, u: jax.Array) -> jax.Array:
        """The synthesis x = W~^T u by the canonical dual (W^T W)^-1 W^T, which takes W x back to x."""
        return self.adjoint(u) if self.frame == "unitary" else self.adjoint(u) / self.c

    def frame_bounds(self) -> tuple[Bound, Bound]:
        """A and B."""
        bound = Bound(self.c, "exact", f"{self.frame} frame")
        return bound, bound

    def matvec(self, x: jax.Array) -> jax.Array:
        return self.forward(x)

    def rmatvec(self, y: jax.Array) -> jax.Array:
        return self.adjoint(y)

    def norm_sq(self) -> Bound:
        return self.frame_bounds()[1]

    def coisometry(self) -> float | None:
        return None if self.redundant or self.frame == "general" else self.c

    def orthonormal(self) -> bool:
        return self.frame == "unitary"

    def normal_diagonal(self) -> jax.Array | None:
        return None if self.frame == "general" else jnp.full(self.domain, self.c)

    def solve_shifted(self, rhs: jax.Array, tau: jax.Array) -> jax.Array | None:
        return None if self.frame == "general" else rhs / (1 + tau * self.c)

    def band(self, u: jax.Array, number: int) -> jax.Array:
        """One band of coefficients, in its shape."""
        band = self.bands[number]
        return u[..., band.offset : band.offset + band.size].reshape(*u.shape[:-1], *band.shape)

    def parts(self, u: jax.Array) -> list[jax.Array]:
        """All bands, in the order of the table."""
        return [self.band(u, number) for number in range(len(self.bands))]

    def record(self) -> dict[str, Any]:
        """For manifests and reports."""
        lower, upper = self.frame_bounds()
        return {
            "name": self.name,
            "levels": self.levels,
            "ndim": self.ndim,
            "frame": self.frame,
            "c": self.c,
            "bounds": {"A": lower.record(), "B": upper.record()},
            "bands": [band.record() for band in self.bands],
        }


def flat(parts: list[jax.Array], ndim: int) -> jax.Array:
    """Bands, each with `ndim` axes of its own, as one vector of coefficients."""
    return jnp.concatenate([part.reshape(*part.shape[: part.ndim - ndim], -1) for part in parts], axis=-1)


def usual_axes(domain: Shape) -> int:
    """How many of the last axes a transform takes if it is not told: all, but at most two (channels come first)."""
    return min(len(domain), 2)


def transformed_axes(domain: Shape, ndim: int | None) -> int:
    """How many of the last axes a transform takes: as many as asked, else `usual_axes`. Raises FlowInputError."""
    count = usual_axes(domain) if ndim is None else ndim
    if not 1 <= count <= len(domain):
        raise FlowInputError(f"the transform takes {count} axes and its variable has shape {domain}; ndim must be from 1 to {len(domain)}")
    return count


def deepest(sides: Shape, taps: int) -> int:
    """How often all sides can be halved while the filter is no longer than what it filters: at least once where a side has 2 samples."""
    shortest = min(sides)
    return max(int(math.log2(shortest / max(taps - 1, 1))), 1) if shortest >= 2 else 0


def checked_levels(name: str, sides: Shape, levels: int) -> int:
    """`levels`, if the sides can be halved that often."""
    most = int(math.log2(min(sides))) if min(sides) >= 1 else 0
    if isinstance(levels, bool) or not isinstance(levels, (int, np.integer)) or not 1 <= levels <= most:
        raise FlowInputError(f"the transform {name} has {levels!r} levels; sides of {sides} allow a whole number from 1 to {most}")
    return int(levels)


def detail_orientations(ndim: int) -> list[str]:
    """The bands of one level but the approximation: for images LH, HL, HH."""
    return ["".join("LH"[number >> (ndim - 1 - axis) & 1] for axis in range(ndim)) for number in range(1, 2**ndim)]


def band_weights(transform: TransformOp, weights: NDArray[Any]) -> NDArray[Any]:
    """One number for each band, as one for each coefficient."""
    return np.repeat(weights, [band.size for band in transform.bands])


def band_thresholds(transform: TransformOp, per_level: Mapping[int, float] | Sequence[float] | float, approximation: bool) -> NDArray[Any]:
    """A threshold for each coefficient, shape (m,), from one number for all, one for each level, or one for each band.

    per_level: a mapping from levels to numbers (levels left out get 0), or a sequence as long as the table of bands. approximation: whether
    the approximation band is thresholded too, with the number of its level; a sequence says so itself.
    """
    if isinstance(per_level, Mapping):
        unknown = sorted(set(per_level) - set(range(1, transform.levels + 1)))
        if unknown:
            raise FlowInputError(
                f"there are thresholds for the levels {unknown}, but {transform.name} has 1 (finest) to {transform.levels}"
            )
        chosen = [float(per_level.get(band.level, 0.0)) for band in transform.bands]
    elif isinstance(per_level, (int, float)):
        chosen = [float(per_level)] * len(transform.bands)
    else:
        chosen = [float(value) for value in per_level]
        if len(chosen) != len(transform.bands):
            raise FlowInputError(
                f"there are {len(chosen)} thresholds for the {len(transform.bands)} bands of {transform.name}; give one for each"
            )
    if any(not (math.isfinite(value) and value >= 0) for value in chosen):
        raise FlowInputError(f"the thresholds of {transform.name} are {chosen}; each must be a number of at least 0")
    if not approximation and isinstance(per_level, (int, float, Mapping)):
        chosen = [0.0 if band.approximation else value for band, value in zip(transform.bands, chosen, strict=True)]
    return band_weights(transform, np.array(chosen))


def level_masks(transform: TransformOp) -> NDArray[np.bool_]:
    """M_0 ... M_levels, shape (levels + 1, m): M_l keeps the approximation and the l coarsest levels of details.

    They are nested and M_levels keeps all: W~^T M_l W restricts a step to the scales that a multiscale schedule has unlocked.
    """
    unlocked_at = np.array([0 if band.approximation else transform.levels + 1 - band.level for band in transform.bands])
    return np.asarray(band_weights(transform, unlocked_at)[None, :] <= np.arange(transform.levels + 1)[:, None])


def restricted(transform: TransformOp, x: jax.Array, mask: jax.Array) -> jax.Array:
    """W~^T M W x: x on the coefficients that the mask keeps, of the shape of x."""
    return transform.inverse(transform.forward(x) * mask)
