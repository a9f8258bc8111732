"""Benchmarks: `python -m bench calls|streams|payloads|all [--json]`. Elixir is the caller wherever a row says so."""
