"""The demo, as `make demo` runs it: every value comes back, the photograph gains, and a cancelled run stops early."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent


def run_demo(*arguments: str) -> str:
    environment = {**os.environ, "SNAKEBRIDGE_PYTHON": sys.executable, "LC_ALL": "C.UTF-8"}
    command = ["mix", "run", "examples/demo.exs", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo_does_what_it_says() -> None:
    picture = ROOT / "out" / "restoration.png"
    picture.unlink(missing_ok=True)
    output = run_demo()
    assert output.count(" same\n") == 22
    assert "CHANGED" not in output
    gain = re.search(r"gain \+([0-9.]+) dB", output)
    assert gain is not None
    assert float(gain.group(1)) > 1.5
    assert re.search(r"\n  > (.{20,})\n  [0-9]+ tokens, then (end|length)\n", output, re.S)
    image = Image.open(picture)
    assert image.size[0] > 3 * 500
    assert image.size[1] > 500


def test_the_demo_can_be_cancelled_from_elixir() -> None:
    output = run_demo("--cancel-after", "2")
    assert "stopped: cancelled after 8 iterations" in output
