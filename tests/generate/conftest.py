"""The language model, loaded once for all these tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parents[2] / "examples" / "generate" / "python"), str(Path(__file__).parent)]

import smollm
from smollm.gguf_file import ModelFile, find, read


@pytest.fixture(scope="session")
def file() -> ModelFile:
    return read(find())


@pytest.fixture(scope="session")
def model() -> smollm.Model:
    return smollm.load(slots=8)


@pytest.fixture(scope="session")
def recorded() -> dict[str, Any]:
    """What llama.cpp said (record_llama_cpp.py)."""
    return json.loads((Path(__file__).parent / "llama_cpp.json").read_text())  # type: ignore[no-any-return]
