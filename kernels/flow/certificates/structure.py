"""What a block of L is, found by a guess from a few columns that random vectors then confirm: diagonal in a wave basis, circulant, sparse.

A guess M is confirmed by Gaussian vectors g: (L - M) g is known, and ||E g|| <= t ||E||_F for all PROBES of them has a probability of at
most (t sqrt(e))^PROBES, by Chernoff's bound on ||E g||^2, a weighted sum of squares of standard normal numbers; with t = 1/SHRINK that is
3e-8. So a confirmed guess comes with an error radius, ||L - M||_F <= SHRINK max ||E g||, which the certificates take off. No declaration of
an operator is trusted for it: an operator that claims the wrong structure is found out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.sparse
from numpy.typing import NDArray

from ..functions.squares import HalfSquare
from ..operators.arrays import Diagonal, Identity
from ..operators.base import Shape
from ..operators.convolution import Circulant
from ..precision import precision
from ..problem import SpectralSquare
from .colouring import pattern_of, probed
from .curvature import Block, Vector
from .lenses import WAVES, CertificationLens, lens_for

SHRINK = 128.0
# A guess is confirmed when its radius is at most this part of ||L||.
CONFIRMED = 1e-7
# Up to this many unknowns a block is looked at as a dense matrix.
DENSE = 2048
# A block is taken as sparse if its elements are coupled within stencils that so many colours separate.
COLOURS = 192
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Guess:
    """A diagonal that L is in some basis, but for `radius` in the Frobenius norm. kernel: of
    a convolution, where it is at hand, one row for each element of a batch."""

    entries: Vector
    radius: float
    kernel: Vector | None = None


def confirmed(block: Block, model: Callable[[Vector], Vector]) -> float | None:
    """The error radius of a model of L, or None where it is refuted."""
    directions, images = block.probes
    missed = max(float(np.linalg.norm(image - model(direction))) for image, direction in zip(images, directions, strict=True))
    size = float(np.linalg.norm(images, axis=1).max())
    # Where the model and L agree to the last bit, their own rounding remains.
    radius = SHRINK * max(missed, EPS * size)
    return radius if np.isfinite(radius) and radius <= CONFIRMED * max(size, 1e-300) else None


def diagonal_in(block: Block, lens: CertificationLens) -> Guess | None:
    """The diagonal of W L W^T, if it is a diagonal: s = W L W^T 1."""
    entries = lens.forward(block.apply(lens.adjoint(np.ones(block.size))))
    if not np.all(np.isfinite(entries)):
        return None
    radius = confirmed(block, lambda v: lens.adjoint(entries * lens.forward(v)))
    return None if radius is None else Guess(entries, radius)


@dataclass(frozen=True)
class Known:
    """What is known of a block: its eigenvalues in a basis, its dense matrix, or its sparse matrix with a radius. The first there is."""

    eigen: tuple[CertificationLens, Guess] | None = None
    dense: Vector | None = None
    sparse: tuple[scipy.sparse.csr_matrix, float] | None = None


def known(block: Block) -> Known:
    """Looks at a block once, for all certificates."""
    with precision("float64"):
        found = declared(block) or eigenbasis(block)
    if found is not None:
        return Known(eigen=found)
    if block.size <= DENSE:
        return Known(dense=matrix(block))
    return Known(sparse=local(block) or patterned(block))


def declared(block: Block) -> tuple[CertificationLens, Guess] | None:
    """The eigenvalues in closed form where all terms are squares of convolutions, diagonals or orthonormal operators: no program is
    compiled for these, and none is run. Only operators of this package are taken at their word."""
    if len(block.slots) != 1 or block.scaled or not np.isfinite(block.modulus):
        return None
    (shape,) = block.shapes
    level: Vector = np.array(block.modulus)
    waves: list[tuple[Circulant, Vector]] = []
    pixels: Vector | None = None
    for term in block.terms:
        if isinstance(term, SpectralSquare):
            waves.append((term.op, float(term.weight) * np.abs(np.asarray(term.op.transfer, np.complex128)) ** 2))
        elif not isinstance(term.phi, HalfSquare):
            return None
        else:
            weight = np.asarray(term.phi.weight * term.phi.scale**2, np.float64)
            if type(term.op) in (Identity, Diagonal):
                squares = np.asarray(term.op.normal_diagonal(), np.float64)
                if weight.ndim or type(term.op) is Diagonal:
                    pixels = weight * squares + (0.0 if pixels is None else pixels)
                else:
                    level = level + weight
            elif weight.ndim == 0 and term.op.orthonormal():
                level = level + weight
            else:
                return None
    if (waves and pixels is not None) or any(op.axes != waves[0][0].axes for op, _ in waves):
        return None
    if not waves:
        entries = np.broadcast_to(level if pixels is None else level + pixels, shape).ravel()
        return lens_for("pixel", block), Guess(entries, _rounding(entries, 4))
    half = level + sum(power for _, power in waves)
    sides = waves[0][0].sides
    kernel = scipy.fft.irfftn(half, s=sides, axes=tuple(range(-len(sides), 0)))
    radius = _rounding(half, 4 * np.log2(max(kernel.size, 2)) + 8)
    return lens_for("dft", block), Guess(half.ravel(), radius, kernel.reshape(-1, int(np.prod(sides))))


def _rounding(entries: Vector, operations: float) -> float:
    return float(operations * EPS * np.abs(entries).max(initial=0.0))


def eigenbasis(block: Block) -> tuple[CertificationLens, Guess] | None:
    """The first of WAVES in which the block is diagonal, and its eigenvalues."""
    for name in WAVES:
        lens = lens_for(name, block)
        found = diagonal_in(block, lens)
        if found is not None:
            return lens, found
    return None


def matrix(block: Block) -> Vector:
    """L, symmetrised. For blocks of at most DENSE unknowns."""
    made = block.apply_many(np.eye(block.size))
    return (made + made.T) / 2


def seen_through(made: Vector, lens: CertificationLens) -> Vector:
    """W L W^T of a dense L."""
    if lens.name == "pixel":
        return made
    half = np.stack([lens.forward(row) for row in made])  # L W^T, row by row
    return np.stack([lens.forward(column) for column in half.T])


def local(block: Block) -> tuple[scipy.sparse.csr_matrix, float] | None:
    """L as a sparse matrix, with its error radius, where each element is coupled only with those nearby: its entries by coloured probing
    (Curtis, Powell & Reid, 1974), the reach of the stencil from a few columns. Blocks of one slot; ends may be joined."""
    if len(block.shapes) != 1 or not block.shapes[0]:
        return None
    sides = block.shapes[0]
    reach = _reach(block, sides)
    if reach is None:
        return None
    colours = [_colours(side, 2 * far + 1) for side, far in zip(sides, reach, strict=True)]
    counts = [int(found.max()) + 1 for found in colours]
    if int(np.prod(counts)) > COLOURS:
        return None
    flat = np.arange(block.size).reshape(sides)
    steps = [sorted({step % side for step in range(-far, far + 1)}) for side, far in zip(sides, reach, strict=True)]
    rows, columns, values = [], [], []
    for colour in itertools.product(*map(range, counts)):
        chosen = np.ix_(*(found == part for found, part in zip(colours, colour, strict=True)))
        probe = np.zeros(sides)
        probe[chosen] = 1.0
        image = block.apply(probe.ravel()).reshape(sides)
        centres = np.argwhere(probe)
        for step in itertools.product(*steps):
            at = tuple(((centres + step) % sides).T)
            values.append(image[at])
            rows.append(flat[at])
            columns.append(flat[tuple(centres.T)])
    entries = scipy.sparse.csr_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(block.size, block.size)
    )
    made = ((entries + entries.T) / 2).tocsr()
    made.eliminate_zeros()
    radius = confirmed(block, lambda v: np.asarray(made @ v))
    return None if radius is None else (made, radius)


def patterned(block: Block) -> tuple[scipy.sparse.csr_matrix, float] | None:
    """L as a sparse matrix, with its error radius, where the operators of its terms are sparse ones."""
    pattern = pattern_of(block)
    made = None if pattern is None else probed(block, pattern, COLOURS)
    if made is None:
        return None
    radius = confirmed(block, lambda v: np.asarray(made @ v))
    return None if radius is None else (made, radius)


def _reach(block: Block, sides: Shape) -> tuple[int, ...] | None:
    """How far along each axis the columns of L at a few places go, around the ends; None if they go everywhere."""
    rng = np.random.default_rng(5)
    sites = [tuple(0 for _ in sides), tuple(side // 2 for side in sides), tuple(side - 1 for side in sides)]
    sites += [tuple(int(rng.integers(side)) for side in sides) for _ in range(2)]
    far = np.zeros(len(sides), int)
    for site in sites:
        basis = np.zeros(sides)
        basis[site] = 1.0
        column = block.apply(basis.ravel()).reshape(sides)
        touched = np.argwhere(np.abs(column) > 1e-14 * np.abs(column).max())
        if len(touched) > COLOURS:
            return None
        if not len(touched):  # an element that nothing holds
            continue
        away = np.abs(touched - np.array(site))
        far = np.maximum(far, np.minimum(away, np.array(sides) - away).max(axis=0))
    return tuple(int(value) for value in far)


def _colours(side: int, period: int) -> NDArray[np.int64]:
    """A colour for each index, so that two of the same are at least `period` apart, around the ends too: the last few, beyond a whole
    number of periods, get colours of their own."""
    index = np.arange(side)
    whole = side // period * period
    return np.where(index < whole, index % period, period + index - whole) if whole else index
