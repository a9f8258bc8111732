"""Certificates: what can be known of a flow before and while it runs, as numbers that tell what they are worth."""

from .certify import certify, examine
from .profiles import CertificationProfile, RefinementTest, convex
from .records import Finding, Verdict

__all__ = ["CertificationProfile", "Finding", "RefinementTest", "Verdict", "certify", "convex", "examine"]
