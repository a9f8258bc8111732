"""The bounds that keep a hostile or mistaken message from taking the process down."""

from __future__ import annotations

from dataclasses import dataclass

# msgpack's C decoder keeps a fixed stack of 1024 levels; a composite needs no level of its own.
MAX_DEPTH_CEILING = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one message. depth: nested containers; elements: container elements; frame: bytes; int_bits: size of one integer."""

    depth: int = 512
    elements: int = 1 << 24
    frame: int = 256 << 20
    int_bits: int = 1 << 22

    def problems(self) -> list[str]:
        """Every way in which these limits are unusable, as sentences. Empty when they are fine."""
        found = []
        if not 1 <= self.depth <= MAX_DEPTH_CEILING:
            found.append(f"max_depth is {self.depth}; it must be between 1 and {MAX_DEPTH_CEILING}")
        if not 1 <= self.elements < 1 << 31:
            found.append(f"max_elements is {self.elements}; it must be between 1 and 2147483647")
        if not 1024 <= self.frame <= 0xFFFFFFFF:
            found.append(f"max_frame is {self.frame} bytes; it must be between 1024 and 4294967295")
        if not 64 <= self.int_bits <= 1 << 26:
            found.append(f"max_int_bits is {self.int_bits}; it must be between 64 and {1 << 26}")
        return found


DEFAULT = Limits()
