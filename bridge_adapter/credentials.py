"""What an executor asks of its clients, and what it shows them: the flags for it, the token, the certificate.

A worker on a unix socket loads nothing of TLS.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from bridge_adapter import lifeline
from bridge_adapter.tokens import GRACE_SECONDS, BadToken, Tokens, check_length

if TYPE_CHECKING:
    from bridge_adapter.tls import Certificates

TOKEN = "SNAKEBRIDGE_TOKEN"
TOKEN_FILE = "SNAKEBRIDGE_TOKEN_FILE"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `open_tokens` and `open_certificates` read."""
    add = parser.add_argument
    add("--tls-cert", metavar="FILE", help="PEM file with the certificate for tls:, and its chain")
    add("--tls-key", metavar="FILE", help="PEM file with its key, readable by this user only")
    add("--tls-client-ca", default="", metavar="FILE", help="let in only clients with a certificate of these authorities")
    add("--token-file", default="", metavar="FILE", help="where the token is; read again when it changes")
    add("--token-grace", type=float, default=GRACE_SECONDS, metavar="SECONDS", help="how long the token before a change is accepted (300)")
    add("--insecure-remote", action="store_true", help="let tcp: listen where other machines reach it, unencrypted")


def open_tokens(arguments: argparse.Namespace) -> Tokens:
    """What clients must show. Raises BadToken, a ValueError. User code and what it starts find neither in its environment."""
    token, path = lifeline.take_variable(TOKEN), os.environ.pop(TOKEN_FILE, "")
    path = arguments.token_file or path
    if path:
        return Tokens.of_file(path, arguments.token_grace)
    if not token:
        raise BadToken(f"set {TOKEN} to the secret that clients must show, or {TOKEN_FILE} (--token-file) to a file that holds it")
    if arguments.listen.startswith("tls:") or arguments.insecure_remote:
        check_length(token)
    return Tokens(token)


def open_certificates(arguments: argparse.Namespace) -> Certificates | None:
    """What the worker proves itself with, on an address that is encrypted. Raises ValueError."""
    given = arguments.tls_cert, arguments.tls_key
    if not arguments.listen.startswith("tls:"):
        if any(given) or arguments.tls_client_ca:
            raise ValueError(
                f"--tls-... are for an address tls:HOST:PORT; {arguments.listen} is not encrypted: listen on tls: or leave them out"
            )
        return None
    if not all(given):
        raise ValueError(f"{arguments.listen} needs a certificate and its key: --tls-cert FILE --tls-key FILE")
    from bridge_adapter.tls import Certificates, Files

    return Certificates(Files(*given, arguments.tls_client_ca))
