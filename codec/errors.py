"""What the codec raises. Each error names the value or the place, the rule, and the remedy; `category` is its name on the wire."""

from __future__ import annotations


class CodecError(Exception):
    """Base of every codec error. Callers outside see a ValueError: they cannot import this class."""

    category = "encode_error"
    wire_type = "ValueError"


class EncodeError(CodecError):
    """A Python value cannot be sent."""

    category = "encode_error"


class Cycle(EncodeError):
    """A value that contains itself."""


class DecodeError(CodecError):
    """Bytes or JSON that came in are not a valid value."""

    category = "decode_error"


class LimitExceeded(CodecError):
    """A message is deeper, larger or longer than a limit allows."""

    category = "limit_exceeded"


class TooDeep(LimitExceeded):
    """A value that nests deeper than a message may."""


class Unhashable(DecodeError):
    """A set element or map key that Python cannot hash. Callers outside see the TypeError that Python itself would raise."""

    wire_type = "TypeError"


class InvalidRef(DecodeError):
    """A ref came in without what makes it one: `SnakeBridge reference missing id` or `Invalid SnakeBridge reference payload`."""

    category = "invalid_ref"
