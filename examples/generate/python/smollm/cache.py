"""The KV cache: for each layer the keys and values of every position of every row, on the device, written in place by donation.

It is as large as what runs needs: one row or all of them, and a capacity that grows fourfold with the longest text in it.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .gguf_file import Config

SMALLEST = 256


class Cache(NamedTuple):
    """One array per layer: keys (rows x kv_heads, head_width, capacity) and values (rows x kv_heads, capacity, head_width).

    The orders differ because each is the right operand of a product, which XLA computes several times faster from numbers that lie
    together. Rows and heads are one axis because a reshape between writing and reading would cost copies of the whole cache.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]

    @property
    def capacity(self) -> int:
        return int(self.keys[0].shape[2])


def capacity_for(length: int, context: int) -> int:
    """The capacity that holds `length` positions: few sizes, because each is a compilation."""
    capacity = SMALLEST
    while capacity < length:
        capacity *= 4
    return min(capacity, context)


@partial(jax.jit, static_argnums=(0, 1, 2))
def empty(config: Config, rows: int, capacity: int) -> Cache:
    """A cache of zeros."""
    heads, width, layers = rows * config.kv_heads, config.head_width, range(config.layers)
    return Cache(
        tuple(jnp.zeros((heads, width, capacity), jnp.float32) for _ in layers),
        tuple(jnp.zeros((heads, capacity, width), jnp.float32) for _ in layers),
    )


@partial(jax.jit, static_argnums=(0, 2, 3))
def enlarged(config: Config, cache: Cache, rows: int, capacity: int) -> Cache:
    """The same with more rows below its own, more room in each, or both."""
    below, room = (0, rows * config.kv_heads - cache.keys[0].shape[0]), (0, capacity - cache.capacity)
    return Cache(
        tuple(jnp.pad(keys, (below, (0, 0), room)) for keys in cache.keys),
        tuple(jnp.pad(values, (below, room, (0, 0))) for values in cache.values),
    )


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def placed(config: Config, cache: Cache, row: int, one: Cache) -> Cache:
    """`cache`, which is used up, with the single row of `one` in place of a row; `one` may have less capacity."""
    begin = (row * config.kv_heads, 0, 0)
    put = jax.lax.dynamic_update_slice
    return Cache(
        tuple(put(old, new, begin) for old, new in zip(cache.keys, one.keys, strict=True)),
        tuple(put(old, new, begin) for old, new in zip(cache.values, one.values, strict=True)),
    )


@partial(jax.jit, static_argnums=0)
def row_of(config: Config, cache: Cache, row: int) -> Cache:
    """One row as a cache of its own."""
    heads = config.kv_heads
    return Cache(*(tuple(jax.lax.dynamic_slice_in_dim(old, row * heads, heads) for old in part) for part in cache))
