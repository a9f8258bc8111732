"""The flow runtime: minimising energies on the accelerator. These are its public names; the first one that is used loads JAX.

A `FlowSpec` says an energy over named slots; `run` compiles it, chooses a solver and drives it block by block, `resume_run` goes on with a
recorded run. `restore` is a ready job for images. See docs/flows.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from .recorder.manifest import load_run_manifest
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
    "load_run_manifest",
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

# Where each name is from: recorded runs can be listed, queried and reported on in a process that never starts JAX.
_HOMES = {
    "atoms": ".",
    "compile_flow": ".compiler",
    "degrade": ".restoration.images",
    "device": ".precision",
    "difference": ".restoration.panels",
    "load_run_manifest": ".recorder.manifest",
    "operators": ".",
    "psnr": ".restoration.images",
    "restore": ".restoration.restore",
    "resume_run": ".runs",
    "run": ".runs",
    "run_certified": ".certified",
    "run_flow_step": ".api",
    "save_panel": ".restoration.panels",
    "spec_from": ".described",
    "CertificationProfile": ".certificates",
    "CompileReport": ".compiler",
    "CompiledFlow": ".compiler",
    "ControllerConfig": ".controller",
    "Coupling": ".spec",
    "FlowDiverged": ".errors",
    "FlowError": ".errors",
    "FlowInputError": ".errors",
    "FlowPolicy": ".controller",
    "FlowSpec": ".spec",
    "GapDial": ".controller",
    "Invariant": ".spec",
    "MissingExtra": ".errors",
    "MultiscaleSchedule": ".controller",
    "Op": ".operators",
    "Restoration": ".restoration.restore",
    "Slot": ".spec",
    "SparsityPolicy": ".controller",
    "Term": ".spec",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = import_module(f".{name}", __name__) if home == "." else getattr(import_module(home, __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
