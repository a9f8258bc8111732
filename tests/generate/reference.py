"""The same model in NumPy, one text at a time and without a cache, to hold the JAX one against.

`forward` is the Llama architecture; how it is computed is an `Arithmetic`: `Float32` here, which rounds as little as float32 does, and
llama.cpp's in ggml.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from smollm.gguf_file import Config, ModelFile

Array = NDArray[np.float32]


class Arithmetic(Protocol):
    """The operations of the model. Arrays have the tokens first; queries, keys and values are (tokens, heads, head_width)."""

    def product(self, x: Array, name: str) -> Array:
        """x times the transposed matrix of that name."""
        ...

    def norm(self, x: Array, name: str) -> Array: ...

    def rotated(self, x: Array) -> Array:
        """Each pair of neighbours turned by its position; the first token stands at 0."""
        ...

    def attention(self, query: Array, key: Array, value: Array) -> Array:
        """Causal, grouped; the result is (tokens, width)."""
        ...

    def gated(self, gate: Array, up: Array) -> Array: ...


class Text(NamedTuple):
    """A text, how it is computed, and of how many of its last tokens the logits are wanted."""

    arithmetic: Arithmetic
    ids: Sequence[int]
    last: int


def forward(file: ModelFile, arithmetic: Arithmetic, ids: Sequence[int], last: int) -> Array:
    """Logits (last, vocabulary) of what follows each of the last tokens."""
    return side_by_side(file, [Text(arithmetic, ids, last)])[0]


def side_by_side(file: ModelFile, texts: Sequence[Text]) -> list[Array]:
    """The logits of each text. What concerns one token alone is left to the first arithmetic, for the tokens of all texts at once."""
    config, alone = file.config, texts[0].arithmetic
    ends = np.cumsum([len(text.ids) for text in texts])

    def heads(x: Array) -> list[Array]:
        return np.split(x.reshape(len(x), -1, config.head_width), ends[:-1])

    hidden = file.tensors["token_embd.weight"][[id for text in texts for id in text.ids]]
    for index in range(config.layers):
        of = f"blk.{index}."
        x = alone.norm(hidden, of + "attn_norm.weight")
        parts = zip(texts, *(heads(alone.product(x, f"{of}attn_{name}.weight")) for name in "qkv"), strict=True)
        mixed = [by.attention(by.rotated(query), by.rotated(key), value) for (by, _, _), query, key, value in parts]
        hidden = hidden + alone.product(np.concatenate(mixed), of + "attn_output.weight")
        x = alone.norm(hidden, of + "ffn_norm.weight")
        gated = alone.gated(alone.product(x, of + "ffn_gate.weight"), alone.product(x, of + "ffn_up.weight"))
        hidden = hidden + alone.product(gated, of + "ffn_down.weight")
    last = np.concatenate([hidden[end - text.last : end] for text, end in zip(texts, ends, strict=True)])
    logits = alone.product(alone.norm(last, "output_norm.weight"), "token_embd.weight")
    return np.split(logits, np.cumsum([text.last for text in texts])[:-1])


def logits(file: ModelFile, ids: Sequence[int], last: int | None = None) -> Array:
    """Logits (tokens, vocabulary) of what follows each token, or each of the last ones, in float32."""
    return forward(file, Float32(file), ids, len(ids) if last is None else last)


def all_logits(file: ModelFile, texts: Sequence[tuple[Sequence[int], int]]) -> list[Array]:
    """The same for several texts and how many of their last tokens count: faster than one by one."""
    arithmetic = Float32(file)
    return side_by_side(file, [Text(arithmetic, ids, last) for ids, last in texts])


class Float32:
    """The dequantised weights, and no other rounding than float32's."""

    def __init__(self, file: ModelFile) -> None:
        self._config: Config = file.config
        self._tensors = file.tensors

    def product(self, x: Array, name: str) -> Array:
        return x @ self._tensors[name].T

    def norm(self, x: Array, name: str) -> Array:
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self._config.norm_epsilon) * self._tensors[name]

    def rotated(self, x: Array) -> Array:
        rates = self._config.rope_base ** (-np.arange(0, x.shape[-1], 2) / x.shape[-1])
        turn = np.exp(1j * np.arange(len(x))[:, None, None] * rates)
        pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack((pairs.real, pairs.imag), axis=-1).reshape(x.shape).astype(np.float32)

    def attention(self, query: Array, key: Array, value: Array) -> Array:
        count, all_heads, width = query.shape
        hides = np.triu(np.full((count, count), -np.inf, np.float32), 1)
        mixed = np.empty_like(query)
        for head in range(all_heads):
            group = head // (all_heads // key.shape[1])
            scores = query[:, head] @ key[:, group].T / np.sqrt(np.float32(width)) + hides
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed[:, head] = weights / weights.sum(axis=-1, keepdims=True) @ value[:, group]
        return mixed.reshape(count, -1)

    def gated(self, gate: Array, up: Array) -> Array:
        return gate / (1 + np.exp(-gate)) * up
