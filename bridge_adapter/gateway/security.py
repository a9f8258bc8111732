"""Who may call the gateway, and how its gRPC port is encrypted. Without a word of the user: anybody on this machine, and nobody else.

Snakepit speaks to its workers on loopback without encryption and without a token; what is here is for other gRPC clients.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge_adapter import listening
from bridge_adapter.tokens import GRACE_SECONDS, Tokens

if TYPE_CHECKING:
    import grpc

    from bridge_adapter.tls import Files

_PREFIX = "Bearer "


@dataclass(frozen=True, slots=True)
class Security:
    """Settings. Paths are empty where nothing was said."""

    certificate: str = ""
    key: str = ""
    client_ca: str = ""
    token_file: str = ""
    token_grace: float = GRACE_SECONDS
    insecure_remote: bool = False

    @classmethod
    def of(cls, flags: argparse.Namespace) -> Security:
        return cls(flags.tls_cert, flags.tls_key, flags.tls_client_ca, flags.token_file, flags.token_grace, flags.insecure_remote)

    @property
    def encrypted(self) -> bool:
        return bool(self.certificate and self.key)

    def check(self, host: str, port: int) -> None:
        """Raises ValueError for an address that should not be listened on with these settings, OSError for one that is not known."""
        if bool(self.certificate) != bool(self.key):
            raise ValueError("--tls-cert and --tls-key belong together: name both or neither")
        if self.client_ca and not self.encrypted:
            raise ValueError("--tls-client-ca asks clients for certificates, which takes TLS: name --tls-cert and --tls-key, too")
        place = f"{host}:{port}"
        if not self.encrypted:
            listening.refuse_remote(host, place, "name --tls-cert and --tls-key", allowed=self.insecure_remote)
        elif not (self.client_ca or self.token_file) and not listening.is_loopback(host):
            raise ValueError(
                f"{place} can be reached from other machines, and anybody there could run code as this user: "
                "ask clients for certificates (--tls-client-ca FILE) or for a token (--token-file FILE)"
            )

    def files(self) -> Files:
        from bridge_adapter.tls import Files

        return Files(self.certificate, self.key, self.client_ca)


def add_flags(add: Callable[..., Any], environment: Mapping[str, str]) -> None:
    """The flags that `Security.of` reads; each has an environment variable, since Snakepit passes only flags of its own."""

    def of_environment(name: str) -> str:
        return environment.get("BRIDGE_ADAPTER_" + name) or ""

    add("--tls-cert", default=of_environment("TLS_CERT"), metavar="FILE", help="PEM file: serve with TLS, with this certificate")
    add("--tls-key", default=of_environment("TLS_KEY"), metavar="FILE", help="PEM file with its key, readable by this user only")
    add("--tls-client-ca", default=of_environment("TLS_CLIENT_CA"), metavar="FILE", help="let in only clients with a certificate of these")
    add("--token-file", default=of_environment("TOKEN_FILE"), metavar="FILE", help="clients must send `authorization: Bearer TOKEN`")
    add("--token-grace", type=float, default=GRACE_SECONDS, metavar="SECONDS", help="how long the token before a change is accepted")
    add("--insecure-remote", action="store_true", help="let --host be an address that other machines reach, unencrypted")


def credentials(files: Files) -> grpc.ServerCredentials:
    """TLS for gRPC from files, which are looked at for every connection. Raises BadCertificate when they cannot be used now."""
    import grpc

    from bridge_adapter.private_files import NotPrivate, read_secret
    from bridge_adapter.tls import Certificates

    certificates = Certificates(files)

    def configuration() -> grpc.ServerCertificateConfiguration:
        with open(files.certificate, "rb") as chain:
            pair = (read_secret(files.key), chain.read())
        authorities = None
        if files.client_ca:
            with open(files.client_ca, "rb") as file:
                authorities = file.read()
        return grpc.ssl_server_certificate_configuration([pair], authorities)

    before = certificates.context()
    current = configuration()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        # The context is the same one as long as the files are, or while they are broken.
        nonlocal before
        context = certificates.context()
        if context is before:
            return None
        try:
            new = configuration()
        except (OSError, NotPrivate):  # changed again in this very moment: the next connection sees what it became
            return None
        before = context
        return new

    return grpc.dynamic_ssl_server_credentials(current, changed, require_client_authentication=bool(files.client_ca))


def guard(tokens: Tokens) -> grpc.aio.ServerInterceptor:
    """Lets only calls through whose metadata has the token."""
    import grpc

    async def refuse(_request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(
            grpc.StatusCode.UNAUTHENTICATED, "the call needs the metadata `authorization: Bearer TOKEN`, with the token of this server"
        )

    refusal = grpc.unary_unary_rpc_method_handler(refuse)

    class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
        async def intercept_service(
            self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
        ) -> grpc.RpcMethodHandler[Any, Any]:
            given = next((value for key, value in handler_call_details.invocation_metadata if key == "authorization"), "")
            if isinstance(given, str) and given.startswith(_PREFIX) and tokens.accepts(given.removeprefix(_PREFIX)):
                return await continuation(handler_call_details)
            return refusal

    return Guard()
