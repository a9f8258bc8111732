"""What Elixir gets from ExecuteStreamingTool: chunks, their end, errors in the middle, and back-pressure."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
from gateway_process import Gateway, ToolFailed, read, request, stream_request, until, value_of


def test_every_item_is_a_chunk_and_an_empty_one_ends_the_stream(gateway: Gateway) -> None:
    chunks = gateway.chunks("many", 3)
    assert [chunk.chunk_id for chunk in chunks] == [f"snakebridge.stream-{number}" for number in (1, 2, 3, 4)]
    assert [json.loads(chunk.data) for chunk in chunks[:3]] == [{"data": 0}, {"data": 1}, {"data": 2}]
    assert [chunk.is_final for chunk in chunks] == [False, False, False, True]
    assert chunks[3].data == b"" and not any(chunk.metadata for chunk in chunks)


def test_items_of_every_kind_arrive_as_they_are(gateway: Gateway) -> None:
    items = [json.loads(chunk.data)["data"] for chunk in gateway.chunks("mixed")[:-1]]
    assert items[:6] == [1, None, "text", "123", {"data": 5}, [1, 2]]
    assert items[6]["__type__"] == "bytes"


def test_an_empty_stream_is_its_final_chunk(gateway: Gateway) -> None:
    (chunk,) = gateway.chunks("many", 0)
    assert chunk.is_final and chunk.chunk_id == "snakebridge.stream-1"


def test_a_long_stream_arrives_whole_and_in_order(gateway: Gateway) -> None:
    chunks = gateway.chunks("many", 5000)
    assert [json.loads(chunk.data)["data"] for chunk in chunks[:-1]] == list(range(5000))


def test_an_error_in_the_middle_comes_after_the_items_before_it(gateway: Gateway) -> None:
    received = []
    with pytest.raises(grpc.RpcError) as error:
        for chunk in gateway.stub.ExecuteStreamingTool(stream_request("fail_after", 2), timeout=10):
            received.append(json.loads(chunk.data))
    assert received == [{"data": 0}, {"data": 1}]
    assert error.value.code() == grpc.StatusCode.INTERNAL
    payload = json.loads(error.value.details())
    assert (payload["type"], payload["message"]) == ("ValueError", "boom mid-stream")
    assert payload["context"]["function"] == "fail_after"


def test_an_error_too_long_for_a_status_is_cut_and_stays_json(gateway: Gateway) -> None:
    with pytest.raises(grpc.RpcError) as error:
        gateway.chunks("fail_at_length")
    assert error.value.code() == grpc.StatusCode.INTERNAL
    payload = json.loads(error.value.details())
    assert payload["type"] == "ValueError" and payload["message"].startswith("long: ")


def test_a_failing_call_aborts_the_stream(gateway: Gateway) -> None:
    with pytest.raises(grpc.RpcError) as error:
        gateway.chunks("no_such_function")
    assert json.loads(error.value.details())["type"] == "AttributeError"


def test_a_tool_that_does_not_stream_is_one_chunk(gateway: Gateway) -> None:
    chunks = list(gateway.stub.ExecuteStreamingTool(request("sqrt", 16, module="math"), timeout=10))
    assert [chunk.data for chunk in chunks] == [b'{"data":4.0}', b""]


def test_the_stream_tool_on_the_unary_method_says_so(gateway: Gateway) -> None:
    answer = value_of(gateway.stub.ExecuteTool(stream_request("many", 3), timeout=10))
    assert answer == {"error": "Streaming tool called on non-streaming endpoint."}


def test_a_stream_that_its_reader_leaves_is_closed(gateway: Gateway, pipe: Path) -> None:
    stream = gateway.stub.ExecuteStreamingTool(stream_request("endless", str(pipe)), timeout=30)
    assert json.loads(next(stream).data) == {"data": 0}
    stream.cancel()
    assert read(pipe) == "closed"
    assert gateway.execute("sqrt", 16, module="math") == 4.0


def test_a_slow_reader_holds_the_generator_back(gateway: Gateway) -> None:
    stream = gateway.stub.ExecuteStreamingTool(stream_request("counted", 100_000, session_id="slow"), timeout=60)
    next(stream)
    seen: list[int] = []

    def settled() -> bool:
        """Many looks in a row find the same: nothing is produced any more."""
        seen.append(gateway.execute("how_many", session_id="other"))
        return len(seen) > 40 and seen[-1] == seen[-40]

    assert until(settled, 20)
    assert seen[-1] < 20_000
    stream.cancel()


def test_streams_run_beside_calls_and_each_other(gateway: Gateway) -> None:
    streams = [gateway.stub.ExecuteStreamingTool(stream_request("many", 50, session_id=f"p{n}"), timeout=30) for n in range(8)]
    assert gateway.execute("sqrt", 16, module="math") == 4.0
    for stream in streams:
        assert [json.loads(chunk.data)["data"] for chunk in stream if not chunk.is_final] == list(range(50))


def test_a_stream_of_an_unknown_module_fails_like_a_call(gateway: Gateway) -> None:
    with pytest.raises(ToolFailed) as from_call:
        gateway.execute("f", module="no_such_module_x")
    with pytest.raises(grpc.RpcError) as from_stream:
        gateway.chunks("f", module="no_such_module_x")
    assert json.loads(from_stream.value.details())["message"] == from_call.value.payload["message"]
