"""Short chaos runs: calls through a real pool and a real gateway, while everything around them fails; `make chaos` is the long one."""

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


@pytest.mark.parametrize(("through", "seconds"), [("pool", 8.0), ("gateway", 4.0)])
def test_no_promise_is_broken_while_everything_fails(compiled: None, tmp_path: Path, through: str, seconds: float) -> None:
    report = run.run(tmp_path / "run", through, SEED, seconds)
    assert not report.violations, f"CHAOS_THROUGH={through} CHAOS_SEED={SEED}: {report}"
    assert report.answers["ok"] > 10
    assert report.faults.total() > 2
