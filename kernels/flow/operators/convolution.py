"""Circular convolution on the last axes of an array: diagonal in the Fourier basis, so its norm, its inverse and its spectrum are exact."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bounds import Bound
from ..errors import FlowInputError
from ..pytrees import node, static
from .base import Operator, Shape, operator


@node
class Circulant(Operator):
    """x -> k * x on the last `axes` axes, held as the transfer function K^ = rfftn(k)."""

    transfer: jax.Array  # complex, broadcast over the axes before
    axes: int = static()

    structure = "circulant"

    @property
    def sides(self) -> Shape:
        return self.domain[-self.axes :]

    def spectrum(self, x: jax.Array) -> jax.Array:
        """rfftn over the axes of the convolution."""
        return jnp.fft.rfftn(x, axes=tuple(range(-self.axes, 0)))

    def signal(self, spectrum: jax.Array) -> jax.Array:
        """The inverse of `spectrum`."""
        return jnp.fft.irfftn(spectrum, s=self.sides, axes=tuple(range(-self.axes, 0)))

    def matvec(self, x: jax.Array) -> jax.Array:
        return self.signal(self.transfer * self.spectrum(x))

    def rmatvec(self, y: jax.Array) -> jax.Array:
        return self.signal(jnp.conj(self.transfer) * self.spectrum(y))

    def norm_sq(self) -> Bound:
        return Bound(float(np.max(np.abs(self.transfer) ** 2)), "exact", "max |K^|^2")

    def smallest_sq(self) -> Bound:
        """The smallest eigenvalue of K^T K: min |K^|^2."""
        return Bound(float(np.min(np.abs(self.transfer) ** 2)), "exact", "min |K^|^2")

    def normal_diagonal(self) -> jax.Array:
        power = jnp.abs(self.transfer) ** 2
        mean = jnp.sum(power * hermitian_weights(self.sides[-1], power.dtype)) / np.prod(self.sides)
        return jnp.full(self.domain, mean)

    def solve_shifted(self, rhs: jax.Array, tau: jax.Array) -> jax.Array:
        return self.signal(self.spectrum(rhs) / (1 + tau * jnp.abs(self.transfer) ** 2))


def hermitian_weights(last: int, dtype: Any) -> jax.Array:
    """How often each column of an rfft stands in the full spectrum: its mirrored half is left out, but the first column and, for an even
    length, the last have no mirror."""
    doubled = np.full(last // 2 + 1, 2.0)
    doubled[0] = 1.0
    if last % 2 == 0:
        doubled[-1] = 1.0
    return jnp.asarray(doubled, dtype)


def gaussian_kernel(sides: Shape, sigma: float) -> NDArray[np.float64]:
    """A Gaussian of standard deviation `sigma` samples, wrapped around the torus, centred at index 0, with sum 1; 0 gives the identity."""
    kernel = np.ones(())
    for n in sides:
        kernel = np.multiply.outer(kernel, _profile(n, sigma))
    return np.asarray(kernel)


def _profile(n: int, sigma: float) -> NDArray[np.float64]:
    if sigma == 0:
        return np.asarray(np.eye(1, n)[0])
    if sigma > 2 * n:  # its first wave is 2 exp(-2 (pi sigma / n)^2) < 1e-33 of the mean; the sum below would be as long as sigma
        return np.full(n, 1 / n)
    reach = int(np.ceil(10 * sigma / n)) + 1  # images of the period beyond which a Gaussian is below 1e-20
    offsets = np.arange(n)[:, None] + n * np.arange(-reach, reach + 1)[None, :]
    profile = np.exp(-0.5 * (offsets / sigma) ** 2).sum(axis=1)
    return np.asarray(profile / profile.sum())


def circulant(domain: Shape, real: np.dtype[Any], kernel: NDArray[Any]) -> Circulant:
    """The convolution with a kernel that is as large as the last axes of the variable, its centre at index 0."""
    axes = kernel.ndim
    if not 1 <= axes <= len(domain) or kernel.shape != domain[-axes:]:
        raise FlowInputError(f"the kernel has shape {kernel.shape} and its variable {domain}; it must have the shape of the last axes")
    transfer = np.fft.rfftn(kernel.astype(np.float64))
    return Circulant(domain, domain, jnp.asarray(transfer, np.result_type(real, np.complex64)), axes)


@operator("convolution")
def _convolution(domain: Shape, real: np.dtype[Any], *, kernel: ArrayLike, centred: bool = False) -> Operator:
    """kernel: no larger than the last axes; smaller ones are padded. centred: its middle is the origin (as of a drawn point spread
    function), else index 0 is."""
    given = np.asarray(kernel, np.float64)
    if not given.size or not np.all(np.isfinite(given)):
        finite = int(np.isfinite(given).sum())
        raise FlowInputError(f"the kernel has {given.size} values, {finite} of them finite; give finite numbers, at least one")
    sides = domain[-given.ndim :] if given.ndim else ()
    if not given.ndim or len(sides) != given.ndim or any(have > most for have, most in zip(given.shape, sides, strict=True)):
        raise FlowInputError(f"the kernel has shape {given.shape} and its variable {domain}; it may be no larger than the last axes")
    padded = np.zeros(sides)
    padded[tuple(slice(0, side) for side in given.shape)] = given
    if centred:
        padded = np.roll(padded, [-(side // 2) for side in given.shape], axis=tuple(range(given.ndim)))
    return circulant(domain, real, padded)


@operator("gaussian_blur")
def _gaussian_blur(domain: Shape, real: np.dtype[Any], *, sigma: float, axes: int | None = None) -> Operator:
    """axes: how many of the last axes are blurred; all by default, the last two of an image with channels first."""
    if isinstance(sigma, str) or not (np.isfinite(sigma) and sigma >= 0):
        raise FlowInputError(f"the blur has sigma {sigma!r}; it must be a number of samples, 0 or more")
    count = min(len(domain), 2) if axes is None else axes
    if not 1 <= count <= len(domain):
        raise FlowInputError(f"the blur takes {axes!r} axes and its variable has shape {domain}; axes must be from 1 to {len(domain)}")
    return circulant(domain, real, gaussian_kernel(domain[len(domain) - count :], float(sigma)))
