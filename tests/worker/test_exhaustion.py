"""What a worker does when the system gives it no more descriptors, threads or disk: clear errors, and the next call works."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eventually import eventually
from lane_client import TOKEN, Client, LaneError, Worker, payload

from bridge_adapter.codec.errors import DecodeError
from bridge_adapter.codec.segments import Outlet, Segments


def set_descriptors(client: Client, count: int) -> None:
    client.call("resource", "setrlimit", resource.RLIMIT_NOFILE, (count, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def processor_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_without_descriptors_a_worker_serves_who_is_there_and_later_who_waits() -> None:
    with Worker() as worker:
        client = worker.connect()
        client.call("resource", "getpagesize")
        set_descriptors(client, descriptors(worker.process.pid))
        waiting = [worker.socket() for _ in range(3)]
        complaint = "cannot accept a connection, and goes on trying"
        eventually(lambda: client.call("math", "sqrt", 4) == 2.0 and any(complaint in line for line in worker.output))
        before = processor_ticks(worker.process.pid)
        client.call("time", "sleep", 0.5)
        assert processor_ticks(worker.process.pid) - before < 20  # of 50 that a busy loop would use
        assert sum("cannot accept" in line for line in worker.output) == 1
        set_descriptors(client, 256)
        for late in map(Client, waiting):
            assert late.call("math", "sqrt", 9) == 3.0


def test_without_descriptors_the_first_error_of_user_code_is_told_as_it_is() -> None:
    with Worker() as worker:
        client = worker.connect()
        client.call("resource", "getpagesize")
        client.call("math", "sqrt", 4)
        set_descriptors(client, descriptors(worker.process.pid))
        with pytest.raises(LaneError, match="math domain error") as caught:
            client.call("math", "sqrt", -1)
        assert (caught.value.category, caught.value.fields["type"]) == ("python_error", "ValueError")


def test_without_threads_a_connection_is_closed_and_the_worker_goes_on() -> None:
    with Worker() as worker:
        client = worker.connect()
        client.call("threading", "stack_size", 1 << 46)
        before = descriptors(worker.process.pid)
        for _ in range(3):
            with pytest.raises((ConnectionError, OSError)):
                worker.connect()
        assert client.call("math", "sqrt", 4) == 2.0
        assert descriptors(worker.process.pid) == before
        client.call("threading", "stack_size", 0)
        assert worker.connect().call("math", "sqrt", 9) == 3.0
        assert any("cannot serve a connection: can't start new thread" in line for line in worker.output)


def test_what_needs_a_thread_says_so_and_leaves_its_session_free() -> None:
    with Worker() as worker:
        client = worker.connect()
        client.call("threading", "stack_size", 1 << 46)
        with pytest.raises(LaneError) as pinned:
            client.tool("snakebridge.call", payload("math", "sqrt", [4], session="p"), session_options={"pinned": True})
        with pytest.raises(LaneError) as stream:
            client.stream("sample", "gen", 3, session="t")
        assert pinned.value.fields["details"]["outcome"] == "not_started"
        for error in (pinned.value, stream.value):
            assert error.category == "unavailable"
            assert "the system gives this worker no more threads" in error.fields["message"]
        client.call("threading", "stack_size", 0)
        assert client.tool("snakebridge.call", payload("math", "sqrt", [4], session="p")) == 2.0
        assert client.stream("sample", "gen", 3, session="t") == [0, 1, 2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory with room for a megabyte: a file system of its own, where this user may make one."""
    directory = tmp_path / "small"
    directory.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", directory]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    yield directory
    if mounted:
        subprocess.run(["umount", "-l", directory], check=True)


def fill(client: Client, directory: Path) -> None:
    """Lets the worker write no more there."""
    if os.path.ismount(directory):
        with pytest.raises(OSError, match="No space left"):
            (directory / "filler").write_bytes(bytes(2 << 20))
    else:
        client.call("resource", "setrlimit", resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


def make_room(client: Client, directory: Path) -> None:
    (directory / "filler").unlink(missing_ok=True)
    client.call("resource", "setrlimit", resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_without_room_in_shared_memory_values_travel_over_the_socket(small_disk: Path) -> None:
    with Worker(args=("--shared", str(small_disk))) as worker:
        client = Client(worker.socket(), hello=False)
        client.request("hello", {"versions": [1], "token": TOKEN, "role": "call", "client": "test", "shared": True})
        client.unpacker.segments = Outlet(Segments(str(small_disk)))
        fill(client, small_disk)
        value = client.tool("snakebridge.call", payload("numpy", "ones", [200_000]), shared=[1 << 30, 1024, True])
        assert np.array_equal(value, np.ones(200_000))
        assert {path.name for path in small_disk.iterdir()} <= {"filler"}
        make_room(client, small_disk)
        assert client.tool("snakebridge.call", payload("numpy", "ones", [1000]), shared=[1 << 30, 1024, True]).sum() == 1000
        assert [path.name[0] for path in small_disk.iterdir()] == ["w"]


@contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_a_segment_cannot_be_opened_and_none_is_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    segments = Segments(str(tmp_path))
    (tmp_path / "a").write_bytes(b"12345678")
    with no_descriptors():
        with pytest.raises(DecodeError, match="the segment a cannot be opened: Too many open files"):
            segments.open("a", 0, 8)
        assert segments.write(b"12345678") is None
    assert bytes(segments.open("a", 0, 8)) == b"12345678"


@pytest.mark.parametrize("opened", [False, True], ids=["before its first call", "after it"])
def test_without_room_for_the_journal_calls_with_a_key_are_refused_unbegun(small_disk: Path, tmp_path: Path, opened: bool) -> None:
    runs = tmp_path / "runs"
    fields = payload("sample", "append_line", [str(runs)])

    def keyed(key: str) -> Any:
        return client.tool("snakebridge.call", fields, key=[key, "digest"])

    with Worker(args=("--journal", str(small_disk / "calls.journal"))) as worker:
        client = worker.connect()
        client.call("resource", "getpagesize")
        if opened:
            keyed("first")
        fill(client, small_disk)
        refused = 0
        for number in range(100):
            try:
                keyed(f"{number}")
            except LaneError as error:
                assert error.category == "unavailable" and error.fields["details"].get("outcome") == "not_started"
                refused += 1
        assert refused > 0
        assert len(runs.read_text().splitlines()) == 100 - refused + opened if runs.exists() else refused == 100
        assert client.call("math", "sqrt", 4) == 2.0
        make_room(client, small_disk)
        keyed("afterwards")


def test_whoever_comes_beyond_max_connections_is_told_the_figure_and_is_served_when_there_is_room() -> None:
    with Worker(env={"BRIDGE_ADAPTER_MAX_CONNECTIONS": "2"}) as worker:
        first, second = worker.connect(), worker.connect()
        with pytest.raises(LaneError, match=r"overloaded: 2 connections to this worker are open, as many as may") as refused:
            worker.connect()
        assert refused.value.fields["details"]["outcome"] == "not_started"
        with pytest.raises(LaneError, match="wrong token"):
            worker.connect(token="a guess that is as long as it should be")
        assert second.call("math", "sqrt", 16) == 4.0
        first.close()

        def again() -> Client | None:
            with suppress(LaneError):
                return worker.connect()
            return None

        third = eventually(again)
        assert third is not None
        assert third.call("math", "sqrt", 16) == 4.0


def test_a_flood_beyond_max_connections_is_closed() -> None:
    with Worker(env={"BRIDGE_ADAPTER_MAX_CONNECTIONS": "2"}) as worker:
        client = worker.connect()
        silent = [worker.socket() for _ in range(40)]
        ended = [sock for sock in silent[20:] if sock.recv(1) == b""]
        assert len(ended) == 20
        assert client.call("math", "sqrt", 16) == 4.0
        for sock in silent:
            sock.close()
