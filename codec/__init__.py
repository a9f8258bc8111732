"""The lossless type codec: values to and from `packed` (MessagePack, the native wire) and `tagged` (JSON, what SnakeBridge speaks)."""

from .errors import CodecError, DecodeError, EncodeError, LimitExceeded
from .limits import Limits
from .types import Atom, Binary, CallbackRef, PlainResolver, Ref, Resolver, StreamRef

__all__ = [
    "Atom",
    "Binary",
    "CallbackRef",
    "CodecError",
    "DecodeError",
    "EncodeError",
    "LimitExceeded",
    "Limits",
    "PlainResolver",
    "Ref",
    "Resolver",
    "StreamRef",
]
