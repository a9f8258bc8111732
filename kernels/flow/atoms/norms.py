"""Atoms whose prox works element by element: l1, elastic net, box."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..functions.separable import Separable
from .base import Asked, Parts, atom


@atom("l1", r"w\|Ax\|_1")
def l1(asked: Asked) -> Parts:
    return Parts(asked.operator(), _separable(asked, threshold=asked.weight))


@atom("elastic_net", r"w(\|Ax\|_1+\frac{r}{2}\|Ax\|^2)")
def elastic_net(asked: Asked, *, ridge: float = 1.0) -> Parts:
    return Parts(asked.operator(), _separable(asked, threshold=asked.weight, ridge=asked.weight * ridge))


@atom("box", r"\iota\{l \le Ax \le u\}")
def box(asked: Asked, *, lower: Any = -np.inf, upper: Any = np.inf) -> Parts:
    return Parts(asked.operator(), _separable(asked, lower=lower, upper=upper))


def _separable(asked: Asked, *, threshold: Any = 0.0, ridge: Any = 0.0, lower: Any = -np.inf, upper: Any = np.inf) -> Separable:
    return Separable(*(asked.scalar(value) for value in (threshold, ridge, lower, upper)))
