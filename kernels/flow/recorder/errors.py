"""What the flight recorder raises. Each error names the capsule or the value, the rule it breaks, and the remedy."""

from __future__ import annotations

from ..errors import FlowError


class RecordInvalid(FlowError, ValueError):
    """A row, an event or a manifest field does not fit its schema."""


class CapsuleError(FlowError, OSError):
    """A capsule cannot be written or read."""


class CapsuleLocked(CapsuleError):
    """Another writer holds the capsule."""


class CapsuleFull(CapsuleError):
    """There is no room left for the capsule; what was recorded before stays readable."""


class CheckpointRefused(FlowError, ValueError):
    """A checkpoint must not be used here: another version, another dtype, another spec, or none that is intact."""
