"""The lane over TLS, against a real worker: who is let in, what travels, and what happens to clients that are broken or slow."""

from __future__ import annotations

import contextlib
import ssl
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from authority import Authority, client, dial, dial_tls, remote_worker, replace
from lane_client import LaneError, Worker, payload

from bridge_adapter import lane


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, Authority]]:
    """A worker that the tests of this module share."""
    authority = Authority(tmp_path_factory.mktemp("shared"), "ours")
    with remote_worker(authority) as worker:
        yield worker, authority


@contextlib.contextmanager
def open_client(*arguments: object, **options: object) -> Iterator[object]:
    connection = client(*arguments, **options)  # type: ignore[arg-type]
    try:
        yield connection
    finally:
        connection.lane.close()


def turned_away(worker: Worker, context: ssl.SSLContext) -> str:
    """Why a client does not get as far as hello. With TLS 1.3 a client hears of its own certificate only when it reads."""
    with pytest.raises((OSError, ConnectionError)) as failure, contextlib.closing(dial_tls(worker.address, context)) as secured:
        secured.sendall(lane.frame(b"\x90"))
        if not secured.recv(1):
            raise ConnectionError("closed")
    return str(failure.value).lower()


def test_calls_streams_callbacks_and_large_values_travel_encrypted(running: tuple[Worker, Authority]) -> None:
    with open_client(*running) as caller:
        assert caller.lane.sock.version() == "TLSv1.3"
        assert caller.call("math", "sqrt", 16) == 4.0
        assert caller.stream("builtins", "range", 1000) == list(range(1000))
        double = caller.function("double", 1, lambda number: 2 * number)
        assert caller.call("builtins", "list", caller.call("builtins", "map", double, [1, 2, 3])) == [2, 4, 6]
        large = bytes(range(256)) * (1 << 16)
        assert caller.call("builtins", "bytes", large) == large


def test_threads_of_a_call_may_send_while_its_connection_reads(running: tuple[Worker, Authority]) -> None:
    """Items go out on a thread of their own while credit and callbacks come in: both ways at once, many times."""
    with open_client(*running, features=("messages",)) as caller:
        echo = caller.function("echo", 1, lambda value: value)
        for _ in range(3):
            mapped = caller.call("builtins", "map", echo, list(range(500)))
            id = caller.open_stream(payload("builtins", "iter", (mapped,), {}, "s"), credit=16)
            items: list[int] = []

            def take(batch: list[int], id: int = id, items: list[int] = items) -> None:
                items.extend(batch)
                caller.send(lane.notification("credit", [id, len(batch)]))

            caller.answer(id, take)
            assert items == list(range(500))


def test_a_client_that_does_not_read_holds_up_nobody_else(running: tuple[Worker, Authority]) -> None:
    with open_client(*running) as lazy, open_client(*running) as other:
        lazy.send(lane.request(900, "call", {"tool": "snakebridge.call", "payload": payload("builtins", "bytes", (64 << 20,), {}, "lazy")}))
        assert other.call("math", "sqrt", 16) == 4.0
        assert len(lazy.answer(900)) == 64 << 20


def test_a_certificate_of_another_authority_is_not_accepted_by_clients(running: tuple[Worker, Authority]) -> None:
    worker, authority = running
    other = Authority(authority.directory, "other")
    assert "certificate" in turned_away(worker, other.client_context())
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
        dial_tls(worker.address, authority.client_context(), host="elsewhere.example")


def test_an_expired_certificate_is_not_accepted_by_clients(authority: Authority) -> None:
    with remote_worker(authority) as worker:
        authority.issue("server", expired=True)
        assert "expired" in turned_away(worker, authority.client_context())


def test_mutual_tls_lets_in_only_clients_with_a_certificate_of_the_authority(authority: Authority) -> None:
    other = Authority(authority.directory, "other")
    strange, expired, good = other.issue("strange"), authority.issue("old", expired=True), authority.issue("client")
    with remote_worker(authority, "--tls-client-ca", authority.pem) as worker:
        turned_away(worker, authority.client_context())
        turned_away(worker, authority.client_context(strange))
        turned_away(worker, authority.client_context(expired))
        with open_client(worker, authority, good) as caller:
            assert caller.call("math", "sqrt", 16) == 4.0
        with pytest.raises(LaneError, match="unauthorized: wrong token"):
            client(worker, authority, good, token="guess")


def test_clients_that_say_nothing_or_speak_no_tls_hold_up_nobody(running: tuple[Worker, Authority]) -> None:
    worker, authority = running
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(contextlib.closing(dial(worker.address)))
        half = stack.enter_context(contextlib.closing(dial(worker.address)))
        half.sendall(b"\x16\x03\x01\x02\x00")  # the beginning of a handshake that never goes on
        plain = stack.enter_context(contextlib.closing(dial(worker.address)))
        plain.sendall(lane.frame(b"\x94\x00\x01\xa5hello\x80"))
        with contextlib.suppress(ConnectionResetError):
            while plain.recv(1024):  # an alert, then the end
                continue
        quiet = stack.enter_context(contextlib.closing(dial_tls(worker.address, authority.client_context())))
        quiet.sendall(struct.pack(">I", 100))  # and no hello behind it
        with open_client(worker, authority) as caller:
            assert caller.call("math", "sqrt", 16) == 4.0


def test_old_versions_of_tls_are_refused(running: tuple[Worker, Authority]) -> None:
    worker, authority = running
    context = authority.client_context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    turned_away(worker, context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with contextlib.closing(dial_tls(worker.address, context)) as secured:
        assert secured.version() == "TLSv1.2"


def test_new_certificates_serve_new_connections_and_broken_ones_change_nothing(authority: Authority) -> None:
    second = Authority(authority.directory, "second")
    with remote_worker(authority) as worker, open_client(worker, authority) as before:
        second.issue("server")
        with open_client(worker, second) as after:
            assert before.call("math", "sqrt", 16) == after.call("math", "sqrt", 16) == 4.0
        turned_away(worker, authority.client_context())
        replace(f"{authority.directory}/server.pem", b"no certificate")
        with open_client(worker, second) as still:
            assert still.call("math", "sqrt", 16) == 4.0
        assert wait_for_line(worker, "those before stay in use")


def test_a_token_is_replaced_without_a_restart(authority: Authority) -> None:
    path = f"{authority.directory}/token"
    replace(path, b"the first token of all\n")
    flags = ("--token-file", path, "--token-grace", "600")
    with remote_worker(authority, *flags, env={"SNAKEBRIDGE_TOKEN": ""}) as worker:
        with open_client(worker, authority, token="the first token of all") as first:
            replace(path, b"the second token of all\n")
            for token in ("the second token of all", "the first token of all"):
                with open_client(worker, authority, token=token) as caller:
                    assert caller.call("math", "sqrt", 16) == 4.0
            assert first.call("builtins", "list") == []
        replace(path, b"short")
        with open_client(worker, authority, token="the second token of all") as caller:
            assert caller.call("os", "environ.get", "SNAKEBRIDGE_TOKEN") is None
        said = wait_for_line(worker, "it must have at least 16")
        assert "short" not in said
        assert "second token" not in "".join(worker.output)


def test_without_grace_the_token_before_is_refused_at_once(authority: Authority) -> None:
    path = f"{authority.directory}/token"
    replace(path, b"the first token of all\n")
    env = {"SNAKEBRIDGE_TOKEN": "", "SNAKEBRIDGE_TOKEN_FILE": path}
    with remote_worker(authority, "--token-grace", "0", env=env) as worker:
        client(worker, authority, token="the first token of all").lane.close()
        replace(path, b"the second token of all\n")
        client(worker, authority, token="the second token of all").lane.close()
        with pytest.raises(LaneError, match="unauthorized"):
            client(worker, authority, token="the first token of all")
        assert "127.0.0.1:" in wait_for_line(worker, "was turned away: it has shown a wrong token")
        assert "of all" not in "".join(worker.output)


def test_a_client_that_is_cut_off_leaves_a_worker_that_serves_others(running: tuple[Worker, Authority]) -> None:
    with open_client(*running) as other:
        for _ in range(10):
            broken = client(*running)
            broken.send(lane.request(7, "call", {"tool": "snakebridge.call", "payload": payload("builtins", "bytes", (8 << 20,), {}, "s")}))
            broken.lane.sock.close()
        assert other.call("math", "sqrt", 16) == 4.0


def test_a_process_that_user_code_forks_sends_nothing_on_the_connection(running: tuple[Worker, Authority]) -> None:
    with open_client(*running) as caller:
        code = "(lambda os: (lambda pid: pid and os.waitpid(pid, 0)[1])(os.fork()))(__import__('os'))"
        assert caller.call("builtins", "eval", code) == 0
        assert caller.call("math", "sqrt", 16) == 4.0


def wait_for_line(worker: Worker, text: str) -> str:
    """The line of the worker's output that has the text."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for line in worker.output:
            if text in line:
                return line
        threading.Event().wait(0.01)
    raise AssertionError(f"no line with {text!r}: {worker.output}")
