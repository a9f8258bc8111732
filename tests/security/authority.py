"""Certificates made for this run, by authorities that nobody else trusts; and workers that show them."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme
from lane_client import Client, Worker

TOKEN = "a token of a remote worker"


class Authority:
    """An authority and what it has signed, as files of a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.name = directory, name
        self.ca = trustme.CA()
        self.pem = str(directory / f"{name}-ca.pem")
        self.ca.cert_pem.write_to_path(self.pem)

    def issue(self, place: str, host: str = "127.0.0.1", *, expired: bool = False) -> tuple[str, str]:
        """A certificate for that host and its key, written to files that begin with `place`."""
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=-1 if expired else 30)
        issued = self.ca.issue_cert(host, not_after=until, not_before=until - datetime.timedelta(days=60))
        certificate, key = f"{self.directory}/{place}.pem", f"{self.directory}/{place}.key"
        replace(certificate, b"".join(part.bytes() for part in issued.cert_chain_pems))
        replace(key, issued.private_key_pem.bytes())
        return certificate, key

    def client_context(self, certificate: tuple[str, str] | None = None) -> ssl.SSLContext:
        """What a client trusts, and what it shows."""
        context = ssl.create_default_context(cafile=self.pem)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return context


def replace(path: str, content: bytes) -> None:
    """Writes a file that only this user may read; who reads it meanwhile gets the one before, or this one whole."""
    descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.replace(f"{path}.new", path)


def dial(address: str) -> socket.socket:
    """A plain TCP connection to a worker."""
    host, _, port = address.partition(":")[2].rpartition(":")
    client = socket.create_connection((host, int(port)), timeout=30)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def dial_tls(address: str, context: ssl.SSLContext, host: str = "127.0.0.1") -> ssl.SSLSocket:
    """A TLS connection to a worker."""
    plain = dial(address)
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


@contextmanager
def remote_worker(authority: Authority, *flags: str, env: dict[str, str] | None = None) -> Iterator[Worker]:
    """A worker that listens with TLS on a certificate of that authority, the files server.pem and server.key."""
    certificate, key = authority.issue("server")
    arguments = ("--tls-cert", certificate, "--tls-key", key, *flags)
    with Worker(env={"SNAKEBRIDGE_TOKEN": TOKEN, **(env or {})}, listen="tls:127.0.0.1:0", args=arguments) as worker:
        yield worker


def client(worker: Worker, authority: Authority, certificate: tuple[str, str] | None = None, **options: Any) -> Client:
    """A connection of a client that trusts the authority."""
    return Client(dial_tls(worker.address, authority.client_context(certificate)), **{"token": TOKEN, **options})  # type: ignore[arg-type]
