"""Answers that were noted, and whose process died before they were in the journal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge_adapter.journal import ends
from bridge_adapter.journal.ends import LONGEST_ANSWER, End, Ends
from bridge_adapter.journal.records import FINISHED, STARTED, Row
from bridge_adapter.journal.store import Journal, JournalError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.journal"


def killed(code: str, path: Path) -> None:
    """Runs code with the journal `journal`, in a process that is killed at its end."""
    start = "import os, sys\nfrom pathlib import Path\nfrom bridge_adapter.journal.store import Journal\njournal = Journal(sys.argv[1])\n"
    done = subprocess.run([sys.executable, "-c", f"{start}{code}\nos.kill(os.getpid(), 9)", str(path)], check=False)
    assert done.returncode == -signal.SIGKILL


NOTED = """
journal._settle = lambda: None  # killed before
assert journal.begin("a", "digest", "form", lambda row: True) == (None, 1)
journal.finish("a", b"answer", "refs", 1)
"""


def asked(row: Row) -> bool:
    raise AssertionError(f"{row} was not seen to be finished")


def test_a_noted_answer_survives_a_kill(path: Path) -> None:
    killed(NOTED, path)
    row = Journal(path).look("a")
    assert row is not None and (row.state, row.answer, row.refs, row.attempts) == (FINISHED, b"answer", "refs", 1)
    assert ends.left(path) == {}


def test_it_is_found_by_a_process_that_has_the_journal_open(path: Path) -> None:
    journal = Journal(path)
    killed(NOTED, path)
    row = journal.look("a")
    assert row is not None and row.state == STARTED
    seen: list[Row] = []

    def decide(row: Row) -> bool:
        seen.append(row)
        return False

    row, _ = journal.begin("a", "digest", "form", decide)
    assert row is not None and (row.state, row.answer) == (FINISHED, b"answer")
    assert [row.state for row in seen] == [FINISHED]
    assert ends.left(path) == {}


def test_it_is_found_by_the_tidying(path: Path) -> None:
    journal = Journal(path)
    killed(NOTED, path)
    journal.tidy()
    row = journal.look("a")
    assert row is not None and row.state == FINISHED and ends.left(path) == {}


def test_the_answer_of_an_earlier_attempt_is_none_of_a_later_one(path: Path) -> None:
    again = 'assert journal.begin("a", "digest", "form", lambda row: True) == (None, 2)'
    killed(NOTED + again, path)
    row = Journal(path).look("a")
    assert row is not None and (row.state, row.attempts) == (STARTED, 2)


def test_what_was_written_in_part_is_left_out(path: Path) -> None:
    file = Ends(path, "somebody")
    for key in ("a", "b"):
        file.write(End(key, 1, 0.5, "", key.encode() * 10))
    size = file.path.stat().st_size
    for cut in range(size // 2, size):
        os.truncate(file.path, cut)
        assert list(ends.read(file.path)) == [End("a", 1, 0.5, "", b"a" * 10)]
    file.path.write_bytes(b"\0" * 10 + os.urandom(100))
    assert list(ends.read(file.path)) == []


def test_the_file_begins_anew_when_the_journal_has_all_of_it(path: Path) -> None:
    journal = Journal(path)
    answer = b"x" * 50_000
    for number in range(30):
        key = str(number)
        assert journal.begin(key, "digest", "form", asked) == (None, 1)
        journal.finish(key, answer, attempt=1)
        journal.look(key)
    (file,) = ends.left(path)
    assert file.stat().st_size < 1024 * 1024
    assert file.stat().st_mode & 0o777 == 0o600
    journal.close()
    assert ends.left(path) == {}


def test_large_answers_and_those_that_power_must_not_take_are_finished_at_once(path: Path) -> None:
    for key, answer, journal in (("a", b"x" * (LONGEST_ANSWER + 1), Journal(path)), ("b", b"x", Journal(path, "power"))):
        journal.begin(key, "digest", "form", asked)
        journal.finish(key, answer, attempt=1)
        row = Journal(path).look(key)
        assert row is not None and (row.state, row.answer) == (FINISHED, answer)
    assert ends.left(path) == {}


def test_a_noted_answer_that_cannot_be_finished_is_written_later(path: Path) -> None:
    journal = Journal(path)
    journal.begin("a", "digest", "form", asked)
    journal._calls.execute("PRAGMA query_only = ON")
    journal.finish("a", b"answer", attempt=1)
    with pytest.raises(JournalError):
        journal.look("a")
    with pytest.raises(JournalError):
        journal.begin("a", "digest", "form", asked)
    journal._calls.execute("PRAGMA query_only = OFF")
    row = journal.look("a")
    assert row is not None and (row.state, row.answer) == (FINISHED, b"answer")
    journal.close()
    assert ends.left(path) == {}


def test_what_was_noted_is_written_without_being_asked_for(path: Path) -> None:
    journal, other = Journal(path), Journal(path)
    journal.begin("a", "digest", "form", asked)
    journal.finish("a", b"answer", attempt=1)
    until = time.monotonic() + 20
    while (row := other.look("a")) is None or row.state == STARTED:
        assert time.monotonic() < until
        time.sleep(0.001)
    assert (row.state, row.answer) == (FINISHED, b"answer")


def test_a_call_that_ends_while_another_looks_at_its_row_is_not_taken_over(path: Path) -> None:
    journal = Journal(path)
    for key in ("first", "a"):
        journal.begin(key, "digest", "form", asked)
    journal.finish("first", b"", attempt=1)
    seen: list[int] = []

    def decide(row: Row) -> bool:
        seen.append(row.state)
        if row.state == STARTED:
            journal.finish("a", b"answer", attempt=1)  # its thread does, and then forgets that it runs
            return True
        return False

    row, attempt = journal.begin("a", "digest", "form", decide)
    assert row is not None and (row.state, row.answer, attempt) == (FINISHED, b"answer", 0)
    assert seen == [STARTED, FINISHED]


def test_a_load_without_a_pause_leaves_neither_long_files_nor_long_queues(path: Path) -> None:
    journal = Journal(path)
    journal._work.set = lambda: None  # type: ignore[method-assign]  # the thread that writes rows never comes to it
    answer, most = b"x" * 50_000, 0
    for number in range(1200):
        journal.begin(str(number), "digest", "form", asked)
        journal.finish(str(number), answer, attempt=1)
        most = max(most, len(journal._pending))
    assert most < 1000
    assert sum(file.stat().st_size for file in ends.left(path)) < 1000 * len(answer)
    assert len(os.listdir("/proc/self/fd")) < 200
    journal.close()
    assert ends.left(path) == {}
    for number in (0, 700, 1199):
        row = Journal(path).look(str(number))
        assert row is not None and (row.state, row.answer) == (FINISHED, answer)


def test_all_files_of_a_process_that_was_killed_are_read(path: Path) -> None:
    code = """
journal._settle = lambda: None
for number in range(60):
    journal.begin(str(number), "digest", "form", lambda row: True)
    journal.finish(str(number), b"x" * 50_000, attempt=1)
"""
    killed(code, path)
    assert len(ends.left(path)) > 2
    journal = Journal(path)
    rows = [journal.look(str(number)) for number in range(60)]
    assert all(row is not None and row.state == FINISHED and row.answer == b"x" * 50_000 for row in rows)
    assert ends.left(path) == {}


def test_a_file_of_a_dead_process_that_cannot_be_read_is_the_journals_error(path: Path) -> None:
    Journal(path).close()
    (path.parent / f"{path.name}.ends-0.0.1.1").mkdir()
    with pytest.raises(JournalError, match="cannot be used"):
        Journal(path)
