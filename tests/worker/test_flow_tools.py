"""The tools of the flow runtime, over the lane and over gRPC."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lane_client import Client, LaneError, Worker

SPEC: dict[str, Any] = {
    "slots": {"x": {"shape": [3]}, "y": {"value": np.array([1.0, -0.2, 3.0]), "role": "data"}},
    "terms": [{"type": "quadratic", "variable": "x", "target": "y"}, {"type": "l1", "variable": "x", "weight": 0.5}],
}
# The energy falls for longer than any test has patience.
ENDLESS: dict[str, Any] = {
    "slots": {"x": {"shape": [200]}},
    "terms": [
        {
            "type": "quadratic",
            "variable": "x",
            "op": {"kind": "diagonal", "entries": np.logspace(-6, 0, 200)},
            "target": np.ones(200),
        }
    ],
}
FOREVER = {"iterations": 1_000_000_000, "tol": 1e-300, "solver": "ista", "block": 200, "save_every": 0.0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def worker(runs: Path) -> Iterator[Worker]:
    with Worker(env={"BRIDGE_ADAPTER_FLOW_RUNS": str(runs)}) as running:
        yield running


def ask(client: Client, tool: str, session: str = "s", **fields: Any) -> Any:
    return client.tool(tool, {"protocol_version": 1, "min_supported_version": 1, "session_id": session, **fields})


def test_compile_tells_what_was_chosen_and_why(client: Client) -> None:
    report = ask(client, "flow.compile", spec=SPEC, options={"tol": 1e-9})
    assert (report["solver"], report["terms"]["x_l1_1"]) == ("mfista", "prox")
    assert report["beta"]["value"] == 1.0 and report["reason"]


def test_a_run_answers_with_arrays_and_leaves_nothing_behind(client: Client, runs: Path) -> None:
    before = sorted(runs.iterdir())
    result = ask(client, "flow.run", spec=SPEC)
    assert np.allclose(result["state"]["x"], [0.5, 0.0, 2.5], atol=1e-6)
    assert result["stopped"] == "converged" and result["capsule"] is None and result["report"]["solver"] == "mfista"
    assert sorted(runs.iterdir()) == before


def test_mistakes_are_named(client: Client) -> None:
    with pytest.raises(LaneError, match=r"no parameter 'kernell'"):
        broken = {**SPEC, "terms": [{"type": "l1", "variable": "x", "op": {"kind": "convolution", "kernell": [1.0]}}]}
        ask(client, "flow.run", spec=broken)
    with pytest.raises(LaneError) as raised:
        ask(client, "flow.run", spec={**SPEC, "term": []})
    assert raised.value.fields["type"].endswith(".FlowInputError") and "did you mean terms?" in str(raised.value)
    for fields, told in (
        ({"options": {"iteration": 3}}, "did you mean iterations?"),
        ({"options": 3}, "options must be a map"),
        ({"run_id": 3}, "run_id must be the name of a run"),
        ({"record": "yes"}, "record must be true or false"),
        ({"on_progress": 3}, "on_progress must be a function"),
    ):
        with pytest.raises(LaneError, match=told.replace("?", r"\?")) as raised:
            ask(client, "flow.run", spec=SPEC, **fields)
        assert raised.value.category == "invalid_request"


def test_a_streamed_run_tells_its_progress_and_is_cancelled_from_another_connection(worker: Worker, client: Client) -> None:
    fields = {"protocol_version": 1, "min_supported_version": 1, "session_id": "s"}
    id = client.open_stream({**fields, "spec": ENDLESS, "run_id": "endless", "options": FOREVER}, tool="flow.run", timeout_ms=60_000)
    other = worker.connect()
    items: list[dict[str, Any]] = []

    def take(batch: list[Any]) -> None:
        told = len(items)
        items.extend(batch)
        if told < 3 <= len(items):
            listed = ask(other, "flow.list", "t")
            assert [entry["status"] for entry in listed if entry["run_id"] == "endless"] == ["running"]
            with pytest.raises(LaneError, match="is running in this worker already"):
                ask(other, "flow.run", "t", spec=ENDLESS, run_id="endless")
            assert ask(other, "flow.cancel", "t", run_id="endless") == {"run_id": "endless", "cancelled": True}

    client.answer(id, take)
    other.close()
    *progress, last = items
    assert {item["event"] for item in progress} == {"progress"} and progress[0]["iteration"] == 200
    assert (last["event"], last["stopped"], last["run_id"]) == ("result", "cancelled", "endless")
    assert ask(client, "flow.cancel", run_id="endless")["cancelled"] is False
    assert next(entry for entry in ask(client, "flow.list") if entry["run_id"] == "endless")["status"] == "cancelled"

    more = last["iterations"] + 400
    result = ask(client, "flow.resume", spec=ENDLESS, run_id="endless", options={"iterations": more, "block": 200})
    assert (result["stopped"], result["iterations"]) == ("budget", more)


def test_a_stream_that_is_left_ends_its_run(worker: Worker, client: Client) -> None:
    fields = {"protocol_version": 1, "min_supported_version": 1, "session_id": "leaver"}
    leaver = worker.connect()
    leaver.open_stream({**fields, "spec": ENDLESS, "run_id": "left", "options": FOREVER}, tool="flow.run")
    assert leaver.receive() is not None
    leaver.close()
    gone = threading.Event()
    for _ in range(400):
        if any(entry["run_id"] == "left" and entry["status"] == "cancelled" for entry in ask(client, "flow.list")):
            break
        gone.wait(0.05)
    else:
        pytest.fail("the run went on")


def test_a_run_whose_worker_is_killed_goes_on_in_the_next_bit_for_bit(tmp_path: Path) -> None:
    options = {**FOREVER, "iterations": 20_000}
    fields = {"protocol_version": 1, "min_supported_version": 1, "session_id": "s", "spec": ENDLESS, "run_id": "killed", "options": options}
    environment = {"BRIDGE_ADAPTER_FLOW_RUNS": str(tmp_path)}
    with Worker(env=environment) as first:
        connection = first.connect()
        connection.open_stream(fields, credit=4, tool="flow.run")
        told = 0
        while told < 3:
            message = connection.receive()
            assert message is not None
            told += 1
        first.process.kill()
        first.process.wait()
    with Worker(env=environment) as second:
        connection = second.connect()
        assert ask(connection, "flow.list")[0]["status"] == "interrupted"
        result = connection.tool("flow.run", fields, timeout_ms=60_000)
        undisturbed = connection.tool("flow.run", {**fields, "run_id": None}, timeout_ms=60_000)
    assert result["iterations"] == 20_000 and result["history"]["energy"].size < 20_000
    assert np.array_equal(result["state"]["x"], undisturbed["state"]["x"])


def test_a_policy_names_the_tools(tmp_path: Path) -> None:
    with Worker(args=("--policy", "default", "--deny", "flow.run"), env={"BRIDGE_ADAPTER_FLOW_RUNS": str(tmp_path)}) as strict:
        connection = strict.connect()
        with pytest.raises(LaneError) as raised:
            ask(connection, "flow.run", spec=SPEC)
        assert raised.value.category == "permission_denied"
        assert ask(connection, "flow.list") == []
