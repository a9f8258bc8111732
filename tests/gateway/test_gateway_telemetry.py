"""What Elixir gets from StreamTelemetry: catalogued events of calls, crashes and samples, as its controls want them, and those that
happened while it did not listen.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway_process import Gateway, read, request, stream_request, until
from process_tree import gone

from bridge_adapter.gateway.parameters import Asked
from bridge_adapter.gateway.telemetry import BUFFER, CATALOGUE, Telemetry
from bridge_adapter.proto import snakepit_bridge_pb2 as pb
from bridge_adapter.proto import snakepit_bridge_pb2_grpc as rpc

# What Snakepit accepts, protocol.md section 9.
NAMES = {
    *("python.call.start", "python.call.stop", "python.call.exception"),
    *("tool.execution.start", "tool.execution.stop", "tool.execution.exception"),
    *("python.memory.sampled", "python.cpu.sampled", "python.gc.completed", "python.error.occurred", "tool.result_size"),
}
KEYS = {
    *("duration", "duration_ms", "bytes", "system_time", "queue_depth", "queue_time", "available_workers", "busy_workers"),
    *("total_workers", "worker_count", "lifetime", "total_commands", "command_count", "downtime", "restart_count", "retry_count"),
    *("request_size", "response_size", "message_size", "sequence_number", "message_count", "network_time", "uptime", "call_count"),
    *("affinity_duration", "commands_with_affinity", "rss_bytes", "vms_bytes", "cpu_percent", "collected", "generation"),
    *("latency_ms", "count", "python_pid"),
}
SPAN = ["python.call.start", "tool.result_size", "python.call.stop"]
ON = pb.TelemetryControl(toggle=pb.TelemetryToggle(enabled=True))
OFF = pb.TelemetryControl(toggle=pb.TelemetryToggle(enabled=False))
numbers = itertools.count(1)


def only(*allow: str, deny: tuple[str, ...] = ()) -> pb.TelemetryControl:
    return pb.TelemetryControl(filter=pb.TelemetryEventFilter(allow=allow, deny=deny))


def sampling(rate: float, *patterns: str) -> pb.TelemetryControl:
    return pb.TelemetryControl(sampling=pb.TelemetrySamplingUpdate(sampling_rate=rate, event_patterns=patterns))


class Listener:
    """One StreamTelemetry, as Elixir opens it. `events` are those that have arrived."""

    def __init__(self, gateway: Gateway, *controls: pb.TelemetryControl, timeout: float = 30) -> None:
        self.controls: queue.SimpleQueue[pb.TelemetryControl | None] = queue.SimpleQueue()
        for control in controls or (ON,):
            self.controls.put(control)
        self.events: list[pb.TelemetryEvent] = []
        self.ended: grpc.StatusCode | None = None
        self.call = gateway.stub.StreamTelemetry(iter(self.controls.get, None), timeout=timeout)
        self.call.initial_metadata()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in self.call:
                self.events.append(event)
        except grpc.RpcError as error:
            self.ended = error.code()

    def of(self, correlation: str) -> list[pb.TelemetryEvent]:
        return [event for event in self.events if event.correlation_id == correlation]

    def named(self, event: str) -> list[pb.TelemetryEvent]:
        return [found for found in self.events if name(found) == event]

    def until(self, condition: Callable[[], Any]) -> None:
        assert until(lambda: bool(condition()), 20), [name(event) for event in self.events]

    def wait_end(self) -> grpc.StatusCode | None:
        self._thread.join(20)
        return self.ended

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.call.cancel()
        self.controls.put(None)
        self._thread.join()


def name(event: pb.TelemetryEvent) -> str:
    return ".".join(event.event_parts)


def names(events: list[pb.TelemetryEvent]) -> list[str]:
    return [name(event) for event in events]


def new(message: pb.ExecuteToolRequest) -> tuple[pb.ExecuteToolRequest, str]:
    """The request with a correlation id of its own."""
    correlation = f"sp-{next(numbers):024x}"
    message.metadata["correlation_id"] = correlation
    return message, correlation


def sqrt(gateway: Gateway, **fields: Any) -> str:
    """Makes a call; its correlation id."""
    message, correlation = new(request("sqrt", 16, module="math", **fields))
    assert gateway.stub.ExecuteTool(message, timeout=30).success
    return correlation


def test_the_catalogue_is_part_of_snakepits() -> None:
    assert set(CATALOGUE) == NAMES
    assert {key for keys in CATALOGUE.values() for key in keys} <= KEYS


def test_the_stream_opens_at_once_and_stays_open(gateway: Gateway) -> None:
    for controls in ([], [only("nothing")]):
        stream = gateway.stub.StreamTelemetry(iter(controls), timeout=1)
        stream.initial_metadata()
        with pytest.raises(grpc.RpcError) as error:
            list(stream)
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_call_is_a_span_with_its_correlation_id(gateway: Gateway) -> None:
    with Listener(gateway) as listener:
        correlation = sqrt(gateway)
        listener.until(lambda: len(listener.of(correlation)) == 3)
        start, size, stop = events = listener.of(correlation)
    assert names(events) == SPAN
    for event in events:
        expected = {"module": "math", "python_module": "math", "library": "math", "function": "sqrt", "call_type": "function"}
        assert dict(event.metadata) == {**expected, "session_id": "sess-A", "tool": "snakebridge.call"}
    assert start.measurements["system_time"].int_value == start.timestamp_ns > 10**18
    assert size.measurements["bytes"].int_value == len("4.0")
    assert 0 < stop.measurements["duration"].int_value <= stop.timestamp_ns - start.timestamp_ns + 10**7
    assert [list(event.measurements) for event in events] == [["system_time"], ["bytes"], ["duration"]]


def test_a_start_comes_while_its_call_still_runs(gateway: Gateway, pipe: Path) -> None:
    message, correlation = new(request("wait_forever", str(pipe), session_id="waits"))
    with Listener(gateway) as listener:
        call = gateway.stub.ExecuteTool.future(message, timeout=30)
        read(pipe)
        listener.until(lambda: names(listener.of(correlation)) == ["python.call.start"])
        call.cancel()
        listener.until(lambda: len(listener.of(correlation)) == 2)
        stop = listener.of(correlation)[1]
    assert (name(stop), stop.metadata["error_type"]) == ("python.call.exception", "Cancelled")


def test_a_failed_call_tells_its_error_in_bounded_words(gateway: Gateway) -> None:
    message, correlation = new(request("getitem", {}, "x" * 5000, module="operator"))
    with Listener(gateway) as listener:
        assert not gateway.stub.ExecuteTool(message, timeout=30).success
        listener.until(lambda: len(listener.of(correlation)) == 2)
        start, failed = listener.of(correlation)
    assert (name(start), name(failed)) == ("python.call.start", "python.call.exception")
    assert failed.metadata["error_type"] == "KeyError" and failed.metadata["error_message"].startswith("'xxx")
    assert len(failed.metadata["error_message"]) == 500
    assert list(failed.measurements) == ["duration"]


def test_a_stream_call_is_one_span(gateway: Gateway, pipe: Path) -> None:
    whole, whole_id = new(stream_request("many", 300))
    broken, broken_id = new(stream_request("fail_after", 2))
    left, left_id = new(stream_request("endless", str(pipe)))
    with Listener(gateway) as listener:
        list(gateway.stub.ExecuteStreamingTool(whole, timeout=30))
        with pytest.raises(grpc.RpcError):
            list(gateway.stub.ExecuteStreamingTool(broken, timeout=30))
        stream = gateway.stub.ExecuteStreamingTool(left, timeout=30)
        next(stream)
        stream.cancel()
        assert read(pipe) == "closed"
        listener.until(lambda: all(len(listener.of(correlation)) == 2 for correlation in (whole_id, broken_id, left_id)))
    assert names(listener.of(whole_id)) == ["python.call.start", "python.call.stop"]
    assert names(listener.of(broken_id)) == names(listener.of(left_id)) == ["python.call.start", "python.call.exception"]
    assert listener.of(broken_id)[1].metadata["error_message"] == "boom mid-stream"
    assert listener.of(left_id)[1].metadata["error_type"] == "Cancelled"
    assert listener.of(whole_id)[0].metadata["call_type"] == "dynamic_stream"


def test_other_tools_are_tool_executions(gateway: Gateway) -> None:
    helpers, helpers_id = new(pb.ExecuteToolRequest(session_id="w", tool_name="snakebridge.helpers"))
    unknown, unknown_id = new(request("f", tool="no.such.tool"))
    with Listener(gateway) as listener:
        assert gateway.stub.ExecuteTool(helpers, timeout=30).success
        assert not gateway.stub.ExecuteTool(unknown, timeout=30).success
        listener.until(lambda: len(listener.of(helpers_id)) == 3 and len(listener.of(unknown_id)) == 2)
    assert names(listener.of(helpers_id)) == ["tool.execution.start", "tool.result_size", "tool.execution.stop"]
    assert dict(listener.of(helpers_id)[0].metadata) == {"tool": "snakebridge.helpers", "session_id": "w"}
    assert names(listener.of(unknown_id)) == ["tool.execution.start", "tool.execution.exception"]
    assert listener.of(unknown_id)[1].metadata["tool"] == "no.such.tool"


def test_what_is_no_string_does_not_go_into_the_metadata(gateway: Gateway) -> None:
    message, correlation = new(request("sqrt", 16, module="math", library=7, call_type="", session_id="\ud800"))
    huge, huge_id = new(request("f" * 10_000, module="math"))
    with Listener(gateway) as listener:
        gateway.stub.ExecuteTool(message, timeout=30)
        gateway.stub.ExecuteTool(huge, timeout=30)
        listener.until(lambda: len(listener.of(correlation)) >= 2 and len(listener.of(huge_id)) >= 2)
    metadata = listener.of(correlation)[0].metadata
    assert (metadata["library"], metadata["call_type"], metadata["session_id"]) == ("math", "function", "?")
    assert "function" not in listener.of(huge_id)[0].metadata


def test_a_crash_is_an_error_and_ends_its_call(gateway: Gateway) -> None:
    pid = gateway.executor_pid()
    message, correlation = new(request("die", "exit"))
    with Listener(gateway) as listener:
        assert not gateway.stub.ExecuteTool(message, timeout=30).success
        listener.until(lambda: len(listener.of(correlation)) == 3)
        start, crash, failed = listener.of(correlation)
    assert names([start, crash, failed]) == ["python.call.start", "python.error.occurred", "python.call.exception"]
    assert (crash.metadata["error_type"], crash.metadata["exit_status"], crash.metadata["executor_pid"]) == ("WorkerCrash", "3", str(pid))
    assert crash.metadata["function"] == "die" and "about to die by exit" in crash.metadata["error_message"]
    assert crash.measurements["count"].int_value == 1
    assert failed.metadata["error_type"] == "WorkerCrash"


def test_a_crash_that_a_retry_hides_is_told(gateway: Gateway, tmp_path: Path) -> None:
    message, correlation = new(request("die_once", str(tmp_path / "died"), idempotent=True))
    with Listener(gateway) as listener:
        assert gateway.stub.ExecuteTool(message, timeout=30).success
        listener.until(lambda: len(listener.of(correlation)) == 4)
    assert names(listener.of(correlation)) == ["python.call.start", "python.error.occurred", *SPAN[1:]]


def test_an_executor_that_dies_idle_is_told(gateway: Gateway) -> None:
    pid = gateway.executor_pid()
    with Listener(gateway, only("python.error.*")) as listener:
        os.kill(pid, signal.SIGKILL)
        listener.until(lambda: [event for event in listener.events if event.metadata["executor_pid"] == str(pid)])
        crash = listener.events[-1]
    assert (crash.metadata["signal"], crash.metadata["calls_in_flight"], crash.correlation_id) == ("9", "0", "")
    assert gateway.execute("sqrt", 16, module="math") == 4.0


def test_deny_comes_before_allow(gateway: Gateway) -> None:
    with Listener(gateway, only("python.call.*", deny=("*.start",))) as listener:
        correlation = sqrt(gateway)
        listener.until(lambda: listener.of(correlation))
        assert not gateway.stub.ExecuteTool(new(request("no_such", module="math"))[0], timeout=30).success
        listener.until(lambda: listener.named("python.call.exception"))
    assert set(names(listener.events)) <= {"python.call.stop", "python.call.exception"}


def test_a_rate_of_zero_silences_and_one_restores(gateway: Gateway) -> None:
    with Listener(gateway, sampling(-3.5), sampling(float("nan"))) as listener:
        unheard = sqrt(gateway)
        assert not listener.events
        listener.controls.put(sampling(7.0))
        listener.until(lambda: sqrt(gateway) and listener.named("python.call.stop"))
    assert not listener.of(unheard)


def test_a_rate_keeps_that_part_of_the_spans_whole(gateway: Gateway) -> None:
    with Listener(gateway, sampling(0.25), sampling(1.0, "python.error.*"), timeout=60) as listener:
        made = [sqrt(gateway) for _ in range(100)]
        last, last_id = new(request("die", "exit"))
        gateway.stub.ExecuteTool(last, timeout=30)
        listener.until(lambda: "python.error.occurred" in names(listener.of(last_id)))
        kept = [correlation for correlation in made if listener.of(correlation)]
    assert 23 <= len(kept) <= 27
    assert all(names(listener.of(correlation)) == SPAN for correlation in kept)


def test_patterns_limit_what_a_rate_is_for(gateway: Gateway) -> None:
    with Listener(gateway, sampling(0.0, "python.call.start", "*.result_size")) as listener:
        made = [sqrt(gateway) for _ in range(5)]
        listener.until(lambda: all(listener.of(correlation) for correlation in made))
    assert all(names(listener.of(correlation)) == ["python.call.stop"] for correlation in made)


def test_a_toggle_switches_a_stream_off_and_on(gateway: Gateway) -> None:
    with Listener(gateway) as listener:

        def missed_while_off() -> bool:
            listener.controls.put(OFF)
            unheard = sqrt(gateway)
            listener.controls.put(ON)
            listener.until(lambda: listener.of(sqrt(gateway)))
            return not listener.of(unheard)

        listener.until(missed_while_off)


def test_what_waits_is_not_lost_to_a_stream_that_is_switched_off(gateway: Gateway) -> None:
    waited = sqrt(gateway)
    with Listener(gateway, OFF, timeout=1) as listener:
        assert listener.wait_end() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert not listener.events
    with Listener(gateway) as listener:
        listener.until(lambda: len(listener.of(waited)) == 3)


def test_what_happens_between_two_streams_comes_with_the_second_once(gateway: Gateway) -> None:
    with Listener(gateway, timeout=1) as first:
        during = sqrt(gateway)
        assert first.wait_end() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert names(first.of(during)) == SPAN
    between = [sqrt(gateway) for _ in range(20)]
    with Listener(gateway) as second:
        after = sqrt(gateway)
        second.until(lambda: len(second.of(after)) == 3)
    heard = [event.correlation_id for event in second.events if event.correlation_id in (*between, during, after)]
    assert heard == [correlation for correlation in (*between, after) for _ in range(3)]


def test_the_first_control_holds_for_what_has_waited(gateway: Gateway) -> None:
    waited = sqrt(gateway)
    with Listener(gateway, only("python.call.stop")) as listener:
        listener.until(lambda: listener.of(waited))
    assert names(listener.of(waited)) == ["python.call.stop"]
    assert set(names(listener.events)) == {"python.call.stop"}


def test_every_stream_gets_every_event(gateway: Gateway) -> None:
    with Listener(gateway) as one, Listener(gateway) as two, Listener(gateway, only("python.call.stop")) as three:
        correlation = sqrt(gateway)
        for listener, count in ((one, 3), (two, 3), (three, 1)):
            listener.until(lambda listener=listener, count=count: len(listener.of(correlation)) == count)


def test_what_nobody_hears_is_bounded_and_what_is_lost_is_told(start: Callable[..., Gateway]) -> None:
    gateway = start("--telemetry-interval-ms", "0")
    made = [new(request("sqrt", n, module="math")) for n in range(2000)]
    for begin in range(0, len(made), 50):
        for answer in [gateway.stub.ExecuteTool.future(message, timeout=30) for message, _ in made[begin : begin + 50]]:
            assert answer.result().success
    latest = sqrt(gateway)
    with Listener(gateway) as listener:
        listener.until(lambda: len(listener.of(latest)) == 3)
        assert len(listener.events) == BUFFER
        assert listener.events[0].metadata["events_dropped"] == str(3 * 2001 - BUFFER)
        assert not any("events_dropped" in event.metadata for event in listener.events[1:])
        assert len({event.correlation_id for event in listener.events[3:]}) <= BUFFER // 3 + 50
        sqrt(gateway)
        listener.until(lambda: len(listener.events) == BUFFER + 3)


def test_an_event_keeps_no_large_parameters() -> None:
    telemetry = Telemetry()
    call = Asked("snakebridge.call", {"function": b'"f"', "args": b"x" * 1000}, "w", trace={"correlation_id": "c"})
    with telemetry.call(call) as span:
        pass
    assert "x" * 100 not in repr([getattr(span, slot, None) for slot in type(span).__slots__])


def test_memory_and_cpu_are_sampled_at_once_and_at_intervals(start: Callable[..., Gateway]) -> None:
    gateway = start("--telemetry-interval-ms", "300")
    pid = str(gateway.executor_pid())
    with Listener(gateway) as listener:
        listener.until(lambda: len(listener.named("python.memory.sampled")) >= 3 and len(listener.named("python.cpu.sampled")) >= 2)
        memory, cpu = listener.named("python.memory.sampled")[0], listener.named("python.cpu.sampled")[0]
    assert memory.metadata["executor_pid"] == cpu.metadata["executor_pid"] == pid
    assert 5 << 20 < memory.measurements["rss_bytes"].int_value < memory.measurements["vms_bytes"].int_value
    assert set(memory.measurements) == {"rss_bytes", "vms_bytes"} and set(cpu.measurements) == {"cpu_percent"}
    assert cpu.measurements["cpu_percent"].WhichOneof("value") == "float_value"


def test_samples_come_while_user_code_holds_the_gil(start: Callable[..., Gateway], pipe: Path) -> None:
    gateway = start("--telemetry-interval-ms", "50")
    call = gateway.stub.ExecuteTool.future(request("hold_the_gil", str(pipe), 2), timeout=30)
    read(pipe)
    with Listener(gateway) as listener:
        listener.until(lambda: len(listener.named("python.memory.sampled")) >= 3)
        assert not call.done()
    call.result()


def test_collections_are_counted_from_the_first_attachment(start: Callable[..., Gateway]) -> None:
    gateway = start("--telemetry-interval-ms", "50")
    assert gateway.execute("len_of", "gc", "callbacks") == 0
    with Listener(gateway) as listener:
        listener.until(lambda: gateway.execute("len_of", "gc", "callbacks") == 1)
        gateway.execute("make_garbage", 50)
        listener.until(
            lambda: [event for event in listener.named("python.gc.completed") if event.measurements["collected"].int_value >= 100]
        )
        found = listener.named("python.gc.completed")
    assert all(set(event.measurements) == {"collected", "count", "duration", "generation"} for event in found)
    assert any(event.measurements["generation"].int_value == 2 and event.measurements["duration"].int_value > 0 for event in found)


def test_a_new_executor_is_sampled_in_place_of_the_old_one(start: Callable[..., Gateway]) -> None:
    gateway = start("--telemetry-interval-ms", "50")
    with Listener(gateway) as listener:
        gateway.stub.ExecuteTool(request("die", "exit"), timeout=30)
        pid = str(gateway.executor_pid())
        gateway.execute("collect", module="gc")
        for sampled in ("python.memory.sampled", "python.cpu.sampled"):
            listener.until(
                lambda sampled=sampled: (
                    gateway.execute("collect", module="gc") is not None
                    and [event for event in listener.named(sampled) if event.metadata["executor_pid"] == pid]
                )
            )
        listener.until(
            lambda: (
                gateway.execute("collect", module="gc") is not None
                and [event for event in listener.named("python.gc.completed") if event.metadata["executor_pid"] == pid]
            )
        )
    for event in listener.events:
        assert name(event) in NAMES and set(event.measurements) <= KEYS


def test_readers_who_do_not_read_hold_up_neither_calls_nor_the_end(start: Callable[..., Gateway]) -> None:
    gateway = start("--telemetry-interval-ms", "50")
    # A window that does not grow, so that what a client does not read soon blocks the sender.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384)]
    channel = grpc.insecure_channel(f"127.0.0.1:{gateway.port}", options=options)
    streams = [rpc.BridgeServiceStub(channel).StreamTelemetry(iter([ON]), timeout=60) for _ in range(3)]  # type: ignore[no-untyped-call]
    for stream in streams:
        stream.initial_metadata()
    message = request("sqrt", 16, module="math", library="l" * 250, call_type="t" * 250)
    for _ in range(20):
        for answer in [gateway.stub.ExecuteTool.future(message, timeout=30) for _ in range(50)]:
            assert answer.result().success
    assert any("events_dropped" in event.metadata for event in streams[0])
    gateway.process.terminate()
    assert gone(gateway.process.pid, 5)
    assert gateway.process.wait() == 0
    channel.close()


def test_a_stream_leaves_nothing_behind() -> None:
    # In a process of its own: a gRPC server that a failure leaves behind blocks whichever thread collects it.
    command = [sys.executable, str(Path(__file__).parent / "telemetry_streams.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    assert 0 < after <= before


def test_a_stream_has_the_shape_of_the_recorded_one(gateway: Gateway, examples: Iterator[Any]) -> None:
    recorded = next(example for example in examples if example["id"] == "rpc.telemetry")["response"]["events_tail"]
    with Listener(gateway, timeout=2) as listener:
        correlation = sqrt(gateway)
        assert listener.wait_end().name == recorded[-1]["grpc_status"]  # type: ignore[union-attr]
    events = [event for event in listener.of(correlation) if name(event) != "tool.result_size"]
    for theirs, ours in zip(recorded[:-1], events, strict=True):
        assert list(ours.event_parts) == theirs["event_parts"]
        values = {key: value.WhichOneof("value") for key, value in ours.measurements.items()}
        assert values == {key: next(iter(value)) for key, value in theirs["measurements"].items()}
        assert set(theirs["metadata"]) <= set(ours.metadata)


@pytest.fixture
def examples() -> Any:
    return json.loads((Path(__file__).parents[1] / "snakepit" / "examples.json").read_text())["examples"]
