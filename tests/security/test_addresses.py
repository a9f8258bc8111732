"""Where a worker listens, and which files and directories it takes for private: what is refused says value, rule and remedy."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from authority import Authority, replace
from lane_client import TOKEN, Worker

from bridge_adapter import listening
from bridge_adapter.private_files import NotPrivate, private_directory, read_secret
from bridge_adapter.tokens import BadToken, Tokens


def refused(*flags: str, **env: str) -> str:
    """What an executor says that does not start."""
    ended = subprocess.run(
        [sys.executable, "-m", "bridge_adapter.executor", *flags, "--stay"],
        input="",
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "SNAKEBRIDGE_TOKEN": "a token that is long enough", **env},
        check=False,
    )
    assert ended.returncode in (1, 2)
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_the_socket_is_private_and_so_is_the_directory_that_is_made_for_it(tmp_path: Path) -> None:
    with Worker(listen=f"unix:{tmp_path}/new/w.sock"):
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "new" / "w.sock").stat().st_mode) == 0o600


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    said = refused("--listen", f"unix:{open_to_all}/w.sock")
    assert f"the directory {open_to_all} has mode 0755; that of a socket must have 0700: chmod 700 {open_to_all}" in said
    assert not (open_to_all / "w.sock").exists()


def test_a_directory_that_is_a_link_a_file_or_anothers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(NotPrivate, match="is a symbolic link"):
        private_directory(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(NotPrivate, match="is no directory"):
        private_directory(tmp_path / "file")
    others = Path("/proc/1") if os.geteuid() else anothers(tmp_path)
    with pytest.raises(NotPrivate, match=r"belongs to user \d+, not to this one"):
        private_directory(others)


def anothers(tmp_path: Path) -> Path:
    """As root, a directory can be given away."""
    made = tmp_path / "given away"
    made.mkdir(mode=0o700)
    os.chown(made, 65534, 65534)
    return made


@pytest.mark.parametrize("address", ["tcp:0.0.0.0:0", "tcp:[::]:0"])
def test_an_address_that_others_reach_needs_tls(address: str) -> None:
    said = refused("--listen", address)
    assert f"{address} can be reached from other machines" in said
    assert "--tls-cert and --tls-key" in said
    assert "--insecure-remote allows it" in said


def test_an_unencrypted_remote_address_is_allowed_only_loudly() -> None:
    env = {"SNAKEBRIDGE_TOKEN": "a token that is long enough"}
    with Worker(listen="tcp:0.0.0.0:0", args=("--insecure-remote",), env=env) as worker:
        assert worker.address.startswith("tcp:0.0.0.0:")
        assert "WARNING: tcp:0.0.0.0:0 can be reached from other machines WITHOUT encryption" in "".join(worker.output)
    assert "it must have at least 16" in refused("--listen", "tcp:0.0.0.0:0", "--insecure-remote", SNAKEBRIDGE_TOKEN="short")


def test_loopback_needs_no_tls_in_either_family() -> None:
    assert listening.is_loopback("127.0.0.1")
    assert listening.is_loopback("127.8.9.1")
    assert listening.is_loopback("localhost")
    assert listening.is_loopback("::1")
    assert not listening.is_loopback("0.0.0.0")
    assert not listening.is_loopback("::")
    assert not listening.is_loopback("192.0.2.1")
    assert listening.split("[::1]:80") == ("::1", 80)
    for text in ("::1:80", "localhost", "localhost:http", ":80", "localhost:99999"):
        with pytest.raises(listening.BadAddress, match="is no address"):
            listening.split(text)


def test_tls_flags_that_do_not_fit_are_refused(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server")
    flags = ("--tls-cert", certificate, "--tls-key", key)
    assert "needs a certificate and its key" in refused("--listen", "tls:127.0.0.1:0")
    assert "listen on tls: or leave them out" in refused("--listen", f"unix:{tmp_path}/w.sock", *flags)
    assert "it must have at least 16" in refused("--listen", "tls:127.0.0.1:0", *flags, SNAKEBRIDGE_TOKEN=TOKEN)
    assert "the authorities in" in refused("--listen", "tls:127.0.0.1:0", *flags, "--tls-client-ca", key)
    assert "no such file" in refused("--listen", "tls:127.0.0.1:0", "--tls-cert", "/none.pem", "--tls-key", key).lower()
    _, other = authority.issue("other")
    assert "key values mismatch" in refused("--listen", "tls:127.0.0.1:0", "--tls-cert", certificate, "--tls-key", other)
    os.chmod(key, 0o644)
    assert f"{key} has mode 0644, so others may read it" in refused("--listen", "tls:127.0.0.1:0", *flags)


def test_a_secret_that_others_may_read_is_none(tmp_path: Path) -> None:
    path = str(tmp_path / "token")
    replace(path, b"a token that is long enough\n")
    assert read_secret(path) == b"a token that is long enough\n"
    os.chmod(path, 0o604)
    with pytest.raises(BadToken, match=r"has mode 0604, so others may read it; a secret needs 06[04]0 or less: chmod 600"):
        Tokens.of_file(path)
    said = refused("--listen", "tcp:127.0.0.1:0", "--token-file", path)
    assert "has mode 0604" in said
    assert "long enough" not in said
    with pytest.raises(BadToken, match="No such file"):
        Tokens.of_file(str(tmp_path / "none"))


def test_a_token_is_kept_as_a_digest_only() -> None:
    tokens = Tokens("a token that is long enough")
    assert tokens.accepts("a token that is long enough")
    assert not any(tokens.accepts(other) for other in ("", "a token that is long enougH", "a token that is long enough ", "\ud800"))
    assert "long enough" not in repr(vars(tokens))
