"""The tables of the journal's file, and how a file of an older version comes to have them. Version 2 added those of lineages."""

from __future__ import annotations

from typing import Final

APPLICATION: Final = 0x534E4A4C  # "SNJL"
# Each entry brings the file from the version before it to its own; the last is today's. Never change one that was released.
MIGRATIONS: Final = (
    """
    CREATE TABLE calls (
        key TEXT PRIMARY KEY, digest TEXT NOT NULL, form TEXT NOT NULL, state INTEGER NOT NULL, attempts INTEGER NOT NULL,
        owner TEXT NOT NULL, began REAL NOT NULL, expires REAL NOT NULL, ended REAL, refs TEXT NOT NULL DEFAULT '', answer BLOB
    );
    """,
    """
    CREATE TABLE lineages (
        session TEXT PRIMARY KEY, owner TEXT NOT NULL, touched REAL NOT NULL, rebuilds INTEGER NOT NULL DEFAULT 0,
        broken TEXT NOT NULL DEFAULT ''
    );
    CREATE TABLE lineage_records (
        session TEXT NOT NULL, seq INTEGER NOT NULL, kind INTEGER NOT NULL, label TEXT NOT NULL, refs TEXT NOT NULL, given TEXT NOT NULL,
        digests TEXT NOT NULL, raised TEXT NOT NULL, count INTEGER NOT NULL, last INTEGER NOT NULL, key TEXT NOT NULL,
        reads INTEGER NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (session, seq)
    );
    CREATE TABLE lineage_lost (session TEXT NOT NULL, ref TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (session, ref));
    CREATE TABLE lineage_checkpoints (
        session TEXT NOT NULL, ref TEXT NOT NULL, seq INTEGER NOT NULL, count INTEGER NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (session, ref)
    );
    """,
)
LINEAGES: Final = ("lineage_records", "lineage_checkpoints", "lineage_lost", "lineages")
