"""NumPy with llama.cpp's rounding is llama.cpp to the last bit.

So what the decoder says otherwise (test_generate.py) is rounding and nothing else.
"""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import reference
from ggml import Ggml
from smollm.gguf_file import ModelFile, find

# Arithmetic on every core: ten times longer when they are wanted elsewhere.
pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize(
    ("at", "one_by_one", "tokens"),
    [
        (3, False, 15),  # a whole answer
        (5, False, 1),  # here float32 chooses another first token, and so does llama.cpp itself
        (5, True, 1),
    ],
)
def test_numpy_with_the_rounding_of_llama_cpp_is_llama_cpp_bit_for_bit(
    file: ModelFile, recorded: dict[str, Any], at: int, one_by_one: bool, tokens: int
) -> None:
    run = recorded["runs"][at]
    prompt, answer = run["prompt_tokens"], run["one_by_one"] if one_by_one else run
    arithmetic = Ggml(find(), file, 0 if one_by_one else len(prompt))
    logits = reference.forward(file, arithmetic, prompt + answer["tokens"][: tokens - 1], tokens)
    assert logits.argmax(axis=-1).tolist() == answer["tokens"][:tokens]
    assert [zlib.crc32(row.tobytes()) for row in logits] == answer["checksums"][:tokens]


def test_llama_cpp_says_something_else_when_it_sums_in_another_order(recorded: dict[str, Any]) -> None:
    equal = [run["tokens"] == run["one_by_one"]["tokens"] for run in recorded["runs"]]
    assert sum(equal) == 2  # as many as for float32
