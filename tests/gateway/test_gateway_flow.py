"""The tools of the flow runtime over gRPC, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gateway_process import Gateway, raw_request, value_of

SPEC = {
    "slots": {"x": {"shape": [3]}, "y": {"value": [1.0, -0.2, 3.0], "role": "data"}},
    "terms": [{"type": "quadratic", "variable": "x", "target": "y"}, {"type": "l1", "variable": "x", "weight": 0.5}],
}


def ask(tool: str, **fields: Any) -> Any:
    parameters = {"protocol_version": 1, "min_supported_version": 1, "session_id": "flow", **fields}
    return raw_request({name: json.dumps(value).encode() for name, value in parameters.items()}, tool)


def test_a_run_is_called_streamed_and_listed(start: Callable[..., Gateway], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_ADAPTER_FLOW_RUNS", str(tmp_path / "runs"))
    gateway = start()
    stub: Any = gateway.stub
    result = value_of(stub.ExecuteTool(ask("flow.run", spec=SPEC, run_id="r"), timeout=60))
    assert (result["stopped"], result["run_id"]) == ("converged", "r")
    chunks = list(stub.ExecuteStreamingTool(ask("flow.run", spec=SPEC, options={"block": 1}), timeout=60))
    items = [json.loads(chunk.data)["data"] for chunk in chunks if chunk.data]
    assert [item["event"] for item in items] == ["progress"] * (len(items) - 1) + ["result"]
    listed = value_of(stub.ExecuteTool(ask("flow.list"), timeout=20))
    assert [(entry["run_id"], entry["status"]) for entry in listed] == [("r", "converged")]
    assert value_of(stub.ExecuteTool(ask("flow.cancel", run_id="r"), timeout=20))["cancelled"] is False
