"""Atoms that are half squares."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ..functions.squares import HalfSquare
from .base import Asked, Parts, atom


@atom("quadratic", r"\frac{w}{2}\|Ax-b\|^2")
def quadratic(asked: Asked) -> Parts:
    op = asked.operator()
    return Parts(op, HalfSquare(asked.scalar(asked.weight), asked.goal(op.codomain), asked.scalar(1.0)))


@atom("weighted_ls", r"\frac{w}{2}\|D(Ax-b)\|^2")
def weighted_ls(asked: Asked, *, scale: Any) -> Parts:
    op = asked.operator()
    return Parts(op, HalfSquare(asked.scalar(asked.weight), asked.goal(op.codomain), jnp.broadcast_to(asked.scalar(scale), op.codomain)))


@atom("tikhonov", r"\frac{w}{2}\|Lx\|^2")
def tikhonov(asked: Asked) -> Parts:
    return Parts(asked.operator(), HalfSquare(asked.scalar(asked.weight), asked.scalar(0.0), asked.scalar(1.0)))
