"""`packed`: values as MessagePack with extension types, the native wire (docs/wire.md section 1)."""

from .packer import Packer
from .unpacker import Unpacker

__all__ = ["Packer", "Unpacker"]
