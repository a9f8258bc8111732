"""The lane's protocol, without sockets, and the thin shell that moves its frames."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_adapter import lane
from bridge_adapter.codec import LimitExceeded
from bridge_adapter.codec.packed import Packer
from bridge_adapter.errors import ProtocolError


def received(frames: lane.Frames, stream: bytes, cut: int) -> Iterator[bytes]:
    """The bodies of a stream of which at most `cut` bytes are received at a time."""
    at = 0
    while at < len(stream):
        space = frames.space()
        count = min(cut, len(space), len(stream) - at)
        space[:count] = stream[at : at + count]
        at += count
        yield from [bytes(body) for body in frames.took(count)]


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 64))
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(bodies: list[bytes], cut: int) -> None:
    frames = lane.Frames(1000)
    assert list(received(frames, b"".join(map(lane.frame, bodies)), cut)) == bodies
    assert frames.pending == 0


@given(st.lists(st.sampled_from([0, 1, 40_000, 65_531, 65_532, 65_533, 200_000]), max_size=6), st.sampled_from([1000, 65_536, 10**9]))
def test_large_frames_come_out_as_they_went_in(sizes: list[int], cut: int) -> None:
    frames = lane.Frames(1 << 20)
    bodies = [bytes([number]) * size for number, size in enumerate(sizes)]
    assert list(received(frames, b"".join(map(lane.frame, bodies)), cut)) == bodies
    assert frames.pending == 0


def test_a_frame_that_announces_too_much_is_refused_before_its_bytes_come() -> None:
    frames = lane.Frames(1000)
    with pytest.raises(LimitExceeded, match="1001 bytes"):
        list(received(frames, (1001).to_bytes(4, "big"), 4))


@pytest.mark.parametrize("sizes", [[], [0], [3], [70_000], [70_000, 3, 65_536, 65_535, 1 << 20]])
def test_the_parts_of_a_message_are_its_body(sizes: list[int]) -> None:
    texts = {f"p{number}": b"x" * size for number, size in enumerate(sizes)}
    message = lane.request(7, "call", {"tool": "t", "payload": texts, "list": [1, None, "\ud800", *texts.values()]})
    parts = lane.parts(message)
    assert b"".join(parts) == msgpack.packb(message, unicode_errors="surrogatepass")
    assert all(any(part is text for part in parts) for text in texts.values() if len(text) >= 65_536)


def test_the_parts_of_a_message_are_free_as_soon_as_they_are_sent() -> None:
    large = bytes(100_000)
    before = sys.getrefcount(large)
    lane.parts(lane.request(7, "call", {"payload": {"args": large}}))
    assert sys.getrefcount(large) == before


@pytest.mark.parametrize("value", [None, 5, [], [3, 1, 2], [0, "x", "m", None], [1, 2], [2, 5, 6], [0, 1, 2, 3], "text", {"a": 1}])
def test_what_is_no_message_is_a_protocol_error(value: object) -> None:
    with pytest.raises(ProtocolError, match="not a lane message"):
        lane.parse(value)


def test_messages_parse_back() -> None:
    assert lane.parse(lane.request(1, "call", {"a": 1})) == lane.Message(lane.REQUEST, 1, "call", {"a": 1})
    assert lane.parse(lane.response(2, None, 5)) == lane.Message(lane.RESPONSE, 2, "", 5, None)
    assert lane.parse(lane.notification("items", [1, [2]])) == lane.Message(lane.NOTIFICATION, 0, "items", [1, [2]])


def test_heads_are_the_beginning_of_the_messages_they_stand_for() -> None:
    packer = Packer()
    for id in (0, 127, 128, 70_000):
        assert lane.response_head(id) + packer.pack([1]) == packer.pack(lane.response(id, None, [1]))
        items = lane.items_head(id, 3) + b"".join(map(packer.pack, "abc"))
        assert msgpack.unpackb(items) == [2, "items", [id, ["a", "b", "c"]]]


@given(st.integers(0, 2**32 - 1), st.binary(max_size=30))
def test_what_a_message_is_and_its_id_are_found_in_front_of_garbage(id: int, garbage: bytes) -> None:
    for kind in (lane.REQUEST, lane.RESPONSE):
        assert lane.peek(bytes([0x94, kind]) + msgpack.packb(id) + garbage) == (kind, id)
    assert lane.peek(b"\x93\x02" + garbage) is None
    assert lane.peek(b"\x94\xc2" + msgpack.packb(id) + garbage) is None


@pytest.mark.parametrize("sizes", [[0, 1, 5], [70_000, 3], [20 << 20], [65_532, 65_533, 65_536]])
def test_the_shell_moves_frames_of_every_size(sizes: list[int]) -> None:
    left, right = socket.socketpair()
    sender, receiver = lane.LaneSocket(left, 1 << 30), lane.LaneSocket(right, 1 << 30)

    def send() -> None:
        for size in sizes:
            sender.send(b"a" * (size // 2), b"b" * (size - size // 2))
        sender.close()

    thread = threading.Thread(target=send)
    thread.start()
    for size in sizes:
        body = receiver.receive()
        assert body is not None
        assert bytes(body) == b"a" * (size // 2) + b"b" * (size - size // 2)
    assert receiver.receive() is None
    thread.join()
    receiver.close()


def test_a_closed_connection_is_an_oserror_for_whoever_offers_or_waits() -> None:
    one, other = socket.socketpair()
    with other:
        closed = lane.LaneSocket(one, 1024)
        closed.close()
        with pytest.raises(OSError, match="negative"):
            closed.offer(b"body")
        with pytest.raises(OSError, match="negative"):
            closed.writable()
