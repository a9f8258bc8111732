"""The flight recorder: what a capsule holds after every kind of end, and what it refuses to hold."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_adapter.kernels.flow.recorder import NoRecorder, Recorder, columns, events, reading
from bridge_adapter.kernels.flow.recorder.capsule import Capsule, resume_state
from bridge_adapter.kernels.flow.recorder.errors import CapsuleError, CapsuleFull, CapsuleLocked, CheckpointRefused, RecordInvalid
from bridge_adapter.kernels.flow.recorder.files import undisturbed
from bridge_adapter.kernels.flow.recorder.manifest import load_run_manifest
from bridge_adapter.kernels.flow.recorder.query import runs
from bridge_adapter.kernels.flow.recorder.sampling import Sampling

SPEC: dict[str, Any] = {
    "name": "de blur/1",
    "dtype": "float64",
    "spec_version": "1.0",
    "slots": {"x": {"shape": [16, 16], "role": "variable", "units": None}},
    "terms": [],
    "invariants": [],
}
ROOT = Path(__file__).parent.parent.parent


def steps(first: int, count: int, **more: Any) -> dict[str, Any]:
    at = np.arange(first, first + count)
    return {"iter": at, "E": 1.0 / at, "grad_norm": 1.0 / at, "alpha": 0.5, **more}


def kinds(capsule: Path) -> list[str]:
    return [event["event"] for event in reading.events(capsule)]


def test_a_capsule_is_a_recorder_and_so_is_no_recorder(tmp_path: Path) -> None:
    with Capsule.create(tmp_path, SPEC) as capsule:
        for recorder in (capsule, NoRecorder()):
            told: Recorder = recorder
            told.rows(steps(1, 3))
            told.event("CERT_CHECK", {"feasible": True})


def test_a_finished_run_leaves_the_files_of_the_layout_and_one_end(tmp_path: Path) -> None:
    with Capsule.create(tmp_path, SPEC, {"solver": "fista", "of_mine": 3}) as capsule:
        capsule.event("PHASE_TRANSITION", {"from": "RED", "to": "AMBER"})
        capsule.rows(steps(1, 10))
        capsule.checkpoint({"state": {"x": np.ones((16, 16))}}, iteration=10)
        capsule.artifact("x.after", np.ones((16, 16)))
        capsule.artifact("note.txt", "a text")
        capsule.finish("converged", task_metric=0.5)
    assert {path.name for path in capsule.path.iterdir() if not path.name.startswith(".")} == {
        "manifest.toml",
        "telemetry.parquet",
        "events.parquet",
        "checkpoints",
        "artifacts",
        "logs.ndjson",
        "latest_event.json",
        "run_card.json",
        "spec.json",
    }
    assert kinds(capsule.path) == ["RUN_STARTED", "PHASE_TRANSITION", "CHECKPOINT_CREATED", "RUN_FINISHED"]
    told = load_run_manifest(capsule.path)
    assert (told["status"], told["phase"], told["extra"], told["latest_checkpoint"]["iter"]) == ("converged", "AMBER", {"of_mine": 3}, 10)
    assert json.loads((capsule.path / "run_card.json").read_text())["task_metric"] == 0.5
    for name in ("telemetry", "events"):
        assert pq.read_schema(capsule.path / f"{name}.parquet").metadata[b"schema_version"] == b"3"
    with pytest.raises(CapsuleError, match="closed"):
        capsule.rows(steps(11, 1))


def test_every_row_and_event_that_is_written_fits_its_schema_again(tmp_path: Path) -> None:
    with Capsule.create(tmp_path, SPEC) as capsule:
        capsule.rows(steps(1, 50, phase="GREEN", eta_dd=0.1, gamma=-1.0, cert_kind="lower_bound", lambda_j="[1,2]"))
        capsule.event("STEP_REMEDIATION", {"iter": 4, "attempt": 1, "E_prev": 1.0, "E_new": np.float64("nan"), "alpha": np.float32(0.5)})
    rows = reading.telemetry(capsule.path)
    assert rows.schema.names == [column.name for column in columns.COLUMNS]
    again = columns.table({name: rows[name].to_pylist() for name in rows.schema.names})
    assert again.equals(rows.cast(again.schema))
    for event in reading.events(capsule.path):
        events.payload_text(event["event"], event["payload"])
    assert [event["seq"] for event in reading.events(capsule.path)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ({"E": None}, "E is missing"),
        ({"alpha": 0.0}, "alpha is 0.0; it must be > 0"),
        ({"energy": 1.0}, "no column 'energy'"),
        ({"phase": "YELLOW"}, "one of RED, AMBER, GREEN"),
        ({"sparsity_wx": 1.5}, "<= 1"),
        ({"gamma": np.inf}, "must be finite"),
        ({"iter": np.array([1.5, 2.0, 3.0])}, "whole numbers"),
        ({"E": np.ones(2)}, "3 numbers"),
        ({"trial_id": ""}, "1 to 4096 characters"),
        ({"notes": ["a", "b"]}, "2 values for 3 rows"),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused_by_name(tmp_path: Path, block: dict[str, Any], told: str) -> None:
    with Capsule.create(tmp_path, SPEC) as capsule, pytest.raises(RecordInvalid, match=told):
        capsule.rows(steps(1, 3, **block))


@pytest.mark.parametrize(
    ("kind", "payload", "told"),
    [
        ("CERT_CHECKED", {}, "there is no event"),
        ("CERT_CHECK", {}, "needs the payload key 'feasible'"),
        ("CERT_CHECK", {"feasible": 1}, "true or false"),
        ("CERT_CHECK", {"feasible": True, "etc": 1}, "no payload key 'etc'"),
        ("PHASE_TRANSITION", {"from": "RED", "to": "YELLOW"}, "one of RED"),
        ("TUNING_FAILED", {"reason": object()}, "plain data"),
        ("TUNING_FAILED", {"reason": "x" * 70_000}, "at most 65536"),
        ("RUN_FINISHED", {}, "recorded by the capsule itself"),
    ],
)
def test_an_event_that_breaks_its_schema_is_refused_by_name(tmp_path: Path, kind: str, payload: dict[str, Any], told: str) -> None:
    with Capsule.create(tmp_path, SPEC) as capsule, pytest.raises(RecordInvalid, match=told):
        capsule.event(kind, payload)


def test_the_row_of_a_step_that_diverged_is_kept_and_marked() -> None:
    table = columns.table(
        {
            **steps(1, 3, E=np.array([1.0, 2.0, np.nan])),
            "run_id": "r",
            "flow_name": "f",
            "seq": 0,
            "phase": "RED",
            "segment_id": 0,
            "t_wall_ms": 0,
        }
    )
    assert table["warnings"].to_pylist() == [None, None, "not finite"]
    assert table["gamma"].null_count == 3


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 20), st.integers(1, 7), st.integers(5, 200))
@settings(max_examples=40, deadline=None)
def test_sampling_does_not_depend_on_where_blocks_are_cut(sizes: list[int], first: int, every: int, cap: int) -> None:
    rule, at, kept = Sampling(first, every, cap), 1, []
    for size in sizes:
        block = np.arange(at, at + size)
        kept += block[rule.chosen(block, len(kept))].tolist()
        at += size
    assert kept == [step for step in range(1, at) if step <= first or step % every == 0][:cap]


def test_the_last_step_of_a_run_always_has_a_row(tmp_path: Path) -> None:
    with Capsule.create(tmp_path, SPEC, sampling=Sampling(first=10, every=10)) as capsule:
        capsule.rows(steps(1, 37))
    assert reading.telemetry(capsule.path)["iter"].to_pylist() == [*range(1, 11), 20, 30, 37]


def test_of_two_rows_for_one_iteration_the_later_one_counts(tmp_path: Path) -> None:
    with Capsule.create(tmp_path, SPEC) as capsule:
        capsule.rows(steps(1, 10))
        capsule.event("ROLLBACK", {"rollback_count": 1, "target_iteration": 6, "reason": "a certificate got worse"})
        capsule.rows(steps(7, 4, alpha=0.25))
    rows = reading.telemetry(capsule.path)
    assert rows["iter"].to_pylist() == list(range(1, 11))
    assert rows["alpha"].to_pylist() == [0.5] * 6 + [0.25] * 4
    assert pq.read_metadata(capsule.path / "telemetry.parquet").num_rows == 14


@pytest.mark.parametrize(
    ("error", "expected", "status"),
    [
        (ValueError("of the user"), ["RUN_STARTED", "RUN_FAILED", "RUN_FINISHED"], "failed"),
        (KeyboardInterrupt(), ["RUN_STARTED", "CANCELLED", "RUN_FINISHED"], "cancelled"),
        (None, ["RUN_STARTED", "RUN_FINISHED"], "completed"),
    ],
)
def test_however_the_block_ends_the_run_has_one_end(tmp_path: Path, error: BaseException | None, expected: list[str], status: str) -> None:
    capsule = Capsule.create(tmp_path, SPEC)
    try:
        with capsule:
            capsule.rows(steps(1, 5))
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt) as raised:
        assert raised is error
    assert kinds(capsule.path) == expected
    assert load_run_manifest(capsule.path)["status"] == status
    assert reading.telemetry(capsule.path).num_rows == 5


def test_what_is_being_written_is_written_to_its_end_when_its_writer_is_interrupted() -> None:
    class Interrupted(BaseException):
        pass

    felt, written = threading.Event(), list[bool]()

    def interrupt(*_: object) -> None:
        felt.set()
        raise Interrupted

    def write() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        written.append(felt.wait(20))

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(Interrupted):
            undisturbed(write)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert written == [True]
    assert undisturbed(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        undisturbed(lambda: 1 // 0)


def test_runs_started_in_the_same_instant_have_capsules_of_their_own(tmp_path: Path) -> None:
    def one(_: int) -> Path:
        with Capsule.create(tmp_path, SPEC) as capsule:
            return capsule.path

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(one, range(16)))
    assert len(set(paths)) == 16
    assert all(path.name.startswith("de-blur-1_") and kinds(path)[-1] == "RUN_FINISHED" for path in paths)


def test_a_capsule_has_one_writer(tmp_path: Path) -> None:
    with Capsule.create(tmp_path, SPEC) as capsule:
        capsule.checkpoint({"state": {}}, iteration=1)
        found = resume_state(capsule.path)["checkpoint"]
        with pytest.raises(CapsuleLocked, match=f"process {os.getpid()}"):
            Capsule.resume(capsule.path, found)


WRITER = """
import sys, numpy as np
from bridge_adapter.kernels.flow.recorder import streams
from bridge_adapter.kernels.flow.recorder.capsule import Capsule
from bridge_adapter.kernels.flow.recorder.sampling import Sampling
streams.FLUSH_AFTER = (0.002, 0.002)
spec = {"name": "killed", "dtype": "float64", "slots": {}}
with Capsule.create(sys.argv[1], spec, sampling=Sampling(first=10_000_000)) as capsule:  # every step, however fast it is
    print(capsule.path, flush=True)
    for block in range(100_000):
        at = np.arange(10 * block + 1, 10 * block + 11)
        capsule.rows({"iter": at, "E": 1.0 / at, "grad_norm": 1.0 / at, "alpha": 0.5})
        capsule.event("CERT_CHECK", {"feasible": True}, iteration=int(at[-1]))
        if block % 7 == 0:
            capsule.checkpoint({"state": {"x": at.astype(float)}, "rng_key": None}, iteration=int(at[-1]))
            print("checkpoint", flush=True)
"""


@pytest.mark.parametrize("checkpoints", [1, 4, 9])
def test_a_killed_run_is_readable_and_its_resumed_run_writes_its_end(tmp_path: Path, checkpoints: int) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        for _ in range(checkpoints):
            process.stdout.readline()
            reading.telemetry(path)  # a reader at any time, while parts appear
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    rows, told = reading.telemetry(path), reading.events(path)
    saved = resume_state(path)
    assert rows["iter"].to_pylist() == list(range(1, rows.num_rows + 1))
    assert rows.num_rows >= saved["iter"]
    assert [event["seq"] for event in told] == list(range(len(told)))
    assert "RUN_FINISHED" not in {event["event"] for event in told}
    with Capsule.resume(path, saved["checkpoint"], remaining=10) as capsule:
        assert capsule.path == path
        capsule.rows(steps(saved["iter"] + 1, 10, alpha=0.25))
        capsule.finish("converged")
    whole = reading.telemetry(path)
    assert whole["alpha"].to_pylist()[saved["iter"] : saved["iter"] + 10] == [0.25] * 10
    assert np.all(np.diff(whole["iter"].to_numpy()) == 1)
    after = reading.events(path)
    assert [event["event"] for event in after].count("RUN_FINISHED") == 1
    assert [event["seq"] for event in after] == list(range(len(after)))
    assert np.all(np.diff([event["t_wall_ms"] for event in after]) >= 0)
    assert pq.read_table(path / "events.parquet").num_rows == len(after)
    assert not list(path.rglob("*.tmp"))
    assert not (path / "telemetry").exists()


def test_a_run_that_had_ended_goes_on_in_a_capsule_of_its_own(tmp_path: Path) -> None:
    with Capsule.create(tmp_path, SPEC, {"solver": "fista"}) as old:
        old.rows(steps(1, 5))
        old.checkpoint({"state": {"x": np.zeros(3)}}, iteration=5)
        old.finish("cancelled")
    with Capsule.resume(old.path, resume_state(old.path)["checkpoint"]) as new:
        new.rows(steps(6, 5))
    assert kinds(old.path).count("RUN_FINISHED") == kinds(new.path).count("RUN_FINISHED") == 1
    told = load_run_manifest(new.path)
    assert (told["parent"]["run_id"], told["solver"], told["spec_digest"]) == (
        old.run_id,
        "fista",
        load_run_manifest(old.path)["spec_digest"],
    )


@pytest.mark.parametrize(
    ("change", "told"), [(lambda text: text[:40], "cannot be read"), (lambda text: text.replace("16", "17"), "not the spec")]
)
def test_a_run_does_not_go_on_with_another_spec_in_its_capsule(tmp_path: Path, change: Callable[[str], str], told: str) -> None:
    with Capsule.create(tmp_path, SPEC) as capsule:
        capsule.checkpoint({"state": {"x": np.zeros(3)}}, iteration=5)
    kept = capsule.path / "spec.json"
    kept.write_text(change(kept.read_text()))
    with pytest.raises(CapsuleError, match=rf"spec\.json.*{told}.*copy"):
        Capsule.resume(capsule.path, resume_state(capsule.path)["checkpoint"])
    assert list(tmp_path.iterdir()) == [capsule.path]


def test_a_run_that_was_killed_while_it_ended_has_one_end_too(tmp_path: Path) -> None:
    with Capsule.create(tmp_path, SPEC) as capsule:
        capsule.rows(steps(1, 10))
        capsule.checkpoint({"state": {"x": np.zeros(4)}}, iteration=10)
        before = (capsule.path / "manifest.toml").read_bytes()
        capsule.finish("converged", card={"passed": True})
    # Told, and not put into the manifest yet.
    (capsule.path / "manifest.toml").write_bytes(before)
    (capsule.path / "run_card.json").unlink()
    with Capsule.resume(capsule.path, resume_state(capsule.path)["checkpoint"]) as resumed:
        resumed.finish("converged")
    assert resumed.path != capsule.path and load_run_manifest(resumed.path)["parent"]["run_id"] == capsule.run_id
    assert load_run_manifest(capsule.path)["status"] == "converged" and (capsule.path / "run_card.json").exists()
    for path in (capsule.path, resumed.path):
        assert kinds(path).count("RUN_FINISHED") == 1
    assert reading.telemetry(capsule.path).num_rows == 10


def test_a_crash_between_joining_and_removing_parts_doubles_nothing(tmp_path: Path) -> None:
    with Capsule.create(tmp_path, SPEC) as capsule:
        capsule.rows(steps(1, 20))
    again = capsule.path / "telemetry"
    again.mkdir()
    (again / "part-000001.parquet").write_bytes((capsule.path / "telemetry.parquet").read_bytes())
    assert reading.telemetry(capsule.path)["iter"].to_pylist() == list(range(1, 21))


FULL = """
import resource, signal, sys, numpy as np
from bridge_adapter.kernels.flow.recorder.capsule import Capsule
from bridge_adapter.kernels.flow.recorder.errors import CapsuleFull
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spec = {"name": "full", "dtype": "float64", "slots": {}}
capsule = Capsule.create(sys.argv[1], spec)
print(capsule.path, flush=True)
try:
    with capsule:
        at = np.arange(1, 11)
        capsule.rows({"iter": at, "E": 1.0 / at, "grad_norm": 1.0 / at, "alpha": 0.5})
        capsule.checkpoint({"state": {"x": np.zeros(10)}}, iteration=10)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        capsule.checkpoint({"state": {"x": np.random.default_rng(0).random(20_000)}}, iteration=20)
except CapsuleFull as error:
    print(error, flush=True)
"""


def test_a_full_disk_stops_the_run_with_the_reason_and_the_capsule_stays_readable(tmp_path: Path) -> None:
    # A limit on the size of files fails writes as a full disk does, with EFBIG for ENOSPC.
    ran = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True)
    path, message = ran.stdout.splitlines()
    assert "no room left" in message and "resume the run from its last checkpoint" in message
    capsule = Path(path)
    assert kinds(capsule) == ["RUN_STARTED", "CHECKPOINT_CREATED", "RUN_FAILED", "RUN_FINISHED"]
    assert load_run_manifest(capsule)["status"] == "failed"
    assert reading.telemetry(capsule).num_rows == 10
    assert resume_state(capsule)["iter"] == 10
    assert not list(capsule.rglob("*.tmp"))


def test_rows_that_cannot_be_written_stop_the_run_at_its_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    capsule = Capsule.create(tmp_path, SPEC)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(CapsuleFull), capsule:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
            rng = np.random.default_rng(0)
            capsule.rows({**steps(1, 1000), "E": rng.random(1000), "gamma": rng.random(1000), "eta_dd": rng.random(1000)})
            capsule.checkpoint({"state": {}}, iteration=1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert kinds(capsule.path) == ["RUN_STARTED", "RUN_FAILED", "RUN_FINISHED"]
    assert reading.telemetry(capsule.path).num_rows == 0


def test_a_capsule_that_cannot_begin_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RecordInvalid, match="alpha of the manifest"):
        Capsule.create(tmp_path, SPEC, {"alpha": float("inf")})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(CapsuleFull):
            Capsule.create(tmp_path, SPEC)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_redacted_capsule_holds_no_array(tmp_path: Path) -> None:
    secret = np.random.default_rng(0).standard_normal(1000)
    spec = {**SPEC, "slots": {"y": {"shape": [1000], "units": None, "value": {"array": [1000], "dtype": "float64", "sha256": "f" * 64}}}}
    with pytest.raises(ValueError), Capsule.create(tmp_path, spec, {"data": secret.tolist()}, redact=True) as capsule:
        capsule.rows(steps(1, 10))
        capsule.artifact("y", secret)
        capsule.artifact("text", "name of a patient")
        capsule.artifact("few", secret[:64])
        capsule.update(units_seen=secret)
        capsule.event("TUNER_MOVE_TRY", {"move": {"values": secret}})
        capsule.log("info", "a message", values=secret.tolist())
        capsule.checkpoint({"state": {"x": secret}}, iteration=10)
        raise ValueError(f"bad value {secret[3]!r}")
    written = {path: path.read_bytes() for path in capsule.path.rglob("*") if path.is_file()}
    for path, content in written.items():
        assert secret.tobytes()[: 65 * 8] not in content, path
        assert repr(float(secret[100])).encode() not in content, path
        assert b"patient" not in content and b"f" * 64 not in content, path
    told = json.loads(written[capsule.path / "artifacts/y.json"])
    assert told["shape"] == [1000] and told["std"] == pytest.approx(secret.std()) and len(told["sha256_salted"]) == 64
    assert np.load(capsule.path / "artifacts/few.npy").size == 64
    with pytest.raises(CheckpointRefused, match="redacted"):
        resume_state(capsule.path)


def test_redacted_digests_compare_under_one_key_only(tmp_path: Path) -> None:
    def digest(key: bytes | None) -> str:
        with Capsule.create(tmp_path, SPEC, redact=True, redaction_key=key) as capsule:
            capsule.artifact("y", np.arange(100.0))
        return str(json.loads((capsule.path / "artifacts/y.json").read_text())["sha256_salted"])

    assert digest(b"one key") == digest(b"one key") != digest(b"another")
    assert digest(None) != digest(None)


def test_a_manifest_of_another_schema_version_is_refused(tmp_path: Path) -> None:
    with Capsule.create(tmp_path, SPEC) as capsule:
        pass
    file = capsule.path / "manifest.toml"
    file.write_text(file.read_text().replace('schema_version = "3"', 'schema_version = "4"'))
    with pytest.raises(CapsuleError, match="schema version '4'"):
        load_run_manifest(capsule.path)
    with pytest.raises(CapsuleError, match=r"no manifest\.toml"):
        load_run_manifest(tmp_path)


def test_a_manifest_that_lost_its_end_is_refused_and_hides_no_other_run(tmp_path: Path) -> None:
    for _ in range(2):
        with Capsule.create(tmp_path, SPEC) as capsule:
            pass
    file = capsule.path / "manifest.toml"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(CapsuleError, match=r"manifest\.toml is damaged.*needs"):
        load_run_manifest(capsule.path)
    assert len(runs(tmp_path)) == 1


def test_an_artifact_stays_in_its_folder(tmp_path: Path) -> None:
    with Capsule.create(tmp_path, SPEC) as capsule:
        for name in ("../x", "a/b", ".hidden", ""):
            with pytest.raises(RecordInvalid, match="names are letters"):
                capsule.artifact(name, b"")


def test_no_thread_outlives_a_capsule(tmp_path: Path) -> None:
    with Capsule.create(tmp_path, SPEC) as capsule:
        capsule.rows(steps(1, 5))
        assert any(thread.name == "flow-recorder" for thread in threading.enumerate())
    assert not any(thread.name == "flow-recorder" for thread in threading.enumerate())


def test_columns_carry_their_units_and_meanings() -> None:
    field: pa.Field = columns.SCHEMA.field("t_wall_ms")
    assert field.metadata == {b"unit": b"ms", b"meaning": b"since the start of the run"}
    assert not field.nullable
