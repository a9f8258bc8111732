"""Roles by client certificate, on the lane: the subject that a verified certificate names is who calls."""

from __future__ import annotations

from pathlib import Path

import pytest
from authority import Authority, client, remote_worker
from lane_client import LaneError

ROLES = """
[access]
rbac_enabled = true
own = ["viewer"]
[[access.principals]]
name = "batch"
roles = ["user"]
subject = "batch.internal"
"""


def test_a_certificate_gives_the_roles_of_its_subject(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    policy = tmp_path / "policy.toml"
    policy.write_text(ROLES)
    batch = _named(authority, "batch.internal")
    stranger = _named(authority, "somebody.else")
    with remote_worker(authority, "--tls-client-ca", authority.pem, "--policy", str(policy)) as worker:
        caller = client(worker, authority, batch, token="none")
        assert caller.call("math", "sqrt", 16) == 4.0
        caller.close()
        # The worker's own token alone is a viewer's here, and a certificate that no principal has adds nothing.
        caller = client(worker, authority, stranger)
        with pytest.raises(LaneError) as refused:
            caller.call("math", "sqrt", 16)
        assert refused.value.category == "permission_denied"
        caller.close()
        with pytest.raises((LaneError, ConnectionError)):
            client(worker, authority, stranger, token="none")


def _named(authority: Authority, name: str) -> tuple[str, str]:
    issued = authority.ca.issue_cert(name, common_name=name)
    certificate, key = authority.directory / f"{name}.pem", authority.directory / f"{name}.key"
    certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return str(certificate), str(key)
