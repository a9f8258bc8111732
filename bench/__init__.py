"""Benchmarks: `python -m bench calls|streams|payloads|codec|all [--json]`. Elixir is the caller wherever a row says so."""
