"""Generation: stops, limits, seeds, texts side by side, halting within a token, and consumers who are slow. And the
decoder against two others: NumPy in float32, and llama.cpp's recorded answers over 64 tokens of ten prompts.

In one file, since loading the model and compiling it takes longer than most of the tests.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pytest
import reference
import smollm
from smollm import Model
from smollm.batching import AHEAD
from smollm.gguf_file import ModelFile

# Arithmetic on every core: ten times longer when they are wanted elsewhere.
pytestmark = pytest.mark.timeout(300)

PROMPT = "Once upon a time"
GREEDY = 24  # tokens that NumPy follows in each answer; llama.cpp's answers are longer
ROUNDING = 0.35  # llama.cpp's own logits differ by that much when it reads the prompt token by token


def eventually(holds: Callable[[], bool]) -> bool:
    """True as soon as the engine's thread, which nobody can wait for from outside, has come to it."""
    moment = threading.Event()
    return any(holds() or moment.wait(0.01) for _ in range(1000))


def idle(model: Model) -> bool:
    stats = model.stats()
    return (stats["active"], stats["waiting"], stats["capacity"]) == (0, 0, 0)


def test_pieces_make_the_text_and_the_return_value_the_figures(model: Model) -> None:
    pieces, text = model.generate(PROMPT, max_tokens=10), []
    with pytest.raises(StopIteration) as end:
        while True:
            text.append(next(pieces))
    stats = end.value.value
    assert "".join(text) == model.complete(PROMPT, max_tokens=10)["content"]
    assert (stats["tokens"], stats["prompt_tokens"], stats["finish_reason"]) == (10, 4, "length")
    assert stats["ttft_ms"] > 0
    assert stats["tok_s"] > 0
    assert model.complete(PROMPT, max_tokens=1)["stats"]["tok_s"] is None


def test_a_conversation_is_answered_to_its_end(model: Model) -> None:
    answer = model.chat([{"role": "user", "content": "What is 12 times 12?"}])
    assert answer["role"] == "assistant"
    assert answer["stats"]["finish_reason"] == "end"
    assert answer["content"]


def test_a_stop_text_ends_it_and_is_not_said(model: Model) -> None:
    whole = model.complete(PROMPT, max_tokens=12)["content"]
    for stop in (whole[20:26], whole[21], whole[10:30]):
        answer = model.complete(PROMPT, max_tokens=12, stop=["never said", stop])
        assert answer["content"] == whole[: whole.index(stop)]
        assert answer["stats"]["finish_reason"] == "stop"
    # What only looked like the beginning of one is said after all.
    assert model.complete(PROMPT, max_tokens=12, stop=whole[-3:] + "#")["content"] == whole


def test_seeds_repeat_and_differ(model: Model) -> None:
    said = [model.complete(PROMPT, max_tokens=6, temperature=0.9, top_p=0.95, top_k=50, seed=seed)["content"] for seed in (7, 7, 8)]
    assert said[0] == said[1] != said[2]


def test_what_a_text_says_does_not_depend_on_its_neighbours(model: Model) -> None:
    prompts = [f"The number {n} is" + " very" * n for n in range(9)]  # one more than slots
    options: list[dict[str, Any]] = [{"max_tokens": 3 + n // 2, "temperature": 0.8 * (n % 2), "seed": n} for n in range(9)]
    alone = [model.complete(prompt, **chosen)["content"] for prompt, chosen in zip(prompts, options, strict=True)]
    with ThreadPoolExecutor(9) as pool:
        together = list(pool.map(lambda pair: model.complete(pair[0], **pair[1])["content"], zip(prompts, options, strict=True)))
    assert together == alone


def test_texts_join_and_leave_at_any_step(model: Model) -> None:
    alone = model.complete(PROMPT, max_tokens=24)["content"]
    first = model.generate(PROMPT, max_tokens=24)
    said = next(first)
    second = model.generate("The sea is", max_tokens=100)
    next(second)
    said += next(first)
    third = model.generate("Two and two are", max_tokens=3)
    assert len(list(third)) == 3
    second.close()
    assert said + "".join(first) == alone
    assert eventually(lambda: idle(model))


def test_halting_ends_the_decoding_within_a_token_and_frees_the_slot(model: Model) -> None:
    pieces = model.generate(PROMPT, max_tokens=2000)
    for _ in range(3):
        next(pieces)
    before = model.stats()["steps"]
    pieces.close()
    assert eventually(lambda: idle(model))
    # One step may have run already when it was halted, and one token more may have been made before we counted.
    assert model.stats()["steps"] <= before + 2


def test_who_does_not_take_gets_no_more_than_room(model: Model) -> None:
    pieces = model.generate(PROMPT, max_tokens=100)
    next(pieces)
    before = model.stats()["steps"]
    other = model.complete("The sea is", max_tokens=AHEAD + 4)["content"]  # goes past the one that stands still
    assert model.stats()["steps"] <= before + 2 * AHEAD + 4
    assert len(list(islice(pieces, AHEAD + 4))) == AHEAD + 4  # and goes on when it is taken from
    pieces.close()
    assert model.complete("The sea is", max_tokens=AHEAD + 4)["content"] == other


def test_a_prompt_longer_than_a_chunk_and_a_text_longer_than_the_smallest_cache(model: Model, file: ModelFile) -> None:
    prompt = "one two three four five six seven eight nine ten, " * 22 + "one"
    answer = model.complete(prompt, max_tokens=20)
    # 256 positions are passed on the way.
    ids = model.tokenize(prompt + answer["content"])
    assert answer["stats"]["prompt_tokens"] < 256 < len(ids)
    logits = reference.logits(file, ids, 21)
    assert (logits.argmax(axis=-1)[:-1] == ids[-20:]).all()


@pytest.mark.parametrize(
    ("prompt", "options", "names"),
    [
        ("", {}, "prompt"),
        ("a " * 9000, {}, "prompt"),
        (PROMPT, {"max_tokens": 0}, "max_tokens"),
        (PROMPT, {"stop": [""]}, "stop"),
        (PROMPT, {"top_p": 2}, "top_p"),
        ([], {}, "message"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once_and_by_name(model: Model, prompt: Any, options: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        model.generate(prompt, **options)


def test_models_share_their_weights_and_end_with_their_holder(model: Model) -> None:
    with pytest.raises(ValueError, match="slots"):
        smollm.load(slots=0)
    other = smollm.load(slots=1)
    thread = other._engine._thread
    assert other._params is model._params
    gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None
    thread.join(30)
    assert not thread.is_alive()


# --- against others ---


def test_greedy_answers_are_those_of_numpy(model: Model, file: ModelFile, recorded: dict[str, Any]) -> None:
    conversations = [[{"role": "user", "content": run["prompt"]}] for run in recorded["runs"]]
    with ThreadPoolExecutor(len(conversations)) as pool:  # eight at once, and two that wait for a slot
        answers = list(pool.map(lambda messages: model.complete(messages, max_tokens=GREEDY), conversations))
    said = [model.tokenize(answer["content"]) for answer in answers]
    prompts = [model.tokenizer.chat_tokens(messages) for messages in conversations]
    computed = reference.all_logits(file, [(ids + tokens[:-1], len(tokens)) for ids, tokens in zip(prompts, said, strict=True)])
    for messages, answer, tokens, logits in zip(conversations, answers, said, computed, strict=True):
        assert answer["stats"]["tokens"] <= GREEDY
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
