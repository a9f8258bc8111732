"""The gateway's gRPC port with TLS and tokens, and what it refuses. Local and without a word of the user it stays what Snakepit knows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from authority import Authority, replace
from beam_side import BeamSide
from gateway_process import SCRIPT, Gateway, request, stream_request, value_of

from bridge_adapter.proto import snakepit_bridge_pb2 as pb
from bridge_adapter.proto import snakepit_bridge_pb2_grpc as rpc


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts a gateway of the test's own."""
    with ExitStack() as stack:
        beam = BeamSide()
        stack.callback(beam.stop)
        yield lambda *flags, **options: stack.enter_context(Gateway(tmp_path, beam, *flags, **options))


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def secure(gateway: Gateway, authority: Authority, certificate: tuple[str, str] | None = None) -> grpc.Channel:
    """A channel of a client that trusts the authority. Without a pool of sub-channels: each one shakes hands anew."""
    pair = {"private_key": read(certificate[1]), "certificate_chain": read(certificate[0])} if certificate else {}
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(f"127.0.0.1:{gateway.port}", grpc.ssl_channel_credentials(read(authority.pem), **pair), options)


def ping(channel: grpc.Channel) -> str:
    """The status with which a ping ends."""
    try:
        rpc.BridgeServiceStub(channel).Ping(pb.PingRequest(message="x"), timeout=20)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def attempt(gateway: Gateway, authority: Authority, certificate: tuple[str, str] | None = None) -> str:
    with closing(secure(gateway, authority, certificate)) as channel:
        return ping(channel)


def test_tls_and_client_certificates_which_are_replaced_while_it_runs(authority: Authority, serve: Callable[..., Gateway]) -> None:
    certificate, key = authority.issue("server")
    mine, strange = authority.issue("client"), Authority(authority.directory, "other").issue("strange")
    gateway = serve("--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", authority.pem)
    with closing(secure(gateway, authority, mine)) as channel:
        assert value_of(rpc.BridgeServiceStub(channel).ExecuteTool(request("sqrt", 16, module="math"), timeout=20)) == 4.0
        assert attempt(gateway, authority) == attempt(gateway, authority, strange) == "UNAVAILABLE"
        assert ping(gateway.channel) == "UNAVAILABLE"  # without TLS

        replace(certificate, b"no certificate")
        assert attempt(gateway, authority, mine) == "OK"
        assert "those before stay in use" in gateway.output()

        second = Authority(authority.directory, "second")
        second.issue("server")
        assert attempt(gateway, second, mine) == "OK"
        assert attempt(gateway, authority, mine) == "UNAVAILABLE"
        assert ping(channel) == "OK"  # what is open stays


def test_a_token_is_asked_for_by_every_method(authority: Authority, serve: Callable[..., Gateway]) -> None:
    path = f"{authority.directory}/token"
    replace(path, b"the first token of all\n")
    gateway = serve("--token-file", path, "--token-grace", "0")

    def statuses(token: str | None) -> list[str]:
        metadata = [("authorization", token)] if token is not None else []
        calls: list[Callable[[], Any]] = [
            lambda: gateway.stub.Ping(pb.PingRequest(message="x"), metadata=metadata, timeout=20),
            lambda: gateway.stub.ExecuteTool(request("sqrt", 16, module="math"), metadata=metadata, timeout=20),
            lambda: list(gateway.stub.ExecuteStreamingTool(stream_request("range", 2, module="builtins"), metadata=metadata, timeout=20)),
        ]
        found = []
        for call in calls:
            try:
                call()
                found.append("OK")
            except grpc.RpcError as error:
                found.append(error.code().name)
        return found

    assert statuses("Bearer the first token of all") == ["OK"] * 3
    for wrong in (None, "", "Bearer", "Bearer ", "the first token of all", "Bearer the first token of al"):
        assert statuses(wrong) == ["UNAUTHENTICATED"] * 3
    replace(path, b"the second token of all\n")
    assert statuses("Bearer the second token of all") == ["OK"] * 3
    assert statuses("Bearer the first token of all") == ["UNAUTHENTICATED"] * 3
    assert "token of all" not in gateway.output()


def refusal(*flags: str) -> str:
    """What a gateway says that does not start."""
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), "--adapter", "x.SnakeBridgeAdapter", "--elixir-address", "127.0.0.1:1", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "BRIDGE_ADAPTER_HOST": ""},
    )
    assert ended.returncode == 2
    return ended.stderr


def test_an_address_that_others_reach_needs_tls_and_proof_of_who_calls(authority: Authority) -> None:
    certificate, key = authority.issue("server")
    flags = ("--tls-cert", certificate, "--tls-key", key)
    said = refusal("--host", "0.0.0.0")
    assert "0.0.0.0:0 can be reached from other machines" in said
    assert "name --tls-cert and --tls-key, or on a loopback address" in said
    assert "(--tls-client-ca FILE) or for a token (--token-file FILE)" in refusal("--host", "0.0.0.0", *flags)
    assert "belong together" in refusal(*flags[:2])
    assert "which takes TLS" in refusal("--tls-client-ca", authority.pem)
