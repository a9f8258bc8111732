"""Fuzzes the decoder of `packed`: any bytes are a value that encodes again, or a CodecError. Run by `make fuzz`."""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["bridge_adapter"]):
    from bridge_adapter.codec import CodecError
    from bridge_adapter.codec.packed import Packer, Unpacker

from seeds import run, vectors

UNPACKER, PACKER = Unpacker(), Packer()


def decode(data: bytes) -> None:
    try:
        value = UNPACKER.unpack(data)
    except CodecError:
        return
    PACKER.pack(value)


if __name__ == "__main__":
    run(decode, map(bytes.fromhex, vectors("packed")))
