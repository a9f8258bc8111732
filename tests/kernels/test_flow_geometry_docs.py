"""The examples of docs/flow/transforms.md and docs/flow/manifolds.md run as they stand and do what the page says."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGES = Path(__file__).parents[2] / "docs" / "flow"


def namespace(page: str, number: int = 0) -> dict[str, Any]:
    code = re.findall(r"```python\n(.*?)```", (PAGES / page).read_text(encoding="utf-8"), re.DOTALL)[number]
    names: dict[str, Any] = {}
    exec(compile(code, page, "exec"), names)
    return names


def test_the_wavelet_example_removes_most_of_the_noise(capsys: pytest.CaptureFixture[str]) -> None:
    namespace("transforms.md")
    assert float(capsys.readouterr().out) < 0.1


def test_the_rotation_is_found() -> None:
    names = namespace("manifolds.md")
    np.testing.assert_allclose(names["found"]["state"]["r"], names["turn"], atol=0.02)
    assert names["found"]["stopped"] == "converged"
