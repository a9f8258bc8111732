"""What `resume_run` meets in capsules that were edited, damaged or mixed up by hand: it goes on as if nothing had happened, or says which
file is wrong and what to do."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bridge_adapter.kernels.flow import FlowSpec, Slot, Term, compile_flow, resume_run, run, run_certified
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.recorder import checkpoints
from bridge_adapter.kernels.flow.recorder.capsule import resume_state
from bridge_adapter.kernels.flow.recorder.checkpoints import Checkpoints
from bridge_adapter.kernels.flow.recorder.errors import CapsuleError, CapsuleFull, CheckpointRefused
from bridge_adapter.kernels.flow.recorder.files import writer_alive
from bridge_adapter.kernels.flow.running import Execution
from bridge_adapter.kernels.flow.solvers.optax_flow import optax_flow

DATA = np.linspace(-1.0, 1.0, 6)
SPEC = FlowSpec({"x": Slot(shape=(6,))}, [Term("quadratic", "x", target=DATA), Term("l1", "x", weight=0.1)])


def half_way(folder: Path, *, killed: bool = False, solver: str | None = "fista", spec: FlowSpec = SPEC) -> Path:
    """The capsule of a run that was cancelled; killed: as if its process had been."""

    def half(info: dict[str, object]) -> str:
        return "cancel" if info["iteration"] == 4 else ""

    found = run(spec, iterations=9, tol=0.0, alpha=0.1, block=2, solver=solver, on_progress=half, out_dir=folder)["capsule"]
    if killed:
        manifest = found / "manifest.toml"
        manifest.write_text(manifest.read_text().replace('status = "cancelled"', 'status = "running"'))
    return Path(found)


def certified_half_way(folder: Path, *, killed: bool = False) -> Path:
    """The capsule of a certified run that was cancelled; killed: as if its process had been."""
    found = run_certified(SPEC, iterations=9, tol=0.0, block=2, on_progress=lambda info: "cancel", out_dir=folder)["capsule"]
    if killed:
        for name in ("run_card.json", "logs.ndjson"):
            text = "".join(line for line in (found / name).read_text().splitlines(keepends=True) if "RUN_FINISHED" not in line)
            (found / name).write_text(text) if name == "logs.ndjson" else (found / name).unlink()
        manifest = found / "manifest.toml"
        manifest.write_text(manifest.read_text().replace('status = "cancelled"', 'status = "running"'))
    return Path(found)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("solver", ["mfista", "ista", "condat_vu"])
@pytest.mark.parametrize("killed", [False, True])
def test_another_solver_is_refused_and_leaves_the_capsule_as_it_was(tmp_path: Path, solver: str, killed: bool) -> None:
    """FISTA and MFISTA keep states of the same form and of different meaning."""
    capsule = half_way(tmp_path, killed=killed)
    before = files(tmp_path)
    with pytest.raises(CheckpointRefused, match=rf"of the solver fista, the flow was compiled for {solver}.*solver='fista'"):
        resume_run(capsule, compile_flow(SPEC, solver=solver))
    with pytest.raises(FlowInputError, match="block is 0"):
        resume_run(capsule, SPEC, block=0)
    assert files(tmp_path) == before
    assert resume_run(capsule, SPEC)["iterations"] == 9


def test_a_solver_of_ones_own_is_asked_for(tmp_path: Path) -> None:
    smooth = FlowSpec({"x": Slot(shape=(6,))}, [Term("quadratic", "x", target=DATA)])
    flow = compile_flow(smooth, solver=optax_flow("sgd", {"learning_rate": 0.1}), tol=0.0)
    capsule = run(flow, iterations=4, out_dir=tmp_path)["capsule"]
    with pytest.raises(FlowInputError, match=r"a solver of one's own, 'optax'.*give the compiled flow"):
        resume_run(capsule, smooth, iterations=9)
    assert resume_run(capsule, flow, iterations=9)["iterations"] == 9


def test_a_state_of_another_form_is_refused_with_both(tmp_path: Path) -> None:
    """As of a version that kept each scalar by itself, or more or fewer of them: JAX would read beyond a short vector without a word."""
    flow = compile_flow(SPEC, solver="fista")
    record = resume_state(half_way(tmp_path))["record"]
    unpacked = [leaf for packed in record["run"] for leaf in (packed if packed.ndim else [packed])]
    short = [*record["run"][:-1], record["run"][-1][:-1]]
    wider = [leaf.astype("float32") if leaf.dtype == "float64" else leaf for leaf in record["run"]]
    with precision("float64"):
        for leaves in (unpacked, short, wider, record["run"][:-1]):
            with pytest.raises(CheckpointRefused, match=r"for the solver's state .* of another version.*start a new run"):
                Execution(flow, iterations=9, saved={**record, "run": leaves})
        with pytest.raises(CheckpointRefused, match="for the controls "):
            Execution(flow, iterations=9, saved={**record, "controls": record["controls"][1:]})
        assert Execution(flow, iterations=9, saved=record).done == 4


def edited(name: str, text: str) -> Callable[[Path], None]:
    def edit(capsule: Path) -> None:
        (capsule / name).write_text(text)

    return edit


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(capsule: Path) -> None:
        text = (capsule / name).read_text()
        assert old in text
        (capsule / name).write_text(text.replace(old, new))

    return edit


def cut(name: str) -> Callable[[Path], None]:
    def edit(capsule: Path) -> None:
        (capsule / name).write_bytes((capsule / name).read_bytes()[:60])

    return edit


DAMAGED: list[tuple[Callable[[Path], None], str]] = [
    (edited("run_card.json", "[]"), r"run_card.json is no run card.*Restore it"),
    (edited("run_card.json", "{"), r"run_card.json cannot be read.*Restore it"),
    (edited("run_card.json", '{"status": "converged"}'), r"run_card.json is no run card.*Restore it"),
    (cut("telemetry.parquet"), r"telemetry.parquet is damaged.*restore it from a copy, or remove it"),
    (cut("events.parquet"), r"events.parquet is damaged.*restore it from a copy, or remove it"),
    (replaced("manifest.toml", "[sampling]", "[simpling]"), r"manifest.toml is damaged: its sampling is None.*Restore it"),
    (replaced("manifest.toml", "every = 10", "every = 0"), r"manifest.toml is damaged: its sampling is .*Restore it"),
    (replaced("manifest.toml", "every = 10", "often = 10"), r"manifest.toml is damaged: its sampling is .*Restore it"),
    (replaced("manifest.toml", 'status = "running"', 'status = "running"\ncertified = true'), r"certified run by its manifest.*Restore it"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGED)
def test_what_is_damaged_is_named_with_the_remedy(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    capsule = half_way(tmp_path, killed=True)
    damage(capsule)
    with pytest.raises((CapsuleError, CheckpointRefused), match=said):
        resume_run(capsule, SPEC)


def test_a_capsule_that_could_not_be_resumed_is_let_go_of(tmp_path: Path) -> None:
    """By a worker that lives for weeks, and gets the file back from a copy in the meantime."""
    capsule = half_way(tmp_path, killed=True)
    log = capsule / "logs.ndjson"
    log.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if "RUN_FINISHED" not in line))
    rows = (capsule / "telemetry.parquet").read_bytes()
    (capsule / "telemetry.parquet").write_bytes(rows[:60])
    threads = set(threading.enumerate())
    with pytest.raises(CapsuleError, match="is damaged"):
        resume_run(capsule, SPEC)
    assert set(threading.enumerate()) == threads and not writer_alive(capsule)
    (capsule / "telemetry.parquet").write_bytes(rows)
    assert resume_run(capsule, SPEC)["iterations"] == 9


@pytest.mark.parametrize("call", ["posix_fallocate", "fsync"])
def test_a_capsule_that_could_not_be_created_is_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, call, full)
    threads, handles = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    with pytest.raises(CapsuleFull, match="free some space"):
        run(SPEC, iterations=9, out_dir=tmp_path)
    assert set(threading.enumerate()) == threads and len(os.listdir("/proc/self/fd")) == handles


@pytest.mark.parametrize(
    "line",
    [
        {"level": "event"},
        {"level": "event", "seq": "9", "t_wall_ms": 1.0, "iter": 1, "event": "ROLLBACK", "payload": {}, "run_id": "x"},
        {"level": "event", "seq": 9, "t_wall_ms": "x", "iter": 1, "event": "ROLLBACK", "payload": {}, "run_id": "x"},
        {"level": "event", "seq": 9, "t_wall_ms": 1.0, "iter": 1, "event": "ROLLBACK", "payload": {}},
    ],
    ids=range(4),
)
def test_a_line_of_the_log_that_is_no_event_is_passed_over(tmp_path: Path, line: dict[str, object]) -> None:
    capsule = half_way(tmp_path, killed=True)
    (capsule / "run_card.json").unlink()
    with (capsule / "logs.ndjson").open("a") as log:
        log.write(json.dumps(line) + "\n")
    assert resume_run(capsule, SPEC)["iterations"] == 9


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("part", ["run", "controls", "good", "changes", "block"])
def test_a_certified_run_that_cannot_go_on_leaves_the_capsule_as_it_was(tmp_path: Path, part: str, killed: bool) -> None:
    """A checkpoint of a version that kept its parts in another form; its sums are right."""
    capsule = certified_half_way(tmp_path, killed=killed)
    for saved in Checkpoints(capsule / "checkpoints").files():
        found = checkpoints.read(saved)
        record = found.record
        if part == "good":
            record["certified"]["good"] = {"x": {"x": DATA}, "controls": record["controls"][1:], "done": 4, "segment": 0}
        elif part == "changes":
            record["certified"]["changes"]["controls"] = record["certified"]["changes"]["controls"][1:]
        elif part in record and part != "block":
            record[part] = record[part][1:]
        checkpoints.write(saved, record, found.header)
    before = files(tmp_path)
    error, block = (FlowInputError, 0) if part == "block" else (CheckpointRefused, None)
    with pytest.raises(error, match="block is 0" if part == "block" else "of another version.*start a new run"):
        resume_run(capsule, SPEC, block=block)
    assert files(tmp_path) == before and not writer_alive(capsule)
