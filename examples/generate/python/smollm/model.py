"""The Llama architecture in JAX: RMS norm, rotary positions, grouped-query attention, SwiGLU, tied embeddings.

One function, `advance`, is both prefill and decode: it reads some tokens of every row into the cache and chooses each row's next.
Everything stays on the device but the chosen token ids.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .cache import Cache
from .gguf_file import Config, ModelFile
from .sampling import Choice, Numbers, choose


class Layer(NamedTuple):
    """Weights of one block, as (inputs, outputs): on a CPU that is the order in which XLA's product of one row reads memory fastest."""

    attention_norm: jax.Array
    query_key_value: jax.Array
    output: jax.Array
    feed_norm: jax.Array
    gate_up: jax.Array
    down: jax.Array


class Params(NamedTuple):
    """All weights. embedding (vocabulary, width) is the output layer, too."""

    embedding: jax.Array
    layers: tuple[Layer, ...]
    norm: jax.Array


class Batch(NamedTuple):
    """What every row reads next: tokens (rows, length), the first `lengths` (rows,) of them meant, from position `start` (rows,) on."""

    tokens: Numbers
    start: Numbers
    lengths: Numbers


def params_of(file: ModelFile) -> Params:
    """The weights of a model file on the default device. Takes its tensors away, so that they do not lie in memory twice."""
    tensors = file.tensors

    def take(*names: str) -> jax.Array:
        parts = [tensors.pop(name) for name in names]
        array = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return jnp.asarray(array if array.ndim == 1 else np.ascontiguousarray(array.T))

    layers = []
    for index in range(file.config.layers):
        of = f"blk.{index}."
        layers.append(
            Layer(
                attention_norm=take(of + "attn_norm.weight"),
                query_key_value=take(of + "attn_q.weight", of + "attn_k.weight", of + "attn_v.weight"),
                output=take(of + "attn_output.weight"),
                feed_norm=take(of + "ffn_norm.weight"),
                gate_up=take(of + "ffn_gate.weight", of + "ffn_up.weight"),
                down=take(of + "ffn_down.weight"),
            )
        )
    return Params(jnp.asarray(tensors.pop("token_embd.weight")), tuple(layers), take("output_norm.weight"))


class _Places(NamedTuple):
    """Where the tokens of a batch stand: start (rows,), their rotary angles, and which positions (rows, length, capacity) each sees."""

    start: jax.Array
    angles: tuple[jax.Array, jax.Array]
    seen: jax.Array


class _Ends(NamedTuple):
    """What was made of the last token of each row, `last` (rows, width), and the position (rows,) that follows it: one shape, and so one
    program for the choice, whatever was read."""

    last: jax.Array
    position: jax.Array


def advance(config: Config, params: Params, cache: Cache, batch: Batch, choice: Choice) -> tuple[Cache, jax.Array]:
    """Reads `batch` into the cache, which is used up, and chooses the token (rows,) that follows in each row.

    A row's cache holds what its earlier batches read; what lies there at `start` and after is written over, and what padding leaves there
    is never seen, because a position sees none after it. `start` + length must not exceed the capacity.
    """
    hidden, cache = _trunk(config, params, cache, batch)
    chosen: jax.Array = _chosen(config, params.norm, params.embedding, _ends(hidden, batch), choice)
    return cache, chosen


def all_logits(config: Config, params: Params, cache: Cache, batch: Batch) -> jax.Array:
    """Logits (rows, length, vocabulary) of every position of `batch`. The cache is used up."""
    hidden, _ = _trunk(config, params, cache, batch)
    logits: jax.Array = _all_logits(config, params.norm, params.embedding, hidden)
    return logits


def _trunk(config: Config, params: Params, cache: Cache, batch: Batch) -> tuple[jax.Array, Cache]:
    """What the layers make of `batch`. They are equal in shape, so one compiled program runs once for each of them."""
    hidden, places = _begun(config, params.embedding, cache.capacity, batch)
    keys, values = [], []
    for layer, *cached in zip(params.layers, *cache, strict=True):
        hidden, new_keys, new_values = _block(config, layer, hidden, (cached[0], cached[1]), places)
        keys.append(new_keys)
        values.append(new_values)
    return hidden, Cache(tuple(keys), tuple(values))


@partial(jax.jit, static_argnums=(0, 2))
def _begun(config: Config, embedding: jax.Array, capacity: int, batch: Batch) -> tuple[jax.Array, _Places]:
    """What the first layer reads, and where it stands."""
    start, tokens = jnp.asarray(batch.start), jnp.asarray(batch.tokens)
    positions = start[:, None] + jnp.arange(tokens.shape[1])
    return embedding[tokens], _Places(start, _angles(config, positions), jnp.arange(capacity) <= positions[:, :, None])


@jax.jit
def _ends(hidden: jax.Array, batch: Batch) -> _Ends:
    lengths = jnp.asarray(batch.lengths)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return _Ends(last, jnp.asarray(batch.start) + lengths)


@partial(jax.jit, static_argnums=0)
def _chosen(config: Config, norm: jax.Array, embedding: jax.Array, ends: _Ends, choice: Choice) -> jax.Array:
    return choose(_logits(embedding, _norm(config, ends.last, norm)), choice, ends.position)


@partial(jax.jit, static_argnums=0)
def _all_logits(config: Config, norm: jax.Array, embedding: jax.Array, hidden: jax.Array) -> jax.Array:
    return _logits(embedding, _norm(config, hidden, norm))


@partial(jax.jit, static_argnums=0, donate_argnums=3)
def _block(
    config: Config,
    layer: Layer,
    hidden: jax.Array,
    cached: tuple[jax.Array, jax.Array],
    places: _Places,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What one layer makes of `hidden`, and its keys and values, which are used up, with those of the batch."""
    attended, keys, values = _attention(config, layer, _norm(config, hidden, layer.attention_norm), cached, places)
    hidden = hidden + attended
    gate, up = jnp.split(_norm(config, hidden, layer.feed_norm) @ layer.gate_up, 2, axis=-1)
    return hidden + (jax.nn.silu(gate) * up) @ layer.down, keys, values


def _attention(
    config: Config,
    layer: Layer,
    x: jax.Array,
    cached: tuple[jax.Array, jax.Array],
    places: _Places,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    rows, length, _ = x.shape
    start, angles, seen = places
    group, width = config.heads // config.kv_heads, config.head_width
    sizes = (config.heads * width, (config.heads + config.kv_heads) * width)
    query, key, value = jnp.split(x @ layer.query_key_value, sizes, axis=-1)
    key = _rotated(key.reshape(rows, length, config.kv_heads, width), angles)
    value = value.reshape(rows, length, config.kv_heads, width)
    keys = _written(cached[0], key.transpose(0, 2, 3, 1), start, 2)
    values = _written(cached[1], value.transpose(0, 2, 1, 3), start, 1)
    # The heads of one group share their keys, and so are rows of one product with them.
    query = _rotated(query.reshape(rows, length, config.heads, width), angles) * (width**-0.5)
    query = query.reshape(rows, length, config.kv_heads, group, width).transpose(0, 2, 3, 1, 4)
    scores = jnp.einsum("bqw,bwc->bqc", query.reshape(rows * config.kv_heads, group * length, width), keys)
    scores = jnp.where(seen[:, None, None], scores.reshape(rows, config.kv_heads, group, length, -1), -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).reshape(rows * config.kv_heads, group * length, -1)
    mixed = jnp.einsum("bqc,bcw->bqw", weights, values).reshape(rows, config.kv_heads, group, length, width)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(rows, length, config.heads * width) @ layer.output, keys, values


def _written(cached: jax.Array, new: jax.Array, start: jax.Array, axis: int) -> jax.Array:
    """The cache with `new` (rows, kv_heads, ., .), of the cache's form but for its length along `axis`, at each row's start.

    Row by row: a scatter would copy the cache, where these updates write in place.
    """
    for row in range(new.shape[0]):
        at = [jnp.int32(row * new.shape[1]), jnp.int32(0), jnp.int32(0)]
        at[axis] = start[row]
        cached = jax.lax.dynamic_update_slice(cached, new[row], at)
    return cached


def _norm(config: Config, x: jax.Array, weight: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + config.norm_epsilon) * weight


def _angles(config: Config, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine (rows, length, 1, head_width / 2) of the rotary embedding."""
    rate = config.rope_base ** (-np.arange(0, config.head_width, 2) / config.head_width)
    angle = positions[:, :, None, None] * jnp.asarray(rate, jnp.float32)
    return jnp.cos(angle), jnp.sin(angle)


def _rotated(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """x (rows, length, heads, width) turned by its position. GGUF files keep the two numbers of each pair side by side."""
    cosine, sine = angles
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack((even * cosine - odd * sine, even * sine + odd * cosine), axis=-1).reshape(x.shape)


def _logits(embedding: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.einsum("...w,vw->...v", x, embedding)
