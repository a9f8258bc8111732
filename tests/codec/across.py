"""A BEAM that decodes and encodes what it is sent (echo.exs), and what to do with a value that does not come back."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hypothesis.errors import Flaky

ROOT = Path(__file__).parents[2]
START_SECONDS = 100  # a clean clone compiles first
FOUND = Path(__file__).parent / "found"
USUAL = 2000
EXAMPLES = int(os.environ.get("CODEC_EXAMPLES", USUAL))
"""How many values each side sends to the other; `make soak-codec` asks for more."""


def examples(usual: int) -> int:
    """How many examples a property gets: as many times more than usual as CODEC_EXAMPLES asks for."""
    return max(1, usual * EXAMPLES // USUAL)


class Beam:
    """One BEAM for all tests of a session."""

    def __init__(self) -> None:
        self.sent = 0
        self._started = time.monotonic()
        environment = {**os.environ, "MIX_ENV": "test"}
        with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as server:
            path = f"{directory}/echo"
            server.bind(path)
            server.listen()
            server.settimeout(1)
            self._process = subprocess.Popen(
                ["mix", "run", "--no-start", "tests/codec/echo.exs", path], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL
            )
            self._socket = self._accepted(server)
            self._socket.settimeout(60)

    def _accepted(self, server: socket.socket) -> socket.socket:
        for _ in range(START_SECONDS):
            try:
                return server.accept()[0]
            except TimeoutError:
                if self._process.poll() is not None:
                    break
        self._process.kill()
        self._process.wait()
        raise RuntimeError("the BEAM of tests/codec/echo.exs did not start; run: MIX_ENV=test mix compile")

    def close(self) -> None:
        self._socket.close()
        self._process.wait(10)

    def ask(self, mode: str, parts: Sequence[bytes]) -> list[bytes]:
        """The answer for each part: its bytes with a "+" before them, or a "-" and why there are none."""
        body = mode.encode() + b"".join(struct.pack(">I", len(part)) + part for part in parts)
        self._socket.sendall(struct.pack(">I", len(body)) + body)
        body = self._exactly(struct.unpack(">I", self._exactly(4))[0])
        answers, at = [], 0
        while at < len(body):
            size = struct.unpack_from(">I", body, at)[0]
            answers.append(body[at + 4 : at + 4 + size])
            at += 4 + size
        if self.sent // 20_000 != (self.sent + len(parts)) // 20_000:
            print(f"{self.sent + len(parts)} values, {time.monotonic() - self._started:.0f} s", flush=True)
        self.sent += len(parts)
        return answers

    def through(self, mode: str, parts: Sequence[bytes]) -> list[bytes]:
        """The same where every part must come back."""
        answers = self.ask(mode, parts)
        assert len(answers) == len(parts) or not parts
        for index, answer in enumerate(answers):
            assert answer[:1] == b"+", f"{answer.decode(errors='replace')} (for {parts[index].hex() if parts else 'a term'})"
        return [answer[1:] for answer in answers]

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise ConnectionError("the BEAM of tests/codec/echo.exs has ended; its error stands above")
            data = data + more if data else more
        return data


class Finding:
    """The last value that a property failed for."""

    data: bytes | None = None


@contextmanager
def kept() -> Iterator[Callable[[bytes], None]]:
    """Writes the last bytes that were named before a failure (the smallest example that hypothesis found) to tests/codec/found, where every
    later run begins."""
    finding = Finding()

    def name(data: bytes) -> None:
        finding.data = data

    try:
        yield name
    except Exception as error:
        # One that does not fail again met the test's time limit.
        if finding.data is not None and not isinstance(error, Flaky):
            FOUND.mkdir(exist_ok=True)
            (FOUND / f"{hashlib.sha256(finding.data).hexdigest()[:12]}.packed").write_bytes(finding.data)
        raise


def found() -> list[bytes]:
    """What has been found."""
    return [path.read_bytes() for path in sorted(FOUND.glob("*.packed"))]
