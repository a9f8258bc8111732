"""A session in miniature for the codec tests: a resolver that keeps opaque objects and finds them again."""

from __future__ import annotations

from typing import Any

from bridge_adapter.codec import CallbackRef, Ref, StreamRef
from bridge_adapter.codec.resolver import stream_type


class Shelf:
    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.callbacks: list[CallbackRef] = []

    def opaque(self, value: Any) -> Ref | StreamRef:
        ref_id = next((name for name, known in self.objects.items() if known is value), f"r{len(self.objects)}")
        self.objects[ref_id] = value
        kind = stream_type(value)
        name = type(value).__name__
        return Ref(ref_id, "s", "m", "l", name) if kind is None else StreamRef(ref_id, "s", "m", "l", name, kind)

    def resolve(self, ref: Ref | StreamRef) -> Any:
        return self.objects.get(ref.id, ref)

    def callback(self, ref: CallbackRef) -> Any:
        self.callbacks.append(ref)
        return ref
