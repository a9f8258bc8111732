"""Certificates of a server from files: checked at the start, read again when they change, kept when what is there instead is broken.

The same files serve the lane (`secure`) and, in the gateway, gRPC.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bridge_adapter.private_files import NotPrivate, Version, read_secret

if TYPE_CHECKING:
    from bridge_adapter.tls_socket import TlsSocket

HANDSHAKE_SECONDS = 10.0


class BadCertificate(ValueError):
    """The files cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of PEM files: the certificate with its chain, its key, and the authorities whose clients are let in (none: any client)."""

    certificate: str
    key: str
    client_ca: str = ""

    def versions(self) -> tuple[Version | None, ...]:
        return tuple(Version.of(path) for path in (self.certificate, self.key, self.client_ca) if path)

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, with what is in the files now. Raises BadCertificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.num_tickets = 0  # lane connections are long-lived: nobody resumes one
        try:
            read_secret(self.key)
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except NotPrivate as error:
            raise BadCertificate(str(error)) from None
        except OSError as error:  # ssl.SSLError among them
            raise BadCertificate(
                f"the certificate {self.certificate} with the key {self.key} cannot be used: {_reason(error)}; "
                "both must be PEM files, the key that of the certificate and not encrypted"
            ) from None
        if self.client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self.client_ca)
            except OSError as error:
                raise BadCertificate(
                    f"the authorities in {self.client_ca} cannot be used: {_reason(error)}; it must be a PEM file"
                ) from None
        return context


class Certificates:
    """A server's side of TLS, as its files say at the moment. Raises BadCertificate when they are not usable at the start."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._versions = files.versions()
        self._context = files.context()
        self._lock = threading.Lock()

    def context(self) -> ssl.SSLContext:
        """For the next connection. A change of the files that cannot be used is told once, and changes nothing."""
        with self._lock:
            versions = self._files.versions()
            if versions != self._versions:
                self._versions = versions
                try:
                    self._context = self._files.context()
                except BadCertificate as error:
                    print(f"bridge_adapter: {error}; those before stay in use", file=sys.stderr, flush=True)
            return self._context

    def secure(self, client: socket.socket) -> TlsSocket:
        """Shakes hands with a client, on the thread that will serve it. Raises OSError when that fails; the client is closed then."""
        from bridge_adapter.tls_socket import TlsSocket

        try:
            secured = TlsSocket(client, self.context())
        except BaseException:
            client.close()
            raise
        try:
            secured.handshake(HANDSHAKE_SECONDS)
        except BaseException:
            secured.turn_away()
            raise
        return secured


def _no_password() -> bytes:
    # Without this OpenSSL would ask the terminal for one.
    return b""


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)
