"""llama.cpp's arithmetic, bit for bit: what ggml's CPU backend computes with Q4_1 and Q8_0 weights on x86 with AVX-512.

ggml rounds the inputs of each product with quantised weights to 8 bits per block of 32, and queries, attention weights and the cache to
16 bits. It sums in the order of its vector registers, and that decides as much: a sum that differs in its last bit is sooner or later
rounded to another 8-bit number, which is a change ten thousand times as large. So the order is kept here, too. Flash attention is off, as
llama-cpp-python has it, and attention has one kernel for several tokens at once and another for a single one.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from reference import Array
from smollm.gguf_file import Config, ModelFile, opened

BLOCK = 32  # numbers that share a scale, in weights and in inputs
LANES = 8  # sums that such a product keeps side by side; each takes 4 neighbours of a block at once
WIDE = 16  # the lanes of other sums
ROWS = 64  # outputs computed at once, few enough that their sums stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Weights:
    """A quantised matrix, weight = scaled + offset: scaled (blocks, lanes, outputs, 4), offsets (blocks, outputs)."""

    scaled: NDArray[np.float64]
    offsets: Array | None


class Ggml:
    """The quantised weights, and ggml's rounding. The first `batch` tokens are read at once, as a prompt is; the others one by one."""

    def __init__(self, path: Path, file: ModelFile, batch: int) -> None:
        self._config = file.config
        self._vectors = {name: tensor for name, tensor in file.tensors.items() if tensor.ndim == 1}
        self._matrices = _matrices(path)
        self._batch = batch

    def product(self, x: Array, name: str) -> Array:
        """x in 8 bits: Q8_0 for weights in Q8_0; for Q4_1 it is Q8_1, which adds the sum of each block."""
        weights = _weights(self._matrices[name])
        parts = x.reshape(len(x), -1, BLOCK)
        largest = np.abs(parts).max(axis=-1)
        scale = largest / np.float32(127)
        inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
        quants = np.rint(parts * inverse[..., None])
        scaled = (quants * _half(scale)[..., None].astype(np.float64)).reshape(len(x), -1, LANES, 4).transpose(1, 2, 3, 0)
        scaled = np.ascontiguousarray(scaled)  # (blocks, lanes, 4, tokens)
        sums = _half(scale * quants.sum(axis=-1)).T
        outputs = weights.scaled.shape[2]
        result = np.empty((outputs, len(x)), np.float32)
        for start in range(0, outputs, ROWS):
            rows = slice(start, start + ROWS)
            part = result[rows]
            lanes, offset = np.zeros((LANES, *part.shape), np.float32), np.zeros(part.shape, np.float32)
            for block in range(len(scaled)):
                # A fused multiply-add rounds once, to float32. Scales of 16 bits times small integers are exact in float64.
                np.add(lanes, weights.scaled[block][:, rows] @ scaled[block], out=lanes, dtype=np.float64, casting="same_kind")
                if weights.offsets is not None:
                    offset += np.outer(weights.offsets[block, rows], sums[block])
            part[...] = _folded(lanes) + offset
        return np.ascontiguousarray(result.T)

    def norm(self, x: Array, name: str) -> Array:
        # In double precision one after the other, which is how NumPy accumulates but not how it sums.
        total = np.add.accumulate((x * x).astype(np.float64), axis=-1)[:, -1:]
        mean = (total / x.shape[-1]).astype(np.float32)
        return x * (np.float32(1) / np.sqrt(mean + np.float32(self._config.norm_epsilon))) * self._vectors[name]

    def rotated(self, x: Array) -> Array:
        return turned(x, *_turns(self._config, len(x)))

    def attention(self, query: Array, key: Array, value: Array) -> Array:
        count, heads, width = query.shape
        room = -(-count // (4 * WIDE)) * 4 * WIDE  # zeros fill what the last lanes lack
        hides = np.triu(np.ones((count, count), bool), 1)
        mixed = np.empty_like(query)
        for head in range(heads):
            group = head // (heads // key.shape[1])
            scores = self._summed(_half(query[:, None, head]) * _half(key[None, :, group])) * np.float32(width**-0.5)
            scores[hides] = -np.inf
            weights = np.zeros((count, room), np.float32)
            weights[:, :count] = _exp(scores - scores.max(axis=-1, keepdims=True))
            total = _folded(np.moveaxis(weights.reshape(count, -1, WIDE), -1, 0)).astype(np.float64).sum(axis=-1, keepdims=True)
            values = np.zeros((width, room), np.float32)
            values[:, :count] = _half(value[:, group]).T
            mixed[:, head] = self._summed(_half(weights * (1 / total).astype(np.float32))[:, None] * values)
        return mixed.reshape(count, -1)

    def gated(self, gate: Array, up: Array) -> Array:
        return gate / (np.float32(1) + _exp(-gate)) * up

    def _summed(self, products: Array) -> Array:
        """Sums (tokens, results) of products (tokens, results, terms) of 16-bit numbers, which float32 holds exactly.

        Tokens that are read at once share a kernel that keeps one register of sums, the others' keeps four.
        """
        return np.concatenate((_over_registers(products[: self._batch], 1), _over_registers(products[self._batch :], 4)))


def turned(x: Array, cosine: Array, sine: Array) -> Array:
    """Pairs of neighbours turned by angles (tokens, 1, pairs), of whose two products one is rounded."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack((_fused(even, cosine, -(odd * sine)), _fused(even, sine, odd * cosine)), axis=-1).reshape(x.shape)


@lru_cache(maxsize=1)
def _matrices(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in opened(path).tensors}


def _weights(tensor: Any) -> Weights:
    """Takes blocks apart. Q8_0: scale, 32 quants. Q4_1: scale, offset, 16 bytes whose lower halves come before their upper ones."""
    eight = tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0
    assert eight or tensor.tensor_type == gguf.GGMLQuantizationType.Q4_1
    blocks = np.asarray(tensor.data).reshape(len(tensor.data), -1, 34 if eight else 20).swapaxes(0, 1)
    numbers = blocks[..., : 2 if eight else 4].copy().view(np.float16).astype(np.float32)
    bits = blocks[..., 2:].copy().view(np.int8) if eight else np.concatenate((blocks[..., 4:] & 15, blocks[..., 4:] >> 4), axis=-1)
    scaled = np.multiply(bits, numbers[..., :1], dtype=np.float64).reshape(*bits.shape[:2], LANES, 4).swapaxes(1, 2)
    return Weights(np.ascontiguousarray(scaled), None if eight else numbers[..., 1])


def _over_registers(products: Array, registers: int) -> Array:
    """The sum over the last axis, which fills the lanes of the registers in turn."""
    parts = np.moveaxis(products.reshape(*products.shape[:-1], products.shape[-1] // (registers * WIDE), registers, WIDE), -3, 0)
    lanes = parts[0].copy()
    for part in parts[1:]:
        lanes += part
    return _folded(np.moveaxis(_folded(np.moveaxis(lanes, -2, 0)), -1, 0))


def _folded(lanes: Array) -> Array:
    """The sum over the first axis, a power of two long: one half onto the other, until one is left."""
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = lanes[:half] + lanes[half:]
    return lanes[0]


def _half(x: Array) -> Array:
    return x.astype(np.float16).astype(np.float32)


def _fused(a: Array, b: Array | np.float32, c: Array | np.float32) -> Array:
    """a * b + c, rounded once."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


@lru_cache(maxsize=4)
def _turns(config: Config, count: int) -> tuple[Array, Array]:
    """Cosine and sine (positions, 1, head_width / 2) of angles that are multiplied up in float32.

    By the C library, whose sine of a float is not always the float nearest to it.
    """
    library = ctypes.CDLL(None)
    for function in (library.cosf, library.sinf):
        function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    rate = np.float32(np.float64(config.rope_base) ** (-2 / config.head_width))
    angles = np.empty((config.head_width // 2, count), np.float32)
    angles[0] = np.arange(count)
    for index in range(1, len(angles)):
        angles[index] = angles[index - 1] * rate
    tables = [[[function(angle) for angle in row] for row in angles.T.tolist()] for function in (library.cosf, library.sinf)]
    cosine, sine = np.array(tables, np.float32)[:, :, None]
    return cosine, sine


def _exp(x: Array) -> Array:
    """ggml's exponential of a register: 2^n times a polynomial of what is left of x, for x up to 88."""
    x = np.maximum(x, np.float32(-200))  # zero long since, and so is -inf
    n = _fused(x, _BY_LN2, _SHIFT) - _SHIFT
    rest = _fused(-n, _LN2_LOW, _fused(-n, _LN2_HIGH, x))
    square = rest * rest
    high = _fused(_fused(rest, _C5, _C4), square, _fused(rest, _C3, _C2))
    return np.ldexp(_fused(high, square, _fused(rest, _C1, np.float32(1))), n.astype(np.int32))


def _floats(text: str) -> list[np.float32]:
    return [np.float32(float.fromhex(part)) for part in text.split()]


_SHIFT = np.float32(1.5 * 2**23)  # adding it leaves no room for a fraction
_BY_LN2, _LN2_HIGH, _LN2_LOW = _floats("0x1.715476p+0 0x1.62e4p-1 0x1.7f7d1cp-20")
_C1, _C2, _C3, _C4, _C5 = _floats("0x1.ffffecp-1 0x1.fffdb6p-2 0x1.555e66p-3 0x1.573e2ep-5 0x1.0e4020p-7")
