"""The journal of idempotent calls: what has been asked under which key, and what came of it. docs/reliability.md has the rules.

`records` says what is kept, `store` keeps it (SQLite, shared by the workers of a pool), `once` runs calls under their keys.
Only `store` loads SQLite: a worker whose calls have no keys does without.
"""
