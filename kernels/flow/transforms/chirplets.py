"""Chirplets: short waves whose frequency rises or falls, as echoes, whistles and gravitational waves have them.

The atoms are exp(i (2 pi m s / M + pi r s^2 / M)) g(s), s the time from the centre of a window of M samples, for window positions `hop`
apart, M frequencies m and several sweep rates r. |atom| is that of a Gabor atom, so all rates share one normalisation: W^T W is the
multiplication by sum_k g(t - hop k)^2, and windows divided by its root make the frame tight ("painless nonorthogonal expansions",
Daubechies, Grossmann & Meyer, J. Math. Phys. 27, 1986). The bounds are measured all the same, from the windows as they are stored.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..bounds import Bound
from ..errors import FlowInputError
from ..operators.base import Operator, Shape, operator
from ..pytrees import node, static
from .base import Band, TransformOp

RATES = (0.0, 0.25, 0.5)


@node
class Chirplets(TransformOp):
    """places, windows: (frames, M), which samples a window sees and by what they are multiplied. sweeps: exp(-i pi r s^2 / M) of the rates
    above 0, (rates, M). plain: whether there is a band of rate 0, the real (Hartley) form of a Gabor frame."""

    places: jax.Array
    windows: jax.Array
    sweeps: jax.Array
    plain: bool = static()

    def forward(self, x: jax.Array) -> jax.Array:
        """Bands by rate, the coefficients of a rate above 0 as real and imaginary parts: frequency m rises, M - m is m and falls."""
        seen = x[..., self.places] * self.windows
        parts = []
        if self.plain:
            waves = jnp.fft.fft(seen, norm="ortho")
            parts.append((waves.real - waves.imag).reshape(*x.shape[:-1], -1))
        if len(self.sweeps):
            waves = jnp.fft.fft(seen[..., None, :, :] * self.sweeps[:, None, :], norm="ortho")
            parts.append(jnp.stack([waves.real, waves.imag], axis=-3).reshape(*x.shape[:-1], -1))
        return jnp.concatenate(parts, axis=-1)

    def adjoint(self, u: jax.Array) -> jax.Array:
        shape, size = self.windows.shape, self.windows.size
        lead = u.shape[:-1]
        total = jnp.zeros((*lead, *shape), u.dtype)
        if self.plain:
            waves = jnp.fft.fft(u[..., :size].reshape(*lead, *shape), norm="ortho")
            total = total + waves.real - waves.imag  # Hartley's transform is symmetric
        if len(self.sweeps):
            pairs = u[..., size * self.plain :].reshape(*lead, len(self.sweeps), 2, *shape)
            waves = jnp.fft.ifft(jax.lax.complex(pairs[..., 0, :, :], pairs[..., 1, :, :]), norm="ortho")
            total = total + jnp.sum((waves * jnp.conj(self.sweeps)[:, None, :]).real, axis=-3)
        return jnp.zeros((*lead, self.domain[-1]), u.dtype).at[..., self.places].add(total * self.windows)

    def gain(self) -> jax.Array:
        """The diagonal of W^T W, at each sample, from the windows as they are stored."""
        rates = self.plain + len(self.sweeps)
        return rates * jnp.zeros(self.domain[-1], self.windows.dtype).at[self.places].add(self.windows**2)

    def frame_bounds(self) -> tuple[Bound, Bound]:
        found = np.asarray(self.gain(), np.float64)
        return Bound(float(found.min()), "exact", "measured: least gain"), Bound(float(found.max()), "exact", "measured: greatest gain")


def chirplets(domain: Shape, real: np.dtype[Any], window: int = 64, hop: int | None = None, rates: tuple[float, ...] = RATES) -> Chirplets:
    """Of the last axis, whose ends are joined. window: M samples, even or odd; hop: a quarter of it if not given. rates: the part of the
    band (all frequencies) through which a wave sweeps while its window lasts, 0 for steady ones. Raises FlowInputError."""
    length = domain[-1] if domain else 0
    step = max(window // 4, 1) if hop is None else hop
    if not 2 <= window <= length:
        raise FlowInputError(f"chirplet has a window of {window!r} samples, and the last axis has {length}; it must be from 2 to {length}")
    if not 1 <= step <= window // 2:
        raise FlowInputError(f"chirplet has windows {step!r} samples apart; with a window of {window} it must be from 1 to {window // 2}")
    given = tuple(float(rate) for rate in rates)
    if not given or len(set(given)) < len(given) or any(not 0 <= rate <= 1 for rate in given):
        raise FlowInputError(f"chirplet has the rates {rates!r}; give different numbers from 0 to 1, falling waves are in each")
    starts = np.arange(0, length, step)
    time = np.arange(window) - (window - 1) / 2
    bell = np.exp(-0.5 * (time / (window / 6)) ** 2)  # a Gaussian, cut where it is 1 % of its height
    places = (starts[:, None] + np.arange(window)) % length
    covered = np.zeros(length)
    np.add.at(covered, places, np.broadcast_to(bell**2, places.shape))
    windows = bell / np.sqrt(covered[places] * len(given))
    rising = np.array([rate for rate in given if rate > 0])
    sweeps = np.exp(-1j * np.pi * rising[:, None] * time**2 / window)
    plain, frames = 0.0 in given, len(starts)
    bands, offset = [], 0
    for number, rate in enumerate(([0.0] if plain else []) + list(rising)):
        shape = (frames * window,) if rate == 0 else (2 * frames * window,)
        bands.append(Band(offset, shape, len(given) - number, "H"))
        offset += shape[0]
    held = jnp.asarray(places, np.int32), jnp.asarray(windows, real), jnp.asarray(sweeps, np.result_type(real, np.complex64))
    return Chirplets(domain, (*domain[:-1], offset), "chirplet", len(given), 1, "tight", 1.0, tuple(bands), *held, plain)


@operator("chirplet")
def _chirplet(
    domain: Shape, real: np.dtype[Any], *, window: int = 64, hop: int | None = None, rates: tuple[float, ...] = RATES
) -> Operator:
    return chirplets(domain, real, window, hop, rates)
