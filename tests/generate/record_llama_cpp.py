"""Records what llama.cpp makes of the same file, for the tests, which need no llama.cpp.

With the Python of an environment that has llama-cpp-python: `python record_llama_cpp.py MODEL.gguf > llama_cpp.json`.
"""

from __future__ import annotations

import json
import sys
import zlib
from typing import Any

import llama_cpp
import numpy as np

PROMPTS = [
    "What is Elixir?",
    "Name three primary colours.",
    "Write a haiku about rain.",
    "What is 12 times 12?",
    "Who wrote Hamlet?",
    "Explain gravity to a child.",
    "Give me a recipe for pancakes.",
    "List the planets of the solar system.",
    "What does a compiler do?",
    "Tell me a short story about a fox.",
]
TEXTS = [
    "Hello, world!",
    "naïve café — “quotes” … 12345 1/2 ½ Ⅷ",
    "  two  spaces\n\n\tand tabs \r\n end ",
    "日本語のテキスト、한국어 и русский",
    "I'll we've they're DON'T it's 's",
    "emoji 👩‍👩‍👧 🏳️‍🌈 flags 🇩🇪",
    "def f(x_1, y__2):\n    return x_1 ** 2  # 3.14e-10",
    "<|im_start|>user<|im_end|>",
    "a" * 100 + " " + "=" * 70,
    "नमस्ते दुनिया ١٢٣ ๑๒๓",
    "tab\x1csep\x85nel\u3000ideographic\u200bzw",
    "x",
]
TEMPLATE = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
TOKENS = 64


def main() -> None:
    model = llama_cpp.Llama(sys.argv[1], n_ctx=512, n_threads=2, verbose=False)
    alone = llama_cpp.Llama(sys.argv[1], n_ctx=512, n_threads=2, n_batch=1, n_ubatch=1, verbose=False)
    runs = []
    for prompt in PROMPTS:
        ids = model.tokenize(TEMPLATE.format(prompt).encode(), add_bos=False, special=True)
        runs.append({"prompt": prompt, "prompt_tokens": ids, **answer(model, ids), "one_by_one": answer(alone, ids)})
    texts = [{"text": text, "tokens": model.tokenize(text.encode(), add_bos=False, special=False)} for text in TEXTS]
    recorded = {"llama_cpp_python": llama_cpp.__version__, "model": "SmolLM2-135M-Instruct.Q4_1.gguf", "runs": runs, "texts": texts}
    json.dump(recorded, sys.stdout, ensure_ascii=False, separators=(",", ":"))


def answer(model: Any, ids: list[int]) -> dict[str, Any]:
    """The greedy answer; at each of its tokens, by how much its logit leads the next best, and the CRC-32 of all logits' bytes."""
    model.reset()
    model.eval(ids)
    tokens: list[int] = []
    margins: list[float] = []
    checksums: list[int] = []
    while True:
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1), (model.n_vocab(),))
        second, first = np.argsort(logits)[-2:]
        tokens.append(int(first))
        margins.append(round(float(logits[first] - logits[second]), 4))
        checksums.append(zlib.crc32(logits.tobytes()))
        if len(tokens) == TOKENS or tokens[-1] == model.token_eos():
            return {"tokens": tokens, "margins": margins, "checksums": checksums}
        model.eval([tokens[-1]])


main()
