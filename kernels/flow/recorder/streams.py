"""Rows and events on their way to the disk: numbered Parquet parts while a run goes on, joined into one file when it ends.

A writer thread does the encoding and the fsyncs. What it meets (a full disk) is raised in the run, at its next call.
"""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import CapsuleError, CapsuleFull
from .files import atomic, replace_bytes, room_for, sync_folder

QUEUE_BLOCKS = 64
FLUSH_ROWS = 50_000
# Parts follow each other ever more slowly, within these bounds (seconds): a run of any length makes some hundreds of them at most an hour.
FLUSH_AFTER = (0.5, 30.0)
FLUSH_SHARE = 0.02
_GROUP_ROWS = 100_000


class Stream:
    """One table of a capsule: `<name>.parquet` and `<name>/part-*.parquet`. A reader takes both and drops what it sees twice."""

    def __init__(self, capsule: Path, name: str, schema: pa.Schema) -> None:
        self.name, self.schema = name, schema
        self.whole = capsule / f"{name}.parquet"
        self.folder = capsule / name
        self._written = max((int(path.stem.removeprefix("part-")) for path in self.parts()), default=0)
        self._joined = False

    def parts(self) -> list[Path]:
        """The parts there are, in order."""
        return sorted(self.folder.glob("part-*.parquet"))

    def write(self, tables: list[pa.Table]) -> None:
        """One more part, of all these rows."""
        self.folder.mkdir(exist_ok=True)
        with atomic(self.folder / f"part-{self._written + 1:06d}.parquet") as file:
            pq.write_table(pa.concat_tables(tables), file, compression="zstd")
        sync_folder(self.folder)
        self._written += 1
        self._joined = False

    def last_seq(self) -> int:
        """The highest `seq` on the disk; -1 where there is none."""
        return int(self.last("seq"))

    def last(self, column: str) -> float:
        """The highest value of a column on the disk; -1 where there is none."""
        return max((_last(path, column) for path in self._files()), default=-1)

    def count(self) -> int:
        """How many rows are on the disk."""
        return sum(int(_metadata(path).num_rows) for path in self._files())

    def _files(self) -> list[Path]:
        return [path for path in [self.whole, *self.parts()] if path.exists()]

    def join(self, tables: list[pa.Table]) -> None:
        """Makes `<name>.parquet` of all there is and of these tables, which follow. The parts stay: see `clear`."""
        joined = _last(self.whole, "seq") if self.whole.exists() else -1
        fresh = [path for path in self.parts() if _last(path, "seq") > joined]
        if fresh or tables or not self.whole.exists():
            with atomic(self.whole) as file, pq.ParquetWriter(file, self.schema, compression="zstd") as writer:
                for group in _groups(chain(_stored([self.whole, *fresh] if joined >= 0 else fresh), tables)):
                    writer.write_table(group.cast(self.schema))
        self._joined = True

    def clear(self) -> None:
        """Removes the parts, once the joined file is durable. A crash before leaves rows twice, never none."""
        if self._joined and self.folder.exists():
            shutil.rmtree(self.folder, ignore_errors=True)


def _stored(paths: list[Path]) -> Iterator[pa.Table]:
    for path in paths:
        with _intact(path), pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number)


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows in groups of a good size, never all of them in memory."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(one.num_rows for one in held) >= _GROUP_ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _last(path: Path, column: str) -> float:
    """The highest value of a column, from the statistics of the file, without reading its rows; -1 where there are none."""
    metadata = _metadata(path)
    place = metadata.schema.to_arrow_schema().get_field_index(column)
    found = [metadata.row_group(number).column(place).statistics for number in range(metadata.num_row_groups)]
    return max((statistics.max for statistics in found if statistics is not None and statistics.has_min_max), default=-1)


def _metadata(path: Path) -> pq.FileMetaData:
    with _intact(path):
        return pq.read_metadata(path)


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Says which file is damaged, and that nothing was made of the rest yet."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise CapsuleError(f"{path} is damaged ({error}): restore it from a copy, or remove it and do without its rows") from error


# What is not on the disk yet, by the names of the streams.
Pending = dict[str, tuple[Stream, list[pa.Table]]]


class Asked:
    """Something that the writer is to do in its turn, and a caller may wait for."""

    def __init__(self, work: Callable[[Pending], object]) -> None:
        self.work, self.done = work, threading.Event()


class Writer:
    """The thread that writes tables. `put` waits when it is `QUEUE_BLOCKS` behind; no row is dropped."""

    def __init__(self, capsule: Path) -> None:
        self._capsule = capsule
        self._queue: queue.Queue[tuple[Stream, pa.Table] | Asked | None] = queue.Queue(QUEUE_BLOCKS)
        self._error: CapsuleError | None = None
        self._salvaged = False
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="flow-recorder", daemon=True)
        self._thread.start()

    def put(self, stream: Stream, table: pa.Table) -> None:
        """Hands a table over. Raises what went wrong with earlier ones."""
        self.check()
        self._queue.put((stream, table))

    def check(self) -> None:
        """Raises what went wrong, if something did."""
        if self._error is not None:
            raise self._error
        if not self._thread.is_alive():
            raise CapsuleError(f"the capsule {self._capsule} is closed: nothing can be recorded after the end of its run")

    def keep(self, path: Path, content: bytes) -> Callable[[], None]:
        """Hands over a whole file, whose folder is made if it is not there; to wait for it, call what is returned. Raises what went wrong
        with what came before."""

        def work() -> None:
            path.parent.mkdir(exist_ok=True)
            replace_bytes(path, content)

        return self._ask(lambda _: self._did(work))

    def flush(self) -> None:
        """Returns when all that was handed over is on the disk."""
        self._ask(self._write)()

    def join(self, stream: Stream) -> Callable[[], None]:
        """Joins a stream with what was handed over of it, which so never becomes a part; to wait for that, call what is returned. Where it
        fails the tables are kept, for `salvage`. After that it is enough if there is room for a part: readers take both."""

        def work(pending: Pending) -> None:
            tables = pending[stream.name][1] if stream.name in pending else []
            joined = self._did(lambda: stream.join(tables))
            if not joined and self._salvaged and isinstance(self._error, CapsuleFull):
                self._error = None
                joined = not tables or self._did(partial(stream.write, tables))
            if joined:
                pending.pop(stream.name, None)

        return self._ask(work)

    def _ask(self, work: Callable[[Pending], object]) -> Callable[[], None]:
        self.check()
        asked = Asked(work)
        self._queue.put(asked)

        def wait() -> None:
            asked.done.wait()
            self.check()

        return wait

    def close(self) -> None:
        """Writes what is left and ends the thread. Does not raise; `check` does."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def settle(self) -> None:
        """Returns when all that was handed over is written, or passed over after an error. Does not raise."""
        self._in_turn(lambda _: None)

    def salvage(self) -> None:
        """Forgets what went wrong and writes, as parts, the rows and events that were not written for it, so that the end of a run can be
        recorded with the space held back for it. What does not fit now either is lost. Does not raise."""

        def work(pending: Pending) -> None:
            self._salvaged = True
            for stream, tables in pending.values():
                self._error = None
                self._did(partial(stream.write, tables))
            pending.clear()
            self._error = None

        self._in_turn(work)

    def _in_turn(self, work: Callable[[Pending], object]) -> None:
        if self._thread.is_alive():
            asked = Asked(work)
            self._queue.put(asked)
            asked.done.wait()

    def _work(self) -> None:
        pending: Pending = {}
        due = 0.0
        while True:
            waits = bool(pending) and self._error is None
            try:
                item = self._queue.get(timeout=max(0.0, due - time.monotonic()) if waits else None)
            except queue.Empty:
                self._write(pending)
                continue
            if isinstance(item, Asked):
                try:
                    item.work(pending)
                finally:  # whoever waits must not do so for ever
                    item.done.set()
                continue
            if item is None:
                self._write(pending)
                return
            stream, table = item
            if not pending:
                due = time.monotonic() + self._patience()
            pending.setdefault(stream.name, (stream, []))[1].append(table)
            if sum(one.num_rows for one in pending[stream.name][1]) >= FLUSH_ROWS or time.monotonic() >= due:
                self._write(pending)

    def _patience(self) -> float:
        low, high = FLUSH_AFTER
        return min(high, max(low, FLUSH_SHARE * (time.monotonic() - self._began)))

    def _write(self, pending: Pending) -> None:
        """All of it as parts. After an error the rest is kept, for `salvage`."""
        for name, (stream, tables) in list(pending.items()):
            if not self._did(partial(stream.write, tables)):
                return
            del pending[name]

    def _did(self, work: Callable[[], None]) -> bool:
        """Whether work was done; not after an error, which the caller hears of at its next call."""
        if self._error is not None:
            return False
        try:
            with room_for(self._capsule):
                work()
        except CapsuleError as error:
            self._error = error
            return False
        except BaseException as error:  # out of memory, or a fault of ours: the run must hear of it, and its end be recorded
            self._error = CapsuleError(f"the capsule {self._capsule} cannot be written: {type(error).__name__}: {error}")
            self._error.__cause__ = error
            return False
        return True
