"""The journal's file: what it keeps, who else may write it, what bounds it, and what becomes of one that is damaged."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bridge_adapter import processes
from bridge_adapter.journal.records import FAILED, FINISHED, STARTED, JournalError, Row
from bridge_adapter.journal.store import Bounds, Journal


def never(_: Row) -> bool:
    return False


def always(_: Row) -> bool:
    return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "calls.journal"


def in_another_process(code: str, *arguments: str) -> int:
    """Runs code that finds a journal's path in `path`; how it ended."""
    start = "import sys\nfrom pathlib import Path\nfrom bridge_adapter.journal.store import Journal\npath = Path(sys.argv[1])\n"
    return subprocess.run([sys.executable, "-c", start + code, *arguments], check=False, timeout=60).returncode


def test_a_call_is_begun_once_and_its_answer_found_again(path: Path) -> None:
    journal = Journal(path)
    assert journal.begin("a", "digest", "packed", never) == (None, 1)
    row, attempt = journal.begin("a", "digest", "packed", never)
    assert (row is not None and row.state, attempt) == (STARTED, 0)
    journal.finish("a", b"answer", "refs")
    row, attempt = journal.begin("a", "other", "packed", never)
    assert row is not None and journal.ours(row) and attempt == 0
    assert row == Row(FINISHED, "digest", "packed", 1, row.owner, b"answer", "refs")
    assert journal.look("b") is None
    journal.close()


def test_what_is_taken_over_is_one_more_attempt(path: Path) -> None:
    journal = Journal(path)
    journal.begin("a", "", "", never)
    journal.fail("a", b"why")
    found = journal.look("a")
    assert found is not None and (found.state, found.answer) == (FAILED, b"why")
    assert journal.begin("a", "", "", always) == (None, 2)
    assert journal.begin("a", "", "", always) == (None, 3)
    journal.close()


def test_only_who_began_a_call_may_end_it(path: Path) -> None:
    slow, fast = Journal(path, owner="slow"), Journal(path, owner="fast")
    slow.begin("a", "", "", never)
    fast.begin("a", "", "", always)
    slow.finish("a", b"late")
    found = fast.look("a")
    assert found is not None and found.state == STARTED
    fast.finish("a", b"right")
    slow.finish("a", b"later")
    found = slow.look("a")
    assert found is not None and found.answer == b"right"
    slow.close()
    fast.close()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_what_was_finished_survives_a_kill(path: Path, durability: str) -> None:
    code = f"""
import os
journal = Journal(path, {durability!r})
for n in range(100):
    journal.begin(f"done {{n}}", "", "", bool)
    journal.finish(f"done {{n}}", b"x" * n)
journal.begin("begun", "", "", bool)
os.kill(os.getpid(), 9)
"""
    assert in_another_process(code, str(path)) == -signal.SIGKILL
    journal = Journal(path)
    rows = [journal.look(f"done {n}") for n in range(100)]
    assert [row and row.answer for row in rows] == [b"x" * n for n in range(100)]
    begun = journal.look("begun")
    assert begun is not None and begun.state == STARTED and not processes.lives(begun.owner)
    journal.close()


def test_of_several_processes_one_begins_a_key(path: Path, tmp_path: Path) -> None:
    code = """
journal = Journal(path)
begun = [n for n in range(300) if journal.begin(str(n), "", "", lambda row: False)[0] is None]
Path(sys.argv[2]).write_text(repr(begun))
journal.close()
"""
    start = "import sys\nfrom pathlib import Path\nfrom bridge_adapter.journal.store import Journal\npath = Path(sys.argv[1])\n"
    outputs = [tmp_path / f"begun {number}" for number in range(4)]
    running = [subprocess.Popen([sys.executable, "-c", start + code, str(path), str(output)]) for output in outputs]
    assert [process.wait(60) for process in running] == [0] * 4
    begun = [number for output in outputs for number in json.loads(output.read_text())]
    assert sorted(begun) == list(range(300))


def test_an_answer_that_is_too_large_is_not_kept_but_that_it_came_is(path: Path) -> None:
    journal = Journal(path, bounds=Bounds(answer=10))
    journal.begin("a", "", "", never)
    journal.finish("a", b"x" * 11)
    found = journal.look("a")
    assert found is not None and (found.state, found.answer) == (FINISHED, None)
    journal.close()


# --- bounds ---


def filled(path: Path, count: int, size: int = 0, **bounds: Any) -> Journal:
    journal = Journal(path, bounds=Bounds(**bounds))
    for number in range(count):
        journal.begin(f"{number:04}", "", "", never)
        if number % 10:
            journal.finish(f"{number:04}", b"x" * size)
    return journal


def keys(path: Path) -> list[str]:
    calls = sqlite3.connect(path)
    found = [key for (key,) in calls.execute("SELECT key FROM calls ORDER BY key")]
    calls.close()
    return found


def test_what_has_expired_is_forgotten(path: Path) -> None:
    dead = Journal(path, bounds=Bounds(seconds=-1), owner="a process that is gone")
    dead.begin("begun by a dead one", "", "", never)
    journal = filled(path, 120, seconds=-1)
    assert journal.look("0001") is None
    journal.bounds = Bounds()
    journal.begin("new", "", "", never)
    journal.tidy()
    # What runs is not forgotten, however long it takes.
    assert keys(path) == [*(f"{number:04}" for number in range(0, 120, 10)), "new"]
    assert journal.begin("0001", "", "", never) == (None, 1)
    dead.close()
    journal.close()


def test_an_end_that_could_not_be_written_is_written_later(path: Path) -> None:
    journal, other = Journal(path), Journal(path, owner=f"{processes.token()}")
    for key in ("a", "b"):
        journal.begin(key, "", "", never)
    journal._calls.execute("PRAGMA query_only = ON")
    for key in ("a", "b"):
        with pytest.raises(JournalError, match="cannot be used"):
            journal.finish(key, b"lost")
    journal._calls.execute("PRAGMA query_only = OFF")
    assert journal.begin("b", "", "", always) == (None, 2)
    journal._settle()
    assert [row and row.state for row in (other.look("a"), other.look("b"))] == [FINISHED, STARTED]
    journal.close()
    other.close()


def test_of_too_many_rows_the_oldest_go_and_none_that_runs(path: Path) -> None:
    journal = filled(path, 400, rows=200)
    journal.tidy()
    left = keys(path)
    assert 100 <= len(left) <= 200
    assert left[-100:] == [f"{number:04}" for number in range(300, 400)]
    assert {f"{number:04}" for number in range(0, 400, 10)} <= set(left)
    journal.close()


def test_of_too_many_bytes_the_oldest_go(path: Path) -> None:
    journal = filled(path, 300, size=10_000, bytes=1_500_000)
    journal.tidy()
    left = keys(path)
    assert 50 <= len(left) <= 190
    assert left[-50:] == [f"{number:04}" for number in range(250, 300)]
    journal.close()


def test_the_log_is_written_back_and_does_not_grow_for_ever(path: Path) -> None:
    journal = filled(path, 10)
    log = Path(f"{path}-wal")
    for number in range(20):
        for again in range(40):
            journal.begin(f"{number} {again}", "", "", never)
            journal.finish(f"{number} {again}", b"x" * 100_000)
        journal.tidy()
    # 80 MB were written; 16 it may have before its beginning is used again, and what was written until that was seen.
    assert log.stat().st_size < 40_000_000
    assert path.stat().st_size > 70_000_000
    journal.close()
    assert not log.exists()


# --- files that are not as they should be ---


def damage(path: Path, kind: str) -> None:
    match kind:
        case "no database":
            path.write_bytes(b"this is no database" * 100)
        case "a damaged page":
            size = path.stat().st_size
            with open(path, "r+b") as file:
                file.seek(1024)
                file.write(os.urandom(size - 1024))
        case "half of it":
            os.truncate(path, path.stat().st_size // 2 + 100)


@pytest.mark.parametrize("kind", ["no database", "a damaged page", "half of it"])
def test_a_damaged_file_is_set_aside_and_kept(path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    filled(path, 50, size=1000).close()
    damage(path, kind)
    before = path.read_bytes()
    journal = Journal(path)
    assert journal.begin("a", "", "", never) == (None, 1)
    journal.close()
    aside = Path(f"{path}.damaged-1")
    assert aside.read_bytes() == before
    assert "is damaged" in caplog.text and str(aside) in caplog.text
    # And again: the first is not written over.
    path.write_bytes(b"no database either")
    Journal(path).close()
    assert aside.read_bytes() == before and Path(f"{path}.damaged-2").read_bytes() == b"no database either"


def test_a_file_that_is_damaged_while_it_is_open_is_set_aside_as_well(path: Path) -> None:
    filled(path, 50, size=1000).close()
    journal = Journal(path)
    damage(path, "no database")
    for number in range(200):
        assert journal.begin(f"later {number}", "", "", never) == (None, 1)
    journal.close()
    assert Path(f"{path}.damaged-1").exists()


@pytest.mark.parametrize("removed", [True, False])
def test_who_has_the_old_file_open_follows_to_the_new_one(path: Path, removed: bool) -> None:
    first = Journal(path)
    first.begin("before", "", "", never)
    if removed:
        path.unlink()
    else:
        path.rename(path.parent / "elsewhere")
    second = None if removed else Journal(path)
    first._follow()
    first.begin("a", "", "", never)
    second = second or Journal(path)
    row, _ = second.begin("a", "", "", never)
    assert row is not None and row.state == STARTED
    assert path.stat().st_mode & 0o777 == 0o600
    first.close()
    second.close()


def test_an_empty_file_is_none_yet(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()
    journal = Journal(path)
    assert journal.begin("a", "", "", never) == (None, 1)
    journal.close()
    assert not Path(f"{path}.damaged-1").exists()


def test_a_file_of_a_newer_version_and_one_of_somebody_else_are_left_as_they_are(path: Path) -> None:
    Journal(path).close()
    calls = sqlite3.connect(path)
    calls.execute("PRAGMA user_version = 99")
    calls.close()
    with pytest.raises(JournalError, match="made by a newer bridge-adapter"):
        Journal(path)
    for number, script in enumerate(["CREATE TABLE mine (x)", "CREATE TABLE mine (x); PRAGMA user_version = 1;"]):
        left_alone(path.parent / f"other {number}.sqlite3", script)
    assert sorted(path.parent.glob("*.damaged*")) == []


def left_alone(other: Path, script: str) -> None:
    calls = sqlite3.connect(other)
    calls.executescript(script)
    calls.close()
    before = other.read_bytes()
    with pytest.raises(JournalError, match="not a journal"):
        Journal(other)
    assert other.read_bytes() == before


def test_a_place_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=r"the journal .*file/calls.journal cannot be used: .*name another file"):
        Journal(tmp_path / "file" / "calls.journal")


def test_only_its_user_may_read_it(path: Path) -> None:
    journal = Journal(path)
    journal.begin("a", "", "", never)
    modes = {entry.name: entry.stat().st_mode & 0o777 for entry in path.parent.iterdir()}
    assert modes == dict.fromkeys(["calls.journal", "calls.journal-wal", "calls.journal-shm", "calls.journal.lock"], 0o600)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    journal.close()


def test_a_process_is_not_taken_for_dead_by_one_that_may_open_no_files() -> None:
    code = """
import os, resource, sys
from bridge_adapter import processes
processes.token()
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, 4096))
sys.exit(0 if processes.lives(sys.argv[1]) and not processes.lives(sys.argv[2]) else 1)
"""
    boot, space, _, start = processes.token().split(".")
    gone = f"{boot}.{space}.{2**22 + 1}.{start}"
    assert subprocess.run([sys.executable, "-c", code, processes.token(), gone], check=False).returncode == 0


def test_a_process_is_told_from_the_next_one_of_its_pid() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    token = processes.token(child.pid)
    assert processes.lives(token) and processes.lives(processes.token())
    boot, space, pid, start = token.split(".")
    assert not processes.lives(f"{boot}.{space}.{pid}.{int(start) + 1}")
    assert not processes.lives(f"other.{space}.{pid}.{start}")
    assert processes.lives(f"{boot}.{int(space, 16) + 1:x}.{pid}.{start}")  # of another container: not to be seen
    child.kill()
    child.wait()
    assert not processes.lives(token)
    assert not processes.lives("nonsense")


def test_the_death_of_a_process_in_another_pid_namespace_is_seen(path: Path) -> None:
    code = """
from bridge_adapter.journal import marks
Journal(path).close()
boot, _, rest = marks.owner(path.with_name(path.name + ".lock")).split(".", 2)
Journal(path, owner=f"{boot}.1.{rest}").begin("a", "digest", "packed", lambda row: False)
print("begun", flush=True)
sys.stdin.read()
"""
    start = "import sys\nfrom pathlib import Path\nfrom bridge_adapter.journal.store import Journal\npath = Path(sys.argv[1])\n"
    with subprocess.Popen(
        [sys.executable, "-c", start + code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "begun\n"
        journal = Journal(path)
        row = journal.look("a")
        assert row is not None and journal.lives(row) and not journal.ours(row)
        other.kill()
        other.wait()
    assert not journal.lives(row)


def test_a_journal_behind_a_link_keeps_its_log_beside_the_file(path: Path, tmp_path: Path) -> None:
    Journal(path).close()
    link = tmp_path / "link.journal"
    link.symlink_to(path)
    journal = Journal(link)
    journal.begin("a", "digest", "packed", never)
    assert Path(f"{path}-wal").stat().st_size > 0 and journal.path == path
