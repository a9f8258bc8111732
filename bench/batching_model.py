"""The model of `bench batching`: a multilayer perceptron on JAX, 784-1024-1024-10, compiled once for each number of rows."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

WIDTHS = (784, 1024, 1024, 10)
Layers = list[tuple[jax.Array, jax.Array]]


class Mlp:
    """Its parameters stay on the device between calls."""

    def __init__(self) -> None:
        keys = jax.random.split(jax.random.PRNGKey(0), len(WIDTHS) - 1)
        shapes = itertools.pairwise(WIDTHS)
        self.layers: Layers = [
            (jax.random.normal(key, (rows, columns)) / rows**0.5, jnp.zeros(columns))
            for key, (rows, columns) in zip(keys, shapes, strict=True)
        ]

    def predict(self, rows: NDArray[np.float32]) -> jax.Array:
        """Logits of shape (n, 10) for rows of shape (n, 784)."""
        logits: jax.Array = _forward(self.layers, rows)
        return logits


@jax.jit
def _forward(layers: Layers, rows: jax.Array) -> jax.Array:
    *hidden, (weights, bias) = layers
    for inner, offset in hidden:
        rows = jax.nn.relu(rows @ inner + offset)
    return rows @ weights + bias
