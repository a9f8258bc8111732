"""The examples of docs/flows.md and docs/flow/running.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["flows.md", "flow/running.md"])
def test_the_first_example_of_a_page_runs(page: str) -> None:
    code = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)[0]
    exec(compile(code, page, "exec"), {})
