"""Certificates: what can be known of a flow before and while it runs, as numbers that tell what they are worth."""

from .certify import certify, certify_again, examine
from .descent import Descent, check_block
from .duality import Gap, duality_gap, gap_by_curvature
from .invariants import Drift, Residual, drifts, freeze, largest_drift, phi_residual, physics_residuals
from .profiles import CertificationProfile, RefinementTest, convex
from .records import Finding, Verdict
from .run_card import block_findings, run_card

__all__ = [
    "CertificationProfile",
    "Descent",
    "Drift",
    "Finding",
    "Gap",
    "RefinementTest",
    "Residual",
    "Verdict",
    "block_findings",
    "certify",
    "certify_again",
    "check_block",
    "convex",
    "drifts",
    "duality_gap",
    "examine",
    "freeze",
    "gap_by_curvature",
    "largest_drift",
    "phi_residual",
    "physics_residuals",
    "run_card",
]
