"""The tools of the flow runtime over gRPC, as JSON."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from beam_side import BeamSide
from gateway_process import Gateway, raw_request, value_of

SPEC = {
    "slots": {"x": {"shape": [3]}, "y": {"value": [1.0, -0.2, 3.0], "role": "data"}},
    "terms": [{"type": "quadratic", "variable": "x", "target": "y"}, {"type": "l1", "variable": "x", "weight": 0.5}],
}


@pytest.fixture(scope="module")
def gateway(beam: BeamSide, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("gw")
    with Gateway(directory, beam, env={"BRIDGE_ADAPTER_FLOW_RUNS": str(directory / "runs")}) as running:
        yield running


def ask(tool: str, **fields: Any) -> Any:
    parameters = {"protocol_version": 1, "min_supported_version": 1, "session_id": "flow", **fields}
    return raw_request({name: json.dumps(value).encode() for name, value in parameters.items()}, tool)


def test_a_run_is_called_streamed_and_listed(gateway: Gateway) -> None:
    stub: Any = gateway.stub
    result = value_of(stub.ExecuteTool(ask("flow.run", spec=SPEC, run_id="r"), timeout=60))
    assert (result["stopped"], result["run_id"]) == ("converged", "r")
    chunks = list(stub.ExecuteStreamingTool(ask("flow.run", spec=SPEC, options={"block": 1}), timeout=60))
    items = [json.loads(chunk.data)["data"] for chunk in chunks if chunk.data]
    assert [item["event"] for item in items] == ["progress"] * (len(items) - 1) + ["result"]
    listed = value_of(stub.ExecuteTool(ask("flow.list"), timeout=20))
    assert [(entry["run_id"], entry["status"]) for entry in listed] == [("r", "converged")]
    assert value_of(stub.ExecuteTool(ask("flow.cancel", run_id="r"), timeout=20))["cancelled"] is False
    verdict = value_of(stub.ExecuteTool(ask("flow.certify", spec=SPEC, options={"profile": {"eta_max": 0.5}}), timeout=60))
    assert (verdict["phase"], verdict["limits"]["eta_max"]) == ("GREEN", 0.5)


def test_a_certified_run_whose_executor_is_killed_goes_on_in_the_next_bit_for_bit(gateway: Gateway, beam: BeamSide) -> None:
    told: list[tuple[int, str]] = []

    def watch(info: dict[str, Any]) -> None:
        told.append((info["iteration"], info["phase"]))
        if len(told) == 4:
            os.kill(gateway.executor_pid(), signal.SIGKILL)

    beam.functions = {"watch": watch}
    function = {"__type__": "callback", "__schema__": 1, "ref_id": "watch", "pid": "#PID<0.123.0>", "arity": 1}
    # Ill conditioned: it takes all of its steps, and the gate takes a ridge.
    term = {"type": "quadratic", "variable": "x", "op": {"kind": "diagonal", "entries": [1.0, 1e-3, 1e-6]}, "target": [1.0, 1.0, 1.0]}
    spec = {"slots": {"x": {"shape": [3]}}, "terms": [term]}
    options = {"iterations": 1_000, "block": 100, "tol": 1e-300, "solver": "ista", "save_every": 0.0, "certified": {"profile": "strict"}}
    fields = {"spec": spec, "options": options, "protocol_version": 2}
    asked = ask("flow.run", **fields, run_id="killed", on_progress=function, idempotent=True)
    result = value_of(gateway.stub.ExecuteTool(asked, timeout=90))
    undisturbed = value_of(gateway.stub.ExecuteTool(ask("flow.run", **fields), timeout=60))

    assert [count for count, _ in told].count(100) == 1 and told[-1] == (1_000, "GREEN")
    assert (result["stopped"], result["iterations"], result["controller"]["remedies"]) == ("budget", 1_000, 1)
    assert result["state"] == undisturbed["state"] and result["state"]["x"]["__type__"] == "ndarray"
    assert {name: result[name] for name in ("energy", "phase", "verdict", "controller", "changes")} == {
        name: undisturbed[name] for name in ("energy", "phase", "verdict", "controller", "changes")
    }
