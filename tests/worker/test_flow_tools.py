"""The tools of the flow runtime, over the lane and over gRPC."""

from __future__ import annotations

import re
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


def test_certify_tells_what_can_be_shown_and_what_would_help(client: Client) -> None:
    verdict = ask(client, "flow.certify", spec=SPEC)
    assert (verdict["phase"], verdict["feasible"]) == ("GREEN", True)
    assert verdict["told"].startswith("GREEN: every check of the profile strict passed, with eta_dd 0 ")
    assert verdict["certificates"]["gamma"] == {"value": 1.0, "kind": "exact", "method": "diagonal"} | verdict["certificates"]["gamma"]
    open_gap = ask(client, "flow.certify", spec=ENDLESS)
    assert (open_gap["phase"], [finding["remedy"] for finding in open_gap["findings"]]) == ("AMBER", ["raise_ridge"])
    assert ask(client, "flow.certify", spec=ENDLESS, options={"profile": "convex"})["phase"] == "GREEN"


def test_a_certified_run_tells_its_phase_and_what_it_changed(client: Client) -> None:
    phases: list[str] = []
    certified = {"config": {"max_tuner_moves": 2}, "gap_dial": {"criterion": "gcv"}}
    spec = {**SPEC, "terms": [{**SPEC["terms"][0], "op": {"kind": "diagonal", "entries": [1.0, 1e-4, 1.0]}}, SPEC["terms"][1]]}
    fields = {"protocol_version": 1, "min_supported_version": 1, "session_id": "s", "spec": spec}
    id = client.open_stream({**fields, "options": {"certified": certified, "tol": 1e-9, "block": 8}}, tool="flow.run", timeout_ms=60_000)
    items: list[dict[str, Any]] = []
    client.answer(id, items.extend)
    *progress, result = items
    phases = [item["phase"] for item in progress]
    assert phases and set(phases) == {"GREEN"}
    assert (result["phase"], result["verdict"]["phase"], result["card"]["passed"]) == ("GREEN", "GREEN", True)
    assert result["controller"]["remedies"] == 1 and 0 < result["changes"]["ridge"] < 1e-2
    assert result["controller"]["moves"] <= 2 and result["changes"]["factors"].keys() <= {"lambda"} and "spec" not in result

    refused = ask(client, "flow.run", spec=ENDLESS, options={"certified": {"config": {"ridge_cap": 0}}})
    assert (refused["stopped"], refused["phase"], refused["iterations"]) == ("cert_fail", "RED", 0)
    assert "gamma" in refused["verdict"]["told"]


def test_mistakes_are_named(client: Client) -> None:
    with pytest.raises(LaneError, match=r"no parameter 'kernell'"):
        broken = {**SPEC, "terms": [{"type": "l1", "variable": "x", "op": {"kind": "convolution", "kernell": [1.0]}}]}
        ask(client, "flow.run", spec=broken)
    with pytest.raises(LaneError) as raised:
        ask(client, "flow.run", spec={**SPEC, "term": []})
    assert raised.value.fields["type"].endswith(".FlowInputError") and "did you mean terms?" in str(raised.value)
    for fields, told in (
        ({"options": {"iteration": 3}}, "options.iteration: there is no such key; did you mean iterations?"),
        ({"options": 3}, "options is 3 of type int; it must be a dictionary"),
        ({"options": {"tol": float("nan")}}, "options.tol is nan of type float; it must be a number of at least 0"),
        ({"options": {"block": 10**9}}, "options.block is 1000000000 of type int; it must be a whole number from 1 to 1048576"),
        ({"options": {"certified": {"profil": "convex"}}}, "options.certified.profil: there is no such key; did you mean profile?"),
        ({"options": {"certified": {"gap_dial": {}}}}, "options.certified.gap_dial: the criterion discrepancy needs sigma"),
        ({"options": {"certified": {"policy": "basic"}, "solver": "ista"}}, "options.solver: options.certified.policy says how"),
        ({"run_id": 3}, "run_id must be the name of a run"),
        ({"run_id": ""}, "run_id must be the name of a run, not ''"),
        ({"record": "yes"}, "record must be true or false"),
        ({"record": 1}, "record must be true or false, not '1'"),
        ({"on_progress": 3}, "on_progress must be a function"),
        ({"idempotent": "yes"}, "idempotent must be true or false, not 'yes'"),
        ({"idempotent": 1}, "idempotent must be true or false, not '1'"),
        ({"option": {}}, "option: flow.run has no such field; did you mean options?"),
        ({"idempotant": True}, "idempotant: flow.run has no such field; did you mean idempotent?"),
        ({"x": 3}, "x: flow.run has no such field; it takes spec, options, run_id, call, on_progress, record"),
    ):
        with pytest.raises(LaneError, match=re.escape(told)) as raised:
            ask(client, "flow.run", spec=SPEC, **fields)
        assert raised.value.category == "invalid_request"
    for tool, fields, told in (
        ("flow.compile", {"run_id": "r"}, "run_id: flow.compile has no such field; it takes spec, options"),
        ("flow.certify", {"profile": "convex"}, "profile: flow.certify has no such field"),
        ("flow.resume", {"record": True}, "record: flow.resume has no such field"),
        ("flow.cancel", {"name": "r"}, "name: flow.cancel has no such field; it takes run_id, call"),
        ("flow.list", {"recorded": "no"}, "recorded must be true or false, not 'no'"),
    ):
        with pytest.raises(LaneError, match=re.escape(told)) as raised:
            ask(client, tool, **fields)
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
            with pytest.raises(LaneError, match="is running in this worker already") as raised:
                ask(other, "flow.run", "t", spec=ENDLESS, run_id="endless")
            assert raised.value.fields["type"].endswith(".CapsuleLocked")
            with pytest.raises(LaneError, match="is running in this worker already"):
                ask(other, "flow.resume", "t", spec=ENDLESS, run_id="endless")
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


def test_runs_whose_worker_is_killed_go_on_in_another_bit_for_bit(client: Client, runs: Path) -> None:
    """A plain run, and one under its controller."""
    base = {"protocol_version": 1, "min_supported_version": 1, "spec": ENDLESS}
    options = {**FOREVER, "iterations": 2_000}
    asked = {"plain": options, "certified": {**options, "certified": True}}
    requests = {name: {**base, "session_id": name, "run_id": name, "options": one} for name, one in asked.items()}
    with Worker(env={"BRIDGE_ADAPTER_FLOW_RUNS": str(runs)}) as first:
        connections = [first.connect() for _ in requests]
        for connection, fields in zip(connections, requests.values(), strict=True):
            # With so little credit it comes to a rest in the middle.
            connection.open_stream(fields, credit=3, tool="flow.run", timeout_ms=60_000)
        for connection in connections:
            for _ in range(3):
                assert connection.receive() is not None
        first.process.kill()
        first.process.wait()
    listed = [entry for entry in ask(client, "flow.list") if entry["run_id"] in asked]
    assert {(entry["run_id"], entry["status"]) for entry in listed} == {(name, "interrupted") for name in asked} and len(listed) == 2
    resumed, undisturbed, again = (
        {name: client.tool("flow.run", {**fields, **changed}, timeout_ms=60_000) for name, fields in requests.items()}
        for changed in ({}, {"run_id": None}, {})
    )
    told = ("phase", "energy", "controller", "changes", "verdict", "stopped")
    for name, result in resumed.items():
        assert 0 < result["history"]["energy"].size < 2_000 == result["iterations"]
        for other in (undisturbed[name], again[name]):
            assert np.array_equal(result["state"]["x"], other["state"]["x"])
            assert {key: result.get(key) for key in told} == {key: other.get(key) for key in told}
    assert resumed["certified"]["controller"]["remedies"] == 1 and resumed["certified"]["phase"] == "GREEN"


def test_what_cannot_be_recorded_is_refused_before_anything_is_compiled(client: Client, tmp_path: Path) -> None:
    """Known by the spec, which is refused only by the compiler."""
    no_spec = {"spec": {**SPEC, "dtype": "float16"}}
    with pytest.raises(LaneError, match="float16"):
        ask(client, "flow.run", **no_spec, run_id="good")
    for name in ("../r", "a/b", "r\n", "r" * 101):
        with pytest.raises(LaneError, match="names are letters, digits"):
            ask(client, "flow.run", **no_spec, run_id=name)
    with pytest.raises(LaneError, match="there is no run 'never'"):
        ask(client, "flow.resume", **no_spec, run_id="never", options={"tol": 1e-3})
    assert ask(client, "flow.run", spec=SPEC, run_id="a/b", record=False)["run_id"] == "a/b"

    (tmp_path / "file").touch()
    with Worker(env={"BRIDGE_ADAPTER_FLOW_RUNS": str(tmp_path / "file" / "runs")}) as nowhere:
        connection = nowhere.connect()
        told = "a run cannot be recorded in .* \\(Not a directory\\); give it a runs directory"
        with pytest.raises(LaneError, match=told) as raised:
            ask(connection, "flow.run", **no_spec, run_id="r")
        assert raised.value.fields["type"].endswith(".CapsuleError")
        connection.close()


def test_a_policy_names_the_tools(tmp_path: Path) -> None:
    with Worker(args=("--policy", "default", "--deny", "flow.run"), env={"BRIDGE_ADAPTER_FLOW_RUNS": str(tmp_path)}) as strict:
        connection = strict.connect()
        with pytest.raises(LaneError) as raised:
            ask(connection, "flow.run", spec=SPEC)
        assert raised.value.category == "permission_denied"
        assert ask(connection, "flow.list", recorded=False) == []
