"""A short chaos run: calls through a real pool, while its workers die, hang and run out of everything, and everything is started anew."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import run
from world import ROOT

SEED = int(os.environ.get("CHAOS_SEED", "6"))


@pytest.fixture(scope="module")
def compiled() -> None:
    """The driver loads what `mix test` compiles, which may not have happened yet."""
    subprocess.run(["mix", "compile"], cwd=ROOT, env={**os.environ, "MIX_ENV": "test"}, capture_output=True, check=True)


def test_no_promise_is_broken_while_everything_fails(compiled: None, tmp_path: Path) -> None:
    report = run.run(tmp_path / "run", SEED, 14)
    print(report)
    assert not report.violations, f"CHAOS_SEED={SEED}: {report}"
    assert report.answers["ok"] > 100
    assert report.faults.total() > 5
