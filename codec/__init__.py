"""The lossless type codec: values to and from `packed` (MessagePack, the native wire) and `tagged` (JSON, what SnakeBridge speaks)."""

from .errors import CodecError, DecodeError, EncodeError, LimitExceeded
from .limits import Limits
from .named import register
from .resolver import CallbackRef, PlainResolver, Ref, Resolver, StreamRef
from .wrappers import (
    URI,
    Atom,
    Binary,
    DateRange,
    Extension,
    FixedZone,
    Members,
    OpaqueTerm,
    Pairs,
    PreciseDatetime,
    PreciseTime,
    Regex,
    Version,
)

__all__ = [
    "URI",
    "Atom",
    "Binary",
    "CallbackRef",
    "CodecError",
    "DateRange",
    "DecodeError",
    "EncodeError",
    "Extension",
    "FixedZone",
    "LimitExceeded",
    "Limits",
    "Members",
    "OpaqueTerm",
    "Pairs",
    "PlainResolver",
    "PreciseDatetime",
    "PreciseTime",
    "Ref",
    "Regex",
    "Resolver",
    "StreamRef",
    "Version",
    "register",
]
