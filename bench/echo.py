"""The floor of gRPC in Python: a grpc.aio server that answers the gateway's own messages without doing anything.

Run as `python -m bench.echo`; prints its port.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc

from bridge_adapter.proto import snakepit_bridge_pb2 as pb
from bridge_adapter.proto import snakepit_bridge_pb2_grpc as rpc


class Echo(rpc.BridgeServiceServicer):
    """Answers every tool with one parameter's value, or streams as many chunks as that list's first member says."""

    async def ExecuteTool(self, request: pb.ExecuteToolRequest, context: object) -> pb.ExecuteToolResponse:
        return pb.ExecuteToolResponse(success=True, result=request.parameters["args"])

    async def ExecuteStreamingTool(self, request: pb.ExecuteToolRequest, context: Any) -> None:
        for number in range(json.loads(request.parameters["args"].value)[0]):
            await context.write(pb.ToolChunk(chunk_id=f"snakebridge.stream-{number + 1}", data=b'{"data":%d}' % number))
        await context.write(pb.ToolChunk(is_final=True))


async def main() -> None:
    server = grpc.aio.server()
    rpc.add_BridgeServiceServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
