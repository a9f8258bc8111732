"""The operator of a coupling: (x_1, ..., x_k) -> A_1 x_1 + ... + A_k x_k, on several slots at once."""

from __future__ import annotations

from typing import Any

import jax

from ..bounds import Bound, total
from ..pytrees import node
from .base import Operator


@node
class Balance(Operator):
    """Takes and gives tuples, or for a single part the array itself. `domain` is that of the first part."""

    parts: tuple[Operator, ...]

    def matvec(self, x: Any) -> jax.Array:
        pieces = (x,) if len(self.parts) == 1 else x
        images = [part.matvec(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        out = images[0]
        for image in images[1:]:
            out = out + image
        return out

    def rmatvec(self, y: jax.Array) -> Any:
        pieces = tuple(part.rmatvec(y) for part in self.parts)
        return pieces[0] if len(pieces) == 1 else pieces

    def norm_sq(self) -> Bound:
        """||[A_1 ... A_k]||^2 <= sum ||A_i||^2."""
        return total([part.norm_sq() for part in self.parts], "sum of the parts")
