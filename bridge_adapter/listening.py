"""Where a worker listens: a unix socket in a private directory, loopback TCP, or TLS for other machines.

Whoever gets a connection and shows the token runs code as this user, so an address that other machines reach is refused unless the
connection is encrypted.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from bridge_adapter.errors import Overloaded
from bridge_adapter.private_files import private_directory

BACKLOG = 128
# A peer whose machine has vanished is noticed after 30 + 3 * 10 s of silence. No TCP_USER_TIMEOUT: the kernel takes a client that reads its
# stream slowly, and so leaves no room for more, for one that has vanished.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


class BadAddress(ValueError):
    """Nobody may listen there, or it is no address; the message says why."""


def listen(address: str, *, insecure_remote: bool = False) -> tuple[socket.socket, str]:
    """A listening socket for an address, and the address that clients use. Raises BadAddress, NotPrivate or OSError."""
    kind, _, place = address.partition(":")
    if kind == "unix":
        return _listen_unix(place), address
    if kind not in ("tcp", "tls"):
        raise BadAddress("an address begins with unix: or tcp: (or tls:, with --tls-cert and --tls-key)")
    host, port = split(place, kind)
    if kind == "tcp":
        refuse_remote(host, f"{kind}:{place}", "listen on tls: with --tls-cert and --tls-key", allowed=insecure_remote)
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    name, number = listener.getsockname()[:2]
    return listener, f"{kind}:[{name}]:{number}" if ":" in name else f"{kind}:{name}:{number}"


def _listen_unix(place: str) -> socket.socket:
    private_directory(Path(place).parent)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(place)
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    return listener


def split(place: str, kind: str = "tcp") -> tuple[str, int]:
    """Host and port of `host:port` or `[v6 address]:port`. Raises BadAddress."""
    host, _, port = place.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not host or not port.isdigit() or int(port) > 65535 or (":" in host and not bracketed):
        raise BadAddress(f"{kind}:{place} is no address; a {kind.upper()} address is {kind}:HOST:PORT, of IPv6 {kind}:[HOST]:PORT")
    return (host[1:-1] if bracketed else host), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that host name or address. Raises OSError for a name that is not known."""
    import ipaddress

    found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    return all(ipaddress.ip_address(str(place[0]).partition("%")[0]).is_loopback for *_, place in found)


def refuse_remote(host: str, address: str, remedy: str, *, allowed: bool) -> None:
    """Raises BadAddress for a host that other machines reach; with `allowed` it is only said, loudly."""
    if is_loopback(host):
        return
    if not allowed:
        raise BadAddress(
            f"{address} can be reached from other machines, and what travels there would not be encrypted, the token included; "
            f"{remedy}, or on a loopback address (127.0.0.1). --insecure-remote allows it, for networks that encrypt by themselves"
        )
    print(
        f"bridge_adapter: WARNING: {address} can be reached from other machines WITHOUT encryption (--insecure-remote): "
        "whoever can read this network can read the token and run code as this user",
        file=sys.stderr,
        flush=True,
    )


def tune(client: socket.socket) -> None:
    """Options of an accepted connection: small messages at once, and a peer that has vanished is noticed."""
    if client.family == socket.AF_UNIX:
        return
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        option = getattr(socket, name, None)
        if option is not None:  # Linux has them all
            client.setsockopt(socket.IPPROTO_TCP, option, value)


def crowded(most: int) -> Overloaded:
    """What a client is told when as many are connected as may."""
    return Overloaded(
        f"{most} connections to this worker are open, as many as may (max_connections); use fewer at a time, "
        "or start the worker with BRIDGE_ADAPTER_MAX_CONNECTIONS set to more",
        1000,
        connections=most,
    )


def peer(client: socket.socket) -> str:
    """Who is at the other end, as far as the system tells."""
    name = client.getpeername()
    return "{}:{}".format(*name[:2]) if isinstance(name, tuple) else "a process of this machine"


class Strangers:
    """What is said of clients that were turned away: a line a second at most, so that they cannot fill the log."""

    def __init__(self) -> None:
        self._last = -1.0
        self._unsaid = 0

    def tell(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last < 1.0:
            self._unsaid += 1
            return
        more = f" (and {self._unsaid} more before)" if self._unsaid else ""
        self._last, self._unsaid = now, 0
        print(f"bridge_adapter: {text}{more}", file=sys.stderr, flush=True)
