"""Sessions: state that belongs to one caller, with a lock by which its calls run one at a time and in order (session_lock).

A session costs a few hundred bytes and no thread. `pinned` sessions get a thread of their own; `concurrent` ones do without the lock.
"""

from __future__ import annotations

import heapq
import threading
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from bridge_adapter import threads
from bridge_adapter.config import Config
from bridge_adapter.errors import InvalidRequest, Unavailable
from bridge_adapter.refs import RefStore
from bridge_adapter.session_lock import Bounds, Room, SessionLock

if TYPE_CHECKING:
    from bridge_adapter.lineage.recorder import Lineage
    from bridge_adapter.lineage.records import Options

_SESSION_ID_LIMIT = 512
_SWEEP_START = 1024
_OPTIONS = frozenset(
    {"pinned", "concurrent", "max_refs", "ref_ttl", "max_queue", "overflow", "max_bytes", "recover", "replayable", "on_difference"}
)


class Session:
    """State of one caller. `closed`: not in the table any more; whoever waited for its lock opens the session anew."""

    __slots__ = ("_thread", "closed", "concurrent", "id", "lineage", "lock", "pinned", "recovers", "refs", "streams")

    def __init__(self, id: str, config: Config, room: Room) -> None:
        self.id = id
        self.refs = RefStore(id, config.ref_max, config.ref_ttl_s)
        self.lock = SessionLock(Bounds(id, config.session_queue, "reject", room))
        self.pinned = False
        self.concurrent = False
        self.closed = False
        self.streams: set[object] = set()  # that run in it, also while they leave its lock to others
        self.recovers: Options | None = None
        self.lineage: Lineage | None = None  # of a session that recovers, once its first call has come
        self._thread: _PinnedThread | None = None

    def configure(self, options: Any) -> None:
        """Takes {"pinned": bool, "concurrent": bool, "max_refs": int, "ref_ttl": seconds, "max_queue": int,
        "overflow": "reject" | "drop_oldest", "max_bytes": int, "recover": "lineage"}. Raises InvalidRequest.

        With "recover" also {"replayable": bool, "on_difference": "fail" or "warn"}.
        """
        if not isinstance(options, dict) or not set(options) <= _OPTIONS:
            raise InvalidRequest(f"session_options is a map of {', '.join(sorted(_OPTIONS))}, not {str(options)[:80]}")
        self.pinned = bool(options.get("pinned", self.pinned))
        self.concurrent = bool(options.get("concurrent", self.concurrent))
        if self.pinned and self.concurrent:
            self.pinned = self.concurrent = False
            raise InvalidRequest("a session cannot be both pinned (one thread) and concurrent (many); choose one")
        if "recover" in options and (self.recovers is None or options["recover"] != "lineage"):
            self._recover(options)
        if "max_refs" in options or "ref_ttl" in options:
            self.refs.limit(options.get("max_refs"), options.get("ref_ttl"))
        if "max_bytes" in options:
            self.refs.limit_bytes(options["max_bytes"])
        if "max_queue" in options or "overflow" in options:
            self._bound_queue(options)

    def _bound_queue(self, options: dict[str, Any]) -> None:
        bounds = self.lock.bounds
        assert bounds is not None
        limit, overflow = options.get("max_queue", bounds.limit), options.get("overflow", bounds.overflow)
        if type(limit) is not int or limit < 0:
            raise InvalidRequest(f"max_queue is {str(limit)[:40]}; it must be an integer of at least 0, the number of calls that may wait")
        if overflow not in ("reject", "drop_oldest"):
            raise InvalidRequest(
                f"overflow is {str(overflow)[:40]!r}; it must be 'reject' (the call that comes is refused) or 'drop_oldest' "
                "(the one that has waited longest is)"
            )
        bounds.limit, bounds.overflow = limit, overflow

    def _recover(self, options: dict[str, Any]) -> None:
        if options["recover"] != "lineage":
            raise InvalidRequest(f"recover is {str(options['recover'])[:40]!r}; it must be 'lineage' (docs/recovery.md)")
        if self.concurrent:
            raise InvalidRequest("a session cannot be both concurrent and recovered: its calls have no order in which to make them again")
        if len(self.refs):
            raise InvalidRequest(f"the session {self.id} holds objects already that were not recorded; say recover when it begins")
        from bridge_adapter.lineage.records import Options

        try:
            self.recovers = Options.of(options)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None

    def run(self, code: Callable[[], Any]) -> Any:
        """Runs code on the thread this session's calls belong on."""
        if not self.pinned:
            return code()
        if self._thread is None:
            self._thread = _PinnedThread(self.id)
        return self._thread.run(code)

    def close(self) -> None:
        self.closed = True
        if self._thread is not None:
            self._thread.stop()
            self._thread = None

    @property
    def stateless(self) -> bool:
        free = self.lock.idle and not self.streams
        return free and not len(self.refs) and not self.pinned and not self.concurrent and self.recovers is None


class _PinnedThread:
    """A thread that runs one piece of code at a time, for libraries that tie objects to a thread."""

    def __init__(self, name: str) -> None:
        self._work: deque[tuple[Callable[[], Any], LockType, list[Any]]] = deque()
        self._ready = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._serve, name=f"pinned {name[:32]}", daemon=True)
        threads.begin(self._thread)

    def run(self, code: Callable[[], Any]) -> Any:
        if threading.current_thread() is self._thread:
            return code()
        done = allocate_lock()
        done.acquire()
        outcome: list[Any] = []
        self._work.append((code, done, outcome))
        self._ready.release()
        done.acquire()
        value, error = outcome
        if error is not None:
            raise error
        return value

    def stop(self) -> None:
        self._work.append((_stop, allocate_lock(), []))
        self._ready.release()

    def _serve(self) -> None:
        while True:
            self._ready.acquire()
            code, done, outcome = self._work.popleft()
            if code is _stop:
                return
            try:
                outcome += (code(), None)
            except BaseException as error:
                outcome += (None, error)
            del code
            done.release()


def _stop() -> None:
    """Marks the end of a pinned thread's work."""


class Sessions:
    """All sessions of the process, by id."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.room = Room(config.max_waiting)
        self._sessions: dict[str, Session] = {}
        self._lock = allocate_lock()
        self._sweep_at = _SWEEP_START
        self.leaving = False  # another process takes over: sessions that hold nothing go there
        self._given: set[str] = set()  # sessions that went there by `give`

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, id: str) -> Session:
        """The session of that id, made when it is new."""
        session = self._sessions.get(id)
        if session is not None:
            return session
        if not id or len(id) > _SESSION_ID_LIMIT:
            raise InvalidRequest(f"a session id must have 1 to {_SESSION_ID_LIMIT} characters; this one has {len(id)}")
        with self._lock:
            session = self._sessions.get(id)
            if session is None:
                if len(self._sessions) >= self._sweep_at:
                    self._sweep()
                session = self._sessions[id] = Session(id, self._config, self.room)
            return session

    def leave(self) -> list[str]:
        """From now on, sessions that hold nothing are refused: they go on in another process. Returns the ids of the others."""
        self.leaving = True
        return [session.id for session in list(self._sessions.values()) if not session.stateless and not self._left(session)]

    def _left(self, session: Session) -> bool:
        return session.id in self._given and session.lock.idle and not session.streams

    def refuse_stateless(self, id: str) -> None:
        """Raises Unavailable, "moved", for a session that holds nothing; whoever waits for its lock is refused as well."""
        with self._lock:
            self.refuse_given(id)
            session = self._sessions.get(id)
            if session is not None and not self._forgot(session):
                return
        raise _moved(id)

    def give(self, id: str) -> bool:
        """Lets a session that is recovered go to the process that takes the place of this one, which makes its objects anew. False while a
        call of it runs or waits here: what that does would be missing there. Streams that run in it end here.
        """
        self.leaving = True
        session = self._sessions.get(id)
        self._given.add(id)  # first: whoever takes its lock from here on is refused
        if session is not None and not session.lock.idle:
            self._given.discard(id)
            return False
        if session is not None and not session.streams:
            self.release(id)
        return True

    def refuse_given(self, id: str) -> None:
        """Raises Unavailable, "moved", for a session that was given away."""
        if id in self._given:
            raise _moved(id)

    def find(self, id: str) -> Session | None:
        return self._sessions.get(id)

    def release(self, id: str) -> int:
        """Ends a session; returns how many refs it held. Sessions whose ids merely begin the same are left alone."""
        session = self._sessions.pop(id, None)
        if session is None:
            return 0
        count = len(session.refs)
        for obj in session.refs.objects():
            _close_generator(obj)
        session.close()
        return count

    def live_objects(self) -> list[tuple[str, Iterable[Any]]]:
        """The ids of all sessions, and the objects that each holds."""
        return [(session.id, session.refs.objects()) for session in list(self._sessions.values())]

    def ref_count(self) -> int:
        return sum(len(session.refs) for session in list(self._sessions.values()))

    def longest_queue(self) -> int:
        """Calls that wait for the session for which most do."""
        return max((session.lock.waiting for session in list(self._sessions.values())), default=0)

    def by_size(self, count: int) -> list[dict[str, Any]]:
        """The sessions that hold most: id, refs, bytes as far as known, device_bytes of them on accelerators, and calls that wait."""
        sized = []
        for session in list(self._sessions.values()):
            held, on_device = session.refs.bytes_held()
            sized.append(
                {
                    "session_id": session.id,
                    "refs": len(session.refs),
                    "bytes": held,
                    "device_bytes": on_device,
                    "waiting": session.lock.waiting,
                }
            )
        return heapq.nlargest(count, sized, key=lambda entry: int(entry["bytes"]))

    def _sweep(self) -> None:
        # A session without state needs no record: its next call makes it again.
        for session in list(self._sessions.values()):
            self._forgot(session)
        self._sweep_at = max(_SWEEP_START, 2 * len(self._sessions))

    def _forgot(self, session: Session) -> bool:
        """Forgets a session if it is without state. Whoever enters it meanwhile makes it one with state first and then looks whether it is
        closed; here it is the other way round, so that one of the two sees the other."""
        if not session.stateless:
            return False
        session.closed = True
        if not session.stateless:
            session.closed = False
            return False
        self._sessions.pop(session.id, None)
        return True


def _moved(id: str) -> Unavailable:
    return Unavailable(f"another process has taken the place of this one, and the session {id} holds nothing here; call there", moved=True)


def _close_generator(obj: Any) -> None:
    """Runs a generator's `finally` now: the session that could have consumed it is gone."""
    if hasattr(obj, "gi_frame"):
        try:
            obj.close()
        except BaseException:
            # Nobody is left to hear of it, and the other refs must still be released.
            return
