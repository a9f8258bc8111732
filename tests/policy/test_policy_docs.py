"""docs/permissions.md names every rule of the default policy, and the table of roles is the one that holds."""

from __future__ import annotations

from pathlib import Path

from bridge_adapter.policy import defaults
from bridge_adapter.policy.access import OPERATIONS, PERMISSIONS, ROLES

PAGE = (Path(__file__).parents[2] / "docs" / "permissions.md").read_text()


def test_every_rule_stands_on_the_page() -> None:
    for text in (*defaults.REFUSED, *defaults.OUR_OWN, *defaults.PUBLIC, *defaults.SPECIAL, *defaults.INTERNAL):
        assert f"`{text}`" in PAGE, text


def test_the_roles_on_the_page_have_the_permissions_that_it_says() -> None:
    for permission in PERMISSIONS[:6]:
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{permission}` |"))
        marks = [cell.strip() == "•" for cell in row.split("|")[2:6]]
        assert marks == [permission in ROLES[role] for role in ("viewer", "user", "operator", "admin")], permission
    assert set(OPERATIONS.values()) <= {*PERMISSIONS, None}
