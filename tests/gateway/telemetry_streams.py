"""Opens and leaves telemetry streams of a server in this process, where its tasks can be counted; prints how many there may be and are."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc

from bridge_adapter.gateway import telemetry_stream
from bridge_adapter.gateway.parameters import Asked
from bridge_adapter.gateway.sampling import Sampler
from bridge_adapter.gateway.telemetry import Telemetry
from bridge_adapter.proto import snakepit_bridge_pb2 as pb
from bridge_adapter.proto import snakepit_bridge_pb2_grpc as rpc

ON = pb.TelemetryControl(toggle=pb.TelemetryToggle(enabled=True))
CALL = Asked("snakebridge.call", {}, "w", trace={"correlation_id": "c"})
STREAMS = 20
SECONDS = 60


class OnlyTelemetry(rpc.BridgeServiceServicer):
    """StreamTelemetry and nothing else."""

    def __init__(self) -> None:
        self.telemetry = Telemetry()
        self.stopping = asyncio.Event()
        self._sampler = Sampler(self.telemetry, lambda: None, 0.01)

    async def StreamTelemetry(self, requests: Any, context: Any) -> None:
        await telemetry_stream.serve(self.telemetry, self._sampler, requests, context, self.stopping)


async def attach(stub: Any, service: OnlyTelemetry) -> None:
    """Opens a stream, hears one call, and leaves."""
    stream = stub.StreamTelemetry()
    await stream.write(ON)
    await stream.initial_metadata()  # before that, what happens is for the stream that has just been left
    with service.telemetry.call(CALL):
        pass
    while (await stream.read()).correlation_id != "c":
        pass
    stream.cancel()
    await asyncio.wait({asyncio.ensure_future(stream.code())})


async def fewest(enough: int) -> int:
    """The smallest number of tasks that is seen until there are no more than `enough`, or for a second."""
    seen = len(asyncio.all_tasks())
    until = asyncio.get_running_loop().time() + (1 if enough == 0 else SECONDS)
    while seen > enough and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.01)
        seen = min(seen, len(asyncio.all_tasks()))
    return seen


async def main() -> None:
    service = OnlyTelemetry()
    server = grpc.aio.server()
    rpc.add_BridgeServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = rpc.BridgeServiceStub(channel)
        await attach(stub, service)
        before = await fewest(0)
        for _ in range(STREAMS):
            await attach(stub, service)
        # A few more come and go with the samples; what twenty streams had left would be more than that.
        print(json.dumps([before + STREAMS // 2, await fewest(before + STREAMS // 2)]))
    service.stopping.set()
    await server.stop(5)


asyncio.run(main())
