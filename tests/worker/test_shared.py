"""Shared memory over the lane: who gets segments, and what becomes of those that nobody takes over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eventually import eventually
from lane_client import TOKEN, Client, LaneError, Worker, payload

from bridge_adapter.codec.marks import MARKS, NDARRAY, SEGMENT
from bridge_adapter.codec.segments import Outlet, Segments

ROOM = 1 << 30
ASKED = [ROOM, 1024, True]
PASSED = [ROOM, 1024, False]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shared")
    path.chmod(0o700)
    return path


@pytest.fixture(scope="module")
def worker(directory: Path) -> Iterator[Worker]:
    with Worker(args=("--shared", str(directory))) as running:
        yield running


def connect(worker: Worker, directory: Path, role: str = "call") -> Client:
    client = Client(worker.socket(), hello=False)
    answer = client.request("hello", {"versions": [1], "token": TOKEN, "role": role, "client": "test", "shared": True})
    assert "shared" in answer["features"]
    client.conn = answer["conn"]
    client.unpacker.segments = Outlet(Segments(str(directory)))
    return client


@pytest.fixture
def sharing(worker: Worker, directory: Path) -> Iterator[Client]:
    client = connect(worker, directory)
    yield client
    client.close()
    for path in directory.iterdir():
        path.unlink()


def call(client: Client, module: str, function: str, *args: Any, **params: Any) -> Any:
    return client.tool("snakebridge.call", payload(module, function, args), **params)


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def put(directory: Path, name: str, array: Any) -> Any:
    """A segment of ours, as it travels."""
    (directory / name).write_bytes(array.tobytes())
    return [MARKS[SEGMENT], name, 0, array.nbytes]


def array(directory: Path, name: str, count: int = 1000) -> Any:
    return [MARKS[NDARRAY], "float64", [count], put(directory, name, np.arange(float(count)))]


def test_a_result_comes_by_segment_where_it_was_asked_for(sharing: Client, directory: Path) -> None:
    value = call(sharing, "numpy", "arange", 1000.0, shared=ASKED)
    assert value.sum() == 499500.0
    (name,) = names(directory)
    assert name.startswith("w")
    assert not value.flags.writeable


def test_a_result_comes_by_segment_where_segments_were_passed(sharing: Client, directory: Path) -> None:
    assert call(sharing, "numpy", "negative", array(directory, "s1"), shared=PASSED)[3] == -3.0
    assert len(names(directory)) == 2
    assert call(sharing, "numpy", "arange", 1000.0, shared=PASSED)[3] == 3.0
    assert names(directory) == ["s1"]


def test_what_is_passed_through_is_answered_by_its_segment(sharing: Client, directory: Path) -> None:
    passed = array(directory, "s1", 3)
    assert sharing.unpacker.segments is not None
    ours = np.frombuffer(sharing.unpacker.segments.open("s1", 0, 24))
    value = call(sharing, "sample", "identity", passed, shared=PASSED)
    assert value.tolist() == [0.0, 1.0, 2.0]
    # One mapping on this side: the answer named the segment.
    assert np.shares_memory(ours, value)
    assert names(directory) == ["s1"]


def test_without_the_wish_everything_stays_in_the_message(sharing: Client, directory: Path) -> None:
    assert call(sharing, "sample", "identity", array(directory, "s1")).sum() == 499500.0
    assert names(directory) == ["s1"]


def test_what_nobody_takes_over_is_gone_at_the_next_request(sharing: Client, directory: Path) -> None:
    call(sharing, "numpy", "arange", 1000.0, shared=ASKED)
    (first,) = names(directory)
    (directory / first).rename(directory / "s7")
    assert call(sharing, "numpy", "arange", 1000.0, shared=ASKED).sum() == 499500.0
    assert "s7" in names(directory)
    assert call(sharing, "math", "sqrt", 4) == 2.0
    assert names(directory) == ["s7"]


def test_what_nobody_takes_over_is_gone_with_the_connection(sharing: Client, worker: Worker, directory: Path) -> None:
    other = connect(worker, directory)
    call(other, "numpy", "arange", 1000.0, shared=ASKED)
    assert len(names(directory)) == 1
    other.close()
    # Its thread ends some time after.
    eventually(lambda: call(sharing, "math", "sqrt", 4) and names(directory), lambda left: left == [])


def test_an_answer_that_cannot_be_sent_leaves_no_segment(sharing: Client, directory: Path) -> None:
    with pytest.raises(LaneError, match="cycle"):
        call(sharing, "sample", "array_and_cycle", shared=ASKED)
    call(sharing, "math", "sqrt", 4)
    assert names(directory) == []


def test_streams_and_callbacks_carry_arrays_themselves(sharing: Client, directory: Path) -> None:
    received: list[Any] = []
    function = sharing.function("f", 1, lambda value: received.append(value) or value)
    result = call(sharing, "sample", "apply", function, array(directory, "s1"), shared=PASSED)
    assert result.sum() == received[0].sum() == 499500.0
    items = sharing.stream("sample", "identity", [array(directory, "s2")])
    assert items[0].sum() == 499500.0
    call(sharing, "math", "sqrt", 4)
    assert names(directory) == ["s1", "s2"]


def test_a_client_that_did_not_say_so_gets_and_names_no_segments(worker: Worker, directory: Path) -> None:
    client = worker.connect()
    assert call(client, "numpy", "arange", 1000.0, shared=ASKED).flags.writeable
    assert names(directory) == []
    with pytest.raises(LaneError, match="decode_error"):
        call(client, "sample", "identity", array(directory, "s1"))
    client.close()
    (directory / "s1").unlink()


@pytest.mark.parametrize("wish", [True, [1], [1, 2], ["1", 2, True], [1, 2, 3]])
def test_another_wish_is_refused(sharing: Client, wish: Any) -> None:
    with pytest.raises(LaneError, match="shared must be"):
        call(sharing, "math", "sqrt", 4, shared=wish)


def test_a_segment_that_is_gone_is_an_error_of_that_call_alone(sharing: Client, directory: Path) -> None:
    gone = array(directory, "s1")
    (directory / "s1").unlink()
    with pytest.raises(LaneError, match="is no longer there"):
        call(sharing, "sample", "identity", gone)
    assert call(sharing, "math", "sqrt", 4) == 2.0


def test_a_kept_view_outlives_its_segment(sharing: Client, directory: Path) -> None:
    call(sharing, "sample", "keep", array(directory, "s1"))
    (directory / "s1").unlink()
    kept = call(sharing, "sample", "kept_value", shared=ASKED)
    assert kept.sum() == 499500.0
    assert call(sharing, "sample", "kept_value").sum() == 499500.0


def test_a_segment_is_recycled_when_python_holds_no_view_of_it(sharing: Client, worker: Worker, directory: Path) -> None:
    control = connect(worker, directory, "control")
    call(sharing, "sample", "keep", array(directory, "s1"))
    assert control.request("recycle", ["s1", "s2"]) is False
    call(sharing, "sample", "drop_kept")
    # The thread of the call lets its arguments go after it has answered; a ping is served after that.
    sharing.request("ping", None)
    assert control.request("recycle", ["s2", "s3"]) is True
    assert control.request("recycle", ["../s3", "s4"]) is False
    assert names(directory) == ["s3"]
    with pytest.raises(LaneError, match="no method"):
        sharing.request("recycle", ["s3", "s4"])
    control.close()


def test_a_directory_that_is_not_private_stops_the_start(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(RuntimeError, match="mode 0700"), Worker(args=("--shared", str(tmp_path))):
        pass


def test_without_a_directory_nothing_is_shared() -> None:
    with Worker() as plain:
        client = Client(plain.socket(), hello=False)
        answer = client.request("hello", {"versions": [1], "token": TOKEN, "role": "call", "client": "test", "shared": True})
        assert "shared" not in answer["features"]
        assert call(client, "numpy", "arange", 1000.0, shared=ASKED).sum() == 499500.0
        client.close()
