"""The flow runtime: minimising energies on the accelerator. These are its public names; importing them loads JAX.

A `FlowSpec` says an energy over named slots; `run` compiles it, chooses a solver and drives it block by block, `resume_run` goes on with a
recorded run. `restore` is a ready job for images. See docs/flows.md.
"""

from . import atoms, operators
from .api import run_flow_step
from .certificates import CertificationProfile
from .certified import run_certified
from .compiler import CompiledFlow, CompileReport, compile_flow
from .controller import ControllerConfig, FlowPolicy, GapDial, MultiscaleSchedule, SparsityPolicy
from .described import spec_from
from .errors import FlowDiverged, FlowError, FlowInputError, MissingExtra
from .operators import Op
from .precision import device
from .restoration.images import degrade, psnr
from .restoration.panels import difference, save_panel
from .restoration.restore import Restoration, restore
from .runs import resume_run, run
from .spec import Coupling, FlowSpec, Invariant, Slot, Term

__all__ = [
    "CertificationProfile",
    "CompileReport",
    "CompiledFlow",
    "ControllerConfig",
    "Coupling",
    "FlowDiverged",
    "FlowError",
    "FlowInputError",
    "FlowPolicy",
    "FlowSpec",
    "GapDial",
    "Invariant",
    "MissingExtra",
    "MultiscaleSchedule",
    "Op",
    "Restoration",
    "Slot",
    "SparsityPolicy",
    "Term",
    "atoms",
    "compile_flow",
    "degrade",
    "device",
    "difference",
    "operators",
    "psnr",
    "restore",
    "resume_run",
    "run",
    "run_certified",
    "run_flow_step",
    "save_panel",
    "spec_from",
]
