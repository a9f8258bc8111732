"""NumPy with llama.cpp's rounding is llama.cpp to the last bit.

So what the decoder says otherwise (test_generate.py) is rounding and nothing else.
"""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from ggml import Ggml
from reference import Array, Text, side_by_side
from smollm.gguf_file import ModelFile, find

# Arithmetic on every core: ten times longer when they are wanted elsewhere.
pytestmark = pytest.mark.timeout(300)


CASES = [  # which text, whether its prompt is read one by one, and of how many tokens of the answer
    (3, False, 15),  # a whole answer
    (5, False, 1),  # here float32 chooses another first token, and so does llama.cpp itself
    (5, True, 1),
]


def answer(recorded: dict[str, Any], at: int, one_by_one: bool) -> dict[str, Any]:
    run = recorded["runs"][at]
    return run["one_by_one"] if one_by_one else run  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def computed(file: ModelFile, recorded: dict[str, Any]) -> list[Array]:
    """The logits of every case. Side by side, since taking a weight apart costs more than multiplying all of them by it."""
    texts = []
    for at, one_by_one, tokens in CASES:
        prompt = recorded["runs"][at]["prompt_tokens"]
        arithmetic = Ggml(find(), file, 0 if one_by_one else len(prompt))
        texts.append(Text(arithmetic, prompt + answer(recorded, at, one_by_one)["tokens"][: tokens - 1], tokens))
    return side_by_side(file, texts)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_numpy_with_the_rounding_of_llama_cpp_is_llama_cpp_bit_for_bit(computed: list[Array], recorded: dict[str, Any], case: int) -> None:
    at, one_by_one, tokens = CASES[case]
    logits, theirs = computed[case], answer(recorded, at, one_by_one)
    assert len(logits) == tokens
    assert logits.argmax(axis=-1).tolist() == theirs["tokens"][:tokens]
    assert [zlib.crc32(row.tobytes()) for row in logits] == theirs["checksums"][:tokens]


def test_llama_cpp_says_something_else_when_it_sums_in_another_order(recorded: dict[str, Any]) -> None:
    equal = [run["tokens"] == run["one_by_one"]["tokens"] for run in recorded["runs"]]
    assert sum(equal) == 2  # as many as for float32
