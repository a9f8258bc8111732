"""The language model, loaded once for all these tests."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parents[2] / "examples" / "generate" / "python"), str(Path(__file__).parent)]

import smollm
from smollm import generate
from smollm.gguf_file import ModelFile, find, read


@pytest.fixture(scope="session")
def file() -> ModelFile:
    return read(find())


@pytest.fixture(scope="session")
def model(file: ModelFile) -> smollm.Model:
    # The file is read once for both; a model takes the tensors out of what it gets.
    copy = replace(file, tensors=dict(file.tensors))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "read", lambda path: copy if path == find() else read(path))
        return smollm.load(slots=8)


@pytest.fixture(scope="session")
def recorded() -> dict[str, Any]:
    """What llama.cpp said (record_llama_cpp.py)."""
    return json.loads((Path(__file__).parent / "llama_cpp.json").read_text())  # type: ignore[no-any-return]
