"""The decoder against two others: NumPy in float32, and llama.cpp's recorded answers over 64 tokens of ten prompts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import reference
from smollm import Model
from smollm.gguf_file import ModelFile

# llama.cpp rounds the inputs of its products to 8 bits and the cache to 16: its logits move by that much when its own batch size changes.
ROUNDING = 0.35


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
