"""The recorded examples once more, answered by our adapter inside the double of Snakepit's own server: as they are behind the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from recorded import EXAMPLES, HERE, Live
from server_process import request, their_server, value_of
from test_conformance import DEADLINE, SESSIONS, Elixir, Peer, expected, judge

ASKED = [
    example_id
    for example_id, example in EXAMPLES.items()
    if not example_id.startswith("plain.") and (example["rpc"] in ("ExecuteTool", "ExecuteStreamingTool") or example_id == "callback.wire")
]


class AdapterPeer(Peer):
    """The server with our adapter. It leaves the end of sessions to Elixir, so the tool is asked for it."""

    def fresh(self) -> None:
        for session in SESSIONS:
            release = request("", tool="snakebridge.release_session", session_id=session)
            value_of(self.gateway.stub.ExecuteTool(release, timeout=DEADLINE))
        self.elixir.asked.clear()
        self.live = Live()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterPeer]:
    elixir: Any = Elixir()
    with their_server(tmp_path_factory.mktemp("server"), elixir, python_path=[HERE / "python"]) as server:
        yield AdapterPeer(server, elixir)
    elixir.stop()


@pytest.mark.parametrize("example_id", ASKED)
def test_an_example_is_answered_as_it_is_behind_the_gateway(example_id: str, running: AdapterPeer) -> None:
    running.fresh()
    running.prepare(example_id)
    example = EXAMPLES[example_id]
    answer = running.asks(example) if example_id == "callback.wire" else running.answer(example)
    judge(example_id, expected(example), answer, running.live)
