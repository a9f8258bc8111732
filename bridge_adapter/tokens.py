"""The secret that clients show: fixed, or in a file that may be replaced while the worker runs.

Only digests are kept and compared, in constant time. After a change of the file the token before it is accepted for a while, so that both
sides can be changed one after the other.
"""

from __future__ import annotations

import hashlib
import hmac
import sys
import threading
import time

from bridge_adapter.private_files import NotPrivate, Version, read_secret

GRACE_SECONDS = 300.0
SHORTEST = 16  # bytes, of a token that the network may guess at


class BadToken(ValueError):
    """There is no usable token; the message says why, and never what was there instead."""


class Tokens:
    """Which tokens are accepted. Any thread may ask."""

    def __init__(self, token: str) -> None:
        self._current = _digest(token)
        self._previous = self._current
        self._previous_until = 0.0
        self._path = ""
        self._grace = 0.0
        self._version: Version | None = None
        self._lock = threading.Lock()

    @classmethod
    def of_file(cls, path: str, grace: float = GRACE_SECONDS) -> Tokens:
        """The token in a file, which is read again when it changes. Raises BadToken."""
        version = Version.of(path)
        tokens = cls(_read(path))
        tokens._path, tokens._grace, tokens._version = path, grace, version
        return tokens

    def accepts(self, given: str) -> bool:
        """Whether a client that shows this token is served."""
        if self._path:
            self._refresh()
        digest = _digest(given)
        now, before = hmac.compare_digest(digest, self._current), hmac.compare_digest(digest, self._previous)
        return now or (before and time.monotonic() < self._previous_until)

    def _refresh(self) -> None:
        with self._lock:
            version = Version.of(self._path)
            if version == self._version:
                return
            self._version = version
            try:
                digest = _digest(_read(self._path))
            except BadToken as error:
                print(f"bridge_adapter: {error}; the token before is still the one that is accepted", file=sys.stderr, flush=True)
                return
            if digest != self._current:
                self._previous, self._previous_until = self._current, time.monotonic() + self._grace
                self._current = digest


def check_length(token: str) -> None:
    """Raises BadToken for a token that could be guessed over a network."""
    if len(token.encode()) < SHORTEST:
        raise BadToken(f"the token has {len(token.encode())} bytes; it must have at least {SHORTEST}, for example: openssl rand -base64 24")


def _read(path: str) -> str:
    try:
        token = read_secret(path).decode().strip()
    except UnicodeDecodeError:
        raise BadToken(f"the token in {path} is no UTF-8 text; write one with: openssl rand -base64 24") from None
    except (OSError, NotPrivate) as error:
        raise BadToken(f"no token can be read: {error}") from None
    try:
        check_length(token)
    except BadToken as error:
        raise BadToken(f"{path}: {error}") from None
    return token


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
