"""Calls in flight: their deadlines, and how the code that runs them is interrupted.

Interrupting means raising `CallCancelled` in the thread that runs the call. What Python cannot interrupt (C code that does not return) is
reported by `stats`, and its client may end the worker. `time.sleep` is replaced by one that wakes: it is the commonest wait there is.

A module that is just being imported is given some time to come to its end. Torn apart, many cannot be imported again in that process
(numpy, and whatever registers something), and an extension module that was made but not yet run may crash it when it is thrown away.
"""

from __future__ import annotations

import sys
import threading
import time
from _thread import LockType, RLock, allocate_lock, get_ident
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from bridge_adapter.errors import BridgeError, CallCancelled, CallTimeout, CallWasCancelled

if TYPE_CHECKING:
    from bridge_adapter.spool import Spool

_REPEAT_SECONDS = 0.25  # code that swallows the interruption gets it again
_IMPORT_SECONDS = 3.0  # less than the pool waits before it ends a worker that goes on
_IMPORT_LOOK_SECONDS = 0.02
_IMPORTER = "<frozen importlib._bootstrap>"
_real_sleep = time.sleep


class Call:
    """One request that runs, or waits to run. `key` is (connection, request id); `parent` the call whose callback made this one."""

    __slots__ = (
        "_children",
        "_lock",
        "_patience_ends",
        "_sleeper",
        "_thread",
        "_waits",
        "asking",
        "begun",
        "caller",
        "connection",
        "deadline",
        "host",
        "key",
        "label",
        "parent",
        "put_off",
        "reason",
        "refusal",
        "root",
        "session",
        "session_id",
        "spool",
        "started",
        "timeout_ms",
        "trace",
        "waiting_for",
    )

    def __init__(self, key: tuple[int, int], timeout_ms: int | None = None, parent: Call | None = None) -> None:
        self.key = key
        self.parent = parent
        self.host: Call | None = None  # the call whose callback may have led to this one, where nobody told
        self.root: Call = parent.root if parent is not None else self
        self.started = time.monotonic()
        self.timeout_ms = timeout_ms
        self.deadline = None if timeout_ms is None else self.started + timeout_ms / 1000
        self.reason: str | None = None
        self.label = ""
        self.session: Any = None  # while it runs
        self.session_id = ""
        self.connection: Any = None  # where callbacks of this call go
        self.caller = 0  # the client's number for the process that makes the call
        self.spool: Spool | None = None  # what it has said, once it has said something
        self.trace: Mapping[str, str] = {}  # correlation id and W3C trace headers of its caller
        self.put_off = False  # it is to be interrupted once it has imported what it imports
        self.waiting_for: Any = None
        self.begun = False  # it has had its turn in its session
        self.refusal: BridgeError | None = None  # why it will not get one
        self.asking = 0  # Elixir functions that its code waits for
        self._thread: int | None = None
        # Reentrant: what is allocated while it is held may run a finaliser that prints or sleeps.
        self._lock = RLock()
        self._waits: tuple[_Waiting, ...] = ()
        self._sleeper: LockType | None = None
        self._patience_ends: float | None = None  # with the module that it imported when it was interrupted first
        self._children: Any = None

    def run(self, code: Callable[[], Any]) -> Any:
        """Runs code that may be interrupted, on this thread. Raises CallTimeout or CallWasCancelled when it was."""
        outer = _running.get(get_ident())
        try:
            try:
                self._enter()
                return code()
            finally:
                self._leave(outer)
        except CallCancelled:
            # The interruption may have struck inside the `finally`.
            self._leave(outer)
            if self.reason is None:
                raise
            raise self.interruption() from None

    def _enter(self) -> None:
        with self._lock:
            if self.reason is not None:
                raise CallCancelled
            self._thread = get_ident()
            _running[self._thread] = self
            _current.set(self)

    def _leave(self, outer: Call | None) -> None:
        with self._lock:
            self._thread = None
            if self.reason is not None:
                _raise_in(get_ident(), None)
            if outer is None:
                _running.pop(get_ident(), None)
            else:
                _running[get_ident()] = outer
            _current.set(outer)

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Context in which `cancel` only leaves word: for code of ours that must not be torn apart inside a call.

        The outermost one raises CallCancelled at its end.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            if self.reason is not None:
                _raise_in(get_ident(), None)
        try:
            yield
        finally:
            with self._lock:
                self._thread = thread
        if thread is not None and self.reason is not None:
            raise CallCancelled

    def interruption(self) -> BridgeError:
        """The error that an interrupted call answers."""
        if self.reason == "deadline":
            return CallTimeout(
                f"the call did not finish within its timeout of {self.timeout_ms} ms and was interrupted; raise the timeout or stream it",
                timeout_ms=self.timeout_ms,
            )
        if self.reason == "drained":
            return CallWasCancelled(
                "the worker has ended before the call had finished, and interrupted it; it may have had effects: "
                "raise drain_ms, or make shorter calls",
                reason=self.reason,
                outcome="unknown",
            )
        return CallWasCancelled(f"the call was cancelled ({self.reason}) and interrupted", reason=self.reason)

    def cancel(self, reason: str) -> bool:
        """Interrupts the call, whatever it waits for. Repeated calls interrupt again; the first reason stays.

        False when it imports a module, so that this must be repeated soon.
        """
        with self._lock:
            if self.reason is None:
                self.reason = reason
            self.put_off = self._thread is not None and self._may_finish_import(self._thread)
            if self.put_off:
                return False
            if self._thread is not None:
                _raise_in(self._thread, CallCancelled)
            waits, sleeper = self._waits, self._sleeper
            if sleeper is not None:
                self._sleeper = None
                sleeper.release()
        for wait in waits:
            wait.wake()
        return True

    def _may_finish_import(self, thread: int) -> bool:
        if not _imports(thread):
            return False
        if self._patience_ends is None:
            self._patience_ends = time.monotonic() + _IMPORT_SECONDS
        return time.monotonic() < self._patience_ends

    def while_waiting(self, wake: Callable[[], None]) -> _Waiting:
        """Context in which `cancel` calls `wake`, for waits that an exception cannot end (sockets, locks, futures).

        The call's own thread may be in one, and each of the threads that act for it.
        """
        return _Waiting(self, wake)

    def sleep(self, seconds: float) -> None:
        """Waits, and stops waiting when the call is interrupted."""
        gate = allocate_lock()
        gate.acquire()
        with self._lock:
            if self.reason is not None:
                raise CallCancelled
            self._sleeper = gate
        try:
            gate.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))
        finally:
            self._sleeper = None

    @contextmanager
    def waits_for_elixir(self) -> Iterator[None]:
        """Context in which the call's code waits for an Elixir function."""
        with self._lock:
            self.asking += 1
        try:
            yield
        finally:
            with self._lock:
                self.asking -= 1

    def innermost_asking(self) -> Call | None:
        """The call that waits for Elixir: this one, or one that was made from its callback and waits in turn."""
        if not self.asking:
            return None
        inside = self._children.owner if self._children is not None else None
        return (inside.innermost_asking() if inside is not None else None) or self

    def children_lock(self, make: Callable[[], Any]) -> Any:
        """The lock by which calls made from this call's callbacks run one at a time."""
        with self._lock:
            if self._children is None:
                self._children = make()
            return self._children

    def within(self, other: Call | None, *, guests: bool = False) -> bool:
        """True when this call was made, directly or not, from a callback of `other`. `guests`: or may have been."""
        call: Call | None = self
        while call is not None:
            if call is other:
                return True
            call = call.parent or (call.host if guests else None)
        return False


class _Waiting:
    __slots__ = ("_call", "wake")

    def __init__(self, call: Call, wake: Callable[[], None]) -> None:
        self._call = call
        self.wake = wake

    def __enter__(self) -> None:
        call = self._call
        with call._lock:
            call._waits += (self,)
            cancelled = call.reason is not None
        if cancelled:
            self.wake()

    def __exit__(self, *_: object) -> None:
        call = self._call
        with call._lock:
            call._waits = tuple(other for other in call._waits if other is not self)


_running: dict[int, Call] = {}  # thread -> the innermost call whose user code it runs


# The same for code that a call has started on the event loop, and where contexts are copied (asyncio.to_thread).
_current: ContextVar[Call | None] = ContextVar("bridge_adapter.call", default=None)


def running() -> Call | None:
    """The call whose user code runs on this thread."""
    return _running.get(get_ident())


def current() -> Call | None:
    """The call on whose behalf this code runs, also when it is a coroutine of that call."""
    return _running.get(get_ident()) or _current.get()


@contextmanager
def on_behalf(call: Call) -> Iterator[None]:
    """Context in which `call` is the current call, on a thread that runs no call's code itself."""
    token = _current.set(call)
    try:
        yield
    finally:
        _current.reset(token)


def serve(call: Call) -> None:
    """Makes `call` the current call of this thread for good: also of what its `threading.excepthook` says at its end."""
    _current.set(call)


def _imports(thread: int) -> bool:
    """True while that thread imports a module. It cannot begin or end one between this and an exception that the same caller sends it:
    what takes the interpreter from us looks for that exception first."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTER:
            return True
        frame = frame.f_back
    return False


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error))


def sleep(seconds: float, /) -> None:
    """`time.sleep`, interruptible inside a call."""
    call = _running.get(get_ident())
    if call is None or not isinstance(seconds, (int, float)) or not 0 < seconds < threading.TIMEOUT_MAX:
        _real_sleep(seconds)  # also raises what time.sleep raises for bad arguments
    else:
        call.sleep(seconds)


def install_sleep() -> None:
    """Makes `time.sleep` interruptible in this process."""
    sleep.__doc__ = _real_sleep.__doc__
    time.sleep = sleep  # type: ignore[assignment]


class CallTable:
    """All calls of the process, and the thread that watches their deadlines."""

    def __init__(self) -> None:
        self._calls: dict[tuple[int, int], Call] = {}
        self._changed = threading.Condition()
        self._next_look = float("inf")
        self._thread: threading.Thread | None = None

    def add(self, call: Call) -> None:
        self._calls[call.key] = call
        if call.deadline is not None:
            self._look_by(call.deadline)

    def remove(self, call: Call) -> None:
        self._calls.pop(call.key, None)

    def get(self, key: tuple[int, int]) -> Call | None:
        return self._calls.get(key)

    def holds(self, call: Call) -> bool:
        """True while that call runs, or waits to."""
        return self._calls.get(call.key) is call

    def active(self) -> list[Call]:
        return list(self._calls.values())

    def cancel(self, call: Call, reason: str) -> None:
        """Interrupts a call and the calls made from its callbacks."""
        self._cancel([other for other in self.active() if other.within(call)], reason)

    def cancel_connection(self, connection: int, reason: str) -> None:
        """Interrupts every call of a connection."""
        self._cancel([call for call in self.active() if call.key[0] == connection], reason)

    def cancel_all(self, reason: str) -> None:
        """Interrupts every call."""
        self._cancel(self.active(), reason)

    def _cancel(self, calls: list[Call], reason: str) -> None:
        for call in calls:
            if not call.cancel(reason):
                self._look_by(time.monotonic() + _IMPORT_LOOK_SECONDS)

    def _look_by(self, moment: float) -> None:
        """Lets the thread that watches look at that time, or sooner."""
        if moment < self._next_look:
            with self._changed:
                if self._thread is None:
                    thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                    thread.start()  # if the system allows one; if not, the next call tries again
                    self._thread = thread
                self._next_look = min(moment, self._next_look)
                self._changed.notify()

    def _watch(self) -> None:
        while True:
            self._next_look = float("inf")
            now = time.monotonic()
            for call in self.active():
                if call.put_off:
                    self._cancel([call], str(call.reason))
                elif call.reason == "halted":
                    continue
                elif call.reason is not None or (call.deadline is not None and call.deadline <= now):
                    self.cancel(call, "deadline")
                    self._look_by(now + _REPEAT_SECONDS)
                elif call.deadline is not None:
                    self._look_by(call.deadline)
            with self._changed:
                wait = self._next_look - time.monotonic()
                if wait > 0:
                    self._changed.wait(None if wait == float("inf") else wait)
