"""How much memory a worker and its sessions may hold, what is refused beyond that, and how room is made again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lane_client import Client, LaneError, Worker, payload

from bridge_adapter import memory
from bridge_adapter.cgroups import MemoryGroup
from bridge_adapter.codec import Ref
from bridge_adapter.config import ConfigError, load
from bridge_adapter.sizes import size_of

MIB = 2**20


def held(client: Client, size: int, session: str, **params: Any) -> Ref:
    """A ref to so many bytes."""
    fields = payload("sample", "filled", [size], session=session) | {"result": "ref"}
    ref = client.tool("snakebridge.call", fields, **params)
    assert isinstance(ref, Ref)
    return ref


def release(client: Client, ref: Ref) -> bool:
    return bool(client.tool("snakebridge.release_ref", {"ref": ref, "session_id": ref.session}))


def refused(client: Client, session: str) -> dict[str, Any] | None:
    """The error map of a call, if it is refused."""
    try:
        client.call("math", "sqrt", 4, session=session)
    except LaneError as error:
        return error.fields
    return None


def test_above_its_limit_a_worker_refuses_new_calls_until_room_was_made() -> None:
    with Worker(env={"BRIDGE_ADAPTER_MEMORY_LIMIT": "200MiB"}) as worker:
        client, control = worker.connect(), worker.connect("control")
        ref = held(client, 250 * MIB, "greedy")
        while (error := refused(client, "other")) is None:
            pass  # the figure may be 100 ms old
        assert error["category"] == "memory_limit"
        assert "takes new calls below 200 MiB only (memory_limit); the call was not begun" in error["message"]
        details = error["details"]
        assert (details["outcome"], details["limit"]) == ("not_started", 200 * MIB)
        assert details["used"] > 250 * MIB and details["retry_after_ms"] > 0
        assert details["largest_sessions"][0]["session_id"] == "greedy"
        assert details["largest_sessions"][0]["bytes"] >= 250 * MIB
        assert control.request("stats", None)["memory"]["limit"] == 200 * MIB
        assert release(client, ref)  # what makes room is let in
        while refused(client, "other") is not None:
            pass


def test_a_call_that_runs_above_the_limit_still_has_its_callbacks_served() -> None:
    with Worker(env={"BRIDGE_ADAPTER_MEMORY_LIMIT": "100MiB"}) as worker:
        client, other = worker.connect(), worker.connect()

        def nested(x: Any) -> Any:
            held(client, 150 * MIB, "s")
            while refused(other, "other") is None:
                pass
            return client.call("math", "sqrt", x)

        assert client.call("sample", "apply", client.function("nested", 1, nested), 4) == 2.0


def test_beyond_the_hard_limit_an_allocation_fails_in_python_and_the_worker_goes_on() -> None:
    with Worker(env={"BRIDGE_ADAPTER_MEMORY_HARD_LIMIT": "1GiB"}) as worker:
        client = worker.connect()
        with pytest.raises(LaneError) as caught:
            client.call("sample", "filled", 2**31)
        assert caught.value.fields["type"] == "MemoryError"
        assert "at most 1GiB (memory_hard_limit)" in caught.value.fields["notes"][0]
        assert client.call("math", "sqrt", 4) == 2.0


def test_a_session_holds_no_more_bytes_than_it_may(client: Client) -> None:
    first = held(client, 600_000, "bounded", session_options={"max_bytes": 1_000_000})
    with pytest.raises(LaneError) as caught:
        held(client, 500_000, "bounded")
    fields = caught.value.fields
    assert fields["category"] == "memory_limit" and fields["details"]["outcome"] == "unknown"
    assert "its max_bytes is 1000000; the call has run, and its result was let go: release refs" in fields["message"]
    assert fields["details"]["biggest"] == [{"ref_id": first.id, "type": "bytearray", "bytes": size_of(bytearray(b"x") * 600_000)[0]}]
    assert held(client, 500_000, "free").session == "free"
    assert release(client, first)
    assert isinstance(held(client, 500_000, "bounded"), Ref)


def test_a_session_whose_objects_have_grown_takes_no_calls_until_some_are_released(client: Client) -> None:
    ref = held(client, 1000, "growing", session_options={"max_bytes": 1_000_000})
    client.method(ref, "extend", bytes(2_000_000))
    with pytest.raises(LaneError) as caught:
        client.method(ref, "append", 1)
    assert caught.value.category == "memory_limit" and caught.value.fields["details"]["outcome"] == "not_started"
    with pytest.raises(LaneError, match="memory_limit"):
        client.stream("sample", "gen", 3, session="growing")
    assert release(client, ref)
    assert client.call("math", "sqrt", 4, session="growing") == 2.0
    assert client.stream("sample", "gen", 3, session="growing") == [0, 1, 2]


class Odd:
    """Code that must not run when somebody asks for a size."""

    def __init__(self) -> None:
        self.payload = bytearray(100_000)

    def __sizeof__(self) -> int:
        raise AssertionError("was run")

    def __len__(self) -> int:
        raise AssertionError("was run")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


def test_sizes_are_those_of_the_data_and_no_code_of_users_is_run() -> None:
    import pandas as pd
    import pyarrow as pa
    from jax import numpy as jnp

    assert size_of(np.zeros(1000)) == (8000, False)
    assert size_of(jnp.zeros(1000, "float32")) == (4000, False)
    assert size_of(pa.array(range(1000)))[0] >= 8000
    assert size_of(pd.DataFrame({"x": np.zeros(1000)}))[0] >= 8000
    assert size_of(pd.Series(np.zeros(1000)))[0] >= 8000
    assert 100_000 < size_of(Odd())[0] < 110_000
    assert 1_000_000 < size_of([bytes(1000) for _ in range(1000)])[0] < 1_100_000
    assert 8000 < size_of({"a": np.zeros(1000)})[0] < 9000
    loop: list[Any] = []
    loop.append(loop)
    assert size_of(loop)[0] < 1000
    assert size_of(object)[0] > 0


def test_a_deleted_array_of_jax_holds_nothing() -> None:
    from jax import numpy as jnp

    array = jnp.zeros(1000)
    array.delete()
    assert size_of(array)[0] < 10_000


@pytest.mark.parametrize(
    ("text", "count"), [("off", None), ("0", None), ("2000000000", 2 * 10**9), ("2GB", 2 * 10**9), ("512 MiB", 512 * MIB), ("1G", 10**9)]
)
def test_sizes_are_written_as_people_write_them(text: str, count: int | None) -> None:
    assert memory.size(text) == count
    assert load(environment={"BRIDGE_ADAPTER_MEMORY_LIMIT": text}).memory_limit == text


def test_a_part_is_one_of_what_the_machine_or_the_control_group_gives() -> None:
    assert memory.size("50%") == memory.capacity() // 2
    total = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert memory.capacity() <= total * 1024


@pytest.mark.parametrize("text", ["much", "-1", "101%", "0%", "1.5GB", "GB", ""])
def test_senseless_limits_are_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="memory_limit"):
        load(environment={"BRIDGE_ADAPTER_MEMORY_LIMIT": text})


def test_a_narrower_control_group_counts(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "memory.max").write_text("1000000\n")
    (tmp_path / "a" / "b" / "memory.max").write_text("max\n")
    assert memory._bounds(MemoryGroup(2, tmp_path, tmp_path / "a" / "b"), "memory.max") == [1_000_000]
    assert memory._bounds(MemoryGroup(2, tmp_path, tmp_path / "gone"), "memory.max") == []


def test_what_is_used_grows_with_what_is_allocated() -> None:
    # In a process of its own: this one may be giving back what other tests have used.
    code = "from bridge_adapter import memory; before = memory.used(); data = bytearray(b'x') * (64 << 20); print(memory.used() - before)"
    grown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout
    assert int(grown) > 60 * MIB
