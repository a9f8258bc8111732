"""A small classifier of handwritten digits, trained with optax. Parameters and optimiser state stay on the device between calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

CLASSES = 10


class Classifier:
    """A multilayer perceptron. `hidden`: widths of the hidden layers."""

    def __init__(self, inputs: int, hidden: Sequence[int] = (128,), learning_rate: float = 1e-2, seed: int = 0) -> None:
        sizes = [inputs, *hidden, CLASSES]
        keys = jax.random.split(jax.random.key(seed), len(sizes) - 1)
        self._optimiser = optax.adam(learning_rate)
        self._params = [
            (jax.random.normal(key, (before, after)) * jnp.sqrt(2.0 / before), jnp.zeros(after))
            for key, before, after in zip(keys, sizes[:-1], sizes[1:], strict=True)
        ]
        self._state = self._optimiser.init(self._params)
        self._step = jax.jit(self._descend, donate_argnums=(0, 1))
        self._logits = jax.jit(_forward)

    def train(self, images: np.ndarray, labels: np.ndarray, epochs: int = 10, batch_size: int = 128) -> Iterator[dict[str, float]]:
        """Trains, and yields the mean loss and the accuracy on the same images after each epoch.

        images: float array (n, inputs). labels: integer array (n,).
        """
        images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
        order = np.random.default_rng(0)
        for epoch in range(1, epochs + 1):
            shuffled, losses = order.permutation(len(images)), []
            for start in range(0, len(images) - batch_size + 1, batch_size):
                chosen = shuffled[start : start + batch_size]
                self._params, self._state, loss = self._step(self._params, self._state, images[chosen], labels[chosen])
                losses.append(loss)
            yield {"epoch": epoch, "loss": float(jnp.mean(jnp.stack(losses))), "accuracy": self.accuracy(images, labels)}

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The digit in each image: integer array (n,)."""
        return np.asarray(self._logits(self._params, jnp.asarray(images, jnp.float32)).argmax(axis=1))

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """The share of images whose digit is recognised."""
        return float((self.predict(images) == np.asarray(labels)).mean())

    @property
    def device(self) -> str:
        """Where the parameters are."""
        return str(next(iter(self._params[0][0].devices())))

    def _descend(self, params: Any, state: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss_of(params: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(_forward(params, images), labels).mean()

        loss, gradient = jax.value_and_grad(loss_of)(params)
        updates, state = self._optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss


def _forward(params: Any, images: jax.Array) -> jax.Array:
    *hidden, (weights, bias) = params
    for inner, offset in hidden:
        images = jax.nn.relu(images @ inner + offset)
    return images @ weights + bias
