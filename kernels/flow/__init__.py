"""The flow runtime: minimising energies on the accelerator. These are its public names; importing them loads JAX.

An energy is f + g: a smooth term (`smooth`, on `operators`) and a proximable one (`proximal`, on `transforms`).
`solvers` turns the pair into steps, `driver` runs them block by block, and `restoration` is the first job built from
them. See docs/flows.md.
"""

from .errors import FlowDiverged, FlowError, FlowInputError, MissingExtra
from .precision import device
from .restoration.images import degrade, psnr
from .restoration.panels import difference, save_panel
from .restoration.restore import Restoration, restore

__all__ = [
    "FlowDiverged",
    "FlowError",
    "FlowInputError",
    "MissingExtra",
    "Restoration",
    "degrade",
    "device",
    "difference",
    "psnr",
    "restore",
    "save_panel",
]
