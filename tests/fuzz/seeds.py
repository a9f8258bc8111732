"""What the fuzzers of the Python decoders share: where they begin, how long they run, and what a decoder may answer."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import atheris

HERE = Path(__file__).parent
VECTORS = HERE.parents[1] / "codec" / "vectors"
FOUND = HERE / "found"


def vectors(key: str) -> Iterable[Any]:
    """The forms of all conformance vectors."""
    for path in sorted(VECTORS.glob("*.json")):
        for vector in json.loads(path.read_text(encoding="utf-8"))["vectors"]:
            if vector.get(key) is not None:
                yield vector[key]


def run(decode: Callable[[bytes], None], seeds: Iterable[bytes]) -> None:
    """Fuzzes for FUZZ_SECONDS. An input that raises is written to tests/fuzz/found and ends the run with an error."""
    FOUND.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for index, seed in enumerate((*seeds, *(path.read_bytes() for path in FOUND.iterdir()))):
            Path(corpus, f"seed{index}").write_bytes(seed)
        seconds = os.environ.get("FUZZ_SECONDS", "60")
        options = [
            f"-max_total_time={seconds}",
            f"-artifact_prefix={FOUND}/",
            "-max_len=4096",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-verbosity=0",
        ]
        atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", corpus], decode)
        atheris.Fuzz()
