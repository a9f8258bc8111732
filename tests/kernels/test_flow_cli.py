"""`bridge-adapter flow`: from a spec file to a report, by the command line alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from eventually import eventually

from bridge_adapter.kernels.flow import cli
from bridge_adapter.kernels.flow.recorder import reading
from bridge_adapter.kernels.flow.recorder.manifest import load_run_manifest

ROOT = Path(__file__).parent.parent.parent
SPEC = """
import numpy as np
from bridge_adapter.kernels.flow.operators.base import Op
from bridge_adapter.kernels.flow.spec import FlowSpec, Slot, Term

data = np.random.default_rng(0).random((16, 16))
spec = FlowSpec(
    name="demo",
    slots={{"x": Slot(shape=(16, 16)), "y": Slot(value=data, role="data")}},
    terms=[Term("quadratic", "x", op=Op("gaussian_blur", sigma=1.0), target="y"), Term("{prior}", "x", weight=0.01)],
)
iterations = {iterations}
tol = 0.0
"""


def written(folder: Path, *, prior: str = "l1", iterations: float = 30) -> Path:
    path = folder / "spec.py"
    path.write_text(SPEC.format(prior=prior, iterations=iterations))
    return path


def flow(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """What the shell sees: the exit code."""
    monkeypatch.setattr(sys, "argv", ["bridge-adapter", "flow", *arguments])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_spec_file_is_run_listed_queried_reported_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, base = written(tmp_path), tmp_path / "runs"
    assert flow("run", str(spec), "-o", str(base), monkeypatch=monkeypatch) == 0
    (capsule,) = base.iterdir()
    assert "budget after 30 iterations" in capsys.readouterr().out
    assert flow("runs", "--base", str(base), monkeypatch=monkeypatch) == 0
    assert "budget" in capsys.readouterr().out
    assert flow("query", "SELECT max(iter) AS last FROM telemetry", "--base", str(base), "--format", "json", monkeypatch=monkeypatch) == 0
    assert json.loads(capsys.readouterr().out) == [{"last": 30}]
    assert flow("query", "SELECT 1 AS one", "--base", str(base), "--format", "csv", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.split() == ["one", "1"]
    assert flow("report", str(capsule), monkeypatch=monkeypatch) == 0
    assert Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert flow("resume", str(capsule), str(spec), "--iterations", "50", monkeypatch=monkeypatch) == 0
    (resumed,) = set(base.iterdir()) - {capsule}
    assert reading.telemetry(resumed)["iter"].to_pylist() == list(range(31, 51))


DESCRIBED: dict[str, Any] = {
    "spec": {
        "name": "described",
        "slots": {"x": {"shape": [3]}, "y": {"value": [1.0, -0.2, 3.0], "role": "data"}},
        "terms": [{"type": "quadratic", "variable": "x", "target": "y"}, {"type": "l1", "variable": "x", "weight": 0.5}],
    },
    "iterations": 40,
    "tol": 1e-9,
    "profile": {"eta_max": 0.5},
    "gap_dial": {"sigma": 0.1, "warmup_iterations": 1, "monitoring_interval": 1},
}


def test_a_file_in_json_is_run_certified_tuned_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, base = tmp_path / "spec.json", tmp_path / "runs"
    spec.write_text(json.dumps(DESCRIBED["spec"]))
    assert flow("run", str(spec), "-o", str(base), monkeypatch=monkeypatch) == 0
    assert "converged" in capsys.readouterr().out
    (capsule,) = base.iterdir()
    assert flow("resume", str(capsule), str(spec), "--iterations", "5000", monkeypatch=monkeypatch) == 0
    spec.write_text(json.dumps(DESCRIBED))
    for command in (("certify",), ("run", "--certified", "-o", str(base)), ("tune", "-o", str(base), "--moves", "1")):
        assert flow(command[0], str(spec), *command[1:], monkeypatch=monkeypatch) == 0
        assert "GREEN" in capsys.readouterr().out
    asked = [load_run_manifest(found) for found in base.iterdir()]
    assert {found["gates"]["eta_max"] for found in asked if found.get("certified")} == {0.5}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("spec = 3", "spec.json cannot be read as JSON: Expecting value: line 1 column 1 (char 0); a file in Python is called SPEC.py"),
        ('{"spec": {"slots": {}, "terms": [{"typ": 1}]}}', "spec.json: terms[0].typ: there is no such key; did you mean type?"),
        ('{"iteration": 3, "spec": {}}', "spec.json: iteration: there is no such key; did you mean iterations?"),
        ('{"tol": 3}', "spec.json: spec: it is missing; a file is"),
        ('{"spec": {"slots": {}, "terms": []}, "block": 0}', "spec.json: block is 0 of type int; it must be a whole number from 1"),
        ('{"spec": {"slots": {}, "terms": []}, "config": {"max_rollback": 1}}', "spec.json: config.max_rollback: there is no such key"),
        ("[]", "spec.json: spec: it is missing"),
        ("3", "spec.json: the file is 3 of type int; it must be a dictionary"),
    ],
)
def test_a_mistake_in_a_json_file_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(text)
    assert flow("certify", str(spec), monkeypatch=monkeypatch) == 1
    assert told in capsys.readouterr().err


def test_certify_answers_by_its_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert flow("certify", str(written(tmp_path, prior="tikhonov")), monkeypatch=monkeypatch) == 0
    assert "GREEN" in capsys.readouterr().out
    spec = written(tmp_path)
    spec.write_text(spec.read_text().replace("sigma=1.0", "sigma=4.0"))
    assert flow("certify", str(spec), monkeypatch=monkeypatch) == 1
    assert "AMBER" in capsys.readouterr().out


def test_a_certified_run_is_tuned_and_resumed_and_answers_by_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, base = written(tmp_path), tmp_path / "runs"
    assert flow("run", str(spec), "--certified", "-o", str(base), monkeypatch=monkeypatch) == 0
    assert "GREEN: every check of the profile strict passed" in capsys.readouterr().out
    (capsule,) = base.iterdir()
    assert load_run_manifest(capsule)["certified"]
    assert flow("resume", str(capsule), str(spec), "--iterations", "40", monkeypatch=monkeypatch) == 0
    assert "40 iterations" in capsys.readouterr().out
    assert flow("tune", str(spec), "-o", str(base), "--sigma", "0.3", "--moves", "2", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().out
    assert "lambda" in told and "of 2 moves were kept" in told
    spec.write_text(
        spec.read_text() + "from bridge_adapter.kernels.flow import ControllerConfig\nconfig = ControllerConfig(ridge_cap=0.0)\n"
    )
    spec.write_text(spec.read_text().replace("sigma=1.0", "sigma=4.0"))
    assert flow("run", str(spec), "--certified", "--no-record", monkeypatch=monkeypatch) == 1
    assert "cert_fail" in capsys.readouterr().out
    assert flow("run", str(spec), "--profile", "convex", monkeypatch=monkeypatch) == 2


def test_what_is_wrong_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("")
    assert flow("run", str(empty), monkeypatch=monkeypatch) == 1
    assert "defines no `spec`" in capsys.readouterr().err
    for line in ("iterations = 'many'", "iterations = float('inf')", "tol = 'x'"):
        empty.write_text("from bridge_adapter.kernels.flow import FlowSpec\nspec = FlowSpec(slots={}, terms=[])\n" + line)
        assert flow("run", str(empty), monkeypatch=monkeypatch) == 1
        assert f"in the spec file; it must be a {'finite' if 'tol' in line else 'whole'} number" in capsys.readouterr().err
    for command in (("runs",), ("query", "SELECT 1")):
        assert flow(*command, "--base", str(tmp_path / "nowhere"), monkeypatch=monkeypatch) == 2
        printed = capsys.readouterr()
        told = " ".join(printed.err.replace("│", " ").split())  # in a box, whose lines break where the path is long
        assert printed.out == "" and "does not exist" in told
    (tmp_path / "file").touch()
    for name in ("run", "tune"):
        spec_file = written(tmp_path, prior="l7")  # the compiler would have another complaint
        assert flow(name, str(spec_file), "-o", str(tmp_path / "file"), monkeypatch=monkeypatch) == 1
        assert "a run cannot be recorded in" in capsys.readouterr().err
    assert flow("query", "SELECT nothing_of_this", "--base", str(tmp_path), monkeypatch=monkeypatch) == 1
    told = capsys.readouterr().err
    assert "DuckDB refused the query" in told and "Traceback" not in told
    assert flow("run", str(tmp_path / "none.py"), monkeypatch=monkeypatch) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("iterations = 2.7", "iterations is 2.7 in the spec file; it must be a whole number"),
        ("iterations = True", "iterations is True in the spec file; it must be a whole number"),
        ("iterations = '30'", "iterations is '30' in the spec file; it must be a whole number"),
        ("iterations = float('inf')", "iterations is inf in the spec file; it must be a whole number"),
        ("iterations = -3", "iterations is -3; it must be a whole number, 1 or more"),
        ("block = 0", "block is 0; it must be 1 to 1000000 whole steps"),
    ],
)
def test_a_number_of_the_spec_file_is_taken_as_it_is_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    spec = written(tmp_path)
    spec.write_text(spec.read_text() + line + "\n")
    for command in ("run", "tune"):
        assert flow(command, str(spec), "-o", str(tmp_path / "runs"), monkeypatch=monkeypatch) == 1
        assert said in capsys.readouterr().err
    assert flow("run", str(written(tmp_path, iterations=3.0)), "--no-record", monkeypatch=monkeypatch) == 0


def test_what_a_python_file_asks_as_a_json_file_would_is_meant_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = written(tmp_path)
    plain = spec.read_text()
    spec.write_text(plain.replace("sigma=1.0", "sigma=4.0") + "profile = 'convex'\nconfig = {'max_rollbacks': 1}\n")
    assert flow("run", str(spec), "--certified", "-o", str(tmp_path / "runs"), monkeypatch=monkeypatch) == 0
    assert "every check of the profile convex passed" in capsys.readouterr().out
    (capsule,) = (tmp_path / "runs").iterdir()
    assert load_run_manifest(capsule)["budgets"]["max_rollbacks"] == 1
    for line, said in (
        ("profile = 'conve'", "profile.name is 'conve' of type str; it must be one of strict, convex"),
        ("gap_dial = {'sigam': 0.1}", "gap_dial.sigam: there is no such key; did you mean sigma?"),
        ("policy = 'basic'\nsolver = 'fista'\nalpha = 0.1", "has a policy, which says how the flow steps, and solver and alpha; leave out"),
    ):
        spec.write_text(f"{plain}{line}\n")
        assert flow("run", str(spec), "--certified", "--no-record", monkeypatch=monkeypatch) == 1
        assert said in capsys.readouterr().err


def test_a_json_file_is_never_run_however_its_ending_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    described = {"slots": {"x": {"shape": [3]}}, "terms": [{"type": "quadratic", "variable": "x", "target": [1.0, 2.0, 3.0]}]}
    (tmp_path / "SPEC.JSON").write_text(json.dumps(described))
    assert flow("run", str(tmp_path / "SPEC.JSON"), "--no-record", monkeypatch=monkeypatch) == 0
    assert "converged" in capsys.readouterr().out


def test_json_is_strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT 'nan'::DOUBLE AS a, {'b': ['inf'::DOUBLE, 0.5]} AS c, MAP {DATE '2026-01-02': 1.5::DECIMAL(2, 1)} AS d"
    assert flow("query", sql, "--base", str(tmp_path), "--format", "json", monkeypatch=monkeypatch) == 0
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told == [{"a": "NaN", "c": {"b": ["Infinity", 0.5]}, "d": {"2026-01-02": "1.5"}}]


def commands(*lines: tuple[str, ...]) -> str:
    """Command lines in a process of their own; what they print, and last whether they have loaded JAX."""
    calls = "".join(f"app({list(line)!r}, standalone_mode=False);" for line in lines)
    code = f"import sys; from bridge_adapter.kernels.flow.cli import app; {calls} print('jax' in sys.modules)"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert made.returncode == 0, made.stderr
    return made.stdout


def test_a_deterministic_run_sets_what_it_says_and_looking_at_it_loads_no_jax(tmp_path: Path) -> None:
    base = str(tmp_path / "runs")
    commands(("flow", "run", str(written(tmp_path)), "--deterministic", "-o", base))
    (capsule,) = Path(base).iterdir()
    told = load_run_manifest(capsule)
    assert told["determinism"] == {"deterministic": True, "xla": True, "block": 64}
    assert {"--xla_cpu_multi_thread_eigen=false", "--xla_gpu_deterministic_ops=true"} <= set(told["environment"]["xla_flags"].split())
    base_of = ("--base", base)
    printed = commands(("flow", "runs", *base_of), ("flow", "query", "SELECT 41 + 1", *base_of), ("flow", "report", str(capsule)))
    assert "42" in printed and "report.html" in printed and printed.splitlines()[-1] == "False"


def test_a_deterministic_run_is_refused_where_jax_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jax.devices()
    assert flow("run", str(written(tmp_path)), "--deterministic", "--no-record", monkeypatch=monkeypatch) == 1
    assert "XLA_FLAGS=" in capsys.readouterr().err


def test_control_c_ends_a_run_with_a_checkpoint_and_one_end(tmp_path: Path) -> None:
    spec, base = written(tmp_path, iterations=50_000_000), tmp_path / "runs"
    # Plain steps on a hard problem: it will not be done before it is interrupted.
    slow = spec.read_text().replace("sigma=1.0", "sigma=3.0").replace("weight=0.01", "weight=1e-9").replace("(16, 16)", "(512, 512)")
    spec.write_text(slow + 'solver = "ista"\n')
    command = [sys.executable, "-c", "from bridge_adapter.kernels.flow.cli import main; main()", "flow", "run", str(spec), "-o", str(base)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        eventually(lambda: process.poll() is not None or list(base.glob("*/telemetry/part-*")), seconds=90)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=30)
    (capsule,) = base.iterdir()
    assert process.returncode == 0 and "cancelled after" in told
    names = [event["event"] for event in reading.events(capsule)]
    assert names[-2:] == ["CANCELLED", "RUN_FINISHED"] and names.count("RUN_FINISHED") == 1
    assert load_run_manifest(capsule)["latest_checkpoint"]["iter"] == reading.telemetry(capsule)["iter"][-1].as_py()
