"""Runs under names of the caller's, in a directory: whoever asks for a run by its name again gets its answer, or goes on with it.

A run called R has its capsules in `<directory>/R/`; a second one where the first was over and more was asked for. So a process that is
killed in the middle costs the steps since its last checkpoint, and the answer is bit for bit the one of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .certified import run_certified
from .compiler import CompiledFlow
from .errors import FlowInputError
from .kept import certified_answer
from .precision import device
from .recorder.capsule import resume_state
from .recorder.checkpoints import Checkpoints
from .recorder.errors import CapsuleError
from .recorder.files import Lock, refuse_unwritable, unwritable
from .recorder.manifest import FILE, load_run_manifest, status_of
from .running import Progress
from .runs import refuse_uncertified, resume_run, run
from .spec import FlowSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Of a run that has ended so, nothing is left to do.
_DONE = ("converged", "stagnated")
_DONE_CERTIFIED = (*_DONE, "completed", "cert_fail", "timeout", "diverged")


class NamedRuns:
    """The runs of a directory. Several processes may share one: a lock lets each run have one worker."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def check(self, name: str, *, begun: bool = False) -> None:
        """Refuses what can be refused before anything is compiled: a name that is none (FlowInputError), a directory that cannot be written
        (CapsuleError); begun: also a name under which there is nothing to go on from (FlowInputError)."""
        folder = self._folder(name)
        if begun:
            self._begun(name)
        refuse_unwritable(folder)

    def run(
        self,
        name: str,
        compiled: CompiledFlow,
        *,
        iterations: int = 1000,
        on_progress: Progress | None = None,
        redact: bool = False,
        certified: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """The run of this name: begun, gone on with, or, if it is over, its answer once more (with an empty history).

        certified: makes it a certified run; what `run_certified` takes of "cert_profile", "multiscale", "flow", "gap_dial", "sparsity" and
        "config". A run that was begun certified goes on so, with or without it. options: as of `runs.run`. Raises CapsuleLocked while
        another process has it, CheckpointRefused when it is one of another spec, FlowInputError when it is to be certified and was begun
        without.
        """
        folder = self._folder(name)
        with _held(folder):
            found = self._saved(folder)
            if found is None:
                asked: dict[str, Any] = {"iterations": iterations, "out_dir": folder, "redact": redact, "on_progress": on_progress}
                asked |= options
                if certified is not None:
                    return run_certified(compiled.spec, compiled, **asked, **certified)
                return run(compiled, **asked)
            if certified is not None:
                refuse_uncertified(found, load_run_manifest(found))
            answer = _answer(found, compiled, iterations)
            return answer or resume_run(found, compiled, iterations=iterations, on_progress=on_progress, certified=certified, **options)

    def resume(
        self,
        name: str,
        spec: FlowSpec | CompiledFlow,
        *,
        iterations: int | None = None,
        on_progress: Progress | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Goes on with a run, from its last checkpoint. iterations: in all; None: as many as it was to have.

        Raises FlowInputError where there is no such run or nothing to go on from, CheckpointRefused when it is one of another spec.
        """
        found = self._begun(name)
        with _held(self._folder(name)):
            return resume_run(found, spec, iterations=iterations, on_progress=on_progress, **options)

    def list(self) -> list[dict[str, Any]]:
        """What is recorded, the latest first: {"run_id", "status", "flow_name", "iterations", "energy", "solver", "started_at", "ended_at",
        "capsule"}. A status of "interrupted": its process has died, and it can be resumed."""
        entries = sorted(self.directory.iterdir()) if self.directory.is_dir() else []
        found = [_entry(folder.name, capsules[-1]) for folder in entries if (capsules := _capsules(folder))]
        return sorted((entry for entry in found if entry is not None), key=lambda entry: str(entry["started_at"]), reverse=True)

    def _folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise FlowInputError(f"a run is called {name!r:.120}; names are letters, digits, '.', '_' and '-', at most 100, no folders")
        return self.directory / name

    def _begun(self, name: str) -> Path:
        """The newest capsule of the run of this name. Raises FlowInputError where there is nothing to go on from."""
        folder = self._folder(name)
        found = self._saved(folder) if folder.is_dir() else None
        if found is None:
            known = ", ".join(entry["run_id"] for entry in self.list()[:10]) or "none"
            raise FlowInputError(
                f"there is no run {name!r} with a checkpoint in {self.directory.name}; the latest runs are: {known}. Run it from its start"
            )
        return found

    def _saved(self, folder: Path) -> Path | None:
        """The newest capsule of a run that there is anything to go on from."""
        return next((path for path in reversed(_capsules(folder)) if Checkpoints(path / "checkpoints").files()), None)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The right to the run. What was recorded straight into the directory has the lock of its capsule already."""
    if (folder / FILE).is_file():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder)
    except CapsuleError:
        raise
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def _capsules(folder: Path) -> list[Path]:
    """The capsules of a run, the newest last. What was recorded straight into the directory is a run of one, named like its capsule."""
    if not folder.is_dir():
        return []
    if (folder / FILE).is_file():
        return [folder]
    begun = [(_text(path, "started_at"), path) for path in folder.iterdir() if (path / FILE).is_file()]
    return [path for _, path in sorted(begun)]


def _text(capsule: Path, field: str) -> str:
    try:
        return str(load_run_manifest(capsule).get(field, ""))
    except CapsuleError:
        return ""


def _entry(name: str, capsule: Path) -> dict[str, Any] | None:
    try:
        fields = load_run_manifest(capsule)
    except CapsuleError:
        return None  # of another version: for other software to list
    outcome: Mapping[str, Any] = fields.get("outcome", {})
    return {
        "run_id": name,
        "status": status_of(capsule, fields),
        "flow_name": fields["flow_name"],
        "iterations": outcome.get("total_iterations", fields.get("latest_checkpoint", {}).get("iter", 0)),
        "energy": outcome.get("energy"),
        "solver": fields.get("solver"),
        "started_at": fields["started_at"],
        "ended_at": fields.get("ended_at"),
        "capsule": str(capsule),
    }


def _answer(capsule: Path, compiled: CompiledFlow, iterations: int) -> dict[str, Any] | None:
    """What the run of a capsule ended with, if it did not end too early. Raises CheckpointRefused for another spec."""
    told = load_run_manifest(capsule)
    status, certified = told["status"], bool(told.get("certified"))
    record = resume_state(capsule, spec_digest=compiled.spec.digest())["record"]
    if not (status in (_DONE_CERTIFIED if certified else _DONE) or (status == "budget" and int(record["iteration"]) >= iterations)):
        return None
    info: Mapping[str, Any] = record["info"]
    answer = {
        "state": record["state"],
        "stopped": status,
        "iterations": int(record["iteration"]),
        "energy": info.get("energy"),
        "residual": info.get("residual"),
        "history": {},
        "elapsed_s": float(record["elapsed_s"]),
        "device": device(),
        "dtype": compiled.spec.dtype,
        "report": compiled.report,
        "capsule": capsule,
    }
    if not certified:
        return answer
    more = certified_answer(capsule, record, compiled.spec)
    return None if more is None else answer | more
