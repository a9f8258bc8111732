"""The server's side of a TLS connection by itself: both directions at once from two threads, and clients that take their time."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import select
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from authority import Authority

from bridge_adapter.tls import Certificates, Files
from bridge_adapter.tls_socket import TlsSocket

SIZE = 24 << 20


@pytest.fixture
def ends(authority: Authority) -> Iterator[tuple[TlsSocket, ssl.SSLSocket]]:
    """Both ends of a connection that have shaken hands."""
    certificate, key = authority.issue("server")
    here, there = socket.socketpair()
    server = TlsSocket(here, Certificates(Files(certificate, key)).context())
    shaking = threading.Thread(target=server.handshake, args=(30,))
    shaking.start()
    client = authority.client_context().wrap_socket(there, server_hostname="127.0.0.1")
    shaking.join()
    with contextlib.closing(server), client:
        yield server, client


def pieces(data: bytes, seed: int) -> Iterator[bytes]:
    """The data in pieces of all sizes."""
    sizes, at = random.Random(seed), 0
    while at < len(data):
        size = sizes.choice((1, 5, 4096, 16_384, 70_000, 1 << 20))
        yield data[at : at + size]
        at += size


def both_ways(client: ssl.SSLSocket, data: bytes, digest: hashlib._Hash) -> None:
    """Sends the data and reads as much at the same time, on one thread: a client of the kind that OpenSSL likes."""
    client.setblocking(False)
    got = sent = 0
    while got < SIZE or sent < SIZE:
        select.select([client], [client] if sent < SIZE else [], [])
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if sent < SIZE:
                sent += client.send(data[sent : sent + 100_000])
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while got < SIZE:
                read = client.recv(1 << 20)
                assert read
                digest.update(read)
                got += len(read)


def test_one_thread_reads_while_others_write(ends: tuple[TlsSocket, ssl.SSLSocket]) -> None:
    server, client = ends
    down, up = random.Random(1).randbytes(SIZE), random.Random(2).randbytes(SIZE)
    read, heard = hashlib.sha256(), hashlib.sha256()
    numbers, turn = itertools.count(), threading.Lock()
    parts = list(pieces(down, 3))

    def write() -> None:
        while True:
            with turn:  # as the lane's own lock: one frame after the other, from whatever thread
                number = next(numbers)
                if number >= len(parts):
                    return
                server.sendall(parts[number])

    def receive() -> None:
        buffer, left = memoryview(bytearray(300_000)), SIZE
        while left:
            got = server.recv_into(buffer, min(len(buffer), left))
            read.update(buffer[:got])
            left -= got

    threads = [threading.Thread(target=write), threading.Thread(target=write), threading.Thread(target=receive)]
    for thread in threads:
        thread.start()
    both_ways(client, up, heard)
    for thread in threads:
        thread.join()
    assert heard.digest() == hashlib.sha256(down).digest()
    assert read.digest() == hashlib.sha256(up).digest()


def test_a_handshake_wins_no_time_by_coming_slowly(authority: Authority) -> None:
    certificate, key = authority.issue("server")
    here, there = socket.socketpair()
    wire = ssl.MemoryBIO()
    hello = authority.client_context().wrap_bio(ssl.MemoryBIO(), wire, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    ended = threading.Event()

    def drip() -> None:
        for byte in wire.read():
            if ended.wait(0.02):
                return
            with contextlib.suppress(OSError):
                there.send(bytes([byte]))

    dripping = threading.Thread(target=drip)
    dripping.start()
    server = TlsSocket(here, Certificates(Files(certificate, key)).context())
    with there, contextlib.closing(server):
        with pytest.raises(TimeoutError):
            server.handshake(0.3)
        ended.set()
        dripping.join()


def test_a_thread_that_waits_is_woken_when_the_connection_is_shut_down(ends: tuple[TlsSocket, ssl.SSLSocket]) -> None:
    server, _ = ends
    ended = threading.Event()
    got: list[bytes | str] = []

    def receive() -> None:
        got.append(server.recv(10))
        ended.set()

    def fill() -> None:
        try:
            while True:
                server.sendall(bytes(1 << 20))  # until the peer, which does not read, has no room
        except OSError:
            got.append("cannot be sent")

    threads = [threading.Thread(target=receive), threading.Thread(target=fill)]
    for thread in threads:
        thread.start()
    server.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(20)
    assert sorted(map(str, got)) == ["b''", "cannot be sent"]


def test_what_is_decrypted_already_counts_as_ready(ends: tuple[TlsSocket, ssl.SSLSocket]) -> None:
    server, client = ends
    client.sendall(b"0123456789")
    assert server.recv(4) == b"0123"
    assert server.pending() == 6
    assert server.recv(100) == b"456789"
    assert server.pending() == 0
