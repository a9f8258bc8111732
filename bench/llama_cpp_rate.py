"""Run by generate.py with another interpreter: tokens per second of llama.cpp, greedy, the median of the steps of three runs."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from itertools import pairwise

import llama_cpp  # type: ignore[import-not-found]

TOKENS = 64
PROMPT = "<|im_start|>user\nTell me a long story about a fox.<|im_end|>\n<|im_start|>assistant\n"

model = llama_cpp.Llama(sys.argv[1], n_ctx=512, n_threads=os.cpu_count(), verbose=False)
prompt = model.tokenize(PROMPT.encode(), add_bos=False, special=True)
seconds = []
for _ in range(3):
    model.reset()
    moments = []
    for token in model.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
        moments.append(time.perf_counter())
        if len(moments) == TOKENS or token == model.token_eos():
            break
    seconds += [later - earlier for earlier, later in pairwise(moments)]
print(json.dumps({"tok_s": 1 / statistics.median(seconds), "version": llama_cpp.__version__}))
