"""What a capsule is worth when the power, the process or the disk goes at its worst moment: nothing is told of before it is there."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge_adapter.kernels.flow.recorder import Last, manifest, reading, streams
from bridge_adapter.kernels.flow.recorder import capsule as capsules
from bridge_adapter.kernels.flow.recorder.capsule import Capsule, resume_state
from bridge_adapter.kernels.flow.recorder.errors import CapsuleError, CapsuleFull
from bridge_adapter.kernels.flow.recorder.manifest import load_run_manifest
from bridge_adapter.kernels.flow.recorder.streams import Stream

ROOT = Path(__file__).parent.parent.parent
SPEC: dict[str, Any] = {"name": "short", "dtype": "float64", "slots": {"x": {"shape": [4]}}, "terms": []}


def steps(first: int, count: int) -> dict[str, Any]:
    return {"iter": np.arange(first, first + count), "E": np.random.default_rng(first).random(count), "grad_norm": 1.0, "alpha": 0.5}


def finished(base: Path) -> Capsule:
    with Capsule.create(base, SPEC) as capsule:
        capsule.update(alpha=0.5)
        capsule.rows(steps(1, 10))
        capsule.artifact("x.after", np.ones(100))
        capsule.finish(
            "converged", last=Last({"state": {"x": np.zeros(4)}}), fields={"solver": "fista"}, iterations=10, card={"passed": True}
        )
    return capsule


def kinds(capsule: Path) -> list[str]:
    return [event["event"] for event in reading.events(capsule)]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """What is put on the disk, in its order: ("sync", file or folder) and ("rename", its new name)."""
    seen: list[tuple[str, Path]] = []
    sync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        sync(handle)
        seen.append(("sync", Path(os.readlink(f"/proc/self/fd/{handle}"))))

    def renamed(source: Any, target: Any) -> None:
        replace(source, target)
        seen.extend((("rename", Path(target)), ("from", Path(source))))  # together: two threads write

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    return seen


def test_the_manifest_tells_of_an_end_that_is_on_the_disk_as_a_whole(tmp_path: Path, disk: list[tuple[str, Path]]) -> None:
    path = finished(tmp_path).path
    disk = [done for done in disk if path in (done[1], *done[1].parents)]
    end = max(at for at, done in enumerate(disk) if done == ("rename", path / "manifest.toml"))
    told = [Path("spec.json"), Path("telemetry.parquet"), Path("events.parquet"), Path("run_card.json"), Path("artifacts/x.after.npy")]
    told.append(Path(load_run_manifest(path)["latest_checkpoint"]["file"]))
    for name in told:
        at = disk.index(("rename", path / name))
        assert ("sync", disk[at + 1][1]) in disk[:at], f"{name} has its name before its content"
        assert ("sync", (path / name).parent) in disk[at:end], f"the name of {name} may be lost"
    rows, saved = disk.index(("rename", path / "telemetry.parquet")), disk.index(("rename", path / told[-1]))
    assert ("sync", path) in disk[rows:saved], "a checkpoint may outlive the rows before it"
    assert sum(kind == "sync" for kind, _ in disk) == 15  # 13 without the artifact


def test_a_run_that_was_killed_before_its_manifest_told_its_end_has_all_of_it(tmp_path: Path, disk: list[tuple[str, Path]]) -> None:
    capsule = finished(tmp_path)
    ended = load_run_manifest(capsule.path)
    lost = {**ended, "status": "running"}
    manifest.save(capsule.path, {name: lost[name] for name in lost if name not in ("outcome", "ended_at", "latest_checkpoint")})
    with Capsule.resume(capsule.path, resume_state(capsule.path)["checkpoint"]) as resumed:
        resumed.finish("converged")
    again = load_run_manifest(capsule.path)
    assert resumed.path != capsule.path
    assert (again["status"], again["outcome"], again["latest_checkpoint"]) == ("converged", ended["outcome"], ended["latest_checkpoint"])
    assert again["outcome"]["card"] == {"passed": True}


KILLED = """
import itertools, os, signal, sys, numpy as np
from bridge_adapter.kernels.flow.recorder import Last
from bridge_adapter.kernels.flow.recorder.capsule import Capsule

def killed_at(act, call):
    def made(*arguments):
        if next(acts) == act:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)
    return made

def steps(first, count):
    return {"iter": np.arange(first, first + count), "E": np.ones(count), "grad_norm": 1.0, "alpha": 0.5}

acts = itertools.count(1)  # of two threads
os.fsync = lambda handle: None  # what is written survives its process
for last in range(1, 100):
    child = os.fork()
    if not child:
        with Capsule.create(sys.argv[1], {"name": "killed", "dtype": "float64", "slots": {}}) as capsule:
            capsule.rows(steps(1, 10))
            capsule.checkpoint({"state": {"x": np.zeros(4)}}, iteration=10)
            capsule.rows(steps(11, 10))
            print(capsule.path, flush=True)
            os.fsync, os.replace = killed_at(last, os.fsync), killed_at(last, os.replace)
            capsule.picture("x.after", np.ones((16, 16)))
            capsule.finish("converged", last=Last({"state": {"x": np.ones(4)}}), iterations=20, card={"passed": True})
        os._exit(0)
    if not os.waitpid(child, 0)[1]:
        break
"""


def test_a_run_that_is_killed_at_any_moment_of_its_end_comes_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    ran = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True)
    paths = [Path(line) for line in ran.stdout.split()]
    assert len(paths) > 14
    for path in paths:
        done, saved = reading.telemetry(path).num_rows, resume_state(path)
        assert done >= saved["iter"] and done in (10, 20)
        for picture in path.rglob("x.after.npy"):
            np.testing.assert_array_equal(np.load(picture), np.ones((16, 16)))
        with Capsule.resume(path, saved["checkpoint"]) as resumed:
            if resumed.path == path and saved["iter"] < 20:
                resumed.rows(steps(saved["iter"] + 1, 20 - saved["iter"]))
            resumed.finish("converged")
        told = load_run_manifest(path)
        assert (told["status"], kinds(path).count("RUN_FINISHED")) == ("converged", 1)
        assert reading.telemetry(path)["iter"].to_pylist() == list(range(1, 21))
        pointer = told["latest_checkpoint"]
        assert hashlib.sha256((path / pointer["file"]).read_bytes()).hexdigest() == pointer["sha256"]
        assert pointer["iter"] == saved["iter"] and not list(path.rglob("*.tmp"))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A limit on the size of files fails writes as a full disk does, with EFBIG for ENOSPC."""
    before, old = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


def test_rows_that_cannot_be_joined_stay_and_the_run_has_one_end(tmp_path: Path) -> None:
    with pytest.raises(CapsuleFull), Capsule.create(tmp_path, SPEC) as capsule:
        capsule.rows(steps(1, 1000))
        capsule.checkpoint({"state": {"x": np.zeros(4)}}, iteration=1000)
        with files_of_at_most(12_000):
            capsule.rows(steps(1001, 10))
            capsule.finish("converged")
    assert reading.telemetry(capsule.path)["iter"].to_pylist() == [*range(1, 1001), 1010]  # every tenth and the last, after a thousand
    assert kinds(capsule.path).count("RUN_FINISHED") == 1
    assert load_run_manifest(capsule.path)["status"] == "failed"


def test_a_run_whose_tables_find_no_room_as_a_whole_has_its_end_all_the_same(tmp_path: Path) -> None:
    """On a full disk there is no room for a second copy of all rows."""
    rng = np.random.default_rng(0)
    capsule = Capsule.create(tmp_path, SPEC)
    with files_of_at_most(40_000), pytest.raises(CapsuleFull) as raised, capsule:
        for first in range(1, 2000, 100):
            noise = {name: rng.random(100) for name in ("E", "gamma", "eta_dd", "prox_residual")}
            capsule.rows({**steps(first, 100), **noise})
            capsule.checkpoint({"state": {"x": np.zeros(4)}}, iteration=first + 99)
        capsule.checkpoint({"state": {"x": rng.random(20_000)}}, iteration=2000)
    assert not getattr(raised.value, "__notes__", [])
    told = load_run_manifest(capsule.path)
    assert (told["status"], told["outcome"]["total_iterations"]) == ("failed", 2000)
    assert kinds(capsule.path)[-2:] == ["RUN_FAILED", "RUN_FINISHED"] and kinds(capsule.path).count("RUN_FINISHED") == 1
    assert sorted((capsule.path / "telemetry").glob("part-*.parquet")) and not (capsule.path / "telemetry.parquet").exists()
    assert reading.telemetry(capsule.path)["iter"].to_pylist() == [*range(1, 1001), *range(1010, 2001, 10)]
    assert resume_state(capsule.path)["iter"] == 2000
    assert not list(capsule.path.rglob("*.tmp"))


def test_the_last_checkpoint_is_written_beside_the_rows_and_counts_after_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = Stream.join
    seen: list[tuple[int, int]] = []

    def slowly(stream: Stream, tables: Any) -> None:
        if stream.name == "telemetry" and not seen:  # it is joined once more at the very end
            until = time.monotonic() + 60
            while not (drafts := list(tmp_path.rglob(".ckpt-*.tmp"))) and time.monotonic() < until:
                time.sleep(0.001)
            seen.append((len(drafts), len(list(tmp_path.rglob("ckpt-*.npz")))))
        joined(stream, tables)

    monkeypatch.setattr(Stream, "join", slowly)
    capsule = finished(tmp_path)
    assert seen == [(1, 0)]
    assert resume_state(capsule.path)["iter"] == 10


def test_rows_without_room_leave_no_checkpoint_that_is_ahead_of_them(tmp_path: Path) -> None:
    with pytest.raises(CapsuleFull), Capsule.create(tmp_path, SPEC) as capsule:
        rng = np.random.default_rng(0)
        capsule.rows({**steps(1, 1000), **{name: rng.random(1000) for name in ("E", "gamma", "eta_dd")}})
        with files_of_at_most(20_000):
            capsule.finish("converged", last=Last({"state": {"x": np.zeros(4)}}), iterations=1000)
    assert not list(tmp_path.rglob("ckpt-*.npz")) and not list(tmp_path.rglob("*.tmp"))
    assert kinds(capsule.path)[-2:] == ["RUN_FAILED", "RUN_FINISHED"]


def test_a_picture_is_there_at_the_end_or_ends_the_run(tmp_path: Path) -> None:
    with Capsule.create(tmp_path, SPEC) as capsule:
        capsule.picture("x.before", np.arange(6.0))
        capsule.finish("converged")
    np.testing.assert_array_equal(np.load(capsule.path / "artifacts" / "x.before.npy"), np.arange(6.0))
    with pytest.raises(CapsuleFull), Capsule.create(tmp_path, SPEC) as full, files_of_at_most(20_000):
        full.rows(steps(1, 10))
        full.picture("x.before", np.zeros(10_000))
        full.finish("converged")
    assert load_run_manifest(full.path)["status"] == "failed"
    assert reading.telemetry(full.path).num_rows == 10
    assert not list(full.path.rglob("*.tmp")) and not list(full.path.rglob("x.before*"))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Files as a whole find no room, once it is open; pictures are among them."""
    opened, kept = threading.Event(), streams.replace_bytes

    def full(path: Path, content: bytes) -> None:
        assert opened.wait(60)
        if path.parent.name == "artifacts":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        kept(path, content)

    monkeypatch.setattr(streams, "replace_bytes", full)
    yield opened
    opened.set()


def test_a_picture_without_room_takes_no_rows_along(tmp_path: Path, gate: threading.Event) -> None:
    with pytest.raises(CapsuleFull), Capsule.create(tmp_path, SPEC) as capsule:
        capsule.rows(steps(1, 10))
        capsule.picture("x.before", np.zeros(100))
        capsule.rows(steps(11, 10))
        time.sleep(2 * streams.FLUSH_AFTER[0])  # these are due now, and found behind the picture
        capsule.rows(steps(21, 10))
        gate.set()
        capsule.finish("converged")
    assert reading.telemetry(capsule.path)["iter"].to_pylist() == list(range(1, 31))
    assert kinds(capsule.path)[-2:] == ["RUN_FAILED", "RUN_FINISHED"]


def test_a_picture_without_room_while_a_run_fails_hides_neither_its_error_nor_its_rows(tmp_path: Path, gate: threading.Event) -> None:
    with pytest.raises(ValueError, match="of the user"), Capsule.create(tmp_path, SPEC) as capsule:
        capsule.picture("x.before", np.zeros(100))
        capsule.rows(steps(1, 10))
        threading.Timer(0.2, gate.set).start()
        raise ValueError("of the user")
    assert reading.telemetry(capsule.path).num_rows == 10
    assert kinds(capsule.path)[-2:] == ["RUN_FAILED", "RUN_FINISHED"] and load_run_manifest(capsule.path)["status"] == "failed"


def test_pictures_do_not_take_the_space_that_is_held_back_for_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, reserved = streams.replace_bytes, []

    def slowly(path: Path, content: bytes) -> None:
        time.sleep(0.1)
        reserved.append((path.parent.parent / ".reserve").exists())
        kept(path, content)

    monkeypatch.setattr(streams, "replace_bytes", slowly)
    with pytest.raises(ValueError), Capsule.create(tmp_path, SPEC) as capsule:
        capsule.picture("x.before", np.zeros(100))
        capsule.picture("y.before", np.zeros(100))
        raise ValueError
    assert reserved == [True, True]
    assert len(list(capsule.path.rglob("*.before.npy"))) == 2 and not (capsule.path / ".reserve").exists()


def test_what_is_kept_later_under_a_name_is_what_stays(tmp_path: Path) -> None:
    with Capsule.create(tmp_path, SPEC) as capsule:
        capsule.picture("x.after", np.zeros(100_000))
        capsule.artifact("x.after", np.ones(3))
        np.testing.assert_array_equal(np.load(capsule.path / "artifacts" / "x.after.npy"), np.ones(3))


@pytest.mark.parametrize("where", ["picture", "rows"])
def test_memory_that_runs_out_in_the_writer_ends_the_run_as_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def failing(*given: Any) -> Any:
        monkeypatch.undo()
        raise MemoryError("no more")

    with pytest.raises(CapsuleError, match="MemoryError: no more") as raised, Capsule.create(tmp_path, SPEC) as capsule:
        capsule.rows(steps(1, 10))
        if where == "picture":
            monkeypatch.setattr(streams, "replace_bytes", failing)
            capsule.picture("x.before", np.zeros(100))
        else:
            monkeypatch.setattr(Stream, "write", failing)
            capsule.checkpoint({"state": {"x": np.zeros(4)}}, iteration=10)
    assert isinstance(raised.value.__cause__, MemoryError)
    assert load_run_manifest(capsule.path)["status"] == "failed" and kinds(capsule.path)[-1] == "RUN_FINISHED"
    assert reading.telemetry(capsule.path).num_rows == 10


def test_a_picture_of_many_bytes_is_not_held_while_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capsules, "_MOST_WAITING", 1000)
    with Capsule.create(tmp_path, SPEC) as capsule:
        capsule.picture("x.before", np.zeros(1000))
        assert list(capsule.path.rglob("x.before.npy"))
