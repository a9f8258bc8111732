"""Coordinates in which a block of L is looked at: an orthonormal change of basis for each slot, on the host.

"pixel" leaves the samples alone, "dft" makes convolutions diagonal, "dct" differences with reflecting ends and "dst" those with ends held
at 0. Any other orthonormal operator, such as a wavelet transform, can be one too. No change of basis moves an eigenvalue; only eta_dd
depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from ..errors import FlowInputError
from ..operators.base import Op, Operator, Shape, build
from ..precision import precision
from .curvature import Block, Vector

# Those in which a block is tried for being diagonal.
WAVES = ("pixel", "dft", "dct", "dst")


@dataclass(frozen=True)
class CertificationLens:
    """An orthonormal W on flat vectors, and its transpose."""

    name: str
    forward: Callable[[Vector], Vector]
    adjoint: Callable[[Vector], Vector]


def lens_for(asked: str | Op | Operator, block: Block) -> CertificationLens:
    """The lens of a name (one of WAVES) or of an orthonormal operator, for a block. Raises FlowInputError."""
    if isinstance(asked, str):
        if asked not in WAVES:
            raise FlowInputError(
                f"the certification lens is {asked!r}; it must be one of {', '.join(WAVES)}, auto, or an orthonormal operator"
            )
        return CertificationLens(asked, _by_slot(block, asked, False), _by_slot(block, asked, True))
    parts = []
    with precision("float64") as real:
        for shape in block.shapes:
            made = build(asked, shape, real)
            if not made.orthonormal() or made.domain != shape:
                raise FlowInputError(
                    f"the certification lens {asked!r} is not orthonormal on {shape}; eta_dd is defined in such bases only"
                )
            parts.append(made)
    name = asked.kind if isinstance(asked, Op) else type(asked).__name__.lower()
    return CertificationLens(name, _by_operator(block.shapes, parts, False), _by_operator(block.shapes, parts, True))


def _by_slot(block: Block, name: str, adjoint: bool) -> Callable[[Vector], Vector]:
    def turned(v: Vector) -> Vector:
        pieces = np.split(v, np.cumsum([int(np.prod(shape)) for shape in block.shapes])[:-1])
        return np.concatenate(
            [waves(piece.reshape(shape), name, adjoint).ravel() for piece, shape in zip(pieces, block.shapes, strict=True)]
        )

    return (lambda v: v) if name == "pixel" else turned


def waves(x: Vector, name: str, adjoint: bool) -> Vector:
    """The orthonormal transform of all axes: the DFT in its real form Re F - Im F (Hartley's), the DCT-II, or the DST-I."""
    if x.ndim == 0 or name == "pixel":
        return x
    if name == "dft":
        spectrum = scipy.fft.fftn(x, norm="ortho")
        return np.asarray(spectrum.real - spectrum.imag)  # its own inverse
    if name == "dst":
        return np.asarray(scipy.fft.dstn(x, type=1, norm="ortho"))  # likewise
    return np.asarray(scipy.fft.idctn(x, norm="ortho") if adjoint else scipy.fft.dctn(x, norm="ortho"))


def _by_operator(shapes: tuple[Shape, ...], parts: list[Operator], adjoint: bool) -> Callable[[Vector], Vector]:
    def turned(v: Vector) -> Vector:
        cuts = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
        images = []
        with precision("float64"):
            for part, piece in zip(parts, np.split(v, cuts), strict=True):
                along = jnp.asarray(piece.reshape(part.codomain if adjoint else part.domain))
                images.append(np.asarray(_backward(part, along) if adjoint else _onward(part, along), np.float64).ravel())
        return np.concatenate(images)

    return turned


@jax.jit
def _onward(op: Operator, x: jax.Array) -> jax.Array:
    return op.matvec(x)


@jax.jit
def _backward(op: Operator, y: jax.Array) -> jax.Array:
    return op.rmatvec(y)
