"""The programs of examples/flows on small inputs: their figures say what docs/flow/examples.md says, and they leave a picture."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "flows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "pictures")


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """A program as a module, its pictures in a folder of the test."""
    monkeypatch.syspath_prepend(str(FOLDER))
    made = importlib.import_module(request.param)
    monkeypatch.setattr(sys.modules["pictures"], "OUT", tmp_path)
    yield made
    for name in ("pictures", request.param):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("example", ["deblur"], indirect=True)
def test_least_squares_is_not_certified_and_spoils_the_photograph_which_a_ridge_or_total_variation_restores(example: ModuleType) -> None:
    found = example.experiment(side=64, iterations=150)
    phases = {name: verdict.phase for name, verdict in found["verdict"].items()}
    assert phases == {"least squares": "AMBER", "ridge": "GREEN", "total variation": "GREEN"}
    assert "curvature" in found["verdict"]["least squares"].told()
    psnr = found["psnr"]
    assert psnr["least squares"] < psnr["blurred"] < psnr["blurred"] + 1 < psnr["ridge"] < psnr["total variation"]


@pytest.mark.parametrize("example", ["lasso_path"], indirect=True)
def test_every_point_of_the_lasso_path_is_proven_by_its_duality_gap(example: ModuleType, tmp_path: Path) -> None:
    found = example.experiment(count=8)
    assert found["warm"]["gaps"].max() <= 1e-10 and found["cold"]["gaps"].max() <= 1e-9
    np.testing.assert_allclose(found["warm"]["path"], found["cold"]["path"], atol=1e-7)
    assert np.abs(found["warm"]["path"][0]).max() < 1e-12 and found["warm"]["path"][-1].all()
    figure = sys.modules["pictures"].figure(3, 3, "empty")
    assert sys.modules["pictures"].save(figure, "empty").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("example", ["group_logistic"], indirect=True)
def test_groups_enter_whole_and_every_point_of_their_path_is_a_minimum(example: ModuleType) -> None:
    found = example.experiment(count=6)
    assert max(found["optimality"]) < 1e-7
    for x in found["path"]:
        for group in range(example.GROUPS):
            own = x[group == example.LABELS]
            assert own.all() or not own.any()
    assert found["accuracy"][-1] > 0.94


def test_the_page_and_make_examples_know_every_program() -> None:
    page = (ROOT / "docs" / "flow" / "examples.md").read_text()
    listed = re.search(r"^FLOWS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None and sorted(listed[1].split()) == NAMES
    assert [name for name in NAMES if f"examples/flows/{name}.py" not in page] == []


def test_the_first_example_of_the_page_runs() -> None:
    page = (ROOT / "docs" / "flow" / "examples.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    exec(compile(code, "examples.md", "exec"), {})
