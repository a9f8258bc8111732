"""Lineage recovery: a session that records how its objects came about, and makes them anew when its process has died.

`records` says what is kept, `store` keeps it in the journal's file, `digest` tells whether two objects have the same state, `recorder`
decides what is recorded, `replay` runs it again. docs/recovery.md has the rules. Only sessions with `recover: :lineage` load any of it.
"""
