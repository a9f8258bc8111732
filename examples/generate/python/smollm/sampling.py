"""From logits to a token, on the device: temperature, top-k, top-p and a seed per row.

No sorting: the smallest probability that is kept is found by bisection, which takes thirty passes over the row and is many times faster
than a sort of the vocabulary. The noise of a token depends on its row's seed and position only, so nobody else's stream changes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Numbers = jax.Array | NDArray[np.generic]  # arguments come from the host, and are the device's inside

_BITS = 30  # of a float32 in [0, 1], whose order is that of its bits
_ONE = 0x3F800000


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. temperature 0: the most likely one; top_k 0 and top_p 1: all tokens have a chance.

    Raises ValueError that names the option and its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, (int, float), (0, 100), "a number from 0 to 100")
        _check("top_k", self.top_k, (int,), (0, (1 << 31) - 1), "an integer >= 0; 0 keeps every token")
        _check("top_p", self.top_p, (int, float), (1e-6, 1), "a number above 0, at most 1")
        _check("seed", self.seed, (int,), (0, (1 << 32) - 1), "an integer from 0 to 2^32 - 1")


def _check(name: str, value: Any, types: tuple[type, ...], bounds: tuple[float, float], rule: str) -> None:
    if type(value) not in types or not bounds[0] <= value <= bounds[1]:
        raise ValueError(f"{name} must be {rule}, not {str(value)[:40]}")


class Choice(NamedTuple):
    """The sampling of every row, as arrays (rows,)."""

    temperature: Numbers
    top_k: Numbers
    top_p: Numbers
    seed: Numbers


def choose(logits: jax.Array, choice: Choice, positions: jax.Array) -> jax.Array:
    """One token per row. logits (rows, vocabulary); positions (rows,): where the token will stand."""
    greedy = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    hot = jnp.asarray(choice.temperature) > 0
    chosen: jax.Array = jax.lax.cond(
        jnp.any(hot),
        lambda: jnp.where(hot, _sampled(logits, choice, positions), greedy),
        lambda: greedy,
    )
    return chosen


def _sampled(logits: jax.Array, choice: Choice, positions: jax.Array) -> jax.Array:
    temperature, top_k, top_p, seed = map(jnp.asarray, choice)
    scaled = logits / jnp.maximum(temperature, 1e-6)[:, None]
    k = jnp.where(top_k > 0, top_k, logits.shape[-1])
    probability = jax.nn.softmax(scaled, axis=-1)
    # As everywhere, top-p counts what top-k has left. The likeliest token always stays.
    probability = _kept(probability, lambda kept: jnp.sum(kept > 0, axis=-1) >= k)
    probability = probability / jnp.sum(probability, axis=-1, keepdims=True)
    # Rounding must not make p = 1 drop the rarest tokens.
    probability = _kept(probability, lambda kept: jnp.sum(kept, axis=-1) >= jnp.where(top_p < 1, top_p, jnp.inf))
    noise = jax.vmap(lambda seed, position: _gumbel(seed, position, logits.shape[-1]))(seed, positions)
    return jnp.argmax(jnp.where(probability > 0, jnp.log(probability) + noise, -jnp.inf), axis=-1).astype(jnp.int32)


def _gumbel(seed: jax.Array, position: jax.Array, count: int) -> jax.Array:
    return jax.random.gumbel(jax.random.fold_in(jax.random.key(seed), position), (count,))


def _kept(probability: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """`probability` with zeros below the highest threshold whose kept part is `enough`; everything where no threshold gives that."""
    bits = jax.lax.bitcast_convert_type(probability, jnp.int32)

    def above(threshold: jax.Array) -> jax.Array:
        return jnp.where(bits >= threshold[:, None], probability, 0)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        fits = enough(above(middle))
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    rows = probability.shape[0]
    low, _ = jax.lax.fori_loop(0, _BITS, halve, (jnp.zeros(rows, jnp.int32), jnp.full(rows, _ONE + 1, jnp.int32)))
    return above(low)
