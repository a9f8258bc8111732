"""The same model in plain NumPy float32, one text at a time and without a cache, to hold the JAX one against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from smollm.gguf_file import ModelFile

Array = NDArray[np.float32]


def logits(file: ModelFile, ids: Sequence[int]) -> Array:
    """Logits (tokens, vocabulary) of what follows each token."""
    config, tensors = file.config, file.tensors

    def product(x: Array, name: str) -> Array:
        return x @ tensors[name].T

    def norm(x: Array, name: str) -> Array:
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + config.norm_epsilon) * tensors[name]

    def rotated(x: Array) -> Array:
        rates = config.rope_base ** (-np.arange(0, config.head_width, 2) / config.head_width)
        turn = np.exp(1j * np.arange(len(ids))[:, None, None] * rates)
        pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack((pairs.real, pairs.imag), axis=-1).reshape(x.shape).astype(np.float32)

    hidden = tensors["token_embd.weight"][list(ids)]
    hides = np.triu(np.full((len(ids), len(ids)), -np.inf, np.float32), 1)
    for index in range(config.layers):
        of = f"blk.{index}."
        x = norm(hidden, of + "attn_norm.weight")
        query = rotated(product(x, of + "attn_q.weight").reshape(len(ids), config.heads, -1))
        key = rotated(product(x, of + "attn_k.weight").reshape(len(ids), config.kv_heads, -1))
        value = product(x, of + "attn_v.weight").reshape(len(ids), config.kv_heads, -1)
        heads = []
        for head in range(config.heads):
            group = head // (config.heads // config.kv_heads)
            scores = query[:, head] @ key[:, group].T / np.sqrt(np.float32(config.head_width)) + hides
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            heads.append(weights / weights.sum(axis=-1, keepdims=True) @ value[:, group])
        hidden = hidden + product(np.concatenate(heads, axis=-1), of + "attn_output.weight")
        x = norm(hidden, of + "ffn_norm.weight")
        gate = product(x, of + "ffn_gate.weight")
        hidden = hidden + product(gate / (1 + np.exp(-gate)) * product(x, of + "ffn_up.weight"), of + "ffn_down.weight")
    return product(norm(hidden, "output_norm.weight"), "token_embd.weight")
