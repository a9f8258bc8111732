"""The credit of streams against a model, over real connections: two streams of one session, read in any order, halted at any time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from lane_client import Client, LaneError, Worker, payload

from bridge_adapter import lane

SIDES = st.sampled_from([0, 1])
_sessions = itertools.count(1)


@dataclass
class Stream:
    """What its reader knows of a stream."""

    id: int
    length: int
    credit: int
    items: list[int] = field(default_factory=list)
    total: int | None = None
    halted: bool = False

    @property
    def due(self) -> int:
        """How many items must have come, once there was time."""
        return min(self.credit, self.length)


class Machine(RuleBasedStateMachine):
    """Two connections with a stream each. A stream of n items sends min(n, credit) of them, and its end once credit goes beyond."""

    worker: ClassVar[Worker]

    def __init__(self) -> None:
        super().__init__()
        self.session = f"machine {next(_sessions)}"
        self.clients = [self.worker.connect() for _ in range(2)]
        self.control = self.worker.connect("control")
        self.streams: list[Stream | None] = [None, None]

    @precondition(lambda self: None in self.streams)
    @rule(length=st.integers(0, 40), credit=st.integers(1, 10))
    def open(self, length: int, credit: int) -> None:
        side = self.streams.index(None)
        client = self.clients[side]
        self.streams[side] = Stream(
            client.open_stream(payload("builtins", "range", [length], session=self.session), credit), length, credit
        )

    @rule(side=SIDES, credit=st.integers(1, 20))
    def give(self, side: int, credit: int) -> None:
        stream = self.streams[side]
        if stream is not None:
            stream.credit += credit
            self.clients[side].send(lane.notification("credit", [stream.id, credit]))

    @rule(side=SIDES)
    def read(self, side: int) -> None:
        """Everything that must come comes; when all has come, the end does."""
        stream = self.streams[side]
        if stream is None:
            return
        while len(stream.items) < stream.due or (stream.credit > stream.length and stream.total is None):
            self.take(self.clients[side], stream)
        if stream.total is not None:
            assert stream.items == list(range(stream.length))
            assert stream.total == stream.length
            self.streams[side] = None

    @rule(side=SIDES)
    def nothing_comes_without_credit(self, side: int) -> None:
        stream, client = self.streams[side], self.clients[side]
        if stream is not None:
            self.ping(client, stream)

    def ping(self, client: Client, stream: Stream) -> None:
        id = next(client.ids)
        client.send(lane.request(id, "ping", None))
        while self.take(client, stream) != id:
            assert len(stream.items) <= stream.due

    @rule(side=SIDES)
    def halt(self, side: int) -> None:
        stream, client = self.streams[side], self.clients[side]
        if stream is None:
            return
        stream.halted = True
        self.control.send(lane.notification("cancel", [client.conn, stream.id, "halted"]))
        while stream.total is None:
            self.take(client, stream)
        self.streams[side] = None

    @rule()
    def call_beside(self) -> None:
        """The session is free while nobody reads."""
        other = self.worker.connect()
        assert other.call("math", "sqrt", 16, session=self.session) == 4.0
        other.close()

    def take(self, client: Client, stream: Stream) -> int | None:
        """Takes one message; the id of a response."""
        message = client.receive()
        assert message is not None, "the connection broke"
        if message.kind == lane.RESPONSE:
            if message.error is not None:
                raise LaneError(message.error)
            if message.id == stream.id:
                stream.total = message.body["items"]
            return message.id
        self.note(stream, message.body)
        return None

    @staticmethod
    def note(stream: Stream, body: Any) -> None:
        assert body[0] == stream.id
        stream.items += body[1]

    @invariant()
    def items_come_in_order_and_never_beyond_credit(self) -> None:
        for stream in filter(None, self.streams):
            assert stream.items == list(range(len(stream.items)))
            assert len(stream.items) <= stream.credit

    def teardown(self) -> None:
        for connection in [*self.clients, self.control]:
            connection.close()


def test_credit(worker: Worker) -> None:
    Machine.worker = worker
    machine: Any = Machine.TestCase
    machine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
    machine("runTest").runTest()
