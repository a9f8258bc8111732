"""A capsule: the folder that holds all there is to know of one run. It has one writer and is readable at any time, after `kill -9` too.

with Capsule.create("runs", spec.plain()) as capsule:
    capsule.rows({"iter": steps, "E": energies, "grad_norm": norms, "alpha": 0.5})
    capsule.checkpoint({"state": state}, iteration=1000)
    capsule.finish("converged")

However the block ends, the capsule holds exactly one RUN_FINISHED afterwards; of a killed process, the resumed run writes it.
"""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from ..errors import FlowDiverged
from . import Last, arrow, artifacts, columns, events, journal, manifest, resuming
from .checkpoints import Checkpoint, Checkpoints, Saved
from .errors import CapsuleError, RecordInvalid
from .files import Lock, Reserve, replace_bytes, room_for, sync_folder, undisturbed
from .opening import first_fields, fresh_folder, spec_digest
from .redaction import Redactor
from .resuming import resume_state
from .sampling import Sampling, picked
from .streams import Stream, Writer

__all__ = ["Capsule", "resume_state", "spec_digest"]

_ARTIFACTS = "artifacts"
_MOST_WAITING = 2**26  # bytes of a picture that are held while the run goes on
_SELF_RECORDED = ("RUN_STARTED", "RUN_FINISHED", "CANCELLED", "FLOW_RESUMED", "CHECKPOINT_CREATED")


class Capsule:
    """The writer of a capsule; see `create` and `resume`. A `Recorder`."""

    def __init__(self, path: Path, fields: dict[str, Any], sampling: Sampling, redactor: Redactor | None) -> None:
        self.path = path
        self.run_id: str = fields["run_id"]
        self._lock = Lock(path)
        self._fields, self._sampling, self._redactor = fields, sampling, redactor
        try:
            self._reserve = Reserve(path)
            self._rows, self._events = Stream(path, "telemetry", columns.SCHEMA), Stream(path, "events", events.SCHEMA)
            self._journal = journal.Journal(path)
        except BaseException:  # the kernel would hold the lock for as long as this process lives
            self._lock.release()
            raise
        self._checkpoints = Checkpoints(path / "checkpoints")
        self._writer = Writer(path)
        self._began = self._last_block = time.perf_counter()
        self._next_row, self._next_event, self._written = 0, 0, 0
        self._rollbacks = self._tuner_moves = self._iteration = 0
        self._energy: float | None = None
        self._tail: dict[str, Any] | None = None
        self._finished = False
        self._end: dict[str, Any] | None = None  # the outcome, once RUN_FINISHED is told
        self._noted = False  # whether the log has lines that are nowhere else

    @classmethod
    def create(
        cls,
        base: str | Path,
        spec: Mapping[str, Any],
        fields: Mapping[str, Any] | None = None,
        *,
        redact: bool = False,
        redaction_key: bytes | None = None,
        sampling: Sampling | None = None,
        parent: Mapping[str, Any] | None = None,
    ) -> Self:
        """A new capsule `<base>/<flow>_<UTC time>_<random>` for a run of a spec (`FlowSpec.plain()`).

        fields: further ones of the manifest. redact: keep no array of more than 64 elements, anywhere (so no checkpoints either), only
        summaries with digests under `redaction_key`, by default a random key that is kept nowhere.
        """
        redactor = Redactor(redaction_key) if redact else None
        sampling = sampling or Sampling()
        with room_for(Path(base)):
            path = fresh_folder(Path(base), str(spec["name"]))
            try:
                made = first_fields(path.name, spec, sampling=sampling, redactor=redactor, parent=parent)
                given = redactor.shrunk(dict(fields or {})) if redactor else fields or {}
                self = cls(path, manifest.merged(made, given), sampling, redactor)
                with self._let_go_of_if_it_fails():
                    replace_bytes(path / resuming.SPEC, json.dumps(redactor.shrunk(spec) if redactor else spec, indent=1).encode())
                    manifest.save(path, self._fields)
                    sync_folder(path)
            except BaseException:  # nothing is recorded yet, and a folder without a manifest is no capsule
                shutil.rmtree(path, ignore_errors=True)
                raise
        with self._let_go_of_if_it_fails():
            started = {name: self._fields.get(name) for name in ("flow_name", "dtype", "spec_digest", "solver")}
            self._event("RUN_STARTED", {**started, "parent": parent["run_id"] if parent else None}, 0)
        return self

    @classmethod
    def resume(cls, run_dir: str | Path, start: Checkpoint, *, remaining: int | None = None) -> Self:
        """Goes on recording from a checkpoint (`resume_state(run_dir)["checkpoint"]`): in the same capsule if its process was killed, in
        a new one, with the old one as parent, if its run has ended. Raises CapsuleLocked while another process writes it."""
        path = Path(run_dir)
        fields = manifest.load_run_manifest(path)
        if fields["status"] == manifest.RUNNING:
            fields = cls._completed(path, fields)
        if fields["status"] != manifest.RUNNING:
            spec = resuming.kept_spec(path, fields.get("spec_digest"))
            kept = {name: fields[name] for name in resuming.INHERITED if name in fields}
            parent = {"run_id": fields["run_id"], "checkpoint": start.path.name, "iteration": start.iteration}
            self = cls.create(path.parent, spec, kept, sampling=resuming.sampling(path, fields), parent=parent)
        else:
            self = cls(path, fields, resuming.sampling(path, fields), None)
        with self._let_go_of_if_it_fails():
            self._begin_at(start, remaining, catching_up=fields["status"] == manifest.RUNNING)
        return self

    @classmethod
    def _completed(cls, path: Path, fields: dict[str, Any]) -> dict[str, Any]:
        """The manifest of a run whose process was killed, once its end, if it had told one, is put everywhere: a run has one end."""
        told = next((record["payload"] for record in journal.events(path) if record["event"] == "RUN_FINISHED"), None)
        if told is None:
            return fields
        self = cls(path, {**fields, "phase": told["final_phase"]}, resuming.sampling(path, fields), None)
        try:
            with room_for(path):
                self._catch_up()
            self._seal(resuming.card(path) or told)
        finally:
            self._close()
        return manifest.load_run_manifest(path)

    @contextmanager
    def _let_go_of_if_it_fails(self) -> Iterator[None]:
        """For what comes before the caller has the capsule: else this process would hold it, and a thread, for as long as it lives."""
        try:
            yield
        except BaseException:
            self._close()
            raise

    def _begin_at(self, start: Checkpoint, remaining: int | None, *, catching_up: bool) -> None:
        if catching_up:
            with room_for(self.path):
                self._catch_up()
        self._iteration = start.iteration
        energy = start.header["telemetry_summary"]["final_energy"]
        self._energy = None if energy is None else float(energy)
        self._fields["phase"] = start.header["phase"]
        for file, reason in start.damaged:
            self._event("CHECKPOINT_DAMAGED", {"file": file, "reason": reason}, start.iteration)
        self._event(
            "FLOW_RESUMED",
            {"checkpoint_id": start.header["checkpoint_id"], "start_iteration": start.iteration, "remaining_iters": remaining},
            start.iteration,
        )

    def _catch_up(self) -> None:
        """Takes over from a process that was killed: its counters, its clock, its last checkpoint, and the events that it had told but not
        put into a part."""
        for draft in [*self.path.glob(".*.tmp"), *self.path.glob("*/.*.tmp")]:
            draft.unlink(missing_ok=True)
        told = list(journal.events(self.path))
        self._noted = True
        self._next_event = 1 + max([self._events.last_seq(), *(record["seq"] for record in told)])
        self._next_row = 1 + self._rows.last_seq()
        self._written = self._rows.count()
        self._rollbacks = sum(record["event"] == "ROLLBACK" for record in told)
        self._tuner_moves = sum(record["event"] == "TUNER_MOVE_TRY" for record in told)
        clock = max([self._rows.last("t_wall_ms"), *(record["t_wall_ms"] for record in told)], default=0.0)
        self._began -= max(0.0, clock) / 1000.0
        self._point_at(self._checkpoints.newest())
        self._put_missing_events()

    def _put_missing_events(self) -> None:
        known = self._events.last_seq()
        for record in journal.events(self.path):
            if record["seq"] > known:
                self._writer.put(self._events, _event_table(record))

    # What the run tells.

    @property
    def phase(self) -> str:
        """RED, AMBER or GREEN; PHASE_TRANSITION events and `update(phase=...)` change it."""
        return str(self._fields["phase"])

    def elapsed_ms(self) -> float:
        """Since the run began; a resumed run goes on from where the clock of the killed one stood."""
        return (time.perf_counter() - self._began) * 1000.0

    def event(self, kind: str, payload: Mapping[str, Any], *, iteration: int | None = None) -> None:
        """Records an event, in the log at once and in events.parquet soon. Raises RecordInvalid, CapsuleError."""
        if kind in _SELF_RECORDED:
            raise RecordInvalid(f"{kind} is recorded by the capsule itself: by create, resume, checkpoint or finish")
        self._event(kind, payload, self._iteration if iteration is None else iteration)

    def _event(self, kind: str, payload: Mapping[str, Any], iteration: int) -> None:
        self._open()
        text = events.payload_text(kind, self._redactor.event(kind, payload) if self._redactor else payload)
        record = {
            "level": "event",
            "run_id": self.run_id,
            "seq": self._next_event,
            "t_wall_ms": round(self.elapsed_ms(), 3),
            "iter": int(iteration),
            "event": kind,
            "payload": json.loads(text),
        }
        with room_for(self.path):
            self._journal.append(record)
            self._next_event += 1
            latest = self.path / ".latest_event.json.tmp"
            latest.write_text(json.dumps(record))
            latest.replace(self.path / "latest_event.json")
        self._writer.put(self._events, _event_table(record))
        self._rollbacks += kind == "ROLLBACK"
        self._tuner_moves += kind == "TUNER_MOVE_TRY"
        if kind == "PHASE_TRANSITION":
            self._fields["phase"] = payload["to"]

    def log(self, level: str, message: str, **details: Any) -> None:
        """A line in logs.ndjson."""
        self._open()
        told = events.plain(self._redactor.shrunk(details) if self._redactor else details, "log")
        self._noted = True
        with room_for(self.path):
            self._journal.append({"level": level, "t_wall_ms": round(self.elapsed_ms(), 3), "message": message, **told})

    def rows(self, block: Mapping[str, Any]) -> None:
        """Records steps; by column an array with a value for each, or one value for all. "iter", "E", "grad_norm" and "alpha" are needed.

        "phase" is the capsule's and "segment_id" 0 if not given; "t_wall_ms" and "step_ms" are those since the last block, evenly spread.
        Sampled as `Sampling` says; where a column is a masked array, of what is known in some rows only, the last row of the block stays.
        Raises RecordInvalid, and CapsuleError for what went wrong with rows before.
        """
        self._open()
        now, iterations = time.perf_counter(), np.atleast_1d(np.asarray(block["iter"]))
        count = iterations.size
        if not count:
            return
        spread = np.linspace(self._last_block, now, count + 1)[1:] - self._began
        usual = {"phase": self.phase, "segment_id": 0, "t_wall_ms": spread * 1000.0, "step_ms": (now - self._last_block) * 1000.0 / count}
        full = {**usual, **block, "run_id": self.run_id, "flow_name": self._fields["flow_name"], "seq": self._next_row + np.arange(count)}
        ends = any(isinstance(value, np.ma.MaskedArray) for value in block.values())
        keep = self._sampling.chosen(iterations, self._written, ends=ends)
        chosen = full if keep.all() else picked(full, keep, count)
        if keep.any():
            self._writer.put(self._rows, columns.table(chosen))
        self._tail = None if keep[-1] else picked(full, [-1], count)
        self._written += int(keep.sum())
        self._next_row += count
        self._last_block, self._iteration = now, int(iterations[-1])
        self._energy = float(np.asarray(block["E"]).reshape(-1)[-1])

    def checkpoint(self, record: Mapping[str, Any], *, iteration: int, certificates: Any = None) -> None:
        """Writes a checkpoint: first the rows and events before it, then the file, last the manifest's pointer to it. A redacted capsule
        keeps none: a state is data. What interrupts the caller waits until it is written. Raises CheckpointRefused for what a checkpoint
        cannot hold."""
        self._open()
        if self._redactor is None:
            undisturbed(lambda: self._write_checkpoint(record, iteration, certificates))

    def _write_checkpoint(self, record: Mapping[str, Any], iteration: int, certificates: Any) -> None:
        with room_for(self.path):
            self._writer.flush()
            self._save(record, iteration, certificates)
            manifest.save(self.path, self._fields)
            sync_folder(self.path)

    def _save(self, record: Mapping[str, Any], iteration: int, certificates: Any, before: Callable[[], None] = lambda: None) -> None:
        """The file and its event; the manifest on the disk does not point at it yet. before: see `Checkpoints.save`."""
        header = {
            "run_id": self.run_id,
            "flow_name": self._fields["flow_name"],
            "iteration": int(iteration),
            "phase": self.phase,
            "dtype": self._fields["dtype"],
            "spec_digest": self._fields["spec_digest"],
            "created_at": manifest.now(),
            "certificates": events.plain(certificates, "certificates"),
            "telemetry_summary": {"total_iterations": self._iteration, "final_energy": events.plain(self._energy, "energy")},
        }
        self._journal.sync()
        saved = self._checkpoints.save(record, header, before)
        self._event("CHECKPOINT_CREATED", {"checkpoint_id": saved.checkpoint_id, "iteration": saved.iteration}, saved.iteration)
        self._point_at(saved)

    def _point_at(self, saved: Saved | None) -> None:
        if saved is not None:
            pointer = {"file": saved.file, "sha256": saved.sha256, "iter": saved.iteration}
            self._fields = manifest.merged(self._fields, {"latest_checkpoint": pointer})

    def artifact(self, name: str, value: Any) -> None:
        """Keeps an array (`artifacts/<name>.npy`), bytes or a text (`artifacts/<name>`); redacted, a summary (`artifacts/<name>.json`). A
        mapping of plain data is kept as `artifacts/<name>.json`; redacted, with summaries in the place of its arrays."""
        self._hand_over(name, value)()

    def picture(self, name: str, value: np.ndarray[Any, Any]) -> None:
        """An artifact that is written while the caller goes on; what goes wrong is raised by a later call, at the latest by `finish`."""
        written = self._hand_over(name, value)
        if value.nbytes > _MOST_WAITING:
            written()

    def _hand_over(self, name: str, value: Any) -> Callable[[], None]:
        self._open()
        name, content = artifacts.content(name, value, self._redactor)
        return self._writer.keep(self.path / _ARTIFACTS / name, content)

    def update(self, **fields: Any) -> None:
        """Sets fields of the manifest (`manifest.KEYS`; others go under [extra]) and writes it."""
        self._open()
        self._set(fields)
        with room_for(self.path):
            manifest.save(self.path, self._fields)

    def _set(self, fields: Mapping[str, Any]) -> None:
        self._fields = manifest.merged(self._fields, self._redactor.shrunk(fields) if self._redactor else fields)

    # How it ends.

    def finish(self, status: str, *, last: Last | None = None, fields: Mapping[str, Any] | None = None, **outcome: Any) -> None:
        """Records the end: the last row, a last checkpoint, RUN_FINISHED, one file for each table, run_card.json with `outcome`, and when
        all that is on the disk, the manifest that tells of it. What interrupts the caller waits for that.

        last: what the checkpoint holds. fields: of the manifest. outcome: "iterations" and "energy", if given, are those of the state that
        the run ends in; else those of its last row.
        """
        self._open()
        if status not in events.STATUSES:
            raise RecordInvalid(f"status is {status!r}; a run ends with one of {', '.join(events.STATUSES)}")
        self._set(fields or {})
        undisturbed(lambda: self._finish(status, last, outcome))

    def _finish(self, status: str, last: Last | None, outcome: dict[str, Any]) -> None:
        if self._tail is not None:
            self._writer.put(self._rows, columns.table(self._tail))
            self._tail = None
        self._iteration, self._energy = outcome.pop("iterations", self._iteration), outcome.get("energy", self._energy)
        with room_for(self.path):
            joined = self._writer.join(self._rows)

            def on_disk() -> None:
                joined()
                sync_folder(self.path)

            try:
                if last is not None and self._redactor is None:
                    # Of a run that was interrupted it may be of a step before the last one. Written beside the rows, it counts after them.
                    self._save(last.record, last.record.get("iteration", self._iteration), last.certificates, on_disk)
            finally:
                joined()
        if status == "cancelled":
            self._event("CANCELLED", {"iteration": self._iteration}, self._iteration)
        finished = {
            "status": status,
            "final_phase": self.phase,
            "total_iterations": self._iteration,
            "final_energy": self._energy,
            "rollbacks": self._rollbacks,
            "tuner_moves": self._tuner_moves,
        }
        whole = {**finished, **outcome}
        told = events.plain(self._redactor.shrunk(whole) if self._redactor else whole, "outcome")
        self._event("RUN_FINISHED", finished, self._iteration)
        self._end = told
        self._seal(told)

    def _seal(self, told: Mapping[str, Any]) -> None:
        """What comes after RUN_FINISHED: a process that is killed here has told its end and not put it everywhere yet."""
        with room_for(self.path):
            for stream in (self._rows, self._events):
                self._writer.join(stream)()
            replace_bytes(self.path / resuming.CARD, json.dumps({"run_id": self.run_id, **told}, indent=1).encode())
            if self._noted:
                self._journal.sync()
            if (self.path / _ARTIFACTS).exists():
                sync_folder(self.path / _ARTIFACTS)
            sync_folder(self.path)
            end = {"status": told["status"], "ended_at": manifest.now(), "outcome": told}
            self._fields = manifest.merged(self._fields, end)
            manifest.save(self.path, self._fields)
            for stream in (self._rows, self._events):
                stream.clear()
        self._close()

    def _open(self) -> None:
        if self._finished:
            raise CapsuleError(f"the capsule {self.path} is closed: nothing can be recorded after the end of its run")

    def _close(self) -> None:
        if not self._finished:
            self._finished = True
            self._writer.close()
            self._journal.close()
            self._reserve.release()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if not self._finished:
                undisturbed(lambda: self._finish_after(error))
        finally:
            self._close()

    def _finish_after(self, error: BaseException | None) -> None:
        if error is None:
            try:
                self.finish("completed")
            except CapsuleError as failure:
                self._finish_failed(failure)
                raise
        elif not isinstance(error, Exception):  # SIGINT, or whoever runs the call has interrupted it
            try:
                self.finish("cancelled")
            except CapsuleError as failure:
                self._finish_failed(failure)
        else:
            self._finish_failed(error)

    def _finish_failed(self, error: BaseException) -> None:
        """Records a failure. The space held back is free for it now; what cannot be written even so must not hide the error itself."""
        self._writer.settle()  # what a picture takes is not to be missing for the end
        self._reserve.release()
        try:
            self._writer.salvage()
            with room_for(self.path):
                self._put_missing_events()
            if self._end is not None:  # told, and not put everywhere
                self._seal(self._end)
                return
            # A traceback may quote data; a redacted capsule keeps the type of the error only.
            message = "redacted" if self._redactor else str(error)[:2000] or type(error).__name__
            self._event("RUN_FAILED", {"error": type(error).__name__, "message": message}, self._iteration)
            if not self._redactor:
                self.log("error", "traceback", traceback="".join(traceback.format_exception(error))[-20_000:])
            self.finish("diverged" if isinstance(error, FlowDiverged) else "failed")
        except (CapsuleError, RecordInvalid) as second:
            error.add_note(f"and the end of the run could not be recorded: {second}")


def _event_table(record: Mapping[str, Any]) -> pa.Table:
    text = json.dumps(record["payload"], allow_nan=False, separators=(",", ":"))
    made = {**{name: record[name] for name in events.SCHEMA.names}, "payload": text}
    arrays = [arrow.texts([value]) if isinstance(value, str) else arrow.numbers(np.asarray([value])) for value in made.values()]
    return pa.Table.from_arrays(arrays, schema=events.SCHEMA)
