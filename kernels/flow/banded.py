"""Thresholds on the wavelet coefficients of a large array, band by band.

A transform ends by joining its bands into one vector. Of a large array that is stored, read to be thresholded, stored again and cut into
bands for the way back. Thresholded where it is made, a band is stored once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .functions.base import Function, Proximal
from .functions.separable import Separable
from .operators.base import Operator
from .sizes import ONE_PASS
from .transforms.base import flat
from .transforms.wavelets import Wavelet


def prox_by_bands(op: Operator, phi: Function, v: jax.Array, tau: jax.Array) -> Proximal | None:
    """argmin_z phi(W z) + ||z - v||^2 / (2 tau), W orthonormal; None where W is no wavelet transform with large bands, or phi no sum over
    coefficients with one tau for all. The first bands, as far as any of them is small, stay together: a sum over each would cost more."""
    if not (isinstance(op, Wavelet) and isinstance(phi, Separable) and jnp.ndim(tau) == 0):
        return None
    few = max((number + 1 for number, band in enumerate(op.bands) if band.size < ONE_PASS), default=0)
    if few == len(op.bands) or any(jnp.ndim(each) and jnp.shape(each)[-1] != op.codomain[-1] for each in jax.tree.leaves(phi)):
        return None
    bands = op.analysis(v)
    made = [_at(phi, partial(op.band, number=number)).prox(bands[number], tau) for number in range(few, len(bands))]
    points = [each.point for each in made]
    if few:
        made.append(_at(phi, lambda u: u[..., : op.bands[few].offset]).prox(flat(bands[:few], op.ndim), tau))
        points = [*(op.band(made[-1].point, number) for number in range(few)), *points]
    value = sum((each.value for each in made[1:]), start=made[0].value)
    return made[0]._replace(point=op.synthesis(points), value=value)


def _at(phi: Separable, some: Any) -> Separable:
    """phi on some of the coefficients: its arrays have one number for each, its scalars are for all."""
    restricted: Separable = jax.tree.map(lambda each: some(each) if jnp.ndim(each) else each, phi)
    return restricted
