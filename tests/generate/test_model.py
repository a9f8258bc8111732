"""The decoder against two others: NumPy in float32, and llama.cpp's recorded answers over 64 tokens of ten prompts.

NumPy with llama.cpp's rounding is llama.cpp to the last bit, so what the decoder says otherwise is rounding and nothing else.
"""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import reference
from ggml import Ggml
from smollm import Model
from smollm.gguf_file import ModelFile, find

# Arithmetic on every core: ten times longer when they are wanted elsewhere.
pytestmark = pytest.mark.timeout(300)

ROUNDING = 0.35  # llama.cpp's own logits differ by that much when it reads the prompt token by token


def test_greedy_answers_are_those_of_numpy(model: Model, file: ModelFile, recorded: dict[str, Any]) -> None:
    conversations = [[{"role": "user", "content": run["prompt"]}] for run in recorded["runs"]]
    with ThreadPoolExecutor(len(conversations)) as pool:  # eight at once, and two that wait for a slot
        answers = list(pool.map(lambda messages: model.complete(messages, max_tokens=64), conversations))
    for messages, answer in zip(conversations, answers, strict=True):
        prompt = model.tokenizer.chat_tokens(messages)
        tokens = model.tokenize(answer["content"])
        assert answer["stats"]["tokens"] <= 64
        logits = reference.logits(file, prompt + tokens[:-1])[len(prompt) - 1 :]
        behind = logits.max(axis=-1) - logits[np.arange(len(tokens)), tokens]
        # Zero is what greedy means; sums in another order may turn a tie.
        assert behind.max() < 1e-3, messages


def test_logits_are_those_of_numpy(model: Model, file: ModelFile, recorded: dict[str, Any]) -> None:
    ids = recorded["runs"][0]["prompt_tokens"] + recorded["runs"][0]["tokens"]
    np.testing.assert_allclose(model.logits(ids), reference.logits(file, ids), atol=2e-3, rtol=1e-4)


def test_llama_cpp_differs_only_where_its_rounding_decides(model: Model, recorded: dict[str, Any]) -> None:
    equal = total = 0
    for run in recorded["runs"]:
        tokens = np.array(run["tokens"])
        logits = model.logits(run["prompt_tokens"] + run["tokens"][:-1])[len(run["prompt_tokens"]) - 1 :]
        behind = logits.max(axis=-1) - logits[np.arange(len(tokens)), tokens]
        assert behind.max() < ROUNDING, run["prompt"]
        # Where it was sure, so are we.
        sure = np.array(run["margins"]) > ROUNDING
        assert (behind[sure] == 0).all(), run["prompt"]
        equal += int((behind == 0).sum())
        total += len(tokens)
    assert equal / total > 0.95


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
