"""Fuzzes the decoder of `tagged`: any text is a value that encodes again, or a CodecError. Run by `make fuzz`."""

from __future__ import annotations

import json

import atheris

with atheris.instrument_imports(include=["bridge_adapter"]):
    from bridge_adapter.codec import CodecError, tagged

from seeds import run, vectors


def decode(data: bytes) -> None:
    try:
        value = tagged.loads(data, atom_class=True)
    except CodecError:
        return
    tagged.dumps(value, schema=2)


if __name__ == "__main__":
    run(decode, (json.dumps(form).encode() for key in ("tagged", "tagged2") for form in vectors(key)))
