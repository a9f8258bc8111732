"""The Python examples of the pages about values run as they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bridge_adapter.codec import named

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: str) -> list[str]:
    path = DOCS / page
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S) if path.exists() else []


@pytest.mark.parametrize("page", ["types.md", "sharing.md"])
def test_the_python_examples_of_a_page_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(f"example_of_{page.removesuffix('.md')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    # What an example registers is forgotten afterwards.
    monkeypatch.setattr(named, "BY_TAG", dict(named.BY_TAG))
    monkeypatch.setattr(named, "BY_CLASS", dict(named.BY_CLASS))
    for block in blocks(page):
        exec(block, module.__dict__)  # the pages are ours


def test_there_are_examples() -> None:
    assert blocks("types.md")
