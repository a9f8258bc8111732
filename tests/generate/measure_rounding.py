"""Measures what README.md of the example says of rounding, from llama_cpp.json and in NumPy alone; takes some minutes.

`PYTHONPATH=examples/generate/python python tests/generate/measure_rounding.py`
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ggml
import numpy as np
from ggml import Ggml
from reference import Arithmetic, Array, Float32, forward
from smollm.gguf_file import ModelFile, find, read


class NearestSine(Ggml):
    """ggml's, but each cosine and sine is the nearest float, where the C library's is off by one unit in the last place now and then."""

    def rotated(self, x: Array) -> Array:
        count, _, width = x.shape
        rate = np.float32(np.float64(self._config.rope_base) ** (-2 / width))
        angles = np.multiply.accumulate([np.arange(count, dtype=np.float32), *[np.full(count, rate)] * (width // 2 - 1)]).T[:, None]
        return ggml.turned(x, *(function(angles.astype(np.float64)).astype(np.float32) for function in (np.cos, np.sin)))


class EightBits(Float32):
    """float32, but the inputs of products with weights are rounded to 8 bits per block."""

    def product(self, x: Array, name: str) -> Array:
        parts = x.reshape(len(x), -1, ggml.BLOCK)
        scale = np.abs(parts).max(axis=-1, keepdims=True) / np.float32(127)
        return super().product((np.rint(parts / scale) * scale).reshape(x.shape), name)


class HalfCache(Float32):
    """float32, but queries, keys and values are rounded to 16 bits."""

    def attention(self, query: Array, key: Array, value: Array) -> Array:
        return super().attention(*(x.astype(np.float16).astype(np.float32) for x in (query, key, value)))


class Both(EightBits, HalfCache):
    """The two together."""


def main() -> None:
    file = read(find())
    runs = json.loads((Path(__file__).parent / "llama_cpp.json").read_text())["runs"]
    variants: dict[str, Callable[[int], Arithmetic]] = {
        "ggml, prompt token by token": lambda _: Ggml(find(), file, 0),
        "ggml, nearest sine": lambda batch: NearestSine(find(), file, batch),
        "float32": lambda _: Float32(file),
        "float32, inputs in 8 bits": lambda _: EightBits(file),
        "float32, cache in 16 bits": lambda _: HalfCache(file),
        "float32, both": lambda _: Both(file),
    }
    squares, same = dict.fromkeys(variants, 0.0), dict.fromkeys(variants, 0)
    total = 0
    for run in runs:
        batch = len(run["prompt_tokens"])
        theirs = continued(file, Ggml(find(), file, batch), run, run)
        alone = run["one_by_one"]
        print(
            run["prompt"],
            "| bits equal",
            equal(theirs, run),
            "| one by one",
            equal(continued(file, Ggml(find(), file, 0), run, alone), alone),
        )
        print("  llama.cpp parts from itself at", parting(np.array(alone["tokens"]), run["tokens"]))
        total += len(theirs)
        for name, arithmetic in variants.items():
            logits = continued(file, arithmetic(batch), run, run)
            chosen = logits.argmax(axis=-1)
            squares[name] += float(np.square(logits - theirs).mean(axis=-1).sum())
            same[name] += int((chosen == run["tokens"]).sum())
            at = parting(chosen, run["tokens"])
            margins = (
                "" if at is None else f"margin {logits[at].max() - logits[at, run['tokens'][at]]:.3f}, llama.cpp's {run['margins'][at]:.3f}"
            )
            print(f"  {name}: first other token {at} {margins}", flush=True)
    for name in variants:
        print(f"{name}: {np.sqrt(squares[name] / total):.3f} root mean square, {same[name]} of {total} choices")


def continued(file: ModelFile, arithmetic: Arithmetic, run: dict[str, Any], answer: dict[str, Any]) -> Array:
    """Logits of each token of an answer, given what was before it."""
    return forward(file, arithmetic, run["prompt_tokens"] + answer["tokens"][:-1], len(answer["tokens"]))


def equal(logits: Array, answer: dict[str, Any]) -> str:
    bits = [zlib.crc32(row.tobytes()) == checksum for row, checksum in zip(logits, answer["checksums"], strict=True)]
    return f"{sum(bits)} of {len(bits)}"


def parting(chosen: Any, tokens: list[int]) -> int | None:
    """Where two answers part; what follows there is of no account."""
    return next((at for at, (one, other) in enumerate(zip(chosen.tolist(), tokens, strict=False)) if one != other), None)


main()
