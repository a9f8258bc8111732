"""Peers that break the protocol: each gets an error that says what is wrong, none hangs or harms the others."""

from __future__ import annotations

import os
import random
import socket
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest
from lane_client import TOKEN, Client, LaneError, Worker, payload

from bridge_adapter import lane


def hello(worker: Worker, **change: Any) -> LaneError:
    with pytest.raises(LaneError) as caught:
        worker.connect(**change)
    return caught.value


def closed(sock: socket.socket) -> bool:
    """True when the worker hangs up without a word more."""
    return sock.recv(1) == b""


def alive(worker: Worker) -> bool:
    client = worker.connect()
    answer = client.call("math", "sqrt", 4)
    client.close()
    return bool(answer == 2.0)


def test_the_wrong_token_and_the_wrong_version_are_refused(worker: Worker) -> None:
    assert hello(worker, token="guess").category == "unauthorized"
    error = hello(worker, versions=(7, 9))
    assert error.category == "unsupported_version"
    assert "version 1" in str(error)


def test_hello_must_come_first(worker: Worker) -> None:
    client = Client(worker.socket(), hello=False)
    client.send(lane.request(1, "call", {"tool": "snakebridge.call", "payload": payload("math", "sqrt", [4])}))
    with pytest.raises(LaneError, match="first message must be the request hello"):
        client.answer(1)
    assert closed(client.lane.sock)
    client.close()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        struct.pack(">I", 0xFFFFFFFF) + b"x",
        lane.frame(b"\xc1\xc1\xc1"),
        lane.frame(msgpack.packb({"not": "a message"})),
        lane.frame(b"\x91" * 2000),
        lane.frame(b""),
    ],
)
def test_garbage_before_hello_is_answered_and_hung_up_on(worker: Worker, data: bytes) -> None:
    sock = worker.socket()
    sock.sendall(data)
    sock.settimeout(5)
    reply = b""
    while chunk := sock.recv(65536):
        reply += chunk
    assert b"protocol_error" in reply or b"limit_exceeded" in reply
    sock.close()
    assert alive(worker)


def test_random_garbage_never_harms_others(worker: Worker) -> None:
    source = random.Random(1)
    for _ in range(60):
        client = worker.connect()
        body = lane.frame(source.randbytes(source.randrange(1, 200)))
        client.lane.sock.sendall(body)
        client.close()
    assert alive(worker)


def test_a_frame_over_the_limit_is_named_before_it_is_read(worker: Worker, client: Client) -> None:
    client.lane.sock.sendall(struct.pack(">I", 0xF0000000))
    with pytest.raises(LaneError, match="max_frame") as caught:
        client.answer(0)
    assert caught.value.category == "limit_exceeded"
    assert alive(worker)


def test_a_request_that_cannot_be_decoded_is_answered_by_its_id(client: Client) -> None:
    body = msgpack.packb([0, 41, "call", {"tool": "x"}])[:-1] + b"\xa5\xff\xff\xff\xff\xff"
    client.lane.send(body)
    with pytest.raises(LaneError, match="not valid UTF-8") as caught:
        client.answer(41)
    assert caught.value.category == "decode_error"
    assert client.call("math", "sqrt", 4) == 2.0


@pytest.mark.parametrize("cut", [2, 5, 40])
def test_a_peer_that_vanishes_in_the_middle_of_a_frame(worker: Worker, cut: int) -> None:
    client = worker.connect()
    whole = lane.frame(client.packer.pack(lane.request(1, "call", {"tool": "snakebridge.call", "payload": payload("math", "sqrt", [4])})))
    client.lane.sock.sendall(whole[:cut])
    client.close()
    assert alive(worker)


def test_unknown_methods_and_malformed_params_are_named(client: Client, control: Client) -> None:
    for connection, method, params, text in [
        (client, "nope", None, "no method 'nope'"),
        (control, "call", {}, "its methods are ping, stats"),
        (client, "call", [1], "must be a map"),
        (client, "call", {"tool": 1, "payload": {}}, "needs the keys tool"),
        (client, "call", {"tool": "x", "payload": {}, "timeout_ms": "soon"}, "timeout_ms must be a number"),
        (client, "call", {"tool": "x", "payload": {}, "parent": 7}, "parent must be"),
    ]:
        with pytest.raises(LaneError, match=text):
            connection.request(method, params)


def test_the_socket_and_its_directory_are_private(worker: Worker) -> None:
    path = Path(worker.address.removeprefix("unix:"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_lane_works_over_tcp_too() -> None:
    with Worker(listen="tcp:127.0.0.1:0") as worker:
        assert worker.address.startswith("tcp:127.0.0.1:")
        assert alive(worker)
        assert hello(worker, token="x").category == "unauthorized"


def test_user_code_does_not_see_the_token(client: Client) -> None:
    assert client.call("os", "getenv", "SNAKEBRIDGE_TOKEN") is None
    shown = client.call("pathlib", "Path.read_bytes", client.call("pathlib", "Path", "/proc/self/environ"))
    assert b"SNAKEBRIDGE_TOKEN=\0" in shown and TOKEN.encode() not in shown


def start(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bridge_adapter.executor", *args],
        input="",
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "SNAKEBRIDGE_TOKEN": TOKEN, **env},
        check=False,
    )


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    busy = start("--listen", f"tcp:127.0.0.1:{port}", "--stay")
    assert busy.returncode == 1
    assert f"cannot listen on tcp:127.0.0.1:{port}" in busy.stderr
    taken.close()
    assert "cannot listen" in start("--listen", f"unix:{tmp_path}/no/such/dir/w.sock", "--stay").stderr
    assert "begins with unix: or tcp:" in start("--listen", "http://x", "--stay").stderr
    assert "set SNAKEBRIDGE_TOKEN" in start("--listen", "tcp:127.0.0.1:0", "--stay", SNAKEBRIDGE_TOKEN="").stderr
    wrong = start("--listen", "tcp:127.0.0.1:0", "--stay", SNAKEBRIDGE_REF_MAX="many", BRIDGE_ADAPTER_MAX_DEPTH="100000")
    assert wrong.returncode == 2
    assert "SNAKEBRIDGE_REF_MAX: 'many' is not a valid int" in wrong.stderr
    assert "max_depth is 100000; it must be between 1 and 1000" in wrong.stderr
