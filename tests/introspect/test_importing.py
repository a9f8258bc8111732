"""Libraries whose import goes wrong in every way: what is said of them, and that the others are described all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bridge_adapter.codec.packed import Packer, Unpacker


def introspected(folder: Path, *libraries: str, limit: str = "0.5") -> tuple[subprocess.CompletedProcess[bytes], dict[str, Any] | None]:
    """The command as the generator runs it, with an open pipe as its input."""
    request, target = folder / "question", folder / "answer"
    request.write_bytes(Packer().pack({"format": 1, "libraries": [{"library": name, "symbols": [""]} for name in libraries]}))
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "bridge_adapter.tools.introspect", str(request), str(target)],
            env={"PYTHONPATH": str(folder), "SNAKEBRIDGE_IMPORT_TIMEOUT": limit},
            stdin=reading,
            capture_output=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(reading)
        os.close(writing)
    return done, Unpacker().unpack(target.read_bytes()) if target.exists() else None


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def f(:\n    pass", ("SyntaxError: invalid syntax", "wrong.py:1)")),
        ("def f():\n    raise RuntimeError('no licence')\nf()", ("RuntimeError: no licence", "wrong.py:2)")),
        ("import not_there_at_all", ("it needs not_there_at_all, which is not installed; install it",)),
        ("answer = input('name? ')", ("EOFError", "wrong.py:1)")),
        ("raise KeyboardInterrupt", ("KeyboardInterrupt", "wrong.py:1)")),
        (
            "import time\nwhile True:\n    try:\n        time.sleep(9)\n    except Exception:\n        pass",
            ("did not end within 0.5 s", "wrong.py:4)"),
        ),
    ],
)
def test_what_went_wrong_is_told_with_its_place(tmp_path: Path, source: str, says: tuple[str, ...]) -> None:
    (tmp_path / "wrong.py").write_text(source)
    (tmp_path / "right.py").write_text("def f(): ...")
    done, answer = introspected(tmp_path, "wrong", "right")
    assert done.returncode == 0, done.stderr
    assert answer is not None
    assert [module["elixir"] for module in answer["modules"]] == ["Right"]
    (problem,) = answer["problems"]
    assert (problem["library"], problem["kind"]) == ("wrong", "import")
    for text in ("wrong cannot be imported", *says):
        assert text in problem["message"]


def test_a_crash_leaves_a_trace(tmp_path: Path) -> None:
    (tmp_path / "crashes.py").write_text("import ctypes\nctypes.string_at(0)")
    done, answer = introspected(tmp_path, "crashes")
    assert answer is None
    assert done.returncode != 0
    assert b"crashes.py" in done.stderr


def test_a_limit_that_is_no_number_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text("import time\ntime.sleep(0.01)")
    _, answer = introspected(tmp_path, "right", limit="soon")
    assert answer is not None
    assert answer["problems"] == []
