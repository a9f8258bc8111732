"""The operator of a coupling: (x_1, ..., x_k) -> A_1 x_1 + ... + A_k x_k, on several slots at once."""

from __future__ import annotations

from typing import Any

import jax

from ..pytrees import node
from .combined import Beside


@node
class Balance(Beside):
    """Takes and gives tuples, or for a single part the array itself. `domain` is that of the first part."""

    def matvec(self, x: Any) -> jax.Array:
        return super().matvec((x,) if len(self.parts) == 1 else x)

    def rmatvec(self, y: jax.Array) -> Any:
        made = super().rmatvec(y)
        return made[0] if len(made) == 1 else made
