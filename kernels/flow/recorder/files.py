"""Durable files: all or nothing, and on the disk before they count. And the lock that makes a capsule's writer the only one."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from .errors import CapsuleError, CapsuleFull, CapsuleLocked

T = TypeVar("T")

LOCK = ".lock"
MAGIC = b"PAR1"  # at both ends of a Parquet file
# No room: on the disk, in the quota, or under the file size limit of the process.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def undisturbed(work: Callable[[], T]) -> T:
    """What `work` returns, run to its end in a thread of its own. Whatever is raised in this one meanwhile (SIGINT; the interruption of a
    call, which comes again and again until the call ends) waits for that, and then goes its way."""
    made: list[T] = []
    failed: list[BaseException] = []
    # Not Thread.join: interrupted once, it takes the thread for ended (bpo-45274).
    begun, ended = threading.Lock(), threading.Lock()
    ended.acquire()

    def run() -> None:
        # Whoever is interrupted while he starts a thread cannot tell whether he has: of two, one does the work.
        if not begun.acquire(blocking=False):
            return
        try:
            made.append(work())
        except BaseException as error:
            failed.append(error)
        ended.release()

    interrupted: BaseException | None = None
    while not (made or failed):
        try:
            if not begun.locked():
                threading.Thread(target=run, name="flow.record").start()
            ended.acquire()
        except BaseException as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted
    if failed:
        raise failed[0]
    return made[0]


@contextmanager
def atomic(path: Path, before: Callable[[], None] = lambda: None) -> Iterator[BinaryIO]:
    """A file under construction that takes the place of `path` when the block ends well: write, fsync, rename. before: called between
    the last two, for what must be on the disk before this file counts.

    At no moment, power loss included, does `path` hold anything but the old or the new content. Which of the two it holds after a power
    cut is settled by `sync_folder` only: before another file tells of the new one, its folder is synced.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        before()
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_bytes(path: Path, content: bytes) -> None:
    """Writes a whole file with `atomic`, whose name is not durable yet."""
    with atomic(path) as file:
        file.write(content)


def whole_tables(paths: Iterable[Path]) -> list[Path]:
    """The Parquet files among these that are there from their first to their last bytes. Of others a RuntimeWarning is given: one that was
    damaged on the disk must not hide all the others."""
    found = []
    for path in paths:
        try:
            with path.open("rb") as file:
                first = file.read(len(MAGIC))
                file.seek(-len(MAGIC), os.SEEK_END)
                last = file.read()
        except FileNotFoundError:
            continue
        except OSError:  # shorter than its own ends
            first = last = b""
        if first == last == MAGIC:
            found.append(path)
        else:
            warnings.warn(f"{path} is damaged, its rows are left out: restore it from a copy, or remove it", RuntimeWarning, stacklevel=3)
    return found


@contextmanager
def room_for(capsule: Path) -> Iterator[None]:
    """Turns "no space left" into the error that says what it means for the run."""
    try:
        yield
    except CapsuleError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise CapsuleFull(
                error.errno,
                f"no room left to record the run in {capsule} ({os.strerror(error.errno or 0)}). What was recorded before is intact and "
                "readable; free some space and resume the run from its last checkpoint",
            ) from error
        raise CapsuleError(error.errno, f"the capsule {capsule} cannot be written: {error}") from error


def refuse_unwritable(folder: Path) -> None:
    """Raises CapsuleError where no run could be recorded in a folder, which need not be there yet. Nothing is made to find that out, so it
    is no promise: the disk may be full, or change."""
    found = folder
    while not os.path.lexists(found) and found != found.parent:
        found = found.parent
    try:
        if not found.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(found, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> CapsuleError:
    """The error of a folder in which no run can be recorded."""
    return CapsuleError(
        error.errno,
        f"a run cannot be recorded in {folder} ({error.strerror}); give it a runs directory that this process may write in, "
        "of a worker with the environment variable BRIDGE_ADAPTER_FLOW_RUNS, on the command line with --out",
    )


class Lock:
    """The right to write a capsule: an advisory lock that the kernel takes back from a process that dies, however it dies."""

    def __init__(self, capsule: Path) -> None:
        self._handle: int | None = os.open(capsule / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        # A reader that asks whether a run is alive holds the lock for an instant (see `writer_alive`): a moment's patience is due to it.
        for attempt in range(20):
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 19:
                    holder = os.pread(self._handle, 64, 0).decode(errors="replace").strip() or "unknown"
                    self.release()
                    raise CapsuleLocked(
                        errno.EWOULDBLOCK,
                        f"{capsule} is being written by process {holder}; a capsule has one writer. Wait for its end, or cancel it",
                    ) from None
                time.sleep(0.01)
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Gives it back. Does nothing the second time."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def writer_alive(capsule: Path) -> bool:
    """Whether some process is writing the capsule now."""
    try:
        handle = os.open(capsule / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


class Reserve:
    """Disk space held back from the first moment of a run, so that a run which fills the disk can still record that it did."""

    def __init__(self, capsule: Path, size: int = 256 * 1024) -> None:
        self._path = capsule / ".reserve"
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(handle, 0, size)
        finally:
            os.close(handle)

    def release(self) -> None:
        """Gives the space back."""
        self._path.unlink(missing_ok=True)
